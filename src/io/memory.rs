//! Memory topics: one rule writes rows to a topic, others read them as a stream or keep them as a table.
//!
//! Rows are passed by reference and keep the types of their values; nothing is encoded. A topic exists while it has a
//! writer or reader: nothing is kept for later readers.
//!
//! **Slow readers.** When a reader's queue is full (16 batches of at most 512 rows), the writer keeps the rows that do
//! not fit and reports that it is not ready: the stream of its rule reads nothing until the reader has space. So a slow
//! rule slows the rules before it, back to the sockets, and nothing is lost.
//!
//! **A cycle of rules** must not wait for itself: a writer does not wait for a reader whose rows return, through any
//! topics, to the stream that the writer's rule reads. Up to [`CYCLE_ROWS`] of its rows are kept; further rows are
//! dropped and counted.
//!
//! This module does not know what rules do with the rows.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::{self, BoxFuture};
use serde_json::{Map, Value as Json};

use crate::format::template::{Template, TemplateError};
use crate::io::properties;
use crate::io::queue::{
    BATCH_FRAMES, Change, Frame, FrameBatch, FrameSender, Refused, RowFrame, RowOutlet, Signal, SinkHandle,
};
use crate::io::sink::{OpenSink, SinkSettings};
use crate::io::source::{OpenSource, SourceSettings};
use crate::io::{LinkStatus, dropped};
use crate::property::{self, Entry, Invalid, Property, Warning, Wrong};
use crate::sync::locked;
use crate::value::{Row, Text, Value};

/// The most rows that wait for a reader in a cycle; further rows are dropped.
pub const CYCLE_ROWS: usize = 65_536;

/// Errors of the properties.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    #[error("{0} is the topic of a memory {1}: set it to a text such as devices/state")]
    NoTopic(&'static str, &'static str),
    #[error("topic {topic}: {error}")]
    Template { topic: String, error: TemplateError },
    /// `#` is allowed only at the end
    #[error("invalid topic {0}: # must at the last level")]
    Rest(String),
    #[error("invalid topic {0}: + and # are for readers, a sink writes to one topic")]
    Wildcard(String),
    #[error("property rowkindField needs keyField, which names the row of a table")]
    NoKey,
}

/// The settings of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemorySource {
    /// DATASOURCE
    pub topic: Text,
    levels: Vec<Level>,
}

/// The settings of a sink.
#[derive(Clone, Debug, Default)]
pub struct MemorySink {
    /// the topic as written
    pub topic: Text,
    /// computes the topic of each row, if the topic has `{{ }}`
    template: Option<Arc<Template>>,
    /// the field that identifies a row of a table
    pub key_field: Option<Text>,
    /// the field with the kind of the change
    pub rowkind_field: Option<Text>,
}

/// The topic determines the template.
impl PartialEq for MemorySink {
    fn eq(&self, other: &MemorySink) -> bool {
        (&self.topic, &self.key_field, &self.rowkind_field) == (&other.topic, &other.key_field, &other.rowkind_field)
    }
}

/// A level in a reader's topic.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Name(Text),
    /// `+`: any one level
    Any,
    /// `#`: one or more levels
    Rest,
}

type SinkRow = Property<MemorySink>;

const PROPERTIES: &[SinkRow] = &[
    SinkRow::parsed("topic", "a text such as devices/state", MemorySink::set_topic)
        .of_sink()
        .doc("Where rows go: names with `/` between them, without wildcards. A template with `{{ }}` makes the topic of each row"),
    SinkRow::text("keyField", |sink, name| sink.key_field = field(name)).of_sink().doc("The field whose value \
     identifies the row of a lookup table"),
    SinkRow::text("rowkindField", |sink, name| sink.rowkind_field = field(name)).of_sink().doc("The field with the \
     change of that row: `insert`, `update`, `upsert` (also if the row lacks the field) or `delete`; needs `keyField`"),
];

fn field(name: &str) -> Option<Text> {
    Some(Text::from(name)).filter(|name| !name.is_empty())
}

/// All properties with their documentation.
pub fn entries() -> Vec<Entry> {
    property::entries(PROPERTIES)
}

