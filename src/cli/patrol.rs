//! What `plutino run` looks after once a second while its rules run: short memory, and rules whose data was wrongly
//! taken for simulated. A service does the same by its timer.

use std::convert::Infallible;
use std::path::PathBuf;

use super::say;
use crate::config::Config;
use crate::engine::{Engine, PATROL, Relieved};
use crate::pipeline::{self, Content};

/// Ends whatever holds most memory, whenever memory is short.
pub async fn relieve_memory(engine: &Engine) -> Infallible {
    loop {
        tokio::time::sleep(PATROL).await;
        if let Some(largest) = engine.relieve_memory().await {
            match &largest {
                Relieved::Rule(rule) => _ = engine.stop_rule(rule, false).await,
                Relieved::View(view, _) => _ = engine.drop_view(view).await,
                Relieved::Filling(_) | Relieved::Table(_) => {}
            }
            say(&format!("warning: memory is short: {largest}, which holds most of it"));
        }
    }
}

/// Restarts rules whose watermark is far ahead of the clock.
pub struct Misled {
    pub files: Vec<PathBuf>,
    pub config: Config,
    /// The process is one of a cluster, whose processes must run the same versions of a rule: nothing is restarted.
    pub in_cluster: bool,
}

impl Misled {
    /// Restarts these rules with empty state. `content` is what runs.
    pub async fn restart_all(&self, engine: &Engine, content: &Content) {
        for id in engine.misled() {
            match self.restart(engine, content, &id).await {
                Ok(()) => say(&format!(
                    "warning: rule {id} is restarted with empty state: its watermark was far ahead of the clock"
                )),
                Err(why) => say(&format!(
                    "warning: the watermark of rule {id} is far ahead of the clock, so its rows are late; {why}"
                )),
            }
        }
    }

    async fn restart(&self, engine: &Engine, content: &Content, id: &str) -> Result<(), String> {
        if self.in_cluster {
            return Err("start the processes again, with EVENT_CLOCK=\"wall\" in the stream's options".to_owned());
        }
        let restarted = match pipeline::load(&self.files, &self.config) {
            Ok(pipeline) => pipeline::restart(engine, content, pipeline, id).await,
            Err(_) => Ok(false),
        };
        match restarted {
            Ok(true) => Ok(()),
            Ok(false) => Err("the rule files have changed since the start, so it cannot restart".to_owned()),
            Err(problem) => Err(format!("it cannot restart: {}", problem.message)),
        }
    }
}
