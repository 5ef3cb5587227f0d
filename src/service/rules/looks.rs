//! Details of one rule: its operators, why it is silent, its rows, its clients.

use std::time::Duration;

use super::super::diagnosis::{self, Diagnosis, Facts};
use super::super::error::ServiceError;
use super::super::operators::{self, OperatorReport};
use super::super::status::RuleReport;
use super::super::{Service, check_id, locked};
use crate::engine::{NotTapped, StateSize};
use crate::io::websocket::{ClientStatus, TurnedAway};
use crate::metrics::{MessageReader, SeenFields, TapReader, TapSettings};
use crate::sql::ast::Relation;
use crate::value::Text;

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
        let (seen, turned_away) = match self.inner.engine.read().await.as_ref() {
            Some(engine) => (engine.seen(id), engine.turned_away()),
            None => (Vec::new(), Vec::new()),
        };
        let (select, options) = (&*definition.select, &definition.rule.options);
        found.extend(Facts { select, options, status, seen: &seen, turned_away: &turned_away }.of_rule());
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
        self.needs_one_process("a look at rows")?;
        self.entry(id).ok_or_else(|| ServiceError::NoRuleStatus(id.to_owned()))?;
        let tapped = match self.inner.engine.read().await.as_ref() {
            Some(engine) => engine.tap(id, settings),
            None => Err(NotTapped::NotRunning),
        };
        tapped.map_err(|why| ServiceError::NotTapped { id: id.to_owned(), why })
    }

    /// The clients of a rule's sinks, each with the sink's number.
    pub async fn clients_of(&self, id: &str) -> Vec<(usize, ClientStatus)> {
        self.inner.engine.read().await.as_ref().map(|engine| engine.clients(id)).unwrap_or_default()
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

    /// The fields in the last messages of a stream; `None` while no rule reads it.
    pub async fn seen_of_stream(&self, name: &str) -> Option<SeenFields> {
        self.inner.engine.read().await.as_ref()?.seen_of_stream(name)
    }

    /// The fields in the last messages of a rule's streams.
    pub async fn seen_by(&self, id: &str) -> Vec<(Text, SeenFields)> {
        self.inner.engine.read().await.as_ref().map(|engine| engine.seen(id)).unwrap_or_default()
    }

    /// The last clients that the data server refused, with the paths that they requested.
    pub async fn turned_away(&self) -> Vec<TurnedAway> {
        self.inner.engine.read().await.as_ref().map(|engine| engine.turned_away()).unwrap_or_default()
    }
}
