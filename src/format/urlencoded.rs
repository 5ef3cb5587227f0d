//! Messages as forms: `a=1&b=x+y`.

use crate::value::{Row, Text, Value};

/// An invalid escape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid URL escape {0:?}")]
pub struct EscapeError(String);

/// Decodes a form: a text for each key, an array of texts for a repeated key.
///
/// # Errors
/// [`EscapeError`]
pub fn decode(text: &str) -> Result<Row, EscapeError> {
    for (at, _) in text.match_indices('%') {
        let digits = text.as_bytes().get(at + 1..at + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err(EscapeError(text[at..].chars().take(3).collect()));
        }
    }
    let mut row: indexmap::IndexMap<Text, Vec<Value>> = indexmap::IndexMap::new();
    for (key, value) in form_urlencoded::parse(text.as_bytes()) {
        row.entry(Text::from(key)).or_default().push(Value::from(value.as_ref()));
    }
    let one = |mut values: Vec<Value>| if values.len() == 1 { values.remove(0) } else { Value::array(values) };
    Ok(row.into_iter().map(|(key, values)| (key, one(values))).collect())
}

/// Writes a form of keys and values.
pub fn encode<'v>(pairs: impl IntoIterator<Item = (&'v str, &'v str)>) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn forms() {
        let row = decode("a=1&b=x+y&c=%20z&a=2&d").expect("the form is right");
        assert_eq!(row.len(), 4);
        assert_eq!(row[1].1.as_text(), Some("x y"));
        assert!(matches!(&row[0].1, Value::Array(values) if values.len() == 2));
        assert_eq!(decode("a=%zz").err(), Some(EscapeError("%zz".to_owned())));
        assert_eq!(decode("a=%4").err(), Some(EscapeError("%4".to_owned())));
        assert_eq!(encode([("a", "1"), ("b", "x y&z")]), "a=1&b=x+y%26z");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(pairs in prop::collection::btree_map("\\PC{0,6}", "\\PC{0,6}", 1..5)) {
            let text = encode(pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())));
            let row = decode(&text).expect("what is written is a form");
            let read: Vec<_> = row.iter().map(|(key, value)| (key.as_str(), value.as_text().unwrap_or_default())).collect();
            prop_assert_eq!(read, pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect::<Vec<_>>());
        }

        #[test]
        fn any_text_is_a_form_or_an_error(text in "[%a-f0-9=&+é]{0,30}|\\PC{0,20}") {
            let _ = decode(&text);
        }
    }
}
