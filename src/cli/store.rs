//! `plutino store`: checks, repairs, exports and backs up the store of a service.
//!
//! All except the backup need exclusive access to the store, so the service must be stopped.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::remote::Door;
use super::{Failure, say};
use crate::service::{self, Checked, Everything, RecordKind};

/// Check, repair, export or back up the stored streams, tables and rules
#[derive(Args)]
pub struct Store {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Read the whole store and report damage; the exit code is 1 if there is any
    Check(Data),
    /// Repair a damaged store: unreadable records are left out, and the damaged file is kept beside the new one
    Repair(Data),
    /// Write everything readable, including secrets, to a file for `plutino import data`
    Export {
        #[command(flatten)]
        data: Data,
        /// File to write; it must not exist
        file: PathBuf,
    },
    /// Copy the store of a running service, including secrets and states, to a file
    Backup {
        #[command(flatten)]
        door: Door,
        /// File to write; it must not exist
        file: PathBuf,
    },
}

#[derive(Args)]
struct Data {
    /// Folder of stored state
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,
}

impl Store {
    pub fn run(self) -> Result<(), Failure> {
        let refused = |error: service::StoreError| Failure::Refused(error.to_string());
        match self.task {
            Task::Check(Data { data }) => {
                let checked = service::check(&data).map_err(refused)?;
                report(&checked)?;
                if checked.damage.is_empty() { Ok(()) } else { Err(Failure::Reported) }
            }
            Task::Repair(Data { data }) => {
                let repaired = service::repair(&data).map_err(refused)?;
                report(&repaired.checked)?;
                let line = match repaired.kept {
                    Some(kept) => format!("repaired; the damaged file is {}", kept.display()),
                    None => "there is nothing to repair".to_owned(),
                };
                Ok(writeln!(io::stdout().lock(), "{line}")?)
            }
            Task::Export { data, file } => {
                let checked = service::check(&data.data).map_err(refused)?;
                let all = serde_json::to_string(&Everything::stored(&checked.records)).unwrap_or_default();
                create(&file, &mut all.as_bytes())?;
                report(&checked)
            }
            Task::Backup { door, file } => {
                let mut answer = door.download("/store/backup")?;
                create(&file, &mut answer)?;
                Ok(writeln!(io::stdout().lock(), "the store is in {}", file.display())?)
            }
        }
    }
}

/// Prints the content to stdout, and the damage to stderr.
fn report(checked: &Checked) -> Result<(), Failure> {
    let count = |kind| checked.records.of(kind).count();
    writeln!(
        io::stdout().lock(),
        "{} streams, {} tables, {} rules, {} conf keys, {} connections, {} states",
        count(RecordKind::Stream),
        count(RecordKind::Table),
        count(RecordKind::Rule),
        count(RecordKind::ConfKey),
        count(RecordKind::Connection),
        checked.states
    )?;
    checked.damage.iter().for_each(|damage| say(&damage.to_string()));
    Ok(())
}

/// Writes a file that only its owner may read. If that fails, no file is left.
fn create(path: &Path, content: &mut dyn io::Read) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::Refused(format!("cannot write {}: {error}", path.display()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let written = io::copy(content, &mut file).and_then(|_| file.sync_all());
    written.map_err(|error| {
        let _ = std::fs::remove_file(path);
        failed(error)
    })
}
