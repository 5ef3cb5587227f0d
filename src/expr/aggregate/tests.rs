//! Tests of all aggregates: their results, and that merging the parts of any split gives the whole.

use super::*;
use proptest::prelude::*;

/// The result, or the first error of a value.
fn over(aggregate: Aggregate, integral: bool, values: &[Value]) -> Result<Value, EvalError> {
    let mut accumulator = Accumulator::new(aggregate, integral);
    for value in values {
        accumulator.add(Some(value))?;
    }
    accumulator.answer()
}

/// The result of the values that the aggregate accepts; a refused value only loses itself.
fn gathered(aggregate: Aggregate, integral: bool, values: &[Value]) -> Result<Value, EvalError> {
    let mut accumulator = Accumulator::new(aggregate, integral);
    for value in values {
        assert_eq!(accumulator.check(Some(value)), accumulator.clone().add(Some(value)), "{aggregate} {value:?}");
        let _ = accumulator.add(Some(value));
    }
    accumulator.answer()
}

#[test]
fn a_value_that_does_not_suit_costs_itself_alone() {
    use Aggregate::{Avg, AvgDistinct, Max, Median, Min, Stddev, Sum, SumDistinct};
    let values = [Value::Int(2), Value::from("x"), Value::Bool(true), Value::Int(4)];
    for (aggregate, expected) in [
        (Sum, "Int(6)"),
        (Avg, "Float(3.0)"),
        (Min, "Int(2)"),
        (Max, "Int(4)"),
        (Median, "Float(3.0)"),
        (Stddev, "Float(1.0)"),
        (SumDistinct, "Int(6)"),
        (AvgDistinct, "Float(3.0)"),
    ] {
        assert_eq!(shown(gathered(aggregate, true, &values)), expected, "{aggregate}");
    }
}

fn shown(answer: Result<Value, EvalError>) -> String {
    answer.map_or_else(|error| error.to_string(), |value| format!("{value:?}"))
}

#[test]
fn answers() {
    use Aggregate::{Avg, Count, Max, Min, Sum};
    let int = Value::Int;
    let text = |text: &str| Value::from(text);
    for (aggregate, values, expected) in [
        (Count, vec![int(1), Value::Null, Value::Absent, Value::Bool(false), text("")], "Int(3)"),
        (Count, vec![Value::Null], "Int(0)"),
        (Sum, vec![], "Null"),
        (Sum, vec![Value::Null], "Null"),
        (Sum, vec![int(1), Value::Null, int(2)], "Int(3)"),
        (Sum, vec![int(1), Value::Float(0.5)], "Float(1.5)"),
        (Sum, vec![int(i64::MAX), int(1), int(-1)], "Int(9223372036854775807)"),
        (Sum, vec![text("x"), int(1)], "run sum function error: found invalid arg string(x)"),
        (Sum, vec![int(1), Value::Bool(true)], "run sum function error: found invalid arg bool(true)"),
        (Avg, vec![int(1), int(2), int(2)], "Float(1.6666666666666667)"),
        (Avg, vec![int(2), Value::Null], "Float(2.0)"),
        (Avg, vec![Value::Null], "Null"),
        (Avg, vec![text("x")], "run avg function error: found invalid arg string(x)"),
        (Min, vec![int(3), Value::Float(2.5), Value::Null], "Float(2.5)"),
        (Max, vec![int(3), Value::Float(2.5)], "Int(3)"),
        (Max, vec![text("z"), text("é"), text("Z")], "Text(\"é\")"),
        (Min, vec![text("b"), text("B")], "Text(\"B\")"),
        (Min, vec![], "Absent"),
        (Min, vec![int(1), text("x")], "run min function error: found invalid arg string(x)"),
        (Max, vec![Value::Bool(true)], "run max function error: found invalid arg bool(true)"),
    ] {
        assert_eq!(shown(over(aggregate, true, &values)), expected, "{aggregate} {values:?}");
    }
    let beyond = [int(i64::MAX), int(1)];
    assert!(shown(over(Sum, true, &beyond)).starts_with("integer overflow: the sum 9223372036854775808 "));
    assert_eq!(shown(over(Sum, false, &beyond)), "Float(9.223372036854776e18)");
    let mut rows = Accumulator::new(Count, true);
    for _ in 0..2 {
        assert_eq!(rows.add(None), Ok(()));
    }
    assert_eq!(shown(rows.answer()), "Int(2)");
}

fn json(text: &str) -> Value {
    crate::value::json::parse(text).expect("JSON")
}

/// The result of the aggregate over the elements of a JSON array.
fn of(aggregate: Aggregate, values: &str) -> String {
    let Value::Array(values) = json(values) else { panic!("no array") };
    match over(aggregate, true, &values) {
        Ok(answer) if answer.is_null() => String::new(),
        Ok(answer) => crate::value::cast::text(&answer).into_owned(),
        Err(error) => error.to_string(),
    }
}

fn share(share: f64) -> Share {
    Share::new(share).expect("a share")
}

