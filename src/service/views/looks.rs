//! Details of one view: the errors of its statement, its plan, its status, its clients, its rows.

use std::time::Duration;

use serde_json::{Map, Value as Json};

use super::super::diagnosis::{self, Diagnosis, Facts, ReadView};
use super::super::error::ServiceError;
use super::super::processes::RuleLook;
use super::super::{Service, locked};
use super::ManagedView;
use crate::engine::{Engine, NotTapped, RuleStatus, view_id};
use crate::metrics::{TapReader, TapSettings};
use crate::pipeline::diagnose;
use crate::plan::physical::Body;
use crate::plan::view::{ViewOptions, ViewPlan, explain_view, reads};
use crate::text::document::Problem;
use crate::value::Text;
use crate::view::{ClientStatus, Description, Filter, View, ViewStatus};

/// How long requests wait for the stored views to begin.
const BEGINNING: Duration = Duration::from_secs(10);

/// The default limit of returned rows.
const ROWS: usize = 10_000;

/// Rows of a view, as JSON.
#[derive(Clone, Debug)]
pub struct ViewRows {
    pub at: Text,
    /// view time, ms
    pub ts: i64,
    pub rows: Vec<Box<[u8]>>,
}

/// The status of a view.
#[derive(Clone, Debug, Default)]
pub struct ViewReport {
    /// its rows and clients
    pub view: ViewStatus,
    /// the status of its rule; `None` if it does not run
    pub engine: Option<RuleStatus>,
    /// the number of its data thread
    pub thread: usize,
    /// why its rows no longer change
    pub stopped: Option<String>,
    /// why it has no rows, and other findings
    pub diagnosis: Vec<Diagnosis>,
}

impl Service {
    /// All problems of a refused CREATE VIEW, with places.
    pub fn problems_of_view(&self, sql: &str) -> Vec<Problem> {
        diagnose::of_view(sql, &self.catalog())
    }

    /// Warnings about an accepted CREATE VIEW.
    pub fn warnings_of_view(&self, sql: &str) -> Vec<Problem> {
        diagnose::warnings_of_view(sql, &self.catalog())
    }

    /// The description of a view for clients, and its plan.
    ///
    /// # Errors
    /// [`ServiceError::NoRelation`], and errors that the view has against the current streams.
    pub fn describe_view(&self, name: &str) -> Result<(ManagedView, Box<ViewPlan>), ServiceError> {
        let view = self.view(name)?;
        match self.plan_view(&view.create, &self.catalog())?.spec.plan.body {
            Body::View(plan) => Ok((view, plan)),
            _ => Err(ServiceError::NoRelation { what: "view", name: name.to_owned() }),
        }
    }

    /// A view's plan as text.
    ///
    /// # Errors
    /// As [`Service::describe_view`].
    pub fn explain_view(&self, name: &str) -> Result<String, ServiceError> {
        let view = self.view(name)?;
        let explained = explain_view(&view.create, &self.catalog());
        explained.map_err(|error| ServiceError::Plan(Box::new(error)))
    }

    /// The status of a view.
    ///
    /// # Errors
    /// [`ServiceError::NoRelation`], [`ServiceError::Stopping`]
    pub async fn view_status(&self, name: &str) -> Result<ViewReport, ServiceError> {
        self.await_views(name).await;
        let managed = self.view(name)?;
        let engine = self.inner.engine.read().await;
        let engine = engine.as_ref().ok_or(ServiceError::Stopping)?;
        let Some(found) = engine.views().find(name) else {
            let why = managed.problem.unwrap_or_else(|| "it is about to begin".to_owned());
            let diagnosis = diagnosis::stopped_view(&why);
            return Ok(ViewReport { stopped: Some(why), diagnosis: vec![diagnosis], ..ViewReport::default() });
        };
        let view = locked(&found).status();
        let mut status = engine.rule_status(&view_id(name)).await;
        let mut looks = Vec::new();
        if let Some(status) = &mut status {
            for (process, _, parts) in self.reports_elsewhere(std::slice::from_ref(&status.id), true).await {
                let Some(mut part) = parts.into_iter().flatten().next().flatten() else { continue };
                part.add_to_engine(status);
                looks.extend(part.look.take().map(|look| (process, look)));
            }
        }
        let dropped = self.dropped_of(reads(&managed.create));
        let mut stopped = view.operator.stopped.clone();
        let mut found = diagnosis::dropped(&dropped);
        if let Some(status) = &status {
            if status.sources.is_empty() && stopped.is_none() {
                stopped = dropped.first().map(|name| diagnosis::was_dropped(name));
            }
            found.extend(self.silence_of(engine, &managed, &view, status, &looks));
        }
        let thread = engine.thread_of_view(name).unwrap_or_default();
        Ok(ViewReport { view, engine: status, thread, stopped, diagnosis: found })
    }

