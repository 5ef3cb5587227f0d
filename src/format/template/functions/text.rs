//! sprig's functions of strings, encodings and hashes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::Digest;

use super::{Function, MANY, MAX_TEXT, elements, int, list, made, object, print, size, text};
use crate::format::json;
use crate::text::limited::{Limited, TooLarge, replace_all};
use crate::value::{Text, Value};

pub const FUNCTIONS: &[Function] = &[
    Function::new("toString", (1, 1), |args| made(text(&args[0]))),
    Function::new("trim", (1, 1), |args| made(text(&args[0]).trim())),
    Function::new("trimAll", (2, 2), |args| {
        let set: Vec<char> = text(&args[0]).chars().collect();
        made(text(&args[1]).trim_matches(set.as_slice()))
    }),
    Function::new("trimSuffix", (2, 2), |args| {
        let (end, of) = (text(&args[0]), text(&args[1]));
        made(of.strip_suffix(end.as_str()).unwrap_or(&of))
    }),
    Function::new("trimPrefix", (2, 2), |args| {
        let (start, of) = (text(&args[0]), text(&args[1]));
        made(of.strip_prefix(start.as_str()).unwrap_or(&of))
    }),
    Function::new("upper", (1, 1), |args| made(text(&args[0]).to_uppercase())),
    Function::new("lower", (1, 1), |args| made(text(&args[0]).to_lowercase())),
    Function::new("title", (1, 1), |args| made(words(&text(&args[0]), |c| c.to_uppercase().collect()))),
    Function::new("untitle", (1, 1), |args| made(words(&text(&args[0]), |c| c.to_lowercase().collect()))),
    Function::new("swapcase", (1, 1), |args| {
        let swap = |c: char| -> String {
            if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
        };
        made(text(&args[0]).chars().map(swap).collect::<String>())
    }),
    Function::new("repeat", (2, 2), |args| {
        let what = text(&args[1]);
        let count = size(&args[0], MAX_TEXT + 1);
        if count.saturating_mul(what.len()) > MAX_TEXT {
            return Err("the text is too long".to_owned());
        }
        made(what.repeat(count))
    }),
    Function::new("substr", (3, 3), |args| {
        let of = text(&args[2]);
        let (start, end) = (int(&args[0]), int(&args[1]));
        let length = of.len() as i64;
        let (start, end) =
            (start.clamp(0, length) as usize, if end < 0 || end > length { length } else { end } as usize);
        made(of.get(start..end.max(start)).unwrap_or_default())
    }),
    Function::new("nospace", (1, 1), |args| {
        made(text(&args[0]).chars().filter(|c| !c.is_whitespace()).collect::<String>())
    }),
    Function::new("trunc", (2, 2), |args| {
        let of: Vec<char> = text(&args[1]).chars().collect();
        let count = int(&args[0]);
        let keep = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX).min(of.len());
        made(if count < 0 { &of[of.len() - keep..] } else { &of[..keep] }.iter().collect::<String>())
    }),
    Function::new("abbrev", (2, 2), |args| {
        let (of, width) = (text(&args[1]), size(&args[0], MAX_TEXT));
        if width < 4 || of.chars().count() <= width {
            return made(of);
        }
        made(of.chars().take(width - 3).collect::<String>() + "...")
    }),
    Function::new("initials", (1, 1), |args| {
        made(text(&args[0]).split_whitespace().filter_map(|word| word.chars().next()).collect::<String>())
    }),
    Function::new("wrap", (2, 2), |args| limited(wrapped(&text(&args[1]), size(&args[0], MAX_TEXT), "\n"))),
    Function::new("wrapWith", (3, 3), |args| {
        limited(wrapped(&text(&args[2]), size(&args[0], MAX_TEXT), &text(&args[1])))
    }),
    Function::new("contains", (2, 2), |args| Ok(Value::Bool(text(&args[1]).contains(&text(&args[0]))))),
    Function::new("hasPrefix", (2, 2), |args| Ok(Value::Bool(text(&args[1]).starts_with(&text(&args[0]))))),
    Function::new("hasSuffix", (2, 2), |args| Ok(Value::Bool(text(&args[1]).ends_with(&text(&args[0]))))),
    Function::new("quote", (0, MANY), |args| made(each(args, |value| print::quoted(&text(value))))),
    Function::new("squote", (0, MANY), |args| made(each(args, |value| format!("'{}'", text(value))))),
    Function::new("cat", (0, MANY), |args| made(each(args, text))),
    Function::new("indent", (2, 2), |args| limited(indented("", &text(&args[1]), size(&args[0], 1000)))),
    Function::new("nindent", (2, 2), |args| limited(indented("\n", &text(&args[1]), size(&args[0], 1000)))),
    Function::new("replace", (3, 3), |args| {
        let (from, to, of) = (text(&args[0]), text(&args[1]), text(&args[2]));
        if from.is_empty() {
            let between = of.chars().map(String::from);
            return limited(joined(std::iter::once(String::new()).chain(between).chain([String::new()]), &to));
        }
        limited(joined(of.split(&from), &to))
    }),
    Function::new("plural", (3, 3), |args| made(text(&args[usize::from(int(&args[2]) != 1)]))),
    Function::new("snakecase", (1, 1), |args| made(split_words(&text(&args[0])).join("_").to_lowercase())),
    Function::new("kebabcase", (1, 1), |args| made(split_words(&text(&args[0])).join("-").to_lowercase())),
    Function::new("camelcase", (1, 1), |args| {
        let capital = |word: &String| words(&word.to_lowercase(), |c| c.to_uppercase().collect());
        made(split_words(&text(&args[0])).iter().map(capital).collect::<String>())
    }),
    Function::new("regexMatch", (2, 2), |args| Ok(Value::Bool(regex(&args[0])?.is_match(&text(&args[1]))))),
    Function::new("regexFind", (2, 2), |args| {
        made(regex(&args[0])?.find(&text(&args[1])).map_or("", |found| found.as_str()))
    }),
    Function::new("regexFindAll", (3, 3), |args| {
        let (regex, of) = (regex(&args[0])?, text(&args[1]));
        list(regex.find_iter(&of).take(limit(&args[2])).map(|found| Value::from(found.as_str())))
    }),
    Function::new("regexReplaceAll", (3, 3), |args| {
        // Like Go, accepts `${1}` for groups.
        limited(replace_all(&*regex(&args[0])?, &text(&args[1]), &text(&args[2]), MAX_TEXT))
    }),
    Function::new("regexReplaceAllLiteral", (3, 3), |args| {
        let literal = text(&args[2]).replace('$', "$$");
        limited(replace_all(&*regex(&args[0])?, &text(&args[1]), &literal, MAX_TEXT))
    }),
    Function::new("regexSplit", (3, 3), |args| {
        let (regex, of) = (regex(&args[0])?, text(&args[1]));
        list(regex.splitn(&of, limit(&args[2])).map(Value::from))
    }),
    Function::new("regexQuoteMeta", (1, 1), |args| made(regex::escape(&text(&args[0])))),
    Function::new("splitList", (2, 2), |args| list(text(&args[1]).split(&text(&args[0])).map(Value::from))),
    Function::new("split", (2, 2), |args| {
        Ok(numbered(text(&args[1]).split(&text(&args[0])).take(super::MAX_ELEMENTS).map(Value::from)))
    }),
    Function::new("splitn", (3, 3), |args| {
        Ok(numbered(text(&args[2]).splitn(limit(&args[1]), &text(&args[0])).map(Value::from)))
    }),
    Function::new("join", (2, 2), |args| {
        let separator = text(&args[0]);
        match &args[1] {
            Value::Array(_) => {
                limited(joined(elements(&args[1])?.iter().filter(|value| !value.is_null()).map(text), &separator))
            }
            other => made(text(other)),
        }
    }),
    Function::new("sortAlpha", (1, 1), |args| {
        let mut parts: Vec<String> = elements(&args[0])?.iter().map(text).collect();
        parts.sort();
        list(parts.into_iter().map(Value::from))
    }),
    Function::new("toStrings", (1, 1), |args| list(elements(&args[0])?.iter().map(|value| Value::from(text(value))))),
    Function::new("b64enc", (1, 1), |args| made(STANDARD.encode(text(&args[0])))),
    Function::new("b64dec", (1, 1), |args| match STANDARD.decode(text(&args[0])) {
        Ok(bytes) => made(String::from_utf8_lossy(&bytes)),
        Err(error) => made(error.to_string()),
    }),
    Function::new("base64", (1, 1), |args| match &args[0] {
        Value::Text(text) => made(STANDARD.encode(text.as_bytes())),
        Value::Bytes(bytes) => made(STANDARD.encode(bytes.as_slice())),
        Value::Absent | Value::Null => made(""),
        other @ (Value::Array(_) | Value::Object(_)) => made(STANDARD.encode(written(other)?)),
        other => made(STANDARD.encode(text(other))),
    }),
    Function::new("json", (1, 1), |args| made(escaped(&written(&args[0])?))),
    Function::new("toJson", (1, 1), |args| made(escaped(&written(&args[0])?))),
    Function::new("toRawJson", (1, 1), |args| made(written(&args[0])?)),
    Function::new("mustToJson", (1, 1), |args| made(escaped(&written(&args[0])?))),
    Function::new("mustToRawJson", (1, 1), |args| made(written(&args[0])?)),
    Function::new("toPrettyJson", (1, 1), |args| {
        let value: serde_json::Value = serde_json::from_str(&written(&args[0])?).map_err(|error| error.to_string())?;
        made(serde_json::to_string_pretty(&value).map_err(|error| error.to_string())?)
    }),
    Function::new("fromJson", (1, 1), |args| Ok(json::parse(&text(&args[0])).unwrap_or(Value::Null))),
    Function::new("mustFromJson", (1, 1), |args| json::parse(&text(&args[0])).map_err(|error| error.to_string())),
    Function::new("sha1sum", (1, 1), |args| made(hex(&sha1::Sha1::digest(text(&args[0]))))),
    Function::new("sha256sum", (1, 1), |args| made(hex(&sha2::Sha256::digest(text(&args[0]))))),
    Function::new("sha512sum", (1, 1), |args| made(hex(&sha2::Sha512::digest(text(&args[0]))))),
    Function::new("adler32sum", (1, 1), |args| {
        let sum = text(&args[0]).bytes().fold((1u32, 0u32), |(low, high), byte| {
            let low = (low + u32::from(byte)) % 65_521;
            (low, (high + low) % 65_521)
        });
        made((sum.1 << 16 | sum.0).to_string())
    }),
    Function::new("md5sum", (1, 1), |args| made(hex(&md5::Md5::digest(text(&args[0]))))),
    // Rules cannot read properties of the process.
    Function::new("prop", (1, 1), |_| Ok(Value::Null)),
];

