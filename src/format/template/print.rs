//! Prints values like Go's package fmt. One difference: whole numbers can also be printed with the verbs of floats,
//! because JSON numbers are floats in Go, and existing rules rely on that.

use std::fmt::Write;

use base64::Engine;

use crate::format::json;
use crate::value::Value;

/// Prints a value as an action does: `%v`, and `<no value>` for an absent value.
pub fn print(out: &mut String, value: &Value) {
    if value.is_null() {
        out.push_str("<no value>");
    } else {
        write_value(out, value);
    }
}

/// `%v` of a value.
pub fn text(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value);
    out
}

fn write_value(out: &mut String, value: &Value) {
    match &*json::expand(value) {
        Value::Absent | Value::Null => out.push_str("<nil>"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Int(i) => {
            let _ = write!(out, "{i}");
        }
        Value::Unsigned(u) => {
            let _ = write!(out, "{u}");
        }
        Value::Float(float) => out.push_str(&shortest(*float)),
        Value::Text(text) => out.push_str(text),
        Value::Bytes(bytes) => out.push_str(&base64::engine::general_purpose::STANDARD.encode(bytes.as_slice())),
        Value::DateTime(at) => out.push_str(&at.strftime("%Y-%m-%d %H:%M:%S%.f %z").to_string()),
        Value::Array(elements) => {
            out.push('[');
            for (index, element) in elements.iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                write_value(out, element);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(key, _)| *key);
            out.push_str("map[");
            for (index, (key, value)) in members.into_iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                out.push_str(key);
                out.push(':');
                write_value(out, value);
            }
            out.push(']');
        }
        Value::Json(_) => {}
    }
}

/// The name of a value's type in Go.
pub fn type_name(value: &Value) -> &'static str {
    match &*json::expand(value) {
        Value::Absent | Value::Null | Value::Json(_) => "<nil>",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int64",
        Value::Unsigned(_) => "uint64",
        Value::Float(_) => "float64",
        Value::Text(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
        Value::Bytes(_) => "[]uint8",
        Value::DateTime(_) => "time.Time",
    }
}

/// The shortest form of a float that reads back; with an exponent below 1e-4 and from 1e6 on (Go's `%v`).
pub fn shortest(float: f64) -> String {
    if float.is_nan() {
        return "NaN".to_owned();
    }
    if float.is_infinite() {
        return if float > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) || float == 0.0 {
        return format!("{float}");
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// `printf` with the verbs and flags of Go's fmt that apply to the values of templates.
pub fn printf(format: &str, args: &[Value]) -> String {
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    let mut next = 0;
    // Whether an argument was chosen by its number: then unused arguments are no error.
    let mut chosen = false;
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut spec = Spec::default();
        while let Some(flag) = chars.next_if(|c| "+-# 0".contains(*c)) {
            match flag {
                '+' => spec.plus = true,
                '-' => spec.left = true,
                '#' => spec.sharp = true,
                ' ' => spec.space = true,
                _ => spec.zero = true,
            }
        }
        let known = argument(&mut chars, &mut next, args.len(), &mut chosen);
        let mut count = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| -> Option<usize> {
            if chars.next_if_eq(&'*').is_some() {
                let value = args.get(next).and_then(|value| if let Value::Int(i) = value { Some(*i) } else { None });
                next += 1;
                return value.map(|value| usize::try_from(value).unwrap_or(0).min(MAX_WIDTH));
            }
            let mut number = None;
            while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
                chars.next();
                number = Some((number.unwrap_or(0) * 10 + digit as usize).min(MAX_WIDTH));
            }
            number
        };
        spec.width = count(&mut chars).unwrap_or(0);
        if chars.next_if_eq(&'.').is_some() {
            spec.precision = Some(count(&mut chars).unwrap_or(0));
        }
        let known = argument(&mut chars, &mut next, args.len(), &mut chosen) && known;
        let Some(verb) = chars.next() else {
            out.push_str("%!(NOVERB)");
            break;
        };
        if verb == '%' {
            out.push('%');
            continue;
        }
        if !known {
            let _ = write!(out, "%!{verb}(BADINDEX)");
            continue;
        }
        match args.get(next) {
            Some(value) => spec.write(&mut out, verb, &json::expand(value)),
            None => {
                let _ = write!(out, "%!{verb}(MISSING)");
            }
        }
        next += 1;
    }
    if !chosen && next < args.len() {
        out.push_str("%!(EXTRA ");
        for (index, arg) in args[next..].iter().enumerate() {
            let _ = write!(out, "{}{}={}", if index > 0 { ", " } else { "" }, type_name(arg), text(arg));
        }
        out.push(')');
    }
    out
}

/// Handles `[n]`, which chooses the next argument; false: there is no such argument.
fn argument(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    next: &mut usize,
    count: usize,
    chosen: &mut bool,
) -> bool {
    if chars.next_if_eq(&'[').is_none() {
        return true;
    }
    *chosen = true;
    let number: String = chars.by_ref().take_while(|c| *c != ']').collect();
    match number.parse::<usize>() {
        Ok(number) if (1..=count).contains(&number) => {
            *next = number - 1;
            true
        }
        _ => false,
    }
}

/// The greatest width and precision.
const MAX_WIDTH: usize = 10_000;

