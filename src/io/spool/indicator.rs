//! Marks repeated messages: sets a field to true in each (`resendIndicatorField`).

use std::sync::Arc;

use serde::de::IgnoredAny;

use crate::io::queue::MessageBatch;
use crate::value::json::{elements, key, members, write_key};

/// The messages of a batch with the field set in each JSON object, and in each object of a JSON list. Other messages
/// are unchanged.
pub(super) fn marked(batch: &MessageBatch, field: &str) -> Arc<MessageBatch> {
    let mut bytes = Vec::with_capacity(batch.byte_len() + batch.len() * (field.len() + 8));
    let mut ends = Vec::with_capacity(batch.len());
    for message in batch.messages_from(0) {
        match str::from_utf8(message) {
            Ok(text) if serde_json::from_str::<IgnoredAny>(text).is_ok() => mark(&mut bytes, text.trim(), field),
            _ => bytes.extend_from_slice(message),
        }
        ends.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    }
    let marked = MessageBatch::new(bytes.into(), ends, batch.text, batch.received);
    let addresses: Vec<_> = (0..batch.len()).filter_map(|index| batch.address(index).cloned()).collect();
    Arc::new(if addresses.is_empty() { marked } else { marked.addressed(addresses) })
}

/// Appends a JSON text with the field set.
fn mark(out: &mut Vec<u8>, text: &str, field: &str) {
    if text.starts_with('{') {
        return mark_object(out, text, field);
    }
    if !text.starts_with('[') {
        return out.extend_from_slice(text.as_bytes());
    }
    out.push(b'[');
    for (index, element) in elements(text).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        if element.starts_with('{') {
            mark_object(out, element, field);
        } else {
            out.extend_from_slice(element.as_bytes());
        }
    }
    out.push(b']');
}

fn mark_object(out: &mut Vec<u8>, object: &str, field: &str) {
    out.push(b'{');
    for (name, value) in members(object).filter(|(name, _)| key(name) != field) {
        out.extend_from_slice(name.as_bytes());
        out.push(b':');
        out.extend_from_slice(value.as_bytes());
        out.push(b',');
    }
    write_key(out, field);
    out.extend_from_slice(b":true}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_get_the_field() {
        for (message, expected) in [
            (r#"{"a":1.00,"b":"}"}"#, r#"{"a":1.00,"b":"}","again":true}"#),
            (r#" { } "#, r#"{"again":true}"#),
            (r#"{"again":false,"\u0061gain":0,"a":[{}]}"#, r#"{"a":[{}],"again":true}"#),
            (r#"[{"a":1},2,{}]"#, r#"[{"a":1,"again":true},2,{"again":true}]"#),
            ("[]", "[]"),
            ("17", "17"),
            ("{no JSON}", "{no JSON}"),
        ] {
            let batch = MessageBatch::new(message.as_bytes().to_vec().into(), vec![message.len() as u32], true, None);
            assert_eq!(marked(&batch, "again").message(0), expected, "{message}");
        }
    }
}
