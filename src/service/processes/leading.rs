//! The orders of process 0.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use jiff::tz::TimeZone;
use tokio::sync::Semaphore;

use super::super::error::ServiceError;
use super::super::rules::text_of;
use super::super::store::Change;
use super::super::{Inner, Service, Summary, locked};
use super::orders::{Answer, Begin, Event, Order, Recipe, Refusal, WireTotals, from_wire};
use super::report::PartReport;
use super::taps::FarTaps;
use super::{LEADER, Role, answers};
use crate::cluster::{Control, ControlSocket};
use crate::engine::{
    Engine, LastStatus, Mark, PreparedRule, Replaced, StateAnswer, Stopped, Together, Totals, view_of,
};
use crate::metrics::known_cause;

/// The most states that are being sent to this process at a time, since each takes memory.
const STATES: usize = 2;

/// How long the other processes may take for a report.
pub(super) const REPORTING: Duration = Duration::from_secs(3);

/// The exit code of a process whose cluster ends because another process was asked to end.
const ANOTHER_ENDS: u8 = 4;

/// The processes that take orders.
pub(in crate::service) struct Followers {
    /// The address of process 0.
    pub(super) host: String,
    links: Vec<Follower>,
    states: Semaphore,
    pub(super) taps: FarTaps,
}

/// Why a rule does not run in any process.
pub(in crate::service) struct NotBegun {
    pub text: String,
    /// Its versions that have run in this process.
    pub ended: Vec<Arc<LastStatus>>,
}

pub(super) struct Follower {
    pub process: usize,
    pub host: String,
    control: Control,
}

impl Followers {
    pub(super) fn start(host: &str, controls: Vec<ControlSocket>, inner: &Weak<Inner>) -> io::Result<Followers> {
        let link = |socket: ControlSocket| {
            let (process, host) = (socket.process, socket.host.clone());
            Ok(Follower { process, host, control: socket.start(answers(inner, Service::handle_event))? })
        };
        let links = controls.into_iter().map(link).collect::<io::Result<_>>()?;
        Ok(Followers { host: host.to_owned(), links, states: Semaphore::new(STATES), taps: FarTaps::default() })
    }

    fn of(&self, process: usize) -> Option<&Follower> {
        self.links.iter().find(|link| link.process == process)
    }

    /// All processes, the one with the state of a rule last.
    fn with_home_last(&self, home: usize) -> Vec<usize> {
        let all = std::iter::once(LEADER).chain(self.links.iter().map(|link| link.process));
        all.filter(|process| *process != home).chain([home]).collect()
    }

    /// Sends an order to all processes, and returns their answers.
    pub(super) async fn order(&self, order: &Order) -> Vec<(&Follower, Answer)> {
        join_all(self.links.iter().map(|link| async move { (link, link.order(order).await) })).await
    }

    /// The same, without answers that do not arrive in time.
    pub(super) async fn order_within(&self, order: &Order, limit: Duration) -> Vec<Answer> {
        self.order_each(order, limit).await.into_iter().filter_map(|(_, answer)| answer).collect()
    }

    /// The same for each process; `None`: its answer did not arrive in time.
    pub(super) async fn order_each(&self, order: &Order, limit: Duration) -> Vec<(&Follower, Option<Answer>)> {
        let ask = |link| async move { (link, tokio::time::timeout(limit, Follower::order(link, order)).await.ok()) };
        join_all(self.links.iter().map(ask)).await
    }
}

impl Follower {
    /// Sends an order. A lost process counts as one that stops, because then this process is about to end too.
    async fn order(&self, order: &Order) -> Answer {
        let answer = match postcard::to_allocvec(order) {
            Ok(order) => self.control.ask(order).await.ok(),
            Err(_) => None,
        };
        answer.and_then(|answer| postcard::from_bytes(&answer).ok()).unwrap_or(Answer::Refused(Refusal::Stopping))
    }

    /// The error for a refused order.
    pub(super) fn refuses(&self, refusal: Refusal) -> ServiceError {
        match refusal {
            Refusal::Stopping => ServiceError::Stopping,
            refusal => ServiceError::Elsewhere { process: self.process, host: self.host.clone(), why: refusal.text() },
        }
    }
}

impl Service {
    pub(in crate::service) fn followers(&self) -> Option<&Followers> {
        match self.role() {
            Role::Leads(followers) => Some(followers),
            Role::Alone | Role::Follows(_) => None,
        }
    }

