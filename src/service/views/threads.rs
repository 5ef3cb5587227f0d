//! Decides which views share a data thread: those that are connected by views over them, or by rules that read several
//! of them.
//!
//! A view without connections goes to the least loaded thread. If a new view or rule connects views on different
//! threads, all of them move to one: their states move between two messages, clients do not notice, and rules that read
//! them restart.

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};

use super::super::Service;
use crate::engine::RuleSpec;
use crate::plan::view::{Connected, connected, in_order};
use crate::sql::ast::CreateView;
use crate::value::Text;

impl Service {
    /// The views that a view is connected with.
    pub(super) fn connected_with(&self, create: &CreateView) -> Connected {
        let creates: Vec<Arc<CreateView>> = self.creates();
        let others = creates.iter().map(Arc::as_ref).filter(|view| view.name.name != create.name.name);
        let views: Vec<&CreateView> = others.chain([create]).collect();
        connected(std::slice::from_ref(&create.name.name), &views, &self.read_together())
    }

    /// The views that rules read together.
    fn read_together(&self) -> Vec<Vec<Text>> {
        let views = |reads: Vec<Text>| -> Vec<Text> { reads.into_iter().filter(|name| self.has_view(name)).collect() };
        let read = self.reads_of_rules().into_iter().map(views);
        read.filter(|views| views.len() > 1).collect()
    }

    /// Moves connected views to one thread. The caller is the only one that changes views. Returns the views that have
    /// moved: the rules that read them must restart.
    pub(super) async fn gather(&self, connected: &Connected) -> Vec<Text> {
        let apart = match self.inner.engine.read().await.as_ref() {
            Some(engine) => engine.views_apart(connected),
            None => Vec::new(),
        };
        if apart.is_empty() {
            return apart;
        }
        let creates = self.creates();
        let creates: Vec<&CreateView> = creates.iter().map(Arc::as_ref).collect();
        let mut moved = Vec::new();
        // Each view moves after those that it reads.
        for create in in_order(&creates).into_iter().filter(|create| apart.contains(&create.name.name)) {
            let name = &create.name.name;
            let changed = async {
                let mut planned = self.plan_view(create, &self.catalog())?;
                planned.spec.connected = connected.clone();
                self.change_view(name, planned).await
            };
            match changed.await {
                Ok(()) => moved.push(name.clone()),
                Err(error) => tracing::warn!(view = %name, "the view stays on its data thread: {error}"),
            }
        }
        moved
    }

    /// Moves the views that a rule reads to one thread, before the rule starts.
    pub(in crate::service) fn gather_for(&self, spec: &RuleSpec) -> BoxFuture<'_, ()> {
        let read = spec.plan.inputs.iter().filter(|input| input.stream.view.is_some());
        let read: Vec<Text> = read.map(|input| input.stream.name.clone()).collect();
        if read.len() < 2 {
            return async {}.boxed();
        }
        let gathering = async move {
            let moved = {
                let _alone = self.inner.changing.lock().await;
                let mut together = self.read_together();
                together.push(read.clone());
                let creates = self.creates();
                let creates: Vec<&CreateView> = creates.iter().map(Arc::as_ref).collect();
                self.gather(&connected(&read, &creates, &together)).await
            };
            if !moved.is_empty() {
                let service = self.clone();
                // The caller holds the lock of one rule, but other rules read the views too.
                tokio::spawn(async move {
                    for view in moved {
                        service.take_up(&view).await;
                    }
                });
            }
        };
        gathering.boxed()
    }
}
