//! JSON whose member names match regardless of case, as in request bodies that eKuiper accepts.

use serde::de::{DeserializeOwned, Deserializer, Error as _, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Map, Value};

/// Parses JSON text. Names of the type's own members match regardless of case, those of nested types exactly.
///
/// # Errors
/// serde's error, with the place in the text.
pub fn from_slice<T: DeserializeOwned>(text: &[u8]) -> Result<T, Error> {
    let value: Value = serde_json::from_slice(text)?;
    if value.is_array() {
        return from_value(value);
    }
    // Errors in values have no place, syntax errors do.
    from_value(value).or_else(|_| serde_json::from_slice(text))
}

/// The same for a parsed value.
///
/// # Errors
/// serde's error.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    T::deserialize(Loose(value))
}

struct Loose(Value);

impl<'de> Deserializer<'de> for Loose {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.0.deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let members = match self.0 {
            Value::Object(members) => members,
            // serde would accept a list of the members' values.
            Value::Array(_) => return Err(Error::invalid_type(Unexpected::Seq, &"an object")),
            other => return other.deserialize_struct(name, fields, visitor),
        };
        let mut renamed = Map::new();
        for (member, value) in members {
            let known = fields.iter().find(|field| field.eq_ignore_ascii_case(&member));
            let member = known.map_or(member, |known| (*known).to_owned());
            // If two names differ only in case, the last one counts, as in Go.
            renamed.insert(member, value);
        }
        Value::Object(renamed).deserialize_struct(name, fields, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Body {
        #[serde(default)]
        mock_source: Option<Value>,
        id: String,
    }

    #[test]
    fn members_are_found_in_any_case() {
        let read = |text: &str| from_slice::<Body>(text.as_bytes()).map_err(|error| error.to_string());
        let body = Body { mock_source: Some(Value::from(1)), id: "x".to_owned() };
        for text in [r#"{"ID": "x", "MockSource": 1}"#, r#"{"id": "x", "MOCKSOURCE": 1, "Other": {}}"#] {
            assert_eq!(read(text).as_ref(), Ok(&body), "{text}");
        }
        assert!(read(r#"{"id": 5}"#).unwrap_err().contains("at line 1 column"));
        assert!(read("{}").unwrap_err().contains("missing field `id`"));
        assert!(read(r#"[1, "x"]"#).unwrap_err().contains("expected an object"));
        assert!(read("{").unwrap_err().contains("EOF"));
        assert_eq!(from_slice::<Vec<String>>(b"[\"a\"]").ok(), Some(vec!["a".to_owned()]));
    }
}
