//! Lookup tables: each data thread has a copy, which takes rows whichever rules run. Also shows the rows of scan
//! tables, which belong to their rules.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::dataflow::command::Command;
use crate::dataflow::row::ScannedRow;
use crate::io::connector::SourceSpec;
use crate::io::queue;
use crate::io::source::OpenSource;
use crate::metrics::RuleMetrics;

use super::{Engine, EngineError, RunningTable, TableSpec};

/// The most rows of a scan table that are shown.
const SHOWN: usize = 10_000;

/// Why the rows of scan tables cannot be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotShown {
    /// the rule does not run, or reads no scan table
    NoTable,
    /// its data thread is busy
    Busy,
}

impl Engine {
    /// The newest rows of each scan table of a rule, with the columns that the rule reads.
    ///
    /// # Errors
    /// [`NotShown`]
    pub async fn scanned_rows(&self, id: &str, limit: Duration) -> Result<Vec<ScannedRow>, NotShown> {
        let (done, rows) = oneshot::channel();
        {
            let running = self.running();
            let rule = running.rules.get(id).ok_or(NotShown::NoTable)?;
            if !rule.streams.iter().any(|stream| stream.scan.is_some()) {
                return Err(NotShown::NoTable);
            }
            self.threads[rule.threads.home].command(Command::ScannedRows { key: rule.key, limit: SHOWN, done });
        }
        let answered = tokio::time::timeout(limit, rows).await;
        answered.map_err(|_| NotShown::Busy)?.map_err(|_| NotShown::NoTable)
    }

    /// Creates a lookup table, which takes rows from then on. Reading a large file may take seconds; only rules that
    /// use the table wait for it.
    ///
    /// # Errors
    /// [`EngineError`]; then the table does not exist.
    pub async fn create_table(&self, table: TableSpec) -> Result<(), EngineError> {
        let name = table.def.name.clone();
        if !matches!(table.source, SourceSpec::File(_)) {
            self.needs_one_process(|| format!("a lookup table that is not a file ({name})"))?;
        }
        let _alone = self.locks.pass(std::iter::once(&name)).await;
        if self.running().tables.contains_key(&name) {
            return Err(EngineError::TableExists(name.to_string()));
        }
        let mut copies = Vec::with_capacity(self.threads.len());
        let mut first = None;
        for (thread, worker) in self.threads.iter().enumerate() {
            let slot = self.slot();
            let (sender, frames) = queue::inbound(worker.signal(slot));
            let metrics = Arc::new(RuleMetrics::default());
            first.get_or_insert_with(|| metrics.clone());
            worker.command(Command::AddTable { slot, schema: table.def.schema(), frames, metrics });
            match self.connectors.open_source(table.source.clone(), thread, sender.into()).await {
                Ok(source) => {
                    source.begin().await;
                    copies.push((slot, source.into()));
                }
                Err(error) => {
                    worker.command(Command::DropTable { slot, name: name.clone() });
                    self.drop_copies(&name, copies).await;
                    return Err(EngineError::Table { table: name.to_string(), error: Box::new(error) });
                }
            }
        }
        let metrics = first.unwrap_or_default();
        self.running().tables.insert(name, RunningTable { copies, metrics, emptied: false });
        Ok(())
    }

    /// Drops a lookup table; true if it existed. Rules that read it keep its last rows.
    pub async fn drop_table(&self, name: &str) -> bool {
        let _alone = self.locks.pass(std::iter::once(&name.into())).await;
        let table = self.running().tables.shift_remove(name);
        match table {
            Some(table) => {
                self.drop_copies(name, table.copies).await;
                true
            }
            None => false,
        }
    }

    /// Drops the copies of a table on the first threads, up to these.
    async fn drop_copies(&self, name: &str, copies: Vec<(usize, Arc<dyn OpenSource>)>) {
        for (worker, (slot, source)) in self.threads.iter().zip(copies) {
            source.close().await;
            worker.command(Command::DropTable { slot, name: name.into() });
        }
    }
}
