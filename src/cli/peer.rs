//! The websocket connection of `feed` and `tail`: they dial the URL, or listen at it with `--listen`.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{StatusCode, Uri};

use super::Failure;
use crate::io::websocket::{self, DialError, Settings, Wire};

/// The endpoint, and how to reach it.
#[derive(Args)]
pub struct Peer {
    /// ws://host:port/path or wss://host:port/path
    pub url: String,
    /// Listen at this URL instead of dialling it
    #[arg(long)]
    pub listen: bool,
    /// Token for the data server, if it requires one: the header `Authorization: Bearer TOKEN`. Without it,
    /// PLUTINO_DATA_TOKEN is sent to a server that answers 401
    #[arg(long, alias = "token", value_name = "TOKEN", conflicts_with = "listen")]
    pub data_token: Option<String>,
    #[command(flatten)]
    pub access: Access,
}

/// How to connect to a peer.
#[derive(Args)]
pub struct Access {
    /// Accept any server certificate
    #[arg(long)]
    pub insecure: bool,
    /// PEM file with the certificates to trust instead of the system's
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Header of the handshake; can be given several times
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
}

/// A URL's parts.
struct Url {
    scheme: String,
    host: String,
    port: u16,
    path: String,
}

impl Url {
    fn read(url: &str) -> Result<Url, Failure> {
        let wrong = || Failure::Usage(format!("{:?} is not a websocket URL; expected ws://host:port/path", url));
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let scheme = uri.scheme_str().ok_or_else(wrong)?.to_ascii_lowercase();
        let default = match scheme.as_str() {
            "ws" => 80,
            "wss" => 443,
            _ => return Err(wrong()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Url { scheme, host: host.to_owned(), port: uri.port_u16().unwrap_or(default), path })
    }
}

impl Access {
    /// Dials a URL once, with the data server's token if there is one. The token of the environment is only for servers
    /// that require one: a URL may lead anywhere.
    pub async fn dial(&self, url: &str, token: Option<&str>) -> Result<WebSocketStream<Wire>, Failure> {
        let given = std::env::var("PLUTINO_DATA_TOKEN").ok().filter(|given| token.is_none() && !given.is_empty());
        let dialled = match (self.dial_with(url, token).await?, given) {
            (Err(DialError::Status { status: 401, .. }), Some(given)) => self.dial_with(url, Some(&given)).await?,
            (dialled, _) => dialled,
        };
        dialled.map_err(|error| {
            let hint = match error {
                DialError::Status { status: 401, .. } => {
                    "; if it is a data server, pass its token with --data-token or PLUTINO_DATA_TOKEN, otherwise use --header"
                }
                _ => "",
            };
            Failure::Refused(format!("{error}{hint}"))
        })
    }

    async fn dial_with(
        &self,
        url: &str,
        token: Option<&str>,
    ) -> Result<Result<WebSocketStream<Wire>, DialError>, Failure> {
        let url = Url::read(url)?;
        let mut headers = Map::new();
        for header in &self.headers {
            let Some((name, value)) = header.split_once(':') else {
                return Err(Failure::Usage(format!("--header {header:?}: expected NAME: VALUE")));
            };
            headers.insert(name.trim().to_owned(), json!(value.trim()));
        }
        if let Some(token) = token {
            headers.insert("Authorization".to_owned(), json!(format!("Bearer {token}")));
        }
        let mut props = Map::from_iter([
            ("addr".to_owned(), json!(format!("{}:{}", url.host, url.port))),
            ("scheme".to_owned(), json!(url.scheme)),
            ("headers".to_owned(), json!(headers)),
            ("insecureSkipVerify".to_owned(), json!(self.insecure)),
        ]);
        if let Some(ca) = &self.ca {
            props.insert("rootCaPath".to_owned(), json!(ca.to_string_lossy()));
        }
        let (settings, _) = Settings::source(&url.path, &props).map_err(|error| Failure::Refused(error.to_string()))?;
        Ok(websocket::dial(&settings).await)
    }
}

impl Peer {
    fn url(&self) -> Result<Url, Failure> {
        Url::read(&self.url)
    }

    /// Dials once.
    pub async fn dial(&self) -> Result<WebSocketStream<Wire>, Failure> {
        self.access.dial(&self.url, self.data_token.as_deref()).await
    }

    /// Listens at the URL's host and port, and reports the address.
    pub async fn bind(&self) -> Result<Door, Failure> {
        let url = self.url()?;
        if url.scheme == "wss" {
            let message = "--listen needs a ws:// URL; for wss://, use a rule and httpServerTls";
            return Err(Failure::Usage(message.to_owned()));
        }
        let host = url.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let listener = TcpListener::bind((host.as_str(), url.port)).await.map_err(|error| {
            Failure::Refused(format!("cannot listen on {}:{}: {error}; choose another port", url.host, url.port))
        })?;
        let port = listener.local_addr().map_or(url.port, |address| address.port());
        super::say(&format!("listening on ws://{}:{port}{}", url.host, url.path));
        let path = url.path.split('?').next().unwrap_or("/").to_owned();
        Ok(Door { listener, path })
    }
}

/// A listening socket for one path.
pub struct Door {
    listener: TcpListener,
    path: String,
}

impl Door {
    /// The next TCP connection; [`Door::greet`] does the handshake.
    pub async fn client(&self) -> TcpStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    return stream;
                }
                Err(error) => {
                    // Too many open files, or a client that disconnected at once: the next accept may succeed.
                    tracing::warn!(%error, "a client could not be accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// The handshake; a client at another path gets 404.
    pub async fn greet(&self, stream: TcpStream) -> Option<WebSocketStream<TcpStream>> {
        #[expect(clippy::result_large_err, reason = "the type is tungstenite's")]
        let answer = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
            if request.uri().path() == self.path {
                return Ok(response);
            }
            let mut refusal = ErrorResponse::new(Some("404 page not found\n".to_owned()));
            *refusal.status_mut() = StatusCode::NOT_FOUND;
            Err(refusal)
        };
        let limit = std::time::Duration::from_secs(10);
        match tokio::time::timeout(limit, tokio_tungstenite::accept_hdr_async(stream, answer)).await {
            Ok(Ok(websocket)) => Some(websocket),
            Ok(Err(error)) => {
                tracing::warn!(%error, "a client's handshake failed");
                None
            }
            Err(_) => None,
        }
    }
}
