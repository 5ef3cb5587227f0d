//! What a rule's entry keeps of its definition.
//!
//! A service may have ten thousand rules, and a definition takes as much memory as the rule that runs. Queries and timers
//! need only these parts at any time; a start reads the rest from the rule's text again.

use super::super::definition::Definition;
use crate::definition::schedule::{RestartStrategy, Schedule};
use crate::value::Text;

#[derive(Clone, Debug)]
pub(super) struct Outline {
    /// Its display name; `None`: its id.
    pub(super) name: Option<Box<str>>,
    /// Empty if not given.
    pub(super) version: Box<str>,
    pub(super) tags: Option<Box<[String]>>,
    /// The streams, tables and views that the SQL names.
    pub(super) reads: Box<[Text]>,
    /// The named connections of its sinks.
    pub(super) selects: Box<[String]>,
    /// Whether it is temporary: it is not stored.
    pub(super) temporary: bool,
    /// `None`: it always runs.
    pub(super) schedule: Option<Box<Schedule>>,
    /// `None`: it is not started again after a failure.
    pub(super) restart: Option<Box<RestartStrategy>>,
}

impl Outline {
    pub(super) fn of(definition: &Definition) -> Outline {
        let Definition { rule, version, tags, reads, selects, .. } = definition;
        let options = &rule.options;
        Outline {
            name: (definition.name() != rule.id).then(|| definition.name().into()),
            version: version.as_str().into(),
            tags: tags.clone().map(Vec::into_boxed_slice),
            reads: reads.as_slice().into(),
            selects: selects.as_slice().into(),
            temporary: options.temporary,
            schedule: (!options.schedule.is_always()).then(|| Box::new(options.schedule.clone())),
            restart: (options.restart.attempts > 0).then(|| Box::new(options.restart.clone())),
        }
    }

    /// The schedule; that of a rule without one lets it always run.
    pub(super) fn schedule(&self) -> Schedule {
        self.schedule.as_deref().cloned().unwrap_or_default()
    }
}
