//! All views by name, and the clock for their clients.
//!
//! One clock serves all views and sockets: ticks of rates, heartbeats, expiry of tokens and of RETAIN. Nothing has its
//! own timer.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::atomic::{AtomicI64, AtomicIsize, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::client::{ClientError, ErrorCode};
use super::cursor::new_run;
use super::description::Description;
use super::mailbox::Mailbox;
use super::store::{View, ViewCell};
use crate::sync::locked;
use crate::time::Clock;
use crate::value::Text;

/// How long after its last message a client gets a heartbeat, ms.
pub const HEARTBEAT_MS: i64 = 15_000;

/// The steps of the clock, ms: with and without clients that have a rate.
const FAST: i64 = 50;
const SLOW: i64 = 500;

/// The most sockets at the same time.
const SOCKETS: usize = 100_000;

/// The views of a process.
pub struct Views {
    clock: Clock,
    run: Text,
    numbers: AtomicU64,
    incarnations: AtomicU64,
    views: Mutex<BTreeMap<Text, Arc<ViewCell>>>,
    sockets: AtomicUsize,
    most_sockets: usize,
    /// whether there is no memory for more subscriptions
    is_short: fn() -> bool,
    /// subscriptions with a rate
    rated: AtomicIsize,
    /// the last step of the clock, ms
    ticked: AtomicI64,
    /// the sockets by the second of the interval in which their heartbeat is due
    heartbeats: Mutex<Vec<Vec<Weak<Mailbox>>>>,
    expiring: Mutex<BinaryHeap<Reverse<Expiry>>>,
}

/// The expiry of a token. Ordered by time.
struct Expiry(i64, Weak<Mailbox>);

impl PartialEq for Expiry {
    fn eq(&self, other: &Expiry) -> bool {
        self.0 == other.0
    }
}
impl Eq for Expiry {}
impl PartialOrd for Expiry {
    fn partial_cmp(&self, other: &Expiry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Expiry {
    fn cmp(&self, other: &Expiry) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl Default for Views {
    fn default() -> Views {
        Views::new(Clock::System)
    }
}

impl Views {
    pub fn new(clock: Clock) -> Views {
        let seconds = (HEARTBEAT_MS / 1000) as usize;
        Views {
            ticked: AtomicI64::new(clock.now()),
            clock,
            run: new_run(),
            numbers: AtomicU64::new(1),
            incarnations: AtomicU64::new(1),
            views: Mutex::default(),
            sockets: AtomicUsize::new(0),
            most_sockets: SOCKETS,
            is_short: || false,
            rated: AtomicIsize::new(0),
            heartbeats: Mutex::new((0..seconds).map(|_| Vec::new()).collect()),
            expiring: Mutex::default(),
        }
    }

    /// The same, but without new subscriptions while memory is short.
    #[must_use]
    pub fn sparing(self, is_short: fn() -> bool) -> Views {
        Views { is_short, ..self }
    }

    /// Whether there is no memory for more subscriptions.
    pub(super) fn is_short(&self) -> bool {
        (self.is_short)()
    }

    /// The same with room for this many sockets.
    #[cfg(test)]
    pub(super) fn with_room(self, most_sockets: usize) -> Views {
        Views { most_sockets, ..self }
    }

    /// Now, ms since the epoch.
    pub fn now(&self) -> i64 {
        self.clock.now()
    }

    /// Makes a view; an existing one with this name ends.
    pub fn create(&self, about: Description) -> Arc<ViewCell> {
        let name = about.name.clone();
        let incarnation = self.incarnations.fetch_add(1, Ordering::Relaxed);
        let view = Arc::new(Mutex::new(View::new(about, self.run.clone(), incarnation)));
        if let Some(old) = locked(&self.views).insert(name, view.clone()) {
            locked(&old).end();
        }
        view
    }

    /// A view that is not registered.
    pub fn detached(about: Description) -> Arc<ViewCell> {
        Arc::new(Mutex::new(View::new(about, new_run(), 0)))
    }

    /// Drops a view and notifies its clients.
    pub fn drop_view(&self, name: &str) {
        if let Some(old) = locked(&self.views).remove(name) {
            locked(&old).end();
        }
    }

    pub fn find(&self, name: &str) -> Option<Arc<ViewCell>> {
        locked(&self.views).get(name).cloned()
    }

    /// The view with this path for clients.
    pub fn at_path(&self, path: &str) -> Option<Text> {
        let views = locked(&self.views);
        views.iter().find(|(_, view)| locked(view).about().path == path).map(|(name, _)| name.clone())
    }

    /// Whether there are no views.
    pub fn is_empty(&self) -> bool {
        locked(&self.views).is_empty()
    }

    pub fn all(&self) -> Vec<Arc<ViewCell>> {
        locked(&self.views).values().cloned().collect()
    }

    /// A new subscription number `s`.
    pub(super) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn rated(&self, more: isize) {
        self.rated.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn unknown(&self, name: &str) -> ClientError {
        let shown: String = name.chars().take(60).collect();
        let views = locked(&self.views);
        let near = views.keys().map(|known| (strsim::damerau_levenshtein(known, &shown), known)).min();
        let hint = match near {
            Some((distance, known)) if distance <= 2 => format!("; did you mean {known}?"),
            _ => String::new(),
        };
        ClientError::new(ErrorCode::UnknownView, format!("there is no view {shown}{hint}"))
    }

    /// Registers a socket; false if there are too many.
    pub(super) fn enter(&self, mailbox: &Arc<Mailbox>, expires: Option<i64>, now: i64) -> bool {
        if self.sockets.fetch_add(1, Ordering::Relaxed) >= self.most_sockets {
            return false;
        }
        let mut seconds = locked(&self.heartbeats);
        let second = now.div_euclid(1000).rem_euclid(seconds.len() as i64) as usize;
        seconds[second].push(Arc::downgrade(mailbox));
        if let Some(expires) = expires {
            locked(&self.expiring).push(Reverse(Expiry(expires, Arc::downgrade(mailbox))));
        }
        true
    }

    pub(super) fn leave(&self) {
        self.sockets.fetch_sub(1, Ordering::Relaxed);
    }

    /// The current number of sockets.
    pub fn sockets(&self) -> usize {
        self.sockets.load(Ordering::Relaxed)
    }

    /// Makes a step of the clock; returns the time until the next one, ms.
    pub fn tick(&self) -> u64 {
        let now = self.now();
        let from = self.ticked.swap(now, Ordering::Relaxed);
        for view in self.all() {
            locked(&view).tick(from, now);
        }
        // After a long pause each socket gets only one heartbeat.
        let seconds = (now.div_euclid(1000) - from.div_euclid(1000)).clamp(0, HEARTBEAT_MS / 1000);
        for second in 0..seconds {
            let second = now.div_euclid(1000) - second;
            let mut sockets = locked(&self.heartbeats);
            let place = second.rem_euclid(sockets.len() as i64) as usize;
            sockets[place].retain(|mailbox| match mailbox.upgrade() {
                Some(mailbox) => {
                    mailbox.heartbeat();
                    true
                }
                None => false,
            });
        }
        let mut expiring = locked(&self.expiring);
        while expiring.peek().is_some_and(|Reverse(Expiry(at, _))| *at <= now) {
            if let Some(mailbox) = expiring.pop().and_then(|Reverse(Expiry(_, mailbox))| mailbox.upgrade()) {
                mailbox.expire();
            }
        }
        let step = if self.rated.load(Ordering::Relaxed) > 0 { FAST } else { SLOW };
        (step - now.rem_euclid(step)) as u64
    }
}
