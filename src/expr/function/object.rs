//! Functions of objects: keys and members, and making objects from others. Keys keep their order.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Args, CallContext, Code, Family, Function, FunctionError, FunctionResult, Nulls, Param, Returns, domain};
use crate::value::cast::text;
use crate::value::{Object, Text, Value};

const NO_OBJECT: &str = "the argument should be map[string]interface{}";
const FIRST_NO_OBJECT: &str = "first argument should be map[string]interface{}";
const NO_KEYS: &str = "the argument should be slice or string";

const fn of(
    name: &'static str,
    params: &'static [(&'static str, Param)],
    returns: Returns,
    code: super::ScalarFn,
) -> Function {
    Function::new(name, Family::Object, params, returns, Code::Scalar(code))
}

const OBJECT: &[(&str, Param)] = &[("object", Param::Object)];
const WITH_KEYS: &[(&str, Param)] = &[("object", Param::Object), ("keys", Param::Any)];

pub(super) static FUNCTIONS: &[Function] = &[
    of("erase", WITH_KEYS, Returns::Object, |args, _| {
        if args[0].is_null() || args[1].is_null() {
            return Ok(Value::Null);
        }
        let object = object(&args[0], FIRST_NO_OBJECT)?;
        // Elements that are not text are converted to text.
        let unwanted: Vec<Cow<'_, str>> = match &args[1] {
            Value::Array(members) => members.iter().map(text).collect(),
            Value::Text(key) => vec![Cow::Borrowed(key.as_str())],
            _ => return Err(domain(NO_KEYS)),
        };
        let kept = object.iter().filter(|(key, _)| !unwanted.iter().any(|unwanted| *unwanted == key.as_str()));
        Ok(Value::object(kept.map(|(key, value)| (key.clone(), value.clone()))))
    })
    .nulls(Nulls::Own)
    .check(two_at_least)
    .doc(
        "The object without a key, or without the keys in an array.",
        &[
            ("erase(object_construct(\"a\", 1, \"b\", 2), \"a\")", "{\"b\":2}"),
            ("erase(object_construct(\"a\", 1, \"b\", 2), array_create(\"a\", \"b\"))", "{}"),
        ],
    ),
    of("items", OBJECT, Returns::Array, |args, _| {
        let pair = |(key, value): (&Text, &Value)| Value::array([Value::Text(key.clone()), value.clone()]);
        Ok(Value::array(object(&args[0], FIRST_NO_OBJECT)?.iter().map(pair)))
    })
    .doc("An array of `[key, value]`, one for each member.", &[("items(object_construct(\"a\", 1))", "[[\"a\",1]]")]),
    of("keys", OBJECT, Returns::Array, |args, _| {
        Ok(Value::array(object(&args[0], NO_OBJECT)?.keys().cloned().map(Value::Text)))
    })
    .doc(
        "The keys.",
        &[("keys(object_construct(\"a\", 1, \"b\", 2))", "[\"a\",\"b\"]"), ("keys(parse_json(\"{}\"))", "[]")],
    ),
    of("obj_to_kvpair_array", OBJECT, Returns::Array, |args, _| {
        let pair = |(key, value): (&Text, &Value)| {
            Value::object([("key".into(), Value::Text(key.clone())), ("value".into(), value.clone())])
        };
        Ok(Value::array(object(&args[0], NO_OBJECT)?.iter().map(pair)))
    })
    .doc(
        "An array of `{\"key\": …, \"value\": …}`, one for each member.",
        &[("obj_to_kvpair_array(object_construct(\"a\", 1))", "[{\"key\":\"a\",\"value\":1}]")],
    ),
    of("object", &[("keys", Param::Array), ("values", Param::Array)], Returns::Object, of_lists).doc(
        "Makes an object from an array of keys and an array of values of the same length; the last of duplicate keys \
         counts.",
        &[("object(array_create(\"a\", \"b\"), array_create(1, 2))", "{\"a\":1,\"b\":2}")],
    ),
    of("object_concat", &[("object", Param::Object), ("object", Param::Object)], Returns::Object, |args, _| {
        let mut joined = Object::new();
        for arg in args.iter().filter(|arg| !arg.is_null()) {
            let Value::Object(members) = arg else {
                return Err(domain(format!("{NO_OBJECT}, got {}", text(arg))));
            };
            joined.extend(members.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        Ok(Value::Object(Arc::new(joined)))
    })
    .variadic()
    .nulls(Nulls::Own)
    .doc(
        "One object with the members of all; the last of duplicate keys counts, and nested objects are not merged. \
         Null counts as an empty object.",
        &[("object_concat(object_construct(\"a\", 1, \"b\", 1), object_construct(\"b\", 2))", "{\"a\":1,\"b\":2}")],
    ),
    of("object_construct", &[("key", Param::Any)], Returns::Object, object_construct)
        .required(0)
        .variadic()
        .nulls(Nulls::Own)
        .check(in_pairs)
        .doc(
            "Makes an object from alternating keys and values. A pair with a null key is left out, a null value is \
             kept; the last of duplicate keys counts.",
            &[("object_construct(\"a\", 1, \"b\", null)", "{\"a\":1,\"b\":null}"), ("object_construct()", "{}")],
        ),
    of("object_pick", WITH_KEYS, Returns::Object, |args, _| {
        if args[0].is_null() {
            return Ok(Value::Null);
        }
        let object = object(&args[0], FIRST_NO_OBJECT)?;
        let mut picked = Object::new();
        for arg in args.iter().skip(1) {
            let arg: &Value = arg;
            let members = match arg {
                Value::Array(members) => members.as_slice(),
                one => std::slice::from_ref(one),
            };
            for member in members {
                // Only text can be a key.
                if let Value::Text(key) = member {
                    pick(object, key, &mut picked);
                }
            }
        }
        Ok(Value::Object(Arc::new(picked)))
    })
    .variadic()
    .nulls(Nulls::Own)
    .doc(
        "The object with only these keys, which are texts or arrays of texts. `a.b` picks the member b of a and keeps \
         it inside a. Missing keys are left out.",
        &[
            ("object_pick(object_construct(\"a\", 1, \"b\", 2), \"a\", \"c\")", "{\"a\":1}"),
            (
                "object_pick(parse_json(\"{\\\"p\\\":{\\\"q\\\":1,\\\"r\\\":2,\\\"s\\\":3}}\"), \"p.q\", \"p.r\")",
                "{\"p\":{\"q\":1,\"r\":2}}",
            ),
        ],
    ),
    of("object_size", OBJECT, Returns::Int, |args, _| Ok(Value::Int(object(&args[0], NO_OBJECT)?.len() as i64)))
        .nulls(Nulls::Zero)
        .doc("The number of members; 0 for null.", &[("object_size(object_construct(\"a\", null))", "1")]),
    of("values", OBJECT, Returns::Array, |args, _| {
        Ok(Value::array(object(&args[0], FIRST_NO_OBJECT)?.values().cloned()))
    })
    .doc("The values.", &[("values(object_construct(\"a\", 1, \"b\", \"x\"))", "[1,\"x\"]")]),
    of("zip", &[("pairs", Param::Array)], Returns::Object, zip).doc(
        "Makes an object from an array of `[key, value]`; the last of duplicate keys counts, nulls in the array are \
         ignored.",
        &[("zip(array_create(array_create(\"a\", 1), array_create(\"b\", 2)))", "{\"a\":1,\"b\":2}")],
    ),
];

fn object<'a>(value: &'a Value, otherwise: &'static str) -> Result<&'a Object, FunctionError> {
    match value {
        Value::Object(members) => Ok(members),
        _ => Err(domain(otherwise)),
    }
}

fn two_at_least(literals: &[Option<&Value>]) -> Result<(), String> {
    match literals.len() {
        found @ (0 | 1) => Err(format!("At least has 2 argument but found {found}.")),
        _ => Ok(()),
    }
}

fn in_pairs(literals: &[Option<&Value>]) -> Result<(), String> {
    if !literals.len().is_multiple_of(2) {
        return Err("the args must be key value pairs".to_owned());
    }
    let wrong = |literal: &Option<&Value>| matches!(literal, Some(Value::Int(_) | Value::Float(_) | Value::Bool(_)));
    match literals.iter().step_by(2).position(wrong) {
        Some(pair) => Err(format!("Expect string type for parameter {}", 2 * pair + 1)),
        None => Ok(()),
    }
}

fn object_construct(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    let mut object = Object::with_capacity(args.len() / 2);
    for at in (0..args.len()).step_by(2) {
        match &args[at] {
            Value::Absent | Value::Null => {}
            Value::Text(key) => {
                // A missing key is null here, because the rule names it.
                let value = if args[at + 1].is_null() { Value::Null } else { args[at + 1].clone() };
                object.insert(key.clone(), value);
            }
            other => return Err(domain(format!("key {} is not a string", text(other)))),
        }
    }
    Ok(Value::Object(Arc::new(object)))
}

fn of_lists(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    let Value::Array(keys) = &args[0] else { return Err(domain("first argument should be []string")) };
    let Value::Array(values) = &args[1] else { return Err(domain("second argument should be []interface{}")) };
    if keys.len() != values.len() {
        return Err(domain("the length of the arguments should be same"));
    }
    let mut object = Object::with_capacity(keys.len());
    for (key, value) in keys.iter().zip(values.iter()) {
        let Value::Text(key) = key else { return Err(domain("first argument should be []string")) };
        object.insert(key.clone(), value.clone());
    }
    Ok(Value::Object(Arc::new(object)))
}

fn zip(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    const NO_PAIRS: &str = "each argument should be [][2]interface{}";
    let Value::Array(pairs) = &args[0] else { return Err(domain(NO_PAIRS)) };
    let mut object = Object::with_capacity(pairs.len());
    for pair in pairs.iter().filter(|pair| !pair.is_null()) {
        let Value::Array(pair) = pair else { return Err(domain(NO_PAIRS)) };
        match pair.as_slice() {
            [Value::Text(key), value] => object.insert(key.clone(), value.clone()),
            [_, _] => return Err(domain("the first element in the list item should be string")),
            _ => return Err(domain(NO_PAIRS)),
        };
    }
    Ok(Value::Object(Arc::new(object)))
}

/// Copies the member at a path of keys, separated by dots, to the same path of `picked`.
fn pick(object: &Object, path: &str, picked: &mut Object) {
    let mut found = object;
    let mut parents = path.split('.');
    let last = parents.next_back().unwrap_or_default();
    for key in parents.clone() {
        match found.get(key) {
            Some(Value::Object(inner)) => found = inner,
            _ => return,
        }
    }
    let Some(value) = found.get(last) else { return };
    let mut place = picked;
    for key in parents {
        let inner = place.entry(key.into()).or_insert_with(|| Value::object([]));
        match inner {
            Value::Object(inner) => place = Arc::make_mut(inner),
            // Values picked earlier at this path are objects, like `found`.
            _ => return,
        }
    }
    place.insert(last.into(), value.clone());
}

#[cfg(test)]
mod tests {
    use super::super::check_call;
    use super::super::examples::answer_text;
    use super::super::lookup;
    use super::*;

    #[test]
    fn answers_and_errors() {
        for (name, args, expected) in [
            ("keys", &["null"][..], ""),
            ("values", &["{}"], "[]"),
            ("items", &["{}"], "[]"),
            ("obj_to_kvpair_array", &["{}"], "[]"),
            ("keys", &["[1]"], NO_OBJECT),
            ("items", &["[1]"], FIRST_NO_OBJECT),
            ("object_size", &["{}"], "0"),
            ("object_size", &["null"], "0"),
            ("object_size", &["[1]"], NO_OBJECT),
            ("erase", &["{\"a\":1}", "\"a\""], "{}"),
            ("erase", &["{\"a\":1}", "[]"], "{\"a\":1}"),
            ("erase", &["null", "\"a\""], ""),
            ("erase", &["{\"a\":1}", "5"], NO_KEYS),
            ("erase", &["{\"1\":1,\"b\":2}", "[1,null,true]"], "{\"b\":2}"),
            ("object_concat", &["null", "null"], "{}"),
            ("object_concat", &["{\"x\":{\"p\":1}}", "{\"x\":{\"q\":2}}"], "{\"x\":{\"q\":2}}"),
            ("object_concat", &["{}", "5"], "the argument should be map[string]interface{}, got 5"),
            ("object_construct", &["null", "1", "\"a\"", "2"], "{\"a\":2}"),
            ("object_construct", &["5", "1"], "key 5 is not a string"),
            ("object", &["[\"a\"]", "[1,2]"], "the length of the arguments should be same"),
            ("object", &["[1]", "[1]"], "first argument should be []string"),
            ("object", &["\"a\"", "[1]"], "first argument should be []string"),
            ("object", &["[\"a\"]", "1"], "second argument should be []interface{}"),
            ("zip", &["[null,[\"a\",null]]"], "{\"a\":null}"),
            ("zip", &["[[\"a\",1,2]]"], "each argument should be [][2]interface{}"),
            ("zip", &["[[1,1]]"], "the first element in the list item should be string"),
            ("object_pick", &["{\"a\":{\"b\":1,\"c\":2},\"d\":3}", "[\"a.b\",\"d\"]"], "{\"a\":{\"b\":1},\"d\":3}"),
            ("object_pick", &["{\"a\":{\"b\":1,\"c\":2}}", "\"a\"", "\"a.b\""], "{\"a\":{\"b\":1,\"c\":2}}"),
            ("object_pick", &["{\"a\":1}", "\"a.b\"", "\"\"", "\".\""], "{}"),
            ("object_pick", &["null", "\"a\""], ""),
            ("object_pick", &["{\"1\":1,\"b\":2}", "[1,null,\"b\"]", "1"], "{\"b\":2}"),
            ("object_pick", &["{\"1\":1}", "1"], "{}"),
        ] {
            assert_eq!(answer_text(name, args), expected, "{name} {args:?}");
        }
    }

    #[test]
    fn refusals() {
        let number = Value::Int(5);
        for (name, literals, expected) in [
            ("erase", &[None][..], "At least has 2 argument but found 1."),
            ("erase", &[None, None, None], "Expect 2 arguments but found 3."),
            ("object_pick", &[None], "At least has 2 argument but found 1."),
            ("object_concat", &[None], "At least has 2 argument but found 1."),
            ("object_construct", &[None], "the args must be key value pairs"),
            ("object_construct", &[None, None, Some(&number), None], "Expect string type for parameter 3"),
        ] {
            let checked = check_call(lookup(name).expect("a row"), literals, &vec![None; literals.len()]);
            assert_eq!(checked.map_err(|error| error.to_string()), Err(expected.to_owned()), "{name}");
        }
    }
}