/// The chapter of the documentation.
pub fn reference() -> String {
    format!(
        "## memory\n\n\
         Connects rules inside the process: a sink writes rows to a topic, sources and tables with TYPE=\"memory\" read \
         it. DATASOURCE of a source is its topic; `+` matches any one level, `#` at the end all further ones. \
         Rows arrive one by one and keep the types of their values; FORMAT has no effect. Nothing is kept for readers \
         that come later. A slow reader makes the rules that write to it wait; where rules form a cycle, up to \
         {CYCLE_ROWS} rows wait instead, and further ones are dropped and counted.\n\n{}",
        property::reference::table(&entries(), true)
    )
}

impl MemorySource {
    /// Checks the properties of a source; `topic` is the DATASOURCE of the stream.
    ///
    /// # Errors
    /// [`Invalid`]
    pub fn new(topic: &str, props: &Map<String, Json>) -> Result<(MemorySource, Vec<Warning>), Invalid> {
        const NONE: &[SinkRow] = &[];
        let (_, mut found) = properties::read(NONE, props);
        if topic.is_empty() {
            found.refuse("DATASOURCE", MemoryError::NoTopic("DATASOURCE", "source"));
        }
        let levels: Vec<Level> = topic
            .split('/')
            .map(|level| match level {
                "+" => Level::Any,
                "#" => Level::Rest,
                name => Level::Name(name.into()),
            })
            .collect();
        if levels.iter().rev().skip(1).any(|level| *level == Level::Rest) {
            found.refuse("DATASOURCE", MemoryError::Rest(topic.to_owned()));
        }
        found.finish(MemorySource { topic: topic.into(), levels })
    }

    /// Whether this source reads rows of `topic`.
    pub fn reads(&self, topic: &str) -> bool {
        let mut names = topic.split('/');
        for level in &self.levels {
            let fits = match (level, names.next()) {
                (Level::Rest, found) => return found.is_some(),
                (Level::Any, found) => found.is_some(),
                (Level::Name(name), found) => found == Some(name.as_str()),
            };
            if !fits {
                return false;
            }
        }
        names.next().is_none()
    }
}

impl MemorySink {
    /// Checks the properties of a sink.
    ///
    /// # Errors
    /// [`Invalid`]
    pub fn new(props: &Map<String, Json>) -> Result<(MemorySink, Vec<Warning>), Invalid> {
        let (sink, mut found) = properties::read(PROPERTIES, props);
        if sink.topic.is_empty() && !found.has_fault("topic") {
            found.refuse("topic", MemoryError::NoTopic("property topic", "sink"));
        }
        if sink.rowkind_field.is_some() && sink.key_field.is_none() {
            found.refuse("rowkindField", MemoryError::NoKey);
        }
        found.finish(sink)
    }

    fn set_topic(&mut self, topic: &str) -> Result<(), Wrong> {
        self.topic = topic.into();
        if topic.contains("{{") {
            let template =
                Template::new(topic).map_err(|error| MemoryError::Template { topic: topic.into(), error })?;
            self.template = Some(Arc::new(template));
        } else if topic.contains(['+', '#']) {
            return Err(MemoryError::Wildcard(topic.into()).into());
        }
        Ok(())
    }

    /// The row in the form for tables.
    fn frame(&self, row: Row) -> Result<RowFrame, String> {
        let find = |name: &Text| row.iter().find(|(key, _)| key == name).map(|(_, value)| value);
        let key = match &self.key_field {
            None => None,
            Some(name) => match find(name) {
                Some(value) if !value.is_null() => Some(value.clone()),
                _ => return Err(format!("sink memory: the row has no field {name}, which is the keyField")),
            },
        };
        let change = match self.rowkind_field.as_ref().and_then(find) {
            None | Some(Value::Absent | Value::Null) => Change::Put,
            Some(Value::Text(kind)) if matches!(kind.as_str(), "insert" | "update" | "upsert") => Change::Put,
            Some(Value::Text(kind)) if kind == "delete" => Change::Delete,
            Some(other) => {
                let shown = other.as_text().map_or_else(|| other.kind().to_string(), str::to_owned);
                return Err(format!("sink memory: invalid rowkind {shown}: insert, update, upsert or delete"));
            }
        };
        let topic = match &self.template {
            None => self.topic.clone(),
            Some(template) => {
                let topic = template.run(&Value::object(row.iter().cloned()));
                let topic = topic.map_err(|error| format!("sink memory: topic {}: {error}", self.topic))?;
                if topic.is_empty() || topic.contains(['+', '#']) {
                    return Err(format!("sink memory: topic {} gives {topic:?}, which is not a topic", self.topic));
                }
                topic.into()
            }
        };
        Ok(RowFrame { topic, row, change, key })
    }
}

