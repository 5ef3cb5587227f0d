//! Live views with several processes: process 0 has their rows, and the others read their streams for it.

use std::sync::Arc;

use super::super::error::ServiceError;
use super::super::processes::{NotBegun, Recipe, Refusal};
use super::super::{Service, locked};
use super::parse;
use crate::definition::stream::Catalog;
use crate::engine::{Engine, EngineError, RuleSpec, view_of};
use crate::value::Text;

impl Service {
    /// What other processes need to plan a rule or view that reads `names`.
    pub(in crate::service) fn recipe(&self, id: &str, text: &str, names: Vec<Text>) -> Recipe {
        if self.followers().is_none() {
            return Recipe::default();
        }
        let names = self.with_read_by_views(names);
        let views = self.in_order().into_iter().filter(|(view, _)| names.iter().any(|name| name == view.as_str()));
        let views = views.map(|(_, view)| view.sql.to_string()).collect();
        let statements = locked(&self.inner.relations).statements(&names);
        Recipe { id: id.to_owned(), text: text.to_owned(), statements, views, ..Recipe::default() }
    }

    /// The streams, tables and views of a recipe.
    ///
    /// # Errors
    /// [`ServiceError`] for a statement that cannot be used here.
    pub(in crate::service) fn catalog_of(&self, recipe: &Recipe) -> Result<Arc<Catalog>, ServiceError> {
        let catalog = locked(&self.inner.relations).with_statements(&recipe.statements)?;
        if recipe.views.is_empty() {
            return Ok(catalog);
        }
        let mut catalog = Catalog::clone(&catalog);
        for sql in &recipe.views {
            let create = parse(sql)?;
            let shape = self.plan_view(&create, &catalog)?.shape;
            catalog.define_view(&create.name.name, &shape);
        }
        Ok(Arc::new(catalog))
    }

    /// Makes the same plan of a view as process 0.
    ///
    /// # Errors
    /// [`ServiceError`]
    pub(in crate::service) fn plan_view_part(&self, recipe: &Recipe) -> Result<RuleSpec, ServiceError> {
        let catalog = self.catalog_of(recipe)?;
        Ok(self.plan_view(&parse(&recipe.text)?, &catalog)?.spec)
    }

    /// Starts a view in all processes; `new`: no version of it runs.
    ///
    /// # Errors
    /// [`ServiceError`]; then a new view does not exist.
    pub(super) async fn run_view(&self, spec: RuleSpec, recipe: Recipe, new: bool) -> Result<(), ServiceError> {
        let failed = |error: EngineError| ServiceError::Statement(error.to_string());
        let engine = self.inner.engine.read().await;
        let engine = engine.as_ref().ok_or(ServiceError::Stopping)?;
        if self.followers().is_none() {
            let run = if new { engine.create_view(spec).await } else { engine.change_view(spec).await };
            return run.map_err(failed);
        }
        if !new {
            engine.check_path(&spec).map_err(failed)?;
            return self.run_view_everywhere(engine, spec, recipe, true).await;
        }
        engine.open_view(&spec).await.map_err(failed)?;
        let id = spec.id.clone();
        let run = self.run_view_everywhere(engine, spec, recipe, false).await;
        if run.is_err() {
            engine.drop_view_of(&id).await;
        }
        run
    }

    async fn run_view_everywhere(
        &self,
        engine: &Engine,
        spec: RuleSpec,
        mut recipe: Recipe,
        carry: bool,
    ) -> Result<(), ServiceError> {
        let id = spec.id.clone();
        let prepared = engine.prepare_rule(spec).await.map_err(|error| ServiceError::Statement(error.to_string()))?;
        (recipe.number, recipe.home) = (prepared.number(), prepared.home());
        if let Err(refusal) = self.prepare_elsewhere(recipe).await {
            prepared.undo().await;
            return Err(match refusal {
                Refusal::Stopping => ServiceError::Stopping,
                refusal => ServiceError::Statement(refusal.text()),
            });
        }
        if let Err(NotBegun { text, .. }) = self.begin_everywhere(engine, &id, prepared, carry).await {
            return Err(ServiceError::Statement(text));
        }
        let name = view_of(&id).unwrap_or_default();
        let kept = engine.check_filled(name).map_err(|error| ServiceError::Statement(error.to_string()));
        if kept.is_err() {
            self.stop_everywhere(engine, &id, "", false).await;
            engine.close_view(name).await;
        }
        kept
    }
}
