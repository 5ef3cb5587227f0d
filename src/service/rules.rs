//! The life of a rule: created, started, stopped, changed, gone.
//!
//! Each rule has a lock for its life, which is held from the first check of an operation to its end on disk, so that a
//! thousand calls on one rule happen one after the other; and a lock for what is known of it, held for single steps, so
//! that nobody who only looks ever waits. The engine runs a rule first and the store keeps it then: a rule that cannot
//! start because its `checkConnection` fails was never there.

mod entry;
mod views;

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value as Json;

pub(super) use self::entry::{Entry, Life};
use self::entry::{NotStarted, State};
use super::definition::{Definition, Planned};
use super::error::ServiceError;
use super::relations::check_version;
use super::status::{Baseline, Phase};
use super::store::{Change, Kind};
use super::{Service, check_id, locked, millis};
use crate::definition::rule::RuleOptions;
use crate::definition::schedule::Turn;
use crate::engine::EngineError;
use crate::io::connector::ConnectorError;
use crate::io::websocket::ConnectError;

/// What a rule that was stopped by hand says.
const BY_HAND: &str = "canceled manually";

/// Why a rule stopped that has a new definition.
const BY_UPDATE: &str = "stopped by update";

/// A rule of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSummary {
    /// its id
    pub id: String,
    /// its name for people; its id where it has none
    pub name: String,
    /// its state
    pub phase: Phase,
    /// its version; empty if not given
    pub version: String,
    /// whether it is traced
    pub trace: bool,
    /// its tags
    pub tags: Option<Vec<String>>,
}

/// What became of one rule of many.
#[derive(Debug)]
pub struct Bulk {
    /// its id
    pub id: String,
    /// how it went
    pub outcome: Result<(), ServiceError>,
}

impl Service {
    /// Creates a rule from its JSON text, and starts it unless it says otherwise; gives its id.
    ///
    /// # Errors
    /// [`ServiceError`]; nothing has changed then.
    pub async fn create_rule(&self, text: &str) -> Result<String, ServiceError> {
        // A new one has nothing to keep.
        self.restored_rule("", text)?;
        let definition = Definition::read(text, None, &self.config().rule)?;
        self.insert_rule(&definition, text).await?;
        definition.warn();
        Ok(definition.rule.id)
    }

    async fn insert_rule(&self, definition: &Definition, text: &str) -> Result<(), ServiceError> {
        let id = definition.rule.id.as_str();
        let entry = Entry::new(id, State::of(definition, text));
        // The id is taken before the streams are looked at, so that they cannot be dropped in between.
        let _life = entry.life.lock().await;
        {
            let mut rules = locked(&self.inner.rules);
            if rules.contains_key(id) {
                return Err(ServiceError::RuleExists(id.to_owned()));
            }
            rules.insert(id.to_owned(), entry.clone());
        }
        let created = self.bring_to_life(&entry, definition, text).await;
        if created.is_err() {
            let _ = self.end(&entry, "", false).await;
            locked(&entry.state).gone = true;
            locked(&self.inner.rules).remove(id);
        } else {
            locked(&entry.state).created = true;
        }
        created
    }

    async fn bring_to_life(&self, entry: &Arc<Entry>, definition: &Definition, text: &str) -> Result<(), ServiceError> {
        let planned = definition.plan(&self.catalog(), &self.config())?;
        if definition.rule.triggered
            && let Err(NotStarted::Refused(error)) = self.begin(entry, &definition.rule.options, planned).await
        {
            return Err(error);
        }
        if !definition.rule.options.temporary {
            self.inner.store.write(vec![Change::put(Kind::Rule, &entry.id, text)]).await?;
        }
        Ok(())
    }

