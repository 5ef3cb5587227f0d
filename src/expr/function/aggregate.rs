//! The table of aggregates. Their code is in [`crate::expr::aggregate`]: they are accumulators, not functions of
//! values.

use super::{Code, Family, Function, Nulls, Param, Returns};
use crate::expr::aggregate::{Aggregate, Share};
use crate::value::Value;

const fn row(aggregate: Aggregate, name: &'static str, param: (&'static [(&'static str, Param)], Returns)) -> Function {
    Function::new(name, Family::Aggregate, param.0, param.1, Code::Aggregate(aggregate)).nulls(Nulls::Own)
}

const NUMBER: &[(&str, Param)] = &[("x", Param::Number)];
const ORDERED: &[(&str, Param)] = &[("x", Param::Ordered)];
const ANY: &[(&str, Param)] = &[("x", Param::Any)];
const RANKED: &[(&str, Param)] = &[("x", Param::Number), ("share", Param::Number)];
const DEDUPLICATED: &[(&str, Param)] = &[("x", Param::Any), ("all", Param::Bool)];
const LAST: &[(&str, Param)] = &[("x", Param::Any), ("ignore_null", Param::Bool)];

pub(super) static FUNCTIONS: &[Function] = &[
    row(Aggregate::Avg, "avg", (NUMBER, Returns::Float))
        .doc("The mean of the numbers, a float; nulls are left out. No value where there is no number. `avg(DISTINCT x)` takes \
              each number once.", &[]),
    row(Aggregate::Collect, "collect", (ANY, Returns::Array)).doc(
        "An array of the values in order, nulls too. `collect(*)` is an array of the rows as objects; \
         `collect(*)[0]->a` looks into the first. `collect(DISTINCT x)` has each value once, in the order of their first \
         rows.",
        &[],
    ),
    row(Aggregate::Count, "count", (ANY, Returns::Int))
        .doc("`count(*)` counts rows, `count(x)` those rows in which x is not null, `count(DISTINCT x)` the different values.", &[]),
    row(Aggregate::Deduplicate { all: true }, "deduplicate", (DEDUPLICATED, Returns::Any)).check(literal_bool).doc(
        "With true an array of rows as objects: for each value of x the first that has it. With false the last row if \
         its value of x is new, else no value.",
        &[],
    ),
    row(Aggregate::FirstValue { filled: false }, "first_value", (LAST, Returns::SameAs(0)))
        .required(1)
        .check(literal_bool)
        .doc(
            "The first value; with true the first that is not null. `first_value(*, true)` is the first row as an \
             object.",
            &[],
        ),
    row(Aggregate::LastValue { filled: false }, "last_value", (LAST, Returns::SameAs(0))).check(literal_bool).doc(
        "The last value; with true the last that is not null. `last_value(*, true)` is the last row as an object.",
        &[],
    ),
    row(Aggregate::Max, "max", (ORDERED, Returns::SameAs(0)))
        .doc("The greatest number, or the last text in order; nulls are left out.", &[]),
    row(Aggregate::Median, "median", (NUMBER, Returns::Any)).doc(
        "The number in the middle, or the mean of the two there, a float; nulls are left out. No value where there is \
         no number.",
        &[],
    ),
    row(Aggregate::Merge, "merge_agg", (ANY, Returns::Object)).doc(
        "One object of the members of all objects, of equal keys the last; other values are left out. \
         `merge_agg(*)` merges the rows. No value where there is no object.",
        &[],
    ),
    row(Aggregate::Min, "min", (ORDERED, Returns::SameAs(0)))
        .doc("The least number, or the first text in order; nulls are left out.", &[]),
    row(Aggregate::PercentileCont(Share::NONE), "percentile_cont", (RANKED, Returns::Float))
        .aliases(&["percentile"])
        .check(literal_share)
        .doc(
            "The number below which a share, from 0 to 1, of the numbers lies, interpolated between the two next to \
             it; a float. 0.5 gives the median. Nulls are left out.",
            &[],
        ),
    row(Aggregate::PercentileDisc(Share::NONE), "percentile_disc", (RANKED, Returns::Float)).check(literal_share).doc(
        "The first of the sorted numbers that has at least a share, from 0 to 1, of the numbers up to it. Nulls \
             are left out.",
        &[],
    ),
    row(Aggregate::Stddev, "stddev", (NUMBER, Returns::Float))
        .doc("The standard deviation of the numbers as a whole population; nulls are left out.", &[]),
    row(Aggregate::StddevSample, "stddevs", (NUMBER, Returns::Float)).doc(
        "The standard deviation of the numbers as a sample; nulls are left out. One number alone gives no value.",
        &[],
    ),
    row(Aggregate::Sum, "sum", (NUMBER, Returns::SameAs(0)))
        .doc("The sum of the numbers; nulls are left out. Whole numbers are summed exactly. `sum(DISTINCT x)` takes each number \
              once.", &[]),
    row(Aggregate::Var, "var", (NUMBER, Returns::Float))
        .doc("The variance of the numbers as a whole population; nulls are left out.", &[]),
    row(Aggregate::VarSample, "vars", (NUMBER, Returns::Float))
        .doc("The variance of the numbers as a sample; nulls are left out. One number alone gives no value.", &[]),
];

/// The second argument decides what the aggregate keeps, so it must be a literal.
fn literal_bool(literals: &[Option<&Value>]) -> Result<(), String> {
    match literals {
        [_, Some(Value::Bool(_))] => Ok(()),
        [_, _] => Err("Expect bool type for parameter 2".to_owned()),
        _ => Ok(()),
    }
}

fn literal_share(literals: &[Option<&Value>]) -> Result<(), String> {
    match literals {
        [_, Some(share @ (Value::Int(_) | Value::Float(_)))] if share.as_f64().and_then(Share::new).is_none() => {
            Err("Expect a number from 0 to 1 for parameter 2".to_owned())
        }
        [_, Some(Value::Int(_) | Value::Float(_))] => Ok(()),
        [_, _] => Err("Expect number - float or int type for parameter 2".to_owned()),
        _ => Ok(()),
    }
}
