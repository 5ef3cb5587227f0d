//! Tests of operators, access and conditions as tables over kinds of values, and a test that no expression panics.

use std::sync::Arc;

use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::function::{self, CallContext};
use super::{Comparison, EvalError, Expr, LikePattern, Scope, compare, like};
use crate::value::Value;
use crate::value::json;
use crate::value::operator::BinaryOp;

/// Parses JSON; `-` is absent, `@ms` a datetime. Arrays and objects stay text, as in messages.
fn value(text: &str) -> Value {
    match text.strip_prefix('@') {
        Some(ms) => {
            let ms = ms.parse().unwrap_or_default();
            let at = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
            Value::DateTime(Arc::new(at.to_zoned(TimeZone::UTC)))
        }
        None if text == "-" => Value::Absent,
        None => json::value(text),
    }
}

fn constant(text: &str) -> Box<Expr> {
    Box::new(Expr::Constant(value(text)))
}

/// The result in JSON, `null` for null and absent, or the error.
fn shown(expr: &Expr) -> String {
    answered(expr, &[])
}

fn answered(expr: &Expr, slots: &[Value]) -> String {
    let zone = TimeZone::UTC;
    let context = CallContext {
        rule: "r",
        rule_started: 0,
        now: 0,
        event_time: 0,
        window: None,
        zone: &zone,
        hits: Default::default(),
        pause: None,
    };
    match expr.eval(&Scope { slots, context: &context }) {
        Ok(value) => match &*value {
            Value::Absent | Value::Null => "null".to_owned(),
            Value::Float(f) => format!("{f:?}"),
            value => {
                let mut out = Vec::new();
                let _ = json::write_value(&mut out, value);
                String::from_utf8_lossy(&out).into_owned()
            }
        },
        Err(error) => error.to_string(),
    }
}

fn binary(left: &str, op: BinaryOp, right: &str, integral: bool) -> String {
    shown(&Expr::Binary { op, left: constant(left), right: constant(right), integral })
}

const OPS: &[BinaryOp] = &[
    BinaryOp::Multiply,
    BinaryOp::Divide,
    BinaryOp::Modulo,
    BinaryOp::BitAnd,
    BinaryOp::Add,
    BinaryOp::Subtract,
    BinaryOp::BitOr,
    BinaryOp::BitXor,
    BinaryOp::Equal,
    BinaryOp::NotEqual,
    BinaryOp::Less,
    BinaryOp::LessEqual,
    BinaryOp::Greater,
    BinaryOp::GreaterEqual,
    BinaryOp::And,
    BinaryOp::Or,
];

fn op(sign: &str) -> BinaryOp {
    *OPS.iter().find(|op| op.to_string() == sign).unwrap_or_else(|| panic!("no operator {sign}"))
}

