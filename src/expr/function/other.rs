//! Functions of the rule, the row and the window, functions that choose a value, and functions that make ids.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Args, CallContext, Code, Family, Function, FunctionResult, Nulls, Param, Returns, domain};
use crate::value::Value;
use crate::value::cast::{failed, text};

const fn of(
    name: &'static str,
    params: &'static [(&'static str, Param)],
    returns: Returns,
    code: super::ScalarFn,
) -> Function {
    Function::new(name, Family::Other, params, returns, Code::Scalar(code))
}

/// A function whose result depends only on the rule, the row or the window.
const fn info(name: &'static str, returns: Returns, code: super::ScalarFn) -> Function {
    of(name, &[], returns, code).not_deterministic()
}

/// The longest delay in ms: a number in a message must not stop its rule for ever.
const LONGEST_DELAY: i64 = 10_000;

pub(super) static FUNCTIONS: &[Function] = &[
    of("bypass", &[("value", Param::Any)], Returns::SameAs(0), |args, _| Ok(args[0].clone()))
        .required(0)
        .variadic()
        .nulls(Nulls::Own)
        .doc("The first argument, unchanged.", &[("bypass(\"s\", 1)", "\"s\""), ("bypass()", "")]),
    of("coalesce", &[("value", Param::Any)], Returns::SameAs(0), coalesce)
        .variadic()
        .nulls(Nulls::Own)
        .check(one_at_least)
        .doc(
            "The first argument that is not null. false, 0 and empty text are values.",
            &[("coalesce(0, 1)", "0"), ("coalesce(\"\", \"x\")", "\"\""), ("coalesce(\"a\")", "\"a\"")],
        ),
    of("delay", &[("ms", Param::Number), ("value", Param::Any)], Returns::SameAs(1), delay).not_deterministic().doc(
        "Returns the second argument. The rule then pauses for this many milliseconds (fractions are dropped) before \
         it sends the row's result and takes the next row; other rules continue. More than 10000 ms are an error.",
        &[("delay(1, \"x\")", "\"x\""), ("delay(-1, 2)", "2")],
    ),
    info("event_time", Returns::Int, |_, context| Ok(Value::Int(context.event_time))).doc(
        "The row's time in ms since 1970: its timestamp in event time, otherwise its arrival. After a window with \
         aggregates, the end of the window.",
        &[],
    ),
    of(
        "get_keyed_state",
        &[("key", Param::Any), ("type", Param::TextLiteral), ("default", Param::Any)],
        Returns::SameAs(2),
        keyed_state,
    )
    .nulls(Nulls::Own)
    .check(state_type)
    .doc(
        "The value stored under a key, as `bigint`, `float`, `string`, `boolean` or `datetime`, or the default if \
         there is none. Plutino stores no values under keys, so the result is always the default; rules that call \
         the function keep working.",
        &[("get_keyed_state(\"limit\", \"bigint\", 0)", "0")],
    ),
    of("isnull", &[("value", Param::Any)], Returns::Bool, |args, _| Ok(Value::Bool(args[0].is_null())))
        .nulls(Nulls::Own)
        .doc(
            "Whether there is no value: null, or a key that the message does not have.",
            &[("isnull(0)", "false"), ("isnull(\"\")", "false")],
        ),
    of("meta", &[("key", Param::MetaKey)], Returns::Any, |args, _| match &args[0] {
        Value::Text(key) if key == "*" => Ok(Value::object([])),
        _ => Ok(Value::Absent),
    })
    .not_deterministic()
    .doc(
        "The metadata of a message: `meta(key)`, `meta(stream.key)`, `meta(key->part)`, or `meta(*)` for all as an \
         object. Clients of the data server: `client` (an id that no other connection has), `remote` (the address), \
         `path_name` for each `{name}` of the path, and `header_user_agent` and so on for the headers of the \
         handshake, without secrets; `meta(*)` does not contain `client`, `remote` and headers. With `gapSequence`: \
         `gap`, how many numbers are missing before the message. Rows of a view: `op`, which is `insert`, `update` or \
         `delete`, and for a delete `why`, which is `expired`, `evicted`, `filtered` or `removed`. Rows of memory: \
         `topic`. An unknown key has no value.",
        &[],
    ),
    of("mqtt", &[("key", Param::MetaKey)], Returns::Text, |_, _| Ok(Value::Absent))
        .not_deterministic()
        .check(topic_or_id)
        .doc(
            "The `topic` or `messageid` of a message that arrived by MQTT. Messages of websockets have neither, so \
             there is no value.",
            &[],
        ),
    info("newuuid", Returns::Text, |_, _| Ok(new_uuid().into()))
        .doc("A new UUID of version 1 as text, based on the time; it is never repeated.", &[]),
    of("props", &[("name", Param::Text)], Returns::Text, props).not_deterministic().doc(
        "A property of the engine as text: `et` is the current time in ms since 1970, `snowflake` a new id that grows \
         with time. Any other name is an error.",
        &[],
    ),
    info("rule_id", Returns::Text, |_, context| Ok(Value::from(context.rule))).doc("The id of the rule.", &[]),
    info("rule_start", Returns::Int, |_, context| Ok(Value::Int(context.rule_started)))
        .doc("When the rule was started, in ms since 1970.", &[]),
    info("tstamp", Returns::Int, |_, context| Ok(Value::Int(context.now)))
        .doc("The current time in ms since 1970.", &[]),
    info("window_end", Returns::Int, |_, context| Ok(bound(context, |(_, end)| end)))
        .doc("The end of the window (exclusive) in ms since 1970; 0 without a window.", &[]),
    info("window_start", Returns::Int, |_, context| Ok(bound(context, |(start, _)| start)))
        .doc("The start of the window in ms since 1970; 0 without a window.", &[]),
    info("window_trigger", Returns::Int, |_, context| Ok(bound(context, |(_, end)| end)))
        .doc("The time at which the window was due, in ms since 1970: its end; 0 without a window.", &[]),
];

