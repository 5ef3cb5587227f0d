//! Returns all errors of a rule or statement to requests with `?details` or the header `X-Plutino-Details`, and
//! warnings about accepted ones.
//!
//! Scripts compare error responses with those of eKuiper, which contain only the first error, without its place. So an
//! error response carries its long form as an extension ([`Detailed`]). Here the long form replaces the response, or
//! its first line is added as a header.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;

/// The header with the first error and its place.
const FIRST: HeaderName = HeaderName::from_static("x-plutino-details");

/// The longest value of the header, characters.
const LONGEST: usize = 300;

/// The long form of a response.
#[derive(Clone, Debug)]
pub struct Detailed {
    /// Replaces the body of the response.
    pub body: String,
    /// The first error, with its place and hint.
    pub first: String,
}

/// Whether a client wants warnings about its accepted request.
#[derive(Clone, Copy, Debug)]
pub struct Asked(pub bool);

/// Sends the long form to clients that request it. Clients that request only warnings get the short form of errors.
pub async fn details(mut request: Request, next: Next) -> Response {
    let header = request.headers().get(FIRST).map(|value| value == "warnings");
    let wanted = request.uri().query().is_some_and(asks) || header == Some(false);
    request.extensions_mut().insert(Asked(wanted || header.is_some()));
    let mut response = next.run(request).await;
    let Some(Detailed { body, first }) = response.extensions_mut().remove::<Detailed>() else { return response };
    if wanted {
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(body);
    } else if let Ok(first) = HeaderValue::from_str(&line(&first)) {
        response.headers_mut().insert(FIRST, first);
    }
    response
}

/// Whether a query has `details` with a value other than off.
pub fn asks(query: &str) -> bool {
    form_urlencoded::parse(query.as_bytes()).any(|(name, value)| name == "details" && value != "false" && value != "0")
}

/// One line of visible ASCII, so that text from a statement cannot form another header.
fn line(text: &str) -> String {
    let visible = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    text.chars().take(LONGEST).map(visible).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_ask_are_known() {
        for (query, wanted) in [
            ("details", true),
            ("a=b&details=true", true),
            ("details=false", false),
            ("details=0", false),
            ("detail", false),
            ("", false),
        ] {
            assert_eq!(asks(query), wanted, "{query}");
        }
    }

    #[test]
    fn a_statement_makes_no_header() {
        assert_eq!(line("a\r\nset-cookie: b\u{e9}"), "a??set-cookie: b?");
        assert_eq!(line(&"x".repeat(9_999)).len(), LONGEST);
    }
}
