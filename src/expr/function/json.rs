//! Functions of JSON text, and of paths into values.

use std::borrow::Cow;

use super::json_path::{Found, Path};
use super::{
    Args, CallContext, Code, Family, Function, FunctionError, FunctionResult, LARGEST_TEXT, Nulls, Param, PreparedFn,
    Returns, domain, too_large,
};
use crate::text::limited::TooLarge;
use crate::value::cast::{described, text};
use crate::value::json;
use crate::value::{Kind, Value};

const fn of(name: &'static str, params: &'static [(&'static str, Param)], returns: Returns, code: Code) -> Function {
    Function::new(name, Family::Json, params, returns, code).nulls(Nulls::Own)
}

const DATA_PATH: &[(&str, Param)] = &[("data", Param::Any), ("path", Param::TextLiteral)];

pub(super) static FUNCTIONS: &[Function] = &[
    of("json_path_exists", DATA_PATH, Returns::Bool, Code::Prepared(|literals| prepared(literals, exists))).doc(
        "Whether the path finds something in an object, array or JSON text, even a null. Other values give false.",
        &[
            ("json_path_exists(\"{\\\"a\\\":null}\", \"$.a\")", "true"),
            ("json_path_exists(\"{\\\"a\\\":null}\", \"$.b\")", "false"),
        ],
    ),
    of("json_path_query", DATA_PATH, Returns::Any, Code::Prepared(|literals| prepared(literals, query))).doc(
        "Evaluates a path in an object, array or JSON text: a path of only names and indexes gives one value, any \
         other path an array. A missing value is an error. A path consists of `.name`, `[\"name\"]`, `[n]`, \
         `[from:to:step]`, `[a, b]`, `[*]`, `..` and `[?(@.price > 10 && @.kind == \"x\")]`, whose conditions \
         calculate with `+ - * / %`, match with `=~ \"pattern\"` and search lists with `in [1, 2]`.",
        &[
            ("json_path_query(\"{\\\"a\\\":[1,2,3]}\", \"$.a[-1]\")", "3"),
            ("json_path_query(\"{\\\"a\\\":[1,2,3]}\", \"$.a[?(@ > 1)]\")", "[2,3]"),
        ],
    ),
    of("json_path_query_first", DATA_PATH, Returns::Any, Code::Prepared(|literals| prepared(literals, query_first)))
        .doc(
            "The first value that `json_path_query` finds, or the first element if it finds an array; no value if it \
             finds nothing.",
            &[
                ("json_path_query_first(\"{\\\"a\\\":[1,2,3]}\", \"$.a[?(@ > 1)]\")", "2"),
                ("json_path_query_first(\"{\\\"a\\\":[1,2,3]}\", \"$.a[?(@ > 5)]\")", ""),
            ],
        ),
    of("parse_json", &[("text", Param::Text)], Returns::Any, Code::Scalar(parse_json)).doc(
        "The value of a JSON text. Whole numbers of 64 bits are exact.",
        &[
            ("parse_json(\"{\\\"a\\\":[1,null]}\")", "{\"a\":[1,null]}"),
            ("parse_json(\"9007199254740993\")", "9007199254740993"),
            ("parse_json(\"null\")", ""),
        ],
    ),
    of("to_json", &[("value", Param::Any)], Returns::Text, Code::Scalar(to_json)).doc(
        "The JSON text of a value, without blanks and with sorted keys.",
        &[
            ("to_json(parse_json(\"{\\\"b\\\":1,\\\"a\\\":[]}\"))", "\"{\\\"a\\\":[],\\\"b\\\":1}\""),
            ("to_json(\"<é>\")", "\"\\\"<é>\\\"\""),
            ("to_json(null)", ""),
        ],
    ),
];

/// A path that is a literal is parsed once; an invalid path is an error of each message.
fn prepared(
    literals: &[Option<&Value>],
    run: fn(&Value, Result<&Path, FunctionError>) -> FunctionResult,
) -> Result<PreparedFn, FunctionError> {
    let written = literals.get(1).copied().flatten().map(path);
    Ok(Box::new(move |args, _| match &written {
        Some(path) => run(&args[0], path.as_ref().map_err(FunctionError::clone)),
        None => {
            let path = path(&args[1]);
            run(&args[0], path.as_ref().map_err(FunctionError::clone))
        }
    }))
}

fn path(written: &Value) -> Result<Path, FunctionError> {
    let text = written.as_text().ok_or_else(|| domain(format!("invalid jsonPath {}", text(written))))?;
    Path::parse(text).map_err(|error| domain(error.to_string()))
}

/// The value that is searched: an object, an array, or the JSON in a text.
fn data(value: &Value) -> Result<Cow<'_, Value>, FunctionError> {
    let data = match value {
        Value::Absent | Value::Null => return Err(domain("invalid data nil for jsonpath")),
        Value::Text(text) => {
            return json::parse(text)
                .map(Cow::Owned)
                .map_err(|error| domain(format!("data '{}' is not a valid json string: {error}", described(value))));
        }
        other => Cow::Borrowed(other),
    };
    match data.kind() {
        Kind::Array | Kind::Object => Ok(data),
        _ => Err(domain(format!("invalid data {} for jsonpath", described(value)))),
    }
}

fn query(value: &Value, path: Result<&Path, FunctionError>) -> FunctionResult {
    match path?.find(&*data(value)?).map_err(|missing| domain(missing.to_string()))? {
        Found::One(found) => Ok(found.clone()),
        Found::Many(found) => {
            // With `..` the found values contain each other, so their text can be far larger than the message.
            let mut left = LARGEST_TEXT;
            let bytes = |value: &Value| 1 + value.as_text().map_or(0, str::len);
            if !found.iter().all(|value| value.spend(&mut left, &bytes)) {
                return Err(too_large(TooLarge));
            }
            Ok(Value::array(found.into_iter().cloned()))
        }
    }
}

fn query_first(value: &Value, path: Result<&Path, FunctionError>) -> FunctionResult {
    let first = match path?.find(&*data(value)?).map_err(|missing| domain(missing.to_string()))? {
        Found::One(Value::Array(members)) => members.first().cloned(),
        Found::One(found) => Some(found.clone()),
        Found::Many(found) => found.first().copied().cloned(),
    };
    Ok(first.unwrap_or(Value::Null))
}

fn exists(value: &Value, path: Result<&Path, FunctionError>) -> FunctionResult {
    let (Ok(path), Ok(data)) = (path, data(value)) else { return Ok(Value::Bool(false)) };
    Ok(Value::Bool(match path.find(&data) {
        Ok(Found::One(_)) => true,
        Ok(Found::Many(found)) => !found.is_empty(),
        Err(_) => false,
    }))
}

fn parse_json(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    match &args[0] {
        Value::Absent | Value::Null => Ok(Value::Null),
        Value::Text(text) => json::parse(text).map_err(|error| domain(format!("fail to parse json: {error}"))),
        other => Err(domain(format!("fail to convert {} to string", text(other)))),
    }
}

fn to_json(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    if args[0].is_null() {
        return Ok(Value::Null);
    }
    let mut written = Vec::new();
    json::write_value(&mut written, &sorted(&args[0])).map_err(|error| domain(error.to_string()))?;
    Ok(String::from_utf8_lossy(&written).into_owned().into())
}

/// The value with the keys of its objects sorted.
fn sorted(value: &Value) -> Cow<'_, Value> {
    match value {
        Value::Array(members) => Cow::Owned(Value::array(members.iter().map(|member| sorted(member).into_owned()))),
        Value::Object(members) => {
            let mut members: Vec<_> =
                members.iter().map(|(key, value)| (key.clone(), sorted(value).into_owned())).collect();
            members.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            Cow::Owned(Value::object(members))
        }
        other => Cow::Borrowed(other),
    }
}

