//! The rows of the aggregates. Their code is [`crate::expr::aggregate`]: accumulators, not functions of values.

use super::{Code, Family, Function, Nulls, Param, Returns};
use crate::expr::aggregate::Aggregate;

const fn row(aggregate: Aggregate, name: &'static str, param: (&'static [(&'static str, Param)], Returns)) -> Function {
    Function::new(name, Family::Aggregate, param.0, param.1, Code::Aggregate(aggregate)).nulls(Nulls::Own)
}

const NUMBER: &[(&str, Param)] = &[("x", Param::Number)];
const ANY: &[(&str, Param)] = &[("x", Param::Any)];

pub(super) static FUNCTIONS: &[Function] = &[
    row(Aggregate::Avg, "avg", (NUMBER, Returns::Float))
        .doc("The mean of the numbers, a float; nulls are left out. No value where there is no number.", &[]),
    row(Aggregate::Count, "count", (ANY, Returns::Int))
        .doc("`count(*)` counts rows, `count(x)` those rows in which x is not null.", &[]),
    row(Aggregate::Max, "max", (ANY, Returns::SameAs(0)))
        .doc("The greatest number, or the last text in order; nulls are left out.", &[]),
    row(Aggregate::Min, "min", (ANY, Returns::SameAs(0)))
        .doc("The least number, or the first text in order; nulls are left out.", &[]),
    row(Aggregate::Sum, "sum", (NUMBER, Returns::SameAs(0)))
        .doc("The sum of the numbers; nulls are left out. Whole numbers are summed exactly.", &[]),
];
