//! What `plutino run` looks after once a second while its rules run: short memory, and rules whose data was wrongly
//! taken for simulated. A service does the same by its timer.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::say;
use crate::config::Config;
use crate::engine::{Engine, PATROL, Relieved, view_of};
use crate::pipeline::{self, Content};
use crate::text::document::Severity;

/// The longest wait between two attempts to restart a rule.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

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
    files: Vec<PathBuf>,
    config: Config,
    /// The process is one of a cluster, whose processes must run the same versions of a rule: nothing is restarted.
    in_cluster: bool,
    /// rules that could not restart yet
    waiting: Vec<Waiting>,
}

/// A rule that could not restart. This is tried again until it succeeds, or until the rule is another one.
struct Waiting {
    id: String,
    /// the rule as JSON
    text: Option<String>,
    /// as last reported; empty if it was not
    why: String,
    /// when it is tried again
    due: Instant,
    /// the wait after that
    wait: Duration,
}

impl Misled {
    pub fn new(files: Vec<PathBuf>, config: Config, in_cluster: bool) -> Misled {
        Misled { files, config, in_cluster, waiting: Vec::new() }
    }

    /// Restarts these rules with empty state. `content` is what runs.
    pub async fn restart_all(&mut self, engine: &Engine, content: &Content) {
        let now = Instant::now();
        self.waiting.retain(|rule| content.rules.get(&rule.id) == rule.text.as_ref());
        for id in engine.misled() {
            if self.waiting.iter().all(|rule| rule.id != id) {
                let text = content.rules.get(&id).cloned();
                self.waiting.push(Waiting { id, text, why: String::new(), due: now, wait: PATROL });
            }
        }
        let due: Vec<Waiting> = self.waiting.extract_if(.., |rule| rule.due <= now).collect();
        for mut rule in due {
            let Err(why) = self.restart(engine, content, &rule.id).await else {
                say(&format!(
                    "warning: rule {} is restarted with empty state: its watermark was far ahead of the clock",
                    rule.id
                ));
                continue;
            };
            if why != rule.why {
                let name = view_of(&rule.id).map_or_else(|| format!("rule {}", rule.id), |view| format!("view {view}"));
                say(&format!(
                    "warning: the watermark of {name} is far ahead of the clock, so its rows are late; {why}"
                ));
                rule.why = why;
            }
            if !self.in_cluster && rule.text.is_some() {
                (rule.due, rule.wait) = (now + rule.wait, (2 * rule.wait).min(LONGEST_WAIT));
                self.waiting.push(rule);
            }
        }
    }

    async fn restart(&self, engine: &Engine, content: &Content, id: &str) -> Result<(), String> {
        if self.in_cluster {
            return Err("start the processes again, with EVENT_CLOCK=\"wall\" in the stream's options".to_owned());
        }
        if view_of(id).is_some() {
            return Err("start again, with EVENT_CLOCK=\"wall\" in the stream's options".to_owned());
        }
        let pipeline = pipeline::load(&self.files, &self.config).map_err(|problems| {
            let first = problems.iter().find(|problem| problem.severity == Severity::Error);
            let first = first.map_or_else(String::new, |first| format!(": {}: {}", first.file, first.message));
            format!("it restarts when the rule files can be used again{first}")
        })?;
        match pipeline::restart(engine, content, pipeline, id).await {
            Ok(true) => Ok(()),
            Ok(false) => Err("it cannot restart, since the rule files are not those that run: start again".to_owned()),
            Err(problem) => Err(format!("it cannot restart: {}", problem.message)),
        }
    }
}
