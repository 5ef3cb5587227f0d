//! Store and forward: messages that a peer has not received outlive connections and this process.
//!
//! Each sink with `enableCache` has a [`Store`]: a folder below the data folder, named by its rule and its destination.
//! One thread of the process writes all stores; the worker that adds messages never waits for the disk. A kill of the
//! process can lose the messages of a few milliseconds, a loss of power those of a second.
//!
//! This module must not know how messages are sent, or what proves that a peer has them.

mod log;
pub(in crate::io) mod properties;
mod store;
mod window;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use self::log::Log;
pub use self::store::Store;
pub(in crate::io) use self::store::Wake;
pub(in crate::io) use self::window::Portion;
use super::batch_queue::QueueLimit;
use crate::sync::locked;

/// The folder of all stores, in the data folder.
const FOLDER: &str = "cache";

/// How long the thread waits for more before it writes: many batches are one write.
const GATHER: Duration = Duration::from_millis(2);

/// How often what was written is synced, and what the disk did not take is tried again.
const SYNC: Duration = Duration::from_secs(1);

/// How a sink wants its messages to be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheSettings {
    /// messages that are kept at most
    pub capacity: u64,
    /// messages that are read from disk at a time
    pub page: usize,
    /// what may be in memory
    pub memory: QueueLimit,
    /// the pause between two messages that are sent again
    pub resend_interval: Duration,
    /// nothing is kept when the rule stops
    pub clean_at_stop: bool,
}

/// Which store: that of a rule's sink, by where it sends to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StoreKey {
    /// the rule's id
    pub rule: String,
    /// the kind of the sink
    pub kind: &'static str,
    /// where it sends to
    pub address: String,
    /// how many sinks of the rule before it send to the same place
    pub ordinal: usize,
}

impl StoreKey {
    /// Its folder below that of all stores. The address is not shown: there may be secrets in it.
    fn folder(&self) -> PathBuf {
        let digest = Sha256::digest(self.address.as_bytes());
        let short: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        rule_folder(&self.rule).join(format!("{}-{short}-{}", self.kind, self.ordinal))
    }
}

/// The folder of a rule. Ids from rule files may contain any character.
fn rule_folder(rule: &str) -> PathBuf {
    const PLAIN: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_');
    PathBuf::from(percent_encoding::utf8_percent_encode(rule, PLAIN).to_string())
}

/// All stores of a process. Clones share them.
#[derive(Clone)]
pub struct Spool(Arc<Shared>);

struct Shared {
    folder: PathBuf,
    /// those that are open
    stores: Mutex<HashMap<StoreKey, Open>>,
    /// the way to the thread, once there is one
    jobs: Mutex<Option<Sender<Weak<Store>>>>,
}

struct Open {
    store: Arc<Store>,
    /// sinks that have it
    users: usize,
    /// its rule is gone, or has no such sink any more: nothing is kept
    doomed: bool,
}

/// A store in the hands of a sink. Two have one while a sink takes the place of another.
pub(in crate::io) struct Held {
    spool: Spool,
    key: StoreKey,
    store: Arc<Store>,
}

impl Deref for Held {
    type Target = Arc<Store>;

    fn deref(&self) -> &Arc<Store> {
        &self.store
    }
}

/// With the last one what is new goes to disk, and the folder is free.
impl Drop for Held {
    fn drop(&mut self) {
        let mut stores = locked(&self.spool.0.stores);
        let Some(open) = stores.get_mut(&self.key) else { return };
        open.users -= 1;
        if open.users > 0 {
            return;
        }
        // Under the lock: nobody opens the folder meanwhile.
        if let Err(error) = self.store.work() {
            tracing::warn!(rule = self.key.rule, %error, "messages that are kept for a peer are not all on disk");
        }
        let doomed = open.doomed;
        stores.remove(&self.key);
        if doomed {
            self.spool.remove(&self.key.folder());
        }
    }
}

impl Spool {
    /// Stores below a data folder. Nothing is made there before one is opened.
    pub fn new(data: &Path) -> Spool {
        let shared = Shared { folder: data.join(FOLDER), stores: Mutex::default(), jobs: Mutex::default() };
        Spool(Arc::new(shared))
    }