    /// Puts a stored rule back; it runs with [`Service::resume`].
    pub(super) fn restore_rule(&self, id: &str, text: &str) {
        let state = match Definition::read(text, Some(id), &self.config().rule) {
            Ok(definition) => {
                definition.warn();
                let triggered = definition.rule.triggered;
                let phase = if triggered { Phase::Starting } else { Phase::Stopped };
                State { phase, created: true, ..State::of(&definition, text) }
            }
            Err(error) => {
                tracing::error!("the stored rule {id} cannot be used: {error}");
                let message = error.to_string();
                State { phase: Phase::Failed, message, created: true, ..State::blank(id, text) }
            }
        };
        locked(&self.inner.rules).insert(id.to_owned(), Entry::new(id, state));
    }

    /// Starts the stored rules that shall run.
    pub async fn resume(&self) {
        let entries: Vec<Arc<Entry>> = locked(&self.inner.rules).values().cloned().collect();
        for entry in entries {
            let _life = entry.life.lock().await;
            if entry.phase() != Phase::Starting || locked(&entry.state).gone {
                continue;
            }
            let definition = Definition::read(&entry.text(), Some(&entry.id), &self.config().rule);
            let planned = definition.and_then(|definition| {
                let planned = definition.plan(&self.catalog(), &self.config())?;
                Ok((definition.rule.options, planned))
            });
            let started = match planned {
                Ok((options, planned)) => self.begin(&entry, &options, planned.unchecked()).await,
                Err(error) => Err(NotStarted::Refused(error)),
            };
            if let Err(NotStarted::Refused(error)) = started {
                if matches!(error, ServiceError::Stopping) {
                    return;
                }
                tracing::error!("rule {} cannot start: {error}", entry.id);
                let mut state = locked(&entry.state);
                (state.phase, state.message) = (Phase::Failed, error.to_string());
            }
            // Requests are answered in between, however many rules there are.
            tokio::task::yield_now().await;
        }
    }

    /// Starts a rule whose life the caller holds, as its schedule says.
    async fn begin(&self, entry: &Arc<Entry>, options: &RuleOptions, planned: Planned) -> Result<(), NotStarted> {
        let now = millis(SystemTime::now());
        let turn = options.schedule.turn(now, &self.config().zone, None);
        {
            let mut state = locked(&entry.state);
            (state.tries, state.begun, state.next_start) = (0, now, 0);
            if let Turn::Wait(next) = turn {
                (state.phase, state.next_start) = (Phase::Scheduled, next.unwrap_or(0));
                state.message.clear();
            }
        }
        match turn {
            Turn::Wait(next) => {
                self.inner.agenda.note(&entry.id, next);
                return Ok(());
            }
            Turn::Run(end) => self.inner.agenda.note(&entry.id, Some(end)),
            Turn::Always | Turn::Over => {}
        }
        let started = self.launch(entry, planned).await;
        if let Err(NotStarted::Failed(_)) = started {
            self.try_later(entry, options);
        }
        started
    }

    /// Notes when a rule that failed is started again, if it is.
    fn try_later(&self, entry: &Entry, options: &RuleOptions) {
        let mut state = locked(&entry.state);
        if let Some(wait) = options.restart.wait(state.tries, fastrand::f64()) {
            state.tries += 1;
            self.inner.agenda.note(&entry.id, Some(millis(SystemTime::now()) + wait));
        }
    }

