//! Creates, changes, starts, stops and deletes rules.
//!
//! Each rule has two locks. One serialises its changes: it is held from the first check of an operation until the
//! change is on disk, so that concurrent calls on one rule run one after the other. The other guards its data and is
//! held only for single steps, so that a query never waits. `life` has the transitions. Between two starts only an outline
//! of the definition is kept (`outline`); every start reads the rule's text and plans it again, against the current
//! streams and settings (`resuming`: the start of all stored rules).

mod entry;
mod life;
mod looks;
mod outline;
mod part;
mod resuming;
#[cfg(test)]
mod tests;
mod views;

use std::sync::Arc;

use serde_json::Value as Json;

pub(super) use self::entry::{Entry, Life};
use self::entry::{NotStarted, State};
pub(super) use self::life::text_of;
pub(super) use self::part::ReadyRules;
use super::definition::Definition;
use super::error::ServiceError;
use super::relations::check_version;
use super::status::Phase;
use super::store::{Change, RecordKind};
use super::{Service, check_id, locked};
use crate::definition::name::LongName;
use crate::definition::stream::Catalog;

/// The status message of a rule that was stopped by hand.
const BY_HAND: &str = "canceled manually";

/// The status message of a rule that a new definition stopped.
const BY_UPDATE: &str = "stopped by update";

/// A rule in the list of all rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSummary {
    pub id: String,
    /// The display name; the id if it has none.
    pub name: String,
    pub phase: Phase,
    /// Empty if not given.
    pub version: String,
    pub trace: bool,
    pub tags: Option<Vec<String>>,
}

/// The result for one rule of several.
#[derive(Debug)]
pub struct Bulk {
    pub id: String,
    pub outcome: Result<(), ServiceError>,
}

impl Service {
    /// Creates a rule from its JSON text, and starts it unless `triggered` is false; returns its id.
    ///
    /// # Errors
    /// [`ServiceError`]; then nothing has changed.
    pub async fn create_rule(&self, text: &str) -> Result<String, ServiceError> {
        // A new rule has no secrets to restore.
        self.restored_rule("", text)?;
        let definition = Definition::read(text, None, &self.config().rule)?;
        self.insert_rule(&definition, text).await?;
        definition.warn();
        Ok(definition.rule.id.clone())
    }

    async fn insert_rule(&self, definition: &Definition, text: &str) -> Result<(), ServiceError> {
        let id = definition.rule.id.as_str();
        LongName::check(id)?;
        let entry = Entry::new(id, State::of(definition, text));
        // The rule is registered first, so that its streams cannot be dropped in between.
        let _life = entry.life.lock().await;
        {
            let mut rules = locked(&self.inner.rules);
            if rules.contains_key(id) {
                return Err(ServiceError::RuleExists(id.to_owned()));
            }
            rules.insert(id.to_owned(), entry.clone());
        }
        let created = self.put_in_place(&entry, definition, text).await;
        if created.is_err() {
            locked(&entry.state).gone = true;
            locked(&self.inner.rules).remove(id);
        } else {
            locked(&entry.state).created = true;
        }
        created
    }

    /// Stores a definition and starts it, unless `triggered` is false, in place of the running rule with its id.
    async fn put_in_place(&self, entry: &Arc<Entry>, definition: &Definition, text: &str) -> Result<(), ServiceError> {
        let planned = self.plan(definition, text)?;
        let known = !locked(&entry.state).created;
        let record = match definition.rule.options.temporary {
            true if known => None,
            true => Some(Change::remove(RecordKind::Rule, &entry.id)),
            false => Some(Change::put(RecordKind::Rule, &entry.id, text)),
        };
        if definition.rule.triggered {
            match self.begin(entry, definition, planned, record, true).await {
                // A rule that could not start exists nevertheless; its status shows the reason.
                Ok(()) | Err(NotStarted::Failed(_)) => Ok(()),
                Err(NotStarted::Refused(error)) => Err(error),
            }
        } else {
            self.keep_record(record).await?;
            self.halt(entry, BY_UPDATE, true).await
        }
    }

