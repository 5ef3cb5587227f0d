//! Manages live views: their statements, and how they begin, change and end.
//!
//! A view runs in the engine from its creation on. Changes of views happen one after the other, together with those of
//! streams and tables, which share their name space.

mod looks;
mod processes;
mod threads;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use self::looks::{ViewReport, ViewRows};
use super::error::ServiceError;
use super::processes::Recipe;
use super::store::{Change, RecordKind, Records};
use super::{Service, locked};
use crate::definition::name::LongName;
use crate::definition::stream::{Catalog, RelationKind};
use crate::definition::view::ViewShape;
use crate::engine::{Keeps, RuleSpec, view_id};
use crate::pipeline::{self, UnknownKey};
use crate::plan::physical::Body;
use crate::plan::view::{check_cycle, in_order, over, plan_view, reads};
use crate::sql::ast::CreateView;
use crate::sql::parse_view;
use crate::value::Text;

/// Why a view does not run that was ended because memory was short.
pub(super) const MEMORY_WAS_SHORT: &str =
    "memory was short, and it used the most: raise basic.maxMemory, or keep fewer rows";

/// A view, as created.
#[derive(Clone, Debug)]
pub struct ManagedView {
    pub sql: Arc<str>,
    pub create: Arc<CreateView>,
    /// the interval at which its state is stored, ms; `None`: it is not
    pub checkpoint: Option<i64>,
    /// why it could not start
    problem: Option<String>,
}

/// A view that can start.
pub(super) struct PlannedView {
    pub spec: RuleSpec,
    /// the interval at which its state is stored, ms; `None`: it is not
    checkpoint: Option<i64>,
    /// the view as its readers see it
    pub shape: Arc<ViewShape>,
    /// what other processes need to make the same plan
    recipe: Recipe,
}

pub(super) fn parse(sql: &str) -> Result<CreateView, ServiceError> {
    parse_view(sql).map_err(|error| ServiceError::Statement(error.to_string()))
}

/// Statements of views, each after those that it reads. Statements that cannot be parsed come last.
pub(super) fn in_order_of_use(statements: &BTreeMap<String, String>) -> Vec<(&String, &String)> {
    let parsed: Vec<(&String, CreateView)> =
        statements.iter().filter_map(|(name, sql)| Some((name, parse_view(sql).ok()?))).collect();
    let creates: Vec<&CreateView> = parsed.iter().map(|(_, create)| create).collect();
    let place: BTreeMap<&str, usize> =
        in_order(&creates).iter().enumerate().map(|(place, create)| (create.name.name.as_str(), place)).collect();
    let place_of = |name: &String| {
        let create = parsed.iter().find(|(known, _)| *known == name).map(|(_, create)| create);
        create.and_then(|create| place.get(create.name.name.as_str()).copied()).unwrap_or(usize::MAX)
    };
    let mut ordered: Vec<(&String, &String)> = statements.iter().collect();
    ordered.sort_by_key(|(name, _)| place_of(name));
    ordered
}

impl Service {
    /// The names of all views, in alphabetical order.
    pub fn views(&self) -> Vec<String> {
        locked(&self.inner.views).keys().cloned().collect()
    }

    /// The view with this name.
    ///
    /// # Errors
    /// [`ServiceError::NoRelation`]
    pub fn view(&self, name: &str) -> Result<ManagedView, ServiceError> {
        let view = locked(&self.inner.views).get(name).cloned();
        view.ok_or_else(|| ServiceError::NoRelation { what: "view", name: name.to_owned() })
    }

    /// Notes why a view does not run.
    pub(super) fn note_problem(&self, name: &str, why: &str) {
        if let Some(view) = locked(&self.inner.views).get_mut(name) {
            view.problem = Some(why.to_owned());
        }
    }

    pub(super) fn has_view(&self, name: &str) -> bool {
        locked(&self.inner.views).contains_key(name)
    }

    /// The views that read a stream, table or view.
    pub(super) fn views_over(&self, name: &str) -> Vec<String> {
        let views = locked(&self.inner.views);
        let reads_it = |view: &ManagedView| reads(&view.create).any(|read| read == name);
        views.iter().filter(|(_, view)| reads_it(view)).map(|(view, _)| view.clone()).collect()
    }

