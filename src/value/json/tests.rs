//! Compares the codec with serde_json: what is accepted, which values result, and what is written.

use proptest::prelude::*;
use serde_json::Value as Serde;

use super::*;
use crate::value::{Text, Value};

/// The value that serde_json reads from the text; `Err`: it refuses the text, and whether it does so where the two
/// differ on purpose.
fn serde(text: &str) -> Result<Serde, bool> {
    match serde_json::from_str::<Serde>(text) {
        Ok(value) => Ok(value),
        Err(error) => {
            let message = error.to_string();
            // serde_json allows 128 levels and refuses unpaired surrogates, which the grammar allows.
            Err(message.contains("recursion limit") || message.contains("surrogate") || message.contains("hex escape"))
        }
    }
}

fn same(ours: &Value, theirs: &Serde) -> bool {
    match (ours, theirs) {
        (Value::Null, Serde::Null) => true,
        (Value::Bool(a), Serde::Bool(b)) => a == b,
        (Value::Int(a), Serde::Number(b)) => b.as_i64() == Some(*a),
        (Value::Unsigned(a), Serde::Number(b)) => b.as_u64() == Some(*a),
        // serde_json's own parser may be one digit off.
        (Value::Float(a), Serde::Number(b)) => b.as_f64().is_some_and(|b| (a - b).abs() <= a.abs() * 1e-15),
        (Value::Text(a), Serde::String(b)) => a == b,
        (Value::Array(a), Serde::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Serde::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key.as_str()).is_some_and(|b| same(a, b)))
        }
        _ => false,
    }
}

/// Values have no equality of their own, because the language compares by number and not by form.
macro_rules! assert_value {
    ($found:expr, $expected:expr $(, $why:expr)*) => {
        assert_eq!(format!("{:?}", $found), format!("{:?}", $expected) $(, "{}", $why)*)
    };
}

fn equal(a: &Value, b: &Value) -> bool {
    format!("{a:?}") == format!("{b:?}")
}

