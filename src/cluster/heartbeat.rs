//! Heartbeats between processes, which detect that another process is gone.
//!
//! Each process sends every other one a byte each [`BEAT`]; a process that is silent for [`SILENCE`] is lost. A process
//! whose connection closes is lost too, which detects its death within milliseconds. A process that stops intentionally
//! announces it; one that cannot continue sends the reason.
//!
//! The connection carries nothing else, so that a busy link does not look like a dead peer. Separate threads write and
//! read it. They detect a process that hangs as a whole, but not a single thread that hangs.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The interval of heartbeats.
const BEAT: Duration = Duration::from_secs(2);

/// The longest silence of a process.
const SILENCE: Duration = Duration::from_secs(10);

const ALIVE: u8 = b'.';
const GOODBYE: u8 = b'!';
/// Announces that the reason for a failure follows.
const FAILED: u8 = b'#';

/// The longest reason, bytes.
const LONGEST_REASON: u64 = 4096;

/// How long to wait for a more precise reason after another connection has closed.
const SECOND_OPINION: Duration = Duration::from_millis(500);

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
            Loss::Ended => write!(f, "has ended"),
            Loss::Failed(reason) => write!(f, "cannot go on: {reason}"),
            Loss::Closed => write!(f, "is gone: its connection was closed"),
            Loss::Silent(limit) => write!(f, "is gone: it said nothing for {} s", limit.as_secs()),
            Loss::Broken(error) => write!(f, "is gone: {error}"),
            Loss::Crashed => write!(f, "has lost a data thread, which is an error in this program: please report it"),
        }
    }
}

/// Reports once that a process is lost. Clones share it.
#[derive(Clone)]
pub(super) struct Alarm {
    told: Arc<AtomicBool>,
    tell: Arc<dyn Fn(Lost) + Send + Sync>,
}

impl Alarm {
    pub fn new(tell: Arc<dyn Fn(Lost) + Send + Sync>) -> Alarm {
        Alarm { told: Arc::default(), tell }
    }

    /// Reports a lost process. Only the first report counts.
    pub fn raise(&self, lost: Lost) {
        if !self.told.swap(true, Ordering::AcqRel) {
            (self.tell)(lost);
        }
    }

    /// Reports a lost process, unless the heartbeats soon report a more precise reason.
    pub async fn raise_later(&self, lost: Lost) {
        tokio::time::sleep(SECOND_OPINION).await;
        self.raise(lost);
    }

    /// The same, from a thread.
    pub fn raise_later_on_thread(&self, lost: Lost) {
        std::thread::sleep(SECOND_OPINION);
        self.raise(lost);
    }

    /// Stops reporting.
    fn silence(&self) {
        self.told.store(true, Ordering::Release);
    }
}

/// The heartbeats of this process, until it ends.
pub(super) struct Heartbeats {
    sockets: Arc<[TcpStream]>,
    alarm: Alarm,
}

impl Heartbeats {
    /// Starts to watch these processes and to send heartbeats to them.
    ///
    /// # Errors
    /// The system's error if threads cannot be started.
    pub fn start(peers: Vec<(usize, String, TcpStream)>, alarm: &Alarm) -> io::Result<Heartbeats> {
        let mut sockets = Vec::new();
        for (process, host, socket) in peers {
            socket.set_read_timeout(Some(SILENCE))?;
            socket.set_write_timeout(Some(SILENCE))?;
            sockets.push(socket.try_clone()?);
            let alarm = alarm.clone();
            let watch = move || alarm.raise(Lost { process, host, how: watch(socket) });
            std::thread::Builder::new().name(format!("watch-{process}")).spawn(watch)?;
        }
        let sockets: Arc<[TcpStream]> = sockets.into();
        let beaten = sockets.clone();
        std::thread::Builder::new().name("heartbeat".to_owned()).spawn(move || {
            loop {
                say(&beaten, &[ALIVE]);
                std::thread::sleep(BEAT);
            }
        })?;
        Ok(Heartbeats { sockets, alarm: alarm.clone() })
    }

    /// Announces that this process stops.
    pub fn leave(&self) {
        self.alarm.silence();
        say(&self.sockets, &[GOODBYE]);
    }

    /// Announces that this process cannot continue, and why.
    pub fn fail(&self, reason: &str) {
        self.alarm.silence();
        let mut words = vec![FAILED];
        words.extend(reason.bytes().take(LONGEST_REASON as usize));
        say(&self.sockets, &words);
        for socket in &*self.sockets {
            let _ = socket.shutdown(std::net::Shutdown::Write);
        }
    }
}

fn say(sockets: &[TcpStream], words: &[u8]) {
    for mut socket in sockets {
        // If this fails, the reading thread reports it.
        let _ = socket.write_all(words);
    }
}

/// Reads heartbeats until they end, and returns the reason.
fn watch(mut socket: TcpStream) -> Loss {
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
        for socket in &*self.sockets {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}
