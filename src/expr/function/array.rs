//! Functions of arrays: search, set operations, sorting, and making arrays.
//!
//! Elements are compared by value: numbers regardless of their representation, arrays and objects by content. Group
//! keys are compared in the same way.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::Arc;

use super::{
    Args, CallContext, Code, Family, Function, FunctionError, FunctionResult, LARGEST_TEXT, Nulls, Param, PreparedFn,
    Returns, check_call, domain, lookup, too_large,
};
use crate::expr::ops::{compare, order_of_numbers};
use crate::text::limited::Limited;
use crate::value::cast::{described, int, text};
use crate::value::key::KeyPart;
use crate::value::operator::Comparison;
use crate::value::{Object, Value};

/// The longest array that `repeat` and `sequence` make: a small message must not fill the memory.
const LONGEST: u64 = 1 << 20;

const fn of(
    name: &'static str,
    params: &'static [(&'static str, Param)],
    returns: Returns,
    code: super::ScalarFn,
) -> Function {
    Function::new(name, Family::Array, params, returns, Code::Scalar(code))
}

const ARRAY: &[(&str, Param)] = &[("array", Param::Array)];
const TWO: &[(&str, Param)] = &[("array", Param::Array), ("other", Param::Array)];
const WITH_VALUE: &[(&str, Param)] = &[("array", Param::Array), ("value", Param::Any)];
const JOINED: &[(&str, Param)] = &[("array", Param::Array), ("delimiter", Param::Any), ("null", Param::Any)];
const RANGE: &[(&str, Param)] = &[("first", Param::Any), ("last", Param::Any), ("step", Param::Any)];

