//! SIGHUP at `plutino serve`: reads the configuration again, and applies what can be applied.
//!
//! Everything in a new configuration is loaded before any of it is applied; if there is an error, the old one stays. A
//! missing file is an error too: its defaults would open what it had closed, such as the data server. A setting that
//! REST has changed stays until the files change it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;
use tokio_rustls::rustls::ServerConfig;

use super::hosts::terms;
use super::{Failure, load};
use crate::config::{Config, Differences};
use crate::io::websocket::{ServerSettings, ServerTls};
use crate::logging::{self, Level, LogChange, RELOAD};
use crate::service::Service;
use crate::text::document::{Problem, Severity};

/// Reads the configuration of a running service again.
pub struct Reloader {
    etc: PathBuf,
    service: Service,
    /// The configuration at the start, with everything applied since.
    running: Config,
    /// `--log` or `PLUTINO_LOG` is set, which overrides the level in the files.
    has_log: bool,
    /// The TLS of the REST API.
    tls: Option<watch::Sender<Arc<ServerConfig>>>,
    /// This is one of several processes, which share some settings.
    in_cluster: bool,
}

impl Reloader {
    pub fn new(
        etc: &Path,
        service: Service,
        running: Config,
        has_log: bool,
        tls: Option<watch::Sender<Arc<ServerConfig>>>,
    ) -> Reloader {
        Reloader { etc: etc.to_owned(), service, running, has_log, tls, in_cluster: false }
    }

    /// The same in a cluster.
    pub fn in_cluster(self) -> Reloader {
        Reloader { in_cluster: true, ..self }
    }

    /// Reads the files and applies them. Errors are logged; then nothing has changed.
    pub async fn reload(&mut self) {
        match self.take_over().await {
            Ok(Differences { at_once, at_restart }) => {
                let changed = if at_once.is_empty() { "no setting has changed".to_owned() } else { at_once.join(", ") };
                tracing::info!(target: RELOAD, "the configuration was read again, with certificates and keys: {changed}");
                if !at_restart.is_empty() {
                    tracing::warn!("changed, needs a restart: {}", at_restart.join(", "));
                }
                warn_of_open_data_server(&self.running.server);
            }
            Err(Failure::Problems(problems)) => {
                problems.iter().for_each(log);
                tracing::error!("the new configuration has an error: the old one stays in effect");
            }
            Err(failure) => {
                if let Failure::Refused(reason) | Failure::Usage(reason) = failure {
                    tracing::error!("the new configuration cannot be used, the old one stays in effect: {reason}");
                }
            }
        }
    }

    async fn take_over(&mut self) -> Result<Differences, Failure> {
        let (new, warnings) = load(&self.etc)?;
        let refused = |error: &dyn std::fmt::Display| Failure::Refused(error.to_string());
        if self.in_cluster
            && let Some(term) =
                terms("serve", &new).into_iter().find(|term| !terms("serve", &self.running).contains(term))
        {
            let all = "all processes (--hosts) have the same: change it for all, and restart them";
            return Err(Failure::Refused(format!("{}: {all}", term.name)));
        }
        if let Some(gone) = self.running.files.iter().find(|file| !new.files.contains(file)) {
            let what = "is gone: put it back, or restart the service to continue without it";
            return Err(Failure::Refused(format!("{} {what}", gone.display())));
        }
        if asks(&self.running.server)
            && !asks(&new.server)
            && let Some(blank) = new.files.iter().find(|file| is_blank(file))
        {
            let what = "is empty, which would open the data server: restart the service if that is meant";
            return Err(Failure::Refused(format!("{} {what}", blank.display())));
        }
        let differences = self.running.differences(&new);
        let has_changed = |name| differences.at_once.contains(&name);
        let tls = match (&self.tls, &new.rest_tls) {
            (Some(running), Some(files)) => Some((running, rest_tls(files)?)),
            _ => None,
        };
        let reload = self.service.prepare_reload(new.clone()).await.map_err(|error| refused(&error))?;
        let level = new.log.as_deref().and_then(Level::of).unwrap_or(Level::Warn);
        let change = LogChange {
            level: (has_changed("basic.logLevel") && !self.has_log).then_some(level),
            // The level from the files takes `basic.debug` into account.
            debug: (has_changed("basic.logLevel") && !self.has_log).then_some(false),
            console: has_changed("basic.consoleLog").then_some(new.console_log),
            file: has_changed("basic.fileLog").then_some(new.file_log),
        };
        // This is the last step that can fail because of the files.
        if change != LogChange::default() {
            logging::change(&change).map_err(|error| refused(&error))?;
        }
        self.service.reload(reload, has_changed("basic.timezone")).await.map_err(|error| refused(&error))?;
        if let Some((running, tls)) = tls {
            running.send_replace(tls);
        }
        self.running = self.running.taking_over(&new);
        warnings.iter().for_each(log);
        Ok(differences)
    }
}

/// Logs a problem in a file.
fn log(problem: &Problem) {
    match problem.severity {
        Severity::Error => tracing::error!("{problem}"),
        Severity::Warning => tracing::warn!("{problem}"),
    }
}

/// Logs one line if anybody can use the data server, which eKuiper's defaults allow.
pub fn warn_of_open_data_server(server: &ServerSettings) {
    let local = server.ip.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if !local && !asks(server) {
        tracing::warn!(
            "the data server listens on {}:{} for anybody: set source.httpServerIp, source.httpServerTokens, \
             source.httpServerJwt or source.httpServerTls.clientCaFile",
            server.ip,
            server.port
        );
    }
}

/// Whether clients of the data server need a token or certificate.
fn asks(server: &ServerSettings) -> bool {
    !server.tokens.is_empty()
        || server.jwt.is_some()
        || server.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some())
}

/// Whether a file is empty: an editor or a full disk may have cut it off.
fn is_blank(file: &Path) -> bool {
    std::fs::read(file).is_ok_and(|bytes| bytes.trim_ascii().is_empty())
}

/// Loads the certificates of the REST API.
///
/// # Errors
/// [`Failure::Refused`] names the setting and the file.
pub fn rest_tls(files: &ServerTls) -> Result<Arc<ServerConfig>, Failure> {
    let names = ["basic.restTls.certfile", "basic.restTls.keyfile", "basic.restTls.clientCaFile"];
    files.load(names).map_err(|error| Failure::Refused(error.to_string()))
}
