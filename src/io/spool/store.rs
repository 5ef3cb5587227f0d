//! The messages that one sink stores for its peer: a numbered queue on disk, and in memory while there is room.
//!
//! The worker adds messages at the end, and waits if the disk is slower. One consumer takes them at a cursor, and
//! reports which of them the peer has received; those are deleted. When a connection breaks, the cursor returns to the
//! first message that is not proven delivered. Messages that are no longer in memory are read back by the spool's
//! writer. Beyond its limit the store drops and counts the oldest messages; while the disk accepts nothing, it drops
//! those that do not fit into memory.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::CacheSettings;
use super::indicator::marked;
use super::log::Log;
use super::record::Lot;
use super::window::{Excess, Portion, Room, Taken, Window};
use crate::io::batch_queue::QueueLimit;
use crate::io::queue::MessageBatch;
use crate::io::{LinkStatus, UNSENT};
use crate::sync::locked;

/// The causes of lost messages.
const FULL: &str = "cache full";
const DISK: &str = "disk full";
const DAMAGED: &str = "damaged on disk";

/// The additional messages that may be in memory while rules are asked to wait, because rules finish their turn first.
const OVERDRAFT: QueueLimit = QueueLimit { messages: 1 << 18, bytes: 64 << 20 };

/// A sink as its store sees it.
pub(in crate::io) trait Wake: Send + Sync {
    /// There are messages to take.
    fn wake(&self);

    /// The store is ready again ([`Store::is_ready`]).
    fn relieve(&self);
}

pub struct Store {
    settings: Mutex<CacheSettings>,
    window: Mutex<Window>,
    /// only threads that may wait for the disk lock it; `None` after the store is closed
    log: Mutex<Option<Log>>,
    /// the disk accepts nothing
    failing: AtomicBool,
    /// the writer has been asked to work on it
    asked: AtomicBool,
    /// the writer has been asked to do so at once
    hurried: AtomicBool,
    /// the writer works on it within a second, even without being asked
    watched: AtomicBool,
    ask: Box<dyn Fn(bool) + Send + Sync>,
    /// the sinks that use it, each with its number; the last one may take messages
    owners: Mutex<Vec<(u64, Arc<dyn Wake>)>>,
    /// the number of that sink; 0: there is none
    owner: AtomicU64,
    delivered: AtomicU64,
    bytes: AtomicU64,
    lost: Mutex<Vec<(&'static str, u64)>>,
    last_error: Mutex<Option<(SystemTime, String)>>,
}

impl Store {
    /// A store over an open log. `ask` makes the writer call [`Store::work`]; with `true`, at once.
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

    /// Gives a newly opened sink the right to take messages; earlier sinks lose it until this one ends. Returns the
    /// sink's number.
    pub(in crate::io) fn own(&self, waker: Arc<dyn Wake>) -> u64 {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut owners = locked(&self.owners);
        owners.push((number, waker));
        self.owner.store(number, Ordering::Release);
        self.rewind();
        number
    }

    /// The sink takes no more messages. The sink that had the store before it continues, if it still exists.
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

    /// Whether this sink may take messages.
    pub(in crate::io) fn is_owned(&self, owner: u64) -> bool {
        self.owner.load(Ordering::Acquire) == owner
    }

    /// Whether no sink uses it.
    pub(in crate::io) fn is_free(&self) -> bool {
        self.is_owned(0)
    }

    /// The current settings.
    pub(in crate::io) fn settings(&self) -> CacheSettings {
        locked(&self.settings).clone()
    }

    /// Changes the settings.
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

    /// Whether rules may add messages. If not, all sinks that use the store are woken when they may.
    pub(in crate::io) fn is_ready(&self) -> bool {
        let room = self.room();
        let is_ready = self.failing.load(Ordering::Acquire) || locked(&self.window).is_ready(room);
        if !is_ready {
            self.hurry();
        }
        is_ready
    }

    /// The limits of memory. If the disk accepts nothing, rules do not wait for it.
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

    /// Lets waiting rules continue if there is room again, or if the disk accepts nothing.
    fn relieve(&self) {
        let (room, failing) = (self.room(), self.failing.load(Ordering::Acquire));
        if locked(&self.window).relieved(room, failing) {
            let owners: Vec<_> = locked(&self.owners).iter().map(|(_, owner)| owner.clone()).collect();
            owners.iter().for_each(|owner| owner.relieve());
        }
    }

    /// The next messages; `None` if there are none now: then the waker is called when there are. While late messages
    /// are `paused` ([`CacheSettings::resend_interval`]), they are not taken.
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

    /// Whether [`Store::take`] would return messages; if not, the waker is called once it would.
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

    /// Returns the messages from this number on, which were not sent: they will be taken again.
    pub(in crate::io) fn back(&self, number: u64) {
        locked(&self.window).back(number);
    }

