//! Why a link cannot be opened.

use std::io;

use super::jwt::JwtError;
use crate::io::tls::TlsError;

/// A link that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "the data server cannot listen on {ip}:{port}: the port is in use by another process; stop that one, or set \
         source.httpServerPort (environment: KUIPER__SOURCE__HTTPSERVERPORT) to a free port, or to 0 for any"
    )]
    PortInUse { ip: String, port: u16 },
    #[error("the data server cannot listen on {ip}:{port}: {source}; check source.httpServerIp and httpServerPort")]
    Listen { ip: String, port: u16, source: io::Error },
    /// the data server's certificates are invalid
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// the keys for tokens are invalid
    #[error(transparent)]
    Jwt(#[from] JwtError),
    #[error("checkConnection: {0}")]
    Unreachable(String),
    #[error("checkConnection: no client is connected to the endpoint {0}")]
    NoClient(String),
}
