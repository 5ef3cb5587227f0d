//! Who may connect to the data server, and the server's certificate.
//!
//! The operator can change it while the server listens: it applies to new clients. Connected clients stay.

use std::sync::Arc;

use tokio_rustls::rustls::ServerConfig;

use super::ConnectError;
use super::gate::{Gate, Refusals};
use super::jwt::JwtKeys;
use super::server_settings::ServerSettings;

/// The certificates, lists and keys that the settings name.
pub struct Access {
    /// the settings that it was loaded from
    pub(super) settings: ServerSettings,
    /// if set, clients must use TLS
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// who may connect
    pub(super) gate: Gate,
}

impl Access {
    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// [`ConnectError::Tls`], [`ConnectError::Jwt`]
    pub(super) fn load(settings: &ServerSettings, refusals: Arc<Refusals>) -> Result<Access, ConnectError> {
        let names = ["httpServerTls.certfile", "httpServerTls.keyfile", "httpServerTls.clientCaFile"];
        let tls = settings.tls.as_ref().map(|files| files.load(names)).transpose()?;
        let jwt = settings.jwt.as_ref().map(JwtKeys::load).transpose()?;
        let gate = Gate::new(settings.origins.clone(), settings.tokens.clone(), jwt, refusals);
        Ok(Access { settings: settings.clone(), tls, gate })
    }
}