impl SourceSettings for MemorySource {
    fn has_files(&self) -> bool {
        false
    }

    fn is_local(&self) -> bool {
        true
    }
}

impl SinkSettings for MemorySink {
    fn has_files(&self) -> bool {
        false
    }

    fn kind(&self) -> &'static str {
        "memory"
    }
}

/// All topics of a process.
#[derive(Clone, Default)]
pub struct Topics {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// incremented when readers change
    version: AtomicU64,
    /// the numbers of rows given to readers and of rows that wait for one
    delivered: AtomicU64,
    waiting: AtomicU64,
}

#[derive(Default)]
struct State {
    readers: Vec<Arc<Reader>>,
    /// by id
    writers: HashMap<u64, Writing>,
    next: u64,
}

/// A writer.
struct Writing {
    /// the streams that the rule reads
    reads: Vec<usize>,
    /// its topic; `None` if each row has its own
    topic: Option<Text>,
    /// the streams that received such rows
    fed: HashSet<usize>,
}

struct Reader {
    id: u64,
    source: MemorySource,
    frames: FrameSender,
    messages: AtomicU64,
}

impl Topics {
    /// Opens a reader: after it has begun, `frames` gets everything written to the topics of `source`.
    pub fn read(&self, source: MemorySource, frames: FrameSender) -> MemoryReader {
        let mut state = self.state();
        state.next += 1;
        let reader = Arc::new(Reader { id: state.next, source, frames, messages: AtomicU64::new(0) });
        drop(state);
        MemoryReader { topics: self.clone(), reader, begun: AtomicBool::new(false), since: SystemTime::now() }
    }

    /// Opens a sink for a rule whose streams have `signal`, which is raised when the sink is ready again.
    pub fn write(&self, sink: MemorySink, signal: Signal) -> Arc<MemoryWriter> {
        let mut state = self.state();
        state.next += 1;
        let id = state.next;
        let topic = sink.template.is_none().then(|| sink.topic.clone());
        state.writers.insert(id, Writing { reads: signal.slots(), topic, fed: HashSet::new() });
        drop(state);
        let lane = ReaderQueue { version: u64::MAX, readers: Vec::new(), fed: HashSet::new(), waiting: Vec::new() };
        Arc::new(MemoryWriter {
            topics: self.clone(),
            id,
            sink,
            signal,
            lane: Mutex::new(lane),
            messages: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            since: SystemTime::now(),
        })
    }

    /// The number of rows given to readers since the start, and of rows waiting for a reader. If the first does not
    /// change and the second is 0, no rows are on their way.
    pub fn movement(&self) -> (u64, u64) {
        (self.shared.delivered.load(Ordering::Acquire), self.shared.waiting.load(Ordering::Acquire))
    }

    /// Whether rules of stream `from` write to stream `to`, directly or through other topics and streams.
    pub fn feeds(&self, from: usize, to: usize) -> bool {
        let state = self.state();
        let mut seen = HashSet::new();
        let mut open = vec![from];
        while let Some(stream) = open.pop() {
            for writing in state.writers.values().filter(|writing| writing.reads.contains(&stream)) {
                let reads = |reader: &&Arc<Reader>| match &writing.topic {
                    Some(topic) => reader.source.reads(topic),
                    None => writing.fed.contains(&reader.frames.slot()),
                };
                for target in state.readers.iter().filter(reads).map(|reader| reader.frames.slot()) {
                    if target == to {
                        return true;
                    }
                    if seen.insert(target) {
                        open.push(target);
                    }
                }
            }
        }
        false
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.shared.state)
    }
}

/// A reader of topics, until this is dropped.
pub struct MemoryReader {
    topics: Topics,
    reader: Arc<Reader>,
    /// it has begun, or was closed before
    begun: AtomicBool,
    since: SystemTime,
}

