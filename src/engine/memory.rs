//! Frees memory when the process is short of it: see [`memory`](crate::memory) for the steps.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dataflow::command::{Command, RuleKey};
use crate::memory::{self, Pressure};
use crate::sync::locked;

use super::{Engine, Measured, view_id, view_of};

/// How long the data threads may take to measure the state of their rules.
const MEASURING: Duration = Duration::from_secs(1);

/// The interval at which the engine's owner calls [`Engine::relieve_memory`].
pub const PATROL: Duration = Duration::from_secs(1);

/// A rule, view or table with less than this share of the budget is not ended, because that would not help.
const SHARE: u64 = 100;

/// How often the engine measures again because a data thread does not answer, before it decides by what it knows.
const PATIENCE: u32 = 5;

/// How often the states are measured before the last step: each measurement costs all data threads.
const EARLY: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(5);

/// The known sizes of states while memory is getting short. A thread that does not answer may have the largest state,
/// so no smaller state of another thread should be ended for it.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    /// the last measurement that all threads have answered
    whole: Option<Arc<Measured>>,
    /// the measurements since then
    partial: u32,
    /// the last measurement
    last: Option<Arc<Measured>>,
    /// when it was asked for
    asked: Option<Instant>,
}

impl Sizes {
    /// Whether the states are to be measured at this step.
    fn are_due(&mut self, pressure: Pressure, now: Instant) -> bool {
        let interval = match pressure {
            Pressure::None => return false,
            Pressure::Clients => EARLY,
            Pressure::Queues => SOON,
            Pressure::Rules => Duration::ZERO,
        };
        let is_due = self.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= interval);
        if is_due {
            self.asked = Some(now);
        }
        is_due
    }

    /// The sizes to decide by after this measurement; `None` if some threads have not answered and may do so the next
    /// time.
    fn after(&mut self, measured: Arc<Measured>) -> Option<Arc<Measured>> {
        if !measured.is_partial {
            (self.whole, self.partial) = (Some(measured.clone()), 0);
            return Some(measured);
        }
        // A reused measurement does not count as another one.
        if !self.last.as_ref().is_some_and(|last| Arc::ptr_eq(last, &measured)) {
            self.partial += 1;
            self.last = Some(measured.clone());
        }
        if self.partial < PATIENCE {
            return None;
        }
        let mut known = Measured::clone(&measured);
        let whole = self.whole.iter();
        for (rule, size) in whole.clone().flat_map(|whole| &whole.rules) {
            let now = known.rules.entry(rule.clone()).or_default();
            now.bytes = now.bytes.max(size.bytes);
        }
        for (table, size) in whole.flat_map(|whole| &whole.tables) {
            let now = known.tables.entry(table.clone()).or_default();
            now.bytes = now.bytes.max(size.bytes);
        }
        Some(Arc::new(known))
    }
}

/// The largest holder of memory, which is ended to free it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relieved {
    /// it has failed, and waits to be stopped
    Rule(String),
    /// this version of it waits to be dropped
    View(String, RuleKey),
    /// its filling is stopped, and whoever starts or changes it gets an error
    Filling(String),
    /// it was emptied, and takes no more rows
    Table(String),
}

impl fmt::Display for Relieved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Relieved::Rule(name) => write!(f, "rule {name} is stopped"),
            Relieved::View(name, _) => write!(f, "view {name} is stopped"),
            Relieved::Filling(name) => write!(f, "the filling of view {name} is stopped"),
            Relieved::Table(name) => write!(f, "table {name} is emptied and takes no more rows"),
        }
    }
}

