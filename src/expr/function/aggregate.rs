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
    row(Aggregate::Avg, "avg", (NUMBER, Returns::Float)).doc(
        "The mean of the numbers, as a float; nulls are ignored. No value if there are no numbers. `avg(DISTINCT \
         x)` counts each number once.",
        &[],
    ),
    row(Aggregate::Collect, "collect", (ANY, Returns::Array)).doc(
        "An array of the values in order, including nulls. `collect(*)` is an array of the rows as objects; \
         `collect(*)[0]->a` reads the first. `collect(DISTINCT x)` has each value once, in the order of their first \
         rows.",
        &[],
    ),
    row(Aggregate::Count, "count", (ANY, Returns::Int)).doc(
        "`count(*)` counts rows, `count(x)` rows in which x is not null, `count(DISTINCT x)` distinct values.",
        &[],
    ),
    row(Aggregate::Deduplicate { all: true }, "deduplicate", (DEDUPLICATED, Returns::Any)).check(literal_bool).doc(
        "With `true`: an array of rows as objects, the first row for each value of x. With `false`: the last row if \
         its value of x is new, otherwise no value.",
        &[],
    ),
    row(Aggregate::FirstValue { filled: false }, "first_value", (LAST, Returns::SameAs(0)))
        .required(1)
        .check(literal_bool)
        .doc(
            "The first value; with `true` the first one that is not null. `first_value(*, true)` is the first row as \
             an object.",
            &[],
        ),
    row(Aggregate::LastValue { filled: false }, "last_value", (LAST, Returns::SameAs(0))).check(literal_bool).doc(
        "The last value; with `true` the last one that is not null. `last_value(*, true)` is the last row as an \
         object.",
        &[],
    ),
    row(Aggregate::Max, "max", (ORDERED, Returns::SameAs(0)))
        .doc("The greatest number or text; nulls are ignored.", &[]),
    row(Aggregate::Median, "median", (NUMBER, Returns::Any)).doc(
        "The middle number, or the mean of the two middle ones as a float; nulls are ignored. No value if there are \
         no numbers.",
        &[],
    ),
    row(Aggregate::Merge, "merge_agg", (ANY, Returns::Object)).doc(
        "Merges all objects into one; the last of duplicate keys counts, other values are ignored. `merge_agg(*)` \
         merges the rows. No value if there are no objects.",
        &[],
    ),
    row(Aggregate::Min, "min", (ORDERED, Returns::SameAs(0))).doc("The least number or text; nulls are ignored.", &[]),
    row(Aggregate::PercentileCont(Share::NONE), "percentile_cont", (RANKED, Returns::Float))
        .aliases(&["percentile"])
        .check(literal_share)
        .doc(
            "The number below which a share of the numbers lies, as a float, interpolated between two numbers if \
             necessary. The share is from 0 to 1; 0.5 gives the median. Nulls are ignored.",
            &[],
        ),
    row(Aggregate::PercentileDisc(Share::NONE), "percentile_disc", (RANKED, Returns::Float)).check(literal_share).doc(
        "The first of the sorted numbers at which at least a share of all numbers is reached. The share is from 0 to \
         1. Nulls are ignored.",
        &[],
    ),
    row(Aggregate::Stddev, "stddev", (NUMBER, Returns::Float))
        .doc("The standard deviation of the numbers as a population; nulls are ignored.", &[]),
    row(Aggregate::StddevSample, "stddevs", (NUMBER, Returns::Float)).doc(
        "The standard deviation of the numbers as a sample; nulls are ignored. A single number gives no value.",
        &[],
    ),
    row(Aggregate::Sum, "sum", (NUMBER, Returns::SameAs(0))).doc(
        "The sum of the numbers; nulls are ignored. Whole numbers are summed exactly. `sum(DISTINCT x)` counts \
         each number once.",
        &[],
    ),
    row(Aggregate::Var, "var", (NUMBER, Returns::Float))
        .doc("The variance of the numbers as a population; nulls are ignored.", &[]),
    row(Aggregate::VarSample, "vars", (NUMBER, Returns::Float))
        .doc("The variance of the numbers as a sample; nulls are ignored. A single number gives no value.", &[]),
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
