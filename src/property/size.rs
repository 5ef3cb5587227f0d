//! Sizes as users write them: a number of bytes, or text such as `64MiB`.
//!
//! `KB`, `MB` and `GB` mean `KiB`, `MiB` and `GiB`: for a limit the difference is not worth an error.

use serde_json::Value as Json;

/// Parses a whole number of bytes, as a number or as text, or a number with a unit. `None` for anything else.
pub fn parse(value: &Json) -> Option<u64> {
    let text = match value {
        Json::Number(number) => return number.as_u64(),
        Json::String(text) => text.trim(),
        _ => return None,
    };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let bytes = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "k" | "kb" => 1 << 10,
        "mib" | "m" | "mb" => 1 << 20,
        "gib" | "g" | "gb" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sizes() {
        for (value, bytes) in [
            (json!(0), Some(0)),
            (json!(1500), Some(1500)),
            (json!("1500"), Some(1500)),
            (json!("64MiB"), Some(64 << 20)),
            (json!(" 2 gb "), Some(2 << 30)),
            (json!("1k"), Some(1024)),
            (json!("1.5MiB"), None),
            (json!("MiB"), None),
            (json!(-1), None),
            (json!("-1"), None),
            (json!(""), None),
            (json!("99999999999GiB"), None),
            (json!(true), None),
        ] {
            assert_eq!(parse(&value), bytes, "{value}");
        }
    }
}