/// JSON with sorted keys, as Go writes it.
fn written(value: &Value) -> Result<String, String> {
    let mut out = Vec::new();
    json::write_value(&mut out, &sorted(value)).map_err(|error| error.to_string())?;
    String::from_utf8(out).map_err(|error| error.to_string())
}

fn sorted(value: &Value) -> Value {
    match &*json::expand(value) {
        Value::Array(elements) => Value::array(elements.iter().map(sorted)),
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            members.sort_by(|(left, _), (right, _)| left.cmp(right));
            Value::object(members)
        }
        other => other.clone(),
    }
}

/// Escapes what has a meaning in HTML, as Go's encoder does.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn regex(pattern: &Value) -> Result<std::sync::Arc<regex::Regex>, String> {
    thread_local! {
        static COMPILED: crate::text::pattern::Cache = crate::text::pattern::Cache::default();
    }
    COMPILED.with(|cache| cache.compiled(&text(pattern))).map_err(|error| error.to_string())
}

/// A count; a negative one means all.
fn limit(value: &Value) -> usize {
    usize::try_from(int(value)).unwrap_or(super::MAX_ELEMENTS + 1)
}

fn numbered(values: impl Iterator<Item = Value>) -> Value {
    object(values.enumerate().map(|(index, value)| (Text::from(format!("_{index}")), value)))
}

