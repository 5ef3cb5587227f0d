//! The client of the REST API: finds the service, sends requests, and interprets responses.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use ureq::unversioned::resolver::DefaultResolver;

use super::sending::sent;
use super::tls;
use crate::api;
use crate::cli::{Failure, config_of, say};
use crate::io::tls::{ClientTls, Identity, Pem, TlsError};

/// The largest response that is read, bytes.
const LARGEST: u64 = 256 << 20;

/// Where the service is, and the credentials for it.
#[derive(Args)]
pub struct Door {
    /// URL of the service's REST API, such as http://127.0.0.1:9081; default: from the configuration
    #[arg(long, env = "PLUTINO_URL", value_name = "URL")]
    url: Option<String>,
    /// Token for the REST API, if it requires one
    #[arg(long, env = "PLUTINO_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// PEM file with the certificates to trust for https instead of the well-known ones; it may contain the service's
    /// own certificate
    #[arg(long, env = "PLUTINO_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Accept any certificate of the service
    #[arg(long)]
    insecure: bool,
    /// Configuration folder, which names the service's address
    #[arg(long, value_name = "DIR", default_value = "etc")]
    etc: PathBuf,
}

impl Door {
    /// The service at `url`, or the one that the default configuration names.
    pub fn at(url: Option<String>, token: Option<String>, ca: Option<PathBuf>, insecure: bool) -> Door {
        Door { url, token, ca, insecure, etc: PathBuf::from(crate::cli::DEFAULT_ETC) }
    }

    /// The address of the REST API, without a trailing slash.
    pub fn base(&self) -> Result<String, Failure> {
        if let Some(url) = &self.url {
            return Ok(url.trim_end_matches('/').to_owned());
        }
        let config = config_of(&self.etc)?;
        let scheme = if config.rest_tls.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{}", reachable(config.rest)))
    }

    /// A client that trusts certificates according to `--ca` and `--insecure`. It gives up after `patience`.
    pub fn agent(&self, patience: Option<Duration>) -> Result<ureq::Agent, Failure> {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(patience);
        // `sent` follows the redirects that it trusts, with body and token.
        let agent = agent.max_redirects(0).build();
        if self.ca.is_none() && !self.insecure {
            return Ok(agent.into());
        }
        let refused = |error: TlsError| Failure::Refused(error.to_string().trim_start_matches("property ").to_owned());
        let roots = self.ca.as_ref().map(|file| Pem::file("--ca", &file.to_string_lossy()));
        let identity =
            Identity { insecure: self.insecure, roots: roots.transpose().map_err(refused)?, ..Identity::default() };
        let tls = ClientTls::new(Arc::new(identity)).map_err(refused)?;
        Ok(ureq::Agent::with_parts(agent, tls::connector(tls.config), DefaultResolver::default()))
    }

    /// The body of a response as a stream, since it can be large.
    pub fn download(&self, path: &str) -> Result<impl std::io::Read + use<>, Failure> {
        let base = self.base()?;
        let (agent, token) = (self.agent(None)?, self.authorization());
        let answer = sent(&base, path, |at| match &token {
            Some(token) => agent.get(at).header("authorization", token).call(),
            None => agent.get(at).call(),
        })?;
        let status = answer.status();
        let mut body = answer.into_body();
        if !status.is_success() {
            let body = body.read_to_string().unwrap_or_default();
            let answer = Answer { status: status.as_u16(), body };
            let text = answer.message();
            if text != answer.body.trim_end() {
                return Err(Failure::Service(text));
            }
            return Err(Failure::Refused(format!("{base}{path}: {status}: {}", text.trim_end())));
        }
        Ok(body.into_reader())
    }

    /// The value of the header `Authorization`.
    pub fn authorization(&self) -> Option<String> {
        bearer(self.token.as_deref())
    }
}

/// The value of the header `Authorization`. A token with a space is used as it is, any other follows `Bearer`.
pub fn bearer(token: Option<&str>) -> Option<String> {
    let token = token.map(str::trim).filter(|token| !token.is_empty())?;
    Some(if token.contains(' ') { token.to_owned() } else { format!("Bearer {token}") })
}

