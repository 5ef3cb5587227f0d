//! Tests of all functions: their examples, and that no argument makes a function panic.
//!
//! A small parser of calls and literals reads the examples, so that functions are tested without the parser of the rule
//! language and the evaluator.

use std::borrow::Cow;

use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::{Args, CallContext, Code, Function, FunctionError, PreparedFn, all, check_call, lookup};
use crate::value::Value;
use crate::value::cast;
use crate::value::json::parse;

/// The result of a function whose arguments are not literals, or the error.
pub(super) fn answer(name: &str, args: &[Value]) -> Result<Value, FunctionError> {
    let function = lookup(name).unwrap_or_else(|| panic!("no function {name}"));
    run(function, &vec![None; args.len()], args)
}

/// The JSON of a result, empty for null and absent; `None` for an error.
pub(super) fn json(answer: &Result<Value, FunctionError>) -> Option<String> {
    let answer = answer.as_ref().ok()?;
    Some(match answer {
        answer if answer.is_null() => String::new(),
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => cast::text(answer).into_owned(),
        answer => {
            let inside = cast::text(&Value::array([answer.clone()])).into_owned();
            inside[1..inside.len() - 1].to_owned()
        }
    })
}

/// The JSON of the result for JSON arguments, or the error.
pub(super) fn answer_text(name: &str, args: &[&str]) -> String {
    let args: Vec<Value> = args.iter().map(|arg| parse(arg).expect("JSON")).collect();
    let answer = answer(name, &args);
    json(&answer).unwrap_or_else(|| answer.expect_err("no JSON").to_string())
}

/// Checks the JSON of a result.
#[track_caller]
pub(super) fn gives(name: &str, args: &[Value], expected: &str) {
    assert_eq!(json(&answer(name, args)).as_deref(), Some(expected), "{name} {args:?}");
}

fn run(function: &Function, literals: &[Option<&Value>], args: &[Value]) -> Result<Value, FunctionError> {
    let zone = TimeZone::UTC;
    let context = CallContext {
        rule: "rule",
        rule_started: 0,
        now: 1_700_000_000_000,
        event_time: 0,
        window: None,
        zone: &zone,
        hits: Default::default(),
        pause: None,
    };
    let args = Args(args.iter().map(Cow::Borrowed).collect());
    if let Some(answer) = function.answer_for_null(&args) {
        return Ok(answer);
    }
    match function.code {
        Code::Scalar(code) => code(&args, &context),
        Code::Prepared(prepare) => {
            let prepared: PreparedFn = prepare(literals)?;
            prepared(&args, &context)
        }
        Code::Aggregate(_) | Code::Analytic(_) | Code::SetReturning(_) | Code::RowNumber => {
            panic!("{} needs more than one row", function.name)
        }
    }
}

/// Whether the function depends only on the values of its arguments.
fn of_values(function: &Function) -> bool {
    matches!(function.code, Code::Scalar(_) | Code::Prepared(_))
}

/// Reads `name(arg, …)`, text in double quotes, numbers, true, false, null.
struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn expression(&mut self) -> (Value, bool) {
        self.rest = self.rest.trim_start();
        if let Some(rest) = self.rest.strip_prefix('"') {
            let end = rest.char_indices().scan(false, |escaped, (at, c)| {
                let ends = c == '"' && !*escaped;
                *escaped = c == '\\' && !*escaped;
                Some(if ends { Some(at) } else { None })
            });
            let end = end.flatten().next().expect("the text ends");
            let literal: String = serde_json::from_str(&format!("\"{}\"", &rest[..end])).expect("a JSON string");
            self.rest = &rest[end + 1..];
            return (Value::from(literal), true);
        }
        let end = self.rest.find(|c: char| !(c.is_alphanumeric() || "_.-".contains(c))).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        if let Some(rest) = rest.strip_prefix('(') {
            self.rest = rest;
            return (self.call(word), false);
        }
        let literal = match word {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "null" => Value::Null,
            number => match number.parse::<i64>() {
                Ok(i) => Value::Int(i),
                Err(_) => Value::Float(number.parse().unwrap_or_else(|_| panic!("{number:?} is no literal"))),
            },
        };
        (literal, true)
    }

    fn call(&mut self, name: &str) -> Value {
        let function = lookup(name).unwrap_or_else(|| panic!("no function {name}"));
        let mut args = Vec::new();
        loop {
            self.rest = self.rest.trim_start().trim_start_matches(',');
            if let Some(rest) = self.rest.strip_prefix(')') {
                self.rest = rest;
                break;
            }
            args.push(self.expression());
        }
        let literals: Vec<_> = args.iter().map(|(value, literal)| literal.then_some(value)).collect();
        check_call(function, &literals, &vec![None; args.len()]).unwrap_or_else(|error| panic!("{name}: {error}"));
        let values: Vec<_> = args.iter().map(|(value, _)| value.clone()).collect();
        run(function, &literals, &values).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

#[test]
fn every_example_is_true() {
    for function in all() {
        for (call, expected) in function.examples {
            let mut reader = Reader { rest: call };
            let (value, _) = reader.expression();
            assert_eq!(reader.rest, "", "{call}");
            assert_eq!(json(&Ok(value)).as_deref(), Some(*expected), "{call}");
        }
    }
}

#[test]
fn rows_are_whole() {
    let mut names = std::collections::HashSet::new();
    for function in all() {
        assert!(!function.doc.is_empty(), "{} has no documentation", function.name);
        assert!(function.signature.required <= function.signature.params.len(), "{}", function.name);
        assert!(
            !of_values(function) || !function.deterministic || !function.examples.is_empty(),
            "{} has no example",
            function.name
        );
        for name in std::iter::once(&function.name).chain(function.aliases) {
            assert!(names.insert(*name), "{name} stands in the tables twice");
            assert_eq!(*name, name.to_ascii_lowercase());
        }
    }
}

/// A value of each kind, including empty and unusual ones.
fn each_kind() -> Vec<Value> {
    vec![
        Value::Absent,
        Value::Null,
        Value::Bool(true),
        Value::Int(1),
        Value::Float(-1.5),
        Value::Float(f64::NAN),
        Value::from("é"),
        Value::from(vec![0xff_u8, 0]),
        Value::DateTime(std::sync::Arc::new(jiff::Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC))),
        Value::array([]),
        Value::array([Value::Null, Value::Int(1), Value::from("x")]),
        Value::object([("k".into(), Value::array([Value::Int(1)]))]),
    ]
}

