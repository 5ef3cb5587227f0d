//! Turns the tree of a rule into a plan for workers: resolves names to slots, checks types, pushes conditions down.
//!
//! Every error in a rule's text is found here, with its place. This layer knows neither sockets nor timely.

mod columns;
mod compile;
mod error;
mod explain;
pub mod fingerprint;
mod logical;
pub mod physical;
mod resolve;
mod rewrite;
pub mod spread;
pub mod view;
mod walk;

pub use columns::{ResultColumn, columns};
pub use compile::default_name;
pub use error::{PlanError, PlanErrorKind};

use crate::definition::rule::RuleOptions;
use crate::definition::stream::Catalog;
use crate::sql::ast::Select;
use crate::sql::parse_select;
use physical::RulePlan;

/// Plans the rule with this SQL. The error is the first one, together with the others of the same stage
/// ([`PlanError::each`]).
pub fn plan(sql: &str, options: &RuleOptions, catalog: &Catalog) -> Result<RulePlan, PlanError> {
    of_select(&parse_select(sql)?, options, catalog)
}

/// The same for a parsed statement.
pub fn of_select(select: &Select, options: &RuleOptions, catalog: &Catalog) -> Result<RulePlan, PlanError> {
    rewrite::rewrite(&resolve::resolve(select, options, catalog)?, options)
}

/// Both plans of the rule as text: what it means, and what a worker does.
pub fn explain(sql: &str, options: &RuleOptions, catalog: &Catalog) -> Result<String, PlanError> {
    let select = parse_select(sql)?;
    let logical = resolve::resolve(&select, options, catalog)?;
    let plan = rewrite::rewrite(&logical, options)?;
    Ok(explain::explain(&logical, &plan, spread::of(&plan)))
}

#[cfg(test)]
mod tests;
