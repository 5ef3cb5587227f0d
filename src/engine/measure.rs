//! State sizes, measured on demand: nothing is counted while rows flow.
//!
//! A thread answers between two steps, for few rules at a time. One that is held up, by a client or by a rule, does not
//! hold up the measurement: its rules are left out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::dataflow::command::Command;
use crate::dataflow::state::measure::{StateSize, TableSize};
use crate::dataflow::worker::DataThread;

use super::Engine;

/// Rules of one question: a thread stands still while it answers.
const RULES: usize = 32;

/// How old an answer may be that is given again, so that many who ask cost no more than one.
const FRESH: Duration = Duration::from_secs(1);

/// How large what runs is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// the states of rules, by id; rules without state are not there
    pub rules: HashMap<String, StateSize>,
    /// lookup tables by name, with the copies of all threads
    pub tables: BTreeMap<String, TableSize>,
}

/// What waits in the queue of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// the stream, or scan table
    pub stream: String,
    /// which data thread reads it
    pub thread: usize,
    /// messages
    pub messages: u64,
}

/// The last answer, and when it was given.
pub(super) type Last = tokio::sync::Mutex<Option<(Instant, Arc<Measured>)>>;

impl Engine {
    /// Ends the rule that remembers most, for want of memory; gives its id.
    pub async fn fail_largest(&self, limit: Duration) -> Option<String> {
        let measured = self.measure(limit).await;
        let (id, size) = measured.rules.iter().max_by_key(|(_, size)| size.bytes)?;
        let running = self.running();
        let metrics = &running.rules.get(id)?.metrics;
        metrics.fail(format!(
            "memory is short, and this rule remembers most ({} bytes): use shorter windows or fewer groups, set \
             maxStateBytes, or raise basic.maxMemory",
            size.bytes
        ));
        Some(id.clone())
    }

    /// Measures states and tables, for no longer than `limit`: what was not answered by then is left out. An answer of
    /// the last second is given again.
    pub async fn measure(&self, limit: Duration) -> Arc<Measured> {
        let mut last = self.measured.lock().await;
        if let Some((when, measured)) = last.as_ref().filter(|(when, _)| when.elapsed() < FRESH) {
            tracing::trace!(age = ?when.elapsed(), "measured already");
            return measured.clone();
        }
        let until = tokio::time::Instant::now() + limit;
        let mut by_thread: Vec<Vec<(u64, String)>> = vec![Vec::new(); self.threads.len()];
        for (id, rule) in self.running().rules.iter().filter(|(_, rule)| rule.stateful) {
            by_thread[rule.thread].push((rule.key, id.clone()));
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
            // A stream that was defined anew, or a table that several rules read, is there more than once.
            *waiting.entry((id.name.to_string(), id.thread)).or_default() += stream.backlog.messages();
        }
        waiting.into_iter().map(|((stream, thread), messages)| Waiting { stream, thread, messages }).collect()
    }
}

/// Asks one thread, until then.
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