    /// Writes changes of the catalog, all or none, after the other processes have made them.
    ///
    /// # Errors
    /// [`ServiceError`]; then nothing has changed, in any process.
    pub(in crate::service) async fn record(&self, changes: Vec<Change>) -> Result<(), ServiceError> {
        let followers = match self.role() {
            Role::Leads(followers) => followers,
            Role::Alone => return Ok(self.inner.store.write(changes).await?),
            // Process 0 writes them.
            Role::Follows(_) => return Ok(()),
        };
        let shared: Vec<Change> = changes.iter().filter(|change| change.is_shared()).cloned().collect();
        let mut undo = Vec::new();
        let mut refused = None;
        if !shared.is_empty() {
            for (follower, answer) in followers.order(&Order::Apply(shared)).await {
                match answer {
                    Answer::Applied(changes) => undo.push((follower, changes)),
                    Answer::Refused(refusal) => refused = Some(follower.refuses(refusal)),
                    answer => tracing::error!(process = follower.process, ?answer, "unexpected answer to a change"),
                }
            }
        }
        let recorded = match refused {
            Some(error) => Err(error),
            None => self.inner.store.write(changes).await.map_err(ServiceError::from),
        };
        if recorded.is_err() {
            for (follower, changes) in undo {
                if let Answer::Refused(refusal) = follower.order(&Order::Apply(changes)).await {
                    tracing::error!("a refused change is not undone everywhere: {}", follower.refuses(refusal));
                }
            }
        }
        recorded
    }

    /// Sends the catalog to the other processes, at the start.
    pub(in crate::service) async fn hand_over(&self) {
        let Some(followers) = self.followers() else { return };
        let rules = locked(&self.inner.rules).keys().cloned().collect();
        followers.order(&Order::Rules(rules)).await;
        // Tables read the uploads when they open.
        self.hand_uploads_over().await;
        let relations = locked(&self.inner.relations).records();
        let changes = self.conf_key_records().into_iter().chain(self.connection_records()).chain(relations);
        for change in changes {
            for (follower, answer) in followers.order(&Order::Apply(vec![change.clone()])).await {
                if let Answer::Refused(refusal) = answer {
                    tracing::error!("{}", follower.refuses(refusal));
                }
            }
        }
    }

    /// Holds back the sources of rules that start from now on, in all processes; `None` if the service is ending.
    pub(in crate::service) async fn start_together(&self) -> Option<Together> {
        let together = self.inner.engine.read().await.as_ref().map(Engine::start_together)?;
        self.tell_elsewhere(&Order::StartTogether).await;
        Some(together)
    }

    /// All rules are attached: their sources begin, in all processes.
    pub(in crate::service) async fn begin_together(&self, together: Option<Together>) {
        let Some(together) = together else { return };
        self.tell_elsewhere(&Order::BeginTogether).await;
        together.end().await;
    }

    /// Opens everything that a rule needs in the other processes.
    ///
    /// # Errors
    /// [`Refusal`]; then everything is closed again, or the service ends together with the other processes.
    pub(in crate::service) async fn prepare_elsewhere(&self, recipe: Recipe) -> Result<(), Refusal> {
        let Some(followers) = self.followers() else { return Ok(()) };
        let id = recipe.id.clone();
        let prepare = Order::Prepare(recipe);
        // The other processes may wait long for a peer that they dial.
        let answers = tokio::select! {
            () = self.inner.shutdown.cancelled() => return Err(Refusal::Stopping),
            answers = followers.order(&prepare) => answers,
        };
        let refused = answers.into_iter().find_map(|(follower, answer)| {
            let Answer::Refused(refusal) = answer else { return None };
            Some(refusal.of_process(follower.process, &follower.host))
        });
        match refused {
            Some(refusal) => {
                self.abandon_elsewhere(&id).await;
                Err(refusal)
            }
            None => Ok(()),
        }
    }

    /// Sends an order to the other processes that they cannot refuse.
    async fn tell_elsewhere(&self, order: &Order) {
        if let Some(followers) = self.followers() {
            followers.order(order).await;
        }
    }

    /// Undoes [`Service::prepare_elsewhere`].
    pub(in crate::service) async fn abandon_elsewhere(&self, id: &str) {
        self.tell_elsewhere(&Order::Abandon { id: id.to_owned() }).await;
    }