#[test]
fn statistics() {
    use Aggregate::{Median, PercentileCont, PercentileDisc, Stddev, StddevSample, Var, VarSample};
    for (aggregate, values, expected) in [
        (Stddev, "[2,4,4,4,5,5,7,9]", "2"),
        (StddevSample, "[1,2,3,4]", "1.2909944487358056"),
        (Var, "[1,2,3,4]", "1.25"),
        (VarSample, "[1,2,3,4]", "1.6666666666666667"),
        (Var, "[1000000000000001,1000000000000002,1000000000000003]", "0.6666666666666666"),
        (Stddev, "[1,null,3]", "1"),
        (Stddev, "[7]", "0"),
        (StddevSample, "[7]", ""),
        (VarSample, "[]", ""),
        (Stddev, "[null]", ""),
        (Stddev, "[\"x\"]", "run stddev function error: found invalid arg string(x)"),
        (VarSample, "[1,true]", "run vars function error: found invalid arg bool(true)"),
        (Median, "[9.5,1.5,5.5]", "5.5"),
        (Median, "[4,1,3,2]", "2.5"),
        (Median, "[null,1,3]", "2"),
        (Median, "[9007199254740993]", "9007199254740993"),
        (Median, "[1e308,1.5e308]", &format!("{}", 1.25e308)),
        (Median, "[null]", ""),
        (Median, "[\"x\"]", "run median function error: found invalid arg string(x)"),
        (PercentileDisc(share(0.9)), "[1,2,3,4,5,6,7,8,9,10]", "9"),
        (PercentileDisc(share(0.5)), "[null,4,2,6]", "4"),
        (PercentileDisc(share(0.0)), "[3,1,2]", "1"),
        (PercentileDisc(share(1.0)), "[3,1,2]", "3"),
        (PercentileDisc(share(0.5)), "[]", ""),
        (PercentileCont(share(0.5)), "[1,2,3,4]", "2.5"),
        (PercentileCont(share(0.9)), "[1,2,3,4,5,6,7,8,9,10]", "9.1"),
        (PercentileCont(share(0.25)), "[10,20,30,40]", "17.5"),
        (PercentileCont(share(0.0)), "[1,2]", "1"),
        (PercentileCont(share(1.0)), "[1,2]", "2"),
        (PercentileCont(share(0.5)), "[1,2,3]", "2"),
        (PercentileCont(share(0.5)), "[7]", "7"),
        (
            PercentileCont(share(0.5)),
            "[{}]",
            "run percentile_cont function error: found invalid arg map[string]interface {}({})",
        ),
    ] {
        assert_eq!(of(aggregate, values), expected, "{aggregate} {values}");
    }
    let hundred: Vec<String> = (1..=100).map(|number| number.to_string()).collect();
    assert_eq!(of(PercentileDisc(share(0.55)), &format!("[{}]", hundred.join(","))), "55");
}

#[test]
fn values_that_are_kept() {
    use Aggregate::{Collect, Deduplicate, LastValue, Merge};
    let row = |value: &str| format!("{{\"value\":{value},\"row\":{{\"a\":{value},\"n\":0}}}}");
    let rows = |values: &[&str]| format!("[{}]", values.iter().map(|value| row(value)).collect::<Vec<_>>().join(","));
    for (aggregate, values, expected) in [
        (Collect, "[1,null,\"x\",[1],{\"k\":2}]".to_owned(), "[1,null,\"x\",[1],{\"k\":2}]"),
        (Collect, "[]".to_owned(), "[]"),
        (Merge, "[{\"a\":1,\"b\":2},5,null,{\"b\":{\"x\":1},\"c\":4}]".to_owned(), "{\"a\":1,\"b\":{\"x\":1},\"c\":4}"),
        (Merge, "[{}]".to_owned(), "{}"),
        (Merge, "[5,[1]]".to_owned(), ""),
        (LastValue { filled: true }, "[1,2,null]".to_owned(), "2"),
        (LastValue { filled: false }, "[1,2,null]".to_owned(), ""),
        (LastValue { filled: false }, "[1,null,2]".to_owned(), "2"),
        (LastValue { filled: true }, "[null]".to_owned(), ""),
        (Deduplicate { all: true }, rows(&["1", "2", "1.0"]), "[{\"a\":1,\"n\":0},{\"a\":2,\"n\":0}]"),
        (Deduplicate { all: true }, rows(&["null", "1", "null"]), "[{\"a\":null,\"n\":0},{\"a\":1,\"n\":0}]"),
        (Deduplicate { all: false }, rows(&["1", "2"]), "{\"a\":2,\"n\":0}"),
        (Deduplicate { all: false }, rows(&["1", "2", "1"]), ""),
        (Deduplicate { all: false }, "[]".to_owned(), ""),
    ] {
        assert_eq!(of(aggregate, &values), expected, "{aggregate} {values}");
    }
    let undecoded = [Value::Json("{\"a\": [1 ], \"b\":2}".into()), Value::Json("{\"b\":\"x\"}".into())];
    assert_eq!(
        over(Merge, true, &undecoded).map(|merged| crate::value::cast::text(&merged).into_owned()),
        Ok("{\"a\":[1 ],\"b\":\"x\"}".to_owned())
    );
    assert_eq!(shown(over(Collect, true, &[Value::Absent])), "Array([Null])");
}

