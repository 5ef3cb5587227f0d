//! Endpoints without a rule: those of named connections, and paths opened by a user.
//!
//! A [`Lease`] is a link of an endpoint, like those of sources and sinks. While it is held the endpoint exists and
//! dials, but the lease neither reads nor writes. Inspecting and testing endpoints is here too.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::config::Role;
use super::endpoint::{Endpoint, Link, Use};
use super::{ConnectError, DialError, Hub, Settings, Websockets, dial_within};
use crate::io::LinkStatus;
use crate::sync::locked;

/// How long a peer has to answer the close frame of a test.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why an endpoint is not usable.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// client role: the peer is unreachable
    #[error(transparent)]
    Dial(#[from] DialError),
    /// server role: the data server cannot listen
    #[error(transparent)]
    Listen(#[from] ConnectError),
}

/// The status of an endpoint and its users.
#[derive(Clone, Debug)]
pub struct EndpointStatus {
    /// path with query string
    pub path: String,
    /// client role: dialled scheme, host and port
    pub peer: Option<(&'static str, String)>,
    /// whether it is held without a name
    pub held: bool,
    /// number of sources and sinks that use it without a named connection
    pub uses: usize,
    pub status: LinkStatus,
}

/// A use of an endpoint, until it is released or dropped.
pub(super) struct Hold {
    pub hub: Arc<Hub>,
    pub endpoint: Arc<Endpoint>,
    link: Arc<Link>,
    released: AtomicBool,
}

impl Hold {
    /// Makes a hold for a link that the endpoint has and the hub has counted.
    pub fn new(hub: Arc<Hub>, endpoint: Arc<Endpoint>, link: Arc<Link>) -> Hold {
        Hold { hub, endpoint, link, released: AtomicBool::new(false) }
    }

    pub fn status(&self) -> LinkStatus {
        self.hub.status(&self.endpoint)
    }

    /// Ends the use, and with the last use the endpoint; with `of_rule`, also the data server with its last endpoint.
    /// Does not wait for peers. Can be called repeatedly.
    pub async fn release(&self, of_rule: bool) {
        if !self.released.swap(true, Ordering::AcqRel) {
            self.endpoint.unlink(&self.link);
            self.hub.release(&self.endpoint, of_rule).await;
        }
    }

    /// If the endpoint has ended, waits until its peers have answered the close frame.
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

/// Keeps an endpoint open, also without other users. Dropping it releases the endpoint; closing it also waits for the
/// end.
pub struct Lease(Hold);

impl Websockets {
    /// Holds the endpoint for `settings`: a server role accepts clients when this returns, a client role dials as long
    /// as it is held.
    ///
    /// # Errors
    /// [`ConnectError`] if the data server cannot listen.
    pub async fn hold(&self, settings: Settings) -> Result<Lease, ConnectError> {
        // The streams that will use it are unknown, so endpoints are spread over the threads by name.
        let mut hasher = DefaultHasher::new();
        settings.address().hash(&mut hasher);
        let thread = (hasher.finish() % self.hub.data.len() as u64) as usize;
        let mut registry = self.hub.registry.lock().await;
        let (endpoint, fresh) = self.hub.endpoint(&mut registry, Use::Lease, &settings, thread).await?;
        let link = endpoint.link(Use::Lease, settings);
        self.hub.publish(&mut registry, &endpoint, fresh);
        Ok(Lease(Hold::new(self.hub.clone(), endpoint, link)))
    }

    /// Tests an endpoint and leaves nothing behind. A client role dials once, within the handshake timeout; in a server
    /// role, the data server must be listening or be able to.
    ///
    /// # Errors
    /// [`CheckError`]
    pub async fn check(&self, settings: &Settings) -> Result<(), CheckError> {
        if settings.role != Role::Server {
            let mut websocket = dial_within(settings, &self.hub.egress()).await?;
            // The peer has answered, so it does not matter whether the closing handshake succeeds.
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

    /// Ends the data server, if it still listens, and unused endpoints. Nothing can be opened afterwards.
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

    /// The endpoints with users or holders other than named connections, ordered by path.
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
    /// The status of the endpoint.
    pub fn status(&self) -> LinkStatus {
        self.0.status()
    }

    /// The number of sources and sinks that use the endpoint through the same named connection.
    pub fn uses(&self) -> usize {
        let name = &self.0.link.settings.connection;
        self.0.endpoint.uses().iter().filter(|(used, by)| *used != Use::Lease && by == name).count()
    }

    /// Releases the endpoint. Without other users it ends, and its clients get a close frame (1001). The data server
    /// still listens until it was used by a rule and the last rule has ended.
    pub async fn close(&self) {
        self.0.release(false).await;
        self.0.goodbye().await;
    }
}
