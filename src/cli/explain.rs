//! `plutino explain`: prints the plans of rules.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use super::{Etc, Failure, configure, say_problems};
use crate::pipeline;
use crate::plan;

/// Print the logical and the physical plan of rules
#[derive(Args)]
pub struct Explain {
    /// Rule file, JSON or YAML
    #[arg(value_name = "RULEFILE")]
    file: PathBuf,
    /// Only the rule with this id
    #[arg(value_name = "RULE")]
    rule: Option<String>,
    #[command(flatten)]
    etc: Etc,
}

impl Explain {
    pub fn run(self, log: Option<&str>) -> Result<(), Failure> {
        let config = configure(&self.etc.etc, log)?;
        let pipeline = pipeline::load(std::slice::from_ref(&self.file), &config).map_err(Failure::Problems)?;
        say_problems(&pipeline.warnings);
        let file = self.file.display();
        let ids: Vec<&str> = pipeline.rules.iter().map(|rule| rule.spec.id.as_str()).collect();
        if let Some(rule) = self.rule.as_deref().filter(|rule| !ids.contains(rule)) {
            return Err(Failure::Refused(format!("{file} has no rule {rule}; there are: {}", ids.join(", "))));
        }
        let mut out = io::stdout().lock();
        for view in pipeline.views.iter().filter(|_| self.rule.is_none()) {
            let text = plan::view::explain_view(&view.create, &pipeline.catalog)
                .map_err(|error| Failure::Problems(vec![view.problem(error.to_string())]))?;
            writeln!(out, "{}\n", text.trim_end())?;
        }
        for rule in &pipeline.rules {
            if self.rule.as_ref().is_some_and(|id| *id != rule.spec.id) {
                continue;
            }
            let text = plan::explain(&rule.sql, &rule.options, &pipeline.catalog)
                .map_err(|error| Failure::Problems(vec![rule.problem(error.to_string())]))?;
            writeln!(out, "rule {}\n{}\n", rule.spec.id, text.trim_end())?;
        }
        Ok(())
    }
}
