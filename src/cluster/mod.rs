//! Several processes as one: how they find each other, check that they fit together, and notice that one is gone.
//!
//! Two processes have two connections. One carries what their workers exchange (`link`); timely's own threads read and
//! write it. The other carries heartbeats (`heartbeat`): a peer that says nothing, or whose connection closes, is gone,
//! and with it a part of the state. Then this process is told ([`Lost`]), and it ends: a supervisor starts all of them
//! again.
//!
//! Connections are set up here and not by timely, because two processes that do not fit together must say so, with both
//! sides' values, before any row flows (`greeting`).
//!
//! Links are neither encrypted nor authenticated. So a process listens on its own address only, and refuses a public one
//! unless it is told otherwise (`membership`).
//!
//! This module knows neither rules nor rows.

mod connect;
mod greeting;
mod heartbeat;
mod link;
mod membership;

pub use connect::{Links, connect};
pub use greeting::Term;
pub use heartbeat::{Loss, Lost};
pub use link::hang_bell;
pub use membership::Membership;

use std::io;
use std::sync::Arc;

use timely::communication::allocator::ProcessBuilder;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::{AllocatorBuilder, Hooks};

use heartbeat::{Alarm, Heartbeats};
use link::Link;

/// Why a process cannot join its cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// an address that is none
    #[error("--hosts: {0:?} is no address: expected host:port")]
    Host(String),
    /// an address that stands for two processes
    #[error("--hosts names {0} twice: each process needs an address of its own")]
    Twice(String),
    /// a list of one
    #[error("--hosts names a single process: name all of them, host:port,host:port, or leave --hosts out")]
    Single,
    /// a number that is not in the list
    #[error("--process {process}: --hosts names {hosts} processes, numbered from 0 to {last}", last = hosts - 1)]
    Process {
        /// the number
        process: usize,
        /// how many there are
        hosts: usize,
    },
    /// the address is reachable from anywhere
    #[error(
        "process {process} would listen on {address}, a public address, and links between processes are neither \
         encrypted nor authenticated: use an address of a private network (or wireguard), or say --allow-public"
    )]
    Public {
        /// this process
        process: usize,
        /// what its host stands for
        address: std::net::SocketAddr,
    },
    /// the address cannot be listened on
    #[error("process {process} cannot listen on {host} for the others: {source}; check --hosts and --process")]
    Listen {
        /// this process
        process: usize,
        /// its address in the list
        host: String,
        /// why
        source: io::Error,
    },
    /// two processes do not fit together
    #[error("process {peer} ({host}) differs in {what}: it has {theirs}, this one has {ours}; all need the same")]
    Differs {
        /// the other process
        peer: usize,
        /// its address
        host: String,
        what: String,
        /// this side's value
        ours: String,
        /// the other side's value
        theirs: String,
    },
    /// the other side does not want this one
    #[error("{host} refuses this process: {why}")]
    Refused {
        /// the other side
        host: String,
        /// its words
        why: String,
    },
    /// another process answers
    #[error("{host} is process {is} and should be process {expected}: check --process there")]
    Stranger {
        /// the address
        host: String,
        /// by the list
        expected: usize,
        /// by its own words
        is: usize,
    },
    /// sockets that cannot be used
    #[error("cannot use the connections to the other processes: {0}")]
    Sockets(#[from] io::Error),
}

/// This process's part of a running cluster.
pub struct Cluster {
    membership: Membership,
    heartbeats: Heartbeats,
}

/// Starts to exchange over connected links: gives an allocator for the worker of each data thread, in their order. Each
/// data thread has to call [`hang_bell`] before it builds its allocator. `lost` is called once, from a thread of this
/// module, when a process is gone.
///
/// # Errors
/// What the system says where it gives no threads.
pub fn start(
    links: Links,
    lost: impl Fn(Lost) + Send + Sync + 'static,
) -> io::Result<(Cluster, Vec<AllocatorBuilder>)> {
    let Links { membership, peers } = links;
    let alarm = Alarm::new(Arc::new(lost));
    let (mut data, mut beats) = (Vec::new(), Vec::new());
    for (process, peer) in peers.into_iter().enumerate() {
        let host = &membership.hosts[process];
        data.push(peer.as_ref().map(|peer| peer.data.try_clone()).transpose()?);
        beats.extend(peer.map(|peer| (process, host.clone(), peer.heartbeat)));
    }
    let heartbeats = Heartbeats::start(beats, &alarm)?;
    let sockets = data.into_iter().enumerate().map(|(process, socket)| {
        let host = membership.hosts[process].clone();
        socket.map(|socket| Link::new(socket, process, host, alarm.clone()))
    });
    let hooks = Hooks { spill: Some(link::bells()), ..Hooks::default() };
    let workers = membership.workers;
    let inner = ProcessBuilder::new_typed_vector(workers, hooks.refill.clone(), hooks.spill.clone());
    let (builders, threads) =
        initialize_networking_from_sockets(inner, sockets.collect(), membership.process, workers, hooks)?;
    // Dropped, it would wait for the peers to end. A link that breaks ends the process instead.
    std::mem::forget(threads);
    Ok((Cluster { membership, heartbeats }, builders.into_iter().map(AllocatorBuilder::Tcp).collect()))
}

impl Cluster {
    /// Who is in it.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Tells the others that this process ends by intention. From now on it is not told who is lost.
    pub fn leave(&self) {
        self.heartbeats.leave();
    }
}

#[cfg(test)]
mod tests;