fn each(args: &[Value], write: impl Fn(&Value) -> String) -> String {
    args.iter().filter(|value| !value.is_null()).map(write).collect::<Vec<_>>().join(" ")
}

/// Changes the first letter of each word.
fn words(of: &str, change: impl Fn(char) -> String) -> String {
    let mut out = String::with_capacity(of.len());
    let mut first = true;
    for c in of.chars() {
        if first && c.is_alphabetic() {
            out.push_str(&change(c));
        } else {
            out.push(c);
        }
        first = !(c.is_alphanumeric() || c == '_' || c == '\'');
    }
    out
}

fn split_words(of: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut lower = false;
    let mut fresh = true;
    for c in of.chars() {
        if !c.is_alphanumeric() {
            fresh = true;
            continue;
        }
        if fresh || (c.is_uppercase() && lower) {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.push(c);
        }
        lower = c.is_lowercase() || c.is_numeric();
        fresh = false;
    }
    words
}

/// A text that was put together within its limit.
fn limited(text: Result<String, TooLarge>) -> Result<Value, String> {
    made(text.map_err(|TooLarge| "the text is too long")?)
}

fn joined(parts: impl IntoIterator<Item: AsRef<str>>, separator: &str) -> Result<String, TooLarge> {
    let mut out = Limited::new(MAX_TEXT);
    let mut between = "";
    for part in parts {
        out.push(between)?;
        out.push(part.as_ref())?;
        between = separator;
    }
    Ok(out.into_text())
}

fn indented(before: &str, of: &str, width: usize) -> Result<String, TooLarge> {
    let pad = " ".repeat(width);
    let mut out = Limited::new(MAX_TEXT);
    out.push(before)?;
    out.push(&pad)?;
    out.push(&joined(of.split('\n'), &format!("\n{pad}"))?)?;
    Ok(out.into_text())
}

fn wrapped(of: &str, width: usize, separator: &str) -> Result<String, TooLarge> {
    let mut out = Limited::new(MAX_TEXT);
    let mut line = 0;
    for word in of.split_whitespace() {
        let length = word.chars().count();
        if line > 0 && line + 1 + length > width.max(1) {
            out.push(separator)?;
            line = 0;
        } else if line > 0 {
            out.push(" ")?;
            line += 1;
        }
        out.push(word)?;
        line += length;
    }
    Ok(out.into_text())
}
