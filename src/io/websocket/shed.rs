//! Reduces clients' queues when memory is short.
//!
//! Queues are limited to a part of their size, and the data server's clients with the largest queues are disconnected:
//! they are slow readers, and they can connect again. Dialled peers are not disconnected.

use std::sync::Arc;

use super::Websockets;
use super::client_queue::Peer;
use super::config::Role;
use super::endpoint::Endpoint;
use super::protocol::code;
use crate::memory::{self, Pressure};
use crate::sync::locked;

/// A client whose queue is smaller is not disconnected, bytes.
const LARGE: usize = 1 << 20;

/// The most clients disconnected at a time, because the first ones may free enough memory.
const AT_A_TIME: usize = 16;

impl Websockets {
    /// Shortens all queues, and disconnects the clients with the largest ones.
    pub async fn shed(&self) {
        let mut endpoints: Vec<Arc<Endpoint>> = locked(&self.hub.routes).values().cloned().collect();
        endpoints.extend(self.hub.registry.lock().await.dialled.values().flatten().cloned());
        let mut large: Vec<(usize, Arc<Peer>)> = Vec::new();
        for endpoint in endpoints {
            let held = endpoint.sinks().into_iter().flat_map(|sink| sink.shorten());
            let serves = endpoint.settings.role == Role::Server;
            large.extend(held.filter(|(bytes, _)| serves && *bytes > LARGE));
        }
        large.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        for (bytes, peer) in large.into_iter().take(AT_A_TIME) {
            tracing::warn!(client = peer.address, bytes, "memory is short: a slow client is disconnected");
            memory::count(Pressure::Queues);
            peer.dismiss(code::AGAIN, "memory is short");
        }
    }
}
