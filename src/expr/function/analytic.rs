//! The table of functions that remember earlier rows and of those that make rows. Their code is in
//! [`crate::expr::analytic`] and [`crate::expr::set_returning`]: they have a state or several results, so they are not
//! functions of values.

use super::{Code, Family, Function, Nulls, Param, Returns};
use crate::expr::analytic::{Analytic, MAX_LAG};
use crate::expr::set_returning::SetReturning;
use crate::value::Value;

type Params = &'static [(&'static str, Param)];

const fn of(analytic: Analytic, name: &'static str, params: Params, returns: Returns) -> Function {
    Function::new(name, Family::Analytic, params, returns, Code::Analytic(analytic))
        .nulls(Nulls::Own)
        .not_deterministic()
}

/// A running value, with or without a range of rows.
const fn running(analytic: Analytic, name: &'static str, params: Params, returns: Returns) -> Function {
    of(analytic, name, params, returns).required(1).check(one_or_three)
}

const fn makes_rows(code: SetReturning, name: &'static str, params: Params) -> Function {
    Function::new(name, Family::MultiRow, params, Returns::Any, Code::SetReturning(code))
        .nulls(Nulls::Own)
        .not_deterministic()
}

/// A function that returns a count or time of earlier results.
const fn hits(name: &'static str, code: super::ScalarFn) -> Function {
    Function::new(name, Family::Analytic, &[], Returns::Int, Code::Scalar(code)).not_deterministic()
}

const NUMBERS: Params = &[("x", Param::Number), ("begin", Param::Bool), ("reset", Param::Bool)];
const VALUES: Params = &[("x", Param::Any), ("begin", Param::Bool), ("reset", Param::Bool)];

