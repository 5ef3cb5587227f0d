//! Forms with a file, `multipart/form-data`: the message as a file, beside fields of text.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::InvalidHeaderValue;

/// A form that is ready to be sent.
pub(super) struct MultipartForm {
    boundary: String,
    pub body: Bytes,
}

/// The form of a message, which is the file of the field `file`. The name of the file is the time, ms since the epoch.
pub(super) fn form<'f>(file: &str, message: &[u8], fields: impl Iterator<Item = (&'f str, &'f str)>) -> MultipartForm {
    // It is unpredictable, so that no message can contain it.
    let boundary = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut body = Vec::with_capacity(message.len() + 512);
    let mut part = |name: &str, more: &str, content: &[u8]| {
        let head = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"{more}\r\n\r\n", escaped(name));
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    };
    let more = format!("; filename=\"{time}\"\r\nContent-Type: application/octet-stream");
    part(file, &more, message);
    fields.for_each(|(name, value)| part(name, "", value.as_bytes()));
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    MultipartForm { boundary, body: body.into() }
}

impl MultipartForm {
    /// The value of the header `Content-Type`.
    pub fn content_type(&self) -> Result<HeaderValue, InvalidHeaderValue> {
        HeaderValue::from_str(&format!("multipart/form-data; boundary={}", self.boundary))
    }
}

/// A name within quotes, as browsers write it.
fn escaped(name: &str) -> String {
    name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_has_the_message_as_a_file() {
        let form = form("up\"load", b"{\"a\":1}", [("kind", "x y")].into_iter());
        let kind = form.content_type().expect("a value");
        let boundary = kind.to_str().expect("text").strip_prefix("multipart/form-data; boundary=").expect("a boundary");
        let text = String::from_utf8(form.body.to_vec()).expect("text");
        let parts: Vec<&str> = text.split(&format!("--{boundary}")).collect();
        assert_eq!((parts.len(), parts[0], parts[3]), (4, "", "--\r\n"));
        assert!(parts[1].starts_with("\r\nContent-Disposition: form-data; name=\"up%22load\"; filename=\""), "{text}");
        assert!(parts[1].ends_with("\r\nContent-Type: application/octet-stream\r\n\r\n{\"a\":1}\r\n"), "{text}");
        assert_eq!(parts[2], "\r\nContent-Disposition: form-data; name=\"kind\"\r\n\r\nx y\r\n");
    }
}
