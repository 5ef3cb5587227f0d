//! Live views: each is a rule without sinks, whose rows go to the view's store and from there to its clients.
//!
//! With several processes, process 0 has the rows of all views. The others have the same views without rows: they read
//! the views' streams for process 0, and hand clients over to it (`io/websocket/handover.rs`).

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::FutureExt;

use super::{Engine, EngineError, RuleSpec};
use crate::cluster::Clients;
use crate::io::websocket::Websockets;
use crate::plan::physical::Body;
use crate::plan::view::Connected;
use crate::sync::locked;
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
        let name = plan.about.name.clone();
        self.open_view(&spec).await?;
        if let Err(error) = self.start_rule(spec).await {
            self.close_view(&name).await;
            return Err(error);
        }
        self.keep_filled(&name).await
    }

    /// Stops the filling of a view. Whoever started it drops it then.
    pub(super) fn end_filling(&self, name: &str) {
        if let Some(view) = self.views.find(name) {
            locked(&view).end_opening();
        }
    }

    /// Checks that the filling of a view that has just started was not stopped because memory was short.
    ///
    /// # Errors
    /// [`EngineError::View`]
    pub fn check_filled(&self, name: &str) -> Result<(), EngineError> {
        if self.views.find(name).is_some_and(|view| !locked(&view).is_gone()) {
            return Ok(());
        }
        let why = "memory was short while it was filled: raise basic.maxMemory, or keep fewer rows".to_owned();
        Err(EngineError::View { view: name.to_owned(), why })
    }

    /// As [`Engine::check_filled`]; drops a view whose filling was stopped.
    async fn keep_filled(&self, name: &str) -> Result<(), EngineError> {
        let kept = self.check_filled(name);
        if kept.is_err() {
            self.drop_view(name).await;
        }
        kept
    }

    /// Makes a view, which has no rows before its rule runs. [`Engine::close_view`] undoes it.
    ///
    /// # Errors
    /// [`EngineError`]; then the view does not exist.
    pub async fn open_view(&self, spec: &RuleSpec) -> Result<(), EngineError> {
        let Body::View(plan) = &spec.plan.body else { return Ok(()) };
        self.check_path(spec)?;
        let name = plan.about.name.clone();
        self.views.create(plan.about.clone());
        if let Err(error) = self.connectors.websockets.serve_views().await {
            self.close_view(&name).await;
            return Err(EngineError::View { view: name.to_string(), why: error.to_string() });
        }
        Ok(())
    }

    /// Replaces the plan of a view. If its definition is the same, its rows stay; otherwise it starts empty, and
    /// clients are notified.
    ///
    /// # Errors
    /// [`EngineError`]; then the view is unchanged, unless a file could not be read. If memory was short while it was
    /// filled, it is dropped.
    pub async fn change_view(&self, spec: RuleSpec) -> Result<(), EngineError> {
        self.check_path(&spec)?;
        let id = spec.id.clone();
        self.prepare_rule(spec).await?.replace(true).await?;
        match view_of(&id) {
            Some(name) => self.keep_filled(name).await,
            None => Ok(()),
        }
    }

    /// Changes the description of a view whose rows are in process 0.
    pub fn describe_view(&self, about: &Description) {
        if let Some(view) = self.views.find(&about.name) {
            locked(&view).reconfigure(about.clone());
        }
    }

    /// Checks that no other view, source or sink has the path of a view.
    ///
    /// # Errors
    /// [`EngineError::View`]
    pub fn check_path(&self, spec: &RuleSpec) -> Result<(), EngineError> {
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
        self.close_view(name).await;
        there
    }

    /// As [`Engine::drop_view`], by the id of its rule.
    pub async fn drop_view_of(&self, id: &str) {
        if let Some(name) = view_of(id) {
            self.drop_view(name).await;
        }
    }

    /// Ends a view whose rule does not run. Its clients are notified.
    pub async fn close_view(&self, name: &str) {
        self.views.drop_view(name);
        self.connectors.websockets.left_view().await;
    }
}

/// In process 0, serves clients that other processes hand over; in the others, hands clients over.
pub(super) fn lead_clients(websockets: &Websockets, clients: Clients) {
    match clients {
        Clients::Come(reception) => {
            let websockets = websockets.clone();
            tokio::spawn(async move { reception.run(|stream| websockets.take_over(stream)).await });
        }
        Clients::Go(passage) => websockets.hand_over_by(Arc::new(move || {
            let passage = passage.clone();
            async move { passage.open().await }.boxed()
        })),
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
