//! A query without sockets: the real plan on a real data thread, fed from memory, with results that are discarded.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use plutino::config::Config;
use plutino::dataflow::command::{Command, NewRule};
use plutino::dataflow::encoding::Encoding;
use plutino::dataflow::worker::DataThread;
use plutino::io::queue::{self, BATCH_FRAMES, Frame, FrameBatch, MessageBatch, Outlet};
use plutino::metrics::RuleMetrics;
use plutino::pipeline;
use plutino::plan::physical::RulePlan;
use plutino::time::Clock;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::failure::{Doing, Outcome, wrong};
use crate::feed::{Feed, STREAMS};
use crate::query::Query;

/// The figures of one run.
pub struct Run {
    /// CPU time of the data thread
    pub cpu: Duration,
    /// from the first batch to the last result
    pub wall: Duration,
    /// messages to the sink
    pub messages: u64,
    /// the rows, if requested
    pub rows: Vec<Value>,
}

/// Messages as socket tasks would gather them under load: full batches of the busiest stream, and whatever the others
/// have by then.
pub fn batches(feed: &Feed, streams: &[usize]) -> Vec<(usize, FrameBatch)> {
    let mut waiting: BTreeMap<usize, Vec<&Bytes>> = BTreeMap::new();
    let mut batches = Vec::new();
    let mut hand_over = |waiting: &mut BTreeMap<usize, Vec<&Bytes>>| {
        for (stream, texts) in waiting.iter_mut().filter(|(_, texts)| !texts.is_empty()) {
            batches.push((*stream, batch(texts)));
            texts.clear();
        }
    };
    for message in feed.messages.iter().filter(|message| streams.contains(&message.stream)) {
        let texts = waiting.entry(message.stream).or_default();
        texts.push(&message.text);
        if texts.len() == BATCH_FRAMES {
            hand_over(&mut waiting);
        }
    }
    hand_over(&mut waiting);
    batches
}

/// One batch whose messages share one allocation, like those that a socket has read together.
fn batch(texts: &[&Bytes]) -> FrameBatch {
    let mut buffer = BytesMut::new();
    texts.iter().for_each(|text| buffer.extend_from_slice(text));
    let mut buffer = buffer.freeze();
    let frame = |text: &&Bytes| {
        let text = Utf8Bytes::try_from(buffer.split_to(text.len())).expect("the feed is UTF-8");
        Frame::Text(text)
    };
    FrameBatch { frames: texts.iter().map(frame).collect(), origin: None, received: Instant::now() }
}

/// Runs a query once over batches; `keep` says whether its rows are kept.
pub fn run(query: &Query, rules: &Path, batches: &[(usize, FrameBatch)], keep: bool) -> Outcome<Run> {
    let plan = plan(query, rules)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().doing("making a runtime")?;
    let thread = DataThread::start(0, jiff::tz::TimeZone::UTC, Clock::System, Default::default())
        .doing("starting a data thread")?;
    let mut senders = BTreeMap::new();
    let mut keys = Vec::new();
    for (key, input) in plan.inputs.iter().enumerate() {
        let Some(stream) = STREAMS.iter().position(|name| *name == input.stream.name.as_str()) else {
            return wrong(format!("{} reads a stream that the feed does not have", query.name));
        };
        let (sender, frames) = queue::inbound(thread.signal(key));
        thread.command(Command::AddStream { key, schema: input.stream.schema(), checks: Default::default(), frames });
        senders.insert(stream, sender);
        keys.push(Some(key));
    }
    let results = Arc::new(Results { messages: AtomicU64::new(0), kept: keep.then(Mutex::default) });
    let metrics = Arc::new(RuleMetrics::default());
    let (done, added) = oneshot::channel();
    let encoding = Encoding { name: 0, format: Arc::default(), outlets: vec![results.clone()], rows: Vec::new() };
    let rule = keys.len() as u64;
    thread.command(Command::AddRule(Box::new(NewRule {
        key: rule,
        slot: keys.len(),
        streams: keys,
        plan,
        id: query.name.to_owned(),
        encodings: vec![encoding],
        dead_letters: Vec::new(),
        send_error: false,
        metrics: metrics.clone(),
        keeps: Default::default(),
        part: Default::default(),
        started: Clock::System.now(),
        replaces: None,
        done,
    })));
    answered(&runtime, added)?;

    let (cpu, begun) = (data_thread_cpu()?, Instant::now());
    for (stream, batch) in batches {
        if runtime.block_on(senders[stream].send(batch.clone())).is_err() {
            return wrong(format!("the data thread has ended: {:?}", metrics.last_error()));
        }
    }
    let (done, drained) = oneshot::channel();
    // Windows in processing time end at the end of the input; those in event time were closed by the feed's last
    // events.
    thread.command(if query.by_clock {
        Command::EndOfInput { rules: vec![rule].into(), done }
    } else {
        Command::Drain(done)
    });
    answered(&runtime, drained)?;
    let run = Run {
        cpu: data_thread_cpu()? - cpu,
        wall: begun.elapsed(),
        messages: results.messages.load(Ordering::Relaxed),
        rows: results.rows()?,
    };
    thread.stop();
    let (errors, late) = (metrics.errors(), metrics.late.load(Ordering::Relaxed));
    match errors + late {
        0 => Ok(run),
        _ => wrong(format!("{} has {errors} errors ({:?}) and {late} late rows", query.name, metrics.last_error())),
    }
}

