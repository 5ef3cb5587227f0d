//! Heartbeats between processes, which detect that another process is gone.
//!
//! Each process sends every other one a byte each [`BEAT`]; a process that is silent for [`SILENCE`] is lost. A process
//! whose connection closes is lost too, which detects its death within milliseconds. A process that stops intentionally
//! announces it; one that cannot continue sends the reason.
//!
//! The connection carries nothing else, so that a busy link does not look like a dead peer. Separate threads write and
//! read it. They detect a process that hangs as a whole, but not a single thread that hangs.
//!
//! When a process ends, its connections close in any order, and only the heartbeat connection carries the reason. So
//! the report of another closed connection waits for it ([`Alarm::raise_later`]). A process that ends sends its reason
//! and waits until the peers have closed their side: a socket that closes too early may discard what the peer has not
//! read.

use std::collections::HashSet;
use std::convert::Infallible;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::sync::locked;

/// The interval of heartbeats.
const BEAT: Duration = Duration::from_secs(2);

/// The longest silence of a process.
const SILENCE: Duration = Duration::from_secs(10);

const ALIVE: u8 = b'.';
/// Announces that the process begins to stop: its other connections close before [`GOODBYE`].
const LEAVING: u8 = b',';
const GOODBYE: u8 = b'!';
/// Announces that the reason for a failure follows.
const FAILED: u8 = b'#';

/// The longest reason, bytes.
const LONGEST_REASON: u64 = 4096;

/// How long to wait for a more precise reason after another connection has closed. It comes within milliseconds, unless
/// the machine is overloaded or only that connection has failed.
const SECOND_OPINION: Duration = Duration::from_secs(5);

/// How long to wait, after a process has died, for another process to report the cause.
const CAUSE: Duration = Duration::from_millis(200);

/// How long a process that ends waits for the peers to close their side.
const CONFIRMATION: Duration = Duration::from_secs(1);

/// A lost process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub process: usize,
    pub host: String,
    pub how: Loss,
}

/// Why a process is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// it stopped intentionally
    Ended,
    /// it cannot continue, for this reason
    Failed(String),
    /// its connection was closed: it was killed or has crashed
    Closed,
    /// it was silent for this long: it hangs, or the network does
    Silent(Duration),
    /// its connection failed with this system error
    Broken(String),
    /// this process itself, because one of its data threads panicked
    Crashed,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lost { process, host, how } = self;
        write!(f, "process {process} ({host}) ")?;
        match how {
            Loss::Ended => write!(f, "has ended in order"),
            Loss::Failed(reason) => write!(f, "cannot continue: {reason}"),
            Loss::Closed => write!(f, "is gone: its connection was closed"),
            Loss::Silent(limit) => write!(f, "is gone: it was silent for {} s", limit.as_secs()),
            Loss::Broken(error) => write!(f, "is gone: {error}"),
            Loss::Crashed => write!(f, "has lost a data thread, which is an error in this program: please report it"),
        }
    }
}

/// Reports once that a process is lost. Clones share it.
#[derive(Clone)]
pub(super) struct Alarm {
    is_reported: Arc<AtomicBool>,
    /// processes that have begun to stop
    leaving: Arc<Mutex<HashSet<usize>>>,
    tell: Arc<dyn Fn(Lost) + Send + Sync>,
}

impl Alarm {
    pub fn new(tell: Arc<dyn Fn(Lost) + Send + Sync>) -> Alarm {
        Alarm { is_reported: Arc::default(), leaving: Arc::default(), tell }
    }

    /// Reports a lost process. Only the first report counts.
    pub fn raise(&self, lost: Lost) {
        if !self.is_reported.swap(true, Ordering::AcqRel) {
            (self.tell)(lost);
        }
    }

    /// Reports a lost process, unless the heartbeats soon report a more precise reason.
    pub async fn raise_later(&self, lost: Lost) {
        tokio::time::sleep(SECOND_OPINION).await;
        self.raise_unless_leaving(lost);
    }

    /// The same, from a thread.
    pub fn raise_later_on_thread(&self, lost: Lost) {
        std::thread::sleep(SECOND_OPINION);
        self.raise_unless_leaving(lost);
    }

    /// The heartbeats of a process that stops continue until its goodbye, and show if it hangs before that.
    fn raise_unless_leaving(&self, lost: Lost) {
        if !locked(&self.leaving).contains(&lost.process) {
            self.raise(lost);
        }
    }

