//! Access tokens for requests (`oAuth`): fetched before the first request, and again when they have expired or the
//! server refuses them.
//!
//! The answer of the token server is an object. Headers of the sink are templates of it, such as
//! `Bearer {{.access_token}}`. Token servers are dialled like the sink's own: their addresses pass the same check.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::client::HttpClient;
use super::properties::{origin, uri};
use super::request::Prepared;
use super::verdict::Verdict;
use super::{Origin, ResponseType};
use crate::format::address::{AddressError, NO_VALUE, Part};
use crate::text::secret::masked_url;
use crate::value::{Value, json};

/// The property `oAuth`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct OAuth {
    pub access: TokenRequest,
    /// how a token is renewed; `None`: by another request for access
    pub refresh: Option<TokenRequest>,
    /// the seconds after which a token is renewed; 0: only when the server refuses it
    pub expire: Option<Part>,
    /// the sink's headers that use the answer
    pub headers: Vec<(String, Part)>,
}

/// A request to a token server.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TokenRequest {
    pub url: String,
    pub origin: Origin,
    pub headers: Vec<(String, Part)>,
    pub body: Option<Part>,
}

/// Fetches the tokens of a sink.
pub(super) struct Tokens {
    oauth: OAuth,
    access: HttpClient,
    refresh: Option<HttpClient>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// members of the answers; a refresh replaces those that it brings
    answer: Option<Value>,
    token: Option<(Token, Option<Instant>)>,
    fetched: u64,
}

impl OAuth {
    /// The token servers.
    pub fn servers(&self) -> impl Iterator<Item = &Origin> {
        [Some(&self.access), self.refresh.as_ref()].into_iter().flatten().map(|request| &request.origin)
    }
}

/// A token, as the headers that carry it.
#[derive(Clone, Debug)]
pub(super) struct Token {
    headers: HeaderMap,
    /// unique for each token
    number: u64,
    /// whether no request has used it yet
    fresh: bool,
}

/// A token that cannot be used.
#[derive(Debug, thiserror::Error)]
enum TokenError {
    #[error("the answer of {0} is not a JSON object")]
    Answer(String),
    #[error("oAuth: {0}")]
    Template(#[from] AddressError),
    #[error("oAuth.access.expire gives {0:?}, expected a number of seconds")]
    Expire(String),
    #[error("the answer of the token server has no value for the header {0}, or one that a header cannot have")]
    Header(String),
}

impl Tokens {
    /// `client` makes the client for requests to a server.
    pub fn new(oauth: OAuth, client: impl Fn(&Origin) -> HttpClient) -> Tokens {
        let access = client(&oauth.access.origin);
        let refresh = oauth.refresh.as_ref().map(|refresh| client(&refresh.origin));
        Tokens { oauth, access, refresh, held: Mutex::default() }
    }

    /// A token that has not expired.
    ///
    /// # Errors
    /// What the failure means for the message that waits for it.
    pub async fn token(&self) -> Result<Token, Verdict> {
        let mut held = self.held.lock().await;
        if let Some((token, until)) = &held.token
            && until.is_none_or(|until| Instant::now() < until)
        {
            return Ok(token.clone());
        }
        let refresh = self.oauth.refresh.as_ref().zip(self.refresh.as_ref());
        let renewed = match (refresh, held.answer.take()) {
            // The refresh token may have expired too: then access is requested again.
            (Some((request, client)), Some(old)) => ask(client, request, &old).await.ok().map(|new| joined(old, new)),
            _ => None,
        };
        let answer = match renewed {
            Some(answer) => answer,
            None => ask(&self.access, &self.oauth.access, &Value::Null).await?,
        };
        held.fetched += 1;
        let made = self.made_of(&answer, held.fetched);
        let (token, until) =
            made.map_err(|error| Verdict::Again { error: error.to_string(), counts: true, wait: None })?;
        held.answer = Some(answer);
        held.token = Some((Token { fresh: false, ..token.clone() }, until));
        Ok(token)
    }

    /// Forgets a token that the server has refused; returns false if the first use of the token was refused.
    pub async fn forget(&self, token: &Token) -> bool {
        let mut held = self.held.lock().await;
        if held.token.as_ref().is_some_and(|(known, _)| known.number == token.number) {
            held.token = None;
        }
        !token.fresh
    }

    fn made_of(&self, answer: &Value, number: u64) -> Result<(Token, Option<Instant>), TokenError> {
        let mut headers = HeaderMap::new();
        for (name, part) in &self.oauth.headers {
            headers.extend([header_of(name, part, answer)?]);
        }
        let until = match &self.oauth.expire {
            None => None,
            Some(part) => {
                let text = part.text_of(answer)?;
                let seconds: u64 = text.parse().map_err(|_| TokenError::Expire(text.to_string()))?;
                (seconds > 0).then(|| Instant::now().checked_add(Duration::from_secs(seconds))).flatten()
            }
        };
        Ok((Token { headers, number, fresh: true }, until))
    }
}

impl Token {
    /// The request with the token.
    pub fn added_to(&self, request: &Prepared) -> Prepared {
        let mut request = request.clone();
        self.headers.iter().for_each(|(name, value)| drop(request.headers.insert(name, value.clone())));
        request
    }
}

/// Requests a token; `known` is the previous answer of the server.
async fn ask(client: &HttpClient, request: &TokenRequest, known: &Value) -> Result<Value, Verdict> {
    let unusable = |error: TokenError| Verdict::Again { error: error.to_string(), counts: true, wait: None };
    let request = request.prepare(known).map_err(unusable)?;
    let sent = client.send(&request).await;
    let body = sent.as_ref().ok().map(|answer| answer.body.clone());
    match (Verdict::of(ResponseType::Code, &request, sent), body) {
        (Verdict::Sent, Some(body)) => {
            let answer = std::str::from_utf8(&body).ok().and_then(|text| json::parse(text).ok());
            let address = || masked_url(&request.uri.to_string()).into_owned();
            answer
                .filter(|answer| matches!(answer, Value::Object(_)))
                .ok_or_else(|| unusable(TokenError::Answer(address())))
        }
        (verdict, _) => Err(verdict),
    }
}

/// The members of both objects; if both have a member, the new value counts, unless it is null.
fn joined(old: Value, new: Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (&old, &new) else { return new };
    let new = new.iter().filter(|(_, value)| !value.is_null());
    Value::object(old.iter().chain(new).map(|(name, value)| (name.clone(), value.clone())))
}

fn header_of(name: &str, part: &Part, answer: &Value) -> Result<(HeaderName, HeaderValue), TokenError> {
    let bad = || TokenError::Header(name.to_owned());
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
    let text = part.text_of(answer)?;
    if text.contains(NO_VALUE) {
        return Err(bad());
    }
    let mut value = HeaderValue::from_str(&text).map_err(|_| bad())?;
    value.set_sensitive(true);
    Ok((name, value))
}

impl TokenRequest {
    fn prepare(&self, known: &Value) -> Result<Prepared, TokenError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        for (name, part) in &self.headers {
            let (name, value) = header_of(name, part, known)?;
            headers.insert(name, value);
        }
        let body = match &self.body {
            Some(part) => Bytes::from(part.text_of(known)?.to_string()),
            None => Bytes::new(),
        };
        // The URL was checked when the rule was made.
        let uri = uri(&self.url).unwrap_or_default();
        Ok(Prepared { method: Method::POST, uri, origin: self.origin.clone(), headers, body })
    }
}

/// The server of a token request's URL.
pub(super) fn token_server(url: &str) -> Option<Origin> {
    uri(url).as_ref().and_then(origin)
}