    /// Why a running view has no rows.
    fn silence_of(
        &self,
        engine: &Engine,
        managed: &ManagedView,
        view: &ViewStatus,
        status: &RuleStatus,
        looks: &[(usize, RuleLook)],
    ) -> Vec<Diagnosis> {
        let Ok(options) = ViewOptions::read(&managed.create) else { return Vec::new() };
        let read = reads(&managed.create).filter_map(|name| {
            let view = engine.views().find(name)?;
            let rows = locked(&view).len();
            Some(ReadView { name: name.to_string(), rows })
        });
        let read: Vec<ReadView> = read.collect();
        let (mut seen, mut turned_away) = (engine.seen(&status.id), engine.turned_away());
        for (_, look) in looks {
            look.add_seen(&mut seen);
            turned_away.extend(look.turned_away());
        }
        let facts = Facts {
            select: &managed.create.query,
            options: &options.rule_options(),
            status,
            seen: &seen,
            turned_away: &turned_away,
        };
        facts.of_view(view, &read)
    }

    /// The names among these that no stream, table or view has any more.
    pub(in crate::service) fn dropped_of<'a>(&self, names: impl Iterator<Item = &'a Text>) -> Vec<Text> {
        let catalog = self.catalog();
        names.filter(|name| catalog.relation(name).is_none() && !catalog.is_view(name)).cloned().collect()
    }

    /// Taps the rows of a running view.
    ///
    /// # Errors
    /// [`ServiceError::NoRelation`], [`ServiceError::NotTapped`]
    pub async fn tap_view(&self, name: &str, settings: &TapSettings) -> Result<TapReader, ServiceError> {
        self.view(name)?;
        let id = view_id(name);
        let tapped = match self.inner.engine.read().await.as_ref() {
            Some(engine) => engine.tap(&id, settings),
            None => Err(NotTapped::NotRunning),
        };
        match tapped {
            Ok(tapped) => Ok(self.tap_everywhere(&id, settings, tapped).await),
            Err(why) => Err(ServiceError::NotTapped { id, why }),
        }
    }

    /// The subscriptions of a view.
    ///
    /// # Errors
    /// As [`Service::view_status`].
    pub async fn view_clients(&self, name: &str) -> Result<Vec<ClientStatus>, ServiceError> {
        self.with_view(name, |view, now| view.clients(now)).await
    }

    /// The rows of a view with these parameter values, up to a limit.
    ///
    /// # Errors
    /// As [`Service::view_status`]; [`ServiceError::Statement`] for an unknown parameter.
    pub async fn view_rows(
        &self,
        name: &str,
        params: &[(Text, Vec<Json>)],
        limit: Option<usize>,
    ) -> Result<ViewRows, ServiceError> {
        let limit = limit.unwrap_or(ROWS);
        let rows = self.with_view(name, |view, _| {
            // Administrators see all rows: claims are for clients.
            let about: Description = view.about().without_claims();
            let filter = Filter::resolve(&about, params, Some(&Map::new()));
            let filter = filter.map_err(|error| ServiceError::Statement(error.to_string()))?;
            let mut rows = Vec::new();
            view.each_row(&filter, |row| {
                if rows.len() < limit {
                    rows.push(row.into());
                }
                rows.len() < limit
            });
            Ok(ViewRows { at: view.at(), ts: view.ts(), rows })
        });
        rows.await?
    }

    /// Waits for the stored views to begin, right after the start.
    async fn await_views(&self, name: &str) {
        if self.has_view(name) {
            let mut begun = self.inner.views_begun.subscribe();
            let _ = tokio::time::timeout(BEGINNING, begun.wait_for(|begun| *begun)).await;
        }
    }

    async fn with_view<T>(&self, name: &str, see: impl FnOnce(&View, i64) -> T) -> Result<T, ServiceError> {
        self.await_views(name).await;
        let managed = self.view(name)?;
        let engine = self.inner.engine.read().await;
        let views = engine.as_ref().ok_or(ServiceError::Stopping)?.views();
        let view = views.find(name).ok_or_else(|| {
            let why = managed.problem.unwrap_or_else(|| "it is about to begin".to_owned());
            ServiceError::Statement(format!("view {name} does not run: {why}"))
        })?;
        let view = locked(&view);
        Ok(see(&view, views.now()))
    }
}