fn coalesce(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    Ok(args.iter().find(|value| !value.is_null()).cloned().unwrap_or(Value::Null))
}

fn delay(args: &Args<'_>, context: &CallContext<'_>) -> FunctionResult {
    // A float loses its fraction; the cast saturates, so one beyond 64 bits is too long or negative.
    let ms = match &args[0] {
        Value::Int(ms) => *ms,
        Value::Float(ms) if !ms.is_nan() => *ms as i64,
        other => return Err(failed(other, "int").into()),
    };
    if ms > LONGEST_DELAY {
        return Err(domain(format!("a delay of {ms} ms is longer than {LONGEST_DELAY} ms")));
    }
    if let (Ok(ms @ 1..), Some(pause)) = (u64::try_from(ms), context.pause) {
        pause.set(pause.get().saturating_add(ms));
    }
    Ok(args[1].clone())
}

fn keyed_state(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    match &args[0] {
        Value::Text(_) => Ok(args[2].clone()),
        other => {
            Err(domain(format!("key {} is not a string", if other.is_null() { "<nil>".into() } else { text(other) })))
        }
    }
}

fn state_type(literals: &[Option<&Value>]) -> Result<(), String> {
    match literals {
        [_, Some(Value::Text(name)), _]
            if !matches!(name.as_str(), "bigint" | "float" | "string" | "boolean" | "datetime") =>
        {
            Err("expect one of following value for the 2nd parameter: bigint, float, string, boolean, datetime"
                .to_owned())
        }
        _ => Ok(()),
    }
}

fn topic_or_id(literals: &[Option<&Value>]) -> Result<(), String> {
    match literals {
        // `stream.topic` also names the stream.
        [Some(Value::Text(key))]
            if !["topic", "messageid"].iter().any(|known| {
                key.rsplit('.').next().is_some_and(|key| key.trim_matches('`').eq_ignore_ascii_case(known))
            }) =>
        {
            Err("Parameter of mqtt function can be only topic or messageid.".to_owned())
        }
        _ => Ok(()),
    }
}

fn props(args: &Args<'_>, context: &CallContext<'_>) -> FunctionResult {
    match &*text(&args[0]) {
        "et" => Ok(context.now.to_string().into()),
        "snowflake" => Ok(new_snowflake(context.now).to_string().into()),
        other => Err(domain(format!("unknown property {other}, there are et and snowflake"))),
    }
}

/// A UUID of version 1. The node is random for each process instead of the address of the network card.
fn new_uuid() -> String {
    static MADE: LazyLock<(uuid::ContextV1, [u8; 6])> = LazyLock::new(|| {
        let mut node = [0; 6];
        fastrand::fill(&mut node);
        // The multicast bit marks a node that is not the address of a card (RFC 9562, section 6.10).
        node[0] |= 1;
        (uuid::ContextV1::new(fastrand::u16(..)), node)
    });
    let (context, node) = &*MADE;
    uuid::Uuid::new_v1(uuid::Timestamp::now(context), node).to_string()
}

/// An id larger than all earlier ones: 41 bits of ms since 4 November 2010, 10 bits of node, which are 0, and a 12-bit
/// number. When the numbers of a millisecond are used up, those of the next one follow.
fn new_snowflake(now: i64) -> u64 {
    const EPOCH: i64 = 1_288_834_974_657;
    static LAST: AtomicU64 = AtomicU64::new(0);
    let since = u64::try_from(now.saturating_sub(EPOCH)).unwrap_or(0).min((1 << 41) - 1);
    let next = |last: u64| {
        // The bits of the node must stay 0.
        let after = if last & 0xfff == 0xfff { (last | 0x3f_ffff) + 1 } else { last + 1 };
        after.max(since << 22)
    };
    let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
    next(last.unwrap_or_default())
}