/// The plan of the rule in the query's file, as the program makes it.
fn plan(query: &Query, rules: &Path) -> Outcome<RulePlan> {
    let file = rules.join(format!("{}.yaml", query.name));
    let said = |problems: Vec<plutino::text::document::Problem>| {
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    match pipeline::load(&[file], &Config::default()) {
        Ok(mut pipeline) if pipeline.rules.len() == 1 => Ok(pipeline.rules.remove(0).spec.plan),
        Ok(_) => wrong(format!("the file of {} should have one rule", query.name)),
        Err(problems) => wrong(said(problems)),
    }
}

fn answered<T>(runtime: &Runtime, answer: oneshot::Receiver<T>) -> Outcome<T> {
    runtime.block_on(answer).or_else(|_| wrong("the data thread has ended"))
}

/// CPU time of the running data thread.
fn data_thread_cpu() -> Outcome<Duration> {
    for task in fs::read_dir("/proc/self/task").doing("listing threads")?.flatten() {
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.trim_end() == "data-0" {
            let line = fs::read_to_string(task.path().join("schedstat")).doing("reading a thread's CPU time")?;
            let nanoseconds = line.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
            return Ok(Duration::from_nanos(nanoseconds));
        }
    }
    wrong("there is no data thread")
}

/// Counts results, and keeps them if they are checked.
struct Results {
    messages: AtomicU64,
    kept: Option<Mutex<Vec<Arc<MessageBatch>>>>,
}

impl Outlet for Results {
    fn send(&self, batch: &Arc<MessageBatch>) {
        self.messages.fetch_add(batch.len() as u64, Ordering::Relaxed);
        if let Some(mut kept) = self.kept.as_ref().and_then(|kept| kept.lock().ok()) {
            kept.push(batch.clone());
        }
    }
}

impl Results {
    fn rows(&self) -> Outcome<Vec<Value>> {
        let Some(kept) = self.kept.as_ref().and_then(|kept| kept.lock().ok()) else { return Ok(Vec::new()) };
        rows(kept.iter().flat_map(|batch| batch.messages()))
    }
}

/// The rows of messages, which are objects or lists of objects.
pub fn rows(messages: impl Iterator<Item = Bytes>) -> Outcome<Vec<Value>> {
    let mut rows = Vec::new();
    for message in messages {
        match serde_json::from_slice(&message) {
            Ok(Value::Array(list)) => rows.extend(list),
            Ok(row) => rows.push(row),
            Err(error) => return wrong(format!("a result is no JSON: {error}")),
        }
    }
    Ok(rows)
}
