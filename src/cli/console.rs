//! `run --console`: a read-only console and REST API for a run.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{RwLock, watch};
use tokio::task::JoinHandle;
use tokio_rustls::rustls::ServerConfig;

use super::Failure;
use super::hosts::reachable;
use super::reload::rest_tls;
use crate::api::{self, Keys};
use crate::cluster::{ControlSocket, Membership};
use crate::config::Config;
use crate::engine::Engine;
use crate::pipeline::Content;
use crate::service::{EngineGuard, Service};
use crate::sync::locked;

/// How long pending requests may take at the end.
const LAST_REQUESTS: Duration = Duration::from_millis(500);

/// The value of `--console`: an address, or nothing, so that the configuration decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    OfConfig,
    At(SocketAddr),
}

/// Parses the value of `--console`: nothing, a port, or an address with a port.
pub fn address(text: &str) -> Result<Address, String> {
    if text.is_empty() {
        return Ok(Address::OfConfig);
    }
    let port = text.parse().map(|port: u16| SocketAddr::from(([127, 0, 0, 1], port)));
    let address = port.or_else(|_| text.parse());
    address.map(Address::At).map_err(|_| "expected a port, or an address with a port such as 127.0.0.1:9081".to_owned())
}

/// The console before there is anything to show. Its port is bound.
pub struct Console {
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    config: Config,
    keys: PathBuf,
    data: PathBuf,
}

impl Console {
    /// Listens at `address`, or by default where the configuration puts the REST API.
    ///
    /// # Errors
    /// [`Failure::Refused`]
    pub async fn bind(address: Address, mut config: Config, etc: PathBuf, data: PathBuf) -> Result<Console, Failure> {
        if let Address::At(address) = address {
            config.rest = address;
        }
        let tls = config.rest_tls.as_ref().map(rest_tls).transpose()?;
        let listener = TcpListener::bind(config.rest).await.map_err(|error| {
            let hint = "name another one with --console=PORT";
            Failure::Refused(format!("the console cannot listen on {}: {error}; {hint}", config.rest))
        })?;
        Ok(Console { listener, tls, config, keys: etc.join("mgmt"), data })
    }

    /// The console's URL.
    pub fn url(&self) -> String {
        format!("{}://{}/console/", self.scheme(), self.address())
    }

    /// The URL of its REST API for the other processes of a cluster.
    pub fn rest_url(&self, membership: &Membership) -> String {
        format!("{}://{}", self.scheme(), reachable(self.address(), membership))
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap_or(self.config.rest)
    }

    /// Shows what runs on the engine, in a cluster what runs in all processes: process 0 asks the others, and these
    /// redirect requests to it.
    ///
    /// # Errors
    /// [`Failure::Refused`] if the links to the other processes cannot be used.
    pub async fn show(self, engine: Engine, content: &Content, others: Option<Others>) -> Result<Shown, Failure> {
        let Console { listener, tls, config, keys, data } = self;
        let address = config.rest;
        let keys = config.authentication.then(|| Keys::new(keys));
        if keys.is_none() && !address.ip().is_loopback() {
            tracing::warn!(%address, "everyone who can reach the console can read all messages: see basic.authentication");
        }
        let service = Service::showing(engine, config, &data);
        service.show(content).await;
        let leader = match others {
            None => None,
            Some(Others { membership, leader, controls }) => {
                let joined = service.join(&membership, controls);
                joined.map_err(|error| Failure::Refused(error.to_string()))?;
                leader
            }
        };
        let app = match &leader {
            Some(leader) => api::following_app(service.clone(), keys, leader),
            None => api::app(service.clone(), keys, false),
        };
        let (ending, mut ends) = watch::channel(false);
        let ended = async move { drop(ends.wait_for(|ends| *ends).await) };
        // Certificates do not change while it runs.
        let tls = tls.map(|tls| watch::Sender::new(tls).subscribe());
        let served = tokio::spawn(api::serve(listener, tls, app, ended));
        Ok(Shown { service, served: Mutex::new(Some(served)), ending })
    }
}

/// The other processes of a cluster.
pub struct Others {
    pub membership: Membership,
    /// the URL of process 0's REST API; `None` in process 0
    pub leader: Option<String>,
    pub controls: Vec<ControlSocket>,
}

/// A run that has a console.
pub struct Shown {
    service: Service,
    served: Mutex<Option<JoinHandle<()>>>,
    ending: watch::Sender<bool>,
}

/// The engine of a run, with or without a console.
pub enum Running {
    Alone(Box<RwLock<Option<Engine>>>),
    Shown(Shown),
}

impl Running {
    /// The engine; `None` once it was taken.
    pub async fn engine(&self) -> Option<EngineGuard<'_>> {
        match self {
            Running::Alone(engine) => EngineGuard::of(engine.read().await),
            Running::Shown(shown) => shown.service.engine().await,
        }
    }

    /// Shows the current content.
    pub async fn show(&self, content: &Content) {
        if let Running::Shown(shown) = self {
            shown.service.show(content).await;
        }
    }

    /// Takes the engine in order to end it. Pending requests are answered first.
    pub async fn take_engine(&self) -> Option<Engine> {
        match self {
            Running::Alone(engine) => engine.write().await.take(),
            Running::Shown(Shown { service, served, ending }) => {
                let _ = ending.send(true);
                let served = locked(served).take();
                if let Some(served) = served {
                    let _ = tokio::time::timeout(LAST_REQUESTS, served).await;
                }
                service.take_engine().await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_port_or_has_one() {
        let at = |text: &str| Ok(Address::At(text.parse().expect("an address")));
        assert_eq!(address(""), Ok(Address::OfConfig));
        assert_eq!(address("9090"), at("127.0.0.1:9090"));
        assert_eq!(address("[::1]:9090"), at("[::1]:9090"));
        assert!(address("localhost").is_err() && address("99999").is_err());
    }
}
