//! The transitions of a rule: start by its schedule, launch, stop, fail, retry.
//!
//! A new version is opened while the running one continues; then its record is written; then it replaces the running
//! one. If anything is refused or fails before that, nothing has changed.

use std::sync::Arc;
use std::time::SystemTime;

use super::super::definition::{Definition, Planned};
use super::super::error::ServiceError;
use super::super::processes::{NotBegun, Refusal};
use super::super::status::{Baseline, Phase};
use super::super::store::Change;
use super::super::topology::Topology;
use super::super::{Service, locked, millis};
use super::BY_UPDATE;
use super::entry::{Entry, NotStarted};
use crate::definition::schedule::{RestartStrategy, Turn};
use crate::engine::{EngineError, LastStatus};
use crate::io::LinkStatus;
use crate::io::connector::ConnectorError;
use crate::io::file::FileError;
use crate::io::websocket::ConnectError;

impl Service {
    /// Starts a rule by its schedule, in place of the running version. The caller holds its lock. `record` is written
    /// as soon as nothing can be refused any more. With `carry`, the rule continues from the state of the running
    /// version.
    pub(super) async fn begin(
        &self,
        entry: &Arc<Entry>,
        definition: &Definition,
        planned: Planned,
        record: Option<Change>,
        carry: bool,
    ) -> Result<(), NotStarted> {
        let options = &definition.rule.options;
        let clock = &self.inner.clock;
        let turn = options.schedule.turn(clock.now(), &self.config().zone, None);
        let started = match turn {
            Turn::Wait(_) => self.keep_record(record).await.map_err(NotStarted::Refused),
            Turn::Run(_) | Turn::Always | Turn::Over => self.launch(entry, planned, record, carry).await,
        };
        if let Err(NotStarted::Refused(_)) = started {
            return started;
        }
        {
            let mut state = locked(&entry.state);
            (state.tries, state.begun, state.next_start) = (0, clock.monotonic(), 0);
        }
        match turn {
            Turn::Wait(next) => {
                self.halt(entry, BY_UPDATE, true).await.map_err(NotStarted::Refused)?;
                self.wait_for_schedule(entry, next);
            }
            Turn::Run(end) => self.inner.timer.note(&entry.id, Some(end)),
            Turn::Always | Turn::Over => {}
        }
        if started.is_err() {
            self.try_later(entry, Some(&options.restart));
        }
        started
    }

    pub(super) async fn keep_record(&self, record: Option<Change>) -> Result<(), ServiceError> {
        match record {
            Some(record) => Ok(self.inner.store.write(vec![record]).await?),
            None => Ok(()),
        }
    }

    fn wait_for_schedule(&self, entry: &Entry, next: Option<i64>) {
        let mut state = locked(&entry.state);
        (state.phase, state.next_start) = (Phase::Scheduled, next.unwrap_or(0));
        state.message.clear();
        self.inner.timer.note(&entry.id, next);
    }

    /// Schedules the retry of a failed rule, if its restart strategy allows one.
    fn try_later(&self, entry: &Entry, restart: Option<&RestartStrategy>) {
        let mut state = locked(&entry.state);
        if let Some(wait) = restart.and_then(|restart| restart.wait(state.tries, fastrand::f64())) {
            state.tries += 1;
            self.inner.timer.note_retry(&entry.id, self.inner.clock.monotonic() + wait);
        }
    }

    /// The started rules that have a schedule.
    pub(in crate::service) fn scheduled_rules(&self) -> Vec<String> {
        let rules = locked(&self.inner.rules);
        let scheduled = |entry: &&Arc<Entry>| {
            let state = locked(&entry.state);
            let started = matches!(state.phase, Phase::Running | Phase::Scheduled);
            started && state.outline.as_ref().is_some_and(|outline| outline.schedule.is_some())
        };
        rules.values().filter(scheduled).map(|entry| entry.id.clone()).collect()
    }