impl OpenSource for MemoryReader {
    fn status(&self) -> LinkStatus {
        LinkStatus {
            messages: self.reader.messages.load(Ordering::Relaxed),
            ..LinkStatus::new(format!("memory:{}", self.reader.source.topic), self.since)
        }
    }

    fn begin(&self) -> BoxFuture<'_, ()> {
        let mut state = self.topics.state();
        if !self.begun.swap(true, Ordering::AcqRel) {
            state.readers.push(self.reader.clone());
            self.topics.shared.version.fetch_add(1, Ordering::Release);
        }
        Box::pin(future::ready(()))
    }

    fn is_outside(&self) -> bool {
        false
    }

    fn detach(&self) {
        let mut state = self.topics.state();
        self.begun.store(true, Ordering::Release);
        state.readers.retain(|reader| reader.id != self.reader.id);
        self.topics.shared.version.fetch_add(1, Ordering::Release);
    }
}

impl Drop for MemoryReader {
    fn drop(&mut self) {
        self.detach();
    }
}

/// The sink of a rule.
pub struct MemoryWriter {
    topics: Topics,
    id: u64,
    sink: MemorySink,
    signal: Signal,
    lane: Mutex<ReaderQueue>,
    /// number of rows written, with or without readers
    messages: AtomicU64,
    dropped: AtomicU64,
    since: SystemTime,
}

struct ReaderQueue {
    /// version of the known readers
    version: u64,
    /// the readers of the topic, or all readers if each row has its own topic
    readers: Vec<Arc<Reader>>,
    /// the streams that received rows with their own topics
    fed: HashSet<usize>,
    /// rows that did not fit into the queue of a reader
    waiting: Vec<Waiting>,
}

struct Waiting {
    reader: Arc<Reader>,
    /// the reader feeds the stream that the writer's rule reads, so the writer cannot wait for it
    cycle: bool,
    batches: VecDeque<FrameBatch>,
    rows: usize,
}

impl MemoryWriter {
    fn lane(&self) -> MutexGuard<'_, ReaderQueue> {
        locked(&self.lane)
    }

    fn refresh(&self, lane: &mut ReaderQueue) {
        let version = self.topics.shared.version.load(Ordering::Acquire);
        if lane.version != version {
            let state = self.topics.state();
            let reads = |reader: &&Arc<Reader>| self.sink.template.is_some() || reader.source.reads(&self.sink.topic);
            lane.readers = state.readers.iter().filter(reads).cloned().collect();
            lane.version = version;
        }
    }

    /// Sends rows of one topic to its readers.
    fn batch(&self, lane: &mut ReaderQueue, topic: &str, frames: Vec<Frame>, received: Instant) {
        self.messages.fetch_add(frames.len() as u64, Ordering::Relaxed);
        let ReaderQueue { readers, fed, waiting, .. } = lane;
        for reader in readers.iter() {
            if self.sink.template.is_some() {
                if !reader.source.reads(topic) {
                    continue;
                }
                // Recorded before anything is sent, so that the last writer of a cycle sees all of it.
                let target = reader.frames.slot();
                if fed.insert(target)
                    && let Some(writing) = self.topics.state().writers.get_mut(&self.id)
                {
                    writing.fed.insert(target);
                }
            }
            let batch = FrameBatch { frames: frames.clone(), origin: None, received };
            if let Some(waiting) = waiting.iter_mut().find(|waiting| waiting.reader.id == reader.id) {
                // After the waiting rows, to preserve the order.
                self.keep(waiting, batch);
                continue;
            }
            if let Some(batch) = self.offer(reader, batch) {
                let cycle = self.cycle(reader);
                let mut kept = Waiting { reader: reader.clone(), cycle, batches: VecDeque::new(), rows: 0 };
                self.keep(&mut kept, batch);
                waiting.push(kept);
            }
        }
    }

    /// Sends a batch to a reader; returns the rows that did not fit.
    fn offer(&self, reader: &Reader, batch: FrameBatch) -> Option<FrameBatch> {
        let rows = batch.frames.len() as u64;
        match reader.frames.offer(batch, &self.signal) {
            Ok(()) => {
                reader.messages.fetch_add(rows, Ordering::Relaxed);
                self.topics.shared.delivered.fetch_add(rows, Ordering::AcqRel);
                None
            }
            Err(Refused::Full(batch)) => Some(batch),
            // Rows are not kept for a reader that has ended.
            Err(Refused::Ended) => None,
        }
    }

    fn keep(&self, waiting: &mut Waiting, batch: FrameBatch) {
        let rows = batch.frames.len();
        if waiting.cycle && waiting.rows + rows > CYCLE_ROWS {
            self.dropped.fetch_add(rows as u64, Ordering::Relaxed);
            return;
        }
        waiting.rows += rows;
        self.topics.shared.waiting.fetch_add(rows as u64, Ordering::AcqRel);
        match waiting.batches.back_mut() {
            Some(last) if last.frames.len() + rows <= BATCH_FRAMES => last.frames.extend(batch.frames),
            _ => waiting.batches.push_back(batch),
        }
    }

    /// Sends waiting rows to readers; true if the rule may continue.
    fn deliver(&self, lane: &mut ReaderQueue) -> bool {
        let mut free = true;
        lane.waiting.retain_mut(|waiting| {
            while let Some(batch) = waiting.batches.pop_front() {
                let rows = batch.frames.len();
                if let Some(batch) = self.offer(&waiting.reader, batch) {
                    waiting.batches.push_front(batch);
                    free &= waiting.cycle;
                    return true;
                }
                waiting.rows -= rows;
                self.topics.shared.waiting.fetch_sub(rows as u64, Ordering::AcqRel);
            }
            false
        });
        free
    }

    fn cycle(&self, reader: &Reader) -> bool {
        let target = reader.frames.slot();
        self.signal.slots().into_iter().any(|own| own == target || self.topics.feeds(target, own))
    }
}

