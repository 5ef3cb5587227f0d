//! Functions about the rule, the row and the window, and those that choose between values.

use super::{Args, CallContext, Code, Family, Function, FunctionError, Nulls, Param, Returns};
use crate::value::Value;

type Answer = Result<Value, FunctionError>;

const fn of(
    name: &'static str,
    params: &'static [(&'static str, Param)],
    returns: Returns,
    code: super::ScalarFn,
) -> Function {
    Function::new(name, Family::Other, params, returns, Code::Scalar(code))
}

/// A function whose answer comes from the rule, the row or the window alone.
const fn told(name: &'static str, returns: Returns, code: super::ScalarFn) -> Function {
    of(name, &[], returns, code).not_deterministic()
}

pub(super) static FUNCTIONS: &[Function] = &[
    of("coalesce", &[("value", Param::Any)], Returns::SameAs(0), coalesce)
        .variadic()
        .nulls(Nulls::Own)
        .check(one_at_least)
        .doc(
            "The first argument that is not null. false, 0 and empty text are values.",
            &[("coalesce(0, 1)", "0"), ("coalesce(\"\", \"x\")", "\"\""), ("coalesce(\"a\")", "\"a\"")],
        ),
    told("event_time", Returns::Int, |_, context| Ok(Value::Int(context.event_time))).doc(
        "The row's time in ms since 1970: its timestamp in event time, else its arrival. Behind a window with \
         aggregates, the window's end.",
        &[],
    ),
    of("isnull", &[("value", Param::Any)], Returns::Bool, |args, _| Ok(Value::Bool(args[0].is_null())))
        .nulls(Nulls::Own)
        .doc(
            "Whether there is no value: null, or a key that the message does not have.",
            &[("isnull(0)", "false"), ("isnull(\"\")", "false")],
        ),
    told("rule_id", Returns::Text, |_, context| Ok(Value::from(context.rule))).doc("The id of the rule.", &[]),
    told("rule_start", Returns::Int, |_, context| Ok(Value::Int(context.rule_started)))
        .doc("When the rule was started, in ms since 1970.", &[]),
    told("tstamp", Returns::Int, |_, context| Ok(Value::Int(context.now))).doc("Now, in ms since 1970.", &[]),
    told("window_end", Returns::Int, |_, context| Ok(bound(context, |(_, end)| end)))
        .doc("The end of the window in ms since 1970; the window does not contain it. Null without a window.", &[]),
    told("window_start", Returns::Int, |_, context| Ok(bound(context, |(start, _)| start)))
        .doc("The start of the window in ms since 1970. Null without a window.", &[]),
    told("window_trigger", Returns::Int, |_, context| Ok(bound(context, |(_, end)| end)))
        .doc("When the window was due, in ms since 1970: its end. Null without a window.", &[]),
];

fn coalesce(args: &Args<'_>, _: &CallContext<'_>) -> Answer {
    Ok(args.iter().find(|value| !value.is_null()).cloned().unwrap_or(Value::Null))
}

fn one_at_least(literals: &[Option<&Value>]) -> Result<(), String> {
    if literals.is_empty() { Err("The arguments should be at least one.".to_owned()) } else { Ok(()) }
}

fn bound(context: &CallContext<'_>, of: fn((i64, i64)) -> i64) -> Value {
    context.window.map_or(Value::Null, |window| Value::Int(of(window)))
}
