//! The service's errors, with eKuiper's texts and codes, which scripts match.

use super::store::StoreError;
use crate::definition::name::LongName;
use crate::engine::{NotRecorded, NotTapped};
use crate::plan::PlanError;

/// The error codes in responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Code {
    /// anything without a specific code
    Undefined = 1000,
    General = 1001,
    /// the requested item does not exist
    NotFound = 1002,
    /// a sink or source cannot be used
    Executor = 2201,
    /// an error about a stream or table
    Relation = 3000,
    ConfKey = 5000,
}

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error("id '{0}' contains invalid characters: only alphanumeric, hyphens and underscores are allowed")]
    Id(String),
    #[error("id cannot be empty")]
    EmptyId,
    #[error(transparent)]
    LongName(#[from] LongName),
    #[error("{0}")]
    Statement(String),
    /// an older or equal version would replace a newer one
    #[error("{what} {name} already exists with version ({old}), new version ({new}) is lower")]
    Version {
        /// rule or source
        what: &'static str,
        name: String,
        /// the current version
        old: String,
        /// the refused version
        new: String,
    },
    #[error("Describe {what} fails, {name} is not found.")]
    NoRelation {
        /// stream or table
        what: &'static str,
        name: String,
    },
    #[error("{what} {name} is not found")]
    NothingToDrop {
        /// stream or table
        what: &'static str,
        name: String,
    },
    #[error("stream {name} has been referenced by other rules")]
    Referenced { name: String },
    #[error("view {name} has been referenced by {readers}: DELETE /views/{name}?force=true drops it all the same")]
    ViewInUse { name: String, readers: String },
    #[error("invalid rule json: {0}")]
    RuleJson(String),
    #[error("{0}")]
    Plan(Box<PlanError>),
    #[error("{0}")]
    Connector(String),
    #[error("{0}")]
    Start(String),
    #[error("rule {0} already exists")]
    RuleExists(String),
    #[error("Rule {0} is not found.")]
    NoRule(String),
    #[error("Rule {0} is not found in registry, please check if it is created")]
    NoRuleInRegistry(String),
    #[error("Rule {0} is not found")]
    NoRuleStatus(String),
    #[error("rule {0} not found")]
    NoRuleToDrop(String),
    #[error("rule {0} isn't existed")]
    NoRuleToTrace(String),
    #[error("Fail to get rule {0}'s topo, make sure the rule has been started before")]
    NoTopology(String),
    /// the rows of a rule cannot be tapped
    #[error("tap rule {id} error: {why}")]
    NotTapped {
        /// its id
        id: String,
        /// why
        why: NotTapped,
    },
    /// the messages of a stream cannot be recorded
    #[error("record stream {name} error: {why}")]
    NotRecorded {
        name: String,
        /// why
        why: NotRecorded,
    },
    #[error("fail to run rule {id}: {why}")]
    Trial { id: String, why: String },
    #[error("fail to parse rule definition {0}")]
    TrialJson(String),
    #[error("try to start test rule {0} but it is not found")]
    NoTrial(String),
    #[error("no matching rules")]
    NoMatch,
    /// a missing conf key, or one of something that has none
    #[error("{0}")]
    ConfKey(String),
    #[error("{0} is not found")]
    NoConfKey(String),
    #[error("connection {0} not existed")]
    NoConnection(String),
    #[error("connection {0} already been created")]
    ConnectionExists(String),
    #[error("connection id and type should be defined")]
    ConnectionUndefined,
    #[error("connection {id} can't be dropped due to rule references [{rules}]")]
    ConnectionUsed { id: String, rules: String },
    /// a connection that cannot be opened, or a peer that cannot be reached
    #[error("{0}")]
    Connection(String),
    #[error("async task: {0} not found")]
    NoTask(String),
    #[error("{0}")]
    Import(String),
    #[error("{0}")]
    Store(#[from] StoreError),
    /// another process of the cluster refused it
    #[error("process {process} ({host}): {why}")]
    Elsewhere { process: usize, host: String, why: String },
    /// it works only in a single process
    #[error("{0} is not possible with several processes (--hosts)")]
    Alone(&'static str),
    #[error("the service is stopping")]
    Stopping,
}

impl ServiceError {
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