    /// Stops reporting.
    fn silence(&self) {
        self.is_reported.store(true, Ordering::Release);
    }
}

/// The heartbeats of this process, until it ends.
pub(super) struct Heartbeats {
    sockets: Arc<Mutex<Vec<TcpStream>>>,
    alarm: Alarm,
    /// disconnects when all peers have closed their side
    watched: Mutex<Receiver<Infallible>>,
}

impl Heartbeats {
    /// Starts to watch these processes and to send heartbeats to them.
    ///
    /// # Errors
    /// The system's error if threads cannot be started.
    pub fn start(peers: Vec<(usize, String, TcpStream)>, alarm: &Alarm) -> io::Result<Heartbeats> {
        let mut sockets = Vec::new();
        let (watching, watched) = mpsc::channel();
        for (process, host, socket) in peers {
            socket.set_read_timeout(Some(SILENCE))?;
            socket.set_write_timeout(Some(SILENCE))?;
            sockets.push(socket.try_clone()?);
            let (alarm, watching) = (alarm.clone(), watching.clone());
            let watch = move || {
                let how = watch(&socket, || _ = locked(&alarm.leaving).insert(process));
                // The peer waits for this before it ends.
                let _ = socket.shutdown(Shutdown::Write);
                drop(watching);
                if how == Loss::Closed {
                    std::thread::sleep(CAUSE);
                }
                alarm.raise(Lost { process, host, how });
            };
            std::thread::Builder::new().name(format!("watch-{process}")).spawn(watch)?;
        }
        let sockets = Arc::new(Mutex::new(sockets));
        let beaten = sockets.clone();
        std::thread::Builder::new().name("heartbeat".to_owned()).spawn(move || {
            loop {
                say(&locked(&beaten), &[ALIVE]);
                std::thread::sleep(BEAT);
            }
        })?;
        Ok(Heartbeats { sockets, alarm: alarm.clone(), watched: Mutex::new(watched) })
    }

    /// Announces that this process begins to stop.
    pub fn begin_to_leave(&self) {
        say(&locked(&self.sockets), &[LEAVING]);
    }

    /// Announces that this process stops.
    pub fn leave(&self) {
        self.send_last(&[GOODBYE]);
    }

    /// Announces that this process cannot continue, and why.
    pub fn fail(&self, reason: &str) {
        let mut words = vec![FAILED];
        words.extend(reason.bytes().take(LONGEST_REASON as usize));
        self.send_last(&words);
    }

    /// Sends the last message, unless one was sent before, and waits until the peers have received it.
    fn send_last(&self, words: &[u8]) {
        self.alarm.silence();
        let sockets = std::mem::take(&mut *locked(&self.sockets));
        if sockets.is_empty() {
            return;
        }
        say(&sockets, words);
        for socket in sockets {
            let _ = socket.shutdown(Shutdown::Write);
        }
        // It returns when all watching threads have ended.
        let _ = locked(&self.watched).recv_timeout(CONFIRMATION);
    }
}

fn say(sockets: &[TcpStream], words: &[u8]) {
    for mut socket in sockets {
        // If this fails, the reading thread reports it.
        let _ = socket.write_all(words);
    }
}

/// Reads heartbeats until they end, and returns the reason. Calls `leaves` if the peer begins to stop.
fn watch(mut socket: &TcpStream, leaves: impl Fn()) -> Loss {
    let mut heard = [0; 64];
    loop {
        match socket.read(&mut heard) {
            Ok(0) => return Loss::Closed,
            Ok(count) => {
                let heard = &heard[..count];
                if let Some(at) = heard.iter().position(|word| *word == FAILED) {
                    let mut reason = heard[at + 1..].to_vec();
                    let _ = socket.take(LONGEST_REASON).read_to_end(&mut reason);
                    return Loss::Failed(String::from_utf8_lossy(&reason).into_owned());
                }
                if heard.contains(&GOODBYE) {
                    return Loss::Ended;
                }
                if heard.contains(&LEAVING) {
                    leaves();
                }
            }
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock | ErrorKind::TimedOut => return Loss::Silent(SILENCE),
                ErrorKind::ConnectionReset => return Loss::Closed,
                _ => return Loss::Broken(error.to_string()),
            },
        }
    }
}

#[cfg(test)]
impl Heartbeats {
    /// Closes the connections, as the death of the process would.
    pub fn cut(&self) {
        self.alarm.silence();
        for socket in &*locked(&self.sockets) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}