pub(super) static FUNCTIONS: &[Function] = &[
    of("array_cardinality", ARRAY, Returns::Int, |args, _| {
        Ok(Value::Int(first(args)?.iter().filter(|member| !member.is_null()).count() as i64))
    })
    .nulls(Nulls::Zero)
    .doc("The number of elements that are not null.", &[("array_cardinality(parse_json(\"[1,null,2]\"))", "2")]),
    of("array_concat", ARRAY, Returns::Array, |args, _| {
        let mut joined = Vec::new();
        for arg in args.iter().filter(|arg| !arg.is_null()) {
            joined.extend_from_slice(members(arg, "array elements should be array")?);
        }
        Ok(Value::array(joined))
    })
    .variadic()
    .nulls(Nulls::Own)
    .doc(
        "Joins arrays. Null counts as an empty array.",
        &[("array_concat(array_create(1), array_create(\"x\", 1))", "[1,\"x\",1]")],
    ),
    of("array_contains", WITH_VALUE, Returns::Bool, |args, _| Ok(Value::Bool(places(args)?.next().is_some())))
        .nulls(Nulls::Own)
        .doc(
            "Whether the array contains a value, which may be null. A null array contains nothing.",
            &[
                ("array_contains(array_create(1, 2), 2.0)", "true"),
                ("array_contains(array_create(1, 2), \"2\")", "false"),
            ],
        ),
    of("array_contains_any", TWO, Returns::Bool, |args, _| {
        let wanted: HashSet<KeyPart> = second(args)?.iter().map(KeyPart::of).collect();
        Ok(Value::Bool(first(args)?.iter().any(|member| wanted.contains(&KeyPart::of(member)))))
    })
    .nulls(Nulls::False)
    .doc(
        "Whether the arrays have an element in common.",
        &[("array_contains_any(array_create(1, 2), array_create(2, 3))", "true")],
    ),
    of("array_create", &[("value", Param::Any)], Returns::Array, |args, _| {
        let members: Vec<Value> = args.iter().filter(|arg| !arg.is_null()).cloned().collect();
        Ok(if members.is_empty() { Value::Null } else { Value::array(members) })
    })
    .required(0)
    .variadic()
    .nulls(Nulls::Own)
    .doc(
        "An array of the arguments, without nulls; no value if all are null.",
        &[("array_create(1, null, \"x\")", "[1,\"x\"]"), ("array_create()", "")],
    ),
    of("array_distinct", ARRAY, Returns::Array, |args, _| {
        let mut seen = HashSet::new();
        let new =
            |member: &&Value| matches!(member, Value::Array(_) | Value::Object(_)) || seen.insert(KeyPart::of(member));
        Ok(Value::array(first(args)?.iter().filter(new).cloned().collect::<Vec<_>>()))
    })
    .doc(
        "The elements without duplicates. Arrays and objects are never duplicates.",
        &[("array_distinct(array_create(1, 2, 1.0, \"1\"))", "[1,2,\"1\"]")],
    ),
    of("array_except", TWO, Returns::Array, |args, _| {
        if args[0].is_null() {
            return Ok(Value::Null);
        }
        let mut seen: HashSet<KeyPart> = second_or_none(args)?.iter().map(KeyPart::of).collect();
        Ok(distinct(first(args)?, &mut seen))
    })
    .nulls(Nulls::Own)
    .doc(
        "The elements of the first array that are not in the second, without duplicates. A null second array counts \
         as empty.",
        &[("array_except(array_create(1, 2, 2, 3), array_create(3))", "[1,2]")],
    ),
    of("array_flatten", ARRAY, Returns::Array, |args, _| {
        let mut flat = Vec::new();
        for member in first(args)? {
            match member {
                Value::Array(inner) => flat.extend_from_slice(inner),
                other => flat.push(other.clone()),
            }
        }
        Ok(Value::array(flat))
    })
    .doc(
        "Replaces arrays in the array by their elements, one level deep.",
        &[("array_flatten(parse_json(\"[1,[2,[3]],[]]\"))", "[1,2,[3]]")],
    ),
    of("array_intersect", TWO, Returns::Array, |args, _| {
        let mut common: HashSet<KeyPart> = first(args)?.iter().map(KeyPart::of).collect();
        let taken = second(args)?.iter().filter(|member| common.remove(&KeyPart::of(member))).cloned();
        Ok(Value::array(taken.collect::<Vec<_>>()))
    })
    .doc(
        "The elements that both arrays have, without duplicates, in the order of the second.",
        &[("array_intersect(array_create(1, 2, 3), array_create(3, 2, 2))", "[3,2]")],
    ),
    of("array_join", JOINED, Returns::Text, array_join).required(2).check(two_or_three).doc(
        "Joins the elements as text, with the delimiter between them. Nulls are left out, or replaced by the third \
         argument.",
        &[
            ("array_join(parse_json(\"[1,null,2.5]\"), \",\")", "\"1,2.5\""),
            ("array_join(parse_json(\"[1,null]\"), \"-\", \"none\")", "\"1-none\""),
            ("array_join(parse_json(\"[]\"), \",\")", "\"\""),
        ],
    ),
    of("array_last_position", WITH_VALUE, Returns::Int, |args, _| Ok(position(places(args)?.next_back())))
        .nulls(Nulls::Own)
        .doc(
            "The last position of a value in the array, from 0; -1 if it is absent.",
            &[("array_last_position(array_create(1, 2, 1), 1)", "2")],
        ),
    Function::new(
        "array_map",
        Family::Array,
        &[("function", Param::Any), ("array", Param::Array)],
        Returns::Array,
        Code::Prepared(array_map),
    )
    .doc(
        "Applies a function of one argument, given by its name, to each element.",
        &[
            ("array_map(\"abs\", array_create(-1, 2))", "[1,2]"),
            ("array_map(\"ABS\", parse_json(\"[-1,null]\"))", "[1,null]"),
        ],
    ),
    of("array_max", ARRAY, Returns::Any, |args, _| extreme(first(args)?, Comparison::Greater))
        .doc("The greatest number or text; nulls are ignored.", &[("array_max(array_create(1, 2.5))", "2.5")]),
    of("array_min", ARRAY, Returns::Any, |args, _| extreme(first(args)?, Comparison::Less))
        .doc("The least number or text; nulls are ignored.", &[("array_min(array_create(\"b\", \"a\"))", "\"a\"")]),
    of("array_position", WITH_VALUE, Returns::Int, |args, _| Ok(position(places(args)?.next()))).nulls(Nulls::Own).doc(
        "The first position of a value in the array, from 0; -1 if it is absent.",
        &[("array_position(array_create(1, 2, 1), 1)", "0"), ("array_position(array_create(1), 2)", "-1")],
    ),
    of("array_remove", WITH_VALUE, Returns::Array, |args, _| {
        if args[0].is_null() {
            return Ok(Value::Null);
        }
        let unwanted = KeyPart::of(&args[1]);
        let kept = first(args)?.iter().filter(|member| KeyPart::of(member) != unwanted).cloned();
        Ok(Value::array(kept.collect::<Vec<_>>()))
    })
    .nulls(Nulls::Own)
    .doc("The array without the elements that equal a value.", &[("array_remove(array_create(1, 2, 1), 1)", "[2]")]),
    of("array_shuffle", ARRAY, Returns::Array, |args, _| {
        let mut members = first(args)?.to_vec();
        fastrand::shuffle(&mut members);
        Ok(Value::array(members))
    })
    .not_deterministic()
    .doc("The elements in random order.", &[]),
    of("array_sort", ARRAY, Returns::Array, |args, _| {
        let mut members = first(args)?.to_vec();
        members.sort_by(in_order);
        Ok(Value::array(members))
    })
    .doc(
        "The elements in order: numbers by value, then all others by their text; null sorts before letters.",
        &[("array_sort(array_create(10, 9, \"b\", \"B\"))", "[9,10,\"B\",\"b\"]")],
    ),
    of("array_union", TWO, Returns::Array, |args, _| {
        let mut seen = HashSet::new();
        let first = if args[0].is_null() { &[][..] } else { first(args)? };
        let all: Vec<Value> = first.iter().chain(second_or_none(args)?).cloned().collect();
        Ok(distinct(&all, &mut seen))
    })
    .nulls(Nulls::Own)
    .doc(
        "The elements of both arrays, without duplicates. Null counts as an empty array.",
        &[("array_union(array_create(1, 2), array_create(2, 3))", "[1,2,3]")],
    ),
    of("cardinality", &[("array", Param::Any)], Returns::Int, |args, _| match &args[0] {
        Value::Array(members) => Ok(Value::Int(members.len() as i64)),
        _ => Ok(Value::Int(0)),
    })
    .nulls(Nulls::Zero)
    .doc(
        "The number of elements of an array, including nulls; 0 for other values.",
        &[("cardinality(parse_json(\"[1,null]\"))", "2"), ("cardinality(\"text\")", "0")],
    ),
    of("element_at", &[("container", Param::Any), ("index", Param::Any)], Returns::Any, element_at).doc(
        "The element of an array at an index, from 0 or, if negative, from the end; or the member of an object with a \
         key. A missing element is an error; a missing member gives no value.",
        &[
            ("element_at(array_create(5, 6), -1)", "6"),
            ("element_at(object_construct(\"a\", 1), \"a\")", "1"),
            ("element_at(object_construct(\"a\", 1), \"b\")", ""),
        ],
    ),
    of("kvpair_array_to_obj", ARRAY, Returns::Object, kvpair_array_to_obj).doc(
        "Makes an object from an array of `{\"key\": …, \"value\": …}`; the last of duplicate keys counts.",
        &[("kvpair_array_to_obj(parse_json(\"[{\\\"key\\\":\\\"a\\\",\\\"value\\\":1}]\"))", "{\"a\":1}")],
    ),
    of("repeat", &[("value", Param::Any), ("count", Param::Any)], Returns::Array, repeat).doc(
        "An array that repeats the value; a negative count gives an empty array. More than 1048576 elements, or more \
         than 64 MiB of text, are an error.",
        &[("repeat(\"x\", 3)", "[\"x\",\"x\",\"x\"]"), ("repeat(1, -1)", "[]")],
    ),
    of("sequence", RANGE, Returns::Array, sequence).required(2).check(two_or_three).doc(
        "The whole numbers from `first` to `last` with a step, by default 1 or -1. A step in the wrong direction \
         gives an empty array; more than 1048576 elements are an error.",
        &[
            ("sequence(1, 5)", "[1,2,3,4,5]"),
            ("sequence(3, 1)", "[3,2,1]"),
            ("sequence(1, 6, 2)", "[1,3,5]"),
            ("sequence(1, 5, -2)", "[]"),
        ],
    ),
];

