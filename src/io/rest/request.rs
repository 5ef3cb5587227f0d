//! Makes the request for a message.

use bytes::Bytes;
use tokio_tungstenite::tungstenite::http::{self, HeaderMap, HeaderName, HeaderValue, Uri, header};

use super::properties::{origin, uri};
use super::{Origin, RestSink, multipart};
use crate::format::address::Address;
use crate::format::compress;

/// A property that is the same for all messages, or that each message's address contains.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Dynamic<T> {
    Fixed(T),
    Part(usize),
}

impl<T: Default> Default for Dynamic<T> {
    fn default() -> Dynamic<T> {
        Dynamic::Fixed(T::default())
    }
}

impl Dynamic<()> {
    /// The same for a property of another type.
    pub fn of<T: Default>(self) -> Dynamic<T> {
        match self {
            Dynamic::Fixed(()) => Dynamic::default(),
            Dynamic::Part(part) => Dynamic::Part(part),
        }
    }
}

/// Whether a text is a template.
pub(super) fn is_template(text: &str) -> bool {
    text.contains("{{")
}

/// eKuiper's methods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Method {
    #[default]
    Get,
    Post,
    Put,
    Patch,
    Delete,
    Head,
}

impl Method {
    pub fn parse(text: &str) -> Option<Method> {
        Some(match text.trim().to_ascii_lowercase().as_str() {
            "" | "get" => Method::Get,
            "post" => Method::Post,
            "put" => Method::Put,
            "patch" => Method::Patch,
            "delete" => Method::Delete,
            "head" => Method::Head,
            _ => return None,
        })
    }

    fn http(self) -> http::Method {
        match self {
            Method::Get => http::Method::GET,
            Method::Post => http::Method::POST,
            Method::Put => http::Method::PUT,
            Method::Patch => http::Method::PATCH,
            Method::Delete => http::Method::DELETE,
            Method::Head => http::Method::HEAD,
        }
    }
}

/// The kind of body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum BodyType {
    /// no body
    #[default]
    None,
    Json,
    Text,
    Html,
    Xml,
    Javascript,
    Form,
    FormData,
    Binary,
}

impl BodyType {
    pub fn parse(text: &str) -> Option<BodyType> {
        Some(match text.trim().to_ascii_lowercase().as_str() {
            "none" => BodyType::None,
            "json" => BodyType::Json,
            "text" => BodyType::Text,
            "html" => BodyType::Html,
            "xml" => BodyType::Xml,
            "javascript" => BodyType::Javascript,
            "form" => BodyType::Form,
            "formdata" => BodyType::FormData,
            "binary" => BodyType::Binary,
            _ => return None,
        })
    }

    fn content_type(self) -> Option<&'static str> {
        match self {
            BodyType::None => None,
            BodyType::Json => Some("application/json"),
            BodyType::Text => Some("text/plain"),
            BodyType::Html => Some("text/html"),
            BodyType::Xml => Some("application/xml"),
            BodyType::Javascript => Some("application/javascript"),
            BodyType::Form => Some("application/x-www-form-urlencoded"),
            BodyType::Binary => Some("application/octet-stream"),
            // It names the boundary of each body.
            BodyType::FormData => None,
        }
    }
}

/// A request that is ready to be sent, repeatedly if necessary.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub method: http::Method,
    pub uri: Uri,
    pub origin: Origin,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Prepared {
    /// Gives it a body of its own, so that it does not keep the batch of its message in memory.
    pub fn detach(&mut self) {
        self.body = Bytes::copy_from_slice(&self.body);
    }

    /// The bytes that it takes in memory, about.
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let uri = self.uri.path().len() + self.uri.query().map_or(0, str::len) + self.origin.host.len();
        size_of::<Prepared>() + self.body.len() + headers + uri
    }
}

/// Why a message cannot become a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("the url {0:?} of a message is not an http:// or https:// address")]
    Url(String),
    #[error("the method {0:?} of a message is none of get, post, put, patch, delete and head")]
    Method(String),
    #[error("the bodyType {0:?} of a message is not known")]
    BodyType(String),
    #[error("the header {0} of a message has a value that a header cannot have")]
    Header(String),
}

/// The text of a property for one message.
fn text<'t>(property: &'t Dynamic<String>, address: Option<&'t Address>) -> &'t str {
    match property {
        Dynamic::Fixed(text) => text,
        Dynamic::Part(part) => address.and_then(|address| address.get(*part)).map_or("", |text| text.as_str()),
    }
}

/// The value of a property for one message; an invalid text is the error.
fn value<T: Copy>(property: &Dynamic<T>, address: Option<&Address>, parse: fn(&str) -> Option<T>) -> Result<T, String> {
    match property {
        Dynamic::Fixed(value) => Ok(*value),
        Dynamic::Part(part) => {
            let text = address.and_then(|address| address.get(*part)).map_or("", |text| text.as_str());
            parse(text).ok_or_else(|| text.to_owned())
        }
    }
}

