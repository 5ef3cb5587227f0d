//! Stores the states of rules with `qos` 1 or 2, and returns them when the rules start.
//!
//! A state is taken every `checkpointInterval`, and when the rule stops. The data thread turns it into bytes; this
//! module writes them to disk, on another thread. If a state cannot be written or used, this is logged, and the rule
//! starts with empty state.
//!
//! A state is written under the lock of its rule, so that an older one never replaces a newer one.

use std::collections::{BTreeMap, BTreeSet};

use super::rules::Life;
use super::store::{Change, RecordKind, Records};
use super::{Service, locked};
use crate::engine::{CheckpointError, Engine, Keeps, RuleSpec, Saved, view_id, view_of};

/// How long to wait if a state was too large, ms: the data thread does nothing else while it writes one.
const LARGE: i64 = 60_000;
/// How long to wait while the rule is being changed, ms.
const BUSY: i64 = 1_000;

/// Which rules have a state on disk, and when the next state of each is due.
#[derive(Default)]
pub(super) struct Checkpoints {
    stored: BTreeSet<String>,
    paces: BTreeMap<String, Pace>,
}

/// Interval between the states of a rule, ms.
struct Pace {
    interval: i64,
    next: i64,
}

impl Service {
    /// Lists the stored states, and removes those of rules that no longer exist, such as temporary ones.
    pub(super) async fn restore_states(&self, records: &Records) {
        let states = self.inner.store.states().unwrap_or_else(|error| {
            tracing::warn!("stored states cannot be read; rules start with empty state: {error}");
            Vec::new()
        });
        let rules = records.of(RecordKind::Rule).map(|(id, _)| id.to_owned());
        let known: BTreeSet<String> =
            rules.chain(records.of(RecordKind::View).map(|(name, _)| view_id(name))).collect();
        let (stored, left): (Vec<_>, Vec<_>) = states.into_iter().partition(|id| known.contains(id));
        locked(&self.inner.checkpoints).stored.extend(stored);
        if !left.is_empty() {
            let gone = left.into_iter().map(Change::remove_state).collect();
            self.inner.store.write(gone).await.unwrap_or_else(|error| tracing::warn!("{error}"));
        }
    }

    /// Loads the stored state of a rule that is about to start.
    pub(super) async fn load_state(&self, spec: &mut RuleSpec) {
        let Keeps::State(state) = &mut spec.keeps else { return };
        if self.has_state(&spec.id) {
            match self.inner.store.state(&spec.id).await {
                Ok(stored) => *state = stored,
                Err(error) => tracing::warn!(
                    rule = spec.id,
                    "its stored state cannot be used, it starts with empty state: {error}"
                ),
            }
        }
    }

    /// Starts to take the state of a rule. If the rule has no qos, its stored state is removed: it would be outdated if
    /// the rule got qos again.
    pub(super) async fn begin_checkpoints(&self, id: &str, interval: Option<i64>) {
        self.end_checkpoints(id);
        let Some(interval) = interval else { return self.forget_state(id).await };
        let next = self.inner.clock.monotonic().saturating_add(interval);
        locked(&self.inner.checkpoints).paces.insert(id.to_owned(), Pace { interval, next });
        self.inner.timer.note_checkpoint(id, next);
    }

    /// Stops taking the state of a rule.
    fn end_checkpoints(&self, id: &str) {
        let pace = locked(&self.inner.checkpoints).paces.remove(id);
        pace.into_iter().for_each(|pace| self.inner.timer.forget_checkpoint(id, pace.next));
    }

