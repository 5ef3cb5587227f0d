//! Connecting the processes of a cluster: each listens on its address, and dials those before it in the list.
//!
//! They can start in any order: a process dials until there is a reply. Connections from other programs are closed.

use std::net::{self, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::greeting::{Answer, Greeting, Introduction, Purpose};
use super::membership::is_private;
use super::{ClusterError, Membership};
use crate::framing;

/// Time limit for opening a connection, and for the greeting of a peer that has connected.
const GREET: Duration = Duration::from_secs(5);

/// Time limit for the reply to a greeting. It is longer than [`GREET`]: the peer counts this process as connected once
/// the reply is sent, so this process must wait for it.
const ANSWER: Duration = Duration::from_secs(20);

/// Time between attempts to dial.
const REDIAL: Duration = Duration::from_millis(200);

/// How often a waiting process reports which other processes are missing.
const PATIENCE: Duration = Duration::from_secs(5);

/// The most incoming connections that are exchanging greetings at a time.
const GREETING: usize = 256;

/// Connections to all other processes, all of them compatible.
pub struct Links {
    pub(super) membership: Membership,
    /// in the order of the processes; `None` for this one
    pub(super) peers: Vec<Option<Peer>>,
    /// the URL of process 0's REST API; set in the other processes
    pub(super) rest: Option<String>,
    pub(super) clients: Clients,
}

/// How clients of other processes get to process 0.
pub enum Clients {
    /// this is process 0
    Come(Reception),
    /// this is another process
    Go(Passage),
}

/// Accepts connections of other processes for their clients, in process 0.
pub struct Reception {
    listener: TcpListener,
    own: Arc<Own>,
}

/// Opens connections to process 0 for clients, in the other processes.
#[derive(Clone)]
pub struct Passage(Arc<Own>);

/// The connections to one process.
pub(super) struct Peer {
    pub data: net::TcpStream,
    pub heartbeat: net::TcpStream,
    /// from process 0 to each of the others, if process 0 gives orders
    pub control: Option<net::TcpStream>,
}

/// A connection whose greetings were exchanged.
struct Met {
    process: usize,
    purpose: Purpose,
    stream: TcpStream,
    rest: Option<String>,
}

/// State shared by all connections of this process.
struct Own {
    membership: Membership,
    introduction: Introduction,
}

impl Own {
    /// The purposes for which this process connects to another one.
    fn purposes(&self, process: usize) -> &'static [Purpose] {
        match self.introduction.control && (process == 0 || self.membership.process == 0) {
            true => &[Purpose::Data, Purpose::Heartbeat, Purpose::Control],
            false => &[Purpose::Data, Purpose::Heartbeat],
        }
    }
}

/// Connects to all other processes, however long they take to start. `waits` is called with the missing ones, at once,
/// at intervals, and when the name of one cannot be resolved.
///
/// # Errors
/// [`ClusterError`] if this process cannot listen or is incompatible with another.
pub async fn connect(
    membership: Membership,
    introduction: Introduction,
    allow_public: bool,
    mut waits: impl FnMut(&str),
) -> Result<Links, ClusterError> {
    let listener = listen(&membership, allow_public).await?;
    let own = Arc::new(Own { membership, introduction });
    let mut meetings = JoinSet::new();
    for process in 0..own.membership.process {
        for &purpose in own.purposes(process) {
            let own = own.clone();
            meetings.spawn(async move { dial(&own, process, purpose).await.map(Some) });
        }
    }
    let mut found = Found::new(own.membership.hosts.len());
    let waiting = |found: &Found, unresolved: &[Option<String>]| {
        let missing = found.missing(&own).into_iter().map(|process| {
            let place = format!("process {process} at {}", own.membership.hosts[process]);
            let why = unresolved[process].as_ref().map(|why| format!(" ({why})"));
            format!("{place}{}", why.unwrap_or_default())
        });
        format!("waiting for {}", missing.collect::<Vec<_>>().join(" and "))
    };
    // A peer that is expected to dial may wait for a name that is misspelt here, so all names are looked up.
    let mut unresolved = vec![None; own.membership.hosts.len()];
    let mut lookups = JoinSet::new();
    lookups.spawn(look_up(own.membership.hosts.clone()));
    waits(&waiting(&found, &unresolved));
    let mut patience = tokio::time::interval_at(Instant::now() + PATIENCE, PATIENCE);
    loop {
        if found.missing(&own).is_empty() {
            let clients = match own.membership.process {
                0 => Clients::Come(Reception { listener, own: own.clone() }),
                _ => Clients::Go(Passage(own.clone())),
            };
            return found.into_links(own.membership.clone(), clients);
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) if meetings.len() < GREETING => {
                    let own = own.clone();
                    meetings.spawn(async move { greet(&own, stream, from).await });
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection of another process");
                    sleep(REDIAL).await;
                }
            },
            Some(met) = meetings.join_next() => match met {
                Ok(met) => met?.into_iter().for_each(|met| found.take(met)),
                Err(error) => tracing::error!(%error, "a connection of another process"),
            },
            Some(looked_up) = lookups.join_next() => {
                if let Ok(looked_up) = looked_up
                    && looked_up != unresolved
                {
                    unresolved = looked_up;
                    waits(&waiting(&found, &unresolved));
                }
            }
            _ = patience.tick() => {
                waits(&waiting(&found, &unresolved));
                // A lookup that takes longer than the interval continues.
                if lookups.is_empty() {
                    lookups.spawn(look_up(own.membership.hosts.clone()));
                }
            }
        }
    }
}