    /// Does what a rule's schedule or its restart strategy says for now.
    pub(super) async fn keep_schedule(&self, id: &str) {
        let Some(entry) = self.entry(id) else { return };
        let _life = entry.life.lock().await;
        let (phase, begun) = {
            let state = locked(&entry.state);
            if state.gone {
                return;
            }
            (state.phase, state.begun)
        };
        if !matches!(phase, Phase::Running | Phase::Scheduled | Phase::Failed) {
            return;
        }
        let Ok(definition) = Definition::read(&entry.text(), Some(id), &self.config().rule) else { return };
        let options = &definition.rule.options;
        let turn = options.schedule.turn(millis(SystemTime::now()), &self.config().zone, Some(begun));
        let runs = phase == Phase::Running;
        match turn {
            Turn::Run(_) | Turn::Always if !runs => {
                if let Turn::Run(end) = turn {
                    self.inner.agenda.note(id, Some(end));
                }
                let started = match definition.plan(&self.catalog(), &self.config()) {
                    Ok(planned) => self.launch(&entry, planned.unchecked()).await,
                    Err(error) => Err(NotStarted::Failed(error.to_string())),
                };
                if let Err(NotStarted::Failed(text) | NotStarted::Refused(ServiceError::Start(text))) = started {
                    let mut state = locked(&entry.state);
                    (state.phase, state.message) = (Phase::Failed, text);
                    drop(state);
                    self.try_later(&entry, options);
                }
            }
            Turn::Run(end) => self.inner.agenda.note(id, Some(end)),
            Turn::Always => {}
            Turn::Wait(next) => {
                if runs {
                    let _ = self.halt(&entry, "schedule terminated").await;
                }
                let mut state = locked(&entry.state);
                (state.phase, state.next_start) = (Phase::Scheduled, next.unwrap_or(0));
                self.inner.agenda.note(id, next);
            }
            Turn::Over => {
                let _ = self.halt(&entry, "duration terminated").await;
            }
        }
    }

    /// Ends a rule whose code has failed, and notes when it is tried again.
    pub(super) async fn bury(&self, id: &str) {
        let Some(entry) = self.entry(id) else { return };
        let _life = entry.life.lock().await;
        if entry.phase() != Phase::Running {
            return;
        }
        let _ = self.halt(&entry, "").await;
        {
            let mut state = locked(&entry.state);
            let error = state.last.as_ref().and_then(|last| last.last_error.clone());
            (state.phase, state.message) = (Phase::Failed, error.map(|(_, text)| text).unwrap_or_default());
        }
        if let Ok(definition) = Definition::read(&entry.text(), Some(id), &self.config().rule) {
            self.try_later(&entry, &definition.rule.options);
        }
    }

    /// Starts a rule whose life the caller holds.
    async fn launch(&self, entry: &Arc<Entry>, planned: Planned) -> Result<(), NotStarted> {
        let Planned { mut spec, nodes, checkpoint_interval } = planned;
        self.load_state(&mut spec).await;
        {
            let mut state = locked(&entry.state);
            state.phase = Phase::Starting;
            state.message.clear();
            state.nodes = Some(Arc::new(nodes));
            state.last = None;
            state.last_start = millis(SystemTime::now());
            state.next_start = 0;
        }
        let engine = self.inner.engine.read().await;
        let Some(engine) = engine.as_ref() else { return Err(NotStarted::Refused(ServiceError::Stopping)) };
        match engine.start_rule(spec).await {
            Ok(()) => {
                let status = engine.rule_status(&entry.id).await;
                {
                    let mut state = locked(&entry.state);
                    state.base = status.as_ref().map(Baseline::of).unwrap_or_default();
                    state.phase = Phase::Running;
                }
                self.begin_checkpoints(&entry.id, checkpoint_interval).await;
                Ok(())
            }
            Err(error) => {
                let refused = is_check(&error);
                let text = match error {
                    EngineError::Connector { error, .. } => error.to_string(),
                    error => error.to_string(),
                };
                let mut state = locked(&entry.state);
                state.phase = if refused { Phase::Stopped } else { Phase::Failed };
                state.message = if refused { String::new() } else { text.clone() };
                state.last_stop = millis(SystemTime::now());
                Err(if refused { NotStarted::Refused(ServiceError::Start(text)) } else { NotStarted::Failed(text) })
            }
        }
    }

    /// Stops a rule whose life the caller holds, and keeps its state; one that does not run stays as it is.
    async fn halt(&self, entry: &Arc<Entry>, message: &str) -> Result<(), ServiceError> {
        self.end(entry, message, true).await
    }

