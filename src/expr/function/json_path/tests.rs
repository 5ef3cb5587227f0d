use proptest::prelude::*;

use super::*;
use crate::value::cast::text;
use crate::value::json::parse;

const DATA: &str = r#"{"n":"x","list":[1,2,3,4],"objs":[{"k":"p","v":1},{"k":"q","v":5,"f":true},
    {"k":"rr","v":9,"f":false}],"deep":{"v":42},"odd key":1,"nul":null,"max":5,"a-b":7,"é":8}"#;

fn found(path: &str) -> String {
    let data = parse(DATA).expect("JSON");
    match Path::parse(path) {
        Ok(path) => match path.find(&data) {
            Ok(Found::One(value)) => text(value).into_owned(),
            Ok(Found::Many(values)) => text(&Value::array(values.into_iter().cloned())).into_owned(),
            Err(missing) => missing.to_string(),
        },
        Err(error) => error.to_string(),
    }
}

#[test]
fn paths() {
    for (path, expected) in [
        ("$.n", "x"),
        ("$.deep.v", "42"),
        (" $ . deep [ 'v' ] ", "42"),
        ("$[\"odd key\"]", "1"),
        ("$['deep']['v']", "42"),
        ("n", "x"),
        ("deep.v", "42"),
        ("objs[1].k", "q"),
        ("$.a-b", "7"),
        ("$.é", "8"),
        ("$.list", "[1,2,3,4]"),
        ("$.list[0]", "1"),
        ("$.list[-1]", "4"),
        ("$.list[4]", "index 4 out of range"),
        ("$.list[-5]", "index -5 out of range"),
        ("$.none", "unknown key none"),
        ("$.list.k", "unknown key k"),
        ("$.list[1:3]", "[2,3]"),
        ("$.list[:2]", "[1,2]"),
        ("$.list[2:]", "[3,4]"),
        ("$.list[-2:]", "[3,4]"),
        ("$.list[::2]", "[1,3]"),
        ("$.list[::-1]", "[4,3,2,1]"),
        ("$.list[::0]", "[]"),
        ("$.list[0:9223372036854775807:9223372036854775807]", "[1]"),
        ("$.list[0,2]", "[1,3]"),
        ("$.list[9,0]", "[1]"),
        ("$['n','max']", "[\"x\",5]"),
        ("$.list[*]", "[1,2,3,4]"),
        ("$.deep.*", "[42]"),
        ("$.none[*]", "[]"),
        ("$.objs[2,0].k", "[\"rr\",\"p\"]"),
        ("$.objs[0:2].k", "[\"p\",\"q\"]"),
        ("$..v", "[1,5,9,42]"),
        ("$..[0]", "[1,{\"k\":\"p\",\"v\":1}]"),
        ("$..zz", "[]"),
    ] {
        assert_eq!(found(path), expected, "{path}");
    }
}

#[test]
fn conditions() {
    for (condition, expected) in [
        ("(@.v > 2)", r#"["q","rr"]"#),
        (" @.v < 9", r#"["p","q"]"#),
        ("(@.v >= 5 && @.v <= 5)", r#"["q"]"#),
        ("(@.v == 1 || @.k == 'rr')", r#"["p","rr"]"#),
        ("(@.k != \"q\")", r#"["p","rr"]"#),
        ("(!(@.v > 2))", r#"["p"]"#),
        ("(@.f)", r#"["q"]"#),
        ("(!@.f)", r#"["p","rr"]"#),
        ("(@.v * 2 + 1 == 11)", r#"["q"]"#),
        ("(@.v % 4 == 1)", r#"["p","q","rr"]"#),
        ("(@.v / 2 == 2.5)", r#"["q"]"#),
        ("(@.v - 10 < -1)", r#"["p","q"]"#),
        ("(@.v == $.max)", r#"["q"]"#),
        ("(@.v in $.list)", r#"["p"]"#),
        ("(@.k in ['p', \"rr\"])", r#"["p","rr"]"#),
        ("(@.k =~ '^[pq]$')", r#"["p","q"]"#),
        ("(@.k =~ \"r\\w\")", r#"["rr"]"#),
        ("(@.k > 2)", "[]"),
        ("(@.none != 1)", "[]"),
        ("(@.f == null)", "[]"),
        ("(@.v == 5e+0)", r#"["q"]"#),
        ("(@.k + 'x' == \"px\")", r#"["p"]"#),
        ("(true)", r#"["p","q","rr"]"#),
    ] {
        assert_eq!(found(&format!("$.objs[?{condition}].k")), expected, "{condition}");
    }
    assert_eq!(found("$.list[?(@ > 2)]"), "[3,4]");
    assert_eq!(found("$.deep[?(@ == 42)]"), "[42]");
    assert_eq!(found("$..[?(@.v == 42)]"), "[{\"v\":42}]");
}

#[test]
fn what_is_no_path() {
    for (path, expected) in [
        ("", "expect a name or * at byte 0"),
        ("@.n", "expect a name or * at byte 0"),
        ("$.", "expect a name or * at byte 2"),
        ("$.[", "expect a name or * at byte 2"),
        ("$[", "expect a name in quotes, an index, * or ? at byte 2"),
        ("$[0", "expect ] at byte 3"),
        ("$['a]", "expect the closing quote at byte 2"),
        ("$ x", "expect . or [ at byte 2"),
        ("$[?(@.a >)]", "expect @, $, a number, a text in quotes, true, false or null at byte 9"),
        ("$[?(@.a]", "expect ) at byte 7"),
        ("$[?(@.a =~ '(')]", "expect a regular expression at byte 10"),
        ("$[99999999999999999999]", "expect a whole number of 64 bits at byte 2"),
    ] {
        assert_eq!(found(path), format!("invalid JSON path: {expected}"), "{path}");
    }
    assert!(found(&format!("$[?{}", "(".repeat(100_000))).contains("too deep"));
    assert!(found(&format!("$[?{}", "[".repeat(100_000))).contains("too deep"));
    assert!(found(&"$[?(@".repeat(100_000)).contains("invalid"));
    assert!(found(&format!("$[?(@{}", "[?(@".repeat(100_000))).contains("too deep"));
}

proptest! {
    #[test]
    fn no_text_upsets_the_reader(path in "\\$[.\\[\\]?()@$*:,'\"a-c0-9 =~!<>&|+%/éin-]{0,40}") {
        found(&path);
    }
}

#[test]
fn chained_descents_are_bounded() {
    let nested = parse(&format!("{}{}", "[".repeat(60), "]".repeat(60))).expect("JSON");
    let found = |path: String| Path::parse(&path).expect("a path").find(&nested).map(|_| ()).map_err(|e| e.to_string());
    assert_eq!(found("$..*".to_owned()), Ok(()));
    assert_eq!(found(format!("$.{}*", ".*.".repeat(12))), Err("the path finds more than 100000 values".to_owned()));
}
