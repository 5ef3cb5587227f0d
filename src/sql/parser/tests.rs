//! Tests of parser and printer together: what is accepted, how the rest is refused, and that no text causes a panic.

use super::*;

/// Parses a SELECT and prints it; parsing the printed text must give the same tree.
fn select(text: &str) -> String {
    let tree =
        parse_select(text).unwrap_or_else(|e| panic!("{text}: {e}\n{}", crate::text::span::mark(text, e.span())));
    let printed = tree.to_string();
    assert_eq!(parse_select(&printed).as_ref(), Ok(&tree), "{printed}");
    printed
}

fn expr(text: &str) -> String {
    let tree = parse_expr(text).unwrap_or_else(|e| panic!("{text}: {e}\n{}", crate::text::span::mark(text, e.span())));
    let printed = tree.to_string();
    assert_eq!(parse_expr(&printed).as_ref(), Ok(&tree), "{printed}");
    printed
}

#[test]
fn precedence_is_kept() {
    // Left: as written. Right: the same with the parentheses that precedence implies, which the printer leaves out.
    for (text, grouped) in [
        ("a + b * c", "a + (b * c)"),
        ("a - b - c", "(a - b) - c"),
        ("a | b & c", "a | (b & c)"),
        ("a ^ b + c", "(a ^ b) + c"),
        ("a = 1 AND b = 2 OR c = 3", "((a = 1) AND (b = 2)) OR (c = 3)"),
        ("NOT a = 1 AND b", "(NOT (a = 1)) AND b"),
        ("NOT NOT a", "NOT (NOT a)"),
        ("a OR NOT b IN (1, 2)", "a OR (NOT (b IN (1, 2)))"),
        ("a BETWEEN b - 1 AND b + 1 AND c", "(a BETWEEN (b - 1) AND (b + 1)) AND c"),
        ("a NOT BETWEEN 0 AND b + 1", "a NOT BETWEEN 0 AND (b + 1)"),
        ("a + 1 NOT IN xs", "(a + 1) NOT IN xs"),
        ("a LIKE b + c IS NULL", "(a LIKE (b + c)) IS NULL"),
        ("a IS NOT NULL = TRUE", "(a IS NOT NULL) = TRUE"),
        ("-a * b", "(-a) * b"),
        ("-a->b[0]", "-((a->b)[0])"),
        ("a * o->x", "a * (o->x)"),
        ("a - -1", "a - (-1)"),
        ("- -a", "-(-a)"),
        ("+a", "+(a)"),
        ("a.b.c->d[1:2][-1][:2][1:]", "((((((a.b).c)->d)[1:2])[-1])[:2])[1:]"),
    ] {
        assert_eq!(parse_expr(text).unwrap(), parse_expr(grouped).unwrap(), "{text}");
        assert_eq!(expr(text), text);
        assert_eq!(expr(grouped), text);
    }
}