    /// Stops a rule; its state is lost where it is not to be kept.
    async fn end(&self, entry: &Arc<Entry>, message: &str, keep: bool) -> Result<(), ServiceError> {
        if !matches!(entry.phase(), Phase::Running | Phase::Starting) {
            let mut state = locked(&entry.state);
            if state.phase != Phase::Stopped {
                (state.phase, state.message) = (Phase::Stopped, message.to_owned());
            }
            return Ok(());
        }
        locked(&entry.state).phase = Phase::Stopping;
        let engine = self.inner.engine.read().await;
        let engine = engine.as_ref().ok_or(ServiceError::Stopping)?;
        let last = engine.rule_status(&entry.id).await;
        if keep {
            let saved = engine.stop_and_save_rule(&entry.id).await;
            self.keep_state(None, &entry.id, saved).await;
        } else {
            engine.stop_rule(&entry.id).await;
        }
        let mut state = locked(&entry.state);
        state.last = last.map(Box::new);
        (state.phase, state.message) = (Phase::Stopped, message.to_owned());
        state.last_stop = millis(SystemTime::now());
        Ok(())
    }

    fn entry(&self, id: &str) -> Option<Arc<Entry>> {
        locked(&self.inner.rules).get(id).filter(|entry| locked(&entry.state).created).cloned()
    }

    /// Replaces a rule, or creates it. The old one runs on where the new one is refused.
    ///
    /// # Errors
    /// [`ServiceError`]; nothing has changed then.
    pub async fn update_rule(&self, id: &str, text: &str) -> Result<(), ServiceError> {
        check_id(id)?;
        let text = &*self.restored_rule(id, text)?;
        let definition = Definition::read(text, Some(id), &self.config().rule)?;
        // One that is being created, or dropped, is waited for.
        let known = || locked(&self.inner.rules).get(id).cloned();
        let (entry, _life) = loop {
            let Some(entry) = known() else {
                match self.insert_rule(&definition, text).await {
                    Err(ServiceError::RuleExists(_)) => continue,
                    inserted => return inserted.inspect(|()| definition.warn()),
                }
            };
            let life = entry.life.clone().lock_owned().await;
            if !locked(&entry.state).gone {
                break (entry, life);
            }
        };
        let (old_version, old_text) = {
            let state = locked(&entry.state);
            (state.version.clone(), state.text.clone())
        };
        check_version("rule", id, &old_version, &definition.version)?;
        let planned = definition.plan(&self.catalog(), &self.config())?;
        let ran = entry.phase() == Phase::Running;
        self.halt(&entry, BY_UPDATE).await?;
        let mut done = Ok(());
        if definition.rule.triggered
            && let Err(NotStarted::Refused(error)) = self.begin(&entry, &definition.rule.options, planned).await
        {
            done = Err(error);
        }
        if done.is_ok() {
            done = match definition.rule.options.temporary {
                true => self.inner.store.write(vec![Change::remove(Kind::Rule, id)]).await,
                false => self.inner.store.write(vec![Change::put(Kind::Rule, id, text)]).await,
            }
            .map_err(ServiceError::from);
        }
        if done.is_ok() {
            locked(&entry.state).redefine(State::of(&definition, text));
            definition.warn();
            return Ok(());
        }
        self.halt(&entry, BY_HAND).await?;
        if ran {
            let old = Definition::read(&old_text, Some(id), &self.config().rule)?;
            // Whatever comes of it shows in the rule's status.
            let planned = old.plan(&self.catalog(), &self.config())?.unchecked();
            let _ = self.begin(&entry, &old.rule.options, planned).await;
        }
        done
    }

    /// Stops a rule and forgets it.
    ///
    /// # Errors
    /// [`ServiceError::NoRuleToDrop`]
    pub async fn delete_rule(&self, id: &str) -> Result<(), ServiceError> {
        check_id(id)?;
        let missing = || ServiceError::NoRuleToDrop(id.to_owned());
        let entry = self.entry(id).ok_or_else(missing)?;
        let _life = entry.life.lock().await;
        if locked(&entry.state).gone {
            return Err(missing());
        }
        // On disk first: a rule that is gone may run for a moment, but must not come back.
        let mut changes = Vec::new();
        if !locked(&entry.state).temporary {
            changes.push(Change::remove(Kind::Rule, id));
        }
        if self.has_state(id) {
            changes.push(Change::remove_state(id));
        }
        if !changes.is_empty() {
            self.inner.store.write(changes).await?;
        }
        self.state_is_gone(id);
        self.end(&entry, BY_HAND, false).await?;
        locked(&entry.state).gone = true;
        locked(&self.inner.rules).remove(id);
        Ok(())
    }

