//! The messages that one sink keeps for its peer: a numbered queue, on disk, and in memory as far as there is room.
//!
//! The worker adds messages at the end, and waits while the disk takes them more slowly than they come. One consumer takes
//! them at a cursor, and reports which of them the peer has; those are deleted. When a connection breaks, the cursor
//! returns to the first message that is not proven delivered. Messages that are no longer in memory are read back by the
//! spool's writer. Beyond its limit the store drops and counts the oldest messages; while the disk takes nothing at all,
//! those that memory has no room for.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::CacheSettings;
use super::indicator::marked;
use super::log::Log;
use super::window::{Excess, Portion, Room, Taken, Window};
use crate::io::batch_queue::QueueLimit;
use crate::io::queue::MessageBatch;
use crate::io::{LinkStatus, UNSENT};
use crate::sync::locked;

/// Causes of lost messages.
const FULL: &str = "cache full";
const DISK: &str = "disk full";
const DAMAGED: &str = "damaged on disk";

/// What may be in memory while rules are asked to wait: before they look, they end what they began.
const OVERDRAFT: QueueLimit = QueueLimit { messages: 1 << 18, bytes: 64 << 20 };

/// A sink, as its store sees it.
pub(in crate::io) trait Wake: Send + Sync {
    /// There is something to take.
    fn wake(&self);

    /// The store is ready again ([`Store::is_ready`]).
    fn relieve(&self);
}

/// See the module.
pub struct Store {
    settings: Mutex<CacheSettings>,
    window: Mutex<Window>,
    /// only those take it who may wait for the disk; `None` once the store is closed
    log: Mutex<Option<Log>>,
    /// the disk takes nothing
    failing: AtomicBool,
    /// the writer is asked to look at it
    asked: AtomicBool,
    /// at once
    hurried: AtomicBool,
    /// the writer looks at it within a second, whether it is asked or not
    watched: AtomicBool,
    ask: Box<dyn Fn(bool) + Send + Sync>,
    /// the sinks that have it, each with its number; the last one may take from it
    owners: Mutex<Vec<(u64, Arc<dyn Wake>)>>,
    /// the number of that one; 0: there is none
    owner: AtomicU64,
    delivered: AtomicU64,
    bytes: AtomicU64,
    lost: Mutex<Vec<(&'static str, u64)>>,
    last_error: Mutex<Option<(SystemTime, String)>>,
}

impl Store {
    /// A store over an open log. `ask` lets the writer call [`Store::work`], at once where it says so.
    pub(super) fn new(settings: CacheSettings, log: Log, ask: Box<dyn Fn(bool) + Send + Sync>) -> Store {
        Store {
            settings: Mutex::new(settings),
            window: Mutex::new(Window::new(log.done(), log.next(), log.holes().clone())),
            log: Mutex::new(Some(log)),
            failing: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            hurried: AtomicBool::new(false),
            watched: AtomicBool::new(false),
            ask,
            owners: Mutex::default(),
            owner: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            lost: Mutex::default(),
            last_error: Mutex::default(),
        }
    }

    /// Lets a sink that is being opened take from it, and nobody before it until it lets go. The answer names the sink.
    pub(in crate::io) fn own(&self, waker: Arc<dyn Wake>) -> u64 {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut owners = locked(&self.owners);
        owners.push((number, waker));
        self.owner.store(number, Ordering::Release);
        self.rewind();
        number
    }