    /// These names, and those that views among them read.
    pub(super) fn with_read_by_views(&self, mut names: Vec<Text>) -> Vec<Text> {
        let mut seen = 0;
        while let Some(name) = names.get(seen) {
            seen += 1;
            let Ok(ManagedView { create, .. }) = self.view(name) else { continue };
            let more: Vec<Text> = reads(&create).filter(|read| !names.contains(read)).cloned().collect();
            names.extend(more);
        }
        names
    }

    /// The statements of all views, in no particular order.
    fn creates(&self) -> Vec<Arc<CreateView>> {
        locked(&self.inner.views).values().map(|view| view.create.clone()).collect()
    }

    /// The names of the views that read `name`, directly or through others, in an order in which they can be created
    /// again.
    fn all_over(&self, name: &str) -> Vec<String> {
        let creates = self.creates();
        let creates: Vec<&CreateView> = creates.iter().map(Arc::as_ref).collect();
        over(name, &creates).iter().map(|create| create.name.name.to_string()).collect()
    }

    /// Creates the views that read `name` again, with its current definition. If one cannot be, it continues as before,
    /// and the reason is logged. Views that could not begin without `name` begin now.
    pub(super) async fn renew_views_over(&self, name: &str) {
        for view in self.all_over(name) {
            let Ok(ManagedView { create, .. }) = self.view(&view) else { continue };
            let renewed = async {
                let begun = self.inner.engine.read().await.as_ref().is_some_and(|engine| engine.has_view(&view));
                if !begun {
                    return self.begin_view(&view, &create).await;
                }
                let planned = self.plan_view(&create, &self.catalog())?;
                self.change_view(&view, planned).await
            };
            if let Err(error) = renewed.await {
                tracing::warn!(view, over = name, "the view continues unchanged: {error}");
            }
        }
    }

    /// Changes a view to another plan, and updates its readers.
    async fn change_view(&self, name: &str, planned: PlannedView) -> Result<(), ServiceError> {
        // A view that could not start, or was dropped because memory was short, does not exist in the engine.
        let is_new = !self.inner.engine.read().await.as_ref().is_some_and(|engine| engine.has_view(name));
        self.run_view(planned.spec, planned.recipe, is_new).await?;
        locked(&self.inner.relations).define_view(name, &planned.shape);
        Ok(())
    }

    /// The statements of all views, for an export.
    pub(super) fn view_statements(&self) -> BTreeMap<String, String> {
        locked(&self.inner.views).iter().map(|(name, view)| (name.clone(), view.sql.to_string())).collect()
    }

    /// Executes CREATE VIEW; returns the name.
    ///
    /// # Errors
    /// [`ServiceError`]; then nothing has changed.
    pub async fn create_view(&self, sql: &str) -> Result<String, ServiceError> {
        let create = parse(sql)?;
        let alone = self.inner.changing.lock().await;
        let name = create.name.name.to_string();
        LongName::check(&name)?;
        let taken = if self.has_view(&name) {
            Some("view")
        } else {
            self.catalog().relation(&name).map(|def| if def.kind == RelationKind::Stream { "stream" } else { "table" })
        };
        if let Some(what) = taken {
            return Err(ServiceError::Statement(format!("Create view fails: {what} {name} already exists.")));
        }
        self.check_cycle(&create)?;
        let PlannedView { spec, checkpoint, shape, recipe } = self.plan_view(&create, &self.catalog())?;
        let moved = self.gather(&spec.connected).await;
        self.run_view(spec, recipe, true).await?;
        if let Err(error) = self.inner.store.write(vec![Change::put(RecordKind::View, &name, sql)]).await {
            self.end_view(&name).await;
            return Err(error.into());
        }
        self.keep_view(&name, sql, create, checkpoint, &shape).await;
        // Views may have lost an earlier view with this name.
        self.renew_views_over(&name).await;
        drop(alone);
        for view in moved.iter().map(|view| view.as_str()).chain([name.as_str()]) {
            self.take_up(view).await;
        }
        self.revive_readers(&name).await;
        Ok(name)
    }

    fn check_cycle(&self, create: &CreateView) -> Result<(), ServiceError> {
        let creates = self.creates();
        let creates: Vec<&CreateView> = creates.iter().map(Arc::as_ref).collect();
        check_cycle(create, &creates).map_err(|error| ServiceError::Plan(Box::new(error)))
    }