impl Reception {
    /// Accepts connections for clients without end, and hands each to `take`.
    pub async fn run(self, take: impl Fn(TcpStream)) -> std::convert::Infallible {
        let Reception { listener, own } = self;
        let mut meetings = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) if meetings.len() < GREETING => {
                        let own = own.clone();
                        meetings.spawn(async move { greet_client(&own, stream, from).await });
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection of another process");
                        sleep(REDIAL).await;
                    }
                },
                Some(met) = meetings.join_next() => met.ok().flatten().into_iter().for_each(&take),
            }
        }
    }
}

impl Passage {
    /// Opens a connection to process 0 for a client.
    ///
    /// # Errors
    /// The reason why process 0 cannot be reached.
    pub async fn open(&self) -> std::io::Result<TcpStream> {
        let own = &self.0;
        let greeting = Greeting::new(&own.membership, &own.introduction, Purpose::Client);
        timeout(GREET, async {
            let mut stream = TcpStream::connect(&own.membership.hosts[0]).await?;
            stream.set_nodelay(true)?;
            framing::send(&mut stream, &greeting).await?;
            match framing::receive(&mut stream).await? {
                Answer::Greeting(_) => Ok(stream),
                Answer::Refused(why) => Err(std::io::Error::other(why)),
            }
        })
        .await?
    }
}

/// Connections greeted so far.
struct Found {
    streams: Vec<[Option<TcpStream>; 3]>,
    /// the URL of process 0's REST API
    rest: Option<String>,
}

impl Found {
    fn new(processes: usize) -> Found {
        Found { streams: (0..processes).map(|_| [None, None, None]).collect(), rest: None }
    }

    /// Takes a connection. A process that was restarted while others wait connects a second time.
    fn take(&mut self, met: Met) {
        if met.process == 0 {
            self.rest = met.rest;
        }
        self.streams[met.process][met.purpose as usize] = Some(met.stream);
    }

    /// The processes that are not connected yet.
    fn missing(&self, own: &Own) -> Vec<usize> {
        let others = self.streams.iter().enumerate().filter(|(process, _)| *process != own.membership.process);
        let missing = others.filter(|(process, streams)| {
            own.purposes(*process).iter().any(|purpose| streams[*purpose as usize].is_none())
        });
        missing.map(|(process, _)| process).collect()
    }

    fn into_links(self, membership: Membership, clients: Clients) -> Result<Links, ClusterError> {
        let mut peers = Vec::new();
        for streams in self.streams {
            let [data, heartbeat, control] = streams.map(|stream| stream.map(blocking).transpose());
            let control = control?;
            peers.push(data?.zip(heartbeat?).map(|(data, heartbeat)| Peer { data, heartbeat, control }));
        }
        Ok(Links { membership, peers, rest: self.rest, clients })
    }
}

fn blocking(stream: TcpStream) -> std::io::Result<net::TcpStream> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Why the names of hosts cannot be resolved, in the order of the hosts; `None`: they can be.
async fn look_up(hosts: Vec<String>) -> Vec<Option<String>> {
    let reason = |host: String| async move {
        let error = tokio::net::lookup_host(&host).await.err()?.to_string();
        let name = host.rsplit_once(':').map_or(&*host, |(name, _)| name);
        // The system's resolver says "failed to lookup address information" before each reason.
        let reason = error.rsplit_once(": ").map_or(&*error, |(_, reason)| reason);
        Some(format!("cannot resolve {name}: {reason}"))
    };
    futures_util::future::join_all(hosts.into_iter().map(reason)).await
}

