//! Decides by the answer to a request what happens to its message: delivered, lost, or sent again.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value as Json;

use super::ResponseType;
use super::client::{Answer, SendError};
use super::request::Prepared;
use crate::text::secret::masked_url;

/// How much of a response is shown.
const SHOWN: usize = 200;

/// Causes of lost messages.
const REFUSED: &str = "refused";
const EGRESS: &str = "address not allowed";

/// What happens to a message after an attempt.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    Sent,
    /// the request will never succeed
    Lost {
        cause: &'static str,
        error: String,
    },
    /// another attempt may succeed; `counts`: it counts towards `retry.attempts`
    Again {
        error: String,
        counts: bool,
        wait: Option<Duration>,
    },
}

impl Verdict {
    /// The verdict on the answer to a request.
    pub fn of(response: ResponseType, request: &Prepared, sent: Result<Answer, SendError>) -> Verdict {
        let url = request.uri.to_string();
        let described = |what: String| format!("{} {}: {what}", request.method, masked_url(&url));
        let answer = match sent {
            Ok(answer) => answer,
            Err(error @ SendError::Egress(_)) => {
                return Verdict::Lost { cause: EGRESS, error: described(error.to_string()) };
            }
            Err(error @ SendError::Redirect(..)) => {
                return Verdict::Lost { cause: REFUSED, error: described(error.to_string()) };
            }
            Err(error) => return Verdict::Again { error: described(error.to_string()), counts: false, wait: None },
        };
        let status = answer.status.as_u16();
        let refused = || described(format!("status {status}{}", shown(&answer.body)));
        match status {
            200..300 => match (response, body_code(&answer.body)) {
                (ResponseType::Code, _) | (ResponseType::Body, Some(200..300)) => Verdict::Sent,
                (ResponseType::Body, _) => Verdict::Lost { cause: REFUSED, error: refused() },
            },
            429 | 503 => Verdict::Again { error: refused(), counts: false, wait: answer.retry_after },
            500.. => Verdict::Again { error: refused(), counts: true, wait: answer.retry_after },
            _ => Verdict::Lost { cause: REFUSED, error: refused() },
        }
    }
}

/// The member `code` of a JSON body.
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
    use crate::io::rest::RestSink;

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
        let code = |sent| Verdict::of(ResponseType::Code, &request, sent);
        assert_eq!(code(answer(204, "")), Verdict::Sent);
        assert_eq!(code(answer(404, "no such hook")), lost(REFUSED, "status 404: no such hook"));
        assert_eq!(code(answer(301, "")), lost(REFUSED, "status 301"));
        assert_eq!(code(answer(500, "")), again("status 500", true, None));
        assert_eq!(code(answer(503, "")), again("status 503", false, Some(7)));
        assert_eq!(code(answer(429, "")), again("status 429", false, None));
        let timeout = SendError::Timeout(Duration::from_secs(1));
        assert_eq!(code(Err(timeout)), again("no answer within 1000 ms (timeout)", false, None));
        let body = |text| Verdict::of(ResponseType::Body, &request, answer(200, text));
        assert_eq!(body("{\"code\":200}"), Verdict::Sent);
        assert_eq!(body("{\"code\":500}"), lost(REFUSED, "status 200: {\"code\":500}"));
        assert_eq!(body("ok"), lost(REFUSED, "status 200: ok"));
    }
}
