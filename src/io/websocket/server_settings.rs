//! The settings of the data server.

use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::ServerConfig;

use super::jwt::JwtSettings;
use crate::io::tls::{self, TlsError};

#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// address to listen on, `source.httpServerIp`
    pub ip: String,
    /// port, `source.httpServerPort`; 0: any free one
    pub port: u16,
    /// PEM files, `source.httpServerTls`
    pub tls: Option<ServerTls>,
    /// time limit for the TLS and HTTP handshake of a client together
    pub handshake_timeout: Duration,
    /// origins of web pages that may connect, `source.httpServerOrigins`; none: all. Clients without an origin are not
    /// web pages and are always allowed.
    pub origins: Vec<String>,
    /// tokens, one of which a client must send, `source.httpServerTokens`; none: no token needed
    pub tokens: Vec<String>,
    /// how long an endpoint of the data server stays, with its clients, after its last user has left:
    /// `source.endpointLinger`
    pub linger: Duration,
    /// the most connected clients, `source.maxConnections`; 0: as many as the descriptors of this process allow, less a
    /// reserve
    pub max_connections: usize,
    /// the most connected clients of one address (for IPv6: of one network of 64 bits), `source.maxConnectionsPerIp`;
    /// 0: no limit
    pub max_connections_per_ip: usize,
    /// bytes of incomplete messages of all connections together, also dialled ones; a connection that needs more is
    /// closed with code 1013
    pub unfinished_bytes: usize,
    /// keys of JSON web tokens that are accepted too, `source.httpServerJwt`
    pub jwt: Option<JwtSettings>,
}

/// The PEM files of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerTls {
    /// certificate chain
    pub certfile: String,
    /// private key
    pub keyfile: String,
    /// authorities for client certificates, which are then required; none: not required
    pub client_ca_file: Option<String>,
}

impl ServerTls {
    /// Reads the files; `names` are the settings that name them.
    ///
    /// # Errors
    /// [`TlsError`] with the setting and the file at fault.
    pub fn load(&self, names: tls::ServerNames) -> Result<Arc<ServerConfig>, TlsError> {
        tls::server(names, &self.certfile, &self.keyfile, self.client_ca_file.as_deref())
    }
}

impl Default for ServerSettings {
    /// A server on a free port of the loopback interface. The defaults for users are in the rows of the configuration.
    fn default() -> Self {
        ServerSettings {
            ip: "127.0.0.1".into(),
            port: 0,
            tls: None,
            handshake_timeout: Duration::from_secs(10),
            origins: Vec::new(),
            tokens: Vec::new(),
            linger: Duration::ZERO,
            max_connections: 0,
            max_connections_per_ip: 0,
            unfinished_bytes: 256 << 20,
            jwt: None,
        }
    }
}
