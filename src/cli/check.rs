//! `plutino check`: whether rule files can run, without running them.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use super::{Etc, Failure, configure, say_problems};
use crate::pipeline;

/// Check rule files without running them; all mistakes are told at once
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
        let count = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
        let (streams, rules) = (count(pipeline.sources.len(), "stream"), count(pipeline.rules.len(), "rule"));
        // Files without views get the line that scripts know.
        let views = match pipeline.views.len() {
            0 => String::new(),
            views => format!(", {}", count(views, "view")),
        };
        writeln!(io::stdout().lock(), "ok: {streams}, {rules}{views}")?;
        Ok(())
    }
}
