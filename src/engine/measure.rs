//! State sizes, measured on demand: nothing is counted while rows flow.
//!
//! A thread answers between two steps, for a few rules at a time. A thread that is held up by a client or a rule does
//! not delay the measurement: its rules are left out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::dataflow::command::Command;
use crate::dataflow::state::measure::{StateSize, TableSize};
use crate::dataflow::worker::DataThread;

use super::Engine;

/// Rules in one request: a thread runs nothing else while it answers.
const RULES: usize = 32;

/// The age up to which a measurement is returned again, so that many requests cost no more than one.
const FRESH: Duration = Duration::from_secs(1);

/// State sizes of everything that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// By id of the rule; rules without state are absent.
    pub rules: HashMap<String, StateSize>,
    /// By name of the lookup table, the copies of all threads included.
    pub tables: BTreeMap<String, TableSize>,
}

/// What waits in the queue of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// A stream or a scan table.
    pub stream: String,
    /// The data thread that reads it.
    pub thread: usize,
    pub messages: u64,
}

/// The last measurement and its time.
pub(super) type Last = tokio::sync::Mutex<Option<(Instant, Arc<Measured>)>>;

impl Engine {
    /// Fails the rule with the largest state, for lack of memory. Returns its id.
    pub(super) async fn fail_largest(&self, limit: Duration) -> Option<String> {
        let measured = self.measure(limit).await;
        let (id, size) = measured.rules.iter().max_by_key(|(_, size)| size.bytes)?;
        let running = self.running();
        let metrics = &running.rules.get(id)?.metrics;
        metrics.fail(format!(
            "memory is short, and this rule has the largest state ({} bytes): use shorter windows or fewer groups, set \
             maxStateBytes, or raise basic.maxMemory",
            size.bytes
        ));
        Some(id.clone())
    }

    /// Measures states and tables. What is not answered within `limit` is left out. A measurement of the last second is
    /// returned again.
    pub async fn measure(&self, limit: Duration) -> Arc<Measured> {
        let mut last = self.measured.lock().await;
        if let Some((when, measured)) = last.as_ref().filter(|(when, _)| when.elapsed() < FRESH) {
            tracing::trace!(age = ?when.elapsed(), "measured already");
            return measured.clone();
        }
        let until = tokio::time::Instant::now() + limit;
        let mut by_thread: Vec<Vec<(u64, String)>> = vec![Vec::new(); self.threads.len()];
        for (id, rule) in self.running().rules.iter().filter(|(_, rule)| rule.home.is_some()) {
            by_thread[rule.threads.home].push((rule.key, id.clone()));
        }
        let asked = self.threads.iter().zip(by_thread).map(|(thread, rules)| measure_thread(thread, rules, until));
        let mut measured = Measured::default();
        for (rules, tables) in futures_util::future::join_all(asked).await {
            measured.rules.extend(rules);
            for (name, size) in tables {
                let all = measured.tables.entry(name).or_default();
                // Each copy has the same rows.
                all.rows = all.rows.max(size.rows);
                all.bytes += size.bytes;
            }
        }
        let measured = Arc::new(measured);
        *last = Some((Instant::now(), measured.clone()));
        measured
    }

    /// What waits for the data threads, by stream and thread.
    pub fn waiting(&self) -> Vec<Waiting> {
        let mut waiting: BTreeMap<(String, usize), u64> = BTreeMap::new();
        for (id, stream) in &self.running().streams {
            // A redefined stream, or a table that several rules read, occurs more than once.
            for part in &stream.parts {
                *waiting.entry((id.name.to_string(), part.thread)).or_default() += part.backlog.messages();
            }
        }
        waiting.into_iter().map(|((stream, thread), messages)| Waiting { stream, thread, messages }).collect()
    }
}

/// Measures one thread, until `until`.
async fn measure_thread(
    thread: &DataThread,
    mut rules: Vec<(u64, String)>,
    until: tokio::time::Instant,
) -> (Vec<(String, StateSize)>, Vec<(String, TableSize)>) {
    let (mut sizes, mut tables) = (Vec::with_capacity(rules.len()), Vec::new());
    let all = async {
        let (done, answer) = oneshot::channel();
        thread.command(Command::MeasureTables(done));
        tables.extend(answer.await.into_iter().flatten().map(|(name, size)| (name.to_string(), size)));
        while !rules.is_empty() {
            let some = rules.split_off(rules.len().saturating_sub(RULES));
            let (done, answer) = oneshot::channel();
            thread.command(Command::MeasureRules { keys: some.iter().map(|(key, _)| *key).collect(), done });
            let mut names: HashMap<u64, String> = some.into_iter().collect();
            let answered = answer.await.into_iter().flatten();
            sizes.extend(answered.filter_map(|(key, size)| Some((names.remove(&key)?, size))));
        }
    };
    let _ = tokio::time::timeout_at(until, all).await;
    (sizes, tables)
}