#[test]
fn results_are_small() {
    assert!(size_of::<Result<std::borrow::Cow<'_, Value>, EvalError>>() <= 40);
}

#[test]
fn operators() {
    for (left, sign, right, expected) in [
        ("1", "+", "2", "3"),
        ("1", "+", "2.5", "3.5"),
        ("2.5", "-", "1", "1.5"),
        ("3", "*", "4", "12"),
        ("-7", "/", "2", "-3"),
        ("7.0", "/", "2", "3.5"),
        ("-7", "%", "3", "-1"),
        ("7.5", "%", "2", "1.5"),
        ("1", "/", "0", "divided by zero"),
        ("1.5", "/", "0.0", "divided by zero"),
        ("1", "%", "0", "divided by zero"),
        ("-9223372036854775808", "%", "-1", "0"),
        ("12", "&", "10", "8"),
        ("12.0", "|", "3", "15"),
        ("12", "^", "10", "6"),
        ("1.5", "&", "1", "invalid operation float64(1.5) & int64(1)"),
        ("true", "&", "false", "false"),
        ("true", "|", "false", "true"),
        ("true", "^", "true", "false"),
        ("\"x\"", "+", "1", "invalid operation string(x) + int64(1)"),
        ("1", "+", "\"x\"", "invalid operation int64(1) + string(x)"),
        ("true", "*", "true", "invalid operation bool(true) * bool(true)"),
        ("{\"a\":1}", "+", "1", "invalid operation map[string]interface {}({\"a\":1}) + int64(1)"),
        ("@1700000000000", "+", "1", "invalid operation time.Time(2023-11-14 22:13:20 +0000 UTC) + int64(1)"),
        ("null", "+", "1", "null"),
        ("1", "/", "-", "null"),
        ("-", "&", "1", "null"),
        // comparison
        ("1", "=", "1.0", "true"),
        ("9007199254740993", "=", "9007199254740992.0", "false"),
        ("9007199254740993", ">", "9007199254740992.0", "true"),
        ("9223372036854775807", "<", "9223372036854775808.0", "true"),
        ("-1", ">", "-1.5", "true"),
        ("1.5", ">", "1", "true"),
        ("2", "<=", "2.5", "true"),
        ("\"a\"", "<", "\"b\"", "true"),
        ("\"é\"", ">", "\"z\"", "true"),
        ("\"a\"", "=", "\"a\"", "true"),
        ("true", "=", "true", "true"),
        ("true", "!=", "false", "true"),
        ("true", "<", "false", "invalid operation bool(true) < bool(false)"),
        ("\"1\"", "=", "1", "invalid operation string(1) = int64(1)"),
        ("{}", "=", "{}", "invalid operation map[string]interface {}({}) = map[string]interface {}({})"),
        ("null", "=", "null", "false"),
        ("null", "!=", "1", "false"),
        ("-", "<", "\"x\"", "false"),
        ("@1700000000000", "=", "1700000000000", "true"),
        ("@1700000000000", "<", "1700000000000.9", "false"),
        ("@1700000000000", "=", "\"2023-11-14T22:13:20Z\"", "true"),
        ("@1700000000000", ">", "\"2023-11-14\"", "true"),
        ("@1700000000000", "<", "@1700000000001", "true"),
        ("1", "<", "@1", "invalid operation int64(1) < time.Time(1970-01-01 00:00:00 +0000 UTC)"),
        // logic
        ("true", "AND", "true", "true"),
        ("true", "AND", "null", "false"),
        ("null", "AND", "true", "false"),
        ("false", "AND", "1", "false"),
        ("true", "AND", "1", "invalid operation bool(true) AND int64(1)"),
        ("1", "AND", "2", "invalid operation int64(1) AND int64(2)"),
        ("true", "OR", "1", "true"),
        ("true", "OR", "null", "true"),
        ("null", "OR", "true", "true"),
        ("false", "OR", "-", "false"),
        ("false", "OR", "\"x\"", "invalid operation bool(false) OR string(x)"),
    ] {
        assert_eq!(binary(left, op(sign), right, true), expected, "{left} {sign} {right}");
    }
    assert_eq!(binary("7", BinaryOp::Divide, "2", false), "3.5");
    assert_eq!(binary("8", BinaryOp::Divide, "2", false), "4.0");
}

#[test]
fn whole_numbers_do_not_wrap() {
    let (max, min) = (i64::MAX.to_string(), i64::MIN.to_string());
    for (left, sign, right) in [(&max, "+", "1"), (&min, "-", "1"), (&max, "*", "2"), (&min, "/", "-1")] {
        let answer = binary(left, op(sign), right, true);
        assert!(answer.starts_with(&format!("integer overflow: {left} {sign} {right} ")), "{answer}");
    }
    assert!(shown(&Expr::Negate(constant(&min))).starts_with("integer overflow"));
    // Numbers without a declared type.
    assert_eq!(binary("10000000000", BinaryOp::Multiply, "10000000000", false), "1e20");
    assert_eq!(binary(&max, BinaryOp::Add, "1", false), "9.223372036854776e18");
}

#[test]
fn one_operand() {
    for (operand, negated, not) in [
        ("5", "-5", "invalid operation NOT int64(5)"),
        ("1.5", "-1.5", "invalid operation NOT float64(1.5)"),
        ("true", "invalid operation -bool(true)", "false"),
        ("null", "null", "null"),
        ("-", "null", "null"),
    ] {
        assert_eq!(shown(&Expr::Negate(constant(operand))), negated);
        assert_eq!(shown(&Expr::Not(constant(operand))), not);
    }
    assert_eq!(shown(&Expr::IsNull { expr: constant("-"), negated: false }), "true");
    assert_eq!(shown(&Expr::IsNull { expr: constant("0"), negated: true }), "true");
}

#[test]
fn access_into_text_and_into_values() {
    let object = r#"{"a":{"b":[1,{"c":"x"},null]},"n":null}"#;
    let expanded = |text: &str| json::expand(&value(text)).into_owned();
    for base in [value(object), expanded(object)] {
        let slots = [base];
        let member = |expr: Expr, name: &str| Expr::Member(Box::new(expr), name.into());
        let index = |expr: Expr, at: &str| Expr::Index(Box::new(expr), constant(at));
        let b = || member(member(Expr::Slot(0), "a"), "b");
        for (expr, expected) in [
            (b(), r#"[1,{"c":"x"},null]"#),
            (index(b(), "0"), "1"),
            (index(b(), "0.9"), "1"),
            (member(index(b(), "-2"), "c"), "\"x\""),
            (index(b(), "2"), "null"),
            (index(b(), "null"), "null"),
            (index(member(Expr::Slot(0), "absent"), "null"), "null"),
            (index(b(), "3"), "null"),
            (index(b(), "-4"), "null"),
            (index(b(), "1e300"), "null"),
            (index(b(), "\"0\""), "the index string(0) is not a number"),
            (member(b(), "c"), "null"),
            (member(Expr::Slot(0), "n"), "null"),
            (member(Expr::Slot(0), "absent"), "null"),
            (member(member(Expr::Slot(0), "absent"), "x"), "null"),
            (index(member(Expr::Slot(0), "absent"), "0"), "null"),
            (index(*constant("5"), "0"), "null"),
            (index(*constant("\"abc\""), "0"), "null"),
            (member(*constant("5"), "x"), "null"),
            (Expr::Slot(9), "null"),
        ] {
            assert_eq!(answered(&expr, &slots), expected, "{expr}");
        }
    }
}

#[test]
fn slices() {
    for (from, to, expected) in [
        ("", "", "[10,20,30]"),
        ("1", "", "[20,30]"),
        ("", "1", "[10]"),
        ("1", "3", "[20,30]"),
        ("-2", "-1", "[20]"),
        ("1", "1", "[]"),
        ("-2", "1", "[]"),
        ("2", "1", "start cannot be greater than end. start:2 end:1"),
        ("-1", "1", "start cannot be greater than end. start:2 end:1"),
        ("3", "", "out of index: 3 of 3"),
        ("0", "4", "out of index: 4 of 3"),
        ("-4", "", "out of index: -4 of 3"),
        ("null", "", "the index <nil>(<nil>) is not a number"),
        ("", "null", "the index <nil>(<nil>) is not a number"),
        ("\"x\"", "", "the index string(x) is not a number"),
    ] {
        for array in [value("[10,20,30]"), json::expand(&value("[10,20,30]")).into_owned()] {
            let bound = |text: &str| (!text.is_empty()).then(|| constant(text));
            let expr = Expr::Slice(Box::new(Expr::Slot(0)), bound(from), bound(to));
            assert_eq!(answered(&expr, &[array]), expected, "{expr}");
        }
    }
    assert_eq!(shown(&Expr::Slice(constant("null"), None, None)), "null");
    assert_eq!(shown(&Expr::Slice(constant("{}"), None, None)), "null");
}

#[test]
fn between_and_in() {
    for (wanted, low, high, plain, negated) in [
        ("5", "1", "9.5", "true", "false"),
        ("1", "1", "1", "true", "false"),
        ("5", "9", "1", "false", "true"),
        ("\"b\"", "\"a\"", "\"c\"", "true", "false"),
        ("null", "1", "2", "false", "false"),
        ("1", "-", "2", "false", "false"),
    ] {
        let test = |negated| {
            let operands = Box::new([wanted, low, high].map(|text| *constant(text)));
            shown(&Expr::Between { operands, negated })
        };
        assert_eq!((test(false).as_str(), test(true).as_str()), (plain, negated), "{wanted} BETWEEN {low} AND {high}");
    }
    for (wanted, elements, plain, negated) in [
        ("2", &["1", "2.0"][..], "true", "false"),
        ("2", &["\"x\"", "2"], "true", "false"),
        ("2", &["null", "\"2\"", "{}"], "false", "true"),
        ("\"x\"", &["1", "\"x\""], "true", "false"),
        ("null", &["1"], "false", "false"),
        ("-", &["null"], "false", "false"),
        ("{}", &["{}"], "false", "true"),
    ] {
        for negated_form in [false, true] {
            let expected = if negated_form { negated } else { plain };
            let list = elements.iter().map(|element| *constant(element)).collect();
            let expr = Expr::InList { expr: constant(wanted), list, negated: negated_form };
            assert_eq!(shown(&expr), expected, "{expr}");
            let text = format!("[{}]", elements.join(","));
            for array in [value(&text), json::expand(&value(&text)).into_owned()] {
                let array = Box::new(Expr::Constant(array));
                let expr = Expr::InArray { expr: constant(wanted), array, negated: negated_form };
                assert_eq!(shown(&expr), expected, "{expr}");
            }
        }
    }
    let in_array = |array, negated| shown(&Expr::InArray { expr: constant("1"), array: constant(array), negated });
    assert_eq!(in_array("-", false), "false");
    assert_eq!(in_array("-", true), "true");
    assert_eq!(in_array("1", false), "int64(1) is not an array");
    assert_eq!(in_array("{}", false), "map[string]interface {}({}) is not an array");
}

#[test]
fn like_in_both_forms() {
    for (text, pattern, plain, negated) in [
        ("\"a.c1\"", "\"a.c%\"", "true", "false"),
        ("\"abc1\"", "\"a.c%\"", "false", "true"),
        ("5", "\"5\"", "false", "true"),
        ("null", "\"%\"", "false", "false"),
        ("-", "\"%\"", "false", "false"),
    ] {
        for negated_form in [false, true] {
            let expected = if negated_form { negated } else { plain };
            let literal = Arc::new(like::Pattern::new(value(pattern).as_text().unwrap_or_default()));
            for pattern in [LikePattern::Literal(literal), LikePattern::Dynamic(constant(pattern))] {
                let expr = Expr::Like { expr: constant(text), pattern, negated: negated_form };
                assert_eq!(shown(&expr), expected, "{expr}");
            }
        }
    }
    let dynamic = |pattern| {
        let pattern = LikePattern::Dynamic(constant(pattern));
        shown(&Expr::Like { expr: constant("\"x\""), pattern, negated: true })
    };
    assert_eq!((dynamic("null").as_str(), dynamic("1").as_str()), ("false", "true"));
}

#[test]
fn case() {
    let simple = |text: &str| {
        let branches = vec![(*constant("\"x\""), *constant("1")), (*constant("5.0"), *constant("\"five\""))];
        shown(&Expr::Case { value: Some(constant(text)), branches, otherwise: Some(constant("0")) })
    };
    for (value, expected) in [("\"x\"", "1"), ("5", "\"five\""), ("null", "0"), ("{}", "0")] {
        assert_eq!(simple(value), expected);
    }
    let searched = |text: &str| {
        // Branches that are not taken are not evaluated: the division by zero does not matter.
        let fails = Expr::Binary { op: BinaryOp::Divide, left: constant("1"), right: constant("0"), integral: true };
        let branches = vec![(*constant("false"), fails), (*constant(text), *constant("1"))];
        shown(&Expr::Case { value: None, branches, otherwise: None })
    };
    assert_eq!(searched("true"), "1");
    assert_eq!(searched("null"), "null");
    assert_eq!(searched("5"), "invalid condition that returns non-bool value int64(5)");
}

#[test]
fn calls_see_expanded_arguments_and_name_themselves_in_errors() {
    let call = |name: &str, args: &[&str]| {
        let function = function::lookup(name).unwrap_or_else(|| panic!("no function {name}"));
        shown(&Expr::Call { function, prepared: None, args: args.iter().map(|arg| *constant(arg)).collect() })
    };
    assert_eq!(call("upper", &["\"ab\""]), "\"AB\"");
    assert_eq!(call("abs", &["null"]), "null");
    assert!(call("abs", &["\"x\""]).starts_with("call func abs error: "));
    assert_eq!(call("cast", &["[1, 2]", "\"string\""]), "\"[1,2]\"");
    assert_eq!(call("regexp_matches", &["\"abc\"", "\"^a\""]), "true");
}

#[test]
fn text_and_slots() {
    let left = Box::new(Expr::Binary {
        op: BinaryOp::Add,
        left: Box::new(Expr::Slot(3)),
        right: Box::new(Expr::Member(Box::new(Expr::Slot(1)), "x".into())),
        integral: false,
    });
    let expr = Expr::Binary { op: BinaryOp::Greater, left, right: Box::new(Expr::Slot(3)), integral: false };
    assert_eq!(format!("{expr:?}"), "($3 + $1->x) > $3");
    assert_eq!(expr.display_with(&|slot| format!("c{slot}")).to_string(), "(c3 + c1->x) > c3");
    assert_eq!(expr.slots(), [1, 3]);
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Absent),
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        prop_oneof![any::<i64>(), -3i64..4, Just(i64::MIN), Just(i64::MAX)].prop_map(Value::Int),
        prop_oneof![any::<f64>(), -3.0..4.0].prop_map(Value::Float),
        "[a%_\\\\]{0,4}".prop_map(Value::from),
        prop_oneof![Just("[]"), Just("[1,\"a\",[2],null]"), Just("{\"a\":1,\"b\":{}}")].prop_map(json::value),
        prop_oneof![Just("[1,\"a\",[2],null]"), Just("{\"a\":[true]}")]
            .prop_map(|text| json::expand(&json::value(text)).into_owned()),
        any::<i32>().prop_map(|ms| value(&format!("@{ms}"))),
        Just(Value::from(vec![1u8, 255])),
    ]
}

