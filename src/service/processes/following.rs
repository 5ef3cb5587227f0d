//! The other processes execute what process 0 orders.

use super::super::error::ServiceError;
use super::super::store::{Change, RecordKind};
use super::super::{Service, locked};
use super::Role;
use super::looks::{RuleLook, WireSeen, turned_away};
use super::orders::{Answer, Event, Left, Order, Refusal, WireTotals, to_wire};
use super::report::PartReport;
use crate::cluster::Control;
use crate::engine::{Engine, Totals, view_of};

/// The link to process 0.
pub(in crate::service) struct Following {
    process: usize,
    control: Control,
}

impl Following {
    pub(super) fn new(process: usize, control: Control) -> Following {
        Following { process, control }
    }

    /// The number of this process.
    pub(super) fn process(&self) -> usize {
        self.process
    }

    /// Sends an event to process 0, and returns whether process 0 wants more of the kind. If process 0 is gone, this
    /// process is about to end too.
    pub(super) async fn tell(&self, event: &Event) -> bool {
        let Ok(event) = postcard::to_allocvec(event) else { return false };
        self.control.ask(event).await.is_ok_and(|answer| postcard::from_bytes(&answer) == Ok(true))
    }
}

impl Service {
    fn leader(&self) -> Option<&Following> {
        match self.role() {
            Role::Follows(following) => Some(following),
            Role::Alone | Role::Leads(_) => None,
        }
    }

    /// Reports to process 0 that a rule has failed here. Returns false if there is no process 0: then this process
    /// handles the failure.
    pub(in crate::service) async fn tell_failed(&self, id: &str, number: u64, error: String) -> bool {
        let Some(leader) = self.leader() else { return false };
        leader.tell(&Event::Failed { id: id.to_owned(), number, error }).await;
        true
    }

    /// Reports to process 0 that this process was asked to end, so that all processes end in order.
    pub async fn tell_ends(&self) {
        if let Some(leader) = self.leader() {
            leader.tell(&Event::Ends(leader.process)).await;
        }
    }

    /// Executes an order of process 0.
    pub(super) async fn follow(self, order: Order) -> Answer {
        match order {
            Order::Rules(ids) => {
                if let Some(engine) = self.inner.engine.read().await.as_ref() {
                    engine.retain_rules(|id| ids.iter().any(|known| known == id));
                }
                Answer::Done
            }
            Order::Apply(changes) => self.apply_all(changes).await,
            Order::StartTogether => {
                let together = self.inner.engine.read().await.as_ref().map(Engine::start_together);
                locked(&self.inner.together).extend(together);
                Answer::Done
            }
            Order::BeginTogether => {
                let together = locked(&self.inner.together).pop();
                if let Some(together) = together {
                    together.end().await;
                }
                Answer::Done
            }
            Order::Prepare(recipe) => match self.prepare_part(recipe).await {
                Ok(()) => Answer::Done,
                Err(refusal) => Answer::Refused(refusal),
            },
            Order::Begin(begin) => match self.begin_part(begin).await {
                Ok(replaced) => Answer::Left(
                    replaced.map_or_else(Left::default, |old| Left { letters: old.letters, saved: to_wire(old.saved) }),
                ),
                Err(refusal) => Answer::Refused(refusal),
            },
            Order::Abandon { id } => {
                self.abandon_part(&id).await;
                Answer::Done
            }
            Order::Stop { id, message, keep, letters } => {
                let stopped = self.stop_part(&id, &message, keep, letters).await;
                Answer::Left(stopped.map_or_else(Left::default, |stopped| Left {
                    letters: stopped.letters,
                    saved: to_wire(stopped.saved),
                }))
            }
            Order::Forget { id } => {
                locked(&self.inner.rules).remove(&id);
                if let Some(engine) = self.inner.engine.read().await.as_ref() {
                    engine.forget_rule(&id);
                }
                Answer::Done
            }
            Order::Save { id } => match self.inner.engine.read().await.as_ref() {
                Some(engine) => Answer::Saved(to_wire(engine.save_rule(&id).await)),
                None => Answer::Refused(Refusal::Stopping),
            },
            Order::Kept { id, mark } => {
                if let Some(engine) = self.inner.engine.read().await.as_ref() {
                    engine.kept(&id, mark);
                }
                Answer::Done
            }
            Order::Report { ids, look } => {
                let mut reports = Vec::with_capacity(ids.len());
                for id in &ids {
                    reports.push(self.part_report(id, look).await);
                }
                Answer::Reports(reports)
            }
            Order::Seen(stream) => {
                let engine = self.inner.engine.read().await;
                let seen = engine.as_ref().and_then(|engine| engine.seen_of_stream(&stream));
                Answer::Seen(seen.map(WireSeen::of))
            }
            Order::TurnedAway => {
                let engine = self.inner.engine.read().await;
                Answer::TurnedAway(engine.as_ref().map(turned_away).unwrap_or_default())
            }
            Order::Totals => match self.inner.engine.read().await.as_ref() {
                Some(engine) => {
                    let Totals { delivered, lost, kept } = engine.totals();
                    let lost = lost.into_iter().map(|(cause, count)| (cause.to_owned(), count)).collect();
                    Answer::Totals(WireTotals { delivered, lost, kept })
                }
                None => Answer::Refused(Refusal::Stopping),
            },
            Order::Links => Answer::Links(self.wire_links().await),
            Order::Tap(tap) => {
                self.follow_tap(tap).await;
                Answer::Done
            }
            Order::Upload { name, content } => self.follow_upload(name, content).await,
            Order::KeepUploads(names) => self.keep_uploads(names).await,
            Order::UseZone(zone) => match jiff::tz::TimeZone::get(&zone) {
                Ok(zone) => match self.use_zone(zone).await {
                    Ok(()) => Answer::Done,
                    Err(error) => Answer::Refused(refusal(&error)),
                },
                Err(error) => {
                    Answer::Refused(Refusal::Refused { text: format!("time zone {zone}: {error}"), connector: false })
                }
            },
        }
    }