    /// A connection begins: unproven messages are sent again.
    pub(in crate::io) fn rewind(&self) {
        let resend = locked(&self.settings).resend;
        locked(&self.window).rewind(resend);
    }

    /// The peer is back after an absence: messages that were not taken count as late.
    pub(in crate::io) fn turn(&self) {
        let resend = locked(&self.settings).resend;
        locked(&self.window).turn(resend);
    }

    /// The messages that are taken at this time.
    pub(in crate::io) fn taken(&self) -> Taken {
        locked(&self.window).taken()
    }

    /// Whether any message that was taken is unproven.
    pub(in crate::io) fn has_unproven(&self) -> bool {
        locked(&self.window).has_unproven()
    }

    /// The peer has received all messages that were taken at that time.
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

    /// Marks messages from this number on as done, in any order; `delivered` of them reached the peer.
    pub(in crate::io) fn finish(&self, number: u64, messages: u64, delivered: u64) {
        let fresh = locked(&self.window).finish(number, messages);
        self.delivered.fetch_add(delivered.min(fresh), Ordering::Relaxed);
        self.relieve();
        self.forget_soon();
    }

    /// Counts bytes that were given to the peer's socket.
    pub(in crate::io) fn sent(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The number of stored messages.
    pub fn queued(&self) -> usize {
        locked(&self.window).queued() as usize
    }

    /// Drops all stored messages, and counts them as lost.
    pub(in crate::io) fn clear(&self) {
        let lost = locked(&self.window).forget(u64::MAX);
        self.lose(UNSENT, lost);
        self.relieve();
        self.ask();
    }

    /// Waits until no messages are stored, at most for `limit`.
    pub(in crate::io) async fn drained(&self, limit: Duration) {
        const LOOK: Duration = Duration::from_millis(5);
        let wait = async {
            while self.queued() > 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = tokio::time::timeout(limit, wait).await;
    }

    /// Adds its counts to the status of its sink.
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

    /// As [`Store::ask`], but at once, because a caller waits.
    fn hurry(&self) {
        if !self.hurried.swap(true, Ordering::AcqRel) {
            (self.ask)(true);
        }
    }

    /// Messages are done; the log should record it within a second.
    fn forget_soon(&self) {
        if !self.watched.load(Ordering::Acquire) {
            self.ask();
        }
    }

    /// Makes the writer work on it within a second, even without being asked.
    pub(super) fn watch(&self, watched: bool) {
        self.watched.store(watched, Ordering::Release);
    }

    fn wake(&self) {
        let owner = locked(&self.owners).last().cloned();
        owner.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Writes new messages, reads wanted ones, and forgets done ones. Waits for the disk.
    ///
    /// # Errors
    /// The disk accepts nothing now; the call must be repeated.
    pub(super) fn work(&self) -> io::Result<()> {
        match &mut *locked(&self.log) {
            Some(log) => self.work_on(log),
            None => Ok(()),
        }
    }

    /// The same for the last time: no sink uses the store, and its folder is released.
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
        // Done messages are removed first: on a full disk, this makes room. Messages that are not written because they are
        // done are recorded as that, so both are of the same moment.
        let (first, holes, fresh) = {
            let window = locked(&self.window);
            (window.first(), window.holes().clone(), window.unwritten())
        };
        let forgotten = log.forget(first, holes.clone());
        // A missing number between written messages is damage, unless the log knows that its message is done.
        let is_recorded = log.done() >= first && *log.holes() == holes;
        let written = if is_recorded { self.append(log, &fresh) } else { Ok(()) };
        let done = self.load(log).and(written).and(forgotten);
        *locked(&self.last_error) =
            done.as_ref().err().map(|error| (SystemTime::now(), format!("cannot keep messages on disk: {error}")));
        self.failing.store(done.is_err(), Ordering::Release);
        self.relieve();
        done
    }

    /// Writes new messages and syncs them, because the sink ends.
    pub(in crate::io) async fn keep(self: &Arc<Self>) {
        let store = self.clone();
        let kept = tokio::task::spawn_blocking(move || store.work().and_then(|()| store.sync())).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(%error, "messages that are kept for a peer are not all on disk");
        }
    }

    /// Syncs what was written. Messages can be written in the meantime.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn sync(&self) -> io::Result<()> {
        let unsynced = locked(&self.log).as_mut().map(Log::take_unsynced).unwrap_or_default();
        for (at, path) in unsynced.iter().enumerate() {
            match File::open(path).and_then(|file| file.sync_data()) {
                Ok(()) => {}
                // A removed file contains only done messages.
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

    fn append(&self, log: &mut Log, fresh: &[Lot]) -> io::Result<()> {
        let (appended, failed) = match log.append(fresh) {
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