const ALL: [Aggregate; 26] = [
    Aggregate::CollectEnd { last: false },
    Aggregate::CollectEnd { last: true },
    Aggregate::FirstValue { filled: false },
    Aggregate::FirstValue { filled: true },
    Aggregate::CountDistinct,
    Aggregate::SumDistinct,
    Aggregate::AvgDistinct,
    Aggregate::CollectDistinct,
    Aggregate::Count,
    Aggregate::Sum,
    Aggregate::Avg,
    Aggregate::Min,
    Aggregate::Max,
    Aggregate::Collect,
    Aggregate::Merge,
    Aggregate::LastValue { filled: false },
    Aggregate::LastValue { filled: true },
    Aggregate::Deduplicate { all: false },
    Aggregate::Deduplicate { all: true },
    Aggregate::Median,
    Aggregate::PercentileCont(Share(0.3)),
    Aggregate::PercentileDisc(Share(0.3)),
    Aggregate::Stddev,
    Aggregate::StddevSample,
    Aggregate::Var,
    Aggregate::VarSample,
];

fn any_value() -> impl Strategy<Value = Value> {
    let pair = |value: Value, row: i64| {
        Value::object([(Distinct::VALUE.into(), value), (Distinct::ROW.into(), Value::Int(row))])
    };
    prop_oneof![
        6 => (-9_i64..9).prop_map(Value::Int),
        3 => (-9_i64..9).prop_map(|halves| Value::Float(halves as f64 / 2.0)),
        1 => Just(Value::Null),
        1 => Just(Value::Absent),
        1 => "[a-c]{0,2}".prop_map(Value::from),
        4 => ((0_i64..4).prop_map(Value::Int), 0_i64..99).prop_map(move |(value, row)| pair(value, row)),
        1 => (0_i64..9).prop_map(|a| Value::Json(format!("{{\"a\":{a}}}").into())),
    ]
}

/// Equal except for the last digits of floats, and for which of several errors is reported.
fn alike(left: &Result<Value, EvalError>, right: &Result<Value, EvalError>) -> bool {
    match (left, right) {
        (Ok(Value::Float(left)), Ok(Value::Float(right))) => (left - right).abs() <= 1e-9 * (1.0 + left.abs()),
        (Ok(left), Ok(right)) => format!("{left:?}") == format!("{right:?}"),
        (left, right) => left.is_err() == right.is_err(),
    }
}

proptest! {
    #[test]
    fn parts_are_the_whole(values in proptest::collection::vec(any_value(), 0..24), cuts in (0_usize..24, 0_usize..24)) {
        let (low, high) = (cuts.0.min(cuts.1).min(values.len()), cuts.0.max(cuts.1).min(values.len()));
        let numbers: Vec<Value> = values.iter().filter(|value| value.as_f64().is_some()).cloned().collect();
        for aggregate in ALL {
            // Most aggregates fail at the first object, so numbers are tested separately.
            for values in [&values, &numbers] {
                // A value that cannot be combined with the earlier ones is left out.
                let mut whole = Accumulator::new(aggregate, true);
                let values: Vec<Value> = values.iter().filter(|value| whole.add(Some(value)).is_ok()).cloned().collect();
                let values = &values;
                let (low, high) = (low.min(values.len()), high.min(values.len()));
                let mut whole = Accumulator::new(aggregate, true);
                for part in [&values[..low], &values[low..high], &values[high..]] {
                    let mut accumulator = Accumulator::new(aggregate, true);
                    part.iter().for_each(|value| drop(accumulator.add(Some(value))));
                    let _ = whole.merge(&accumulator);
                }
                let (whole, expected) = (whole.answer(), gathered(aggregate, true, values));
                prop_assert!(alike(&whole, &expected), "{aggregate}: {whole:?} is not {expected:?}");
            }
        }
    }

    #[test]
    fn ranks_are_those_of_the_sorted(numbers in proptest::collection::vec(-99_i64..99, 1..30), percent in 0_u32..=100) {
        let mut sorted = numbers.clone();
        sorted.sort_unstable();
        let values: Vec<Value> = numbers.iter().copied().map(Value::Int).collect();
        let rank = (percent as usize * numbers.len()).div_ceil(100).max(1);
        let answer = over(Aggregate::PercentileDisc(share(f64::from(percent) / 100.0)), true, &values);
        prop_assert_eq!(shown(answer), format!("Int({})", sorted[rank - 1]));
    }

    #[test]
    fn spread_is_that_of_two_looks(numbers in proptest::collection::vec(-1e6..1e6_f64, 1..40)) {
        let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
        let variance = numbers.iter().map(|n| (n - mean) * (n - mean)).sum::<f64>() / numbers.len() as f64;
        let values: Vec<Value> = numbers.iter().copied().map(Value::Float).collect();
        let answer = over(Aggregate::Var, true, &values);
        prop_assert!(alike(&answer, &Ok(Value::Float(variance))), "{answer:?} is not {variance}");
    }
}