/// The elements of an array; for other values, an error with this text.
fn members<'a>(value: &'a Value, otherwise: &'static str) -> Result<&'a [Value], FunctionError> {
    match value {
        Value::Array(members) => Ok(members),
        _ => Err(domain(otherwise)),
    }
}

fn first<'a>(args: &'a Args<'_>) -> Result<&'a [Value], FunctionError> {
    members(&args[0], "first argument should be array of interface{}")
}

fn second<'a>(args: &'a Args<'_>) -> Result<&'a [Value], FunctionError> {
    members(&args[1], "second argument should be array of interface{}")
}

fn second_or_none<'a>(args: &'a Args<'_>) -> Result<&'a [Value], FunctionError> {
    if args[1].is_null() { Ok(&[]) } else { second(args) }
}

/// The elements that are not in `seen`, without repetition.
fn distinct(members: &[Value], seen: &mut HashSet<KeyPart>) -> Value {
    Value::array(members.iter().filter(|member| seen.insert(KeyPart::of(member))).cloned().collect::<Vec<_>>())
}

/// The positions of the second argument in the first; empty if the first is null.
fn places<'a>(args: &'a Args<'_>) -> Result<impl DoubleEndedIterator<Item = usize> + 'a, FunctionError> {
    let members = if args[0].is_null() { &[][..] } else { first(args)? };
    let wanted = KeyPart::of(&args[1]);
    Ok((0..members.len()).filter(move |&index| KeyPart::of(&members[index]) == wanted))
}

