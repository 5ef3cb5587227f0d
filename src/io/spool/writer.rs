//! The threads for all stores of a process: one writes and reads, another one syncs.
//!
//! Syncing takes long on a slow disk; messages are written in the meantime.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::store::Store;

/// How long the writer waits before it writes, unless a caller waits for it: many batches become one write, and
/// messages that the peer receives in the meantime need none.
const GATHER: Duration = Duration::from_millis(10);

/// How often written messages are synced, and how often the writer tries again after an error.
const SYNC: Duration = Duration::from_secs(1);

/// The writer's jobs.
pub(super) enum Job {
    /// write new messages of a store, and read wanted ones
    Write {
        store: Weak<Store>,
        /// whether a caller waits for it
        now: bool,
    },
    /// another job, in its turn
    Other(Box<dyn FnOnce() + Send>),
}

/// Starts the threads. They end when all senders are gone.
pub(super) fn start() -> io::Result<Sender<Job>> {
    let (sender, jobs) = mpsc::channel();
    let (syncs, dirty) = mpsc::sync_channel(0);
    std::thread::Builder::new().name("spool sync".to_owned()).spawn(move || sync(&dirty))?;
    std::thread::Builder::new().name("spool".to_owned()).spawn(move || work(&jobs, &syncs))?;
    Ok(sender)
}

/// Stores, without repetition.
#[derive(Default)]
struct Stores(Vec<Weak<Store>>);

impl Stores {
    fn add(&mut self, store: &Arc<Store>) {
        let store = Arc::downgrade(store);
        if !self.0.iter().any(|other| other.ptr_eq(&store)) {
            self.0.push(store);
        }
    }
}

fn work(jobs: &Receiver<Job>, syncs: &SyncSender<Stores>) {
    let (mut again, mut dirty) = (Stores::default(), Stores::default());
    let mut synced = Instant::now();
    loop {
        let first = match again.0.is_empty() && dirty.0.is_empty() {
            true => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => jobs.recv_timeout(SYNC.saturating_sub(synced.elapsed())),
        };
        let mut asked = Vec::new();
        match first {
            Ok(job) => gather(jobs, job, &mut asked),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let due = synced.elapsed() >= SYNC;
        if due {
            asked.append(&mut again.0);
        }
        for store in asked.iter().filter_map(Weak::upgrade) {
            if store.work().is_err() {
                again.add(&store);
            }
            dirty.add(&store);
            store.watch(true);
        }
        if due {
            synced = Instant::now();
            // Messages proven in the meantime are forgotten.
            for store in dirty.0.iter().filter_map(Weak::upgrade) {
                store.watch(false);
                if store.work().is_err() {
                    again.add(&store);
                }
            }
            // If the disk is still busy with the previous ones, these are synced the next time.
            dirty = match syncs.try_send(dirty) {
                Ok(()) => Stores::default(),
                Err(TrySendError::Full(dirty) | TrySendError::Disconnected(dirty)) => dirty,
            };
        }
    }
}

/// Collects stores until it is time to write, and does other jobs in between.
fn gather(jobs: &Receiver<Job>, first: Job, asked: &mut Vec<Weak<Store>>) {
    let until = Instant::now() + GATHER;
    let mut next = Ok(first);
    while let Ok(job) = next {
        match job {
            Job::Write { store, now } => {
                asked.push(store);
                if now {
                    return;
                }
            }
            Job::Other(job) => {
                job();
                // Nothing is waiting to be written.
                if asked.is_empty() {
                    return;
                }
            }
        }
        next = jobs.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

fn sync(dirty: &Receiver<Stores>) {
    while let Ok(stores) = dirty.recv() {
        for store in stores.0.iter().filter_map(Weak::upgrade) {
            if let Err(error) = store.sync() {
                tracing::warn!(%error, "the messages kept for a peer cannot be synced to disk");
            }
        }
    }
}