    /// Starts an opened rule in all processes, in place of the running version.
    ///
    /// The process with the rule's state starts it last: by then it is known how many rows of the running version are
    /// still on their way there. Rows of the new version wait until these have arrived.
    ///
    /// # Errors
    /// Why the rule does not run; then neither version runs.
    pub(in crate::service) async fn begin_everywhere(
        &self,
        engine: &Engine,
        id: &str,
        mut prepared: PreparedRule<'_>,
        carry: bool,
    ) -> Result<Option<Replaced>, NotBegun> {
        let Some(followers) = self.followers() else {
            let alone = prepared.replace(carry).await;
            return alone.map_err(|error| NotBegun { text: text_of(error), ended: Vec::new() });
        };
        let home = prepared.home().process;
        let mut checkpoint = prepared.take_checkpoint();
        // If the state moves to another process, the running version ends first.
        let moved = match engine.home_of(id).is_some_and(|old| old != home) {
            true => self.stop_everywhere(engine, id, "", carry).await,
            false => None,
        };
        if let Some(Stopped { saved: Some(Ok(saved)), .. }) = &moved {
            checkpoint = Some(saved.bytes.clone());
        }
        let (mut replaced, mut saved) = moved.map(|moved| (moved.last, moved.saved)).unzip();
        let mut saved: StateAnswer = saved.take().flatten();
        let (mut prepared, mut letters) = (Some(prepared), 0);
        for process in followers.with_home_last(home) {
            let begin = Begin {
                id: id.to_owned(),
                carry,
                letters: if process == home { letters } else { 0 },
                checkpoint: if process == home { checkpoint.take() } else { None },
            };
            let left = match followers.of(process) {
                Some(follower) => match follower.order(&Order::Begin(begin)).await {
                    Answer::Left(left) => Ok((left.letters, from_wire(left.saved))),
                    Answer::Refused(refusal) => Err(refusal.of_process(process, &follower.host).text()),
                    answer => Err(format!("process {process} answers {answer:?}")),
                },
                None => match prepared.take() {
                    Some(mut own) => {
                        begin.checkpoint.into_iter().for_each(|checkpoint| own.continue_from(checkpoint));
                        let begun = own.replace_after(carry, begin.letters).await.map_err(text_of);
                        begun.map(|old| {
                            let (last, saved, letters) = match old {
                                Some(old) => (Some(old.last), old.saved, old.letters),
                                None => (None, None, 0),
                            };
                            replaced = last.or(replaced.take());
                            (letters, saved)
                        })
                    }
                    None => Ok((0, None)),
                },
            };
            match left {
                Ok((sent, state)) => {
                    letters += sent;
                    saved = state.or(saved);
                }
                Err(error) => {
                    if let Some(prepared) = prepared.take() {
                        prepared.undo().await;
                    }
                    self.abandon_elsewhere(id).await;
                    let stop = Order::Stop { id: id.to_owned(), message: String::new(), keep: false, letters: 0 };
                    followers.order(&stop).await;
                    let stopped = engine.stop_rule(id, false).await.map(|stopped| stopped.last);
                    return Err(NotBegun { text: error, ended: replaced.into_iter().chain(stopped).collect() });
                }
            }
        }
        Ok(replaced.map(|last| Replaced { last, saved, letters }))
    }

    /// Stops a rule in all processes, in the one with its state last: by then it is known how many rows are on their
    /// way there. `None` if it does not run.
    pub(in crate::service) async fn stop_everywhere(
        &self,
        engine: &Engine,
        id: &str,
        message: &str,
        keep: bool,
    ) -> Option<Stopped> {
        let Some(followers) = self.followers() else { return engine.stop_rule(id, keep).await };
        let home = engine.home_of(id)?;
        let (mut own, mut letters, mut saved) = (None, 0, None);
        for process in followers.with_home_last(home) {
            let (keep, far) = if process == home { (keep, letters) } else { (false, 0) };
            match followers.of(process) {
                Some(follower) => {
                    let (id, message) = (id.to_owned(), message.to_owned());
                    match follower.order(&Order::Stop { id, message, keep, letters: far }).await {
                        Answer::Left(left) => {
                            letters += left.letters;
                            saved = from_wire(left.saved).or(saved);
                        }
                        answer => tracing::warn!(process, ?answer, "a rule is not stopped cleanly"),
                    }
                }
                None => {
                    own = engine.stop_rule_after(id, keep, far).await;
                    letters += own.as_ref().map_or(0, |own| own.letters);
                }
            }
        }
        own.map(|own| Stopped { saved: own.saved.or(saved), ..own })
    }