#[test]
fn statements_are_printed_as_they_are_read() {
    for text in [
        "SELECT * FROM demo",
        "SELECT *, a, _id, ss FROM demo AS d",
        "SELECT d.*, * EXCEPT(a, `b c`) REPLACE(a + 1 AS x, 2 AS `order`) FROM demo AS d",
        "SELECT a AS x INVISIBLE, b INVISIBLE, TRUE AS t, -1, 1.5, 1e300, .5 AS half FROM `my-stream`",
        "SELECT CASE WHEN a THEN 1 ELSE 0 END, CASE a WHEN 1 THEN \"x\" WHEN 2 THEN \"y\" END AS c FROM demo",
        "SELECT count(*) AS c, lag(a, 1) OVER (PARTITION BY b, c WHEN a > 1) AS l FROM demo",
        "SELECT row_number() OVER (PARTITION BY k ORDER BY a DESC, b) AS n FROM demo GROUP BY COUNTWINDOW(5)",
        "SELECT a FROM l INNER JOIN r AS x ON l.id = x.id LEFT JOIN m ON m.id = l.id RIGHT JOIN n ON TRUE FULL JOIN o ON \
         TRUE CROSS JOIN p",
        "SELECT k FROM demo WHERE a > 1 GROUP BY k, o->x, TUMBLINGWINDOW(ss, 10) HAVING count(*) > 1 ORDER BY k, a DESC \
         LIMIT 3",
        "SELECT a FROM demo GROUP BY HOPPINGWINDOW(mi, 10, 5) FILTER (WHERE a > 1)",
        "SELECT a FROM demo GROUP BY SLIDINGWINDOW(ms, 10, 5) FILTER (WHERE a) OVER (WHEN b)",
        "SELECT a FROM demo GROUP BY SESSIONWINDOW(hh, 10, 5)",
        "SELECT a FROM demo GROUP BY COUNTWINDOW(10, 5)",
        "SELECT a FROM demo GROUP BY STATEWINDOW(a = 1, b = 2) OVER (PARTITION BY k)",
        "SELECT meta(*), had_changed(TRUE, *), `left`(a), a IN (1, 2), a NOT IN b FROM demo LIMIT 0",
        "SELECT \"tab\\t \\\"q\\\" \\\\ é \\u0001\", `a.b`, a->`x y`, (1).a FROM demo",
    ] {
        let printed = select(text);
        let other = [(".5 AS", "0.5 AS")].into_iter().fold(text.to_owned(), |t, (a, b)| t.replace(a, b));
        assert_eq!(printed, other);
        assert_eq!(parse_statement(&format!("{text} ;  -- end")).unwrap().to_string(), other);
    }
    for (text, printed) in [
        ("select A from demo group by x, countwindow(2), y", "SELECT A FROM demo GROUP BY x, y, COUNTWINDOW(2)"),
        (
            "SELECT a FROM demo JOIN b ON c LEFT OUTER JOIN d ON e",
            "SELECT a FROM demo INNER JOIN b ON c LEFT JOIN d ON e",
        ),
        ("SELECT a FROM demo ORDER BY a ASC", "SELECT a FROM demo ORDER BY a"),
        ("SELECT xs[] FROM demo WHERE a <> 1 AND b > = 2;", "SELECT xs[:] FROM demo WHERE a != 1 AND b >= 2"),
        ("SELECT * REPLACE(1 AS a) EXCEPT(b) FROM my-stream", "SELECT * EXCEPT(b) REPLACE(1 AS a) FROM `my-stream`"),
        ("SELECT a FROM demo GROUP BY TumblingWindow(SS, 1)", "SELECT a FROM demo GROUP BY TUMBLINGWINDOW(ss, 1)"),
        ("SELECT 'it\\'s', -9223372036854775808, 007 FROM demo", "SELECT \"it's\", -9223372036854775808, 7 FROM demo"),
        ("SELECT/**/a--x\n+b FROM demo", "SELECT a + b FROM demo"),
    ] {
        assert_eq!(select(text), printed);
    }
    for text in [
        "CREATE STREAM demo () WITH ()",
        "CREATE TABLE `t-1` (a BIGINT DEFAULT -5, b ARRAY(STRUCT(x FLOAT, y ARRAY(STRING)))) WITH (TYPE = \"memory\", SHARED = \
         \"TRUE\")",
        "SHOW STREAMS",
        "SHOW TABLES",
        "DESCRIBE STREAM demo",
        "DROP TABLE demo",
        "EXPLAIN STREAM `a-b`",
    ] {
        assert_eq!(parse_statement(text).unwrap().to_string(), text);
    }
    let loose = "create stream s (`a b` bigint, c Boolean default false,) with (datasource=\"/x\" shared=true);";
    let printed =
        "CREATE STREAM s (`a b` BIGINT, c BOOLEAN DEFAULT FALSE) WITH (DATASOURCE = \"/x\", SHARED = \"TRUE\")";
    assert_eq!(parse_create(loose).unwrap().to_string(), printed);
}

/// After an error, parsing continues where it is clear how, so that further errors are reported too.
#[test]
fn all_errors_of_a_stream_are_reported() {
    let text = "CREATE STREAM s (a INT, b varchar(20), a STRNG, c STRUCT(x DUOBLE)) WITH (DATASORCE=\"/x\", \
                SHARED=\"yes\", TYPE='websocket', FORMATT=json, RETAIN_SIZE=\"x\", SHARED \"x\")";
    let error = parse_create(text).unwrap_err();
    let found: Vec<_> = error
        .each()
        .map(|error| (&text[error.span().start as usize..error.span().end as usize], error.hint()))
        .collect();
    let meant = |name: &str| Some(format!("did you mean {name}?"));
    assert_eq!(
        found,
        [
            ("INT", meant("BIGINT")),
            ("varchar", meant("STRING")),
            ("a", None),
            ("STRNG", meant("STRING")),
            ("DUOBLE", None),
            ("DATASORCE", meant("DATASOURCE")),
            ("\"yes\"", None),
            ("'websocket'", Some("the value of an option must be in double quotes".to_owned())),
            ("FORMATT", meant("FORMAT")),
            ("\"x\"", None),
            ("\"x\"", None),
        ]
    );
    let many = format!("CREATE STREAM s () WITH ({})", "NOPE=\"x\", ".repeat(1000));
    assert_eq!(parse_create(&many).unwrap_err().each().count(), 21);
}

