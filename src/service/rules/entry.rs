//! One rule: its definition, its lock, and its history.

use std::sync::{Arc, Mutex};

use tokio::sync::OwnedMutexGuard;

use super::super::definition::Definition;
use super::super::error::ServiceError;
use super::super::locked;
use super::super::status::{Baseline, Phase};
use super::super::topology::Topology;
use super::outline::Outline;
use crate::engine::LastStatus;
use crate::metrics::Losses;
use crate::value::Text;

pub(in crate::service) struct Entry {
    pub(super) id: String,
    /// Held while it changes.
    pub(super) life: Arc<tokio::sync::Mutex<()>>,
    pub(super) state: Mutex<State>,
}

/// The data of a rule.
pub(super) struct State {
    /// The text as the API shows it.
    pub(super) text: Arc<str>,
    /// What queries need of its definition; `None` for a stored rule that cannot be parsed any more.
    pub(super) outline: Option<Arc<Outline>>,
    /// Whether its creation is complete.
    pub(super) created: bool,
    /// It was deleted while another call waited for its lock.
    pub(super) gone: bool,
    pub(super) trace: bool,
    pub(super) phase: Phase,
    pub(super) message: String,
    pub(super) last_start: i64,
    pub(super) last_stop: i64,
    pub(super) next_start: i64,
    /// The time of its start, for a `duration` without `cron`: ms of the monotonic clock.
    pub(super) begun: i64,
    /// The number of retries so far after a failure.
    pub(super) tries: u64,
    /// The names of its operators, if it has ever run. Rules of the same shape share them.
    pub(super) nodes: Option<Arc<Topology>>,
    pub(super) base: Baseline,
    /// Its status when it last stopped.
    pub(super) last: Option<Arc<LastStatus>>,
    pub(super) past: Past,
}

/// The losses of a rule's earlier runs.
#[derive(Default)]
pub(super) struct Past {
    settled: Losses,
    /// Runs whose sinks may still be sending.
    ending: Vec<Arc<LastStatus>>,
}

impl Past {
    pub(super) fn add(&mut self, last: Arc<LastStatus>) {
        self.ending.push(last);
        self.settle();
    }

    pub(super) fn losses(&mut self) -> Losses {
        self.settle();
        let mut losses = self.settled.clone();
        self.ending.iter().for_each(|last| losses.merge(&last.losses()));
        losses
    }

    /// Reduces runs whose counts are final to their counts.
    fn settle(&mut self) {
        let over = self.ending.extract_if(.., |last| last.is_final());
        over.for_each(|last| self.settled.merge(&last.losses()));
    }
}

impl State {
    pub(super) fn of(definition: &Definition, text: &str) -> State {
        State { outline: Some(Arc::new(Outline::of(definition))), ..State::unread(text) }
    }

    /// A rule whose text was not parsed.
    pub(super) fn unread(text: &str) -> State {
        State {
            text: text.into(),
            outline: None,
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

    /// Replaces the definition; the rule's history stays.
    pub(super) fn redefine(&mut self, definition: &Definition, text: &str) {
        (self.outline, self.text) = (Some(Arc::new(Outline::of(definition))), text.into());
    }

    /// The display name, if it has one.
    pub(super) fn name(&self) -> Option<&str> {
        self.outline.as_ref()?.name.as_deref()
    }

    pub(super) fn version(&self) -> &str {
        self.outline.as_ref().map_or("", |outline| &outline.version)
    }

    pub(super) fn tags(&self) -> Option<Vec<String>> {
        self.outline.as_ref()?.tags.as_deref().map(<[String]>::to_vec)
    }

    /// Whether it is temporary: it is not stored, and its definition is not shown.
    pub(super) fn temporary(&self) -> bool {
        self.outline.as_ref().is_some_and(|outline| outline.temporary)
    }

    /// What it reads: streams, tables and views.
    pub(super) fn reads(&self) -> &[Text] {
        self.outline.as_ref().map_or(&[], |outline| &outline.reads)
    }
}

impl Entry {
    pub(super) fn new(id: &str, state: State) -> Arc<Entry> {
        Arc::new(Entry { id: id.to_owned(), life: Arc::default(), state: Mutex::new(state) })
    }

    /// A rule that was started elsewhere, at a time in ms since the epoch.
    pub(in crate::service) fn running(
        id: &str,
        definition: &Definition,
        text: &str,
        nodes: Topology,
        base: Baseline,
        started: i64,
    ) -> Arc<Entry> {
        let nodes = Some(Arc::new(nodes));
        let state = State::of(definition, text);
        let state = State { phase: Phase::Running, created: true, nodes, base, last_start: started, ..state };
        Entry::new(id, state)
    }

    pub(super) fn phase(&self) -> Phase {
        locked(&self.state).phase
    }

    pub(in crate::service) fn text(&self) -> Arc<str> {
        locked(&self.state).text.clone()
    }
}

/// The result of trying to lock a running rule.
pub(in crate::service) enum Life {
    /// It runs, and does not change while this is held.
    Running(OwnedMutexGuard<()>),
    /// It is being changed.
    Changing,
    /// It does not run.
    Over,
}

/// Why a rule did not start.
pub(super) enum NotStarted {
    /// It was refused, for example by `checkConnection`: nothing has changed.
    Refused(ServiceError),
    /// It could not start; a retry may succeed.
    Failed(String),
}
