//! Connections and endpoints as the API shows them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::UNNAMED;
use crate::definition::connection::{Connection, KINDS};
use crate::io::websocket::{EndpointStatus, Lease};
use crate::io::{LinkState, LinkStatus};

/// A connection as the API lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionReport {
    /// For an endpoint without a name: `$$ws/PATH`.
    pub id: String,
    pub kind: String,
    /// The properties as given.
    pub props: Map<String, Json>,
    /// Whether a user created it with a name.
    pub named: bool,
    pub state: ConnectionState,
    /// Why it is not connected, if it is not.
    pub error: Option<String>,
    /// The number of running sources and sinks that use it.
    pub uses: usize,
}

/// Whether a connection is connected, the best state first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ConnectionState {
    /// The peer is connected; in the server role: clients can connect.
    Connected,
    /// It is being dialled for the first time.
    Connecting,
    /// The last dial failed, or the peer has left; it is dialled again.
    Disconnected,
}

impl ConnectionState {
    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            ConnectionState::Connected => "connected",
            ConnectionState::Connecting => "connecting",
            ConnectionState::Disconnected => "disconnected",
        }
    }
}

impl ConnectionReport {
    /// Describes a connection by its endpoint, or by the reason why it has none.
    pub(super) fn of(id: &str, connection: &Connection, lease: &Result<std::sync::Arc<Lease>, String>) -> Self {
        let (state, error, uses) = match lease {
            Ok(lease) => {
                let (state, error) = standing(lease.status());
                (state, error, lease.uses())
            }
            Err(error) => (ConnectionState::Disconnected, Some(error.clone()), 0),
        };
        let Connection { kind, props } = connection.clone();
        ConnectionReport { id: id.to_owned(), kind, props, named: is_named(id), state, error, uses }
    }
}

/// An endpoint in use without a named connection.
pub(super) fn unnamed(endpoint: EndpointStatus) -> ConnectionReport {
    let EndpointStatus { path, peer, uses, status, .. } = endpoint;
    let mut props = Map::from_iter([("datasource".to_owned(), Json::from(path.as_str()))]);
    if let Some((scheme, addr)) = peer {
        props.insert("scheme".to_owned(), Json::from(scheme));
        props.insert("addr".to_owned(), Json::from(addr));
    }
    let (state, error) = standing(status);
    let id = format!("{UNNAMED}{path}");
    ConnectionReport { id, kind: KINDS[0].to_owned(), props, named: false, state, error, uses }
}

/// The state of a link, and why it is not connected. A link that was lost, or never connected, is disconnected while it
/// waits for the next dial.
fn standing(status: LinkStatus) -> (ConnectionState, Option<String>) {
    let error = status.last_error.map(|(_, error)| error);
    match (status.state, error) {
        (LinkState::Connected, _) => (ConnectionState::Connected, None),
        (LinkState::Connecting, None) => (ConnectionState::Connecting, None),
        (LinkState::Connecting | LinkState::Disconnected, error) => (ConnectionState::Disconnected, error),
    }
}

/// Whether a user gave the connection its name.
pub(super) fn is_named(id: &str) -> bool {
    !id.starts_with(UNNAMED)
}
