//! `plutino schema`: prints JSON Schemas for editors.

use std::io::{self, Write};

use clap::{Args, ValueEnum};

use super::Failure;
use crate::{config, pipeline};

/// Print the JSON Schema of rule files or of the configuration
///
/// Editors use it to complete and check YAML files: put a comment `# yaml-language-server: $schema=rules.json` on the
/// first line.
#[derive(Args)]
pub struct Schema {
    /// The kind of files
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
