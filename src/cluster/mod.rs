//! Clusters of processes: how they connect, check that they are compatible, and detect that one is lost.
//!
//! Two processes have two connections. One carries the data of their workers (`link`); timely's threads read and write
//! it. The other carries heartbeats (`heartbeat`): if a peer is silent or its connection closes, it is lost, and with
//! it a part of the state. Then this process reports [`Lost`] and ends: a supervisor starts all processes again. If
//! process 0 gives orders, a third connection carries these (`control`). Each client that another process hands over to
//! process 0 has a further one ([`Clients`]).
//!
//! This module makes the connections instead of timely, because incompatible processes must report the values of both
//! sides before any row flows (`greeting`).
//!
//! Links are neither encrypted nor authenticated. So a process listens only on its own address, and refuses a public
//! one unless configured otherwise (`membership`).
//!
//! This module knows neither rules nor rows.

mod connect;
mod control;
mod greeting;
mod heartbeat;
mod link;
mod membership;

pub use connect::{Clients, Links, Passage, Reception, connect};
pub use control::{Answers, Control, ControlSocket, Gone};
pub use greeting::{Introduction, Term};
pub use heartbeat::{Loss, Lost};
pub use link::set_waker;
pub use membership::Membership;

use std::io;
use std::sync::Arc;

use timely::communication::allocator::ProcessBuilder;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::{AllocatorBuilder, Hooks};

use connect::Peer;
use heartbeat::{Alarm, Heartbeats};
use link::Link;

/// Why a process cannot join its cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// an invalid address
    #[error("--hosts: {0:?} is not an address: expected host:port")]
    Host(String),
    /// an address that occurs twice
    #[error("--hosts names {0} twice: each process needs an address of its own")]
    Twice(String),
    /// a list of one process
    #[error("--hosts names a single process: name all of them, host:port,host:port, or leave --hosts out")]
    Single,
    /// a process number outside the list
    #[error("--process {process}: --hosts names {hosts} processes, numbered from 0 to {last}", last = hosts - 1)]
    Process {
        process: usize,
        /// number of processes in the list
        hosts: usize,
    },
    /// the address is public
    #[error(
        "process {process} would listen on {address}, a public address; links between processes are not encrypted or \
         authenticated: use an address of a private network (or wireguard), or say --allow-public"
    )]
    Public {
        /// this process
        process: usize,
        /// the IP address of its host
        address: std::net::SocketAddr,
    },
    /// the address cannot be listened on
    #[error("process {process} cannot listen on {host} for the others: {source}; check --hosts and --process")]
    Listen {
        /// this process
        process: usize,
        /// its address in the list
        host: String,
        source: io::Error,
    },
    /// two processes are incompatible
    #[error("process {peer} ({host}) differs in {what}: it has {theirs}, this one has {ours}; all need the same")]
    Differs {
        /// the other process
        peer: usize,
        /// its address
        host: String,
        what: String,
        /// the value of this process
        ours: String,
        /// the value of the other process
        theirs: String,
    },
    /// the other process refused the connection
    #[error("{host} refuses this process: {why}")]
    Refused {
        /// the other process
        host: String,
        /// its reason
        why: String,
    },
    /// another process than expected answers
    #[error("{host} runs as process {is}, expected process {expected}: check --process there")]
    Stranger {
        /// the address
        host: String,
        /// its number in the list
        expected: usize,
        /// its number by its own greeting
        is: usize,
    },
    /// a socket failed
    #[error("cannot use the connections to the other processes: {0}")]
    Sockets(#[from] io::Error),
}

/// What the data threads of this process need to take part.
pub struct Part {
    pub membership: Membership,
    /// one for the worker of each data thread, in order
    pub allocators: Vec<AllocatorBuilder>,
    /// whether process 0 gives orders
    pub ordered: bool,
    /// how clients get to process 0, until it is taken
    pub clients: Option<Clients>,
    alarm: Alarm,
}