    /// The sink takes nothing more. One that had the store before it, and has it still, goes on.
    pub(in crate::io) fn disown(&self, owner: u64) {
        let next = {
            let mut owners = locked(&self.owners);
            owners.retain(|(number, _)| *number != owner);
            let next = owners.last().cloned();
            if !self.is_owned(owner) {
                return;
            }
            self.owner.store(next.as_ref().map_or(0, |(number, _)| *number), Ordering::Release);
            next
        };
        self.rewind();
        next.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Whether this sink may take from it.
    pub(in crate::io) fn is_owned(&self, owner: u64) -> bool {
        self.owner.load(Ordering::Acquire) == owner
    }

    /// Whether no sink has it any more.
    pub(in crate::io) fn is_free(&self) -> bool {
        self.is_owned(0)
    }

    /// How it was asked to keep messages.
    pub(in crate::io) fn settings(&self) -> CacheSettings {
        locked(&self.settings).clone()
    }

    /// Keeps messages otherwise from now on.
    pub(super) fn configure(&self, settings: CacheSettings) {
        *locked(&self.settings) = settings;
    }

    /// Adds messages.
    pub(in crate::io) fn push(&self, batch: &Arc<MessageBatch>) {
        if batch.is_empty() {
            return;
        }
        let capacity = locked(&self.settings).capacity;
        let room = self.room();
        let Excess { kept, memory } = locked(&self.window).push(batch, capacity, room);
        self.lose(FULL, kept);
        self.lose(DISK, memory);
        self.ask();
        self.wake();
    }

    /// Whether rules may add messages. If not, all sinks that have the store are told when they may.
    pub(in crate::io) fn is_ready(&self) -> bool {
        let room = self.room();
        let is_ready = self.failing.load(Ordering::Acquire) || locked(&self.window).is_ready(room);
        if !is_ready {
            self.hurry();
        }
        is_ready
    }

    /// What may be in memory. A disk that takes nothing is not waited for.
    fn room(&self) -> Room {
        let usual = locked(&self.settings).memory;
        let most = match self.failing.load(Ordering::Acquire) {
            true => usual,
            false => {
                QueueLimit { messages: usual.messages.max(OVERDRAFT.messages), bytes: usual.bytes.max(OVERDRAFT.bytes) }
            }
        };
        Room { usual, most }
    }

    /// Lets rules go on that wait, if there is room again, or no disk to wait for.
    fn relieve(&self) {
        let (room, failing) = (self.room(), self.failing.load(Ordering::Acquire));
        if locked(&self.window).relieved(room, failing) {
            let owners: Vec<_> = locked(&self.owners).iter().map(|(_, owner)| owner.clone()).collect();
            owners.iter().for_each(|owner| owner.relieve());
        }
    }

    /// The next messages; `None`: there is nothing now, and the waker is told when there is. While late ones are
    /// `paused` ([`CacheSettings::resend_interval`]), they are not taken.
    pub(in crate::io) fn take(&self, paused: bool) -> Option<Portion> {
        let resend = locked(&self.settings).resend;
        let (portion, load, damaged) = {
            let mut window = locked(&self.window);
            let portion = window.take(resend, paused);
            let load = (portion.is_none() || window.is_split()) && window.wants_disk();
            (portion, load, window.damage())
        };
        self.lose(DAMAGED, damaged);
        if load {
            self.hurry();
        }
        let indicator = locked(&self.settings).indicator.clone();
        match (portion, indicator) {
            (Some(portion), Some(field)) if portion.resent => {
                Some(Portion { batch: marked(&portion.batch, &field), ..portion })
            }
            (portion, _) => portion,
        }
    }

    /// Whether [`Store::take`] would give something; if not, the waker is told when it would.
    pub(in crate::io) fn has_more(&self, paused: bool) -> bool {
        let (more, load) = {
            let mut window = locked(&self.window);
            let more = window.has_more(paused);
            (more, !more && window.wants_disk())
        };
        if load {
            self.hurry();
        }
        more
    }

    /// Messages from this number on were not sent: they are taken again.
    pub(in crate::io) fn back(&self, number: u64) {
        locked(&self.window).back(number);
    }

    /// A connection begins: what is not proven is sent again.
    pub(in crate::io) fn rewind(&self) {
        let resend = locked(&self.settings).resend;
        locked(&self.window).rewind(resend);
    }

    /// The peer, which was away, is there again: what was not taken is late.
    pub(in crate::io) fn turn(&self) {
        let resend = locked(&self.settings).resend;
        locked(&self.window).turn(resend);
    }

    /// What is taken now.
    pub(in crate::io) fn taken(&self) -> Taken {
        locked(&self.window).taken()
    }

    /// Whether messages were taken that are not proven.
    pub(in crate::io) fn has_unproven(&self) -> bool {
        locked(&self.window).has_unproven()
    }

    /// The peer has received all that was taken then.
    pub(in crate::io) fn prove(&self, taken: &Taken) {
        let proven = locked(&self.window).prove(taken);
        self.count_proven(proven);
    }

    /// The peer has received all messages below this number.
    #[cfg(test)]
    pub(super) fn prove_below(&self, number: u64) {
        let proven = locked(&self.window).forget(number);
        self.count_proven(proven);
    }

    fn count_proven(&self, proven: u64) {
        if proven > 0 {
            self.delivered.fetch_add(proven, Ordering::Relaxed);
            self.relieve();
            self.forget_soon();
        }
    }

    /// Marks so many messages from this number on as done, in any order; `delivered` of them reached the peer.
    pub(in crate::io) fn finish(&self, number: u64, messages: u64, delivered: u64) {
        let fresh = locked(&self.window).finish(number, messages);
        self.delivered.fetch_add(delivered.min(fresh), Ordering::Relaxed);
        self.relieve();
        self.forget_soon();
    }

    /// These bytes were handed to the peer.
    pub(in crate::io) fn sent(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Messages that are kept for the peer.
    pub fn queued(&self) -> usize {
        locked(&self.window).queued() as usize
    }

    /// Drops all that is kept: it is lost, and counted.
    pub(in crate::io) fn clear(&self) {
        let lost = locked(&self.window).forget(u64::MAX);
        self.lose(UNSENT, lost);
        self.relieve();
        self.ask();
    }

    /// Waits until nothing is kept any more, but no longer than `limit`.
    pub(in crate::io) async fn drained(&self, limit: Duration) {
        const LOOK: Duration = Duration::from_millis(5);
        let wait = async {
            while self.queued() > 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = tokio::time::timeout(limit, wait).await;
    }

    /// Adds what it counts to the status of its sink.
    pub(in crate::io) fn describe(&self, status: &mut LinkStatus) {
        status.messages = self.delivered.load(Ordering::Relaxed);
        status.bytes = self.bytes.load(Ordering::Relaxed);
        status.stored = self.queued();
        status.dropped.extend(locked(&self.lost).iter());
        if let Some(error) = &*locked(&self.last_error) {
            status.last_error = Some(error.clone());
        }
    }

    /// Counts lost messages.
    pub(in crate::io) fn lose(&self, cause: &'static str, messages: u64) {
        if messages == 0 {
            return;
        }
        let mut lost = locked(&self.lost);
        match lost.iter_mut().find(|(known, _)| *known == cause) {
            Some((_, count)) => *count += messages,
            None => lost.push((cause, messages)),
        }
    }

    fn ask(&self) {
        if !self.asked.swap(true, Ordering::AcqRel) {
            (self.ask)(false);
        }
    }

    /// As [`Store::ask`]; somebody waits.
    fn hurry(&self) {
        if !self.hurried.swap(true, Ordering::AcqRel) {
            (self.ask)(true);
        }
    }

    /// Messages are done with, which the log is to know in a second.
    fn forget_soon(&self) {
        if !self.watched.load(Ordering::Acquire) {
            self.ask();
        }
    }

    /// Whether the writer looks at it within a second, asked or not.
    pub(super) fn watch(&self, watched: bool) {
        self.watched.store(watched, Ordering::Release);
    }

    fn wake(&self) {
        let owner = locked(&self.owners).last().cloned();
        owner.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Writes what is new, reads what is wanted, forgets what is done with. It waits for the disk.
    ///
    /// # Errors
    /// The disk takes nothing now: it is to be called again.
    pub(super) fn work(&self) -> io::Result<()> {
        match &mut *locked(&self.log) {
            Some(log) => self.work_on(log),
            None => Ok(()),
        }
    }

    /// The same for the last time: nobody has it any more, and its folder is free.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn close(&self) -> io::Result<()> {
        let worked = self.work();
        let synced = self.sync();
        self.failing.store(true, Ordering::Release);
        *locked(&self.log) = None;
        self.relieve();
        worked.and(synced)
    }

    fn work_on(&self, log: &mut Log) -> io::Result<()> {
        self.asked.store(false, Ordering::Release);
        self.hurried.store(false, Ordering::Release);
        // What is done with first: on a full disk that makes room.
        let (first, holes) = {
            let window = locked(&self.window);
            (window.first(), window.holes().clone())
        };
        let forgotten = log.forget(first, holes);
        let done = self.load(log).and(self.append(log)).and(forgotten);
        *locked(&self.last_error) =
            done.as_ref().err().map(|error| (SystemTime::now(), format!("cannot keep messages on disk: {error}")));
        self.failing.store(done.is_err(), Ordering::Release);
        self.relieve();
        done
    }

    /// Writes what is new, and lets it outlive a loss of power: its sink ends.
    pub(in crate::io) async fn keep(self: &Arc<Self>) {
        let store = self.clone();
        let kept = tokio::task::spawn_blocking(move || store.work().and_then(|()| store.sync())).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(%error, "messages that are kept for a peer are not all on disk");
        }
    }

    /// Lets what was written outlive a loss of power. Messages can be written meanwhile.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn sync(&self) -> io::Result<()> {
        let unsynced = locked(&self.log).as_mut().map(Log::take_unsynced).unwrap_or_default();
        for (at, path) in unsynced.iter().enumerate() {
            match File::open(path).and_then(|file| file.sync_data()) {
                Ok(()) => {}
                // What is done with is gone.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    if let Some(log) = &mut *locked(&self.log) {
                        log.give_back(&unsynced[at..]);
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn append(&self, log: &mut Log) -> io::Result<()> {
        let fresh = locked(&self.window).unwritten();
        let (appended, failed) = match log.append(&fresh) {
            Ok(()) => (fresh.len(), Ok(())),
            Err((appended, error)) => (appended, Err(error)),
        };
        if let Some(last) = fresh[..appended].last() {
            let room = self.room();
            let lost = locked(&self.window).wrote(last.end(), room);
            self.lose(DISK, lost);
        }
        failed
    }

    fn load(&self, log: &mut Log) -> io::Result<()> {
        let Some(from) = locked(&self.window).load_from() else { return Ok(()) };
        let page = locked(&self.settings).page;
        match log.read(from, page) {
            Ok(page) => {
                if page.damaged > 0 {
                    tracing::warn!(messages = page.damaged, "messages that are kept for a peer are damaged on disk");
                }
                let damaged = locked(&self.window).loads(from, page);
                self.lose(DAMAGED, damaged);
                self.wake();
                Ok(())
            }
            Err(error) => {
                locked(&self.window).load_failed();
                self.wake();
                Err(error)
            }
        }
    }
}
