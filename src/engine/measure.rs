//! State sizes, measured on demand: nothing is counted while rows flow.
//!
//! A thread answers between two steps, for a few rules at a time. If a client or a rule holds up a thread, the
//! measurement does not wait: the thread's rules are left out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::dataflow::command::Command;
use crate::dataflow::division::at_home;
use crate::dataflow::state::measure::{StateSize, TableSize};
use crate::dataflow::worker::DataThread;

use super::{Engine, StatePlace};

/// The most rules in one request: a thread does nothing else while it answers.
const RULES: usize = 32;

/// How long a measurement is reused, so that many requests cost no more than one.
const FRESH: Duration = Duration::from_secs(1);

/// State sizes of everything that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// By rule id; rules without state are absent.
    pub rules: HashMap<String, StateSize>,
    /// By name of the lookup table, including the copies of all threads.
    pub tables: BTreeMap<String, TableSize>,
    /// Whether some data thread has not answered in time: states are missing, or smaller than they are.
    pub is_partial: bool,
}

/// The messages in a stream's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The name of a stream or scan table.
    pub stream: String,
    /// The data thread that reads it.
    pub thread: usize,
    pub messages: u64,
}

/// The last measurement and its time.
pub(super) type Last = tokio::sync::Mutex<Option<(Instant, Arc<Measured>)>>;

impl Engine {
    /// Measures states and tables. Threads that do not answer within `limit` are left out. A measurement of the last
    /// second is reused.
    pub async fn measure(&self, limit: Duration) -> Arc<Measured> {
        let mut last = self.measured.lock().await;
        if let Some((when, measured)) = last.as_ref().filter(|(when, _)| when.elapsed() < FRESH) {
            tracing::trace!(age = ?when.elapsed(), "measured already");
            return measured.clone();
        }
        let until = tokio::time::Instant::now() + limit;
        let mut by_thread: Vec<Vec<(u64, String)>> = vec![Vec::new(); self.threads.len()];
        for (id, rule) in self.running().rules.iter().filter(|(_, rule)| rule.home.is_some()) {
            let StatePlace { key, threads, .. } = rule.state_place();
            threads.into_iter().for_each(|thread| by_thread[thread].push((key, id.clone())));
            if rule.has_windows_apart() {
                by_thread[rule.threads.home].push((at_home(key), id.clone()));
            }
        }
        let asked = self.threads.iter().zip(by_thread).map(|(thread, rules)| measure_thread(thread, rules, until));
        let mut measured = Measured::default();
        for (rules, tables, complete) in futures_util::future::join_all(asked).await {
            measured.is_partial |= !complete;
            for (rule, size) in rules {
                let all: &mut StateSize = measured.rules.entry(rule).or_default();
                all.bytes += size.bytes;
                all.windows = all.windows.max(size.windows);
            }
            for (name, size) in tables {
                let all = measured.tables.entry(name).or_default();
                // All copies have the same rows.
                all.rows = all.rows.max(size.rows);
                all.bytes += size.bytes;
            }
        }
        let measured = Arc::new(measured);
        *last = Some((Instant::now(), measured.clone()));
        measured
    }

    /// The messages that wait for the data threads, by stream and thread.
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

/// Measures one thread, at most until `until`; whether it has answered for all rules and tables.
async fn measure_thread(
    thread: &DataThread,
    mut rules: Vec<(u64, String)>,
    until: tokio::time::Instant,
) -> (Vec<(String, StateSize)>, Vec<(String, TableSize)>, bool) {
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
    let complete = tokio::time::timeout_at(until, all).await.is_ok();
    (sizes, tables, complete)
}
