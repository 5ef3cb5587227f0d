//! Endpoints that are there without a rule: those of named connections, and paths that a user has opened.
//!
//! A [`Lease`] is one more link of an endpoint, beside those of sources and sinks: it lets the endpoint live, and dials
//! for as long as it is held, but neither reads nor writes. Here, too, stands how endpoints are looked at and tried out.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::config::Role;
use super::endpoint::{Endpoint, Link, Use};
use super::{ConnectError, DialError, Hub, Settings, Websockets, dial};
use crate::io::LinkStatus;
use crate::sync::locked;

/// How long a peer that was only tried out may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why an endpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// client role: the peer cannot be reached
    #[error(transparent)]
    Dial(#[from] DialError),
    /// server role: the data server cannot listen
    #[error(transparent)]
    Listen(#[from] ConnectError),
}

/// How an endpoint stands, and who uses it.
#[derive(Clone, Debug)]
pub struct EndpointStatus {
    /// the path, with its query string
    pub path: String,
    /// of a client role: scheme, host and port that are dialled
    pub peer: Option<(&'static str, String)>,
    /// whether somebody holds it under no name
    pub held: bool,
    /// sources and sinks that use it without a named connection
    pub uses: usize,
    /// its state
    pub status: LinkStatus,
}

/// One use of an endpoint, which ends when this is released or dropped.
pub(super) struct Hold {
    pub hub: Arc<Hub>,
    pub endpoint: Arc<Endpoint>,
    link: Arc<Link>,
    released: AtomicBool,
}

impl Hold {
    /// Of a link that is among those of the endpoint, and counted by the hub.
    pub fn new(hub: Arc<Hub>, endpoint: Arc<Endpoint>, link: Arc<Link>) -> Hold {
        Hold { hub, endpoint, link, released: AtomicBool::new(false) }
    }

    pub fn status(&self) -> LinkStatus {
        self.hub.status(&self.endpoint)
    }

    /// Ends the use, and with the last one the endpoint; `of_rule`: and with the last endpoint the data server. Nobody
    /// waits for the peers. Called again, it does nothing.
    pub async fn release(&self, of_rule: bool) {
        if !self.released.swap(true, Ordering::AcqRel) {
            self.endpoint.unlink(&self.link);
            self.hub.release(&self.endpoint, of_rule).await;
        }
    }

    /// Waits until the peers have answered the close frame, if the endpoint has ended.
    pub async fn goodbye(&self) {
        if *self.endpoint.closing.borrow() {
            self.hub.goodbye(&self.endpoint).await;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.released.swap(true, Ordering::AcqRel) {
            self.endpoint.unlink(&self.link);
            let (hub, endpoint, of_rule) = (self.hub.clone(), self.endpoint.clone(), self.link.used != Use::Lease);
            self.hub.control.spawn(async move { hub.release(&endpoint, of_rule).await });
        }
    }
}

/// An endpoint that is held open, whoever else uses it. Dropped, it lets go; closed, somebody waits for that.
pub struct Lease(Hold);

impl Websockets {
    /// Holds the endpoint for `settings`: in the server role it takes clients when this returns, in the client role it
    /// is dialled for as long as it is held.
    ///
    /// # Errors
    /// [`ConnectError`] if the data server cannot listen.
    pub async fn hold(&self, settings: Settings) -> Result<Lease, ConnectError> {
        // Nobody knows yet which streams will use it: endpoints are spread over the threads.
        let mut hasher = DefaultHasher::new();
        settings.address().hash(&mut hasher);
        let thread = (hasher.finish() % self.hub.data.len() as u64) as usize;
        let mut registry = self.hub.registry.lock().await;
        let (endpoint, fresh) = self.hub.endpoint(&mut registry, Use::Lease, &settings, thread).await?;
        let link = endpoint.link(Use::Lease, settings);
        self.hub.publish(&mut registry, &endpoint, fresh);
        Ok(Lease(Hold::new(self.hub.clone(), endpoint, link)))
    }

    /// Tries an endpoint out and leaves nothing behind: a client role dials once within the handshake timeout, for a
    /// server role the data server listens, or could.
    ///
    /// # Errors
    /// [`CheckError`]
    pub async fn check(&self, settings: &Settings) -> Result<(), CheckError> {
        if settings.role != Role::Server {
            let mut websocket = dial(settings).await?;
            // The peer has answered: how it takes the goodbye does not matter.
            let _ = tokio::time::timeout(GOODBYE, websocket.close(None)).await;
            return Ok(());
        }
        let registry = self.hub.registry.lock().await;
        if registry.server.is_none() {
            let server = self.hub.listen().await?;
            *locked(&self.hub.listening) = None;
            server.stop().await;
        }
        Ok(())
    }

    /// Ends the data server, if it still listens, and the endpoints that nobody uses: nothing is to be opened any more.
    pub async fn end(&self) {
        self.hub.ended.cancel();
        {
            let mut registry = self.hub.registry.lock().await;
            let unused = |endpoint: &&Arc<Endpoint>| !registry.users.contains_key(&(Arc::as_ptr(endpoint) as usize));
            let left: Vec<Arc<Endpoint>> = locked(&self.hub.routes).values().filter(unused).cloned().collect();
            for endpoint in &left {
                self.hub.retire(&mut registry, endpoint, false).await;
            }
            if let Some(server) = registry.server.take() {
                *locked(&self.hub.listening) = None;
                server.stop().await;
            }
        }
        self.hub.goodbyes.close();
        self.hub.goodbyes.wait().await;
    }

    /// Whether clients can connect to this path of the data server.
    pub fn has_path(&self, path: &str) -> bool {
        locked(&self.hub.routes).contains_key(path)
    }

    /// The endpoints that are used, or held, otherwise than by named connections; in the order of their paths.
    pub async fn endpoints(&self) -> Vec<EndpointStatus> {
        let registry = self.hub.registry.lock().await;
        let mut endpoints: Vec<Arc<Endpoint>> = registry.dialled.values().flatten().cloned().collect();
        endpoints.extend(locked(&self.hub.routes).values().cloned());
        drop(registry);
        let status = |endpoint: Arc<Endpoint>| {
            let uses = endpoint.uses();
            let unnamed = || uses.iter().filter(|(_, name)| name.is_none());
            unnamed().next()?;
            let settings = &endpoint.settings;
            Some(EndpointStatus {
                path: settings.path.clone(),
                peer: match &settings.role {
                    Role::Server => None,
                    Role::Client { host, port } => {
                        let scheme = if settings.tls.is_some() { "wss" } else { "ws" };
                        Some((scheme, format!("{}:{port}", super::config::bracketed(host))))
                    }
                },
                held: unnamed().any(|(used, _)| *used == Use::Lease),
                uses: unnamed().filter(|(used, _)| *used != Use::Lease).count(),
                status: self.hub.status(&endpoint),
            })
        };
        let mut all: Vec<EndpointStatus> = endpoints.into_iter().filter_map(status).collect();
        all.sort_by(|a, b| (&a.path, &a.peer).cmp(&(&b.path, &b.peer)));
        all
    }
}

impl Lease {
    /// How the endpoint stands.
    pub fn status(&self) -> LinkStatus {
        self.0.status()
    }

    /// Sources and sinks that use the endpoint by the same named connection.
    pub fn uses(&self) -> usize {
        let name = &self.0.link.settings.connection;
        self.0.endpoint.uses().iter().filter(|(used, by)| *used != Use::Lease && by == name).count()
    }

    /// Lets go: the endpoint ends when nobody else uses it, and its clients get a close frame (1001). The data server
    /// listens on, until it has been used by a rule and the last rule has ended.
    pub async fn close(&self) {
        self.0.release(false).await;
        self.0.goodbye().await;
    }
}