impl RestSink {
    /// The request for a message.
    pub(super) fn prepare(&self, message: Bytes, address: Option<&Address>) -> Result<Prepared, RequestError> {
        let url = text(&self.url, address);
        let wrong = || RequestError::Url(url.to_owned());
        let uri = uri(url).ok_or_else(wrong)?;
        let origin = origin(&uri).ok_or_else(wrong)?;
        let method = value(&self.method, address, Method::parse).map_err(RequestError::Method)?;
        let body_type = value(&self.body_type, address, BodyType::parse).map_err(RequestError::BodyType)?;
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("plutino/", env!("CARGO_PKG_VERSION"))));
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        if let Some(content_type) = body_type.content_type() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        let packs = !matches!(body_type, BodyType::None | BodyType::FormData);
        let encoding = self.encoding.filter(|_| packs).map(|method| match method {
            compress::Method::Gzip => "gzip",
            compress::Method::Zlib | compress::Method::Flate => "deflate",
            compress::Method::Zstd => "zstd",
        });
        if let Some(encoding) = encoding {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        for (name, value) in &self.headers {
            let bad = || RequestError::Header(name.clone());
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
            headers.insert(key, HeaderValue::from_str(text(value, address)).map_err(|_| bad())?);
        }
        let body = match body_type {
            BodyType::None => Bytes::new(),
            BodyType::FormData => {
                let fields = self.form.fields.iter().map(|(name, value)| (name.as_str(), text(value, address)));
                let form = multipart::form(&self.form.file, &message, fields);
                headers.insert(
                    header::CONTENT_TYPE,
                    form.content_type().map_err(|_| RequestError::Header("Content-Type".to_owned()))?,
                );
                form.body
            }
            _ => message,
        };
        Ok(Prepared { method: method.http(), uri, origin, headers, body })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sink(props: serde_json::Value) -> Result<RestSink, String> {
        RestSink::new(props.as_object().expect("an object")).map(|(sink, _)| sink).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (props, expected) in [
            (json!({}), "url is required"),
            (json!({"url": "ftp://x"}), "url format should be http"),
            (json!({"url": "example.org"}), "url format should be http"),
            (json!({"url": "http://x", "method": "trace"}), "Not supported HTTP method TRACE."),
            (json!({"url": "http://x", "bodyType": "pdf"}), "Invalid body type value pdf."),
            (json!({"url": "http://x/{{nosuch}}"}), "url: template: sink:1: function \"nosuch\" not defined"),
            (json!({"url": "http://x", "headers": {"a b": "c"}}), "valid HTTP headers"),
            (json!({"url": "http://x", "headers": {"a": "{{"}}), "headers.a: template"),
            (json!({"url": "http://x", "timeout": "soon"}), "property timeout"),
            (json!({"url": "http://x", "method": "post", "bodyType": "formdata"}), "fileFieldName must be set"),
            (json!({"url": "http://x", "formData": {"a": {}}}), "property formData"),
            (json!({"url": "http://x", "formData": {"a": "{{"}}), "formData.a: template"),
            (json!({"url": "http://x", "oAuth": {"access": {"url": "x"}}}), "Invalid url \"x\""),
            (
                json!({"url": "http://x", "oAuth": {"access": {"url": "http://x", "expire": "{{"}}}),
                "oAuth.access.expire: template",
            ),
            (
                json!({"url": "http://x", "oAuth": {"access": {"url": "http://x", "headers": {"a b": ""}}}}),
                "valid HTTP headers",
            ),
        ] {
            let error = sink(props.clone()).expect_err("it is wrong");
            assert!(error.contains(expected), "{props}: {error}");
        }
    }

    #[test]
    fn a_request_is_made_of_properties_and_addresses() {
        let plain = sink(json!({"url": "http://h:81/a?b=c", "method": "POST", "headers": {"X": "1"}})).expect("right");
        let request = plain.prepare(Bytes::from_static(b"{}"), None).expect("a request");
        assert_eq!((request.method.as_str(), request.uri.to_string().as_str()), ("POST", "http://h:81/a?b=c"));
        assert_eq!(
            (&request.headers["content-type"], &request.headers["x"]),
            (&"application/json".parse().expect("a value"), &"1".parse().expect("a value"))
        );
        assert_eq!(request.body, "{}");
        let dynamic = sink(json!({
            "url": "{{.u}}", "method": "{{.m}}", "bodyType": "{{.b}}", "headers": {"X": "a{{.x}}", "content-type": "x/y"},
        }));
        let dynamic = dynamic.expect("right");
        let address = |texts: &[&str]| -> Address { texts.iter().map(|text| (*text).into()).collect() };
        let request = dynamic.prepare(Bytes::from_static(b"x"), Some(&address(&["https://h/", "put", "text", "a1"])));
        let request = request.expect("a request");
        assert_eq!((request.method.as_str(), request.origin.secure, request.origin.port), ("PUT", true, 443));
        assert_eq!(
            (&request.headers["x"], &request.headers["content-type"]),
            (&"a1".parse().expect("a value"), &"x/y".parse().expect("a value"))
        );
        let bodiless = dynamic.prepare(Bytes::from_static(b"x"), Some(&address(&["http://h/", "get", "none", ""])));
        assert!(bodiless.expect("a request").body.is_empty());
        for wrong in [
            ["gopher://h", "get", "none", ""],
            ["http://h/", "trace", "none", ""],
            ["http://h/", "get", "pdf", ""],
            ["http://h/", "get", "none", "a\nb"],
        ] {
            assert!(dynamic.prepare(Bytes::new(), Some(&address(&wrong))).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_server_of_a_template_is_known_where_it_stands_before_it() {
        let host = |url: &str| sink(json!({"url": url})).expect("right").origin.map(|origin| origin.host);
        assert_eq!(host("http://127.0.0.1:80/{{.id}}").as_deref(), Some("127.0.0.1"));
        assert_eq!(host("http://127.0.0.1{{.id}}"), None);
        assert_eq!(host("http://{{.host}}/x"), None);
        assert_eq!(host("http://[::1]:80/x").as_deref(), Some("::1"));
    }
}
