//! `plutino schema`: JSON Schemas for editors.

use std::io::{self, Write};

use clap::{Args, ValueEnum};

use super::Failure;
use crate::{config, pipeline};

/// Print the JSON Schema of rule files or of the configuration
///
/// Editors complete and check YAML files by it: put a comment `# yaml-language-server: $schema=rules.json` on the first
/// line.
#[derive(Args)]
pub struct Schema {
    /// Of which files
    of: Of,
}

#[derive(Clone, Copy, ValueEnum)]
enum Of {
    /// rule files
    Rules,
    /// etc/plutino.yaml
    Config,
}

impl Schema {
    pub fn run(self) -> Result<(), Failure> {
        let schema = match self.of {
            Of::Rules => pipeline::schema::rules(),
            Of::Config => config::schema(),
        };
        writeln!(io::stdout().lock(), "{schema:#}")?;
        Ok(())
    }
}