    /// Replaces a view, or creates it. If the query, KEY, PARAMS, CLAIMS and EVENT_TIME are the same, its rows stay;
    /// otherwise it starts empty, and clients are notified.
    ///
    /// # Errors
    /// [`ServiceError`]
    pub async fn replace_view(&self, name: &str, sql: &str) -> Result<(), ServiceError> {
        let create = parse(sql)?;
        if create.name.name != name {
            let message = format!("Replace {name} fails: the sql statement must update the view {name}.");
            return Err(ServiceError::Statement(message));
        }
        if !self.has_view(name) {
            return self.create_view(sql).await.map(|_| ());
        }
        let alone = self.inner.changing.lock().await;
        self.check_cycle(&create)?;
        let planned = self.plan_view(&create, &self.catalog())?;
        self.check_readers(name, &planned.shape)?;
        let (checkpoint, shape) = (planned.checkpoint, planned.shape.clone());
        let before = self.catalog().view(name).and_then(|view| view.view.clone());
        let old = self.view(name)?.sql;
        let moved = self.gather(&planned.spec.connected).await;
        self.inner.store.write(vec![Change::put(RecordKind::View, name, sql)]).await?;
        if let Err(error) = self.change_view(name, planned).await {
            self.inner.store.write(vec![Change::put(RecordKind::View, name, &*old)]).await?;
            return Err(error);
        }
        self.keep_view(name, sql, create, checkpoint, &shape).await;
        let reshaped = before.is_none_or(|before| *before != *shape);
        if reshaped {
            self.renew_views_over(name).await;
        }
        drop(alone);
        for view in moved.iter().map(|view| view.as_str()).chain(reshaped.then_some(name)) {
            self.take_up(view).await;
        }
        Ok(())
    }

    /// Checks that the readers of a view can also read its new columns and key.
    ///
    /// # Errors
    /// The first reader that cannot.
    fn check_readers(&self, name: &str, shape: &Arc<ViewShape>) -> Result<(), ServiceError> {
        let mut catalog = Catalog::clone(&self.catalog());
        catalog.define_view(name, shape);
        let refused = |reader: String, error: ServiceError| {
            ServiceError::Statement(format!("Replace {name} fails: {reader} reads it and would fail: {error}"))
        };
        for view in self.all_over(name) {
            let Ok(ManagedView { create, .. }) = self.view(&view) else { continue };
            let planned = self.plan_view(&create, &catalog).map_err(|error| refused(format!("view {view}"), error))?;
            catalog.define_view(&view, &planned.shape);
        }
        for id in self.readers(name) {
            self.check_rule(&id, &catalog).map_err(|error| refused(format!("rule {id}"), error))?;
        }
        Ok(())
    }

    async fn keep_view(
        &self,
        name: &str,
        sql: &str,
        create: CreateView,
        checkpoint: Option<i64>,
        shape: &Arc<ViewShape>,
    ) {
        let view = ManagedView { sql: sql.into(), create: Arc::new(create), checkpoint, problem: None };
        locked(&self.inner.views).insert(name.to_owned(), view);
        locked(&self.inner.relations).define_view(name, shape);
        self.begin_checkpoints(&view_id(name), checkpoint).await;
    }

    /// Drops a view; its clients are notified. Without `force`, this is refused if a rule or another view reads it;
    /// with it, these keep the view's last rows.
    ///
    /// # Errors
    /// [`ServiceError`]; then nothing has changed.
    pub async fn drop_view(&self, name: &str, force: bool) -> Result<(), ServiceError> {
        let _alone = self.inner.changing.lock().await;
        if !self.has_view(name) {
            return Err(ServiceError::NothingToDrop { what: "view", name: name.to_owned() });
        }
        let mut readers = self.readers(name);
        readers.extend(self.views_over(name));
        if !force && !readers.is_empty() {
            return Err(ServiceError::ViewInUse { name: name.to_owned(), readers: readers.join(", ") });
        }
        let id = view_id(name);
        self.inner.store.write(vec![Change::remove(RecordKind::View, name), Change::remove_state(&id)]).await?;
        self.state_is_gone(&id);
        locked(&self.inner.views).remove(name);
        locked(&self.inner.relations).leave_view(name);
        self.end_view(name).await;
        Ok(())
    }

    /// Ends a view because memory is short, unless another version than `number` runs by now.
    pub(super) async fn end_for_memory(&self, name: &str, number: u64) {
        let _alone = self.inner.changing.lock().await;
        let running = self.inner.engine.read().await.as_ref().and_then(|engine| engine.number_of(&view_id(name)));
        if running == Some(number) {
            self.note_problem(name, MEMORY_WAS_SHORT);
            self.end_view(name).await;
        }
    }

