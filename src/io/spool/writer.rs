//! The threads behind all stores of a process: one writes and reads, another one syncs.
//!
//! To sync takes long on a slow disk; meanwhile messages go on being written.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::store::Store;

/// How long the writer waits for more before it writes: many batches are one write.
const GATHER: Duration = Duration::from_millis(2);

/// How often what was written is synced, and what the disk did not take is tried again.
const SYNC: Duration = Duration::from_secs(1);

/// What the writer does.
pub(super) enum Job {
    /// write what is new in a store, and read what is wanted
    Write(Weak<Store>),
    /// something else, in its turn
    Other(Box<dyn FnOnce() + Send>),
}

/// Starts the threads. They end when nobody can ask any more.
pub(super) fn start() -> io::Result<Sender<Job>> {
    let (sender, jobs) = mpsc::channel();
    let (syncs, dirty) = mpsc::sync_channel(0);
    std::thread::Builder::new().name("spool sync".to_owned()).spawn(move || sync(&dirty))?;
    std::thread::Builder::new().name("spool".to_owned()).spawn(move || work(&jobs, &syncs))?;
    Ok(sender)
}

/// Stores, each once.
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
            Ok(Job::Other(job)) => job(),
            Ok(Job::Write(store)) => {
                std::thread::sleep(GATHER);
                asked.push(store);
                for job in jobs.try_iter() {
                    match job {
                        Job::Write(store) => asked.push(store),
                        Job::Other(job) => job(),
                    }
                }
            }
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
        }
        if due {
            synced = Instant::now();
            // While the disk is still busy with the last ones, these wait for the next time.
            dirty = match syncs.try_send(dirty) {
                Ok(()) => Stores::default(),
                Err(TrySendError::Full(dirty) | TrySendError::Disconnected(dirty)) => dirty,
            };
        }
    }
}

fn sync(dirty: &Receiver<Stores>) {
    while let Ok(stores) = dirty.recv() {
        for store in stores.0.iter().filter_map(Weak::upgrade) {
            if let Err(error) = store.sync() {
                tracing::warn!(%error, "messages that are kept for a peer are not synced");
            }
        }
    }
}
