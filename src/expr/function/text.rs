//! Functions of text.
//!
//! Arguments are converted by [`cast::text`], so that fields with numbers and booleans work as text too. Positions and
//! lengths count characters (code points), never bytes, so no function splits a character. No result is larger than
//! [`LARGEST_TEXT`].

use regex::Regex;

use super::locale::{style, styled};
use super::{
    Args, CallContext, Code, Family, Function, FunctionError, FunctionResult, LARGEST_TEXT, Nulls, Param, PreparedFn,
    Returns, domain, too_large,
};
use crate::text::limited::{Limited, replace_all};
use crate::text::pattern::{Cache, compile};
use crate::value::Value;
use crate::value::cast::{self, float, int, text};

/// The most blanks that padding adds.
const MOST_BLANKS: i64 = 1 << 20;

/// The most decimal places that `format` writes. No float has more than 1074.
const MOST_PLACES: i64 = 1100;

const fn of(name: &'static str, params: &'static [(&'static str, Param)], returns: Returns, code: Code) -> Function {
    Function::new(name, Family::Text, params, returns, code)
}

/// A function of one text that gives a text.
const fn of_text(name: &'static str, code: super::ScalarFn) -> Function {
    of(name, ONE, Returns::Text, Code::Scalar(code))
}

const ONE: &[(&str, Param)] = &[("text", Param::Text)];
const TWO: &[(&str, Param)] = &[("text", Param::Text), ("part", Param::Text)];
const PADDED: &[(&str, Param)] = &[("text", Param::Text), ("count", Param::Int)];
const MATCHED: &[(&str, Param)] = &[("text", Param::Text), ("pattern", Param::Text)];

pub(super) static FUNCTIONS: &[Function] = &[
    of("concat", &[("text", Param::Text)], Returns::Text, Code::Scalar(concat))
        .variadic()
        .nulls(Nulls::Own)
        .check(concat_count)
        .doc(
            "Joins texts. Null counts as empty text; arrays and objects become JSON.",
            &[("concat(\"ab\", \"-\", \"cd\")", "\"ab-cd\""), ("concat(\"a\", null)", "\"a\"")],
        ),
    of("endswith", TWO, Returns::Bool, Code::Scalar(|args, _| Ok(text(&args[0]).ends_with(&*text(&args[1])).into())))
        .nulls(Nulls::False)
        .doc(
            "Whether the text ends with `part`.",
            &[
                ("endswith(\"abc\", \"bc\")", "true"),
                ("endswith(\"abc\", \"\")", "true"),
                ("endswith(null, \"\")", "false"),
            ],
        ),
    of(
        "format",
        &[("number", Param::Number), ("places", Param::IntLiteral), ("locale", Param::TextLiteral)],
        Returns::Text,
        Code::Scalar(format_number),
    )
    .required(2)
    .check(format_places)
    .doc(
        "The number with a fixed number of decimal places; exact halves are rounded to even. A locale of language and \
         country (`en_US`) determines the separators.",
        &[
            ("format(3.14159, 2)", "\"3.14\""),
            ("format(2.5, 0)", "\"2\""),
            ("format(1234567.891, 2, \"en_US\")", "\"1,234,567.89\""),
            ("format(1234567.891, 2, \"de_DE\")", "\"1.234.567,89\""),
            ("format(12345678.9, 1, \"en_IN\")", "\"1,23,45,678.9\""),
        ],
    ),
    of("indexof", TWO, Returns::Int, Code::Scalar(indexof)).nulls(Nulls::Own).doc(
        "The position of the first occurrence of `part`, in characters, from 0; -1 if there is none, and for null.",
        &[("indexof(\"abcabc\", \"bc\")", "1"), ("indexof(\"héllo\", \"l\")", "2"), ("indexof(\"abc\", \"q\")", "-1")],
    ),
    of("length", &[("value", Param::Any)], Returns::Int, Code::Scalar(length)).nulls(Nulls::Zero).doc(
        "The number of characters of a text, of elements of an array, of members of an object, or of bytes of a \
         bytea. Other values are converted to text.",
        &[("length(\"héllo\")", "5"), ("length(12345)", "5"), ("length(null)", "0")],
    ),
    of_text("lower", |args, _| Ok(text(&args[0]).chars().map(lower).collect::<String>().into()))
        .doc("The text in lower case, character by character.", &[("lower(\"aBC\")", "\"abc\"")]),
    of(
        "lpad",
        PADDED,
        Returns::Text,
        Code::Scalar(|args, _| {
            let blanks = blanks(&args[1])?;
            Ok((blanks + &text(&args[0])).into())
        }),
    )
    .doc(
        "The text with this many spaces before it; none for a negative count.",
        &[("lpad(\"x\", 2)", "\"  x\""), ("lpad(\"x\", -1)", "\"x\"")],
    ),
    of_text("ltrim", |args, _| Ok(text(&args[0]).trim_start().into()))
        .doc("The text without white space at its start.", &[("ltrim(\" a \")", "\"a \"")]),
    of(
        "numbytes",
        ONE,
        Returns::Int,
        Code::Scalar(|args, _| match &args[0] {
            Value::Bytes(bytes) => count(bytes.len()),
            value => count(text(value).len()),
        }),
    )
    .nulls(Nulls::Zero)
    .doc("The number of bytes of the text in UTF-8.", &[("numbytes(\"é\")", "2")]),
    of(
        "regexp_matches",
        MATCHED,
        Returns::Bool,
        Code::Prepared(|literals| with_pattern(literals, |regex, args| Ok(regex.is_match(&text(&args[0])).into()))),
    )
    .nulls(Nulls::False)
    .doc(
        "Whether the pattern (RE2 syntax) matches anywhere in the text.",
        &[("regexp_matches(\"abbc\", \"b+\")", "true"), ("regexp_matches(\"abbc\", \"^b\")", "false")],
    ),
    of(
        "regexp_replace",
        &[("text", Param::Text), ("pattern", Param::Text), ("replacement", Param::Text)],
        Returns::Text,
        Code::Prepared(|literals| with_pattern(literals, replace)),
    )
    .doc(
        "The text with every match of the pattern replaced. `$1`, `${1}` and `${name}` in the replacement are the \
         matches of groups, `$$` is a dollar sign.",
        &[
            ("regexp_replace(\"abbabb\", \"b+\", \"X\")", "\"aXaX\""),
            ("regexp_replace(\"k=v\", \"(\\\\w)=(\\\\w)\", \"${2}=$1\")", "\"v=k\""),
            ("regexp_replace(\"ab\", \"\", \"-\")", "\"-a-b-\""),
        ],
    ),
    of(
        "regexp_substr",
        MATCHED,
        Returns::Text,
        Code::Prepared(|literals| {
            with_pattern(literals, |regex, args| {
                Ok(regex.find(&text(&args[0])).map_or("", |found| found.as_str()).into())
            })
        }),
    )
    .aliases(&["regexp_substring"])
    .doc(
        "The pattern's first match in the text, or empty text.",
        &[("regexp_substr(\"ab12cd34\", \"[0-9]+\")", "\"12\""), ("regexp_substring(\"abc\", \"q\")", "\"\"")],
    ),
    of_text("reverse", |args, _| Ok(text(&args[0]).chars().rev().collect::<String>().into()))
        .doc("The text with its characters in reverse order.", &[("reverse(\"abc\")", "\"cba\"")]),
    of(
        "rpad",
        PADDED,
        Returns::Text,
        Code::Scalar(|args, _| {
            let blanks = blanks(&args[1])?;
            Ok((text(&args[0]).into_owned() + &blanks).into())
        }),
    )
    .doc("The text with this many spaces after it; none for a negative count.", &[("rpad(\"x\", 2)", "\"x  \"")]),
    of_text("rtrim", |args, _| Ok(text(&args[0]).trim_end().into()))
        .doc("The text without white space at its end.", &[("rtrim(\" a \")", "\" a\"")]),
    of(
        "split_value",
        &[("text", Param::Text), ("separator", Param::Text), ("index", Param::Int)],
        Returns::Text,
        Code::Scalar(split_value),
    )
    .check(split_value_count)
    .doc(
        "Splits the text by the separator and returns the part at an index, from 0; negative indexes count from the \
         end. An empty separator splits into characters. An index without a part is an error.",
        &[
            ("split_value(\"/dev/one\", \"/\", 1)", "\"dev\""),
            ("split_value(\"x/y/z\", \"/\", -1)", "\"z\""),
            ("split_value(\"abc\", \"\", 1)", "\"b\""),
        ],
    ),
    of(
        "startswith",
        TWO,
        Returns::Bool,
        Code::Scalar(|args, _| Ok(text(&args[0]).starts_with(&*text(&args[1])).into())),
    )
    .nulls(Nulls::False)
    .doc(
        "Whether the text starts with `part`.",
        &[("startswith(\"abc\", \"ab\")", "true"), ("startswith(\"abc\", \"b\")", "false")],
    ),
    of(
        "substring",
        &[("text", Param::Text), ("start", Param::Int), ("end", Param::Int)],
        Returns::Text,
        Code::Scalar(substring),
    )
    .required(2)
    .check(substring_bounds)
    .doc(
        "The characters from `start` (counted from 0) to the end of the text, or to `end` (exclusive). Positions past \
         the end of the text mean its end; negative ones are errors.",
        &[
            ("substring(\"hello\", 2)", "\"llo\""),
            ("substring(\"hello\", 1, 3)", "\"el\""),
            ("substring(\"hello\", 3, 99)", "\"lo\""),
            ("substring(\"é世界\", 0, 2)", "\"é世\""),
        ],
    ),
    of_text("trim", |args, _| Ok(text(&args[0]).trim().into()))
        .doc("The text without white space at its start and end.", &[("trim(\" a b \")", "\"a b\"")]),
    of_text("upper", |args, _| Ok(text(&args[0]).chars().map(upper).collect::<String>().into()))
        .doc("The text in upper case, character by character.", &[("upper(\"aBc\")", "\"ABC\"")]),
];

fn count(count: usize) -> FunctionResult {
    Ok(Value::Int(i64::try_from(count).unwrap_or(i64::MAX)))
}

fn concat_count(literals: &[Option<&Value>]) -> Result<(), String> {
    if literals.is_empty() { Err("The arguments should be at least one.".to_owned()) } else { Ok(()) }
}

fn concat(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    let mut joined = Limited::new(LARGEST_TEXT);
    for arg in args.iter() {
        joined.push(&text(arg)).map_err(too_large)?;
    }
    Ok(joined.into_text().into())
}

fn indexof(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    if args[0].is_null() || args[1].is_null() {
        return Ok(Value::Int(-1));
    }
    let within = text(&args[0]);
    match within.find(&*text(&args[1])) {
        Some(bytes) => count(within[..bytes].chars().count()),
        None => Ok(Value::Int(-1)),
    }
}

fn length(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    match &args[0] {
        Value::Array(members) => count(members.len()),
        Value::Object(members) => count(members.len()),
        Value::Bytes(bytes) => count(bytes.len()),
        value => count(text(value).chars().count()),
    }
}

/// The lower case of a character as one character. Only İ has two, and the first is its letter.
fn lower(c: char) -> char {
    c.to_lowercase().next().unwrap_or(c)
}

/// The upper case of a character as one character, or the character itself if it would need several, as for ß.
fn upper(c: char) -> char {
    match c {
        // Greek letters with iota subscript have title-case letters, which the full mapping does not return.
        '\u{1f80}'..='\u{1f87}' | '\u{1f90}'..='\u{1f97}' | '\u{1fa0}'..='\u{1fa7}' => {
            char::from_u32(u32::from(c) + 8).unwrap_or(c)
        }
        'ᾳ' => 'ᾼ',
        'ῃ' => 'ῌ',
        'ῳ' => 'ῼ',
        c => {
            let mut upper = c.to_uppercase();
            match (upper.next(), upper.next()) {
                (Some(one), None) => one,
                _ => c,
            }
        }
    }
}

/// The blanks for padding. Their number comes from the message, so it is limited.
fn blanks(wanted: &Value) -> Result<String, FunctionError> {
    let wanted = int(wanted)?;
    if wanted > MOST_BLANKS {
        return Err(domain(format!("the count of blanks must be at most {MOST_BLANKS}, but it is {wanted}")));
    }
    Ok(" ".repeat(usize::try_from(wanted).unwrap_or(0)))
}

/// Code for the pattern at index 1: a literal is compiled once, another is looked up for each message.
fn with_pattern(
    literals: &[Option<&Value>],
    code: fn(&Regex, &Args<'_>) -> FunctionResult,
) -> Result<PreparedFn, FunctionError> {
    match literals.get(1).copied().flatten() {
        Some(pattern) if !pattern.is_null() => {
            let regex = compile(&text(pattern)).map_err(bad_pattern)?;
            Ok(Box::new(move |args, _| code(&regex, args)))
        }
        _ => {
            let cache = Cache::default();
            Ok(Box::new(move |args, _| {
                let regex = cache.compiled(&text(&args[1])).map_err(bad_pattern)?;
                code(&regex, args)
            }))
        }
    }
}

fn bad_pattern(error: regex::Error) -> FunctionError {
    domain(format!("the pattern cannot be used: {error}"))
}

fn replace(regex: &Regex, args: &Args<'_>) -> FunctionResult {
    let replaced = replace_all(regex, &text(&args[0]), &text(&args[2]), LARGEST_TEXT);
    Ok(replaced.map_err(too_large)?.into())
}

fn substring_bounds(literals: &[Option<&Value>]) -> Result<(), String> {
    if !(2..=3).contains(&literals.len()) {
        return Err("the arguments for substring should be 2 or 3".to_owned());
    }
    let literal = |index: usize| match literals.get(index) {
        Some(Some(Value::Int(i))) => Some(*i),
        _ => None,
    };
    let start = literal(1);
    if start.is_some_and(|start| start < 0) {
        return Err("The start index should not be a nagtive integer.".to_owned());
    }
    if literal(2).is_some_and(|end| end < start.unwrap_or(0)) {
        return Err("The end index should be larger than start index.".to_owned());
    }
    Ok(())
}

fn substring(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    let within = text(&args[0]);
    let start = usize::try_from(int(&args[1])?).map_err(|_| domain("start index must be a positive number"))?;
    let from = byte_at(&within, start);
    if args.len() < 3 {
        return Ok(within[from..].into());
    }
    let end = usize::try_from(int(&args[2])?).map_err(|_| domain("end index must be a positive number"))?;
    let wanted = end.checked_sub(start).ok_or_else(|| domain("start index must be smaller than end index"))?;
    let rest = &within[from..];
    Ok(rest[..byte_at(rest, wanted)].into())
}

/// The position of the character at this index, or the end of the text.
fn byte_at(text: &str, index: usize) -> usize {
    text.char_indices().nth(index).map_or(text.len(), |(byte, _)| byte)
}

fn split_value_count(literals: &[Option<&Value>]) -> Result<(), String> {
    if literals.len() == 3 { Ok(()) } else { Err("the arguments for split_value should be 3".to_owned()) }
}

fn split_value(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    let (within, separator, index) = (text(&args[0]), text(&args[1]), int(&args[2])?);
    let part = if separator.is_empty() {
        let first = |index: usize| within[index..].chars().next().map_or(0, char::len_utf8);
        let characters = within.char_indices().map(|(at, _)| &within[at..at + first(at)]);
        nth(characters, index)
    } else {
        nth(within.split(&*separator), index)
    };
    part.map(Value::from).map_err(|size| domain(format!("{index} out of index array (size = {size})")))
}

/// The part at an index, from the end if negative; or else the number of parts.
fn nth<'a>(mut parts: impl Iterator<Item = &'a str> + Clone, index: i64) -> Result<&'a str, usize> {
    let all = parts.clone();
    let position = match usize::try_from(index) {
        Ok(position) => Some(position),
        Err(_) => {
            let back = usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX);
            all.clone().count().checked_sub(back)
        }
    };
    position.and_then(|position| parts.nth(position)).ok_or_else(|| all.count())
}