fn any_expr() -> impl Strategy<Value = Expr> {
    let leaf = prop_oneof![any_value().prop_map(Expr::Constant), (0usize..4).prop_map(Expr::Slot)];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let boxed = || inner.clone().prop_map(Box::new);
        let functions: Vec<_> = function::all().map(|function| function.name).collect();
        prop_oneof![
            4 => (proptest::sample::select(OPS), boxed(), boxed(), any::<bool>())
                .prop_map(|(op, left, right, integral)| Expr::Binary { op, left, right, integral }),
            1 => (boxed(), "[ab]").prop_map(|(expr, name)| Expr::Member(expr, name.into())),
            1 => (boxed(), boxed()).prop_map(|(array, index)| Expr::Index(array, index)),
            1 => (boxed(), proptest::option::of(boxed()), proptest::option::of(boxed()))
                .prop_map(|(array, from, to)| Expr::Slice(array, from, to)),
            1 => boxed().prop_map(Expr::Negate),
            1 => boxed().prop_map(Expr::Not),
            1 => ([inner.clone(), inner.clone(), inner.clone()], any::<bool>())
                .prop_map(|(operands, negated)| Expr::Between { operands: Box::new(operands), negated }),
            1 => (boxed(), proptest::collection::vec(inner.clone(), 0..3), any::<bool>())
                .prop_map(|(expr, list, negated)| Expr::InList { expr, list, negated }),
            1 => (boxed(), boxed(), any::<bool>())
                .prop_map(|(expr, array, negated)| Expr::InArray { expr, array, negated }),
            1 => (boxed(), boxed(), any::<bool>())
                .prop_map(|(expr, pattern, negated)| Expr::Like { expr, pattern: LikePattern::Dynamic(pattern), negated }),
            1 => (boxed(), any::<bool>()).prop_map(|(expr, negated)| Expr::IsNull { expr, negated }),
            1 => (proptest::option::of(boxed()), inner.clone(), inner.clone(), proptest::option::of(boxed()))
                .prop_map(|(value, when, then, otherwise)| Expr::Case { value, branches: vec![(when, then)], otherwise }),
            2 => (proptest::sample::select(functions), proptest::collection::vec(inner.clone(), 0..3))
                .prop_filter_map("no function", |(name, args)| {
                    function::lookup(name).map(|function| Expr::Call { function, prepared: None, args })
                }),
        ]
    })
}