pub(super) static FUNCTIONS: &[Function] = &[
    running(Analytic::AccAvg, "acc_avg", NUMBERS, Returns::Float).doc(
        "The mean of x over the rows so far; nulls are ignored. With `begin` and `reset`, only rows of a range count, \
         as for `acc_sum`.",
        &[],
    ),
    running(Analytic::AccCount, "acc_count", VALUES, Returns::Int).doc(
        "The number of rows so far in which x is not null; `acc_count(*)` counts all rows. With `begin` and `reset`, \
         only rows of a range count, as for `acc_sum`.",
        &[],
    ),
    running(Analytic::AccMax, "acc_max", NUMBERS, Returns::Any).doc(
        "The greatest x so far; nulls are ignored. With `begin` and `reset`, only rows of a range count, as for \
         `acc_sum`.",
        &[],
    ),
    running(Analytic::AccMin, "acc_min", NUMBERS, Returns::Any).doc(
        "The least x so far; nulls are ignored. With `begin` and `reset`, only rows of a range count, as for \
         `acc_sum`.",
        &[],
    ),
    running(Analytic::AccSum, "acc_sum", NUMBERS, Returns::Float).doc(
        "The sum of x over the rows so far; nulls are ignored. With `begin` and `reset`, the sum starts again at a \
         row where `begin` is true, and ends with the first row where `reset` is true, which still counts; outside of \
         such a range the sum is 0. Rows for which `OVER (WHEN …)` is false do not count.\n\n\
         | x | `acc_sum(x)` | `acc_sum(x, x > 2, x < 0)` |\n\
         | --- | --- | --- |\n\
         | 1 | 1 | 0 |\n\
         | 3 | 4 | 3 |\n\
         | 2 | 6 | 5 |\n\
         | -1 | 5 | 4 |\n\
         | 2 | 7 | 0 |",
        &[],
    ),
    of(Analytic::ChangedCol, "changed_col", &[("ignore_null", Param::Bool), ("x", Param::Any)], Returns::SameAs(1))
        .check(boolean_first)
        .doc(
            "x if it differs from the last x, otherwise null; the first x differs. With `ignore_null`, nulls are \
             ignored. If `OVER (WHEN …)` is false, the result is null and the row is ignored.\n\n\
             | x | `changed_col(true, x)` | `changed_col(false, x)` |\n\
             | --- | --- | --- |\n\
             | 1 | 1 | 1 |\n\
             | null | null | null |\n\
             | 1 | null | 1 |\n\
             | 2 | 2 | 2 |",
            &[],
        ),
    of(
        Analytic::ChangedCols,
        "changed_cols",
        &[("prefix", Param::Text), ("ignore_null", Param::Bool), ("x", Param::Any)],
        Returns::Any,
    )
    .variadic()
    .check(more_than_two)
    .doc(
        "Several columns: the arguments that differ from the row before, or for aggregates from the window before. \
         The name of each is the prefix, which may come from a column, and the name of the column, or for a call the \
         name of the function. `*` means all columns. With `ignore_null`, nulls are ignored. Only in the select \
         list.\n\n\
         | a | b | `changed_cols(\"c_\", true, a, b)` |\n\
         | --- | --- | --- |\n\
         | 1 | 1 | `c_a` 1, `c_b` 1 |\n\
         | 1 | 2 | `c_b` 2 |\n\
         | 1 | 2 | none |",
        &[],
    ),
    of(Analytic::HadChanged, "had_changed", &[("ignore_null", Param::Bool), ("x", Param::Any)], Returns::Bool)
        .variadic()
        .check(more_than_one)
        .doc(
            "Whether any of the arguments differs from its last value; a first value differs. Arrays and objects are \
             compared by content; `*` means all columns of the message. With `ignore_null`, nulls are ignored. If \
             `OVER (WHEN …)` is false, the result is false and the row is ignored.\n\n\
             | a | b | `had_changed(true, a, b)` |\n\
             | --- | --- | --- |\n\
             | 1 | 1 | true |\n\
             | 1 | 1 | false |\n\
             | 1 | 2 | true |\n\
             | null | 2 | false |",
            &[],
        ),
    of(
        Analytic::Lag,
        "lag",
        &[("x", Param::Any), ("offset", Param::Int), ("default", Param::Any), ("ignore_null", Param::Bool)],
        Returns::SameAs(0),
    )
    .required(1)
    .check(of_lag)
    .doc(
        "x of an earlier row, `offset` rows before (1 if not given); `default`, or null, if there is no such row. \
         Rows in which x is null do not count, unless `ignore_null` is false. Rows for which `OVER (WHEN …)` is false \
         do not count either: such a row has the same result as the next row. The offset is a literal up to 100000; 0 \
         gives x itself.\n\n\
         | x | `lag(x)` | `lag(x, 2, -1)` | `lag(x, 1, 9, false)` |\n\
         | --- | --- | --- | --- |\n\
         | 1 | null | -1 | 9 |\n\
         | null | 1 | -1 | 1 |\n\
         | 3 | 1 | -1 | null |\n\
         | 4 | 3 | 1 | 3 |",
        &[],
    ),
    hits("last_agg_hit_count", |_, context| Ok(whole(context.hits.windows)))
        .doc("The number of earlier windows that had a result.", &[]),
    hits("last_agg_hit_time", |_, context| Ok(Value::Int(context.hits.window_time)))
        .doc("The time of the last earlier window that had a result, in ms since 1970; 0 if there is none.", &[]),
    hits("last_hit_count", |_, context| Ok(whole(context.hits.rows)))
        .doc("The number of earlier rows that had a result; rows that WHERE drops do not count.", &[]),
    hits("last_hit_time", |_, context| Ok(Value::Int(context.hits.row_time)))
        .doc("The time of the last earlier row that had a result, in ms since 1970; 0 if there is none.", &[]),
    of(Analytic::Latest, "latest", &[("x", Param::Any), ("default", Param::Any)], Returns::SameAs(0))
        .required(1)
        .check(of_latest)
        .doc(
            "The last x that is not null, including this row; `default`, or null, if there is none yet. Rows for \
             which `OVER (WHEN …)` is false are ignored.\n\n\
             | x | `latest(x)` | `latest(x, 0)` |\n\
             | --- | --- | --- |\n\
             | null | null | 0 |\n\
             | 7 | 7 | 7 |\n\
             | null | 7 | 7 |",
            &[],
        ),
    Function::new("row_number", Family::Analytic, &[], Returns::Int, Code::RowNumber).not_deterministic().doc(
        "The row's number in its window from 1, before ORDER BY; 1 without a window. Only in the select list.",
        &[],
    ),
    makes_rows(SetReturning::Extract, "extract", &[("object", Param::Object)]).doc(
        "The members of an object as columns. Anything else is an error. Allowed once, in the select list.\n\n\
         | a | `extract(a)` |\n\
         | --- | --- |\n\
         | `{\"x\": 1, \"y\": 2}` | `{\"x\": 1, \"y\": 2}` |",
        &[],
    ),
    makes_rows(SetReturning::Unnest, "unnest", &[("array", Param::Array)]).doc(
        "A row for each element of an array, with the other columns repeated. The members of an object become \
         columns; any other element goes into a column with the name of the alias, or `unnest`. An empty array gives \
         no rows; anything else is an error. Allowed once, in the select list.\n\n\
         | a | b | `SELECT unnest(a) AS x, b` |\n\
         | --- | --- | --- |\n\
         | `[1, {\"p\": 2}]` | 9 | `{\"x\": 1, \"b\": 9}`, `{\"p\": 2, \"b\": 9}` |\n\
         | `[]` | 9 | none |",
        &[],
    ),
];