/// Each row: the text, its error, the marked words, and a part of the hint.
#[test]
fn each_error_has_a_message_a_place_and_a_hint() {
    for (text, message, place, hint) in [
        ("SELECT a FORM demo", "found \"FORM\", expected FROM.", "FORM", "did you mean FROM?"),
        ("SELECT a", "found \"EOF\", expected FROM.", "", ""),
        ("SELECT a x FROM demo", "found \"x\", expected FROM.", "x", ""),
        ("SELECT a FROM demo WEHRE a", "found \"WEHRE\", expected EOF.", "WEHRE", "WHERE"),
        ("SELECT a FROM demo; SELECT b", "found \"SELECT\", expected EOF.", "SELECT", "one statement"),
        ("SELECT a FROM demo HAVING a GROUP BY b", "found \"GROUP\", expected EOF.", "GROUP", "order"),
        ("SELECT a FROM (SELECT", "found \"(\", expected EOF.", "(", "name of a stream"),
        ("SELECT a FROM", "found \"EOF\", expected stream name.", "", ""),
        ("SELECT a AS \"x\" FROM demo", "found \"x\", expected as alias.", "\"x\"", ""),
        ("SELECT * AS x FROM demo", "alias is not supported for *", "AS", ""),
        ("SELECT * EXCEPT a FROM demo", "Found \"a\" after EXCEPT, expect left parentheses.", "a", ""),
        ("SELECT (a + 1 AS b FROM", "found \"AS\", expected right paren.", "AS", ""),
        ("SELECT order FROM demo", "found \"ORDER\", expected expression.", "order", "`order`"),
        ("SELECT a == 1 FROM demo", "found \"=\", expected expression.", "=", "written ="),
        ("SELECT a || b FROM demo", "found \"|\", expected expression.", "|", "written OR"),
        ("SELECT a # b FROM demo", "found \"#\", expected FROM.", "#", "not allowed here"),
        ("SELECT 1.2.3 FROM demo", "found \"1.2.3\", invalid number value.", "1.2.3", "point"),
        (
            "SELECT 18446744073709551616 FROM d",
            "found \"18446744073709551616\", invalid number value.",
            "18446744073709551616",
            "64 bits",
        ),
        ("SELECT 1e999 FROM d", "found \"1e999\", invalid number value.", "1e999", "range"),
        ("SELECT \"a\\q\" FROM d", "found \"\\\"a\\\\q\\\"\", expected expression.", "\"a\\q\"", "escape"),
        ("SELECT a FROM d /* x", "found \"\", expected EOF.", "/* x", "no end"),
        ("SELECT `a FROM d", "found \"`a FROM d\", expected expression.", "`a FROM d", "backtick"),
        ("SELECT a[0 FROM d", "Unexpected token \"0\". when parsing bracket expressions.", "FROM", ""),
        ("SELECT abs(a FROM d", "found function call \"abs\", expected ), but with \"FROM\".", "FROM", ""),
        ("SELECT a->\"x\" FROM d", "found \"x\", expected expression.", "\"x\"", ""),
        (
            "SELECT a FROM d WHERE a IN ()",
            "expect elements for IN expression, but found \")\", expected expression.",
            ")",
            "",
        ),
        ("SELECT a FROM d WHERE a IN (1", "expect ) for IN expression, but got \"EOF\"", "", ""),
        ("SELECT a BETWEEN 1, 2 FROM d", "expect AND expression after between but found ,", ",", ""),
        ("SELECT CASE WHEN a ELSE 0 END FROM d", "invalid CASE expression, THEN expected after WHEN", "ELSE", ""),
        ("SELECT CASE WHEN a THEN 0 FROM d", "invalid CASE expression, END expected", "FROM", ""),
        ("SELECT lag(a) OVER () FROM d", "Found \")\" after OVER (, expect partition by or when.", ")", ""),
        ("SELECT count(*) FILTER(WHERE a) FROM d", "found \"FILTER\", expected FROM.", "FILTER", ""),
        ("SELECT a FROM d GROUP k", "found \"k\", expected BY statement.", "k", ""),
        ("SELECT a FROM d ORDER k", "found \"k\", expected BY keyword.", "k", ""),
        ("SELECT a FROM d LIMIT 1.5", "limit should be integer", "1.5", ""),
        ("SELECT a FROM d LIMIT -1", "limit should not be negative", "-", ""),
        ("SELECT COUNTWINDOW(2) FROM d", "the window countwindow can only be used in GROUP BY.", "COUNTWINDOW", ""),
        ("SELECT a IS b FROM d", "found \"b\", expected NULL or NOT NULL after IS.", "b", ""),
        (
            "SELECT DISTINCT a FROM d",
            "found \"a\", expected FROM.",
            "a",
            "SELECT DISTINCT does not exist: GROUP BY the columns in a window, or keep the first rows of each value with \
             deduplicate(x, true)",
        ),
        (
            "SELECT a::int FROM d",
            "found \"int\", expected one of bigint, float, string, boolean, datetime, bytea.",
            "int",
            "did you mean BIGINT?",
        ),
        (
            "SELECT replace(a, \"x\", \"y\") FROM d",
            "found \"REPLACE\", expected expression.",
            "replace",
            "replace texts with regexp_replace(text, pattern, with)",
        ),
        ("INSERT INTO d", "the statement is not a select statement.", "INSERT", ""),
        ("SELCT a FROM d", "the statement is not a select statement.", "SELCT", "did you mean SELECT?"),
    ] {
        check(text, parse_select(text).unwrap_err(), message, place, hint);
    }
    for (window, message, place, hint) in [
        ("TUMBLINGWINDOW(ss)", "The arguments for tumblingwindow should be 2.", "TUMBLINGWINDOW(ss)", ""),
        (
            "SLIDINGWINDOW(ss, 1, 2, 3)",
            "The arguments for slidingwindow should be 2 or 3.",
            "SLIDINGWINDOW(ss, 1, 2, 3)",
            "",
        ),
        ("STATEWINDOW()", "The arguments for statewindow should be 1 or 2.", "STATEWINDOW()", ""),
        (
            "tumblingwindow(hours, 1)",
            "The 1st argument for tumblingwindow is expecting timer literal expression. One value of [dd|hh|mi|ss|ms].",
            "hours",
            "hh",
        ),
        (
            "hoppingwindow('ss', 1, 1)",
            "The 1st argument for hoppingwindow is expecting timer literal expression. One value of [dd|hh|mi|ss|ms].",
            "'ss'",
            "",
        ),
        (
            "TUMBLINGWINDOW(ss, 1.5)",
            "The 1 argument for tumblingwindow is expecting interger literal expression.",
            "1.5",
            "",
        ),
        (
            "TUMBLINGWINDOW(ss, 0)",
            "The 1 argument for tumblingwindow should be greater than 0, and at most some hundred million years.",
            "0",
            "",
        ),
        (
            "HOPPINGWINDOW(dd, 1, 9223372036854775807)",
            "The 2 argument for hoppingwindow should be greater than 0, and at most some hundred million years.",
            "9223372036854775807",
            "",
        ),
        ("COUNTWINDOW()", "Invalid parameter count.", "COUNTWINDOW()", ""),
        ("COUNTWINDOW(-1)", "Invalid parameter value -1.", "-1", ""),
        ("COUNTWINDOW(2, 0)", "Invalid parameter value 0.", "0", ""),
        ("COUNTWINDOW(2, 3)", "The second parameter value 3 should be less than the first parameter 2.", "3", ""),
        (
            "COUNTWINDOW(2), k, SESSIONWINDOW(ss, 1, 1)",
            "GROUP BY has two windows, only one is possible.",
            "SESSIONWINDOW",
            "",
        ),
    ] {
        let text = format!("SELECT a FROM demo GROUP BY {window}");
        check(&text, parse_select(&text).unwrap_err(), message, place, hint);
    }
    let options = "DATASOURCE|FORMAT|KEY|CONF_KEY|SHARED|STRICT_VALIDATION|TYPE|TIMESTAMP|TIMESTAMP_FORMAT|RETAIN_SIZE|\
                   SCHEMAID|EXTRA|VERSION|TEMP|KIND|DELIMITER";
    let unknown_option = format!("found \"FORMATT\", unknown option keys({options}).");
    for (rest, message, place, hint) in [
        ("STREM demo ()", "found \"STREM\", expected keyword stream or table.", "STREM", "STREAM"),
        ("STREAM ()", "found \"(\", expected stream name.", "(", ""),
        (
            "STREAM a/b () WITH ()",
            "id 'a/b' contains invalid characters: only alphanumeric, hyphens and underscores are allowed",
            "a/b",
            "",
        ),
        ("STREAM `` () WITH ()", "id cannot be empty", "``", ""),
        ("STREAM demo WITH ()", "found \"WITH\", expected lparen after stream name.", "WITH", ""),
        ("STREAM demo ()", "found \"EOF\", expected is with.", "", ""),
        (
            "STREAM demo (a INTEGER) WITH ()",
            "found \"INTEGER\", expect valid stream field types(BIGINT | FLOAT | STRING | DATETIME | BOOLEAN | BYTEA | ARRAY | STRUCT).",
            "INTEGER",
            "BIGINT",
        ),
        ("STREAM demo (a BIGINT b FLOAT) WITH ()", "found \"b\", expect comma or rparen.", "b", ""),
        ("STREAM demo (a BIGINT, a FLOAT) WITH ()", "found \"a\", a column of this name is already there.", "a", ""),
        ("STREAM demo () WITH (FORMATT=\"json\")", &unknown_option, "FORMATT", "FORMAT"),
        (
            "STREAM demo () WITH (TYPE='t')",
            "found \"t\", expect string or boolean value in option.",
            "'t'",
            "double quotes",
        ),
        (
            "STREAM demo () WITH (SHARED=\"maybe\")",
            "found \"maybe\", expect TRUE/FALSE value in SHARED option.",
            "\"maybe\"",
            "",
        ),
        (
            "STREAM demo () WITH (RETAIN_SIZE=\"many\")",
            "found \"many\", expect number value in RETAIN_SIZE option.",
            "\"many\"",
            "",
        ),
        ("STREAM demo () WITH () nonsense", "found \"nonsense\", expected semicolon or EOF.", "nonsense", ""),
    ] {
        let text = format!("CREATE {rest}");
        check(&text, parse_create(&text).unwrap_err(), message, place, hint);
        assert!(parse_statement(&text).is_err());
    }
    let made = "MAKE STREAM demo ()";
    check(made, parse_statement(made).unwrap_err(), "Invalid stream statement: MAKE STREAM demo ()", "MAKE", "");
}