    /// Stops all rules in all processes, if there are others, and stores their states. Afterwards no rows are on their
    /// way between processes. Returns what was stopped, without totals.
    pub(in crate::service) async fn stop_with_others(&self, engine: &Engine, limit: Duration) -> Summary {
        let Some(followers) = self.followers() else { return Summary::default() };
        let summary = Mutex::new(Summary::default());
        let rules: Vec<String> = engine.status().await.into_iter().map(|rule| rule.id).collect();
        // States in other processes, which would be lost with them.
        let far = rules.iter().filter(|id| self.takes_state(id) && engine.home_of(id) != Some(LEADER));
        let unstored: Mutex<BTreeSet<String>> = Mutex::new(far.cloned().collect());
        let stop = async |id: String| {
            let is_far = locked(&unstored).contains(&id);
            // Held until the state is on disk.
            let _place = if is_far { followers.states.acquire().await.ok() } else { None };
            let stopped = self.stop_everywhere(engine, &id, "", true).await;
            let ran = stopped.is_some();
            let saved = stopped.and_then(|stopped| stopped.saved);
            let keeps = view_of(&id).is_none_or(|view| self.keeps_view(view));
            let kept = !keeps || self.keep_state(None, &id, saved).await;
            locked(&unstored).remove(&id);
            if ran {
                locked(&summary).count(&id, kept && self.is_on_disk(&id));
            }
        };
        let _ = tokio::time::timeout(limit, join_all(rules.into_iter().map(stop))).await;
        for rule in &*locked(&unstored) {
            tracing::warn!(rule, "its last state was not stored in time: it continues from its last checkpoint");
        }
        summary.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the counts of the other processes that answer within `limit`.
    pub(in crate::service) async fn add_totals_elsewhere(&self, totals: &mut Totals, limit: Duration) {
        let Some(followers) = self.followers() else { return };
        for answer in followers.order_within(&Order::Totals, limit).await {
            let Answer::Totals(WireTotals { delivered, lost, kept }) = answer else { continue };
            totals.delivered += delivered;
            totals.kept += kept;
            let lost = lost.iter().filter(|(_, count)| *count > 0);
            lost.for_each(|(cause, count)| totals.add_losses([&(known_cause(cause), *count)]));
        }
    }

    /// The state of a rule, from the process that has it; `None` if there is none, or if it is already stored.
    pub(in crate::service) async fn save_everywhere(&self, engine: &Engine, id: &str) -> StateAnswer {
        let home = self.followers().zip(engine.home_of(id));
        let Some((followers, home)) = home.filter(|(_, home)| *home != LEADER) else {
            return engine.save_rule(id).await;
        };
        let follower = followers.of(home)?;
        let _place = followers.states.acquire().await.ok()?;
        match follower.order(&Order::Save { id: id.to_owned() }).await {
            Answer::Saved(saved) => from_wire(saved),
            _ => None,
        }
    }

    /// Reports to the process with the rule's state that the state is on disk.
    pub(in crate::service) async fn is_kept(&self, engine: &Engine, id: &str, mark: Mark) {
        let home = self.followers().zip(engine.home_of(id));
        match home.and_then(|(followers, home)| followers.of(home)) {
            Some(follower) => drop(follower.order(&Order::Kept { id: id.to_owned(), mark }).await),
            None => engine.kept(id, mark),
        }
    }

    /// Tells the other processes to forget a deleted rule.
    pub(in crate::service) async fn forget_elsewhere(&self, id: &str) {
        self.tell_elsewhere(&Order::Forget { id: id.to_owned() }).await;
    }

    /// Sets the time zone in the other processes; `old` is the previous one.
    ///
    /// # Errors
    /// [`ServiceError`]; then no process has changed it.
    pub(in crate::service) async fn use_zone_elsewhere(
        &self,
        zone: &TimeZone,
        old: &TimeZone,
    ) -> Result<(), ServiceError> {
        let Some(followers) = self.followers() else { return Ok(()) };
        let Some(name) = zone.iana_name() else { return Err(ServiceError::Alone("a time zone without an IANA name")) };
        let answers = followers.order(&Order::UseZone(name.to_owned())).await;
        let (mut changed, mut refused) = (Vec::new(), None);
        for (follower, answer) in answers {
            match answer {
                Answer::Refused(refusal) => refused = Some(follower.refuses(refusal)),
                _ => changed.push(follower),
            }
        }
        let Some(refused) = refused else { return Ok(()) };
        if let Some(old) = old.iana_name() {
            let undo = &Order::UseZone(old.to_owned());
            join_all(changed.into_iter().map(|follower| follower.order(undo))).await;
        }
        Err(refused)
    }

    /// The reports of the other processes about rules: for each process its address, and its reports in the order of
    /// the rules. `None`: it did not answer in time.
    pub(in crate::service) async fn reports_elsewhere(
        &self,
        ids: &[String],
        look: bool,
    ) -> Vec<(usize, &str, Option<Vec<Option<PartReport>>>)> {
        let Some(followers) = self.followers() else { return Vec::new() };
        let order = &Order::Report { ids: ids.to_vec(), look };
        let answers = followers.order_each(order, REPORTING).await.into_iter();
        let reports = answers.map(|(follower, answer)| {
            let reports = match answer {
                Some(Answer::Reports(reports)) if reports.len() == ids.len() => Some(reports),
                _ => None,
            };
            (follower.process, follower.host.as_str(), reports)
        });
        reports.collect()
    }

    /// Handles an event of another process; false: it should send no more of the kind.
    pub(super) async fn handle_event(self, event: Event) -> bool {
        match event {
            Event::Failed { id, number, error } => self.fail_rule(&id, number, Some(error)).await,
            Event::Ends(process) => {
                tracing::warn!("process {process} has been asked to end: all processes end");
                self.ask_to_end(ANOTHER_ENDS);
            }
            Event::Tapped(rows) => return self.take_tapped(rows),
        }
        true
    }
}
