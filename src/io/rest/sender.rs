//! Sends requests, in order or several at a time, and repeats those that may still succeed.
//!
//! While a server is unreachable or overloaded, a request is repeated without limit; the outbox limits what waits in
//! the meantime. Other server errors are repeated a few times. Anything else loses the message.
//!
//! Where messages name the server, one that fails or is slow must not hold up those for others: its messages are then
//! sent apart from all others, one at a time, and repeated a few times at most ([`Failing`]).

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use super::client::HttpClient;
use super::hosts::Failing;
use super::request::Prepared;
use super::tokens::Tokens;
use super::verdict::Verdict;
use super::{Origin, RestSink, Retry};
use crate::io::backoff::jittered;
use crate::io::outbox::{Outbox, Single, Taken};
use crate::io::printable;
use crate::text::secret::masked_url;

/// The random share of a wait.
const JITTER: f64 = 0.2;

/// How long an attempt for a server that messages name may hold up those for others.
const PATIENCE: Duration = Duration::from_secs(1);

/// The causes of lost messages.
const SERVER_ERROR: &str = "server error";
const INVALID: &str = "invalid request";

/// A message with its request. It outlives its batch.
struct Letter {
    message: Single,
    request: Prepared,
    failures: u64,
}

/// A letter after an attempt.
struct Tried {
    letter: Letter,
    verdict: Verdict,
    /// the wait before the next attempt
    wait: Duration,
}

/// What came of a request.
enum Outcome<'a> {
    Tried(Box<Tried>),
    /// it goes on, for a message of this server and size
    Slow(Origin, usize, BoxFuture<'a, Tried>),
    /// nothing is left to do
    Over,
}

/// Requests that are under way.
type Underway<'a> = FuturesUnordered<BoxFuture<'a, Outcome<'a>>>;

/// Sends the messages of one sink.
struct Sender<'a> {
    outbox: &'a Arc<Outbox>,
    sink: &'a RestSink,
    client: &'a HttpClient,
    tokens: Option<&'a Tokens>,
    /// as many as `concurrency` allows
    underway: Underway<'a>,
    /// to servers that fail, one each
    apart: Underway<'a>,
    failing: Failing<Letter>,
}

/// Sends messages, the first one after `turn` has come, until the outbox is closed and empty.
pub(super) async fn send(
    outbox: &Arc<Outbox>,
    sink: &RestSink,
    client: &HttpClient,
    tokens: Option<&Tokens>,
    turn: impl Future<Output = ()>,
) {
    let mut turn = Some(turn);
    let (underway, apart, failing) = (Underway::new(), Underway::new(), Failing::default());
    let mut sender = Sender { outbox, sink, client, tokens, underway, apart, failing };
    // The current batch, and its next message.
    let mut current: Option<(Taken, usize)> = None;
    let mut is_open = true;
    while is_open || current.is_some() || !sender.underway.is_empty() || !sender.apart.is_empty() {
        let has_room = sender.underway.len() < sink.concurrency;
        tokio::select! {
            Some(outcome) = sender.underway.next() => sender.settle(outcome, false),
            Some(outcome) = sender.apart.next() => sender.settle(outcome, true),
            taken = outbox.next(), if is_open && current.is_none() => match taken {
                Some(taken) => {
                    if let Some(turn) = turn.take() {
                        turn.await;
                    }
                    current = Some((taken, 0));
                }
                None => is_open = false,
            },
            () = std::future::ready(()), if has_room && current.is_some() => {
                let Some((taken, index)) = current.take() else { continue };
                let pause = taken.pause();
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                sender.begin(&taken, index);
                if index + 1 < taken.len() {
                    current = Some((taken, index + 1));
                }
            }
        }
    }
}

