//! Sends requests, in order or several at once, and repeats those that may still succeed.
//!
//! While a server is away or overloaded, a request is repeated without end; the outbox bounds what waits meanwhile. Other
//! errors of a server are repeated a few times. Everything else loses the message.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::Value as Json;

use super::client::{Answer, HttpClient, SendError};
use super::request::Prepared;
use super::{ResponseType, RestSink, Retry};
use crate::io::backoff::jittered;
use crate::io::outbox::{Outbox, Taken};
use crate::io::printable;
use crate::text::secret::masked_url;

/// The share by which chance changes a wait.
const JITTER: f64 = 0.2;

/// How much of an answer is shown.
const SHOWN: usize = 200;

/// Causes of lost messages.
const REFUSED: &str = "refused";
const SERVER_ERROR: &str = "server error";
const INVALID: &str = "invalid request";
const EGRESS: &str = "address not allowed";

/// What becomes of a request after a try.
#[derive(Debug, PartialEq)]
enum Verdict {
    Sent,
    /// it will never be accepted
    Lost {
        cause: &'static str,
        error: String,
    },
    /// another try may succeed; `counts`: it is one of `retry.attempts`
    Again {
        error: String,
        counts: bool,
        wait: Option<Duration>,
    },
}

/// Sends what comes until the outbox is closed and empty.
pub(super) async fn send(outbox: &Arc<Outbox>, sink: &RestSink, client: &HttpClient) {
    let mut underway = FuturesUnordered::new();
    // The batch at hand, and its next message.
    let mut current: Option<(Arc<Taken>, usize)> = None;
    loop {
        match &mut current {
            Some((taken, index)) if underway.len() < sink.concurrency => {
                let pause = taken.pause();
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                underway.push(deliver(outbox, sink, client, taken.clone(), *index));
                *index += 1;
                if *index == taken.len() {
                    current = None;
                }
            }
            Some(_) => {
                underway.next().await;
            }
            None => tokio::select! {
                Some(()) = underway.next() => {}
                taken = outbox.next() => match taken {
                    Some(taken) => current = Some((Arc::new(taken), 0)),
                    None => break,
                },
            },
        }
    }
    while underway.next().await.is_some() {}
}

async fn deliver(outbox: &Outbox, sink: &RestSink, client: &HttpClient, taken: Arc<Taken>, index: usize) {
    let (message, address) = taken.message(index);
    let bytes = message.len();
    let request = match sink.prepare(message, address) {
        Ok(request) => request,
        Err(error) => {
            outbox.fails(&error.to_string(), false);
            return taken.lost(index, INVALID);
        }
    };
    let Retry { initial, max, attempts } = sink.retry;
    let (mut wait, mut errors) = (initial, 0);
    loop {
        match attempt(sink, client, &request).await {
            Verdict::Sent => {
                outbox.works();
                return taken.sent(index, bytes);
            }
            Verdict::Lost { cause, error } => {
                outbox.fails(&error, false);
                return taken.lost(index, cause);
            }
            Verdict::Again { error, counts, wait: asked } => {
                outbox.fails(&error, true);
                errors += u64::from(counts);
                if errors >= attempts {
                    return taken.lost(index, SERVER_ERROR);
                }
                tokio::time::sleep(asked.unwrap_or_default().max(jittered(wait, JITTER))).await;
                wait = (2 * wait).min(max);
            }
        }
    }
}

async fn attempt(sink: &RestSink, client: &HttpClient, request: &Prepared) -> Verdict {
    let sent = client.send(request).await;
    if let (true, Ok(answer)) = (sink.debug_response, &sent) {
        let body = String::from_utf8_lossy(&answer.body);
        tracing::info!(url = %masked_url(&request.uri.to_string()), status = answer.status.as_u16(), "answer: {}", printable(&body));
    }
    verdict(sink.response, request, sent)
}

fn verdict(response: ResponseType, request: &Prepared, sent: Result<Answer, SendError>) -> Verdict {
    let url = request.uri.to_string();
    let told = |what: String| format!("{} {}: {what}", request.method, masked_url(&url));
    let answer = match sent {
        Ok(answer) => answer,
        Err(error @ SendError::Egress(_)) => return Verdict::Lost { cause: EGRESS, error: told(error.to_string()) },
        Err(error @ SendError::Redirect(..)) => {
            return Verdict::Lost { cause: REFUSED, error: told(error.to_string()) };
        }
        Err(error) => return Verdict::Again { error: told(error.to_string()), counts: false, wait: None },
    };
    let status = answer.status.as_u16();
    let said = || told(format!("status {status}{}", shown(&answer.body)));
    match status {
        200..300 => match (response, body_code(&answer.body)) {
            (ResponseType::Code, _) | (ResponseType::Body, Some(200..300)) => Verdict::Sent,
            (ResponseType::Body, _) => Verdict::Lost { cause: REFUSED, error: said() },
        },
        429 | 503 => Verdict::Again { error: said(), counts: false, wait: answer.retry_after },
        500.. => Verdict::Again { error: said(), counts: true, wait: answer.retry_after },
        _ => Verdict::Lost { cause: REFUSED, error: said() },
    }
}

/// The member `code` of a body of JSON.
fn body_code(body: &Bytes) -> Option<i64> {
    serde_json::from_slice::<Json>(body).ok()?.get("code")?.as_i64()
}

fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN)]);
    let text = text.trim();
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio_tungstenite::tungstenite::http::StatusCode;

    use super::*;

    #[test]
    fn what_may_pass_is_tried_again() {
        let sink = RestSink::new(json!({"url": "http://h/?token=s"}).as_object().expect("an object")).expect("right").0;
        let request = sink.prepare(Bytes::new(), None).expect("a request");
        let answer = |status, body: &'static str| {
            let status = StatusCode::from_u16(status).expect("a status");
            let retry_after = (status == 503).then_some(Duration::from_secs(7));
            Ok(Answer { status, retry_after, body: Bytes::from_static(body.as_bytes()) })
        };
        let lost = |cause, error: &str| Verdict::Lost { cause, error: format!("GET http://h/?token=***: {error}") };
        let again = |error: &str, counts, wait: Option<u64>| {
            let error = format!("GET http://h/?token=***: {error}");
            Verdict::Again { error, counts, wait: wait.map(Duration::from_secs) }
        };
        let code = |sent| verdict(ResponseType::Code, &request, sent);
        assert_eq!(code(answer(204, "")), Verdict::Sent);
        assert_eq!(code(answer(404, "no such hook")), lost(REFUSED, "status 404: no such hook"));
        assert_eq!(code(answer(301, "")), lost(REFUSED, "status 301"));
        assert_eq!(code(answer(500, "")), again("status 500", true, None));
        assert_eq!(code(answer(503, "")), again("status 503", false, Some(7)));
        assert_eq!(code(answer(429, "")), again("status 429", false, None));
        let timeout = SendError::Timeout(Duration::from_secs(1));
        assert_eq!(code(Err(timeout)), again("no answer within 1000 ms (timeout)", false, None));
        let body = |text| verdict(ResponseType::Body, &request, answer(200, text));
        assert_eq!(body("{\"code\":200}"), Verdict::Sent);
        assert_eq!(body("{\"code\":500}"), lost(REFUSED, "status 200: {\"code\":500}"));
        assert_eq!(body("ok"), lost(REFUSED, "status 200: ok"));
    }
}
