//! Store and forward: messages that a peer has not received outlive connections and this process.
//!
//! Each sink with `enableCache` has a [`Store`]: a folder below the data folder, named by its rule and its destination.
//! One thread of the process writes all stores, another one syncs them. A rule that makes messages faster than the disk
//! can write them waits. Killing the process can lose the messages of about ten milliseconds, a power failure those of
//! a second.
//!
//! This module does not know how messages are sent, or how a peer confirms them.

mod indicator;
mod log;
pub(in crate::io) mod properties;
mod ranges;
mod record;
mod segment;
mod store;
mod window;
mod writer;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use self::log::Log;
pub use self::store::Store;
pub(in crate::io) use self::store::Wake;
pub use self::window::Resend;
pub(in crate::io) use self::window::{Portion, Taken};
use self::writer::Job;
use super::batch_queue::QueueLimit;
use crate::format::sink_format::{OutputFormat, SinkFormat};
use crate::sync::locked;

/// The folder of all stores, inside the data folder.
const FOLDER: &str = "cache";

/// How long to wait for a store that another process, which is about to end, still has open.
const HANDOVER: Duration = Duration::from_secs(2);

/// How a sink wants its messages stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheSettings {
    /// the most messages that are stored
    pub capacity: u64,
    /// the number of messages read from disk at a time
    pub page: usize,
    /// the limit of messages in memory
    pub memory: QueueLimit,
    /// the pause between two repeated messages
    pub resend_interval: Duration,
    /// what comes first after a new connection
    pub resend: Resend,
    /// whether stored messages are deleted when the rule stops
    pub clean_at_stop: bool,
    /// the field that is set to true in repeated messages
    pub indicator: Option<Arc<str>>,
}

impl CacheSettings {
    /// Why messages of this format cannot be stored.
    pub fn refuses(&self, format: &SinkFormat) -> Option<String> {
        let marks = self.indicator.is_some() && (format.format != OutputFormat::Json || format.compression.is_some());
        marks.then(|| {
            "resendIndicatorField needs JSON messages: leave it out, or leave out format and compression".to_owned()
        })
    }
}

/// The key of a store: the rule's sink, identified by its destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StoreKey {
    /// the rule's id
    pub rule: String,
    /// the kind of the sink
    pub kind: &'static str,
    /// its destination
    pub address: String,
    /// the number of earlier sinks of the rule with the same destination
    pub ordinal: usize,
}

impl StoreKey {
    /// Its folder inside the folder of all stores. The address is hashed, because it may contain secrets.
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
    /// the open ones; locked for single steps
    stores: Mutex<HashMap<StoreKey, Open>>,
    /// held while a folder is opened or removed; locked before `stores` if both are needed
    disk: Mutex<()>,
    /// the channel to the writer, after it has started
    jobs: Mutex<Option<Sender<Job>>>,
}

struct Open {
    store: Arc<Store>,
    /// the number of sinks that use it
    users: usize,
    /// the rule is gone, or no longer has this sink: nothing is kept
    doomed: bool,
}

/// A store that a sink uses. While one sink replaces another, both use it.
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

/// When the last user is dropped, the writer closes the store, so that the dropping thread does not wait for the disk.
impl Drop for Held {
    fn drop(&mut self) {
        let is_last = {
            let mut stores = locked(&self.spool.0.stores);
            let Some(open) = stores.get_mut(&self.key) else { return };
            open.users -= 1;
            open.users == 0
        };
        if is_last {
            let (spool, key) = (self.spool.clone(), self.key.clone());
            self.spool.order(Job::Other(Box::new(move || spool.release(&key))));
        }
    }
}

impl Spool {
    /// Stores inside a data folder. Opening the first store creates their folder.
    pub fn new(data: &Path) -> Spool {
        Spool(Arc::new(Shared {
            folder: data.join(FOLDER),
            stores: Mutex::default(),
            disk: Mutex::default(),
            jobs: Mutex::default(),
        }))
    }

    /// Opens a store, or shares it if it is already open. Waits for the disk, and for another process that is about to
    /// end.
    ///
    /// # Errors
    /// Those of the system; [`io::ErrorKind::ResourceBusy`] if another process has it.
    pub(in crate::io) fn open(&self, key: StoreKey, settings: CacheSettings) -> io::Result<Held> {
        self.finish_jobs();
        let _alone = locked(&self.0.disk);
        if let Some(open) = locked(&self.0.stores).get_mut(&key) {
            if std::mem::take(&mut open.doomed) {
                open.store.clear();
            }
            open.users += 1;
            open.store.configure(settings);
            return Ok(Held { spool: self.clone(), key, store: open.store.clone() });
        }
        let log = open_log(&self.0.folder.join(key.folder()))?;
        let jobs = self.jobs()?;
        let store = Arc::new_cyclic(|this: &Weak<Store>| {
            let this = this.clone();
            // The writer ends only with the process.
            Store::new(settings, log, Box::new(move |now| drop(jobs.send(Job::Write { store: this.clone(), now }))))
        });
        locked(&self.0.stores).insert(key.clone(), Open { store: store.clone(), users: 1, doomed: false });
        Ok(Held { spool: self.clone(), key, store })
    }