/// Compares everything that reads the text with serde_json.
fn check(text: &str) {
    let ours = parse(text);
    match serde(text) {
        Ok(theirs) => {
            let ours = ours.as_ref().unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert!(same(ours, &theirs), "{text:?} is {ours:?}");
        }
        Err(false) => assert!(ours.is_err(), "{text:?} was taken"),
        Err(true) => {}
    }
    let mut scanner = Scanner::new(Wanted::new(["a", "b", "é\n"].map(Text::new)));
    let shape = ours.as_ref().ok().and_then(|value| match value {
        Value::Object(_) => Some(vec![value.clone()]),
        Value::Array(members) if members.iter().all(|member| matches!(member, Value::Object(_))) => {
            Some(members.to_vec())
        }
        _ => None,
    });
    for _ in 0..2 {
        let mut rows = Vec::new();
        let scanned = scanner.scan(text, |object, spans| {
            let values: Vec<_> = (0..3).map(|i| spans.span(i).map(|span| value(&text[span]))).collect();
            rows.push((parse(&text[object]).unwrap(), values));
        });
        match &shape {
            None => assert!(scanned.is_err() && rows.is_empty(), "{text:?} was scanned"),
            Some(objects) => {
                assert_eq!(scanned, Ok(objects.len()), "{text:?}");
                for ((row, values), object) in rows.iter().zip(objects) {
                    assert!(equal(row, object));
                    for (key, found) in scanner.wanted().keys().iter().zip(values) {
                        let expected = member(object, key);
                        let found = found.clone().unwrap_or_default();
                        assert!(equal(&expand(&found), &expected), "{text:?}: {key} is {found:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn accepted() {
    for text in [
        "0",
        "-0",
        "1",
        "-1",
        "10",
        "0.5",
        "-0.5e1",
        "1E+2",
        "1e-400",
        "123456789012345678",
        "9223372036854775807",
        "-9223372036854775808",
        "9223372036854775808",
        "18446744073709551616",
        "1.7976931348623157e308",
        "0e999999999999",
        "1234567890.12345",
        "12345678901.2345",
        "1234567890123456.5",
        "0.1234567890123",
        "0.12345678901234567890",
        "\"\"",
        "\"a\"",
        "\"é€😀\"",
        r#""\u00e9\ud83d\ude00\"\\\/\b\f\n\r\t""#,
        "true",
        "false",
        "null",
        "[]",
        "{}",
        "[ ]",
        "{ }",
        " [1 , 2 ]\r\n\t",
        r#"{"a":1,"a":2}"#,
        r#"{"a":{"b":[{}]},"b":[[]]}"#,
        "\"\u{7f}\"",
        r#"{"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz":1,"a" : 2}"#,
        "[[1,2],[3.5,-4],[]]",
        "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,-31.5,0.0,0,1e5,7]",
        r#"{"a":"this text is longer than one block of bytes","b":"and this one too \" with an escape"}"#,
    ] {
        assert!(parse(text).is_ok(), "{text}");
        check(text);
    }
}

#[test]
fn refused() {
    for (text, offset, problem) in [
        ("", 0, Problem::Value),
        (" ", 1, Problem::Value),
        ("nul", 0, Problem::Value),
        ("NaN", 0, Problem::Value),
        ("\u{feff}1", 0, Problem::Value),
        ("+1", 0, Problem::Value),
        ("-", 1, Problem::Digit),
        ("1.", 2, Problem::Digit),
        (".5", 0, Problem::Value),
        ("1e", 2, Problem::Digit),
        ("1e+", 3, Problem::Digit),
        ("01", 0, Problem::LeadingZero),
        ("-01", 1, Problem::LeadingZero),
        ("1e309", 0, Problem::OutOfRange),
        ("[-1e999]", 2, Problem::OutOfRange),
        ("1 2", 2, Problem::Trailing),
        ("1a", 1, Problem::Trailing),
        ("[1,]", 3, Problem::Value),
        ("[1 2]", 3, Problem::CommaOrBracket),
        ("[1", 2, Problem::CommaOrBracket),
        ("[1}", 2, Problem::CommaOrBracket),
        ("{1:2}", 1, Problem::Key),
        (r#"{"a" 1}"#, 5, Problem::Colon),
        (r#"{"a":1,}"#, 7, Problem::Key),
        (r#"{"a":1]"#, 6, Problem::CommaOrBrace),
        (r#"{"a":}"#, 5, Problem::Value),
        (r#"{"a"#, 3, Problem::Unterminated),
        ("\"a\nb\"", 2, Problem::Control),
        ("\"\0\"", 1, Problem::Control),
        (r#""\x""#, 1, Problem::Escape),
        (r#""\u12g4""#, 1, Problem::Hex),
        ("\"\\", 2, Problem::Unterminated),
        ("[1,2,3,4,5,6,7,8,9,10,11,12,013,14,15,16,17,18,19,20,21,22,23,24,25,26]", 28, Problem::LeadingZero),
    ] {
        assert_eq!(parse(text).err(), Some(JsonError { offset, problem }), "{text:?}");
        check(text);
    }
    for text in ["5", "\"a\"", "", "[1]", "[{},null]", "[[]]", "x"] {
        let scanned = Scanner::new(Wanted::default()).scan(text, |_, _| panic!("a row of {text}"));
        assert_eq!(scanned.map_err(|error| error.problem), Err(Problem::NotObject), "{text:?}");
    }
}

#[test]
fn damage_anywhere_is_an_error() {
    let text = r#"{"a":1,"b":[1,2.5,{"c":"text with more than sixteen bytes"}],"d":{"e":true},"f":-1.5e3}"#;
    check(text);
    let mut scanner = Scanner::new(Wanted::new(["a".into()]));
    for end in 0..text.len() {
        check(&text[..end]);
        assert!(scanner.scan(text, |_, _| ()).is_ok());
        assert!(scanner.scan(&text[..end], |_, _| ()).is_err());
    }
}

#[test]
fn depth_is_limited() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(parse(&nested(DEPTH_LIMIT)).is_ok());
    assert_eq!(parse(&nested(DEPTH_LIMIT + 1)).err().map(|error| error.problem), Some(Problem::TooDeep));
    assert_eq!(parse(&"[{\"a\":".repeat(100_000)).err().map(|error| error.problem), Some(Problem::TooDeep));
    let mut scanner = Scanner::new(Wanted::default());
    for (open, close, levels) in [("{\"a\":", "}", DEPTH_LIMIT - 1), ("[{\"a\":", "}]", DEPTH_LIMIT - 2)] {
        assert_eq!(scanner.scan(&format!("{open}{}{close}", nested(levels)), |_, _| ()), Ok(1));
        let error = scanner.scan(&format!("{open}{}{close}", nested(levels + 1)), |_, _| ());
        assert_eq!(error.map_err(|error| error.problem), Err(Problem::TooDeep));
    }
}

#[test]
fn keys_that_change_are_found() {
    let mut scanner = Scanner::new(Wanted::new(["x".into(), "y".into()]));
    let long = "k".repeat(500);
    for i in 0..3000 {
        for text in [
            format!(r#"{{"k{i}":0,"x":{i},"y":1}}"#),
            format!(r#"{{"y":1,"{long}":2,"x":{i}}}"#),
            format!(r#"{{"x" : {i}, "y":1}}"#),
            format!(r#"{{"x":0,"y":1,"x":{i}}}"#),
        ] {
            let rows = scanner.scan(&text, |_, spans| {
                assert_value!(spans.span(0).map(|span| value(&text[span])), Some(Value::Int(i)), text);
                assert_value!(spans.span(1).map(|span| value(&text[span])), Some(Value::Int(1)), text);
                assert_eq!(spans.span(2), None);
            });
            assert_eq!(rows, Ok(1));
        }
        assert_eq!(scanner.scan("{}", |_, spans| assert_eq!(spans.span(0), None)), Ok(1));
    }
}

#[test]
fn unpaired_surrogates_read_as_the_replacement_character() {
    for (text, expected) in [
        (r#""\ud800""#, "\u{fffd}"),
        (r#""a\ud800b""#, "a\u{fffd}b"),
        (r#""\ud800\ud83d\ude00""#, "\u{fffd}😀"),
        (r#""\ude00\ud83d""#, "\u{fffd}\u{fffd}"),
        (r#""\ud83d\n""#, "\u{fffd}\n"),
        (r#""\uD83D\uDE00""#, "😀"),
    ] {
        assert_value!(parse(text).unwrap(), Value::from(expected), text);
        // Copied text has the same meaning.
        let mut copied = text.as_bytes().to_vec();
        replace_unpaired(&mut copied);
        assert!(serde_json::from_slice::<String>(&copied).is_ok_and(|text| text == expected), "{text}");
    }
    let mut escaped = br#""\\ud800 \\\\ud800 \u00e9""#.to_vec();
    let before = escaped.clone();
    replace_unpaired(&mut escaped);
    assert_eq!(escaped, before);
}

#[test]
fn numbers() {
    for (text, expected) in [
        ("0", Value::Int(0)),
        ("-0", Value::Float(-0.0)),
        ("9007199254740993", Value::Int(9007199254740993)),
        ("-9223372036854775808", Value::Int(i64::MIN)),
        ("9223372036854775807", Value::Int(i64::MAX)),
        ("9223372036854775808", Value::Unsigned(1 << 63)),
        ("18446744073709551615", Value::Unsigned(u64::MAX)),
        ("18446744073709551616", Value::Float(18446744073709551616.0)),
        ("1.0", Value::Float(1.0)),
        ("-0.0", Value::Float(-0.0)),
        ("1e3", Value::Float(1000.0)),
        ("0.1", Value::Float(0.1)),
        ("-123.456", Value::Float(-123.456)),
        ("5e-324", Value::Float(5e-324)),
    ] {
        assert_value!(number(text), expected, text);
    }
}

#[test]
fn looking_inside() {
    let object = Value::Json(r#" {"a":1,"b":{"c":[10,"x",{"d":null}]},"a":2,"\u0061b":3}"#.into());
    for object in [object.clone(), expand(&object).into_owned()] {
        assert_value!(member(&object, "a"), Value::Int(2));
        assert_value!(member(&object, "ab"), Value::Int(3));
        assert_value!(member(&object, "z"), Value::Absent);
        assert_value!(element(&object, 0), Value::Absent);
        let array = member(&member(&object, "b"), "c");
        for (index, expected) in [
            (0, Value::Int(10)),
            (1, Value::from("x")),
            (-2, Value::from("x")),
            (-3, Value::Int(10)),
            (3, Value::Absent),
            (-4, Value::Absent),
            (i64::MIN, Value::Absent),
            (i64::MAX, Value::Absent),
        ] {
            assert_value!(element(&array, index), expected, index);
        }
        assert_value!(member(&element(&array, 2), "d"), Value::Null);
        assert_value!(member(&array, "a"), Value::Absent);
    }
    assert_eq!(members("[1]").count() + elements("{}").count() + elements("[]").count() + elements("").count(), 0);
}

fn written(value: &Value) -> String {
    let mut out = b"before".to_vec();
    write_value(&mut out, value).unwrap();
    String::from_utf8(out.split_off(6)).unwrap()
}

#[test]
fn writing() {
    let time = |text: &str| Value::DateTime(std::sync::Arc::new(text.parse().unwrap()));
    for (value, expected) in [
        (Value::Absent, "null"),
        (Value::Null, "null"),
        (Value::Bool(true), "true"),
        (Value::Int(i64::MIN), "-9223372036854775808"),
        (Value::Float(1.0), "1"),
        (Value::Float(-0.5), "-0.5"),
        (Value::Float(0.1 + 0.2), "0.30000000000000004"),
        (Value::Float(1e15), "1000000000000000"),
        (Value::Float(1e16), "10000000000000000"),
        (Value::Float(-1.25e20), "-125000000000000000000"),
        (Value::Float(123456789012345680000.0), "123456789012345680000"),
        (Value::Float(1e21), "1e+21"),
        (Value::Float(-1.5e300), "-1.5e+300"),
        (Value::Float(1e-6), "0.000001"),
        (Value::Float(1.25e-5), "0.0000125"),
        (Value::Float(1e-7), "1e-7"),
        (Value::Float(9.5e-7), "9.5e-7"),
        (Value::Float(5e-324), "5e-324"),
        (Value::Float(f64::MAX), "1.7976931348623157e+308"),
        (Value::from("a<b>&é\"\\\n\u{1}\u{8}\u{7f}"), "\"a<b>&é\\\"\\\\\\n\\u0001\\b\u{7f}\""),
        (Value::Json("[1, 2]".into()), "[1, 2]"),
        (Value::array([Value::Absent, Value::Int(1)]), "[null,1]"),
        (Value::object([("a".into(), Value::Null), ("b\"".into(), Value::array([]))]), r#"{"a":null,"b\"":[]}"#),
        (Value::from(b"hello".to_vec()), "\"aGVsbG8=\""),
        (Value::from(vec![]), "\"\""),
        (time("2023-11-14T22:13:20.123Z[UTC]"), "\"2023-11-14T22:13:20.123Z\""),
        (time("1970-01-01T00:00:00Z[UTC]"), "\"1970-01-01T00:00:00Z\""),
        (time("2023-11-14T22:13:20.000000100+02:00[+02:00]"), "\"2023-11-14T22:13:20.0000001+02:00\""),
        (time("2023-11-14T22:13:20-03:30[-03:30]"), "\"2023-11-14T22:13:20-03:30\""),
    ] {
        assert_eq!(written(&value), expected);
    }
}

#[test]
fn what_cannot_be_written_leaves_the_buffer() {
    for float in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut out = b"before".to_vec();
        let value = Value::array([Value::Int(1), Value::Float(float)]);
        assert_eq!(write_value(&mut out, &value), Err(EncodeError::NotFinite));
        assert_eq!(out, b"before");
    }
}

/// JSON as people and programs write it, with white space, escapes and every form of number.
fn json() -> impl Strategy<Value = String> {
    let number = "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,18})?([eE][+-]?[0-9]{1,3})?";
    let string = r#""([a-z ,:\[\]{}é€😀]|\\["\\/bfnrt]|\\u00[0-9a-fA-F]{2}|\\ud83d\\ude00){0,24}""#;
    let leaf = prop_oneof![number, "-?[1-9][0-9]{0,3}(\\.[0-9]{1,2})?", string, "true|false|null"];
    leaf.prop_recursive(5, 60, 8, |inner| {
        let key = prop_oneof![Just("\"a\"".to_owned()), Just("\"b\"".to_owned()), Just(r#""\u00e9\n""#.to_owned()), r#""[a-z]{0,40}""#];
        let blank = prop_oneof![4 => Just(""), 1 => Just(" "), 1 => Just("\n\t ")];
        let member = (blank.clone(), key, blank.clone(), blank.clone(), inner.clone(), blank.clone())
            .prop_map(|(a, key, b, c, value, d)| format!("{a}{key}{b}:{c}{value}{d}"));
        let element = (blank.clone(), inner, blank.clone()).prop_map(|(a, value, b)| format!("{a}{value}{b}"));
        let flat = prop::collection::vec("-?(0|[1-9][0-9]{0,3})(\\.[0-9]{1,3})?", 0..60);
        prop_oneof![
            2 => prop::collection::vec(member, 0..8).prop_map(|members| format!("{{{}}}", members.join(","))),
            1 => prop::collection::vec(element, 0..8).prop_map(|elements| format!("[{}]", elements.join(","))),
            1 => (flat, prop_oneof![Just(","), Just(", ")]).prop_map(|(numbers, comma)| format!("[{}]", numbers.join(comma))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn like_serde_json(text in json()) {
        check(&text);
    }

    #[test]
    fn like_serde_json_when_damaged(
        text in json(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..3, r#"[0-9eE+\-. ,:"\\\[\]{}a\n\u{0}é]"#), 1..4),
    ) {
        let mut characters: Vec<char> = text.chars().collect();
        for (place, how, with) in changes {
            let with = with.chars().next().unwrap();
            match how {
                _ if characters.is_empty() => {}
                0 => drop(characters.remove(place.index(characters.len()))),
                1 => characters.insert(place.index(characters.len()), with),
                _ => { let place = place.index(characters.len()); characters[place] = with; }
            }
        }
        check(&characters.into_iter().collect::<String>());
    }

    #[test]
    fn any_text_is_read_without_a_panic(text in any::<String>()) {
        check(&text);
        value(&text);
        number(&text);
        super::text(&text);
        member(&Value::Json(text.as_str().into()), "a");
        element(&Value::Json(text.as_str().into()), -1);
    }

    #[test]
    fn what_is_written_reads_back(text in json()) {
        if let Ok(value) = parse(&text) {
            let once = written(&value);
            prop_assert_eq!(&written(&parse(&once).unwrap()), &once);
        }
    }

    #[test]
    fn doubles_are_exact(float in any::<f64>().prop_filter("finite", |float| float.is_finite())) {
        let text = written(&Value::Float(float));
        prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), float.to_bits());
        prop_assert_eq!(parse(&text).unwrap().as_f64(), Some(float));
    }

    #[test]
    fn decimals_are_rounded_like_std(text in "-?(0|[1-9][0-9]{0,18})\\.[0-9]{1,20}") {
        prop_assert_eq!(number(&text).as_f64().map(f64::to_bits), text.parse::<f64>().ok().map(f64::to_bits));
    }

    #[test]
    fn strings_survive(text in any::<String>()) {
        let written = written(&Value::from(text.as_str()));
        prop_assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text.as_str());
        assert_value!(parse(&written).unwrap(), Value::from(text));
    }
}
