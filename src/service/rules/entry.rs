//! What is known of one rule.

use std::sync::{Arc, Mutex};

use tokio::sync::OwnedMutexGuard;

use super::super::definition::Definition;
use super::super::error::ServiceError;
use super::super::locked;
use super::super::status::{Baseline, Phase};
use super::super::topology::Topology;
use crate::engine::LastStatus;
use crate::metrics::Losses;

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
    /// its definition; `None` of a stored rule that cannot be read any more
    pub(super) definition: Option<Arc<Definition>>,
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
    pub(super) last: Option<Arc<LastStatus>>,
    pub(super) past: Past,
}

/// What earlier runs of a rule have lost.
#[derive(Default)]
pub(super) struct Past {
    settled: Losses,
    /// runs whose sinks may still be sending
    ending: Vec<Arc<LastStatus>>,
}

impl Past {
    /// Adds a run that has just ended.
    pub(super) fn add(&mut self, last: Arc<LastStatus>) {
        self.ending.push(last);
        self.settle();
    }

    /// What has been lost up to now.
    pub(super) fn losses(&mut self) -> Losses {
        self.settle();
        let mut losses = self.settled.clone();
        self.ending.iter().for_each(|last| losses.merge(&last.losses()));
        losses
    }

    /// Keeps no more than the counts of runs that are over.
    fn settle(&mut self) {
        let over = self.ending.extract_if(.., |last| last.is_final());
        over.for_each(|last| self.settled.merge(&last.losses()));
    }
}

impl State {
    pub(super) fn of(definition: &Arc<Definition>, text: &str) -> State {
        State { definition: Some(definition.clone()), ..State::unread(text) }
    }

    /// Of a rule of which only the text is known.
    pub(super) fn unread(text: &str) -> State {
        State {
            text: text.into(),
            definition: None,
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
            past: Past::default(),
        }
    }

    /// Takes over a changed definition; what the rule has lived through stays.
    pub(super) fn redefine(&mut self, definition: &Arc<Definition>, text: &str) {
        (self.definition, self.text) = (Some(definition.clone()), text.into());
    }

    pub(super) fn version(&self) -> &str {
        self.definition.as_ref().map_or("", |definition| &definition.version)
    }

    pub(super) fn tags(&self) -> Option<Vec<String>> {
        self.definition.as_ref()?.tags.clone()
    }

    /// Whether it is not stored, and has no definition to show.
    pub(super) fn temporary(&self) -> bool {
        self.definition.as_ref().is_some_and(|definition| definition.rule.options.temporary)
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
    /// It was refused, by `checkConnection` for example: nothing has changed.
    Refused(ServiceError),
    /// It could not start, and can be tried again.
    Failed(String),
}