    /// The channel to the writer, which is started if it is not running.
    fn jobs(&self) -> io::Result<Sender<Job>> {
        let mut known = locked(&self.0.jobs);
        if let Some(jobs) = &*known {
            return Ok(jobs.clone());
        }
        let jobs = writer::start()?;
        *known = Some(jobs.clone());
        Ok(jobs)
    }

    fn order(&self, job: Job) {
        match self.jobs() {
            // The writer ends only with the process.
            Ok(jobs) => drop(jobs.send(job)),
            Err(error) => tracing::warn!(%error, "the folder of kept messages cannot be cleaned up"),
        }
    }

    /// Waits until all earlier jobs are done.
    fn finish_jobs(&self) {
        let (done, finished) = mpsc::sync_channel(1);
        self.order(Job::Other(Box::new(move || _ = done.send(()))));
        // Without a writer, no jobs are in progress.
        let _ = finished.recv();
    }

    /// Closes a store without users: new messages go to disk, and the folder is released.
    fn release(&self, key: &StoreKey) {
        let _alone = locked(&self.0.disk);
        let unused = locked(&self.0.stores).get(key).filter(|open| open.users == 0).map(|open| open.store.clone());
        let Some(store) = unused else { return };
        if let Err(error) = store.close() {
            tracing::warn!(rule = key.rule, %error, "messages that are kept for a peer are not all on disk");
        }
        // Opening it waits for the disk.
        let doomed = locked(&self.0.stores).remove(key).is_some_and(|open| open.doomed);
        if doomed {
            self.remove(&key.folder());
        }
    }

    /// Removes the stores of sinks that a rule no longer has; `has` are its current ones. Stores that are opened later
    /// start empty.
    pub fn tidy(&self, rule: &str, has: &[StoreKey]) {
        for (_, open) in locked(&self.0.stores).iter_mut().filter(|(key, _)| key.rule == rule && !has.contains(key)) {
            // Its sink is about to end.
            open.doomed = true;
        }
        if self.0.folder.exists() {
            let (spool, rule, has) = (self.clone(), rule.to_owned(), has.to_vec());
            self.order(Job::Other(Box::new(move || spool.tidy_folder(&rule, &has))));
        }
    }

    fn tidy_folder(&self, rule: &str, has: &[StoreKey]) {
        let _alone = locked(&self.0.disk);
        let mut kept: Vec<PathBuf> = has.iter().map(StoreKey::folder).collect();
        kept.extend(locked(&self.0.stores).keys().filter(|key| key.rule == rule).map(StoreKey::folder));
        let folder = rule_folder(rule);
        for entry in fs::read_dir(self.0.folder.join(&folder)).into_iter().flatten().filter_map(Result::ok) {
            let inner = folder.join(entry.file_name());
            if !kept.contains(&inner) {
                self.remove(&inner);
            }
        }
    }

    /// Removes the stores of rules that are gone.
    pub fn retain(&self, exists: impl Fn(&str) -> bool) {
        for entry in fs::read_dir(&self.0.folder).into_iter().flatten().filter_map(Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let rule = percent_encoding::percent_decode_str(&name).decode_utf8_lossy().into_owned();
            if !exists(&rule) {
                self.tidy(&rule, &[]);
            }
        }
    }

    /// Removes the folder of a store, unless another process uses it, and the rule's folder if it is empty.
    fn remove(&self, inner: &Path) {
        let folder = self.0.folder.join(inner);
        let shown = folder.display();
        let removed = match log::lock(&folder) {
            Ok(Some(_lock)) => fs::remove_dir_all(&folder),
            Ok(None) => {
                tracing::warn!(folder = %shown, "another process keeps messages for a rule that is not known here");
                return;
            }
            Err(error) => Err(error),
        };
        match removed {
            Ok(()) => tracing::warn!(folder = %shown, "messages kept for a sink that no longer exists are deleted"),
            Err(error) => tracing::warn!(folder = %shown, %error, "cannot delete the messages kept for a sink"),
        }
        if let Some(rule) = folder.parent() {
            let _ = fs::remove_dir(rule);
        }
    }
}

