//! Who is let in at the data server, and by which certificate.
//!
//! The operator can change it while the server listens: it holds for those who come from then on. Clients that are
//! connected stay.

use std::sync::Arc;

use tokio_rustls::rustls::ServerConfig;

use super::ConnectError;
use super::gate::{Gate, Refusals};
use super::jwt::JwtKeys;
use super::server_settings::ServerSettings;

/// The certificates, lists and keys that settings name, loaded.
pub struct Access {
    /// what it was made from
    pub(super) settings: ServerSettings,
    /// with it, clients speak TLS
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// who is let in
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