#[derive(Default)]
struct Spec {
    plus: bool,
    left: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

impl Spec {
    fn write(&self, out: &mut String, verb: char, value: &Value) {
        let cut = |text: String| match self.precision {
            Some(precision) => text.chars().take(precision).collect(),
            None => text,
        };
        let double = match (verb, value) {
            ('e' | 'E' | 'f' | 'F' | 'g' | 'G', Value::Int(i)) => Some(Value::Float(*i as f64)),
            ('e' | 'E' | 'f' | 'F' | 'g' | 'G', Value::Unsigned(u)) => Some(Value::Float(*u as f64)),
            _ => None,
        };
        let (text, number) = match (verb, double.as_ref().unwrap_or(value)) {
            ('v', Value::Int(i)) => (self.signed(i.to_string(), *i >= 0), true),
            ('v' | 'd', Value::Unsigned(u)) => (self.signed(u.to_string(), true), true),
            ('x', Value::Unsigned(u)) => (format!("{u:x}"), true),
            ('X', Value::Unsigned(u)) => (format!("{u:X}"), true),
            ('v', Value::Float(float)) => (self.signed(shortest(*float), *float >= 0.0), true),
            ('v', Value::Text(text)) if self.sharp => (quoted(text), false),
            ('v', other) => (text(other), false),
            ('T', other) => (type_name(other).to_owned(), false),
            ('t', Value::Bool(b)) => (b.to_string(), false),
            ('d', Value::Int(i)) => (self.signed(i.to_string(), *i >= 0), true),
            ('b', Value::Int(i)) => (radix(*i, |i| format!("{i:b}")), true),
            ('o' | 'O', Value::Int(i)) => (radix(*i, |i| format!("{i:o}")), true),
            ('x', Value::Int(i)) => (radix(*i, |i| format!("{i:x}")), true),
            ('X', Value::Int(i)) => (radix(*i, |i| format!("{i:X}")), true),
            ('c', Value::Int(i)) => {
                (u32::try_from(*i).ok().and_then(char::from_u32).unwrap_or('\u{fffd}').to_string(), false)
            }
            ('q', Value::Int(i)) => {
                let c = u32::try_from(*i).ok().and_then(char::from_u32).unwrap_or('\u{fffd}');
                (format!("'{c}'"), false)
            }
            ('U', Value::Int(i)) => (format!("U+{i:04X}"), false),
            ('e' | 'E', Value::Float(float)) => {
                (self.signed(exponent(*float, self.precision, verb), *float >= 0.0), true)
            }
            ('f' | 'F', Value::Float(float)) => {
                (self.signed(format!("{float:.*}", self.precision.unwrap_or(6)), *float >= 0.0), true)
            }
            ('g' | 'G', Value::Float(float)) => {
                let text = match self.precision {
                    None => shortest(*float),
                    Some(precision) => general(*float, precision.max(1)),
                };
                (self.signed(text, *float >= 0.0), true)
            }
            ('s', Value::Text(text)) => (cut(text.to_string()), false),
            ('s', other @ (Value::Array(_) | Value::Object(_) | Value::Bytes(_) | Value::DateTime(_))) => {
                (text(other), false)
            }
            ('q', Value::Text(text)) => (quoted(&cut(text.to_string())), false),
            ('x', Value::Text(text)) => (text.bytes().map(|b| format!("{b:02x}")).collect(), false),
            ('X', Value::Text(text)) => (text.bytes().map(|b| format!("{b:02X}")).collect(), false),
            (verb, Value::Absent | Value::Null) => (format!("%!{verb}(<nil>)"), false),
            (verb, other) => (format!("%!{verb}({}={})", type_name(other), text(other)), false),
        };
        let missing = self.width.saturating_sub(text.chars().count());
        if self.left {
            out.push_str(&text);
            out.extend(std::iter::repeat_n(' ', missing));
        } else if self.zero && number {
            let (sign, digits) = match text.strip_prefix(['-', '+', ' ']) {
                Some(digits) => text.split_at(text.len() - digits.len()),
                None => ("", text.as_str()),
            };
            out.push_str(sign);
            out.extend(std::iter::repeat_n('0', missing));
            out.push_str(digits);
        } else {
            out.extend(std::iter::repeat_n(' ', missing));
            out.push_str(&text);
        }
    }

    fn signed(&self, text: String, positive: bool) -> String {
        match positive {
            true if self.plus => format!("+{text}"),
            true if self.space => format!(" {text}"),
            _ => text,
        }
    }
}

fn radix(i: i64, digits: impl Fn(u64) -> String) -> String {
    format!("{}{}", if i < 0 { "-" } else { "" }, digits(i.unsigned_abs()))
}

fn exponent(float: f64, precision: Option<usize>, verb: char) -> String {
    let text = format!("{float:.*e}", precision.unwrap_or(6));
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{digits}{verb}{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

fn general(float: f64, precision: usize) -> String {
    let text = format!("{float:.*e}", precision - 1);
    let (digits, exp) = text.split_once('e').unwrap_or((&text, "0"));
    let exp: i32 = exp.parse().unwrap_or(0);
    let short = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if exp < -4 || exp >= precision as i32 {
        return format!("{}e{}{:02}", short(digits), if exp < 0 { '-' } else { '+' }, exp.abs());
    }
    short(&format!("{float:.*}", usize::try_from(precision as i32 - 1 - exp).unwrap_or(0)))
}

/// Text in double quotes, with Go's escapes.
pub fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