    /// Starts a rule, now and after each restart of the service. One that runs goes on.
    ///
    /// # Errors
    /// [`ServiceError`]: what is wrong with the rule.
    pub async fn start_rule(&self, id: &str) -> Result<(), ServiceError> {
        let entry = self.registered(id)?;
        let _life = entry.life.lock().await;
        self.still_there(&entry)?;
        if matches!(entry.phase(), Phase::Running | Phase::Scheduled) {
            return self.want(&entry, true).await;
        }
        self.start_anew(&entry).await?;
        self.want_or_halt(&entry).await
    }

    /// Stops a rule; it stays stopped after a restart of the service.
    ///
    /// # Errors
    /// [`ServiceError`]
    pub async fn stop_rule(&self, id: &str) -> Result<(), ServiceError> {
        let entry = self.registered(id)?;
        let _life = entry.life.lock().await;
        self.still_there(&entry)?;
        self.want(&entry, false).await?;
        self.halt(&entry, BY_HAND).await
    }

    /// Stops a rule and starts it again.
    ///
    /// # Errors
    /// [`ServiceError`]
    pub async fn restart_rule(&self, id: &str) -> Result<(), ServiceError> {
        let entry = self.registered(id)?;
        let _life = entry.life.lock().await;
        self.still_there(&entry)?;
        let ran = entry.phase() == Phase::Running;
        self.halt(&entry, BY_HAND).await?;
        if let Err(error) = self.start_anew(&entry).await {
            // It was not asked to stop: that it does not run is this error.
            if ran {
                let mut state = locked(&entry.state);
                (state.phase, state.message) = (Phase::Failed, error.to_string());
            }
            return Err(error);
        }
        self.want_or_halt(&entry).await
    }

    /// Forgets what a rule remembers. One that runs begins anew.
    ///
    /// # Errors
    /// [`ServiceError`]
    pub async fn reset_rule(&self, id: &str) -> Result<(), ServiceError> {
        let entry = self.registered(id)?;
        let _life = entry.life.lock().await;
        self.still_there(&entry)?;
        let runs = entry.phase() == Phase::Running;
        self.end(&entry, BY_HAND, false).await?;
        self.forget_state(id).await;
        if runs { self.start_anew(&entry).await } else { Ok(()) }
    }

    /// Takes the life of a rule, if it runs and is not just being changed.
    pub(super) fn try_life(&self, id: &str) -> Life {
        let Some(entry) = locked(&self.inner.rules).get(id).cloned() else { return Life::Over };
        match entry.life.clone().try_lock_owned() {
            Ok(life) if entry.phase() == Phase::Running => Life::Running(life),
            Ok(_) => Life::Over,
            Err(_) => Life::Changing,
        }
    }

    fn registered(&self, id: &str) -> Result<Arc<Entry>, ServiceError> {
        check_id(id)?;
        self.entry(id).ok_or_else(|| ServiceError::NoRuleInRegistry(id.to_owned()))
    }

    fn still_there(&self, entry: &Entry) -> Result<(), ServiceError> {
        match locked(&entry.state).gone {
            true => Err(ServiceError::NoRuleInRegistry(entry.id.clone())),
            false => Ok(()),
        }
    }