fn position(place: Option<usize>) -> Value {
    Value::Int(place.map_or(-1, |place| place as i64))
}

/// The smallest or largest element. The first element that is not null decides how they are compared.
fn extreme(members: &[Value], better: Comparison) -> FunctionResult {
    let mut best = &Value::Null;
    for member in members.iter().filter(|member| !member.is_null()) {
        match (best, member) {
            (Value::Null, first) if first.is_number() || matches!(first, Value::Text(_)) => best = member,
            (best_yet, member)
                if best_yet.is_number() && member.is_number()
                    || matches!((best_yet, member), (Value::Text(_), Value::Text(_))) =>
            {
                if compare(member, better, best).unwrap_or(false) {
                    best = member;
                }
            }
            (Value::Null, _) => return Err(domain(format!("found invalid arg {}", described(member)))),
            _ => {
                let wanted = if best.as_text().is_some() { "string" } else { "float64" };
                return Err(domain(format!("requires {wanted} but found {}", described(member))));
            }
        }
    }
    Ok(best.clone())
}

/// The order of `array_sort`. It is total, so sorting never fails. Null is ordered as the text `<nil>`, as in eKuiper:
/// after numbers, before letters.
fn in_order(left: &Value, right: &Value) -> Ordering {
    fn shown(value: &Value) -> Cow<'_, str> {
        if value.is_null() { "<nil>".into() } else { text(value) }
    }
    match (left.is_number(), right.is_number()) {
        (true, true) => order_of_numbers(left, right),
        (false, false) => shown(left).cmp(&shown(right)),
        (left, right) => right.cmp(&left),
    }
}

