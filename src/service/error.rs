//! What the service refuses, in the words and with the codes of eKuiper, which scripts match.

use super::store::StoreError;
use crate::plan::PlanError;

/// The numbers that answers carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Code {
    /// anything without a number of its own
    Undefined = 1000,
    General = 1001,
    /// what was asked for is not there
    NotFound = 1002,
    /// a sink or source cannot be used
    Executor = 2201,
    /// streams and tables
    Relation = 3000,
    ConfKey = 5000,
}

/// Why something was refused.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// an id that is no name
    #[error("id '{0}' contains invalid characters: only alphanumeric, hyphens and underscores are allowed")]
    Id(String),
    /// an id without a character
    #[error("id cannot be empty")]
    EmptyId,
    /// a statement about streams and tables
    #[error("{0}")]
    Statement(String),
    /// an older or equal version would replace a newer one
    #[error("{what} {name} already exists with version ({old}), new version ({new}) is lower")]
    Version {
        /// rule or source
        what: &'static str,
        name: String,
        /// what is there
        old: String,
        /// what should replace it
        new: String,
    },
    /// asked to describe what is not there
    #[error("Describe {what} fails, {name} is not found.")]
    NoRelation {
        /// stream or table
        what: &'static str,
        name: String,
    },
    /// asked to drop what is not there
    #[error("{what} {name} is not found")]
    NothingToDrop {
        /// stream or table
        what: &'static str,
        name: String,
    },
    /// rules read it
    #[error("stream {name} has been referenced by other rules")]
    Referenced { name: String },
    /// the body of a rule is wrong
    #[error("invalid rule json: {0}")]
    RuleJson(String),
    /// a rule that cannot be planned
    #[error("{0}")]
    Plan(Box<PlanError>),
    /// a sink or source that cannot be used
    #[error("{0}")]
    Connector(String),
    /// a rule that cannot start
    #[error("{0}")]
    Start(String),
    /// the id is taken
    #[error("rule {0} already exists")]
    RuleExists(String),
    /// no such rule
    #[error("Rule {0} is not found.")]
    NoRule(String),
    /// no such rule to start or stop
    #[error("Rule {0} is not found in registry, please check if it is created")]
    NoRuleInRegistry(String),
    /// no such rule to ask for its status
    #[error("Rule {0} is not found")]
    NoRuleStatus(String),
    /// no such rule to drop
    #[error("rule {0} not found")]
    NoRuleToDrop(String),
    /// no such rule to trace
    #[error("rule {0} isn't existed")]
    NoRuleToTrace(String),
    /// a rule that has not run has no topology
    #[error("Fail to get rule {0}'s topo, make sure the rule has been started before")]
    NoTopology(String),
    /// a trial that cannot be made
    #[error("fail to run rule {id}: {why}")]
    Trial { id: String, why: String },
    /// a trial that cannot be read
    #[error("fail to parse rule definition {0}")]
    TrialJson(String),
    /// no such trial
    #[error("try to start test rule {0} but it is not found")]
    NoTrial(String),
    /// no rule has the tags
    #[error("no matching rules")]
    NoMatch,
    /// a conf key that is not there, or of something that has none
    #[error("{0}")]
    ConfKey(String),
    /// a conf key that is not there
    #[error("{0} is not found")]
    NoConfKey(String),
    /// no such named connection
    #[error("connection {0} not existed")]
    NoConnection(String),
    /// the id is taken
    #[error("connection {0} already been created")]
    ConnectionExists(String),
    /// a connection without a kind
    #[error("connection id and type should be defined")]
    ConnectionUndefined,
    /// rules refer to it
    #[error("connection {id} can't be dropped due to rule references [{rules}]")]
    ConnectionUsed { id: String, rules: String },
    /// a connection that cannot be opened, or a peer that cannot be reached
    #[error("{0}")]
    Connection(String),
    /// no such task
    #[error("async task: {0} not found")]
    NoTask(String),
    /// an import that cannot be read
    #[error("{0}")]
    Import(String),
    /// a change could not be stored
    #[error("{0}")]
    Store(#[from] StoreError),
    /// the service ends
    #[error("the service is stopping")]
    Stopping,
}

impl ServiceError {
    /// Its number.
    pub fn code(&self) -> Code {
        use ServiceError as E;
        match self {
            E::Statement(_) => Code::Relation,
            E::Version { what, .. } if *what != "rule" => Code::Relation,
            E::NoRelation { .. }
            | E::NothingToDrop { .. }
            | E::NoRule(_)
            | E::NoRuleInRegistry(_)
            | E::NoRuleStatus(_)
            | E::NoRuleToDrop(_)
            | E::NoConfKey(_)
            | E::NoConnection(_) => Code::NotFound,
            E::Connector(_) => Code::Executor,
            E::NoTopology(_) => Code::General,
            E::ConfKey(_) => Code::ConfKey,
            _ => Code::Undefined,
        }
    }
}
