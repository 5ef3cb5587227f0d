//! Live views: each is a rule without sinks, whose rows go to the view's store and from there to its clients.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{Engine, EngineError, RuleSpec};
use crate::plan::physical::Body;
use crate::plan::view::Connected;
use crate::value::Text;
use crate::view::{Description, Views};

/// The id of the rule that runs a view. Ids of other rules cannot contain a colon.
pub fn view_id(name: &str) -> String {
    format!("view:{name}")
}

/// The name of the view that the rule with this id runs, if any.
pub fn view_of(id: &str) -> Option<&str> {
    id.strip_prefix("view:")
}

impl Engine {
    /// The views and their clients.
    pub fn views(&self) -> &Arc<Views> {
        &self.views
    }

    /// Whether a view exists.
    pub fn has_view(&self, name: &str) -> bool {
        self.views.find(name).is_some()
    }

    /// The data thread of a running view.
    pub fn thread_of_view(&self, name: &str) -> Option<usize> {
        self.running().rules.get(&view_id(name)).map(|view| view.threads.home)
    }

    /// The views among these that must be changed because they are not where they should be: on the thread of the first
    /// running one, or with streams read by a single thread if they change in one step with others. Ordered so that
    /// each comes after those that it reads.
    pub fn views_apart(&self, connected: &Connected) -> Vec<Text> {
        let mut threads = connected.views.iter().filter_map(|name| self.thread_of_view(name));
        let Some(home) = threads.next().filter(|_| self.threads.len() > 1) else { return Vec::new() };
        let running = self.running();
        let is_apart = |name: &&Text| {
            let view = running.rules.get(&view_id(name));
            view.is_some_and(|view| view.threads.home != home || connected.in_step && view.threads.is_spread())
        };
        connected.views.iter().filter(is_apart).cloned().collect()
    }

    /// Creates a view: from then on, messages change its rows and clients can connect. The plan's body is
    /// [`Body::View`], its id is from [`view_id`].
    ///
    /// # Errors
    /// [`EngineError`]; then the view does not exist.
    pub async fn create_view(&self, spec: RuleSpec) -> Result<(), EngineError> {
        let Body::View(plan) = &spec.plan.body else { return Ok(()) };
        let about = plan.about.clone();
        let name = about.name.clone();
        self.needs_one_process(|| "a live view".to_owned())?;
        self.check_path(&spec)?;
        self.views.create(about);
        if let Err(error) = self.connectors.websockets.serve_views().await {
            self.end_view(&name).await;
            return Err(EngineError::View { view: name.to_string(), why: error.to_string() });
        }
        if let Err(error) = self.start_rule(spec).await {
            self.end_view(&name).await;
            return Err(error);
        }
        Ok(())
    }

    /// Replaces the plan of a view. If its definition is the same, its rows stay; otherwise it starts empty, and
    /// clients are notified.
    ///
    /// # Errors
    /// [`EngineError`]; then the view is unchanged, unless a file could not be read.
    pub async fn change_view(&self, spec: RuleSpec) -> Result<(), EngineError> {
        self.check_path(&spec)?;
        self.prepare_rule(spec).await?.replace(true).await.map(|_| ())
    }

    fn check_path(&self, spec: &RuleSpec) -> Result<(), EngineError> {
        let Body::View(plan) = &spec.plan.body else { return Ok(()) };
        let Description { name, path, .. } = &plan.about;
        let failed = |why: String| Err(EngineError::View { view: name.to_string(), why });
        if let Some(other) = self.views.at_path(path).filter(|other| other != name) {
            return failed(format!("its PATH {path} is that of view {other}"));
        }
        if self.connectors.websockets.has_path(path) {
            return failed(format!("its PATH {path} is that of a source or sink"));
        }
        Ok(())
    }

    /// Drops a view; true if it existed. Its clients are notified.
    pub async fn drop_view(&self, name: &str) -> bool {
        let there = self.stop_rule(&view_id(name), false).await.is_some();
        self.end_view(name).await;
        there
    }

    async fn end_view(&self, name: &str) {
        self.views.drop_view(name);
        self.connectors.websockets.left_view().await;
    }
}

/// Drives the clock of the views' clients while the engine exists.
pub(super) async fn tick(views: Weak<Views>) {
    loop {
        let Some(views) = views.upgrade() else { return };
        let wait = Duration::from_millis(views.tick());
        drop(views);
        tokio::time::sleep(wait).await;
    }
}
