//! The bodies of the fuzz targets with mutated texts, for environments without a nightly compiler and cargo-fuzz.
//!
//! A short run is part of the suite. `FUZZ_ROUNDS=20000000 FUZZ_SEED=7 cargo test --release --test fuzz` is a long one;
//! a failure shows the text.

mod bodies;

use std::panic::{AssertUnwindSafe, catch_unwind};

const SQL: &[&str] = &[
    "SELECT a, o->x, abs(b), b + 1 FROM demo WHERE a > 1 AND 5 <= b AND s = \"x\" AND abs(c) = 1 AND d < 1",
    "SELECT * EXCEPT(b, c), a + 1 AS a, c INVISIBLE FROM demo",
    "SELECT * REPLACE(a * 10 AS a) FROM demo WHERE a NOT BETWEEN 1 AND 5 OR b NOT IN (1, \"x\", 2.5) OR c LIKE \"a%\\\\_\"",
    "SELECT k, count(*) AS c, avg(a + 1), c * 2 AS d FROM demo GROUP BY k, TUMBLINGWINDOW(ss, 10) FILTER(WHERE a = 1) HAVING c > 1",
    "SELECT CASE a WHEN 1 THEN \"x\" ELSE null END, CASE WHEN a IS NOT NULL THEN -1 END, xs[0], xs[1:], xs[:2], o->p->q[2] FROM d",
    "SELECT demo.a, s, l.* FROM demo AS l INNER JOIN t ON l.a = t.a AND b > 1 LEFT JOIN u ON s = u.s \
     GROUP BY HOPPINGWINDOW(mi, 10, 5) ORDER BY y DESC, z ASC LIMIT 7",
    "SELECT row_number() OVER (PARTITION BY k ORDER BY a DESC) AS n, lag(a, 2) OVER (PARTITION BY k WHEN a > 0) FROM demo \
     GROUP BY STATEWINDOW(had_changed(true, a), b = 1) OVER (PARTITION BY k)",
    "SELECT changed_cols(\"c_\", true, avg(a), b) FROM demo GROUP BY SLIDINGWINDOW(ss, 10, 1) OVER (WHEN a > 3)",
    "CREATE STREAM s (a BIGINT, b FLOAT, c STRUCT(x ARRAY(STRING), y DATETIME), `d e` BYTEA) \
     WITH (DATASOURCE=\"/t\", TYPE=\"websocket\", TIMESTAMP=\"ts\", STRICT_VALIDATION=\"true\");",
    "CREATE TABLE t () WITH (DATASOURCE=\"/t\", KIND=\"lookup\", KEY='id') -- why not\n",
    "DESCRIBE STREAM s",
    "SHOW STREAMS",
    "DROP TABLE t",
    "EXPLAIN STREAM s",
    "1 + 2 * -3 / 4 % 5 & 6 | 7 ^ 8",
    "/* c */ a.`b``c` = 'it''s' OR NOT TRUE",
    "9223372036854775808 - 1e400 + .5",
];

const JSON: &[&str] = &[
    r#"{"a":1,"b":[1,2.5e-3,-0,1e400,"x\"\\\u00e9\ud83d\ude00"],"c":{"a":null,"d":[true,false]}}"#,
    r#" [ {"a" : "x" , "b" : {} } , {"b":"\u0061","\u0061":[[[[]]]]} ] "#,
    r#"{"a":9223372036854775808,"a":-9223372036854775808,"b":18446744073709551616,"c":1.0}"#,
    "{\"a\":\"0123456789012345678901234567890123456789012345678901234567890123\\n\",\"b\":\"é€😀\"}",
    "null",
    "\"\\ud800\"",
    "-",
    "1e5",
    "[]",
    "{}",
    "",
];

const TEMPLATES: &[&str] = &[
    "{\"a\":{{.a}},\"s\":{{json .s}}{{if gt .f 2}},\"big\":true{{else if eq .s \"x\"}}{{else}}{{end}}}",
    "{{range $i, $e := .l}}{{if $i}}, {{end}}{{$e}}{{else}}none{{end}}{{with .o.b}}{{.c}}{{$.a}}{{end}}",
    "{{- /* why */ -}} {{$x := index .l 1 | upper | printf \"%-5s|%05.2f\"}}{{$x = 1}}{{define \"t\"}}{{.}}{{end}}{{template \"t\" .}}",
    "{{dict \"k\" (list 1 `r` 'c' 0x1F -1e3 nil true) | toJson}}{{block \"b\" .o}}{{break}}{{end}}{{(slice .l 0 2).x}}",
    "{{range until 3}}{{continue}}{{end}}{{printf \"%[2]*.[1]d %q %x %T %%\" .a .s .l}}{{substr 0 2 .s}}{{date \"2006-01-02\" 0}}",
];

