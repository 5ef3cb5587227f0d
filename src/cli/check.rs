//! `plutino check`: checks whether rule files can run, without running them.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use super::{Etc, Failure, configure, say_problems};
use crate::{pipeline, testing};

/// Check rule files without running them; all errors are reported at once
#[derive(Args)]
pub struct Check {
    /// Rule files, JSON or YAML; they are read together, so a rule may use another file's stream
    #[arg(required = true, value_name = "RULEFILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    etc: Etc,
}

impl Check {
    pub fn run(self, log: Option<&str>) -> Result<(), Failure> {
        let config = configure(&self.etc.etc, log)?;
        let pipeline = pipeline::load(&self.files, &config).map_err(Failure::Problems)?;
        say_problems(&pipeline.warnings);
        let suites = testing::find(&self.files).map_err(Failure::Problems)?;
        let count = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
        let is_table = |name: &&String| pipeline.catalog.relation(name).is_some_and(|def| def.kind.is_table());
        let tables = pipeline.sources.keys().filter(is_table).count();
        let streams = count(pipeline.sources.len() - tables, "stream");
        let rules = count(pipeline.rules.len(), "rule");
        // Without tables and views, the line is the one that scripts know.
        let tables = match tables {
            0 => String::new(),
            tables => format!(", {}", count(tables, "table")),
        };
        let views = match pipeline.views.len() {
            0 => String::new(),
            views => format!(", {}", count(views, "view")),
        };
        let tests = match suites.iter().map(|suite| suite.cases.len()).sum() {
            0 => String::new(),
            tests => format!(", {}", count(tests, "test")),
        };
        writeln!(io::stdout().lock(), "ok: {streams}{tables}, {rules}{views}{tests}")?;
        Ok(())
    }
}
