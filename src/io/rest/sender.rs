//! Sends requests, in order or several at a time, and repeats those that may still succeed.
//!
//! While a server is unreachable or overloaded, a request is repeated without limit; the outbox limits what waits in
//! the meantime. Other server errors are repeated a few times. Anything else loses the message.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::client::HttpClient;
use super::request::Prepared;
use super::tokens::Tokens;
use super::verdict::Verdict;
use super::{RestSink, Retry};
use crate::io::backoff::jittered;
use crate::io::outbox::{Outbox, Taken};
use crate::io::printable;
use crate::text::secret::masked_url;

/// The random share of a wait.
const JITTER: f64 = 0.2;

/// The causes of lost messages.
const SERVER_ERROR: &str = "server error";
const INVALID: &str = "invalid request";

/// Sends messages until the outbox is closed and empty.
pub(super) async fn send(outbox: &Arc<Outbox>, sink: &RestSink, client: &HttpClient, tokens: Option<&Tokens>) {
    let mut underway = FuturesUnordered::new();
    // The current batch, and its next message.
    let mut current: Option<(Arc<Taken>, usize)> = None;
    loop {
        match &mut current {
            Some((taken, index)) if underway.len() < sink.concurrency => {
                let pause = taken.pause();
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                underway.push(deliver(outbox, sink, (client, tokens), taken.clone(), *index));
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

async fn deliver(
    outbox: &Outbox,
    sink: &RestSink,
    (client, tokens): (&HttpClient, Option<&Tokens>),
    taken: Arc<Taken>,
    index: usize,
) {
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
        match attempt(sink, client, tokens, &request).await {
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
                // A host that a message names need not exist: it must not hold up all that follow.
                errors += u64::from(counts || sink.origin.is_none());
                if errors >= attempts {
                    return taken.lost(index, SERVER_ERROR);
                }
                tokio::time::sleep(asked.unwrap_or_default().max(jittered(wait, JITTER))).await;
                wait = (2 * wait).min(max);
            }
        }
    }
}

async fn attempt(sink: &RestSink, client: &HttpClient, tokens: Option<&Tokens>, request: &Prepared) -> Verdict {
    let (sent, token) = match tokens {
        None => (client.send(request).await, None),
        Some(tokens) => match tokens.token().await {
            Ok(token) => (client.send(&token.added_to(request)).await, Some((tokens, token))),
            Err(verdict) => return verdict,
        },
    };
    if let (true, Ok(answer)) = (sink.debug_response, &sent) {
        let body = String::from_utf8_lossy(&answer.body);
        tracing::info!(url = %masked_url(&request.uri.to_string()), status = answer.status.as_u16(), "answer: {}", printable(&body));
    }
    let unauthorized = sent.as_ref().is_ok_and(|answer| answer.status.as_u16() == 401);
    match (Verdict::of(sink.response, request, sent), token) {
        (Verdict::Lost { error, .. }, Some((tokens, token))) if unauthorized && tokens.forget(&token).await => {
            // The token has ended before its time.
            Verdict::Again { error, counts: true, wait: None }
        }
        (verdict, _) => verdict,
    }
}