#[cfg(test)]
mod tests {
    use super::super::examples::{answer, json as shown};
    use super::*;

    #[test]
    fn values_that_contain_each_other_have_a_limit() {
        let nested = (0..100).fold(Value::from("x".repeat(1 << 20)), |within, _| Value::array([within]));
        let found = answer("json_path_query", &[nested.clone(), Value::from("$..*")]).expect_err("too large");
        assert_eq!(found.to_string(), "the answer is larger than 67108864 bytes");
        let exists = answer("json_path_exists", &[nested, Value::from("$..*")]);
        assert_eq!(shown(&exists).as_deref(), Some("true"));
    }

    #[test]
    fn answers_and_errors() {
        let data = json::parse(r#"{"x":1,"list":[7,8],"empty":[],"nul":null}"#).expect("JSON");
        let (text, number) = (Value::from("hello"), Value::Int(5));
        for (name, data, path, expected) in [
            ("json_path_query", &data, "$.x", "1"),
            ("json_path_query", &data, "$.nul", ""),
            ("json_path_query", &data, "$.none", "unknown key none"),
            ("json_path_query", &data, "$.[", "invalid JSON path: expect a name or * at byte 2"),
            ("json_path_query", &Value::Null, "$.x", "invalid data nil for jsonpath"),
            ("json_path_query", &number, "$", "invalid data bigint(5) for jsonpath"),
            ("json_path_query", &Value::from("[1,2]"), "$[1]", "2"),
            ("json_path_query", &Value::from("5"), "$", "5"),
            ("json_path_query", &Value::from("\"x\""), "$", "\"x\""),
            ("json_path_query", &Value::from("5"), "$.x", "unknown key x"),
            ("json_path_exists", &Value::from("5"), "$.x", "false"),
            ("json_path_query_first", &data, "$.x", "1"),
            ("json_path_query_first", &data, "$.list", "7"),
            ("json_path_query_first", &data, "$.list[*]", "7"),
            ("json_path_query_first", &data, "$.empty", ""),
            ("json_path_query_first", &data, "$.list[?(@ > 9)]", ""),
            ("json_path_exists", &data, "$.nul", "true"),
            ("json_path_exists", &data, "$.empty", "true"),
            ("json_path_exists", &data, "$.list[?(@ > 9)]", "false"),
            ("json_path_exists", &data, "$.[", "false"),
            ("json_path_exists", &Value::Null, "$.x", "false"),
            ("json_path_exists", &number, "$", "false"),
            ("json_path_exists", &text, "$.x", "false"),
        ] {
            let answer = answer(name, &[data.clone(), Value::from(path)]);
            let found = shown(&answer).unwrap_or_else(|| answer.expect_err("no JSON").to_string());
            assert_eq!(found, expected, "{name} {path}");
        }
        let refused = answer("json_path_query", &[text, Value::from("$")]).map_err(|error| error.to_string());
        assert!(refused.is_err_and(|error| error.contains("is not a valid json string")));
        assert!(answer("parse_json", &[Value::from("1 2")]).is_err());
        assert_eq!(answer("parse_json", &[number]).err(), Some(domain("fail to convert 5 to string")));
        assert!(answer("to_json", &[Value::array([Value::Float(f64::NAN)])]).is_err());
    }
}
