//! The columns of a rule's results.

use super::Service;
use super::error::ServiceError;
use crate::plan::physical::ColumnSource;
use crate::plan::{self, columns};

pub use crate::plan::ResultColumn;

impl Service {
    /// The columns of a rule's results, in the order of the select list.
    ///
    /// # Errors
    /// [`ServiceError::NoRuleStatus`], and errors that the rule has against the current streams.
    pub fn rule_schema(&self, id: &str) -> Result<Vec<ResultColumn>, ServiceError> {
        let definition = self.rule_definition(id).map_err(|error| match error {
            ServiceError::NoRule(id) => ServiceError::NoRuleStatus(id),
            error => error,
        })?;
        Ok(columns(&definition.select, &self.catalog()))
    }
}

impl Service {
    /// The columns of a stream that rules read, in the order of the rules' ids. Rules that were stopped by hand do not
    /// count.
    pub fn columns_read(&self, relation: &str) -> Vec<String> {
        let mut read = Vec::new();
        let catalog = self.catalog();
        for id in self.readers(relation) {
            // A rule that was deleted in the meantime, or cannot be planned any more, reads nothing.
            let Ok(definition) = self.rule_definition(&id) else { continue };
            let Ok(plan) = plan::of_select(&definition.select, &definition.rule.options, &catalog) else { continue };
            for input in plan.inputs.iter().filter(|input| input.stream.name == relation) {
                for column in &input.scan.columns {
                    if let ColumnSource::Key(name) = &column.source
                        && !read.iter().any(|known: &String| known == name.as_str())
                    {
                        read.push(name.to_string());
                    }
                }
            }
        }
        read
    }
}