    /// Plans a rule against what there is now, and starts it.
    async fn start_anew(&self, entry: &Arc<Entry>) -> Result<(), ServiceError> {
        let definition = Definition::read(&entry.text(), Some(&entry.id), &self.config().rule)?;
        let planned = definition.plan(&self.catalog(), &self.config())?;
        match self.begin(entry, &definition.rule.options, planned).await {
            Ok(()) => Ok(()),
            Err(NotStarted::Refused(error)) => Err(error),
            Err(NotStarted::Failed(text)) => Err(ServiceError::Start(text)),
        }
    }

    /// Notes in a rule's definition whether it shall run.
    async fn want(&self, entry: &Arc<Entry>, triggered: bool) -> Result<(), ServiceError> {
        self.amend(entry, "triggered", Json::Bool(triggered)).await
    }

    /// Notes that a rule which has just been started shall run; where that cannot be kept, it does not.
    async fn want_or_halt(&self, entry: &Arc<Entry>) -> Result<(), ServiceError> {
        let wanted = self.want(entry, true).await;
        if wanted.is_err() {
            self.halt(entry, BY_HAND).await?;
        }
        wanted
    }

    /// Sets a member of a rule's definition, here and on disk.
    async fn amend(&self, entry: &Arc<Entry>, member: &str, value: Json) -> Result<(), ServiceError> {
        let text = entry.text();
        let wrong = |error: serde_json::Error| ServiceError::RuleJson(error.to_string());
        let mut json: serde_json::Map<String, Json> = serde_json::from_str(&text).map_err(wrong)?;
        let known = json.keys().find(|key| key.eq_ignore_ascii_case(member)).cloned();
        let before = json.insert(known.unwrap_or_else(|| member.to_owned()), value.clone());
        if before.as_ref() == Some(&value) {
            return Ok(());
        }
        let text = Json::Object(json).to_string();
        if !locked(&entry.state).temporary {
            self.inner.store.write(vec![Change::put(Kind::Rule, &entry.id, &text)]).await?;
        }
        locked(&entry.state).text = text.into();
        Ok(())
    }

    /// Notes whether a rule is traced.
    ///
    /// # Errors
    /// [`ServiceError::NoRuleToTrace`]
    pub fn trace_rule(&self, id: &str, on: bool) -> Result<(), ServiceError> {
        check_id(id)?;
        let entry = self.entry(id).ok_or_else(|| ServiceError::NoRuleToTrace(id.to_owned()))?;
        locked(&entry.state).trace = on;
        Ok(())
    }

    /// Changes the tags of a rule.
    ///
    /// # Errors
    /// [`ServiceError`]
    pub async fn tag_rule(
        &self,
        id: &str,
        change: impl FnOnce(Vec<String>) -> Vec<String>,
    ) -> Result<(), ServiceError> {
        self.rule_text(id)?;
        let entry = self.entry(id).ok_or_else(|| ServiceError::NoRule(id.to_owned()))?;
        let _life = entry.life.lock().await;
        self.still_there(&entry)?;
        let old = locked(&entry.state).tags.clone().unwrap_or_default();
        let mut tags: Vec<String> = Vec::new();
        for tag in change(old) {
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        self.amend(&entry, "tags", Json::from(tags.clone())).await?;
        locked(&entry.state).tags = Some(tags);
        Ok(())
    }

    /// Starts or stops all rules that have these tags.
    ///
    /// # Errors
    /// [`ServiceError::NoMatch`]
    pub async fn bulk(&self, tags: &[String], start: bool) -> Result<Vec<Bulk>, ServiceError> {
        let ids = self.tagged_rules(tags);
        if ids.is_empty() {
            return Err(ServiceError::NoMatch);
        }
        let mut all = Vec::with_capacity(ids.len());
        for id in ids {
            let outcome = if start { self.start_rule(&id).await } else { self.stop_rule(&id).await };
            all.push(Bulk { id, outcome });
        }
        Ok(all)
    }
}

/// Whether `checkConnection` forbids the rule.
fn is_check(error: &EngineError) -> bool {
    let EngineError::Connector { error, .. } = error else { return false };
    matches!(&**error, ConnectorError::Connect(ConnectError::Unreachable(_) | ConnectError::NoClient(_)))
}
