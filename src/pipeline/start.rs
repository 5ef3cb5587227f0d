//! Starts a pipeline on an engine.

use super::Pipeline;
use crate::engine::{Engine, EngineError};
use crate::text::document::Problem;

/// Starts everything in a pipeline: tables before views before rules. The sources of views and rules begin after all
/// are attached, so that each sees every message.
///
/// # Errors
/// A problem for each part that does not start; the others run.
pub async fn start(engine: &Engine, pipeline: Pipeline) -> Result<(), Vec<Problem>> {
    let mut problems = Vec::new();
    for table in pipeline.tables {
        let refused = table.problem("");
        if let Err(error) = engine.create_table(table.spec).await {
            problems.push(Problem { message: message(error), ..refused });
        }
    }
    let together = engine.start_together();
    for view in pipeline.views {
        let refused = view.problem("");
        if let Err(error) = engine.create_view(view.spec).await {
            problems.push(Problem { message: message(error), ..refused });
        }
    }
    for rule in pipeline.rules {
        let refused = rule.problem("");
        if let Err(error) = engine.start_rule(rule.spec).await {
            problems.push(Problem { message: message(error), ..refused });
        }
    }
    together.end().await;
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Why something does not start, without its name, which the problem already has.
pub(super) fn message(error: EngineError) -> String {
    match error {
        EngineError::Table { error, .. } | EngineError::Connector { error, .. } => error.to_string(),
        EngineError::View { why, .. } => why,
        EngineError::NoTable { table, .. } => format!("lookup table {table} does not exist"),
        error => error.to_string(),
    }
}
