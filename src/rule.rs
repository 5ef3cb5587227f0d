//! Rules as users write them: JSON of eKuiper's form, made into typed rules once.

use serde_json::{Map, Value as Json};

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// its id
    pub id: String,
    /// a name for people; empty if not given
    pub name: String,
    /// its SQL
    pub sql: String,
    /// where its results go
    pub actions: Vec<Action>,
    /// its options
    pub options: RuleOptions,
}

/// One sink of a rule.
#[derive(Clone, Debug)]
pub struct Action {
    /// kind of the sink
    pub kind: String,
    /// its properties as written
    pub props: Map<String, Json>,
}

/// Options of a rule.
#[derive(Clone, Debug)]
pub struct RuleOptions {
    /// isEventTime
    pub event_time: bool,
    /// lateTolerance, ms
    pub late_tolerance: i64,
    /// sendNilField
    pub send_nil: bool,
    /// sendError
    pub send_error: bool,
}

impl Default for RuleOptions {
    fn default() -> Self {
        RuleOptions { event_time: false, late_tolerance: 1000, send_nil: false, send_error: false }
    }
}
