//! The client side of the opening handshake: sends the request, reads and checks the response.
//!
//! tungstenite's client hides the response of a peer that refuses. Its status, headers and the first bytes of its body
//! show the reason, when to try again, and where else to connect.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::client::{Request, Response, generate_request};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::handshake::machine::TryParse;
use tokio_tungstenite::tungstenite::http::{HeaderMap, StatusCode, header};

use crate::io::websocket::socket::Wire;

/// The largest head of a response in bytes.
const HEAD_BYTES: usize = 64 * 1024;

/// How much of the body of a refusal is shown, bytes.
const BODY_BYTES: usize = 200;

/// How long to wait for the body of a refusal.
const BODY_TIME: Duration = Duration::from_secs(1);

/// The response of the peer.
pub(super) enum Answer {
    /// a websocket; the headers have its subprotocol and extensions
    Accepted(Wire, HeaderMap),
    /// another response
    Refused(Refusal),
}

/// A response that does not open a websocket.
pub(super) struct Refusal {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// start of the body
    pub body: String,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("it closed the connection before it answered")]
    Closed,
    #[error("its answer has more than {HEAD_BYTES} bytes of headers")]
    TooLong,
    #[error(transparent)]
    Http(#[from] Box<tokio_tungstenite::tungstenite::Error>),
    #[error("its answer lacks {0}, which a websocket server sends")]
    Lacks(&'static str),
    #[error("it chose the subprotocol {0:?}, which was not offered")]
    Subprotocol(String),
}

/// Requests a websocket.
pub(super) async fn upgrade(mut wire: Wire, request: Request) -> Result<Answer, HandshakeError> {
    let offered = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL).cloned();
    let (request, key) = generate_request(request).map_err(Box::new)?;
    wire.write_all(&request).await?;
    wire.flush().await?;
    let mut head = Vec::new();
    let (length, response) = loop {
        if wire.read_buf(&mut head).await? == 0 {
            return Err(HandshakeError::Closed);
        }
        if let Some(parsed) = Response::try_parse(&head).map_err(Box::new)? {
            break parsed;
        }
        if head.len() > HEAD_BYTES {
            return Err(HandshakeError::TooLong);
        }
    };
    let rest = head.split_off(length);
    let (status, headers) = (response.status(), response.headers().clone());
    if status != StatusCode::SWITCHING_PROTOCOLS {
        let body = body(&mut wire, rest).await;
        return Ok(Answer::Refused(Refusal { status, headers, body }));
    }
    check(&headers, &key, offered.as_ref().and_then(|offered| offered.to_str().ok()))?;
    wire.put_back(rest);
    Ok(Answer::Accepted(wire, headers))
}

/// Checks the response by RFC 6455, 4.1. A server may choose none of the subprotocols.
fn check(headers: &HeaderMap, key: &str, offered: Option<&str>) -> Result<(), HandshakeError> {
    let has = |name, word: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(word))
    };
    if !has(header::UPGRADE, "websocket") {
        return Err(HandshakeError::Lacks("Upgrade: websocket"));
    }
    if !has(header::CONNECTION, "upgrade") {
        return Err(HandshakeError::Lacks("Connection: Upgrade"));
    }
    let accept = headers.get(header::SEC_WEBSOCKET_ACCEPT);
    if accept.is_none_or(|accept| accept.as_bytes() != derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err(HandshakeError::Lacks("the right Sec-WebSocket-Accept"));
    }
    if let Some(chosen) = headers.get(header::SEC_WEBSOCKET_PROTOCOL) {
        let chosen = String::from_utf8_lossy(chosen.as_bytes());
        let known = offered.is_some_and(|offered| offered.split(',').any(|name| name.trim() == chosen.trim()));
        if !known {
            return Err(HandshakeError::Subprotocol(chosen.into_owned()));
        }
    }
    Ok(())
}

/// The start of the body, as far as it arrives soon.
async fn body(wire: &mut Wire, mut body: Vec<u8>) -> String {
    let read = async { while body.len() < BODY_BYTES && matches!(wire.read_buf(&mut body).await, Ok(1..)) {} };
    let _ = tokio::time::timeout(BODY_TIME, read).await;
    body.truncate(BODY_BYTES);
    String::from_utf8_lossy(&body).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_checked() {
        let good = [
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ];
        let checked = |changed: Option<(&'static str, &'static str)>, offered| {
            let mut headers = HeaderMap::new();
            for (name, value) in good.iter().copied().chain(changed) {
                headers.insert(name, value.parse().expect("a value"));
            }
            check(&headers, "dGhlIHNhbXBsZSBub25jZQ==", offered).err().map(|error| error.to_string())
        };
        assert_eq!(checked(None, Some("a, b")), None);
        assert_eq!(checked(Some(("sec-websocket-protocol", "b")), Some("a, b")), None);
        for (changed, expected) in [
            (("upgrade", "h2c"), "its answer lacks Upgrade: websocket, which a websocket server sends"),
            (("connection", "close"), "its answer lacks Connection: Upgrade, which a websocket server sends"),
            (
                ("sec-websocket-accept", "x"),
                "its answer lacks the right Sec-WebSocket-Accept, which a websocket server sends",
            ),
            (("sec-websocket-protocol", "c"), "it chose the subprotocol \"c\", which was not offered"),
        ] {
            assert_eq!(checked(Some(changed), Some("a, b")).as_deref(), Some(expected));
        }
    }
}
