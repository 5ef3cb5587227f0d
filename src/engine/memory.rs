//! What gives way when the process is short of memory: see [`memory`](crate::memory) for the steps.

use std::fmt;
use std::time::Duration;

use crate::dataflow::command::Command;
use crate::memory::{self, Pressure};
use crate::sync::locked;

use super::{Engine, view_id, view_of};

/// How long the data threads may take to measure the state of their rules.
const MEASURING: Duration = Duration::from_secs(1);

/// The interval at which the engine's owner calls [`Engine::relieve_memory`].
pub const PATROL: Duration = Duration::from_secs(1);

/// What holds less than this share of the budget does not give way: that would not help.
const SHARE: u64 = 100;

/// What holds most memory, and gives way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GaveWay {
    /// it has failed, and waits to be stopped
    Rule(String),
    /// it waits to be dropped
    View(String),
    /// it was emptied, and takes no more rows
    Table(String),
}

impl fmt::Display for GaveWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GaveWay::Rule(name) => write!(f, "rule {name} is stopped"),
            GaveWay::View(name) => write!(f, "view {name} is stopped"),
            GaveWay::Table(name) => write!(f, "table {name} is emptied and takes no more rows"),
        }
    }
}

impl Engine {
    /// Takes the step that the memory in use requires. Returns what gives way; the caller stops a rule, and drops a view,
    /// in all processes.
    pub async fn relieve_memory(&self) -> Option<GaveWay> {
        let pressure = memory::pressure();
        if pressure >= Pressure::Queues {
            self.connectors.websockets.shed().await;
        }
        if pressure < Pressure::Rules {
            memory::is_enough();
            return None;
        }
        if !memory::needs_more() {
            return None;
        }
        let (bytes, largest) = self.largest().await?;
        if bytes < memory::budget() / SHARE {
            tracing::warn!(%bytes, "memory is short, and no rule, view or table holds much of it");
            return None;
        }
        match &largest {
            GaveWay::Rule(id) => self.fail_for_memory(id, bytes),
            GaveWay::View(_) => {}
            GaveWay::Table(name) => self.empty_table(name, bytes),
        }
        memory::gave_up();
        memory::count(Pressure::Rules);
        tracing::warn!(bytes, "memory is short: {largest}, which holds most of it");
        Some(largest)
    }

    /// What holds most, and how many bytes.
    async fn largest(&self) -> Option<(u64, GaveWay)> {
        let measured = self.measure(MEASURING).await;
        let mut all = Vec::new();
        for cell in self.views.all() {
            let (name, held) = {
                let view = locked(&cell);
                (view.about().name.to_string(), (view.bytes() + view.operator.bytes) as u64)
            };
            let state = measured.rules.get(&view_id(&name)).map_or(0, |size| size.bytes);
            all.push((held.max(state), GaveWay::View(name)));
        }
        let running = self.running();
        let goes_on = |id: &str| running.rules.get(id).is_some_and(|rule| !rule.metrics.has_failed());
        let rules = measured.rules.iter().filter(|(id, _)| view_of(id).is_none() && goes_on(id));
        all.extend(rules.map(|(id, size)| (size.bytes, GaveWay::Rule(id.clone()))));
        let takes_rows = |name: &str| running.tables.get(name).is_some_and(|table| !table.emptied);
        let tables = measured.tables.iter().filter(|(name, _)| takes_rows(name));
        all.extend(tables.map(|(name, size)| (size.bytes, GaveWay::Table(name.clone()))));
        all.into_iter().max_by_key(|(bytes, _)| *bytes)
    }

    fn fail_for_memory(&self, id: &str, bytes: u64) {
        if let Some(rule) = self.running().rules.get(id) {
            rule.metrics.fail(format!(
                "memory is short, and this rule has the largest state ({bytes} bytes): use shorter windows or fewer \
                 groups, set maxStateBytes, or raise basic.maxMemory"
            ));
        }
    }

    fn empty_table(&self, name: &str, bytes: u64) {
        let mut running = self.running();
        let Some(table) = running.tables.get_mut(name) else { return };
        table.emptied = true;
        table.metrics.error(format!(
            "memory is short, and this table holds the most ({bytes} bytes): it is emptied and takes no more rows. Send it \
             fewer rows or raise basic.maxMemory, and create it again"
        ));
        for (thread, (slot, _)) in self.threads.iter().zip(&table.copies) {
            thread.command(Command::EmptyTable { slot: *slot, name: name.into() });
        }
    }
}