    /// Does what a rule's schedule or restart strategy requires at this moment.
    pub(in crate::service) async fn keep_schedule(&self, id: &str) {
        // Waits for a creation in progress: the first start may have failed before the rule is on disk.
        let Some(entry) = locked(&self.inner.rules).get(id).cloned() else { return };
        let _life = entry.life.lock().await;
        let (phase, begun, outline) = {
            let state = locked(&entry.state);
            if state.gone {
                return;
            }
            (state.phase, state.begun, state.outline.clone())
        };
        let Some(outline) = outline else { return };
        if !matches!(phase, Phase::Running | Phase::Scheduled | Phase::Failed) {
            return;
        }
        // The time of day may have stepped since the rule began.
        let (now, gone_by) = (self.inner.clock.now(), self.inner.clock.monotonic().saturating_sub(begun));
        let turn = outline.schedule().turn(now, &self.config().zone, Some(now.saturating_sub(gone_by)));
        let runs = phase == Phase::Running;
        match turn {
            Turn::Run(_) | Turn::Always if !runs => {
                if let Turn::Run(end) = turn {
                    self.inner.timer.note(id, Some(end));
                }
                let planned = self.definition(&entry).and_then(|definition| self.plan(&definition, &entry.text()));
                let started = match planned {
                    Ok(planned) => self.launch(&entry, planned.unchecked(), None, true).await,
                    Err(error) => Err(NotStarted::Failed(error.to_string())),
                };
                if let Err(NotStarted::Failed(text) | NotStarted::Refused(ServiceError::Start(text))) = started {
                    fail(&entry, text);
                    self.try_later(&entry, outline.restart.as_deref());
                }
            }
            Turn::Run(end) => self.inner.timer.note(id, Some(end)),
            Turn::Always => {}
            Turn::Wait(next) => {
                if runs {
                    let _ = self.halt(&entry, "schedule terminated", true).await;
                }
                let message = locked(&entry.state).message.clone();
                self.wait_for_schedule(&entry, next);
                locked(&entry.state).message = message;
            }
            Turn::Over => {
                let _ = self.halt(&entry, "duration terminated", true).await;
            }
        }
    }

    /// Ends a rule whose code has panicked, and schedules its retry. In a cluster, process 0 does this.
    pub(in crate::service) async fn mark_failed(&self, id: &str, number: u64) {
        let status = match self.inner.engine.read().await.as_ref() {
            Some(engine) => engine.rule_status(id).await,
            None => return,
        };
        let error = status.and_then(|status| status.last_error).map(|(_, text)| text).unwrap_or_default();
        if !self.tell_failed(id, number, error).await {
            self.fail_rule(id, number, None).await;
        }
    }

    /// Ends a failed rule and schedules its retry, unless another version than `number` runs by now. `error` is the
    /// report of another process.
    pub(in crate::service) async fn fail_rule(&self, id: &str, number: u64, error: Option<String>) {
        let Some(entry) = self.entry(id) else { return };
        let _life = entry.life.lock().await;
        let running = self.inner.engine.read().await.as_ref().and_then(|engine| engine.number_of(id));
        if entry.phase() != Phase::Running || running != Some(number) {
            return;
        }
        let _ = self.halt(&entry, "", true).await;
        let (own, outline) = {
            let state = locked(&entry.state);
            (state.last.as_ref().and_then(|last| last.now().last_error), state.outline.clone())
        };
        fail(&entry, error.or(own.map(|(_, text)| text)).unwrap_or_default());
        if let Some(outline) = outline {
            self.try_later(&entry, outline.restart.as_deref());
        }
    }

    /// Starts a rule in place of the running version; see [`Service::begin`].
    async fn launch(
        &self,
        entry: &Arc<Entry>,
        planned: Planned,
        record: Option<Change>,
        carry: bool,
    ) -> Result<(), NotStarted> {
        let Planned { mut spec, nodes, checkpoint_interval, mut recipe } = planned;
        self.load_state(&mut spec).await;
        self.gather_for(&spec).await;
        let (ran, before) = {
            let mut state = locked(&entry.state);
            let ran = state.phase == Phase::Running;
            let before = (state.phase, state.message.clone());
            if !ran {
                state.phase = Phase::Starting;
                state.message.clear();
            }
            (ran, before)
        };
        let refuse = |error: ServiceError| {
            let mut state = locked(&entry.state);
            (state.phase, state.message) = before.clone();
            NotStarted::Refused(error)
        };
        let engine = self.inner.engine.read().await;
        let Some(engine) = engine.as_ref() else { return Err(refuse(ServiceError::Stopping)) };
        let ready = match engine.prepare_rule(spec).await {
            Ok(prepared) => {
                (recipe.number, recipe.home) = (prepared.number(), prepared.home());
                match self.prepare_elsewhere(recipe).await {
                    Ok(()) => Ok(prepared),
                    Err(refusal) => {
                        prepared.undo().await;
                        Err(refusal)
                    }
                }
            }
            Err(error) => Err(refusal_of(error)),
        };
        let prepared = match ready {
            Ok(prepared) => prepared,
            Err(Refusal::Stopping) => return Err(refuse(ServiceError::Stopping)),
            Err(Refusal::Refused { text, connector: true }) => return Err(refuse(ServiceError::Connector(text))),
            Err(Refusal::Refused { text, .. }) => return Err(refuse(ServiceError::Start(text))),
            Err(Refusal::Failed(text)) if ran => return Err(refuse(ServiceError::Start(text))),
            Err(Refusal::Failed(text)) => {
                self.keep_record(record).await.map_err(&refuse)?;
                fail(entry, text.clone());
                return Err(NotStarted::Failed(text));
            }
        };
        if let Err(error) = self.keep_record(record).await {
            prepared.undo().await;
            self.abandon_elsewhere(&entry.id).await;
            return Err(refuse(error));
        }
        let replaced = self.begin_everywhere(engine, &entry.id, prepared, carry).await;
        match replaced {
            Ok(replaced) => {
                let (last, saved) = replaced.map(|replaced| (replaced.last, replaced.saved)).unzip();
                has_begun(entry, self.inner.topologies.share(nodes), &engine.sources_of(&entry.id), last);
                let saved = saved.flatten();
                if carry && checkpoint_interval.is_some() {
                    self.keep_state(None, &entry.id, saved).await;
                }
                self.begin_checkpoints(&entry.id, checkpoint_interval).await;
                Ok(())
            }
            Err(NotBegun { text, ended }) => {
                let mut state = locked(&entry.state);
                ended.into_iter().for_each(|last| state.past.add(last));
                drop(state);
                fail(entry, text.clone());
                Err(NotStarted::Failed(text))
            }
        }
    }

