//! Heartbeats between processes: how one notices that another is gone.
//!
//! Each process writes a byte to every other one all [`BEAT`]; one that says nothing for [`SILENCE`] is lost. So is one
//! whose connection closes: that is how the death of a process is noticed, within milliseconds. A process that ends by
//! intention says so first.
//!
//! The connection carries nothing else, so that a busy link does not look like a dead peer. Threads of their own write
//! and read: what keeps all threads of a process from running is found, a single one that hangs is not.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often a process says that it is there.
const BEAT: Duration = Duration::from_secs(2);

/// How long a process may say nothing.
const SILENCE: Duration = Duration::from_secs(10);

const ALIVE: u8 = b'.';
const GOODBYE: u8 = b'!';

/// A process that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// its number
    pub process: usize,
    /// its address
    pub host: String,
    /// how it went
    pub how: Loss,
}

/// How a process went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// by intention
    Ended,
    /// its connection was closed: it was killed, or has crashed
    Closed,
    /// it said nothing for so long: it hangs, or the network does
    Silent(Duration),
    /// its connection failed, and the system says why
    Broken(String),
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lost { process, host, how } = self;
        write!(f, "process {process} ({host}) ")?;
        match how {
            Loss::Ended => write!(f, "has ended"),
            Loss::Closed => write!(f, "is gone: its connection was closed"),
            Loss::Silent(limit) => write!(f, "is gone: it said nothing for {} s", limit.as_secs()),
            Loss::Broken(error) => write!(f, "is gone: {error}"),
        }
    }
}

/// Tells once that a process is lost. Clones share it.
#[derive(Clone)]
pub(super) struct Alarm {
    told: Arc<AtomicBool>,
    tell: Arc<dyn Fn(Lost) + Send + Sync>,
}

impl Alarm {
    pub fn new(tell: Arc<dyn Fn(Lost) + Send + Sync>) -> Alarm {
        Alarm { told: Arc::default(), tell }
    }

    /// A process is lost. Only the first one is told.
    pub fn raise(&self, lost: Lost) {
        if !self.told.swap(true, Ordering::AcqRel) {
            (self.tell)(lost);
        }
    }

    /// Nothing is told any more.
    fn silence(&self) {
        self.told.store(true, Ordering::Release);
    }
}

/// The heartbeats of this process. They go on until the process ends.
pub(super) struct Heartbeats {
    sockets: Arc<[TcpStream]>,
    alarm: Alarm,
}

impl Heartbeats {
    /// Watches these processes, and shows them that this one lives.
    ///
    /// # Errors
    /// What the system says where it gives no threads.
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
                say(&beaten, ALIVE);
                std::thread::sleep(BEAT);
            }
        })?;
        Ok(Heartbeats { sockets, alarm: alarm.clone() })
    }

    /// Says goodbye.
    pub fn leave(&self) {
        self.alarm.silence();
        say(&self.sockets, GOODBYE);
    }
}

fn say(sockets: &[TcpStream], word: u8) {
    for mut socket in sockets {
        // Whoever reads from it notices that it fails.
        let _ = socket.write_all(&[word]);
    }
}

/// Reads heartbeats until there are no more, and gives the reason.
fn watch(mut socket: TcpStream) -> Loss {
    let mut heard = [0; 64];
    loop {
        match socket.read(&mut heard) {
            Ok(0) => return Loss::Closed,
            Ok(count) if heard[..count].contains(&GOODBYE) => return Loss::Ended,
            Ok(_) => {}
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
    /// Closes the connections, as the death of the process does.
    pub fn cut(&self) {
        self.alarm.silence();
        for socket in &*self.sockets {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}