    /// Replaces a rule, or creates it. A running version is replaced between two messages: no endpoint that both use
    /// closes, and no client is disconnected.
    ///
    /// # Errors
    /// [`ServiceError`]; then nothing has changed.
    pub async fn update_rule(&self, id: &str, text: &str) -> Result<(), ServiceError> {
        check_id(id)?;
        let text = &*self.restored_rule(id, text)?;
        let definition = Definition::read(text, Some(id), &self.config().rule)?;
        // Waits until a creation or deletion in progress is complete.
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
        check_version("rule", id, locked(&entry.state).version(), &definition.version)?;
        self.put_in_place(&entry, &definition, text).await?;
        locked(&entry.state).redefine(&definition, text);
        definition.warn();
        Ok(())
    }

    /// Stops and deletes a rule.
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
        // On disk first: a deleted rule may run a moment longer, but must not come back.
        let mut changes = Vec::new();
        if !locked(&entry.state).temporary() {
            changes.push(Change::remove(RecordKind::Rule, id).urgent());
        }
        if self.has_state(id) {
            changes.push(Change::remove_state(id).urgent());
        }
        if !changes.is_empty() {
            self.inner.store.write(changes).await?;
        }
        self.state_is_gone(id);
        self.halt(&entry, BY_HAND, false).await?;
        if let Some(engine) = self.inner.engine.read().await.as_ref() {
            engine.forget_rule(id);
        }
        self.forget_elsewhere(id).await;
        locked(&entry.state).gone = true;
        locked(&self.inner.rules).remove(id);
        Ok(())
    }

    /// Starts a rule, also after each restart of the service. A running rule continues.
    ///
    /// # Errors
    /// [`ServiceError`] with what is wrong with the rule.
    pub async fn start_rule(&self, id: &str) -> Result<(), ServiceError> {
        let entry = self.registered(id)?;
        let _life = entry.life.lock().await;
        self.still_there(&entry)?;
        if matches!(entry.phase(), Phase::Running | Phase::Scheduled) {
            return self.want(&entry, true).await;
        }
        self.start_anew(&entry, true).await?;
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
        self.halt(&entry, BY_HAND, true).await
    }

    /// Restarts a rule, planned against the current streams and settings. A running version is replaced between two
    /// messages; if a peer refuses the new version, the old one continues. If the rule cannot be planned any more, it
    /// has failed.
    ///
    /// # Errors
    /// [`ServiceError`]
    pub async fn restart_rule(&self, id: &str) -> Result<(), ServiceError> {
        let entry = self.registered(id)?;
        let _life = entry.life.lock().await;
        self.still_there(&entry)?;
        let planned = self.definition(&entry).and_then(|definition| definition.plan(&self.catalog(), &self.bindings()));
        if let Err(error) = planned {
            if entry.phase() == Phase::Running {
                self.halt(&entry, "", true).await?;
                life::fail(&entry, error.to_string());
            }
            return Err(error);
        }
        self.start_anew(&entry, true).await?;
        self.want_or_halt(&entry).await
    }

    /// Clears the state of a rule. A running rule restarts with empty state; one that waits for its schedule or its
    /// next retry keeps waiting.
    ///
    /// # Errors
    /// [`ServiceError`]
    pub async fn reset_rule(&self, id: &str) -> Result<(), ServiceError> {
        let entry = self.registered(id)?;
        let _life = entry.life.lock().await;
        self.still_there(&entry)?;
        self.forget_state(id).await;
        if entry.phase() == Phase::Running { self.start_anew(&entry, false).await } else { Ok(()) }
    }

    /// Restarts the running rules that read a stream or table, with its new definition. If a rule cannot restart, it
    /// continues with the old definition, which is logged.
    pub(super) async fn take_up(&self, name: &str) {
        for (id, error) in self.start_readers(name, Phase::Running).await {
            tracing::warn!(rule = id, stream = name, "the rule continues with the old definition: {error}");
        }
    }

    /// Starts the failed rules that read a view, because the view exists again.
    pub(super) async fn revive_readers(&self, name: &str) {
        for (id, error) in self.start_readers(name, Phase::Failed).await {
            tracing::info!(rule = id, view = name, "the rule cannot start again: {error}");
        }
    }

    /// Restarts those rules in this phase that read a stream, table or view. Returns those that cannot restart.
    async fn start_readers(&self, name: &str, phase: Phase) -> Vec<(String, ServiceError)> {
        let mut failed = Vec::new();
        for id in self.readers(name) {
            let Some(entry) = self.entry(&id) else { continue };
            let _life = entry.life.lock().await;
            if entry.phase() != phase || locked(&entry.state).gone {
                continue;
            }
            if let Err(error) = self.start_anew(&entry, true).await {
                failed.push((id, error));
            }
        }
        failed
    }

    /// Checks that a rule can be planned against a catalog.
    ///
    /// # Errors
    /// What is wrong with the rule then.
    pub(super) fn check_rule(&self, id: &str, catalog: &Catalog) -> Result<(), ServiceError> {
        let Some(entry) = self.entry(id) else { return Ok(()) };
        self.definition(&entry)?.plan(catalog, &self.bindings()).map(|_| ())
    }

    /// Tries to take the lock of a running rule.
    pub(super) fn try_life(&self, id: &str) -> Life {
        let Some(entry) = locked(&self.inner.rules).get(id).cloned() else { return Life::Over };
        match entry.life.clone().try_lock_owned() {
            Ok(life) if entry.phase() == Phase::Running => Life::Running(life),
            Ok(_) => Life::Over,
            Err(_) => Life::Changing,
        }
    }

    fn entry(&self, id: &str) -> Option<Arc<Entry>> {
        locked(&self.inner.rules).get(id).filter(|entry| locked(&entry.state).created).cloned()
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

    /// Reads the definition of a rule from its text.
    ///
    /// # Errors
    /// The error of a stored rule that cannot be parsed.
    fn definition(&self, entry: &Entry) -> Result<Definition, ServiceError> {
        Definition::read(&entry.text(), Some(&entry.id), &self.config().rule)
    }

    /// Plans a rule against the current catalog and starts it in place of the running version.
    async fn start_anew(&self, entry: &Arc<Entry>, carry: bool) -> Result<(), ServiceError> {
        let definition = self.definition(entry)?;
        let planned = self.plan(&definition, &entry.text())?;
        match self.begin(entry, &definition, planned, None, carry).await {
            Ok(()) => Ok(()),
            Err(NotStarted::Refused(error)) => Err(error),
            Err(NotStarted::Failed(text)) => Err(ServiceError::Start(text)),
        }
    }

    /// Stores in a rule's definition whether it should run.
    async fn want(&self, entry: &Arc<Entry>, triggered: bool) -> Result<(), ServiceError> {
        self.amend(entry, "triggered", Json::Bool(triggered)).await
    }

    /// Stores that a rule that was just started should run; if that fails, stops the rule.
    async fn want_or_halt(&self, entry: &Arc<Entry>) -> Result<(), ServiceError> {
        let wanted = self.want(entry, true).await;
        if wanted.is_err() {
            self.halt(entry, BY_HAND, true).await?;
        }
        wanted
    }

    /// Sets a member of a rule's text, in memory and on disk.
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
        if !locked(&entry.state).temporary() {
            let change = Change::put(RecordKind::Rule, &entry.id, &text);
            // A rule can be stopped even if the disk is full.
            let stops = member == "triggered" && value == Json::Bool(false);
            self.inner.store.write(vec![if stops { change.urgent() } else { change }]).await?;
        }
        locked(&entry.state).text = text.into();
        Ok(())
    }

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
        let old = locked(&entry.state).tags().unwrap_or_default();
        let mut tags: Vec<String> = Vec::new();
        for tag in change(old) {
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        self.amend(&entry, "tags", Json::from(tags.clone())).await?;
        let mut state = locked(&entry.state);
        if let Some(outline) = &mut state.outline {
            Arc::make_mut(outline).tags = Some(tags.into());
        }
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
