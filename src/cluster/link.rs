//! A link between two processes, read and written by timely's threads, and the wake-up of data threads.
//!
//! Timely wakes a worker by unparking its thread. A data thread sleeps in the reactor of its sockets and does not
//! notice that. So each queue from the network to a worker has our own policy, which timely runs whenever it adds bytes
//! to the queue. The policy records which thread must be woken, and the thread that reads the network wakes these
//! threads before it reads more. The policy cannot wake them itself: the queue is locked then, and the woken thread
//! would spin.
//!
//! A link never returns an error to timely, whose threads would panic. If a link breaks, it raises the alarm and blocks
//! its thread until the process ends.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use timely::communication::allocator::zero_copy::bytes_exchange::QueueEntry;
use timely::communication::allocator::zero_copy::spill::{SpillPolicy, SpillPolicyFn};
use timely::communication::allocator::zero_copy::stream::Stream;
use tokio::sync::Notify;

use super::heartbeat::{Alarm, Loss, Lost};

thread_local! {
    /// The waker of this thread, if it is a data thread.
    static WAKER: RefCell<Option<Arc<Notify>>> = const { RefCell::new(None) };
    /// The threads that this thread must wake, if it reads from the network.
    static TO_WAKE: RefCell<Vec<Arc<Notify>>> = const { RefCell::new(Vec::new()) };
}

/// Sets what wakes this thread when something arrives from another process. Must be called before the thread builds its
/// allocator.
pub fn set_waker(waker: Arc<Notify>) {
    WAKER.with_borrow_mut(|own| *own = Some(waker));
}

/// The policies for timely's queues.
pub(super) fn spill_policies() -> SpillPolicyFn {
    Arc::new(|| {
        let waker = WAKER.with_borrow(Clone::clone);
        let writer: Box<dyn SpillPolicy> = match waker {
            Some(waker) => Box::new(WakesThread(waker)),
            None => Box::new(WakesNobody),
        };
        (writer, Box::new(WakesNobody))
    })
}

/// The policy of a queue to a worker.
struct WakesThread(Arc<Notify>);

impl SpillPolicy for WakesThread {
    fn apply(&mut self, queue: &mut VecDeque<QueueEntry>) {
        if queue.is_empty() {
            return;
        }
        TO_WAKE.with_borrow_mut(|to_wake| {
            if !to_wake.iter().any(|waker| Arc::ptr_eq(waker, &self.0)) {
                to_wake.push(self.0.clone());
            }
        });
    }
}

/// The policy of a queue to the network, whose readers are threads of timely.
struct WakesNobody;

impl SpillPolicy for WakesNobody {
    fn apply(&mut self, _queue: &mut VecDeque<QueueEntry>) {}
}

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

    /// Reports that the peer is lost, and blocks for ever: the process is about to end.
    fn breaks(&self, how: Loss) -> ! {
        self.alarm.raise_later_on_thread(Lost { process: self.process, host: self.host.clone(), how });
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
        // Everything read so far is in the queues.
        TO_WAKE.with_borrow_mut(|to_wake| to_wake.drain(..).for_each(|waker| waker.notify_one()));
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
        // If the peer is lost, it is already shut down.
        let _ = self.socket.shutdown(how);
        Ok(())
    }
}
