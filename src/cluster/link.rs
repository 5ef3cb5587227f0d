//! A link between two processes, as timely's threads read and write it, and the bells that wake data threads.
//!
//! Timely wakes a worker by unparking its thread. A data thread sleeps in the reactor of its sockets, where it does not
//! notice that. So each queue from the network to a worker notes in a policy of its own (timely runs it whenever it puts
//! bytes into the queue) whose thread is to be woken, and the thread that reads the network wakes them when it is about
//! to read on. It must not wake them in the policy: the queue is locked then, and the woken thread would spin.
//!
//! A link never fails for timely, whose threads would panic: one that breaks raises the alarm, and the thread stands
//! still until the process has ended.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use timely::communication::allocator::zero_copy::bytes_exchange::QueueEntry;
use timely::communication::allocator::zero_copy::spill::{SpillPolicy, SpillPolicyFn};
use timely::communication::allocator::zero_copy::stream::Stream;
use tokio::sync::Notify;

use super::heartbeat::{Alarm, Loss, Lost};

/// How long the heartbeat's connection gets to say more exactly what has happened.
const SECOND_OPINION: Duration = Duration::from_millis(500);

thread_local! {
    /// What wakes this thread, where it is a data thread.
    static BELL: RefCell<Option<Arc<Notify>>> = const { RefCell::new(None) };
    /// Whom this thread has to wake, where it reads from the network.
    static UNRUNG: RefCell<Vec<Arc<Notify>>> = const { RefCell::new(Vec::new()) };
}

/// Names what wakes this thread when something comes from another process. To be called before the thread builds its
/// allocator.
pub fn hang_bell(bell: Arc<Notify>) {
    BELL.with_borrow_mut(|own| *own = Some(bell));
}

/// The policies for timely's queues.
pub(super) fn bells() -> SpillPolicyFn {
    Arc::new(|| {
        let bell = BELL.with_borrow(Clone::clone);
        let writer: Box<dyn SpillPolicy> = match bell {
            Some(bell) => Box::new(Bell(bell)),
            None => Box::new(NoBell),
        };
        (writer, Box::new(NoBell))
    })
}

/// Of a queue to a worker.
struct Bell(Arc<Notify>);

impl SpillPolicy for Bell {
    fn apply(&mut self, queue: &mut VecDeque<QueueEntry>) {
        if queue.is_empty() {
            return;
        }
        UNRUNG.with_borrow_mut(|unrung| {
            if !unrung.iter().any(|bell| Arc::ptr_eq(bell, &self.0)) {
                unrung.push(self.0.clone());
            }
        });
    }
}

/// Of a queue to the network: timely's own threads wait there.
struct NoBell;

impl SpillPolicy for NoBell {
    fn apply(&mut self, _queue: &mut VecDeque<QueueEntry>) {}
}

/// See the module.
pub(super) struct Link {
    socket: TcpStream,
    process: usize,
    host: String,
    alarm: Alarm,
}

impl Link {
    /// The link to this process.
    pub fn new(socket: TcpStream, process: usize, host: String, alarm: Alarm) -> Link {
        Link { socket, process, host, alarm }
    }

    /// Tells that the peer is lost, and stands still: the process ends.
    fn breaks(&self, how: Loss) -> ! {
        std::thread::sleep(SECOND_OPINION);
        self.alarm.raise(Lost { process: self.process, host: self.host.clone(), how });
        loop {
            std::thread::park();
        }
    }
}

fn loss(error: io::Error) -> Loss {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Loss::Closed,
        _ => Loss::Broken(error.to_string()),
    }
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // All that was read before is in the queues.
        UNRUNG.with_borrow_mut(|unrung| unrung.drain(..).for_each(|bell| bell.notify_one()));
        loop {
            match self.socket.read(buffer) {
                Ok(0) => self.breaks(Loss::Closed),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.breaks(loss(error)),
                read => return read,
            }
        }
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.socket.write(bytes) {
            Err(error) if error.kind() != ErrorKind::Interrupted => self.breaks(loss(error)),
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Link {
    fn try_clone(&self) -> io::Result<Link> {
        let Link { process, host, alarm, .. } = self;
        Ok(Link { socket: self.socket.try_clone()?, process: *process, host: host.clone(), alarm: alarm.clone() })
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.socket.set_nonblocking(nonblocking)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        // A peer that is gone has shut it down already.
        let _ = self.socket.shutdown(how);
        Ok(())
    }
}
