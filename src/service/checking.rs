//! Checks a statement of any kind without executing it: what is wrong with it, and how it would run.

use serde_json::json;

use super::Service;
use super::definition::Definition;
use crate::text::document::{Problem, Severity};

/// The result of checking a statement.
#[derive(Clone, Debug)]
pub struct CheckedStatement {
    /// rule, stream, table or view
    pub kind: &'static str,
    /// errors and warnings
    pub problems: Vec<Problem>,
    /// the plan of a valid query
    pub plan: Option<String>,
}

impl CheckedStatement {
    /// Whether it could be executed.
    pub fn is_valid(&self) -> bool {
        self.problems.iter().all(|problem| problem.severity != Severity::Error)
    }
}

impl Service {
    /// Checks the SELECT of a rule, or a CREATE STREAM, TABLE or VIEW. Does not check whether a name is taken.
    pub fn check_statement(&self, sql: &str) -> CheckedStatement {
        let mut words = sql.split_whitespace().map(str::to_ascii_lowercase);
        match (words.next().as_deref(), words.next().as_deref()) {
            (Some("create"), Some("view")) => {
                CheckedStatement { kind: "view", problems: self.problems_of_view(sql), plan: None }
            }
            (Some("create"), Some("table")) => {
                CheckedStatement { kind: "table", problems: self.of_statement(sql), plan: None }
            }
            (Some("create"), _) => CheckedStatement { kind: "stream", problems: self.of_statement(sql), plan: None },
            _ => self.check_query(sql),
        }
    }

    fn of_statement(&self, sql: &str) -> Vec<Problem> {
        let mut problems = self.problems_of_statement(sql);
        problems.extend(self.warnings_of_statement(sql));
        problems
    }

    fn check_query(&self, sql: &str) -> CheckedStatement {
        let rule = json!({"id": "new", "sql": sql, "actions": [{"nop": {}}]});
        let text = rule.to_string();
        let planned = Definition::of(rule, None, &self.config().rule).and_then(|definition| {
            let planned = definition.plan(&self.catalog(), &self.bindings())?;
            Ok(planned.nodes.explain(&definition.select))
        });
        match planned {
            Ok(plan) => {
                let problems = self.warnings_of_rule(&text, None);
                CheckedStatement { kind: "rule", problems, plan: Some(plan) }
            }
            Err(error) => {
                let mut problems = self.problems_of_rule(&text, None, false);
                if problems.is_empty() {
                    problems.push(Problem::error("rule", None, "rule new", error.to_string()));
                }
                CheckedStatement { kind: "rule", problems, plan: None }
            }
        }
    }
}