impl Part {
    /// The same for processes that end their rules independently: control links are there to ask, not to give orders.
    pub fn without_orders(self) -> Part {
        Part { ordered: false, ..self }
    }

    /// Makes a guard for a data thread: if the thread panics, this process is reported as lost.
    pub fn sentinel(&self) -> Sentinel {
        let Membership { process, .. } = self.membership;
        Sentinel { process, host: self.membership.host().to_owned(), alarm: self.alarm.clone() }
    }
}

/// Raises the alarm if a panic drops it. Without it, all other processes would wait for the dead thread.
pub struct Sentinel {
    process: usize,
    host: String,
    alarm: Alarm,
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.alarm.raise(Lost { process: self.process, host: self.host.clone(), how: Loss::Crashed });
        }
    }
}

/// This process's part of a running cluster. If it is dropped without [`Cluster::leave`], the others learn that this
/// process has failed.
pub struct Cluster {
    heartbeats: Heartbeats,
    /// the URL of process 0's REST API; set in the other processes
    pub rest: Option<String>,
    /// the links for orders, in the order of the processes
    pub controls: Vec<ControlSocket>,
}

/// Starts the exchange of data over connected links. Each data thread has to call [`set_waker`] before it builds its
/// allocator. `lost` is called once, from a thread of this module, when a process is gone.
///
/// # Errors
/// The system's error if threads cannot be started.
pub fn start(links: Links, lost: impl Fn(Lost) + Send + Sync + 'static) -> io::Result<(Cluster, Part)> {
    let Links { membership, peers, rest, clients } = links;
    let alarm = Alarm::new(Arc::new(lost));
    let (mut data, mut beats, mut controls) = (Vec::new(), Vec::new(), Vec::new());
    for (process, peer) in peers.into_iter().enumerate() {
        let host = &membership.hosts[process];
        data.push(peer.as_ref().map(|peer| peer.data.try_clone()).transpose()?);
        let Some(Peer { heartbeat, control, .. }) = peer else { continue };
        beats.push((process, host.clone(), heartbeat));
        let (alarm, host) = (&alarm, host.clone());
        controls.extend(control.map(|socket| ControlSocket { process, host, socket, alarm: alarm.clone() }));
    }
    let ordered = !controls.is_empty();
    let heartbeats = Heartbeats::start(beats, &alarm)?;
    let sockets = data.into_iter().enumerate().map(|(process, socket)| {
        let host = membership.hosts[process].clone();
        socket.map(|socket| Link::new(socket, process, host, alarm.clone()))
    });
    let hooks = Hooks { spill: Some(link::spill_policies()), ..Hooks::default() };
    let workers = membership.workers;
    let inner = ProcessBuilder::new_typed_vector(workers, hooks.refill.clone(), hooks.spill.clone());
    let (builders, threads) =
        initialize_networking_from_sockets(inner, sockets.collect(), membership.process, workers, hooks)?;
    // Dropping it would wait for the peers to end. A link that breaks ends the process instead.
    std::mem::forget(threads);
    let allocators = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
    Ok((
        Cluster { heartbeats, rest, controls },
        Part { membership, allocators, ordered, clients: Some(clients), alarm },
    ))
}

impl Cluster {
    /// Tells the others that this process begins to stop intentionally. When its connections close, they wait for
    /// [`Cluster::leave`].
    pub fn begin_to_leave(&self) {
        self.heartbeats.begin_to_leave();
    }

    /// Tells the others that this process ends intentionally, and waits up to a second until they have received it.
    /// Lost processes are no longer reported to it.
    pub fn leave(&self) {
        self.heartbeats.leave();
    }

    /// Tells the others that this process cannot continue, and why, and waits up to a second until they have received
    /// it. Lost processes are no longer reported to it.
    pub fn fail(&self, reason: &str) {
        self.heartbeats.fail(reason);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.fail("it has ended with an error, which its own log shows");
    }
}

#[cfg(test)]
mod tests;