async fn listen(membership: &Membership, allow_public: bool) -> Result<TcpListener, ClusterError> {
    let process = membership.process;
    let failed = |source| ClusterError::Listen { process, host: membership.host().to_owned(), source };
    let mut last = std::io::ErrorKind::AddrNotAvailable.into();
    for address in tokio::net::lookup_host(membership.host()).await.map_err(failed)? {
        if !allow_public && !is_private(address.ip()) {
            return Err(ClusterError::Public { process, address });
        }
        match bind(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

/// Dials a process until it replies.
async fn dial(own: &Own, process: usize, purpose: Purpose) -> Result<Met, ClusterError> {
    let host = &own.membership.hosts[process];
    let greeting = Greeting::new(&own.membership, &own.introduction, purpose);
    loop {
        let answer = timeout(ANSWER, async {
            let mut stream = timeout(GREET, TcpStream::connect(host)).await??;
            stream.set_nodelay(true)?;
            framing::send(&mut stream, &greeting).await?;
            let answer: Answer = framing::receive(&mut stream).await?;
            std::io::Result::Ok((stream, answer))
        });
        match answer.await {
            Ok(Ok((_, Answer::Refused(why)))) => return Err(ClusterError::Refused { host: host.clone(), why }),
            Ok(Ok((stream, Answer::Greeting(theirs)))) => {
                if theirs.process != process {
                    return Err(ClusterError::Stranger { host: host.clone(), expected: process, is: theirs.process });
                }
                greeting.fits(&theirs)?;
                return Ok(Met { process, purpose, stream, rest: theirs.rest });
            }
            Ok(Err(error)) => tracing::debug!(host, %error, "another process does not answer"),
            Err(_) => tracing::debug!(host, "another process takes too long to answer"),
        }
        sleep(REDIAL).await;
    }
}

/// Whether a connection comes from the address of a process.
async fn is_listed(membership: &Membership, from: SocketAddr) -> bool {
    let known = membership.hosts.iter().map(tokio::net::lookup_host);
    let known = futures_util::future::join_all(known).await;
    known.into_iter().flatten().flatten().any(|known| known.ip().to_canonical() == from.ip().to_canonical())
}

/// Handles an incoming connection; `None` if it is not from a process of the cluster.
async fn greet(own: &Own, mut stream: TcpStream, from: SocketAddr) -> Result<Option<Met>, ClusterError> {
    let heard = timeout(GREET, async {
        stream.set_nodelay(true)?;
        let theirs: Greeting = framing::receive(&mut stream).await?;
        if theirs.purpose == Purpose::Client {
            return Err(std::io::Error::other("it brings a client, and not all processes are connected yet"));
        }
        let greeting = Greeting::new(&own.membership, &own.introduction, theirs.purpose);
        let fits = greeting.fits(&theirs);
        let is_stranger = fits.is_err() && !is_listed(&own.membership, from).await;
        let expected = own.membership.process + 1..own.membership.hosts.len();
        let answer = match &fits {
            Ok(()) if !expected.contains(&theirs.process) => Answer::Refused(format!(
                "it is process {} itself, and was called by process {}: check --process",
                own.membership.process, theirs.process
            )),
            Ok(()) => Answer::Greeting(greeting),
            // Anyone may connect: only a process of the list learns what differs, and nothing else.
            Err(_) if is_stranger => Answer::Refused("they differ, see its log".to_owned()),
            Err(_) => Answer::Refused(theirs.fits(&greeting).err().map(|why| why.to_string()).unwrap_or_default()),
        };
        framing::send(&mut stream, &answer).await?;
        std::io::Result::Ok((theirs, fits, answer, is_stranger))
    });
    match heard.await {
        Ok(Ok((_, Ok(()), Answer::Refused(why), _))) => {
            tracing::warn!(%from, "refused another process: {why}");
            Ok(None)
        }
        // It may be anyone, so this process continues to wait for the others.
        Ok(Ok((_, Err(why), _, true))) => {
            tracing::warn!(%from, "refused a process at an address that is not in --hosts: {why}");
            Ok(None)
        }
        Ok(Ok((theirs, fits, ..))) => {
            fits?;
            Ok(Some(Met { process: theirs.process, purpose: theirs.purpose, stream, rest: theirs.rest }))
        }
        // A process that ends, because another connection of it was refused, closes this one too.
        Ok(Err(error)) if is_closed(&error) => {
            tracing::debug!(%from, "a connection was closed before its greeting");
            Ok(None)
        }
        Ok(Err(error)) => {
            tracing::warn!(%from, "refused a connection to the address for other processes: {error}");
            Ok(None)
        }
        Err(_) => {
            tracing::warn!(%from, "dropped a connection that sent no greeting");
            Ok(None)
        }
    }
}

fn is_closed(error: &std::io::Error) -> bool {
    use std::io::ErrorKind as Kind;
    matches!(error.kind(), Kind::UnexpectedEof | Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe)
}

/// Handles an incoming connection after all processes have connected; `None` if it is not for a client. A process that
/// was restarted alone is turned away: it waits until all others are restarted.
async fn greet_client(own: &Own, mut stream: TcpStream, from: SocketAddr) -> Option<TcpStream> {
    let heard = timeout(GREET, async {
        stream.set_nodelay(true)?;
        let theirs: Greeting = framing::receive(&mut stream).await?;
        let greeting = Greeting::new(&own.membership, &own.introduction, theirs.purpose);
        if theirs.purpose != Purpose::Client || greeting.fits(&theirs).is_err() {
            return Ok(false);
        }
        framing::send(&mut stream, &Answer::Greeting(greeting)).await?;
        std::io::Result::Ok(true)
    });
    match heard.await {
        Ok(Ok(true)) => Some(stream),
        Ok(Ok(false)) | Err(_) => None,
        Ok(Err(error)) => {
            tracing::debug!(%from, %error, "dropped a connection that does not come from another process");
            None
        }
    }
}