impl Engine {
    /// Takes the step that the memory in use requires. Returns what is to be ended; the caller must stop a returned
    /// rule, and drop a returned view, in all processes.
    pub async fn relieve_memory(&self) -> Option<Relieved> {
        let pressure = memory::pressure();
        if pressure >= Pressure::Queues {
            self.connectors.websockets.shed().await;
        }
        if pressure < Pressure::Rules {
            memory::is_enough();
        }
        if memory::trim_is_due(pressure) {
            tokio::task::spawn_blocking(memory::trim);
        }
        // From the first step on, so that the sizes are known before they are needed.
        if !locked(&self.sizes).are_due(pressure, Instant::now()) {
            return None;
        }
        let measured = self.measure(MEASURING).await;
        let measured = locked(&self.sizes).after(measured);
        if pressure < Pressure::Rules || !memory::needs_more() {
            return None;
        }
        let Some(measured) = measured else {
            tracing::warn!("memory is short, and a data thread does not tell what its rules hold");
            return None;
        };
        let (bytes, largest) = self.largest(&measured)?;
        if bytes < memory::budget() / SHARE {
            tracing::warn!(%bytes, "memory is short, and no rule, view or table holds much of it");
            return None;
        }
        match &largest {
            Relieved::Rule(id) => self.fail_for_memory(id, bytes),
            Relieved::View(..) => {}
            Relieved::Filling(name) => self.end_filling(name),
            Relieved::Table(name) => self.empty_table(name, bytes),
        }
        memory::relieved();
        memory::count(Pressure::Rules);
        tracing::warn!(bytes, "memory is short: {largest}, which holds most of it");
        Some(largest)
    }

    /// The largest holder of memory, and its bytes.
    fn largest(&self, measured: &Measured) -> Option<(u64, Relieved)> {
        let mut all = Vec::new();
        let views = self.views.all();
        let running = self.running();
        for cell in views {
            let (name, held, fills) = {
                let view = locked(&cell);
                (view.about().name.to_string(), (view.bytes() + view.operator.bytes) as u64, view.is_opening())
            };
            let id = view_id(&name);
            let state = measured.rules.get(&id).map_or(0, |size| size.bytes);
            let number = running.rules.get(&id).map(|rule| rule.key).filter(|_| !fills);
            let relieved = match number {
                Some(number) => Relieved::View(name, number),
                None if fills => Relieved::Filling(name),
                // Its rule is about to run.
                None => continue,
            };
            all.push((held.max(state), relieved));
        }
        let goes_on = |id: &str| running.rules.get(id).is_some_and(|rule| !rule.metrics.has_failed());
        let rules = measured.rules.iter().filter(|(id, _)| view_of(id).is_none() && goes_on(id));
        all.extend(rules.map(|(id, size)| (size.bytes, Relieved::Rule(id.clone()))));
        let takes_rows = |name: &str| running.tables.get(name).is_some_and(|table| !table.emptied);
        let tables = measured.tables.iter().filter(|(name, _)| takes_rows(name));
        all.extend(tables.map(|(name, size)| (size.bytes, Relieved::Table(name.clone()))));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataflow::state::measure::StateSize;

    fn measured(rules: &[(&str, u64)], is_partial: bool) -> Arc<Measured> {
        let size = |bytes| StateSize { bytes, ..StateSize::default() };
        let rules = rules.iter().map(|(rule, bytes)| ((*rule).to_owned(), size(*bytes))).collect();
        Arc::new(Measured { rules, is_partial, ..Measured::default() })
    }

    #[test]
    fn states_are_measured_rarely_before_they_are_needed() {
        let (mut sizes, start) = (Sizes::default(), Instant::now());
        let mut times = |pressure: Pressure, from: u64| {
            (from..from + 60).filter(|at| sizes.are_due(pressure, start + Duration::from_secs(*at))).count()
        };
        assert_eq!(times(Pressure::None, 0), 0);
        assert_eq!(times(Pressure::Clients, 60), 2);
        assert_eq!(times(Pressure::Queues, 120), 12);
        assert_eq!(times(Pressure::Rules, 180), 60);
    }

    #[test]
    fn a_thread_that_does_not_answer_is_waited_for_and_not_forgotten() {
        let mut sizes = Sizes::default();
        assert!(sizes.after(measured(&[("small", 5), ("large", 900)], false)).is_some());
        for _ in 1..PATIENCE {
            let part = measured(&[("small", 6)], true);
            assert_eq!(sizes.after(part.clone()), None);
            assert_eq!(sizes.after(part), None, "the same one counts once");
        }
        let known = sizes.after(measured(&[("small", 7), ("new", 8)], true)).expect("it has waited long enough");
        let bytes = |rule: &str| known.rules.get(rule).map(|size| size.bytes);
        assert_eq!(["small", "large", "new"].map(bytes), [Some(7), Some(900), Some(8)]);
        // Once all threads answer, only what they say counts.
        let known = sizes.after(measured(&[("small", 1)], false)).expect("it is whole");
        assert_eq!(known.rules.len(), 1);
        assert_eq!(sizes.after(measured(&[], true)), None);
    }
}
