//! What is known of one rule.

use std::sync::{Arc, Mutex};

use tokio::sync::OwnedMutexGuard;

use super::super::definition::Definition;
use super::super::error::ServiceError;
use super::super::locked;
use super::super::status::{Baseline, Phase};
use super::super::topology::Topology;
use crate::definition::connection::selector;
use crate::engine::RuleStatus;
use crate::value::Text;

/// One rule.
pub(in crate::service) struct Entry {
    pub(super) id: String,
    /// held while it changes
    pub(super) life: Arc<tokio::sync::Mutex<()>>,
    pub(super) state: Mutex<State>,
}

/// What is known of a rule.
pub(super) struct State {
    /// its definition as the API shows it
    pub(super) text: Arc<str>,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) tags: Option<Vec<String>>,
    /// the streams and tables that it reads
    pub(super) reads: Box<[Text]>,
    /// the named connections of its sinks
    pub(super) selects: Box<[String]>,
    /// it is not stored, and has no definition to show
    pub(super) temporary: bool,
    /// its creation is done
    pub(super) created: bool,
    /// it was dropped while others waited for it
    pub(super) gone: bool,
    pub(super) trace: bool,
    pub(super) phase: Phase,
    pub(super) message: String,
    pub(super) last_start: i64,
    pub(super) last_stop: i64,
    pub(super) next_start: i64,
    /// when it was asked to run, for a lone duration
    pub(super) begun: i64,
    /// how often it was tried again after a failure
    pub(super) tries: u64,
    /// its parts, once it has run
    pub(super) nodes: Option<Arc<Topology>>,
    pub(super) base: Baseline,
    /// how it stood when it stopped
    pub(super) last: Option<Box<RuleStatus>>,
}

impl State {
    pub(super) fn of(definition: &Definition, text: &str) -> State {
        let rule = &definition.rule;
        State {
            version: definition.version.clone(),
            tags: definition.tags.clone(),
            reads: definition.reads.clone().into(),
            selects: rule.actions.iter().filter_map(|action| Some(selector(&action.props)?.to_owned())).collect(),
            temporary: rule.options.temporary,
            ..State::blank(if rule.name.is_empty() { &rule.id } else { &rule.name }, text)
        }
    }

    /// Of a rule of which only the text is known.
    pub(super) fn blank(name: &str, text: &str) -> State {
        State {
            text: text.into(),
            name: name.to_owned(),
            version: String::new(),
            tags: None,
            reads: Box::default(),
            selects: Box::default(),
            temporary: false,
            created: false,
            gone: false,
            trace: false,
            phase: Phase::Stopped,
            message: String::new(),
            last_start: 0,
            last_stop: 0,
            next_start: 0,
            begun: 0,
            tries: 0,
            nodes: None,
            base: Baseline::default(),
            last: None,
        }
    }

    /// Takes over a changed definition; what the rule has lived through stays.
    pub(super) fn redefine(&mut self, new: State) {
        let State { text, name, version, tags, reads, selects, temporary, .. } = new;
        (self.text, self.name, self.version, self.tags) = (text, name, version, tags);
        (self.reads, self.selects, self.temporary) = (reads, selects, temporary);
    }
}

impl Entry {
    pub(super) fn new(id: &str, state: State) -> Arc<Entry> {
        Arc::new(Entry { id: id.to_owned(), life: Arc::default(), state: Mutex::new(state) })
    }

    pub(super) fn phase(&self) -> Phase {
        locked(&self.state).phase
    }

    pub(in crate::service) fn text(&self) -> Arc<str> {
        locked(&self.state).text.clone()
    }
}

/// How a rule is found by who will not wait for it.
pub(in crate::service) enum Life {
    /// it runs, and does not change while this is held
    Running(OwnedMutexGuard<()>),
    /// somebody else changes it
    Changing,
    /// it does not run
    Over,
}

/// Why a rule did not start.
pub(super) enum NotStarted {
    /// it is not to be: `checkConnection`
    Refused(ServiceError),
    /// it could be, and can be tried again
    Failed(String),
}
