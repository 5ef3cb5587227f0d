//! A rule or view in a process that takes orders: it opens, begins and stops as process 0 orders.
//!
//! An opened rule waits in its own task for the order to begin; nothing else in this process waits for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::super::definition::{Definition, Planned};
use super::super::error::ServiceError;
use super::super::processes::{Begin, Recipe, Refusal};
use super::super::topology::Topology;
use super::super::{Service, locked};
use super::entry::{Entry, State};
use super::life::{has_begun, has_stopped, refusal_of, text_of};
use crate::engine::{Engine, PreparedRule, Replaced, Stopped, view_of};
use crate::plan::physical::Body;
use crate::view::Description;

/// Opened rules that wait for the order to begin, by id.
pub(in crate::service) type ReadyRules = Mutex<HashMap<String, oneshot::Sender<Decision>>>;

/// The order that decides about an opened rule.
pub(in crate::service) enum Decision {
    Begin(Begin, oneshot::Sender<Result<Option<Replaced>, Refusal>>),
    /// Close it; the channel reports when it is closed.
    Abandon(oneshot::Sender<()>),
}

/// An opened rule or view.
struct Opened<'e> {
    what: What,
    prepared: PreparedRule<'e>,
}

enum What {
    Rule(Box<Definition>, Topology),
    View {
        about: Description,
        /// it did not exist before
        new: bool,
    },
}

impl Service {
    /// Opens everything that a rule needs.
    ///
    /// # Errors
    /// [`Refusal`]; then everything is closed again.
    pub(in crate::service) async fn prepare_part(&self, recipe: Recipe) -> Result<(), Refusal> {
        let (decide, decision) = oneshot::channel();
        let (outcome, ready) = oneshot::channel();
        locked(&self.inner.ready_rules).insert(recipe.id.clone(), decide);
        let service = self.clone();
        tokio::spawn(async move { service.hold_ready(recipe, outcome, decision).await });
        ready.await.unwrap_or(Err(Refusal::Stopping))
    }

    /// Starts an opened rule in place of the running version.
    ///
    /// # Errors
    /// [`Refusal`]; then neither version runs here.
    pub(in crate::service) async fn begin_part(&self, begin: Begin) -> Result<Option<Replaced>, Refusal> {
        let Some(decide) = locked(&self.inner.ready_rules).remove(&begin.id) else { return Err(Refusal::Stopping) };
        let (done, begun) = oneshot::channel();
        let _ = decide.send(Decision::Begin(begin, done));
        begun.await.unwrap_or(Err(Refusal::Stopping))
    }

    /// Closes an opened rule again.
    pub(in crate::service) async fn abandon_part(&self, id: &str) {
        let Some(decide) = locked(&self.inner.ready_rules).remove(id) else { return };
        let (done, abandoned) = oneshot::channel();
        let _ = decide.send(Decision::Abandon(done));
        let _ = abandoned.await;
    }

    /// Opens a rule, and holds it open until the decision comes.
    async fn hold_ready(
        &self,
        recipe: Recipe,
        outcome: oneshot::Sender<Result<(), Refusal>>,
        decision: oneshot::Receiver<Decision>,
    ) {
        let engine = self.inner.engine.read().await;
        let Some(engine) = engine.as_ref() else { return };
        let opened = match view_of(&recipe.id) {
            Some(_) => self.open_view_part(engine, &recipe).await,
            None => self.open_part(engine, &recipe).await,
        };
        let Opened { what, mut prepared } = match opened {
            Ok(opened) => opened,
            Err(refusal) => {
                locked(&self.inner.ready_rules).remove(&recipe.id);
                let _ = outcome.send(Err(refusal));
                return;
            }
        };
        let _ = outcome.send(Ok(()));
        let decision = tokio::select! {
            decision = decision => decision.ok(),
            () = self.inner.shutdown.cancelled() => None,
        };
        if let Some(Decision::Begin(begin, done)) = decision {
            begin.checkpoint.into_iter().for_each(|checkpoint| prepared.continue_from(checkpoint));
            let begun = prepared.replace_after(begin.carry, begin.letters).await;
            let begun = begun.map_err(|error| Refusal::Failed(text_of(error)));
            match (what, &begun) {
                (What::Rule(definition, nodes), Ok(replaced)) => {
                    let entry = self.part(&recipe.id, &definition, &recipe.text);
                    has_begun(
                        &entry,
                        self.inner.topologies.share(nodes),
                        &engine.sources_of(&recipe.id),
                        replaced.as_ref().map(|old| old.last.clone()),
                    );
                }
                (What::View { about, .. }, Ok(_)) => engine.describe_view(&about),
                (_, Err(_)) => {}
            }
            let _ = done.send(begun);
            return;
        }
        prepared.undo().await;
        if let What::View { about, new: true } = what {
            engine.close_view(&about.name).await;
        }
        if let Some(Decision::Abandon(done)) = decision {
            let _ = done.send(());
        }
    }