fn format_places(literals: &[Option<&Value>]) -> Result<(), String> {
    match literals.get(1) {
        Some(Some(Value::Int(places))) if !(0..=MOST_PLACES).contains(places) => {
            Err(format!("Expect 0 to {MOST_PLACES} decimal places but found {places}."))
        }
        _ => Ok(()),
    }
}

fn format_number(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    let places = int(&args[1])?;
    if !(0..=MOST_PLACES).contains(&places) {
        return Err(domain(format!("the decimal places must be from 0 to {MOST_PLACES}, but are {places}")));
    }
    let places = usize::try_from(places).unwrap_or(0);
    let number = match &args[0] {
        Value::Int(i) if places == 0 => i.to_string(),
        Value::Int(i) => format!("{i}.{:0places$}", 0),
        number => match float(number)? {
            f if f.is_finite() => format!("{f:.places$}"),
            f => cast::float_text(f),
        },
    };
    if args.len() < 3 {
        return Ok(number.into());
    }
    let locale = text(&args[2]);
    match style(&locale) {
        Some(style) => Ok(styled(&number, style).into()),
        None => Err(domain(format!("not support for the specific locale:{locale}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check_call;
    use super::super::examples::{answer, gives};
    use super::super::lookup;
    use super::*;

    #[test]
    fn any_value_is_text() {
        gives("concat", &["n=".into(), 12.into(), true.into(), 1234567.0.into()], "\"n=12true1234567\"");
        gives("concat", &[Value::array([1.into(), "x".into()]), "".into()], r#""[1,\"x\"]""#);
        gives("length", &[1234567.0.into()], "7");
        gives("length", &[b"hi".to_vec().into()], "2");
        gives("length", &[Value::array([])], "0");
        gives("reverse", &[123.into()], "\"321\"");
        gives("lower", &[15.into()], "\"15\"");
        gives("upper", &[true.into()], "\"TRUE\"");
    }

    #[test]
    fn case_is_mapped_character_by_character() {
        gives("upper", &["straße".into()], "\"STRAßE\"");
        gives("lower", &["ΟΔΟΣ".into()], "\"οδοσ\"");
        gives("lower", &["İ".into()], "\"i\"");
        gives("upper", &["ᾳᾀ".into()], "\"ᾼᾈ\"");
    }

    #[test]
    fn positions_count_characters() {
        gives("indexof", &["世界".into(), "界".into()], "1");
        gives("indexof", &["".into(), "".into()], "0");
        gives("indexof", &[Value::Null, "x".into()], "-1");
        gives("substring", &["héllo".into(), 1.into(), 3.into()], "\"él\"");
        gives("substring", &["".into(), 0.into(), 99.into()], "\"\"");
        gives("split_value", &["é世🙂".into(), "".into(), 1.into()], "\"世\"");
        gives("split_value", &["é世🙂".into(), "".into(), Value::Int(-1)], "\"🙂\"");
        gives("split_value", &["x/y".into(), "/".into(), Value::Int(-2)], "\"x\"");
    }

    #[test]
    fn patterns_from_fields() {
        gives("regexp_matches", &["device-7".into(), r"^device-\d$".into()], "true");
        gives("regexp_matches", &["x".into(), Value::Null], "false");
        gives("regexp_replace", &["abc".into(), "(?P<l>b)".into(), "<${l}$$>".into()], "\"a<b$>c\"");
        gives("regexp_replace", &["abc".into(), "b*".into(), "-".into()], "\"-a-c-\"");
    }

    #[test]
    fn a_bad_literal_pattern_refuses_the_rule() {
        let pattern = Value::from("a(?=b)");
        let prepared = lookup("regexp_matches").map(|function| match function.code {
            Code::Prepared(prepare) => prepare(&[None, Some(&pattern)]).is_err(),
            _ => false,
        });
        assert_eq!(prepared, Some(true));
    }

    #[test]
    fn formatted_numbers() {
        for (number, places, expected) in [
            (0.5, 0, "0"),
            (1.5, 0, "2"),
            (2.5, 0, "2"),
            (3.5, 0, "4"),
            (-1.25, 1, "-1.2"),
            (1e21, 1, "1000000000000000000000.0"),
        ] {
            gives("format", &[number.into(), Value::Int(places)], &format!("{expected:?}"));
        }
        gives("format", &[Value::Int(9_007_199_254_740_993), 2.into(), "en_US".into()], "\"9,007,199,254,740,993.00\"");
    }

    #[test]
    fn what_has_no_answer_is_an_error() {
        for (name, args) in [
            ("lpad", vec![Value::from("x"), 1.5.into()]),
            ("rpad", vec![Value::from("x"), "2".into()]),
            ("lpad", vec![Value::from("x"), i64::MAX.into()]),
            ("substring", vec![Value::from("hello"), Value::Int(-1)]),
            ("substring", vec![Value::from("hello"), 3.into(), 1.into()]),
            ("split_value", vec![Value::from("x/y"), "/".into(), Value::Int(-3)]),
            ("split_value", vec![Value::from("x/y"), "/".into(), "1".into()]),
            ("split_value", vec![Value::from("x/y"), "/".into(), 0.5.into()]),
            ("split_value", vec![Value::from("x/y"), "/".into(), i64::MIN.into()]),
            ("regexp_matches", vec![Value::from("ab"), "a(?=b)".into()]),
            ("format", vec![Value::from("12.5"), 2.into()]),
            ("format", vec![Value::from(1), 2.into(), "en".into()]),
        ] {
            assert!(answer(name, &args).is_err(), "{name} {args:?}");
        }
        let size = answer("split_value", &["x/y".into(), "/".into(), 2.into()]).map_err(|error| error.to_string());
        assert_eq!(size.err().as_deref(), Some("2 out of index array (size = 2)"));
    }

    #[test]
    fn an_answer_has_a_largest_size() {
        let long = Value::from("x".repeat(1 << 14));
        assert!(answer("regexp_replace", &[long.clone(), "".into(), long]).is_err());
    }

    #[test]
    fn refusals() {
        let refusal = |name: &str, args: &[Option<Value>]| {
            let literals: Vec<_> = args.iter().map(Option::as_ref).collect();
            let function = lookup(name)?;
            check_call(function, &literals, &vec![None; args.len()]).err().map(|error| error.to_string())
        };
        let int = |i: i64| Some(Value::Int(i));
        for (name, args, expected) in [
            ("concat", vec![], Some("The arguments should be at least one.")),
            ("concat", vec![None, int(1)], Some("Expect string type for parameter 2")),
            ("endswith", vec![None], Some("Expect 2 arguments but found 1.")),
            ("lpad", vec![None, Some("2".into())], Some("Expect int type for parameter 2")),
            ("substring", vec![None], Some("the arguments for substring should be 2 or 3")),
            ("substring", vec![None, int(-1)], Some("The start index should not be a nagtive integer.")),
            ("substring", vec![None, int(3), int(1)], Some("The end index should be larger than start index.")),
            ("substring", vec![int(123), int(1)], Some("Expect string type for parameter 1")),
            ("split_value", vec![None, None], Some("the arguments for split_value should be 3")),
            ("split_value", vec![None, None, int(-1)], None),
            ("format", vec![None], Some("At least has 2 argument but found 1.")),
            ("format", vec![None, Some(1.5.into())], Some("Expect integer type for parameter 2")),
            ("regexp_replace", vec![None, None], Some("Expect 3 arguments but found 2.")),
        ] {
            assert_eq!(refusal(name, &args).as_deref(), expected, "{name} {args:?}");
        }
    }
}
