//! The mailbox in which a view notifies the task of a client.
//!
//! A mailbox holds each subscription of a socket at most once, so its size is bounded by their number. It holds no
//! frames.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;

use smallvec::SmallVec;

use crate::sync::locked;

/// Numbers of subscriptions. Most sockets have one, so these allocate nothing.
type Slots = SmallVec<[u32; 4]>;

/// The mailbox of one socket.
#[derive(Debug, Default)]
pub struct Mailbox {
    peer: String,
    /// bytes that the socket has not sent yet
    waiting: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    slots: Slots,
    heartbeat: bool,
    expired: bool,
    waker: Option<Waker>,
}

/// The contents of a mailbox.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mail {
    /// subscriptions with something to fetch
    pub slots: Slots,
    /// a heartbeat is due
    pub heartbeat: bool,
    /// the client's token has expired
    pub expired: bool,
}

impl Mailbox {
    /// The mailbox of the socket of this peer.
    pub fn new(peer: String) -> Mailbox {
        Mailbox { peer, ..Mailbox::default() }
    }

    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Bytes waiting for the socket.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub fn set_waiting(&self, bytes: usize) {
        self.waiting.store(bytes, Ordering::Relaxed);
    }

    /// Records that a subscription has something to fetch. The view calls this only once until it is fetched.
    pub fn put(&self, slot: u32) {
        self.with(|inner| inner.slots.push(slot));
    }

    pub fn heartbeat(&self) {
        self.with(|inner| inner.heartbeat = true);
    }

    pub fn expire(&self) {
        self.with(|inner| inner.expired = true);
    }

    /// Takes the contents.
    pub fn take(&self) -> Mail {
        let mut inner = locked(&self.inner);
        Mail {
            slots: std::mem::take(&mut inner.slots),
            heartbeat: std::mem::take(&mut inner.heartbeat),
            expired: std::mem::take(&mut inner.expired),
        }
    }

    /// Whether it is empty; if so, this waker is woken when something arrives.
    pub fn is_empty(&self, waker: &Waker) -> bool {
        let mut inner = locked(&self.inner);
        let empty = inner.slots.is_empty() && !inner.heartbeat && !inner.expired;
        if empty && !inner.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            inner.waker = Some(waker.clone());
        }
        empty
    }

    fn with(&self, change: impl FnOnce(&mut Inner)) {
        let waker = {
            let mut inner = locked(&self.inner);
            change(&mut inner);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
