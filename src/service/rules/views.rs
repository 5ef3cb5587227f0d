//! Queries about rules: lists, texts, statuses, plans. They change nothing and do not wait for rules that are being
//! changed.

use std::sync::Arc;
use std::time::SystemTime;

use super::super::definition::Definition;
use super::super::diagnosis;
use super::super::error::ServiceError;
use super::super::status::{self, Phase, RuleReport};
use super::super::topology::Topology;
use super::super::{Service, check_id, locked, millis};
use super::{Entry, RuleSummary};
use crate::pipeline::diagnose;
use crate::text::document::Problem;
use crate::value::Text;

impl Service {
    /// All rules, in the order of their ids.
    pub fn rules(&self) -> Vec<RuleSummary> {
        let rules = locked(&self.inner.rules);
        let summary = |entry: &Arc<Entry>| {
            let state = locked(&entry.state);
            state.created.then(|| RuleSummary {
                id: entry.id.clone(),
                name: state.name().unwrap_or(&entry.id).to_owned(),
                phase: state.phase,
                version: state.version().to_owned(),
                trace: state.trace,
                tags: state.tags(),
            })
        };
        rules.values().filter_map(summary).collect()
    }

    /// The definitions of all rules that have one, by id.
    pub fn rule_texts(&self) -> Vec<(String, Arc<str>)> {
        let rules = locked(&self.inner.rules);
        let text = |entry: &Arc<Entry>| {
            let state = locked(&entry.state);
            (state.created && !state.temporary()).then(|| (entry.id.clone(), state.text.clone()))
        };
        rules.values().filter_map(text).collect()
    }

    /// The definition of a rule.
    ///
    /// # Errors
    /// [`ServiceError::NoRule`], also for a temporary rule.
    pub fn rule_text(&self, id: &str) -> Result<Arc<str>, ServiceError> {
        check_id(id)?;
        let missing = || ServiceError::NoRule(id.to_owned());
        let entry = self.entry(id).ok_or_else(missing)?;
        let state = locked(&entry.state);
        if state.temporary() { Err(missing()) } else { Ok(state.text.clone()) }
    }

    /// The parsed definition of a rule.
    ///
    /// # Errors
    /// [`ServiceError::NoRule`], or the error of a stored rule that cannot be parsed.
    pub(in crate::service) fn rule_definition(&self, id: &str) -> Result<Definition, ServiceError> {
        self.rule_text(id)?;
        let entry = self.entry(id).ok_or_else(|| ServiceError::NoRule(id.to_owned()))?;
        self.definition(&entry)
    }

    /// What these rules read: streams, tables and views.
    pub(in crate::service) fn read_by(&self, ids: &[String]) -> Vec<Text> {
        let entries = ids.iter().filter_map(|id| self.entry(id));
        entries.flat_map(|entry| locked(&entry.state).reads().to_vec()).collect()
    }

    /// What each rule reads.
    pub(in crate::service) fn reads_of_rules(&self) -> Vec<Vec<Text>> {
        let rules = locked(&self.inner.rules);
        rules.values().filter_map(|entry| Some(locked(&entry.state).outline.as_ref()?.reads.to_vec())).collect()
    }

    /// The rules that read a stream or table, or will when they start. Rules that were stopped by hand do not count.
    pub(in crate::service) fn readers(&self, name: &str) -> Vec<String> {
        self.rules_with(|reads, _| reads.iter().any(|read| read == name))
    }

    /// The rules whose streams or connections match. Rules that were stopped by hand do not count.
    pub(in crate::service) fn rules_with(&self, uses: impl Fn(&[Text], &[String]) -> bool) -> Vec<String> {
        let rules = locked(&self.inner.rules);
        let such = |entry: &&Arc<Entry>| {
            let state = locked(&entry.state);
            let by_hand = state.phase == Phase::Stopped && state.last_start > 0;
            !by_hand && state.outline.as_ref().is_some_and(|outline| uses(&outline.reads, &outline.selects))
        };
        rules.values().filter(such).map(|entry| entry.id.clone()).collect()
    }

