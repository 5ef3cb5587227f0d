//! The settings of the data server.

use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::ServerConfig;

use super::jwt::JwtSettings;
use crate::io::tls::{self, TlsError};

/// The data server's settings.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// address to listen on, `source.httpServerIp`
    pub ip: String,
    /// port, `source.httpServerPort`; 0: any free one
    pub port: u16,
    /// PEM files, `source.httpServerTls`
    pub tls: Option<ServerTls>,
    /// limit of a client's TLS and HTTP handshake together
    pub handshake_timeout: Duration,
    /// origins of web pages whose clients are let in, `source.httpServerOrigins`; none: all. Clients that name no
    /// origin are no web pages, and are not asked for one.
    pub origins: Vec<String>,
    /// tokens of which a client must show one, `source.httpServerTokens`; none: nobody is asked
    pub tokens: Vec<String>,
    /// how long an endpoint of the data server stays, with its clients, when nothing uses it any more:
    /// `source.endpointLinger`
    pub linger: Duration,
    /// clients of the data server that may be connected, `source.maxConnections`; 0: as many as the descriptors of this
    /// process allow, less a reserve
    pub max_connections: usize,
    /// the same, of one address (of IPv6: one network of 64 bits), `source.maxConnectionsPerIp`; 0: no limit
    pub max_connections_per_ip: usize,
    /// bytes that large messages may take while they are not whole, of all connections together, dialled ones too; a
    /// connection that needs more is closed with code 1013
    pub unfinished_bytes: usize,
    /// keys of JSON web tokens that let clients in, too, `source.httpServerJwt`
    pub jwt: Option<JwtSettings>,
}

/// A server's PEM files.
#[derive(Clone, Debug, Default)]
pub struct ServerTls {
    /// certificate chain
    pub certfile: String,
    /// its key
    pub keyfile: String,
    /// authorities of which every client must show a certificate; none: nobody is asked
    pub client_ca_file: Option<String>,
}

impl ServerTls {
    /// What the files say; `names` are the settings that name them.
    ///
    /// # Errors
    /// [`TlsError`] with the setting and the file at fault.
    pub fn load(&self, names: tls::ServerNames) -> Result<Arc<ServerConfig>, TlsError> {
        tls::server(names, &self.certfile, &self.keyfile, self.client_ca_file.as_deref())
    }
}

impl Default for ServerSettings {
    /// A server on a free port of the loopback interface. The defaults of users are in the rows of the configuration.
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