    /// Takes and stores the state of a rule that is due, and schedules the next one.
    pub(super) async fn checkpoint(&self, id: &str) {
        let now = self.inner.clock.monotonic();
        let interval = {
            let mut checkpoints = locked(&self.inner.checkpoints);
            // An earlier start may have left due times.
            let Some(pace) = checkpoints.paces.get_mut(id).filter(|pace| pace.next <= now) else { return };
            pace.next = i64::MAX;
            pace.interval
        };
        if let Some(name) = view_of(id) {
            return self.checkpoint_view(id, name, interval).await;
        }
        let wait = match self.try_life(id) {
            // It may start again; then it is asked again.
            Life::Changing => interval.min(BUSY),
            Life::Over => {
                let mut checkpoints = locked(&self.inner.checkpoints);
                // It may have been started in between, with a due time of its own.
                if checkpoints.paces.get(id).is_some_and(|pace| pace.next == i64::MAX) {
                    checkpoints.paces.remove(id);
                }
                return;
            }
            Life::Running(_life) => {
                let engine = self.inner.engine.read().await;
                let Some(engine) = engine.as_ref() else { return };
                let saved = self.save_everywhere(engine, id).await;
                let large = matches!(saved, Some(Err(_)));
                self.keep_state(Some(engine), id, saved).await;
                if large { interval.max(LARGE) } else { interval }
            }
        };
        let next = self.inner.clock.monotonic().saturating_add(wait);
        let mut checkpoints = locked(&self.inner.checkpoints);
        if let Some(pace) = checkpoints.paces.get_mut(id).filter(|pace| pace.next == i64::MAX) {
            pace.next = next;
            self.inner.timer.note_checkpoint(id, next);
        }
    }

    /// Stores the state of a view, which is not changed in the meantime.
    async fn checkpoint_view(&self, id: &str, name: &str, interval: i64) {
        let _alone = self.inner.changing.lock().await;
        if self.keeps_view(name)
            && let Some(engine) = self.inner.engine.read().await.as_ref()
        {
            let saved = engine.save_rule(id).await;
            self.keep_state(Some(engine), id, saved).await;
        }
        let next = self.inner.clock.monotonic().saturating_add(interval);
        let mut checkpoints = locked(&self.inner.checkpoints);
        if let Some(pace) = checkpoints.paces.get_mut(id).filter(|pace| pace.next == i64::MAX) {
            pace.next = next;
            self.inner.timer.note_checkpoint(id, next);
        }
    }

    /// Writes a state to disk, if there is one; false: that failed. The caller holds the rule's lock.
    pub(super) async fn keep_state(
        &self,
        engine: Option<&Engine>,
        id: &str,
        saved: Option<Result<Saved, CheckpointError>>,
    ) -> bool {
        let written = match saved {
            None => return true,
            Some(Err(error)) => Err(error.to_string()),
            Some(Ok(Saved { bytes, mark })) => {
                let written = self.inner.store.write(vec![Change::put_state(id, bytes)]).await;
                written.map(|()| mark).map_err(|error| error.to_string())
            }
        };
        match written {
            Ok(mark) => {
                tracing::debug!(rule = id, changes = mark, "its state is on disk");
                locked(&self.inner.checkpoints).stored.insert(id.to_owned());
                if let Some(engine) = engine {
                    self.is_kept(engine, id, mark).await;
                }
                true
            }
            Err(error) => {
                tracing::warn!(rule = id, "its state could not be stored: {error}");
                false
            }
        }
    }

    /// Removes the stored state of a rule.
    pub(super) async fn forget_state(&self, id: &str) {
        if !self.has_state(id) {
            return;
        }
        match self.inner.store.write(vec![Change::remove_state(id)]).await {
            Ok(()) => drop(locked(&self.inner.checkpoints).stored.remove(id)),
            Err(error) => tracing::warn!(rule = id, "its stored state could not be removed: {error}"),
        }
    }

    /// Records that the stored state was deleted together with the rule.
    pub(super) fn state_is_gone(&self, id: &str) {
        self.end_checkpoints(id);
        locked(&self.inner.checkpoints).stored.remove(id);
    }

    /// Whether the state of a rule is taken regularly.
    pub(super) fn takes_state(&self, id: &str) -> bool {
        locked(&self.inner.checkpoints).paces.contains_key(id)
    }

    /// Whether a rule has a state on disk.
    pub(super) fn has_state(&self, id: &str) -> bool {
        locked(&self.inner.checkpoints).stored.contains(id)
    }