fn whole(count: u64) -> Value {
    Value::Int(i64::try_from(count).unwrap_or(i64::MAX))
}

fn of_lag(literals: &[Option<&Value>]) -> Result<(), String> {
    if !(1..=4).contains(&literals.len()) {
        return Err(format!("expect one two or three args but got {}", literals.len()));
    }
    match literals.get(1) {
        None | Some(Some(Value::Int(0..=MAX_LAG))) => Ok(()),
        Some(Some(Value::Int(..0))) => Err("the index should not be a nagtive integer".to_owned()),
        Some(Some(Value::Int(_))) => Err(format!("the index should not be greater than {MAX_LAG}")),
        // If the offset came from messages, one of them could make the state arbitrarily large.
        Some(_) => Err("Expect int type for parameter 2".to_owned()),
    }
}

fn of_latest(literals: &[Option<&Value>]) -> Result<(), String> {
    match literals.len() {
        1 | 2 => Ok(()),
        found => Err(format!("expect one or two args but got {found}")),
    }
}

/// eKuiper uses another word here than in other functions.
fn boolean_first(literals: &[Option<&Value>]) -> Result<(), String> {
    match literals {
        [Some(literal), _] if !literal.is_null() && !matches!(literal, Value::Bool(_)) => {
            Err("Expect boolean type for parameter 1".to_owned())
        }
        _ => Ok(()),
    }
}

fn more_than_one(literals: &[Option<&Value>]) -> Result<(), String> {
    match literals.len() {
        found @ ..2 => Err(format!("expect more than one arg but got {found}")),
        _ => Ok(()),
    }
}

fn more_than_two(literals: &[Option<&Value>]) -> Result<(), String> {
    match literals.len() {
        found @ ..3 => Err(format!("expect more than two args but got {found}")),
        _ => Ok(()),
    }
}