/// Calls every function with every kind of value in every position, with zero to four arguments, allowed or not. With
/// three and four arguments only some combinations are tried, with each kind in each position.
#[test]
fn no_kind_of_argument_makes_a_function_panic() {
    let kinds = each_kind();
    let longer = |calls: &[Vec<Value>]| -> Vec<Vec<Value>> {
        calls.iter().flat_map(|call| kinds.iter().map(move |kind| [call, &[kind.clone()][..]].concat())).collect()
    };
    let (none, one) = (vec![vec![]], longer(&[vec![]]));
    let two = longer(&one);
    let three: Vec<_> = longer(&two).into_iter().step_by(5).collect();
    let four: Vec<_> = longer(&three).into_iter().step_by(11).collect();
    let calls = [none, one, two, three, four].concat();
    for function in all().filter(|function| of_values(function)) {
        for args in &calls {
            let _ = run(function, &vec![None; args.len()], args);
            let written: Vec<_> = args.iter().map(Some).collect();
            let _ = check_call(function, &written, &vec![None; args.len()]);
            if let Code::Prepared(_) = function.code {
                let _ = run(function, &written, args);
            }
        }
    }
}

/// A value of any kind, including extreme ones.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Absent),
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        (-40_i64..40).prop_map(Value::Int),
        prop::sample::select(vec![i64::MIN, i64::MAX, 0, -1, 1 << 53]).prop_map(Value::Int),
        any::<u64>().prop_map(|bits| Value::Float(f64::from_bits(bits))),
        (-40.0..40.0_f64).prop_map(Value::Float),
        ".{0,12}".prop_map(Value::from),
        prop::sample::select(vec![
            "",
            "bigint",
            "float",
            "string",
            "boolean",
            "datetime",
            "bytea",
            "gzip",
            "zlib",
            "flate",
            "zstd",
            "base64",
            "en_US",
            "de_CH",
            "0x1F",
            "-",
            "(",
            "a|b",
            "[a",
            "$1",
            "aGk=",
            "Asia/Shanghai",
            "2024-02-29",
            "yyyy-MM-dd'T'HH:mm:ssSSS",
            "-1h30m",
            "snowflake",
            "é世🙂",
        ])
        .prop_map(Value::from),
        prop::collection::vec(any::<u8>(), 0..12).prop_map(Value::from),
        (-10_000_000_000_000_i64..10_000_000_000_000).prop_map(|millis| {
            let at = jiff::Timestamp::from_millisecond(millis).expect("within a few hundred years");
            Value::DateTime(std::sync::Arc::new(at.to_zoned(TimeZone::UTC)))
        }),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::array),
            prop::collection::vec(("[a-z]", inner), 0..3)
                .prop_map(|members| Value::object(members.into_iter().map(|(key, value)| (key.into(), value)))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_argument_makes_a_function_panic(values in prop::collection::vec(any_value(), 6), written: u8, extra in 0..3_usize) {
        for function in all().filter(|function| of_values(function)) {
            let signature = &function.signature;
            let most = if signature.variadic { values.len() } else { signature.params.len() };
            let count = (signature.required + extra).min(most);
            let args = &values[..count];
            let literals: Vec<_> =
                args.iter().enumerate().map(|(at, value)| (written >> at & 1 == 1).then_some(value)).collect();
            let _ = check_call(function, &literals, &vec![None; count]);
            let _ = run(function, &literals, args);
        }
        for count in 0..values.len() {
            let literals: Vec<_> = values[..count].iter().map(Some).collect();
            for function in all() {
                let _ = check_call(function, &literals, &[]);
            }
        }
    }
}