    /// Whether a rule's state is taken regularly and is on disk.
    pub(super) fn is_on_disk(&self, id: &str) -> bool {
        self.takes_state(id) && self.has_state(id)
    }

    /// Stores the last states of all rules when the service stops, and returns the rules for which that failed.
    pub(super) async fn keep_last(&self, states: Vec<(String, Result<Saved, CheckpointError>)>) -> BTreeSet<String> {
        let write =
            |(id, saved): (String, _)| async move { (!self.keep_state(None, &id, Some(saved)).await).then_some(id) };
        // The store writes many states in one transaction.
        futures_util::future::join_all(states.into_iter().map(write)).await.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::opened;
    use super::*;

    /// A rule whose thread is busy until the process ends.
    #[tokio::test]
    async fn a_state_that_is_not_given_in_time_is_reported() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let service = opened(data.path()).await;
        service.create_relation("CREATE STREAM demo () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\")").await.unwrap();
        for (id, qos) in [("kept", 1), ("unkept", 0)] {
            let sql = "SELECT acc_sum(a) AS s FROM demo";
            let rule = serde_json::json!({"id": id, "sql": sql, "actions": [{"nop": {}}], "options": {"qos": qos}});
            service.create_rule(&rule.to_string()).await.unwrap();
        }
        let engine = service.inner.engine.write().await.take().unwrap();
        let busy = engine.occupy_threads();
        let ended = engine.stop(std::time::Duration::from_secs(4)).await;
        let states: Vec<_> = ended.states.iter().map(|(id, state)| (id.as_str(), state.as_ref().err())).collect();
        assert_eq!(states, [("kept", Some(&CheckpointError::Late))]);
        drop(busy);
        service.stop().await;
    }

    /// Rows that wait on a busy thread count as lost, also if everything else ends in time.
    #[tokio::test]
    async fn rows_that_a_busy_thread_has_left_are_counted() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let service = opened(data.path()).await;
        std::fs::write(data.path().join("rows.json"), "[{\"a\":1},{\"a\":2},{\"a\":3},{\"a\":4},{\"a\":5}]").unwrap();
        service.create_relation("CREATE STREAM demo () WITH (DATASOURCE=\"rows.json\", TYPE=\"file\")").await.unwrap();
        let rule = "{\"id\": \"r\", \"sql\": \"SELECT delay(10000, a) AS a FROM demo\", \"actions\": [{\"nop\": {}}]}";
        service.create_rule(rule).await.unwrap();
        let engine = service.inner.engine.write().await.take().unwrap();
        let paused = async { while engine.unprocessed().await != 4 {} };
        let paused = tokio::time::timeout(std::time::Duration::from_secs(20), paused).await;
        paused.expect("the first row pauses the rule");
        let busy = engine.occupy_threads();
        let ended = engine.stop(std::time::Duration::from_secs(3)).await;
        assert_eq!(ended.totals.lost.get(crate::io::UNPROCESSED), Some(&4), "{:?}", ended.totals);
        drop(busy);
        service.stop().await;
    }

    #[tokio::test]
    async fn rules_that_come_and_go_leave_no_times_behind() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let service = opened(data.path()).await;
        service.create_relation("CREATE STREAM demo () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\")").await.unwrap();
        for number in 0..10 {
            let rule = format!(
                "{{\"id\": \"r{number}\", \"sql\": \"SELECT acc_sum(a) AS s FROM demo\", \"actions\": [{{\"nop\": {{}}}}], \
                 \"options\": {{\"qos\": 1}}}}"
            );
            service.create_rule(&rule).await.unwrap();
        }
        for _ in 0..10 {
            service.restart_rule("r0").await.unwrap();
        }
        assert_eq!((locked(&service.inner.checkpoints).paces.len(), service.inner.timer.waiting()), (10, 10));
        for number in 0..10 {
            service.delete_rule(&format!("r{number}")).await.unwrap();
        }
        assert_eq!((locked(&service.inner.checkpoints).paces.len(), service.inner.timer.waiting()), (0, 0));
        service.stop().await;
    }
}