impl<'a> Sender<'a> {
    fn begin(&mut self, taken: &Taken, index: usize) {
        let (message, address) = taken.message(index);
        let mut request = match self.sink.prepare(message, address) {
            Ok(request) => request,
            Err(error) => {
                self.outbox.fails(&error.to_string(), false);
                return taken.lost(index, INVALID);
            }
        };
        let names_server = self.sink.origin.is_none();
        if names_server {
            request.detach();
        }
        let letter = Letter { message: taken.hold(index), request, failures: 0 };
        let (outbox, sink, client, tokens) = (self.outbox, self.sink, self.client, self.tokens);
        if !names_server {
            return self.underway.push(Box::pin(async move {
                deliver(outbox, sink, (client, tokens), letter).await;
                Outcome::Over
            }));
        }
        let (host, bytes, wait) = (letter.request.origin.clone(), letter.request.size(), sink.retry.initial);
        if self.failing.wake(&host, bytes) {
            self.retry(letter, Duration::ZERO, wait);
        } else if self.failing.has(&host) {
            self.defer(letter);
        } else {
            let mut tried: BoxFuture<'a, Tried> = Box::pin(async move {
                let verdict = attempt(sink, client, tokens, &letter.request).await;
                Tried { letter, verdict, wait }
            });
            self.underway.push(Box::pin(async move {
                match tokio::time::timeout(PATIENCE, &mut tried).await {
                    Ok(tried) => Outcome::Tried(Box::new(tried)),
                    Err(_) => Outcome::Slow(host, bytes, tried),
                }
            }));
        }
    }

    /// Makes a letter wait for the next attempt of its server, or loses it.
    fn defer(&mut self, letter: Letter) {
        let (host, bytes) = (letter.request.origin.clone(), letter.request.size());
        if let Err(letter) = self.failing.wait(&host, letter, bytes) {
            letter.message.lost(SERVER_ERROR);
        }
    }

    /// Continues after an attempt.
    fn settle(&mut self, outcome: Outcome<'a>, is_apart: bool) {
        let Tried { mut letter, verdict, wait } = match outcome {
            Outcome::Tried(tried) => *tried,
            Outcome::Over => return,
            Outcome::Slow(host, bytes, tried) => {
                let finish: BoxFuture<'a, Outcome<'a>> = Box::pin(async move { Outcome::Tried(Box::new(tried.await)) });
                let goes_apart = !self.failing.has(&host) && self.failing.begin(&host, bytes);
                return if goes_apart { self.apart.push(finish) } else { self.underway.push(finish) };
            }
        };
        let host = letter.request.origin.clone();
        let Retry { max, attempts, .. } = self.sink.retry;
        // How long the server is left alone; zero if it has answered.
        let mut pause = Duration::ZERO;
        match verdict {
            Verdict::Sent => {
                self.outbox.works();
                letter.message.sent();
            }
            Verdict::Lost { cause, error } => {
                self.outbox.fails(&error, false);
                letter.message.lost(cause);
            }
            Verdict::Again { error, wait: asked, .. } => {
                self.outbox.fails(&error, true);
                letter.failures += 1;
                pause = asked.unwrap_or_default().max(wait);
                let next = (2 * wait).min(max);
                match letter.failures < attempts {
                    false => letter.message.lost(SERVER_ERROR),
                    true if is_apart => return self.retry(letter, pause, next),
                    // Another message to the same server was in flight too, and has failed first.
                    true if self.failing.has(&host) => return self.defer(letter),
                    true if self.failing.begin(&host, letter.request.size()) => return self.retry(letter, pause, next),
                    true => letter.message.lost(SERVER_ERROR),
                }
            }
        }
        if is_apart && let Some(next) = self.failing.next(&host, pause.is_zero()) {
            let wait = if pause.is_zero() { self.sink.retry.initial } else { wait };
            self.retry(next, pause, wait);
        }
    }

    /// Tries a letter after a pause, apart from those for other servers.
    fn retry(&mut self, letter: Letter, pause: Duration, wait: Duration) {
        let (sink, client, tokens) = (self.sink, self.client, self.tokens);
        self.apart.push(Box::pin(async move {
            tokio::time::sleep(jittered(pause, JITTER)).await;
            let verdict = attempt(sink, client, tokens, &letter.request).await;
            Outcome::Tried(Box::new(Tried { letter, verdict, wait }))
        }));
    }
}

/// Delivers a message to the server of all messages.
async fn deliver(
    outbox: &Outbox,
    sink: &RestSink,
    (client, tokens): (&HttpClient, Option<&Tokens>),
    Letter { message, request, .. }: Letter,
) {
    let Retry { initial, max, attempts } = sink.retry;
    let (mut wait, mut errors) = (initial, 0);
    loop {
        match attempt(sink, client, tokens, &request).await {
            Verdict::Sent => {
                outbox.works();
                return message.sent();
            }
            Verdict::Lost { cause, error } => {
                outbox.fails(&error, false);
                return message.lost(cause);
            }
            Verdict::Again { error, counts, wait: asked } => {
                outbox.fails(&error, true);
                errors += u64::from(counts);
                if errors >= attempts {
                    return message.lost(SERVER_ERROR);
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
            // The token has ended before its expected time.
            Verdict::Again { error, counts: true, wait: None }
        }
        (verdict, _) => verdict,
    }
}