    /// Opens a store; one that is open is shared.
    ///
    /// # Errors
    /// Those of the system.
    pub(in crate::io) fn open(&self, key: StoreKey, settings: CacheSettings) -> io::Result<Held> {
        let mut stores = locked(&self.0.stores);
        if let Some(open) = stores.get_mut(&key) {
            if std::mem::take(&mut open.doomed) {
                open.store.clear();
            }
            open.users += 1;
            open.store.configure(settings);
            return Ok(Held { spool: self.clone(), key, store: open.store.clone() });
        }
        let log = Log::open(&self.0.folder.join(key.folder()))?;
        let jobs = self.jobs()?;
        let store = Arc::new_cyclic(|this: &Weak<Store>| {
            let this = this.clone();
            // The thread ends with the process alone.
            Store::new(settings, log, Box::new(move || drop(jobs.send(this.clone()))))
        });
        stores.insert(key.clone(), Open { store: store.clone(), users: 1, doomed: false });
        Ok(Held { spool: self.clone(), key, store })
    }

    /// The way to the thread, which is started if there is none.
    fn jobs(&self) -> io::Result<Sender<Weak<Store>>> {
        let mut known = locked(&self.0.jobs);
        if let Some(jobs) = &*known {
            return Ok(jobs.clone());
        }
        let (sender, jobs) = mpsc::channel();
        std::thread::Builder::new().name("spool".to_owned()).spawn(move || work(&jobs))?;
        *known = Some(sender.clone());
        Ok(sender)
    }

    /// Removes what is kept for sinks that a rule does not have any more; `has` are those that it has.
    pub fn tidy(&self, rule: &str, has: &[StoreKey]) {
        let mut stores = locked(&self.0.stores);
        let mut kept: Vec<PathBuf> = has.iter().map(StoreKey::folder).collect();
        for (key, open) in stores.iter_mut().filter(|(key, _)| key.rule == rule && !has.contains(key)) {
            // Its sink is about to end.
            open.doomed = true;
            kept.push(key.folder());
        }
        let folder = rule_folder(rule);
        for entry in fs::read_dir(self.0.folder.join(&folder)).into_iter().flatten().filter_map(Result::ok) {
            let inner = folder.join(entry.file_name());
            if !kept.contains(&inner) {
                tracing::warn!(rule, "what was kept for a sink that the rule has no more is dropped");
                self.remove(&inner);
            }
        }
    }

    /// Removes what is kept for rules that are gone.
    pub fn retain(&self, exists: impl Fn(&str) -> bool) {
        for entry in fs::read_dir(&self.0.folder).into_iter().flatten().filter_map(Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let rule = percent_encoding::percent_decode_str(&name).decode_utf8_lossy().into_owned();
            if !exists(&rule) {
                self.tidy(&rule, &[]);
            }
        }
    }

    /// Removes the folder of a store, and that of its rule if nothing else is in it.
    fn remove(&self, inner: &Path) {
        let folder = self.0.folder.join(inner);
        if let Err(error) = fs::remove_dir_all(&folder) {
            tracing::warn!(folder = %folder.display(), %error, "cannot remove what was kept for a sink");
        }
        if let Some(rule) = folder.parent() {
            let _ = fs::remove_dir(rule);
        }
    }
}