/// Opens a log when it is free.
fn open_log(folder: &Path) -> io::Result<Log> {
    const LOOK: Duration = Duration::from_millis(20);
    let until = Instant::now() + HANDOVER;
    loop {
        if let Some(log) = Log::open(folder)? {
            return Ok(log);
        }
        if Instant::now() >= until {
            let folder = folder.display();
            let error = format!("{folder} is in use by another process: give each process a data folder of its own");
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, error));
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::io::queue::MessageBatch;

    fn key(rule: &str) -> StoreKey {
        StoreKey { rule: rule.to_owned(), kind: "websocket", address: "ws://h:1/x".to_owned(), ordinal: 0 }
    }

    fn settings() -> CacheSettings {
        CacheSettings {
            capacity: 100,
            page: 10,
            memory: QueueLimit { messages: 4, bytes: 1000 },
            resend_interval: Duration::ZERO,
            resend: Resend::InOrder,
            clean_at_stop: false,
            indicator: None,
        }
    }

    fn batch(text: &'static str) -> Arc<MessageBatch> {
        Arc::new(MessageBatch::new(Bytes::from_static(text.as_bytes()), vec![text.len() as u32], true, None))
    }

    struct Quiet;

    impl Wake for Quiet {
        fn wake(&self) {}

        fn relieve(&self) {}
    }

    /// Takes everything from a store, however long its thread takes.
    fn all(store: &Store) -> Vec<String> {
        let began = Instant::now();
        let mut texts = Vec::new();
        while texts.len() < store.queued() && began.elapsed() < Duration::from_secs(60) {
            match store.take(false) {
                Some(portion) => texts.push(String::from_utf8_lossy(&portion.batch.message(portion.next)).into_owned()),
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        texts
    }

    #[test]
    fn what_is_kept_outlives_those_who_have_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let spool = Spool::new(folder.path());
        let texts = ["a", "b", "c", "d", "e", "f"];
        let store = spool.open(key("r"), settings()).expect("it opens");
        store.own(Arc::new(Quiet));
        // More than fits into memory.
        for part in texts.chunks(3) {
            part.iter().for_each(|text| store.push(&batch(text)));
            store.work().expect("the disk takes them");
        }
        assert_eq!(all(&store), texts);
        store.prove_below(2);
        drop(store);
        let store = Spool::new(folder.path()).open(key("r"), settings()).expect("it opens");
        assert_eq!((store.queued(), all(&store)), (4, texts[2..].iter().map(|text| (*text).to_owned()).collect()));
        store.prove_below(u64::MAX);
        assert_eq!(store.queued(), 0);
    }

    #[test]
    fn a_sink_that_takes_the_place_of_another_goes_on_with_its_store() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let spool = Spool::new(folder.path());
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
        // The rule is gone: when its sink ends, everything is removed.
        spool.tidy("r", &[]);
        assert!(folder.path().join("cache/r").exists());
        drop(new);
        spool.finish_jobs();
        assert!(!folder.path().join("cache/r").exists());
    }

    #[test]
    fn rules_that_are_gone_leave_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let spool = Spool::new(folder.path());
        for rule in ["a/../b", "kept"] {
            let store = spool.open(key(rule), settings()).expect("it opens");
            store.push(&batch("x"));
        }
        assert!(folder.path().join("cache/a%2F%2E%2E%2Fb").exists());
        spool.retain(|rule| rule == "kept");
        spool.finish_jobs();
        let left: Vec<_> =
            fs::read_dir(folder.path().join("cache")).expect("it is there").filter_map(Result::ok).collect();
        assert_eq!(left.len(), 1);
        spool.tidy("kept", &[key("kept")]);
        spool.finish_jobs();
        assert!(folder.path().join("cache/kept").exists());
        spool.tidy("kept", &[]);
        spool.finish_jobs();
        assert!(!folder.path().join("cache/kept").exists());
    }

    #[test]
    fn two_processes_do_not_have_one_store() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (one, other) = (Spool::new(folder.path()), Spool::new(folder.path()));
        let store = one.open(key("r"), settings()).expect("it opens");
        let refused = other.open(key("r"), settings()).map(drop).expect_err("it is taken");
        let shown = folder.path().join("cache/r").display().to_string();
        assert!(refused.kind() == io::ErrorKind::ResourceBusy && refused.to_string().starts_with(&shown), "{refused}");
        // One process does not remove what another uses.
        other.retain(|_| false);
        other.finish_jobs();
        assert!(folder.path().join("cache/r").exists());
        drop(store);
        other.open(key("r"), settings()).expect("it is free");
    }

    #[test]
    fn a_burst_waits_for_the_disk() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let spool = Spool::new(folder.path());
        let settings = CacheSettings { capacity: 1000, ..settings() };
        let store = spool.open(key("r"), settings).expect("it opens");
        struct Rule(Sender<()>);
        impl Wake for Rule {
            fn wake(&self) {}

            fn relieve(&self) {
                let _ = self.0.send(());
            }
        }
        let (relieved, relief) = mpsc::channel();
        store.own(Arc::new(Rule(relieved)));
        for _ in 0..200 {
            // Like a worker, it continues when the store is ready.
            while !store.is_ready() {
                relief.recv_timeout(Duration::from_secs(60)).expect("the disk takes them");
            }
            store.push(&batch("a"));
        }
        let mut status = crate::io::LinkStatus::new(String::new(), std::time::SystemTime::now());
        store.describe(&mut status);
        assert_eq!((status.stored, status.dropped.len(), all(&store).len()), (200, 0, 200));
    }
}
