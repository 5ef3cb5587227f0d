//! Details of one rule: its operators, why it is silent, its rows, its clients.

use std::time::Duration;

use super::super::diagnosis::{self, Diagnosis, Facts};
use super::super::error::ServiceError;
use super::super::operators::{self, OperatorReport};
use super::super::processes::SinkClient;
use super::super::status::RuleReport;
use super::super::{Service, check_id, locked};
use crate::engine::{NotTapped, StateSize};
use crate::metrics::{MessageReader, TapReader, TapSettings};
use crate::sql::ast::Relation;

/// How long the data threads may take to measure a rule's state.
const MEASURING: Duration = Duration::from_millis(300);

impl Service {
    /// Why a rule is silent, as far as can be known; empty if results come out.
    pub async fn diagnosis(&self, id: &str, report: &RuleReport) -> Vec<Diagnosis> {
        let definition = self.entry(id).and_then(|entry| self.definition(&entry).ok());
        let Some(definition) = definition else { return Vec::new() };
        if let Some(found) = diagnosis::not_running(report) {
            return vec![found];
        }
        let mut found = diagnosis::dropped(&self.dropped_of(definition.reads.iter()));
        let Some(status) = &report.engine else { return found };
        let (mut seen, mut turned_away) = match self.inner.engine.read().await.as_ref() {
            Some(engine) => (engine.seen(id), engine.turned_away()),
            None => (Vec::new(), Vec::new()),
        };
        for (_, look) in &report.looks {
            look.add_seen(&mut seen);
            turned_away.extend(look.turned_away());
        }
        let (select, options) = (&*definition.select, &definition.rule.options);
        found.extend(Facts { select, options, status, seen: &seen, turned_away: &turned_away }.of_rule());
        // A table with a few bad rows is no cause while results come out.
        if status.rows_out == 0
            && let Some(engine) = self.inner.engine.read().await.as_ref()
        {
            let tables = engine.tables();
            let joined = tables.iter().filter(|table| definition.reads.iter().any(|read| *read == table.name));
            found.extend(joined.filter_map(diagnosis::unread_table));
        }
        found
    }

    /// The operators of a rule with their counts; empty if it has never run.
    pub fn operators(&self, id: &str, report: &RuleReport) -> Vec<OperatorReport> {
        let nodes = self.entry(id).and_then(|entry| locked(&entry.state).nodes.clone());
        nodes.map(|nodes| operators::operators(&nodes, report)).unwrap_or_default()
    }

    /// The size of a rule's state; `None` if it has none, or if it cannot be measured now.
    pub async fn state_of(&self, id: &str) -> Option<StateSize> {
        let measured = self.measure(MEASURING).await;
        measured.rules.get(id).copied()
    }

    /// Taps the rows of a running rule.
    ///
    /// # Errors
    /// [`ServiceError::NoRuleStatus`], [`ServiceError::NotTapped`]
    pub async fn tap_rule(&self, id: &str, settings: &TapSettings) -> Result<TapReader, ServiceError> {
        check_id(id)?;
        self.entry(id).ok_or_else(|| ServiceError::NoRuleStatus(id.to_owned()))?;
        let tapped = match self.inner.engine.read().await.as_ref() {
            Some(engine) => engine.tap(id, settings),
            None => Err(NotTapped::NotRunning),
        };
        let tapped = tapped.map_err(|why| ServiceError::NotTapped { id: id.to_owned(), why })?;
        Ok(self.tap_everywhere(id, settings, tapped).await)
    }

    /// The clients of a rule's sinks. Those of other processes come from its report.
    pub async fn clients_of(&self, id: &str, report: &RuleReport) -> Vec<SinkClient> {
        let own = self.inner.engine.read().await.as_ref().map(|engine| engine.clients(id)).unwrap_or_default();
        let process = self.process();
        let own = own.into_iter().map(|(sink, status)| SinkClient { sink, process, status });
        own.chain(report.looks.iter().flat_map(|(process, look)| look.clients(*process))).collect()
    }

    /// Starts recording a stream.
    ///
    /// # Errors
    /// [`ServiceError::NoRelation`], [`ServiceError::NotRecorded`], [`ServiceError::Alone`]
    pub async fn record_stream(&self, name: &str) -> Result<MessageReader, ServiceError> {
        self.needs_one_process("a recording")?;
        self.relation(Relation::Stream, name)?;
        let recorded = match self.inner.engine.read().await.as_ref() {
            Some(engine) => engine.record_stream(name),
            None => return Err(ServiceError::Stopping),
        };
        recorded.map_err(|why| ServiceError::NotRecorded { name: name.to_owned(), why })
    }
}