/// The address at which a client on this machine reaches a server that listens on `address`.
fn reachable(address: std::net::SocketAddr) -> std::net::SocketAddr {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

pub(super) struct Service {
    pub(super) base: String,
    pub(super) agent: ureq::Agent,
    /// value of the header `Authorization`
    pub(super) token: Option<String>,
    /// whether to request details of errors: people read them, but scripts compare eKuiper's text
    pub(super) details: bool,
}

impl Service {
    pub(super) fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.answer(path, |at| self.allowed(self.agent.get(at)).call())
    }

    pub(super) fn delete(&self, path: &str) -> Result<Answer, Failure> {
        self.answer(path, |at| self.allowed(self.agent.delete(at)).call())
    }

    pub(super) fn put(&self, path: &str, body: &str) -> Result<Answer, Failure> {
        self.answer(path, |at| self.with_json(self.agent.put(at)).send(body))
    }

    pub(super) fn post(&self, path: &str, body: &str) -> Result<Answer, Failure> {
        let mut path = path.to_owned();
        if self.details {
            path.push_str(if path.contains('?') { "&details" } else { "?details" });
        }
        self.answer(&path, |at| self.with_json(self.agent.post(at)).send(body))
    }

    fn with_json<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        let request = self.allowed(request).header("content-type", "application/json");
        request.header("x-plutino-details", "warnings")
    }

    fn allowed<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("authorization", token.as_str()),
            None => request,
        }
    }

    fn answer(
        &self,
        path: &str,
        send: impl Fn(String) -> Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Answer, Failure> {
        let base = &self.base;
        let mut response = sent(base, path, send)?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(LARGEST).read_to_string();
        let body = body.map_err(|error| Failure::Refused(format!("the answer of {base} ended early: {error}")))?;
        Ok(Answer { status, body }.after_warnings())
    }
}

/// The response to a request.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

impl Answer {
    /// Prints the service's warnings about an accepted request; returns the response without them.
    fn after_warnings(mut self) -> Answer {
        let Ok(mut body) = serde_json::from_str::<Value>(&self.body) else { return self };
        let Some(warnings) = body.as_object_mut().and_then(|body| body.remove("warnings")) else { return self };
        for warning in warnings.as_array().into_iter().flatten() {
            say(&format!("warning: {}", warning["message"].as_str().unwrap_or_default()));
        }
        self.body = match &body["message"] {
            Value::String(message) => message.clone(),
            _ => body.to_string(),
        };
        self
    }

    pub(super) fn is_right(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The text of an error.
    pub(super) fn message(&self) -> String {
        error_text(&self.body)
    }

    /// `text`, followed by the details of each error if they were requested.
    pub(super) fn explained(&self, text: String) -> String {
        let body = serde_json::from_str::<Value>(&self.body).unwrap_or_default();
        let details = body["details"].as_array().map(Vec::as_slice).unwrap_or_default();
        api::explained(&text, details)
    }

    pub(super) fn parsed(&self) -> Result<Value, Failure> {
        serde_json::from_str(&self.body)
            .map_err(|error| Failure::Refused(format!("cannot understand the service's answer: {error}")))
    }
}

/// The text of an error response, with what to do about it on the command line.
pub fn error_text(body: &str) -> String {
    let message = serde_json::from_str::<Value>(body).ok();
    let message = message.and_then(|body| body.get("message")?.as_str().map(str::to_owned));
    let text = message.unwrap_or_else(|| body.trim_end().to_owned());
    match text.as_str() {
        "missing_token" => format!("{text}: pass a token for the REST API with --token or PLUTINO_TOKEN"),
        _ => text,
    }
}

/// A name, percent-encoded for a path.
pub fn escaped(name: &str) -> String {
    let mut path = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => path.push(char::from(byte)),
            other => {
                let _ = write!(path, "%{other:02X}");
            }
        }
    }
    path
}