    async fn open_part<'e>(&self, engine: &'e Engine, recipe: &Recipe) -> Result<Opened<'e>, Refusal> {
        let (definition, planned) = self.plan_part(recipe).map_err(refusal_of_plan)?;
        let Planned { spec, nodes, .. } = planned;
        let prepared = engine.prepare_rule_as(spec, recipe.number, Some(recipe.home)).await.map_err(refusal_of)?;
        Ok(Opened { what: What::Rule(Box::new(definition), nodes), prepared })
    }

    async fn open_view_part<'e>(&self, engine: &'e Engine, recipe: &Recipe) -> Result<Opened<'e>, Refusal> {
        let spec = self.plan_view_part(recipe).map_err(refusal_of_plan)?;
        let Body::View(plan) = &spec.plan.body else { return Err(Refusal::Failed("it is not a view".to_owned())) };
        let about = plan.about.clone();
        let new = !engine.has_view(&about.name);
        if new {
            engine.open_view(&spec).await.map_err(refusal_of)?;
        } else {
            engine.check_path(&spec).map_err(refusal_of)?;
        }
        match engine.prepare_rule_as(spec, recipe.number, Some(recipe.home)).await {
            Ok(prepared) => Ok(Opened { what: What::View { about, new }, prepared }),
            Err(error) => {
                if new {
                    engine.close_view(&about.name).await;
                }
                Err(refusal_of(error))
            }
        }
    }

    /// Makes the same plan of a rule as process 0.
    fn plan_part(&self, recipe: &Recipe) -> Result<(Definition, Planned), ServiceError> {
        let config = self.config();
        let definition = Definition::read(&recipe.text, Some(&recipe.id), &config.rule)?;
        let planned = definition.plan(&*self.catalog_of(recipe)?, &self.bindings())?;
        let planned = if recipe.unchecked { planned.unchecked() } else { planned };
        Ok((definition, planned))
    }

    /// The entry of a rule, with this definition.
    fn part(&self, id: &str, definition: &Definition, text: &str) -> Arc<Entry> {
        let mut rules = locked(&self.inner.rules);
        let new = || Entry::new(id, State { created: true, ..State::of(definition, text) });
        let entry = rules.entry(id.to_owned()).or_insert_with(new).clone();
        locked(&entry.state).redefine(definition, text);
        entry
    }

    /// Stops a rule after this many letters of other processes have arrived for it; `None` if it does not run.
    pub(in crate::service) async fn stop_part(
        &self,
        id: &str,
        message: &str,
        keep: bool,
        letters: u64,
    ) -> Option<Stopped> {
        let engine = self.inner.engine.read().await;
        let engine = engine.as_ref()?;
        let stopped = engine.stop_rule_after(id, keep, letters).await;
        if let Some(view) = view_of(id) {
            engine.close_view(view).await;
        }
        let stopped = stopped?;
        if let Some(entry) = self.entry(id) {
            has_stopped(&entry, Some(stopped.last.clone()), message);
        }
        Some(stopped)
    }
}

fn refusal_of_plan(error: ServiceError) -> Refusal {
    let connector = matches!(error, ServiceError::Connector(_));
    Refusal::Refused { text: error.to_string(), connector }
}