    /// Ends a view in all processes. Its statement stays.
    async fn end_view(&self, name: &str) {
        if let Some(engine) = self.inner.engine.read().await.as_ref() {
            self.stop_everywhere(engine, &view_id(name), "", false).await;
            engine.close_view(name).await;
        }
    }

    /// Restores the stored views; [`Service::resume`] starts them.
    pub(super) fn restore_views(&self, records: &Records) {
        for (name, sql) in records.of(RecordKind::View) {
            match parse(sql) {
                Ok(create) => {
                    let view =
                        ManagedView { sql: sql.into(), create: Arc::new(create), checkpoint: None, problem: None };
                    locked(&self.inner.views).insert(name.to_owned(), view);
                    locked(&self.inner.relations).take_view(name);
                }
                Err(error) => tracing::error!("the stored view {name} cannot be used: {error}"),
            }
        }
        // Errors are reported when the view starts.
        for (name, view) in self.in_order() {
            if let Ok(planned) = self.plan_view(&view.create, &self.catalog()) {
                locked(&self.inner.relations).define_view(&name, &planned.shape);
            }
        }
    }

    /// All views, each after those that it reads.
    fn in_order(&self) -> Vec<(String, ManagedView)> {
        let creates = self.creates();
        let creates: Vec<&CreateView> = creates.iter().map(Arc::as_ref).collect();
        let names = in_order(&creates).into_iter().map(|create| create.name.name.to_string());
        names.filter_map(|name| Some((name.clone(), self.view(&name).ok()?))).collect()
    }

    /// Starts the stored views, before the rules.
    pub(super) async fn resume_views(&self) {
        for (name, view) in self.in_order() {
            if let Err(error) = self.begin_view(&name, &view.create).await {
                tracing::error!("the stored view {name} cannot start: {error}");
            }
        }
        self.inner.views_begun.send_replace(true);
    }

    /// Starts a stored view. If it cannot start, its status shows the reason.
    async fn begin_view(&self, name: &str, create: &CreateView) -> Result<(), ServiceError> {
        let begun = async {
            let PlannedView { mut spec, checkpoint, shape, recipe } = self.plan_view(create, &self.catalog())?;
            if checkpoint.is_some() {
                self.load_state(&mut spec).await;
            }
            self.run_view(spec, recipe, true).await?;
            locked(&self.inner.relations).define_view(name, &shape);
            Ok(checkpoint)
        };
        let begun: Result<Option<i64>, ServiceError> = begun.await;
        if let Some(view) = locked(&self.inner.views).get_mut(name) {
            view.checkpoint = begun.as_ref().map_or(None, |checkpoint| *checkpoint);
            view.problem = begun.as_ref().err().map(ToString::to_string);
        }
        self.begin_checkpoints(&view_id(name), begun?).await;
        Ok(())
    }

    /// Whether a view's state is stored when the service stops.
    pub(super) fn keeps_view(&self, name: &str) -> bool {
        locked(&self.inner.views).get(name).is_some_and(|view| view.checkpoint.is_some())
    }

    pub(super) fn plan_view(&self, create: &CreateView, catalog: &Catalog) -> Result<PlannedView, ServiceError> {
        let plan = plan_view(create, catalog);
        let plan = plan.map_err(|error| ServiceError::Plan(Box::new(error)))?;
        let mut sources = Vec::with_capacity(plan.inputs.len());
        for input in &plan.inputs {
            if input.stream.kind == RelationKind::View {
                sources.push(None);
                continue;
            }
            let source = pipeline::source(&input.stream, &self.config(), UnknownKey::Default);
            let (source, warnings) = source.map_err(super::definition::fault_of)?;
            for warning in warnings {
                tracing::warn!(view = %create.name.name, stream = %input.stream.name, "{warning}");
            }
            sources.push(Some(source));
        }
        let Body::View(view) = &plan.body else { return Err(ServiceError::Statement("it is not a view".to_owned())) };
        for warning in &view.warnings {
            tracing::warn!(view = %create.name.name, "{warning}");
        }
        let (checkpoint, shape) = (view.checkpoint, view.shape.clone());
        let id = view_id(&create.name.name);
        let (keeps, connected) = (Keeps::State(None), self.connected_with(create));
        let recipe = self.recipe(&id, &create.to_string(), reads(create).cloned().collect());
        let spec = RuleSpec { id, plan, sources, sinks: Vec::new(), send_error: false, keeps, connected };
        Ok(PlannedView { spec, checkpoint, shape, recipe })
    }
}