fn one_at_least(literals: &[Option<&Value>]) -> Result<(), String> {
    if literals.is_empty() { Err("The arguments should be at least one.".to_owned()) } else { Ok(()) }
}

fn bound(context: &CallContext<'_>, of: fn((i64, i64)) -> i64) -> Value {
    Value::Int(context.window.map_or(0, of))
}

#[cfg(test)]
mod tests {
    use super::super::examples::{answer, json};
    use super::super::{check_call, lookup};
    use super::*;

    #[test]
    fn new_names_are_new() {
        let uuid = |_| json(&answer("newuuid", &[])).unwrap_or_default();
        let made: std::collections::HashSet<_> = (0..1000).map(uuid).collect();
        assert_eq!(made.len(), 1000);
        for uuid in made {
            let parts: Vec<_> = uuid.trim_matches('"').split('-').map(str::len).collect();
            assert_eq!((parts, uuid.as_bytes()[15]), (vec![8, 4, 4, 4, 12], b'1'), "{uuid}");
        }
        let ids: Vec<_> = (0..10_000).map(|_| new_snowflake(1_700_000_000_000)).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
        assert!(ids.iter().all(|id| id >> 12 & 0x3ff == 0));
    }

    #[test]
    fn properties() {
        assert_eq!(json(&answer("props", &["et".into()])).as_deref(), Some("\"1700000000000\""));
        assert!(answer("props", &["snowflake".into()]).is_ok_and(|id| text(&id).parse::<u64>().is_ok()));
        for other in ["nosuchprop", "", "ET"] {
            assert!(answer("props", &[other.into()]).is_err(), "{other}");
        }
    }

    #[test]
    fn delays() {
        for (ms, given) in [
            (Value::Int(0), Some("7")),
            (1.9.into(), Some("7")),
            ((-1e300).into(), Some("7")),
            (i64::MIN.into(), Some("7")),
            (Value::Null, Some("")),
            (10_001.into(), None),
            (1e300.into(), None),
            (f64::NAN.into(), None),
            ("1".into(), None),
        ] {
            assert_eq!(json(&answer("delay", &[ms.clone(), 7.into()])).as_deref(), given, "{ms:?}");
        }
    }

    #[test]
    fn state_by_key() {
        let given = |key: Value| json(&answer("get_keyed_state", &[key, "float".into(), "x".into()]));
        assert_eq!(given("k".into()).as_deref(), Some("\"x\""));
        assert_eq!(given(1.into()), None);
        assert_eq!(given(Value::Null), None);
        let refused = answer("get_keyed_state", &[1.into(), "float".into(), 0.into()]).err();
        assert_eq!(refused.map(|error| error.to_string()).as_deref(), Some("key 1 is not a string"));
    }

    #[test]
    fn refusals() {
        let (field, whole, word) = (None, Some(Value::Int(1)), Some(Value::from("x")));
        for (name, args, expected) in [
            ("delay", vec![whole.clone()], Some("Expect 2 arguments but found 1.")),
            ("delay", vec![word.clone(), field.clone()], Some("Expect number - float or int type for parameter 1")),
            ("props", vec![whole.clone()], Some("Expect string type for parameter 1")),
            ("newuuid", vec![whole.clone()], Some("Expect 0 arguments but found 1.")),
            ("tstamp", vec![whole.clone()], Some("Expect 0 arguments but found 1.")),
            ("bypass", vec![], None),
            ("meta", vec![], Some("Expect 1 arguments but found 0.")),
            ("meta", vec![word.clone()], Some("Expect meta reference type for parameter 1")),
            ("mqtt", vec![whole.clone()], Some("Expect meta reference type for parameter 1")),
            (
                "get_keyed_state",
                vec![field.clone(), field.clone(), field.clone()],
                Some("Expect string type for parameter 2"),
            ),
            (
                "get_keyed_state",
                vec![field.clone(), Some("bytea".into()), field.clone()],
                Some("expect one of following value for the 2nd parameter: bigint, float, string, boolean, datetime"),
            ),
        ] {
            let literals: Vec<_> = args.iter().map(Option::as_ref).collect();
            let function = lookup(name).expect("the function exists");
            let refusal = check_call(function, &literals, &vec![None; args.len()]).err();
            assert_eq!(refusal.map(|error| error.to_string()).as_deref(), expected, "{name} {args:?}");
        }
    }
}