proptest! {
    #[test]
    fn no_expression_panics(expr in any_expr(), slots in proptest::collection::vec(any_value(), 3)) {
        let zone = TimeZone::UTC;
        let context = CallContext { rule: "r", rule_started: 0, now: 0, event_time: 0, window: None, zone: &zone, hits: Default::default(), pause: None };
        let scope = Scope { slots: &slots, context: &context };
        let evaluated = expr.eval(&scope).map(|value| value.into_owned());
        let tested = expr.test(&scope);
        match &evaluated {
            Ok(Value::Bool(b)) => prop_assert_eq!(tested, Ok(*b)),
            Ok(value) if value.is_null() => prop_assert_eq!(tested, Ok(false)),
            _ => prop_assert!(tested.is_err()),
        }
        let _ = format!("{expr} {expr:?}");
        prop_assert!(expr.slots().iter().all(|slot| *slot < 4));
    }

    #[test]
    fn comparisons_agree(left in any_value(), right in any_value()) {
        let test = |op| compare(&left, op, &right);
        if let (Ok(less), Ok(equal), Ok(greater)) =
            (test(Comparison::Less), test(Comparison::Equal), test(Comparison::Greater))
        {
            prop_assert!(u8::from(less) + u8::from(equal) + u8::from(greater) <= 1);
            if !left.is_null() && !right.is_null() {
                prop_assert_eq!(test(Comparison::NotEqual), Ok(!equal));
                prop_assert_eq!(test(Comparison::LessEqual), Ok(less || equal));
                prop_assert_eq!(test(Comparison::GreaterEqual), Ok(greater || equal));
            }
        }
    }
}
