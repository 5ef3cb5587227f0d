//! Where a view tells a client's task that there is something to pull.
//!
//! A mailbox holds each of a socket's subscriptions at most once, so it is bounded by them. It holds no frames.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;

use crate::sync::locked;

/// One socket's.
#[derive(Debug, Default)]
pub struct Mailbox {
    peer: String,
    /// bytes that its socket has not taken yet
    waiting: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    slots: Vec<u32>,
    heartbeat: bool,
    expired: bool,
    waker: Option<Waker>,
}

/// What came.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mail {
    /// subscriptions that have something to pull
    pub slots: Vec<u32>,
    /// a heartbeat is due
    pub heartbeat: bool,
    /// the client's token has expired
    pub expired: bool,
}

impl Mailbox {
    /// The mailbox of the socket to this peer.
    pub fn new(peer: String) -> Mailbox {
        Mailbox { peer, ..Mailbox::default() }
    }

    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Bytes that wait for the socket.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub fn set_waiting(&self, bytes: usize) {
        self.waiting.store(bytes, Ordering::Relaxed);
    }

    /// A subscription has something to pull. Its view calls this once until the subscription was pulled.
    pub fn put(&self, slot: u32) {
        self.with(|inner| inner.slots.push(slot));
    }

    pub fn heartbeat(&self) {
        self.with(|inner| inner.heartbeat = true);
    }

    pub fn expire(&self) {
        self.with(|inner| inner.expired = true);
    }

    /// Takes what is there.
    pub fn take(&self) -> Mail {
        let mut inner = locked(&self.inner);
        Mail {
            slots: std::mem::take(&mut inner.slots),
            heartbeat: std::mem::take(&mut inner.heartbeat),
            expired: std::mem::take(&mut inner.expired),
        }
    }

    /// Whether nothing is there; if so, this waker is woken by what comes next.
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