/// The thread: it writes for all stores, until nobody can ask any more.
fn work(jobs: &Receiver<Weak<Store>>) {
    let mut again: Vec<Weak<Store>> = Vec::new();
    let mut dirty: Vec<Weak<Store>> = Vec::new();
    let mut synced = Instant::now();
    loop {
        let wait =
            if again.is_empty() && dirty.is_empty() { None } else { Some(SYNC.saturating_sub(synced.elapsed())) };
        let first = match wait {
            None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(wait) => jobs.recv_timeout(wait),
        };
        let mut asked: Vec<Weak<Store>> = Vec::new();
        match first {
            Ok(store) => {
                std::thread::sleep(GATHER);
                asked.push(store);
                asked.extend(jobs.try_iter());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let due = synced.elapsed() >= SYNC;
        if due {
            asked.append(&mut again);
        }
        for store in asked.iter().filter_map(Weak::upgrade) {
            let failed = store.work().is_err();
            let known = Arc::downgrade(&store);
            if failed && !again.iter().any(|other| other.ptr_eq(&known)) {
                again.push(known.clone());
            }
            if !dirty.iter().any(|other| other.ptr_eq(&known)) {
                dirty.push(known);
            }
        }
        if due {
            for store in dirty.drain(..).filter_map(|store| store.upgrade()) {
                if let Err(error) = store.sync() {
                    tracing::warn!(%error, "messages that are kept for a peer are not synced");
                }
            }
            synced = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::io::queue::MessageBatch;

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn key(rule: &str) -> StoreKey {
        StoreKey { rule: rule.to_owned(), kind: "websocket", address: "ws://h:1/x".to_owned(), ordinal: 0 }
    }

    fn settings() -> CacheSettings {
        CacheSettings {
            capacity: 100,
            page: 10,
            memory: QueueLimit { messages: 4, bytes: 1000 },
            resend_interval: Duration::ZERO,
            clean_at_stop: false,
        }
    }

    fn batch(text: &'static str) -> Arc<MessageBatch> {
        Arc::new(MessageBatch::new(Bytes::from_static(text.as_bytes()), vec![text.len() as u32], true, None))
    }

    struct Quiet;

    impl Wake for Quiet {
        fn wake(&self) {}
    }

    /// Takes everything that a store has, however long its thread takes.
    fn all(store: &Store) -> Vec<String> {
        let began = Instant::now();
        let mut texts = Vec::new();
        while texts.len() < store.queued() && began.elapsed() < Duration::from_secs(60) {
            match store.take() {
                Some(portion) => texts.push(String::from_utf8_lossy(&portion.batch.message(portion.next)).into_owned()),
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        texts
    }

    #[test]
    fn what_is_kept_outlives_those_who_have_it() {
        let folder = Folder(std::env::temp_dir().join(format!("plutino-stores-{:x}", fastrand::u64(..))));
        let spool = Spool::new(&folder.0);
        let texts = ["a", "b", "c", "d", "e", "f"];
        let store = spool.open(key("r"), settings()).expect("it opens");
        store.own(Arc::new(Quiet));
        // More than memory has room for.
        for part in texts.chunks(3) {
            part.iter().for_each(|text| store.push(&batch(text)));
            store.work().expect("the disk takes them");
        }
        assert_eq!(all(&store), texts);
        store.prove(2);
        drop(store);
        let store = Spool::new(&folder.0).open(key("r"), settings()).expect("it opens");
        assert_eq!((store.queued(), all(&store)), (4, texts[2..].iter().map(|text| (*text).to_owned()).collect()));
        store.prove(u64::MAX);
        assert_eq!(store.queued(), 0);
    }

    #[test]
    fn a_sink_that_takes_the_place_of_another_goes_on_with_its_store() {
        let folder = Folder(std::env::temp_dir().join(format!("plutino-stores-{:x}", fastrand::u64(..))));
        let spool = Spool::new(&folder.0);
        let old = spool.open(key("r"), settings()).expect("it opens");
        let first = old.own(Arc::new(Quiet));
        old.push(&batch("a"));
        let new = spool.open(key("r"), settings()).expect("it is shared");
        let second = new.own(Arc::new(Quiet));
        assert!(!new.is_owned(first) && new.is_owned(second));
        new.disown(second);
        assert!(old.is_owned(first), "one that was to take its place did not");
        let third = new.own(Arc::new(Quiet));
        old.disown(first);
        assert!(new.is_owned(third));
        drop(old);
        assert_eq!(all(&new), ["a"]);
        // Its rule is gone: with its sink, all is gone.
        spool.tidy("r", &[]);
        assert!(folder.0.join("cache/r").exists());
        drop(new);
        assert!(!folder.0.join("cache/r").exists());
    }

    #[test]
    fn rules_that_are_gone_leave_nothing() {
        let folder = Folder(std::env::temp_dir().join(format!("plutino-stores-{:x}", fastrand::u64(..))));
        let spool = Spool::new(&folder.0);
        for rule in ["a/../b", "kept"] {
            let store = spool.open(key(rule), settings()).expect("it opens");
            store.push(&batch("x"));
        }
        assert!(folder.0.join("cache/a%2F%2E%2E%2Fb").exists());
        spool.retain(|rule| rule == "kept");
        let left: Vec<_> = fs::read_dir(folder.0.join("cache")).expect("it is there").filter_map(Result::ok).collect();
        assert_eq!(left.len(), 1);
        spool.tidy("kept", &[key("kept")]);
        assert!(folder.0.join("cache/kept").exists());
        spool.tidy("kept", &[]);
        assert!(!folder.0.join("cache/kept").exists());
    }
}