impl OpenSink for Arc<MemoryWriter> {
    fn outlet(&self) -> SinkHandle {
        SinkHandle::Rows(self.clone())
    }

    fn status(&self) -> LinkStatus {
        let mut lane = self.lane();
        self.refresh(&mut lane);
        LinkStatus {
            peers: lane.readers.len(),
            messages: self.messages.load(Ordering::Relaxed),
            dropped: dropped("cycle full", &self.dropped),
            queued: lane.waiting.iter().map(|waiting| waiting.rows).sum(),
            ..LinkStatus::new(format!("memory:{}", self.sink.topic), self.since)
        }
    }

    /// Waits until the readers have everything.
    fn close(&self, flush: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let deadline = tokio::time::Instant::now() + flush;
            // Used only at the end of a rule, so polling is simpler than waking up for each batch.
            while !self.deliver(&mut self.lane()) && tokio::time::Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    }
}

impl RowOutlet for MemoryWriter {
    fn send(&self, rows: Vec<Row>, received: Option<Instant>, error: &mut dyn FnMut(String)) {
        let mut lane = self.lane();
        self.refresh(&mut lane);
        let received = received.unwrap_or_else(Instant::now);
        let mut frames = Vec::with_capacity(rows.len().min(BATCH_FRAMES));
        let mut topic = Text::default();
        for row in rows {
            let frame = match self.sink.frame(row) {
                Ok(frame) => frame,
                Err(text) => {
                    error(text);
                    continue;
                }
            };
            if frames.len() == BATCH_FRAMES || (frame.topic != topic && !frames.is_empty()) {
                self.batch(&mut lane, &topic, std::mem::take(&mut frames), received);
            }
            if frames.is_empty() {
                topic.clone_from(&frame.topic);
            }
            frames.push(Frame::Row(Arc::new(frame)));
        }
        if !frames.is_empty() {
            self.batch(&mut lane, &topic, frames, received);
        }
    }

    fn ready(&self) -> bool {
        let mut lane = self.lane();
        lane.waiting.is_empty() || self.deliver(&mut lane)
    }
}

impl Drop for MemoryWriter {
    fn drop(&mut self) {
        let rows: usize = self.lane().waiting.iter().map(|waiting| waiting.rows).sum();
        self.topics.shared.waiting.fetch_sub(rows as u64, Ordering::AcqRel);
        self.topics.state().writers.remove(&self.id);
    }
}

#[cfg(test)]
mod tests;