const FORMATS: &[&str] =
    &["1,2.5,2024-01-01,[1,2],aGk=,more", "a||b\n1||x\n\n2\r\n", "a=1&b=x+y&c=%C3%A9&a=2&d&=e&%zz", "NaN,1e999,,[,%"];

const LIVE: &[&str] = &[
    r#"{"t":"subscribe","id":"x","view":"v","params":{"a":1},"cursor":"k3f9.4812","every":250}"#,
    r#"{"t":"subscribe","view":"v","params":{"b":["x",null,7.0,true],"a":[1,2,3]}}"#,
    r#"{"t":"subscribe","view":"w","params":{"c":{"d":[]}},"more":1}"#,
    r#"{"t":"unsubscribe","id":7,"s":1}"#,
    r#"{"t":"unsubscribe","s":-1.5e3}"#,
    "a=1&a=2&b=x&_cursor=a.b.9&_every=50&_token=t",
    "_every=-1&%zz=+&a=%00&=&_limit=3",
];

const WORDS: &[&str] = &[
    "{{",
    "}}",
    "{{- ",
    " -}}",
    "%",
    "&",
    "=",
    "|",
    "$x",
    ".a",
    "SELECT ",
    " FROM ",
    " WHERE ",
    "(",
    ")",
    ",",
    "*",
    "->",
    "[",
    "]",
    ":",
    "\"",
    "'",
    "`",
    " AS ",
    " OVER (",
    " AND ",
    " NOT ",
    " IN ",
    " BETWEEN ",
    " IS NULL",
    " LIKE ",
    "--",
    "/*",
    "*/",
    ";",
    "\\",
    "{",
    "}",
    "null",
    "true",
    "-",
    ".",
    "0",
    "9",
    "1e999",
    "\\u0000",
    "\\ud83d",
    "\u{0}",
    "é",
    "😀",
    "\n",
    " ",
    "\u{feff}",
    "CASE ",
    " WHEN ",
    " END",
    " LIMIT ",
    "@",
    "#",
];

/// A text made from others.
fn mutated(random: &mut fastrand::Rng, seeds: &[&str]) -> String {
    let mut text: Vec<char> = seeds[random.usize(..seeds.len())].chars().collect();
    for _ in 0..random.usize(1..8) {
        let at = random.usize(..=text.len());
        let to = (at + random.usize(..12)).min(text.len());
        match random.u8(..6) {
            0 => drop(text.drain(at..to)),
            1 => drop(text.splice(at..at, WORDS[random.usize(..WORDS.len())].chars())),
            2 => {
                let copied: Vec<char> = text[at..to].to_vec();
                let place = random.usize(..=text.len());
                text.splice(place..place, copied);
            }
            3 => {
                let other: Vec<char> = seeds[random.usize(..seeds.len())].chars().collect();
                let from = random.usize(..=other.len());
                text.truncate(at);
                text.extend(&other[from..]);
            }
            4 => text.truncate(at),
            _ => drop(text.splice(at..to, [random.char(..)])),
        }
    }
    // Deep nesting has limits of its own.
    if random.u16(..) == 0 {
        let (open, close) = [("(", ")"), ("[", "]"), ("{\"a\":", "}"), ("-", ""), ("NOT ", "")][random.usize(..5)];
        let depth = random.usize(..5000);
        return open.repeat(depth) + &text.iter().collect::<String>() + &close.repeat(depth);
    }
    text.into_iter().collect()
}

fn run(seeds: &[&str], body: fn(&str)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let mut random = fastrand::Rng::with_seed(number("FUZZ_SEED").unwrap_or(1));
    for _ in 0..number("FUZZ_ROUNDS").unwrap_or(2000) {
        let text = mutated(&mut random, seeds);
        if catch_unwind(AssertUnwindSafe(|| body(&text))).is_err() {
            panic!("this text does it: {text:?}");
        }
    }
}

#[test]
fn sql() {
    run(SQL, bodies::sql);
}

#[test]
fn json() {
    run(JSON, bodies::json);
}

#[test]
fn template() {
    run(TEMPLATES, bodies::template);
}

#[test]
fn live() {
    run(LIVE, bodies::live);
}

#[test]
fn formats() {
    run(FORMATS, bodies::formats);
}