    /// The report of this process about a rule or view; `None` if it does not exist here.
    async fn part_report(&self, id: &str, look: bool) -> Option<PartReport> {
        let report = match view_of(id) {
            Some(_) => None,
            None => Some(PartReport::of(&self.rule_status(id).await.ok()?)),
        };
        let engine = self.inner.engine.read().await;
        let engine = engine.as_ref()?;
        let report = match report {
            Some(report) => report,
            None => PartReport::from_status(&engine.rule_status(id).await?),
        };
        let look = look.then(|| RuleLook::of(engine, id));
        Some(report.with_look(look))
    }

    /// Makes changes, all or none. The answer contains the changes that undo them.
    async fn apply_all(&self, changes: Vec<Change>) -> Answer {
        let _alone = self.inner.changing.lock().await;
        let mut undo = Vec::new();
        for change in changes {
            match self.apply_change(change).await {
                Ok(inverse) => undo.insert(0, inverse),
                Err(error) => {
                    for change in undo {
                        if let Err(error) = self.apply_change(change).await {
                            tracing::error!("a refused change is not undone: {error}");
                        }
                    }
                    return Answer::Refused(refusal(&error));
                }
            }
        }
        Answer::Applied(undo)
    }

    /// Makes a change, and returns the one that undoes it.
    async fn apply_change(&self, change: Change) -> Result<Change, ServiceError> {
        let Some((kind, name, text)) = change.into_record() else {
            return Err(ServiceError::Statement(
                "process 0 has sent a change that is not part of the catalog".to_owned(),
            ));
        };
        let before = match kind {
            RecordKind::Stream | RecordKind::Table => self.follow_relation(&name, text.as_deref()).await?,
            RecordKind::ConfKey => self.follow_conf_key(&name, text.as_deref())?,
            RecordKind::Connection => self.follow_connection(&name, text.as_deref()).await?,
            RecordKind::Rule | RecordKind::View => None,
        };
        Ok(match before {
            Some(before) => Change::put(kind, name, before),
            None => Change::remove(kind, name),
        })
    }
}

fn refusal(error: &ServiceError) -> Refusal {
    match error {
        ServiceError::Stopping => Refusal::Stopping,
        error => Refusal::Refused { text: error.to_string(), connector: false },
    }
}