    /// The status of a rule.
    ///
    /// # Errors
    /// [`ServiceError::NoRuleStatus`]
    pub async fn rule_status(&self, id: &str) -> Result<RuleReport, ServiceError> {
        check_id(id)?;
        let entry = self.entry(id).ok_or_else(|| ServiceError::NoRuleStatus(id.to_owned()))?;
        let now = match self.inner.engine.read().await.as_ref() {
            Some(engine) => engine.rule_status(id).await,
            None => None,
        };
        let mut state = locked(&entry.state);
        let runs = matches!(state.phase, Phase::Running | Phase::Stopping);
        let now = now.filter(|_| runs);
        let mut losses = state.past.losses();
        now.iter().for_each(|status| losses.merge(&status.losses()));
        let status = now.or_else(|| Some(state.last.as_ref()?.now()));
        let parts = match (&state.nodes, &status) {
            (Some(nodes), Some(status)) => status::counters(nodes, status, &state.base, &losses, !runs),
            _ => Vec::new(),
        };
        let dropped = if runs { self.dropped_of(state.reads().iter()) } else { Vec::new() };
        let message = match dropped.first() {
            Some(name) if state.message.is_empty() => diagnosis::was_dropped(name),
            _ => state.message.clone(),
        };
        let mut report = RuleReport {
            phase: state.phase,
            message,
            last_start: state.last_start,
            last_stop: state.last_stop,
            next_start: state.next_start,
            watermark_lag: status
                .as_ref()
                .filter(|_| runs)
                .and_then(|status| status.watermark.filter(|watermark| *watermark > i64::MIN))
                .map(|watermark| millis(SystemTime::now()).saturating_sub(watermark)),
            engine: status,
            losses,
            exceptions: 0,
            last_exception: String::new(),
            parts,
            shares: Vec::new(),
            looks: Vec::new(),
        };
        report.sum_up();
        Ok(report)
    }

    /// The operators of a rule that has run at least once.
    ///
    /// # Errors
    /// [`ServiceError::NoRuleStatus`], [`ServiceError::NoTopology`]
    pub fn rule_nodes(&self, id: &str) -> Result<Arc<Topology>, ServiceError> {
        check_id(id)?;
        let entry = self.entry(id).ok_or_else(|| ServiceError::NoRuleStatus(id.to_owned()))?;
        let state = locked(&entry.state);
        state.nodes.clone().ok_or_else(|| ServiceError::NoTopology(id.to_owned()))
    }

    /// The plan of a rule, one line for each operator.
    ///
    /// # Errors
    /// [`ServiceError`]
    pub fn explain_rule(&self, id: &str) -> Result<String, ServiceError> {
        let definition = self.rule_definition(id)?;
        let planned = definition.plan(&self.catalog(), &self.bindings())?;
        Ok(planned.nodes.explain(&definition.select))
    }

    /// The complete plan of a rule, as `plutino explain` shows it.
    ///
    /// # Errors
    /// [`ServiceError`]
    pub fn explain_rule_in_full(&self, id: &str) -> Result<String, ServiceError> {
        self.rule_definition(id)?.explain(&self.catalog())
    }

    /// Checks a rule, without its sinks and without creating it. Returns the streams that it reads.
    ///
    /// # Errors
    /// [`ServiceError`] with what is wrong.
    pub fn validate_rule(&self, text: &str) -> Result<Vec<String>, ServiceError> {
        let mut definition = Definition::read(text, None, &self.config().rule)?;
        definition.rule.actions.clear();
        definition.plan(&self.catalog(), &self.bindings())?;
        Ok(definition.reads.iter().map(ToString::to_string).collect())
    }

    /// All problems of a refused rule, as for rule files; the problems of its sinks only if `sinks` is set.
    pub fn problems_of_rule(&self, text: &str, id: Option<&str>, sinks: bool) -> Vec<Problem> {
        diagnose::of_rule(text, id, sinks, &self.catalog(), &self.config())
    }

    /// Warnings about an accepted rule.
    pub fn warnings_of_rule(&self, text: &str, id: Option<&str>) -> Vec<Problem> {
        diagnose::warnings_of_rule(text, id, &self.catalog(), &self.config())
    }

    /// The ids of the rules that have all these tags.
    pub fn tagged_rules(&self, tags: &[String]) -> Vec<String> {
        let has_all = |rule: &RuleSummary| {
            let own = rule.tags.as_deref().unwrap_or_default();
            tags.iter().all(|tag| own.contains(tag))
        };
        self.rules().into_iter().filter(has_all).map(|rule| rule.id).collect()
    }
}
