//! `run --watch`: follows rule files that change while they run.
//!
//! Files are checked twice a second: their time and size, and the content if one of these has changed. A change counts
//! after two checks in a row have seen the same, so that a file that is being written is not read halfway.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::say;
use crate::config::Config;
use crate::pipeline::{self, Changes, Pipeline};
use crate::text::document::Problem;

/// The time between two checks.
const LOOK: Duration = Duration::from_millis(500);

/// Time and size of a file; `None` if they cannot be read.
type Stamp = Option<(SystemTime, u64)>;

/// The rule files of a run.
pub struct Followed {
    files: Vec<PathBuf>,
    config: Config,
    /// As of the last check.
    stamps: Vec<Stamp>,
    /// The contents as last read.
    texts: Vec<Option<Vec<u8>>>,
    /// Whether the last check has found a change.
    unsettled: bool,
}

impl Followed {
    pub fn new(files: Vec<PathBuf>, config: Config) -> Followed {
        let mut followed = Followed { files, config, stamps: Vec::new(), texts: Vec::new(), unsettled: false };
        followed.stamps = followed.look();
        followed.texts = followed.read();
        followed
    }

    /// Waits until the files have changed, and reads them. Dropping the future loses no change.
    ///
    /// # Errors
    /// All problems of the files.
    pub async fn changed(&mut self) -> Result<Pipeline, Vec<Problem>> {
        loop {
            tokio::time::sleep(LOOK).await;
            let stamps = self.look();
            if stamps != self.stamps {
                (self.stamps, self.unsettled) = (stamps, true);
                continue;
            }
            // A file that becomes readable again may have the same time and size as before.
            let was_read = self.texts.iter().all(Option::is_some);
            if !std::mem::take(&mut self.unsettled) && was_read {
                continue;
            }
            let texts = self.read();
            if texts != self.texts {
                self.texts = texts;
                let mut pipeline = pipeline::load(&self.files, &self.config)?;
                pipeline.keep_views();
                return Ok(pipeline);
            }
        }
    }

    fn look(&self) -> Vec<Stamp> {
        let stamp = |file: &PathBuf| {
            let meta = std::fs::metadata(file).ok()?;
            Some((meta.modified().ok()?, meta.len()))
        };
        self.files.iter().map(stamp).collect()
    }

    fn read(&self) -> Vec<Option<Vec<u8>>> {
        self.files.iter().map(|file| std::fs::read(file).ok()).collect()
    }
}

/// Reports what a change did, except for its problems.
pub fn say_changes(changes: &Changes) {
    let Changes { all, started, replaced, stopped, .. } = changes;
    let done = [("started", started), ("replaced", replaced), ("stopped", stopped)];
    let done = done.iter().filter(|(_, rules)| !rules.is_empty());
    let done: Vec<String> = done.map(|(what, rules)| format!("{what} {}", rules.join(", "))).collect();
    let whole =
        if *all { "lookup tables, conf keys or the places of views differ, so everything starts again; " } else { "" };
    let done = if done.is_empty() { "no rule or view differs".to_owned() } else { done.join("; ") };
    say(&format!("the rule files have changed: {whole}{done}"));
}