    /// Stops a rule; its state is dropped unless `keep` is set. If the rule waits for a start, it no longer does.
    pub(super) async fn halt(&self, entry: &Arc<Entry>, message: &str, keep: bool) -> Result<(), ServiceError> {
        if !matches!(entry.phase(), Phase::Running | Phase::Starting) {
            let mut state = locked(&entry.state);
            if state.phase != Phase::Stopped {
                (state.phase, state.message) = (Phase::Stopped, message.to_owned());
            }
            return Ok(());
        }
        locked(&entry.state).phase = Phase::Stopping;
        let stopped = {
            let engine = self.inner.engine.read().await;
            let engine = engine.as_ref().ok_or(ServiceError::Stopping)?;
            self.stop_everywhere(engine, &entry.id, message, keep).await
        };
        let last = match stopped {
            Some(stopped) => {
                self.keep_state(None, &entry.id, stopped.saved).await;
                Some(stopped.last)
            }
            None => None,
        };
        has_stopped(entry, last, message);
        Ok(())
    }
}

/// Records that a rule runs; `last` is the status of the version that it replaces.
pub(super) fn has_begun(
    entry: &Entry,
    nodes: Arc<Topology>,
    sources: &[(String, LinkStatus)],
    last: Option<Arc<LastStatus>>,
) {
    let now = millis(SystemTime::now());
    let mut state = locked(&entry.state);
    (state.phase, state.nodes) = (Phase::Running, Some(nodes));
    state.message.clear();
    (state.last, state.last_start, state.next_start) = (None, now, 0);
    tracing::info!(rule = entry.id, "the rule runs");
    state.base = Baseline::of(sources);
    if let Some(last) = last {
        state.last_stop = now;
        state.past.add(last);
    }
}

/// Records that a rule has stopped.
pub(super) fn has_stopped(entry: &Entry, last: Option<Arc<LastStatus>>, message: &str) {
    let mut state = locked(&entry.state);
    if let Some(last) = last {
        state.past.add(last.clone());
        state.last = Some(last);
    }
    (state.phase, state.message) = (Phase::Stopped, message.to_owned());
    state.last_stop = millis(SystemTime::now());
    tracing::info!(rule = entry.id, why = message, "the rule is stopped");
}

/// Records that a rule cannot run, and why.
pub(super) fn fail(entry: &Entry, text: String) {
    tracing::info!(rule = entry.id, error = text, "the rule has failed");
    let mut state = locked(&entry.state);
    (state.phase, state.message) = (Phase::Failed, text);
    state.last_stop = millis(SystemTime::now());
}

/// Why a rule cannot be opened.
pub(super) fn refusal_of(error: EngineError) -> Refusal {
    if matches!(error, EngineError::Ending(_)) {
        return Refusal::Stopping;
    }
    let (connector, check) = (is_missing_file(&error), is_check(&error));
    let text = text_of(error);
    if connector || check { Refusal::Refused { text, connector } } else { Refusal::Failed(text) }
}

/// The text for the rule's own status, without the rule's name.
pub(in crate::service) fn text_of(error: EngineError) -> String {
    match error {
        EngineError::Connector { error, .. } => error.to_string(),
        error => error.to_string(),
    }
}

/// Whether a source names a missing file.
fn is_missing_file(error: &EngineError) -> bool {
    let EngineError::Connector { error, .. } = error else { return false };
    matches!(&**error, ConnectorError::File(FileError::Missing { .. } | FileError::Outside(_)))
}

/// Whether `checkConnection` forbids the rule.
fn is_check(error: &EngineError) -> bool {
    let EngineError::Connector { error, .. } = error else { return false };
    matches!(&**error, ConnectorError::Connect(ConnectError::Unreachable(_) | ConnectError::NoClient(_)))
}