fn two_or_three(literals: &[Option<&Value>]) -> Result<(), String> {
    match literals.len() {
        2 | 3 => Ok(()),
        found => Err(format!("Expect two or three arguments but found {found}.")),
    }
}

fn array_join(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    let members = first(args)?;
    let delimiter = args[1].as_text().ok_or_else(|| domain("second argument should be string"))?;
    let replacement = match &args[2] {
        Value::Absent => "",
        value => value.as_text().ok_or_else(|| domain("third argument should be string"))?,
    };
    let mut joined = Limited::new(LARGEST_TEXT);
    let mut between = "";
    for member in members.iter().filter(|member| !member.is_null() || !replacement.is_empty()) {
        let member = if member.is_null() { replacement.into() } else { text(member) };
        joined.push(between).and_then(|()| joined.push(&member)).map_err(too_large)?;
        between = delimiter;
    }
    Ok(joined.into_text().into())
}

/// The function to apply to the elements, or why it cannot be used.
type Mapping = Result<(&'static Function, Option<PreparedFn>), FunctionError>;

/// A function that the rule names literally is looked up once. An unknown name is an error of each message, as it is if
/// the name comes from a field.
fn array_map(literals: &[Option<&Value>]) -> Result<PreparedFn, FunctionError> {
    let written: Option<Mapping> = literals.first().copied().flatten().map(mapping);
    Ok(Box::new(move |args, context| {
        let found;
        let mapping = match &written {
            Some(mapping) => mapping,
            None => {
                found = mapping(&args[0]);
                &found
            }
        };
        let (function, prepared) = mapping.as_ref().map_err(FunctionError::clone)?;
        let members = members(&args[1], "second argument should be array of interface{}")?;
        let mut answers = Vec::with_capacity(members.len());
        for member in members {
            let member = Args(smallvec::smallvec![std::borrow::Cow::Borrowed(member)]);
            let answer = match (function.answer_for_null(&member), prepared, function.code) {
                (Some(answer), _, _) => answer,
                (None, Some(prepared), _) => prepared(&member, context)?,
                (None, None, Code::Scalar(code)) => code(&member, context)?,
                (None, None, _) => return Err(not_scalar()),
            };
            answers.push(answer);
        }
        Ok(Value::array(answers))
    }))
}

fn mapping(name: &Value) -> Mapping {
    let name = name.as_text().ok_or_else(|| domain("first argument should be string"))?;
    let function = lookup(name).ok_or_else(|| domain(format!("unknown built-in function: {name}.")))?;
    let prepare = match function.code {
        Code::Scalar(_) => None,
        Code::Prepared(prepare) => Some(prepare),
        _ => return Err(not_scalar()),
    };
    if check_call(function, &[None], &[None]).is_err() {
        return Err(domain(format!("validate {name} arguments failed")));
    }
    Ok((function, prepare.map(|prepare| prepare(&[None])).transpose()?))
}

fn not_scalar() -> FunctionError {
    domain("first argument should be a scalar function.")
}

fn element_at(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    match &args[0] {
        Value::Array(members) => {
            let index = int(&args[1])?;
            let length = members.len();
            let place = if index < 0 { length.checked_add_signed(index as isize) } else { usize::try_from(index).ok() };
            let member = place.and_then(|place| members.get(place));
            member.cloned().ok_or_else(|| domain("index out of range"))
        }
        Value::Object(members) => {
            let key = args[1].as_text().ok_or_else(|| domain("second argument should be string"))?;
            Ok(members.get(key).cloned().unwrap_or(Value::Null))
        }
        _ => Err(domain("first argument should be []interface{} or map[string]interface{}")),
    }
}

fn kvpair_array_to_obj(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    let pairs = first(args)?;
    let mut object = Object::with_capacity(pairs.len());
    for pair in pairs {
        let Value::Object(pair) = pair else {
            return Err(domain("array item should be map[string]interface{}"));
        };
        match (pair.get("key"), pair.get("value")) {
            (Some(Value::Text(key)), Some(value)) if pair.len() == 2 => object.insert(key.clone(), value.clone()),
            _ => return Err(domain("array item should be key-value pair")),
        };
    }
    Ok(Value::Object(Arc::new(object)))
}

fn repeat(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    let count = int(&args[1]).map_err(|_| domain("second argument should be int"))?;
    let count = u64::try_from(count).unwrap_or(0);
    // As text: the elements share their memory, but the message that they are sent in does not.
    let size = text(&args[0]).len() as u64;
    if count > LONGEST || count.saturating_mul(size) > LARGEST_TEXT as u64 {
        return Err(domain(format!("{count} times is too often")));
    }
    Ok(Value::array(std::iter::repeat_n(args[0].clone(), count as usize)))
}

fn sequence(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    let start = int(&args[0]).map_err(|_| domain("first argument should be int"))?;
    let stop = int(&args[1]).map_err(|_| domain("second argument should be int"))?;
    let step = match &args[2] {
        Value::Absent if stop < start => -1,
        Value::Absent => 1,
        step => int(step).map_err(|_| domain("third argument should be int"))?,
    };
    if step == 0 {
        return Err(domain("invalid step: should not be zero"));
    }
    if (step > 0) != (stop >= start) && start != stop {
        return Ok(Value::array([]));
    }
    let steps = stop.abs_diff(start) / step.unsigned_abs();
    if steps >= LONGEST {
        return Err(domain(format!("a sequence from {start} to {stop} by {step} is too long")));
    }
    // Every element is between start and stop, so a wrapped intermediate value comes back into range.
    let member = |index: i64| Value::Int(start.wrapping_add(index.wrapping_mul(step)));
    Ok(Value::array((0..=steps as i64).map(member)))
}

#[cfg(test)]
mod tests {
    use super::super::examples::{answer, answer_text};
    use super::*;

    #[test]
    fn nulls_and_empty_arrays() {
        for (name, args, expected) in [
            ("array_distinct", &["[]"][..], "[]"),
            ("array_flatten", &["[]"], "[]"),
            ("array_sort", &["[]"], "[]"),
            ("array_shuffle", &["[]"], "[]"),
            ("array_intersect", &["[]", "[1]"], "[]"),
            ("array_join", &["[]", "\",\""], "\"\""),
            ("array_join", &["[null]", "\",\"", "\"\""], "\"\""),
            ("array_max", &["[]"], ""),
            ("array_max", &["[null]"], ""),
            ("kvpair_array_to_obj", &["[]"], "{}"),
            ("array_cardinality", &["null"], "0"),
            ("array_cardinality", &["[]"], "0"),
            ("cardinality", &["{\"a\":1}"], "0"),
            ("array_contains", &["null", "1"], "false"),
            ("array_contains", &["[null]", "null"], "true"),
            ("array_contains_any", &["[1]", "null"], "false"),
            ("array_position", &["null", "1"], "-1"),
            ("array_position", &["[1,null]", "null"], "1"),
            ("array_remove", &["null", "1"], ""),
            ("array_remove", &["[]", "1"], "[]"),
            ("array_union", &["null", "[1,1]"], "[1]"),
            ("array_union", &["[1]", "[]"], "[1]"),
            ("array_except", &["null", "[1]"], ""),
            ("array_except", &["[1,1,2]", "null"], "[1,2]"),
            ("array_concat", &["null", "[1]"], "[1]"),
            ("array_map", &["\"abs\"", "[]"], "[]"),
            ("array_map", &["\"abs\"", "null"], ""),
            ("repeat", &["null", "2"], ""),
        ] {
            assert_eq!(answer_text(name, args), expected, "{name} {args:?}");
        }
    }

    #[test]
    fn members_are_compared_by_value() {
        for (name, args, expected) in [
            ("array_position", &["[\"1\",1.0,true]", "1"][..], "1"),
            ("array_position", &["[[1],[2]]", "[2]"], "1"),
            ("array_contains", &["[{\"k\":1,\"l\":2}]", "{\"l\":2.0,\"k\":1}"], "true"),
            ("array_union", &["[{\"k\":1}]", "[{\"k\":1}]"], "[{\"k\":1}]"),
            ("array_intersect", &["[[1]]", "[[1]]"], "[[1]]"),
            ("array_distinct", &["[[1],[1],null,null]"], "[[1],[1],null]"),
            ("array_sort", &["[10,9,2.5,100,null,\"x\",-1]"], "[-1,2.5,9,10,100,null,\"x\"]"),
            ("array_max", &["[9007199254740993,9007199254740992.0]"], "9007199254740993"),
        ] {
            assert_eq!(answer_text(name, args), expected, "{name} {args:?}");
        }
    }

    #[test]
    fn a_message_cannot_make_large_texts() {
        let long = Value::from("x".repeat(1 << 20));
        let short = Value::array((0..100).map(Value::Int));
        let error_of = |name, args: &[Value]| answer(name, args).expect_err("too large").to_string();
        let expected = "the answer is larger than 67108864 bytes";
        assert_eq!(error_of("array_join", &[short, long.clone()]), expected);
        let nulls = Value::array((0..100).map(|_| Value::Null));
        assert_eq!(error_of("array_join", &[nulls, Value::from(""), long.clone()]), expected);
        assert_eq!(error_of("repeat", &[Value::array([long]), Value::Int(100)]), "100 times is too often");
    }

    #[test]
    fn errors() {
        for (name, args, expected) in [
            ("array_sort", &["\"x\""][..], "first argument should be array of interface{}"),
            ("array_union", &["[1]", "2"], "second argument should be array of interface{}"),
            ("array_concat", &["[1]", "2"], "array elements should be array"),
            ("array_join", &["[1]", "1"], "second argument should be string"),
            ("array_join", &["[1]", "\",\"", "1"], "third argument should be string"),
            ("array_max", &["[1,\"x\"]"], "requires float64 but found string(x)"),
            ("array_min", &["[true]"], "found invalid arg boolean(true)"),
            ("array_map", &["\"nope\"", "[1]"], "unknown built-in function: nope."),
            ("array_map", &["\"sum\"", "[1]"], "first argument should be a scalar function."),
            ("array_map", &["\"power\"", "[1]"], "validate power arguments failed"),
            ("element_at", &["[1]", "-2"], "index out of range"),
            ("element_at", &["[1]", "-9223372036854775808"], "index out of range"),
            ("element_at", &["{\"0\":1}", "0"], "second argument should be string"),
            ("element_at", &["\"xyz\"", "0"], "first argument should be []interface{} or map[string]interface{}"),
            ("kvpair_array_to_obj", &["[1]"], "array item should be map[string]interface{}"),
            ("kvpair_array_to_obj", &["[{\"key\":1,\"value\":1}]"], "array item should be key-value pair"),
            ("kvpair_array_to_obj", &["[{\"key\":\"a\",\"value\":1,\"x\":1}]"], "array item should be key-value pair"),
            ("repeat", &["1", "1.5"], "second argument should be int"),
            ("repeat", &["1", "1e12"], "1000000000000 times is too often"),
            ("sequence", &["1", "2", "0"], "invalid step: should not be zero"),
        ] {
            assert_eq!(answer_text(name, args), expected, "{name} {args:?}");
        }
        assert!(answer_text("sequence", &["-9223372036854775808", "9223372036854775807"]).ends_with("is too long"));
        let ends = ["-9223372036854775808", "9223372036854775807", "9223372036854775807"];
        assert_eq!(answer_text("sequence", &ends), "[-9223372036854775808,-1,9223372036854775806]");
    }
}