fn check(text: &str, error: SyntaxError, message: &str, place: &str, hint: &str) {
    assert_eq!(error.to_string(), message, "{text}");
    let span = error.span();
    assert_eq!(&text[span.start as usize..span.end as usize], place, "{text}");
    assert_eq!(error.hint().is_some(), !hint.is_empty(), "{text}: {:?}", error.hint());
    assert!(error.hint().unwrap_or_default().contains(hint), "{text}: {:?}", error.hint());
}

/// Runs in a thread with Rust's default stack of 2 MiB.
#[test]
fn depth_and_length_are_bounded() {
    let run = || {
        let many = 100_000;
        for text in [
            "(".repeat(many),
            "-(".repeat(many / 2),
            "NOT ".repeat(many / 2),
            "- ".repeat(many),
            "f(".repeat(many),
            "a[".repeat(many),
            "CASE ".repeat(many / 2),
            format!("a{}", "+a".repeat(many)),
            format!("a{}", ".a".repeat(many)),
            format!("a{}", "[1]".repeat(many / 2)),
            format!("a{}", " IS NULL".repeat(20_000)),
            "a BETWEEN (".repeat(20_000),
            "a IN (".repeat(20_000),
            "lag(a) OVER (WHEN ".repeat(10_000),
        ] {
            let error = parse_expr(&text).unwrap_err();
            assert!(matches!(error.kind, SyntaxErrorKind::TooDeep { .. }), "{error}");
        }
        let error = parse_expr(&"a+".repeat(MAX_LENGTH)).unwrap_err();
        assert!(matches!(error.kind, SyntaxErrorKind::TooLong { .. }), "{error}");
        let create = format!("CREATE STREAM a (a {}", "ARRAY(".repeat(40_000));
        assert!(matches!(parse_create(&create).unwrap_err().kind, SyntaxErrorKind::TooDeep { .. }));

        // The deepest accepted statement can be printed, parsed again, compared and dropped.
        let deep =
            |n: usize, open: &str, middle: &str, close: &str| format!("{}{middle}{}", open.repeat(n), close.repeat(n));
        for text in [
            format!("a{}", " + a".repeat(MAX_HEIGHT - 1)),
            format!("a{}", "[1]".repeat(MAX_HEIGHT - 1)),
            format!("a{}", " IS NULL".repeat(MAX_HEIGHT - 1)),
            deep(MAX_NESTING / 2 - 1, "f(a + ", "a", ")"),
            deep(MAX_NESTING - 1, "+", "a", ""),
            deep(MAX_NESTING - 1, "a[", "0", "]"),
            deep(MAX_NESTING - 1, "CASE WHEN ", "a", " THEN 1 END"),
            deep(MAX_NESTING / 2 - 1, "lag(a) OVER (WHEN ", "a", ")"),
            deep(MAX_NESTING - 1, "a IN (", "a", ")"),
        ] {
            let tree = parse_expr(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
            let printed = tree.to_string();
            assert_eq!(printed, text);
            assert_eq!(parse_expr(&printed).unwrap(), tree.clone());
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
}