fn one_or_three(literals: &[Option<&Value>]) -> Result<(), String> {
    match literals.len() {
        1 | 3 => Ok(()),
        found => Err(format!("Expect 1/3 arguments but found {found}.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::function::{Args, CallContext, Hits, check_call, lookup};

    #[test]
    fn refusals() {
        let (field, one, less) = (None, Some(Value::Int(1)), Some(Value::Int(-1)));
        let (text, yes, half) = (Some(Value::from("x")), Some(Value::Bool(true)), Some(Value::Float(1.5)));
        for (name, args, expected) in [
            ("lag", &[][..], Some("expect one two or three args but got 0")),
            ("lag", &[&field, &one, &one, &yes, &one], Some("expect one two or three args but got 5")),
            ("lag", &[&field, &one, &text, &yes], None),
            ("lag", &[&field, &text], Some("Expect int type for parameter 2")),
            ("lag", &[&field, &half], Some("Expect int type for parameter 2")),
            ("lag", &[&field, &field], Some("Expect int type for parameter 2")),
            ("lag", &[&field, &less], Some("the index should not be a nagtive integer")),
            ("lag", &[&field, &one, &one, &text], Some("Expect bool type for parameter 4")),
            ("lag", &[&field, &Some(Value::Int(MAX_LAG + 1))], Some("the index should not be greater than 100000")),
            ("latest", &[], Some("expect one or two args but got 0")),
            ("latest", &[&field, &one, &one], Some("expect one or two args but got 3")),
            ("changed_col", &[&yes], Some("Expect 2 arguments but found 1.")),
            ("changed_col", &[&one, &field], Some("Expect boolean type for parameter 1")),
            ("had_changed", &[&yes], Some("expect more than one arg but got 1")),
            ("had_changed", &[&text, &field], Some("Expect bool type for parameter 1")),
            ("had_changed", &[&yes, &field, &one, &text], None),
            ("changed_cols", &[&text, &yes], Some("expect more than two args but got 2")),
            ("changed_cols", &[&one, &yes, &field], Some("Expect string type for parameter 1")),
            ("changed_cols", &[&text, &yes, &field, &field], None),
            ("acc_sum", &[], Some("Expect 1/3 arguments but found 0.")),
            ("acc_sum", &[&field, &yes], Some("Expect 1/3 arguments but found 2.")),
            ("acc_sum", &[&text], Some("Expect number - float or int type for parameter 1")),
            ("acc_count", &[&text, &field, &yes], None),
            ("acc_max", &[&field, &one, &yes], Some("Expect bool type for parameter 2")),
            ("last_hit_count", &[&one], Some("Expect 0 arguments but found 1.")),
            ("row_number", &[&one], Some("Expect 0 arguments but found 1.")),
            ("unnest", &[], Some("Expect 1 arguments but found 0.")),
            ("extract", &[], Some("Expect 1 arguments but found 0.")),
        ] {
            let literals: Vec<_> = args.iter().map(|arg| arg.as_ref()).collect();
            let function = lookup(name).unwrap_or_else(|| panic!("no function {name}"));
            let refusal = check_call(function, &literals, &vec![None; args.len()]).err();
            assert_eq!(refusal.map(|error| error.to_string()).as_deref(), expected, "{name} {args:?}");
        }
    }

    #[test]
    fn hits_before() {
        let hits = Hits { rows: 3, row_time: 1_700, windows: u64::MAX, window_time: 1_900 };
        let zone = &jiff::tz::TimeZone::UTC;
        let context =
            CallContext { rule: "r", rule_started: 0, now: 0, event_time: 0, window: None, zone, hits, pause: None };
        for (name, expected) in [
            ("last_hit_count", 3),
            ("last_hit_time", 1_700),
            ("last_agg_hit_count", i64::MAX),
            ("last_agg_hit_time", 1_900),
        ] {
            let Some(Code::Scalar(code)) = lookup(name).map(|function| function.code) else { panic!("no {name}") };
            let answer = code(&Args(Default::default()), &context);
            assert!(matches!(answer, Ok(Value::Int(found)) if found == expected), "{name} {answer:?}");
        }
    }

    #[test]
    fn names_are_those_of_the_code() {
        for function in FUNCTIONS {
            match function.code {
                Code::Analytic(analytic) => assert_eq!(function.name, analytic.name()),
                Code::SetReturning(code) => assert_eq!(function.name, code.name()),
                _ => {}
            }
        }
    }
}
