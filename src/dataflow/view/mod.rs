//! The operator of a view: takes messages, and makes changed rows and cuts.
//!
//! It takes the place of the operator of a rule with state and reads the same rows from the same queue. Where a rule
//! acts when a window closes, it acts at a cut: a group gets one new row for all messages that the stream delivered
//! together. The rows go to the view's store ([`crate::view::View`]), where clients find them.

mod derived;
mod expiry;
mod groups;
mod join;
mod network;
mod order;
mod outgoing;
mod row;
mod sessions;
mod tally;
mod top;
mod windows;

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use crate::expr::function::CallContext;
use crate::expr::{EvalError, Expr, Scope};
use crate::metrics::{FlowCounts, Place, RuleMetrics};
use crate::plan::fingerprint::Fingerprint;
use crate::plan::physical::{Filter, Stateful};
use crate::plan::view::{ViewKind, ViewPlan};
use crate::value::Value;
use crate::value::key::GroupKey;
use crate::view::ViewCell;

use super::analytic::Memories;
use super::batch::RowBatch;
use super::context::RuleContext;
use super::feed::{Feed, Why};
use super::operate::{Operate, Progress};
use super::queue::RuleQueue;
use super::state::checkpoint::{CheckpointError, CheckpointReader, StateParts, Writer};
use super::state::measure::{Meter, StateSize};
use super::timers::{Alarm, Turn, WorkerClock};
use groups::{Group, Groups, Held, Saved};
use outgoing::{CutData, Leaving, Left, Outgoing};
use row::{Made, RowError, RowMaker, check_group};
use sessions::{SavedSessions, SessionRow, Sessions};
use top::Change;
use windows::Hops;

pub use derived::Ran;
pub use network::{Beginning, Network};

/// The time between two cuts of a view of groups without readers, ms.
const UNWATCHED: i64 = 50;

/// The state of a view.
pub struct ViewOperator {
    plan: ViewPlan,
    out: Outgoing,
    context: Rc<RuleContext>,
    metrics: Arc<RuleMetrics>,
    clock: Rc<WorkerClock>,
    /// wakes the operator when rows expire by the clock
    alarm: Alarm,
    /// the next wake-up for a row that expires
    wakes: Option<i64>,
    /// when rows were last made
    cut_at: i64,
    /// whether it will be woken to make rows
    deferred: bool,
    /// more rows should have expired by now than one cut removes
    expires_more: bool,
    memories: Memories,
    maker: RowMaker,
    groups: Groups,
    hops: Option<Hops>,
    sessions: Option<Sessions>,
    /// groups whose row must be made again
    dirty: Vec<u32>,
    /// windows by their end
    ends: BTreeSet<(i64, u32)>,
    /// current time: the watermark, or the clock
    reached: i64,
    /// number of changes of the state
    changed: u64,
    counts: Counts,
    /// the counts of WHERE and HAVING
    flow: FlowCounts,
    /// scratch space for a row
    slots: Vec<Value>,
    key: GroupKey,
}

#[derive(Default)]
struct Counts {
    evicted: u64,
    expired: u64,
}

impl Operate for ViewOperator {
    fn changes(&self) -> u64 {
        let Left { expired, evicted } = self.out.left();
        self.changed + expired + evicted
    }

    fn rows(&mut self, mut batch: RowBatch) {
        let now = self.clock.now();
        self.changed += batch.times.len() as u64;
        batch.each(|time, input, slots| {
            if let Err((place, error)) = self.row(now, time, input, slots) {
                self.out.error(place, &error);
            }
        });
    }

    fn advance(&mut self, frontier: Option<i64>) {
        let now = self.clock.now();
        let in_event_time = self.plan.body.event_time.is_some();
        if let Some(watermark) = frontier.filter(|_| in_event_time) {
            self.metrics.reaches(watermark);
        }
        // At the end of a feed, time stops: rows stay as they are.
        if let Some(reached) = frontier {
            self.reached = if in_event_time { reached } else { now };
        }
        self.expire(now);
        self.evict();
        if frontier.is_some() && self.may_wait(now) {
            return self.wake();
        }
        (self.cut_at, self.deferred) = (now, false);
        self.make_rows(now);
        self.cut(now);
        self.out.show_flow(&self.flow);
        self.wake();
    }

    /// A cut takes little time, so it is made when it is due; rows that expire together leave in several.
    fn work(&mut self, _turn: &mut Turn) -> Progress {
        if self.expires_more { Progress::More } else { Progress::Done }
    }

    fn settle(&mut self) {
        while self.expires_more {
            let now = self.clock.now();
            self.expire(now);
            self.make_rows(now);
            self.cut(now);
        }
    }

    fn forget(&mut self) {
        self.groups = Groups::default();
        self.ends.clear();
    }

    fn save(&self, plan: &Fingerprint, queue: &RuleQueue) -> Result<Vec<u8>, CheckpointError> {
        let mut to = Writer::new(plan);
        self.parts(queue, &mut to)?;
        Ok(to.finish())
    }

    fn size(&self, queue: &RuleQueue) -> StateSize {
        let mut meter = Meter::default();
        // Measuring cannot fail.
        let _ = self.parts(queue, &mut meter);
        StateSize { bytes: meter.bytes(), windows: self.hops.is_some().then_some(self.ends.len() as u64) }
    }

    fn restore(&mut self, checkpoint: &[u8], plan: &Fingerprint, queue: &RuleQueue) -> Result<(), CheckpointError> {
        let mut from = CheckpointReader::open(checkpoint, plan)?;
        self.memories.restore(&mut from)?;
        let groups: Vec<Saved> = from.take()?;
        if let Some(sessions) = &mut self.sessions {
            let saved: Vec<(GroupKey, SavedSessions)> = from.take()?;
            sessions.restore(saved);
        }
        let rows: Vec<(GroupKey, Made, i64)> = from.take()?;
        self.reached = from.take()?;
        queue.restore(from)?;
        for saved in groups {
            let number = self.groups.restore(saved);
            if matches!(self.plan.kind, ViewKind::Windows) {
                self.ends.insert((self.groups.held[number].window.1, number));
            }
            self.mark(number);
        }
        for (key, made, touched) in rows {
            self.emit((key, Some(Made { touched, ..made })));
        }
        let now = self.clock.now();
        self.make_rows(now);
        self.cut(now);
        self.wake();
        Ok(())
    }
}

impl ViewOperator {
    /// An operator without rows.
    pub fn new(
        plan: ViewPlan,
        view: Arc<ViewCell>,
        feed: Rc<Feed>,
        context: Rc<RuleContext>,
        metrics: Arc<RuleMetrics>,
        clock: Rc<WorkerClock>,
        alarm: Alarm,
    ) -> ViewOperator {
        let in_event_time = plan.body.event_time.is_some();
        let windowed = matches!(plan.kind, ViewKind::Windows);
        let zone = context.zone.clone();
        let mut out = Outgoing::new(&plan, view, feed, 0, metrics.clone(), clock.now());
        if matches!(plan.kind, ViewKind::Newest { .. }) {
            out = out.leaving(Leaving { expire: plan.expire, max_rows: plan.max_rows });
        }
        ViewOperator {
            memories: Memories::new(&plan.body.steps),
            maker: RowMaker::new(&plan),
            groups: Groups::default(),
            hops: if windowed { Hops::new(&plan.body.window, &zone) } else { None },
            sessions: if windowed { Sessions::new(&plan.body.window, &zone, in_event_time) } else { None },
            dirty: Vec::new(),
            ends: BTreeSet::new(),
            out,
            reached: i64::MIN,
            changed: 0,
            counts: Counts::default(),
            flow: FlowCounts::default(),
            slots: vec![Value::Absent; plan.body.result_slots()],
            key: GroupKey::default(),
            alarm,
            wakes: None,
            cut_at: i64::MIN,
            deferred: false,
            expires_more: false,
            plan,
            context,
            metrics,
            clock,
        }
    }

    fn row(&mut self, now: i64, time: i64, input: usize, row: &mut [Value]) -> Result<(), (Place, String)> {
        let width = row.len().min(self.slots.len());
        for (place, value) in self.slots[..width].iter_mut().zip(row.iter_mut()) {
            *place = std::mem::take(value);
        }
        let mut slots = std::mem::take(&mut self.slots);
        let rule = self.context.clone();
        let context = rule.row(now, time);
        let done = self.arrive(now, time, input, &mut slots, &context);
        slots.fill(Value::Absent);
        self.slots = slots;
        done
    }

    fn arrive(
        &mut self,
        now: i64,
        time: i64,
        input: usize,
        slots: &mut [Value],
        context: &CallContext<'_>,
    ) -> Result<(), (Place, String)> {
        let at = |place: Place| move |error: EvalError| (place, format!("run Select error: {error}"));
        self.memories.run(&self.plan.body.steps, 0, input, slots, context).map_err(at(Place::Analytic))?;
        match self.plan.kind {
            ViewKind::Newest { .. } => self.newest(now, slots, context),
            ViewKind::Groups => self.grouped(now, slots, context),
            ViewKind::Windows => self.windowed(now, time, slots, context),
            // It has its own operator.
            ViewKind::Derived { .. } => Ok(()),
        }
    }

    /// Replaces the row of the key of the message, or removes it.
    fn newest(&mut self, now: i64, slots: &[Value], context: &CallContext<'_>) -> Result<(), (Place, String)> {
        let ViewKind::Newest { filter } = &self.plan.kind else { return Ok(()) };
        let scope = Scope { slots, context };
        let project = |error: RowError| (Place::Project, error.to_string());
        let mut key = std::mem::take(&mut self.key);
        self.maker.key(&scope, &mut key).map_err(project)?;
        let passes = filter.as_ref().map_or(Ok(true), |filter| filter.test(&scope));
        self.flow.filter_in += 1;
        let passes = passes.map_err(|error| (Place::Filter, format!("run Where error: {error}")))?;
        self.flow.filter_out += u64::from(passes);
        if passes {
            let made = self.maker.row(&key, &scope).map_err(project)?;
            self.emit((key, Some(Made { touched: now, ..made })));
        } else {
            self.out.remove(key, Why::Filtered);
        }
        Ok(())
    }

    /// Adds the message to its group.
    fn grouped(&mut self, now: i64, slots: &[Value], context: &CallContext<'_>) -> Result<(), (Place, String)> {
        let scope = Scope { slots, context };
        let body = &self.plan.body;
        self.flow.filter_in += 1;
        if !Filter::passes(body.filter.as_ref(), &scope)
            .map_err(|error| (Place::Filter, format!("run Where error: {error}")))?
        {
            return Ok(());
        }
        self.flow.filter_out += 1;
        group_key(body, &scope, &mut self.key)?;
        let arguments = groups::arguments(body, &scope).map_err(|error| (Place::Aggregate, error.to_string()))?;
        let key = &self.key;
        let (number, made) = self.groups.find_or_insert(key, || Held::new(key.clone(), (0, 0), body, slots, None));
        let added = self.groups.held[number].add(body, slots, &arguments, 0);
        if let Err(error) = added {
            if made {
                self.groups.remove(number);
            }
            return Err((Place::Aggregate, format!("run Select error: {error}")));
        }
        self.groups.touch(number, now);
        self.mark(number);
        Ok(())
    }

    /// Adds the message to its group in each window that contains it.
    fn windowed(
        &mut self,
        now: i64,
        time: i64,
        slots: &[Value],
        context: &CallContext<'_>,
    ) -> Result<(), (Place, String)> {
        let scope = Scope { slots, context };
        let body = &self.plan.body;
        let of_filter = |error: EvalError| (Place::Filter, format!("run Where error: {error}"));
        if !Filter::passes(body.admit.as_ref(), &scope)
            .map_err(|error| (Place::Window, format!("run Window Filter error: {error}")))?
        {
            return Ok(());
        }
        self.flow.filter_in += 1;
        let passes = Filter::passes(body.filter.as_ref(), &scope).map_err(of_filter)?;
        self.flow.filter_out += u64::from(passes);
        let is_session = self.sessions.is_some();
        if !passes && !is_session {
            return Ok(());
        }
        group_key(body, &scope, &mut self.key)?;
        let arguments = groups::arguments(body, &scope).map_err(|error| (Place::Aggregate, error.to_string()))?;
        let in_event_time = body.event_time.is_some();
        let key = self.key.clone();
        if let Some(sessions) = &mut self.sessions {
            let row = SessionRow::new(time, passes, slots, arguments);
            let redrawn = sessions.row(&key, row, self.reached);
            for start in redrawn.gone {
                if let Some(number) = self.groups.find(&of_window(&key, start)) {
                    self.forget(number, Why::Removed);
                }
            }
            for session in redrawn.sessions {
                let full = of_window(&key, session.start);
                if session.is_whole
                    && let Some(number) = self.groups.find(&full)
                {
                    self.drop_group(number);
                }
                for row in session.rows.iter().filter(|row| row.passes) {
                    let arguments = row.arguments.iter().cloned().collect();
                    let window = (session.start, session.end);
                    self.add_to_window(now, full.clone(), window, row.time, &row.slots, &arguments)?;
                }
            }
            return Ok(());
        }
        let windows = self.hops.as_ref().map(|hops| hops.of(time)).unwrap_or_default();
        let row_time = if in_event_time { time } else { 0 };
        for window in windows {
            self.add_to_window(now, of_window(&key, window.0), window, row_time, slots, &arguments)?;
        }
        Ok(())
    }

    fn add_to_window(
        &mut self,
        now: i64,
        key: GroupKey,
        window: (i64, i64),
        time: i64,
        slots: &[Value],
        arguments: &groups::Arguments,
    ) -> Result<(), (Place, String)> {
        let body = &self.plan.body;
        let timed = body.event_time.map(|_| time);
        let (number, made) = self.groups.find_or_insert(&key, || Held::new(key.clone(), window, body, slots, timed));
        let held = &mut self.groups.held[number];
        if let Err(error) = held.add(body, slots, arguments, time) {
            if made {
                self.groups.remove(number);
            }
            return Err((Place::Aggregate, format!("run Select error: {error}")));
        }
        if made || held.window != window {
            self.ends.remove(&(held.window.1, number));
            held.window = window;
            self.ends.insert((window.1, number));
        }
        self.groups.touch(number, now);
        self.mark(number);
        Ok(())
    }

    fn mark(&mut self, number: u32) {
        let held = &mut self.groups.held[number];
        if !held.dirty {
            held.dirty = true;
            self.dirty.push(number);
        }
    }

    /// Forgets a group and removes its row.
    fn forget(&mut self, number: u32, why: Why) {
        if let Some(key) = self.drop_group(number) {
            self.out.remove(key, why);
        }
    }

    fn drop_group(&mut self, number: u32) -> Option<GroupKey> {
        let held = self.groups.remove(number)?;
        self.ends.remove(&(held.window.1, number));
        self.changed += 1;
        Some(held.key)
    }

    /// Whether rows can be made later because nobody sees them now: making a group's row costs more than adding a
    /// message to it. A new reader sees the rows of a moment ago, and then the changes.
    fn may_wait(&mut self, now: i64) -> bool {
        let groups = matches!(self.plan.kind, ViewKind::Groups | ViewKind::Windows);
        // In event time nothing wakes the operator, and a manual clock stands still.
        let by_clock = self.plan.body.event_time.is_none() && !self.clock.is_manual();
        let until = self.cut_at.saturating_add(UNWATCHED);
        if !groups || !by_clock || now >= until || now < self.cut_at || self.dirty.is_empty() || self.out.is_watched() {
            return false;
        }
        if !self.deferred {
            self.deferred = true;
            self.alarm.at(until);
        }
        true
    }

    /// Makes the rows of groups with new messages.
    fn make_rows(&mut self, now: i64) {
        for number in std::mem::take(&mut self.dirty) {
            // The number of a removed group may now belong to another one, which is in the list itself.
            let held = self.groups.held.get_mut(number).filter(|held| held.dirty);
            let Some(held) = held else { continue };
            held.dirty = false;
            let key = held.key.clone();
            let made = self.make_row(now, number);
            let row = match made {
                Ok(row) => row,
                Err((place, error)) => {
                    self.out.error(place, &error);
                    None
                }
            };
            match row {
                Some(row) => self.emit((key, Some(row))),
                None => self.out.remove(key, Why::Filtered),
            }
        }
    }

    /// The row of a group; `None` if HAVING excludes it.
    fn make_row(&mut self, now: i64, number: u32) -> Result<Option<Made>, (Place, String)> {
        let Held { key, group, window, .. } = &self.groups.held[number];
        let Group { first, accumulators } = group;
        let body = &self.plan.body;
        for (&slot, value) in body.kept_slots.iter().zip(first) {
            self.slots[slot] = value.clone();
        }
        for (place, accumulator) in accumulators.iter().enumerate() {
            let answer = accumulator.answer();
            self.slots[body.row_slots + place] =
                answer.map_err(|error| (Place::Aggregate, format!("run Select error: {error}")))?;
        }
        let rule = self.context.clone();
        let context = match self.plan.kind {
            ViewKind::Windows => rule.window(now, window.0, window.1),
            _ => rule.row(now, now),
        };
        let scope = Scope { slots: &self.slots, context: &context };
        self.flow.having_in += 1;
        let passes = body.having.as_ref().map_or(Ok(true), |having: &Expr| having.test(&scope));
        if !passes.map_err(|error| (Place::Having, format!("run Having error: {error}")))? {
            return Ok(None);
        }
        self.flow.having_out += 1;
        self.maker.row(key, &scope).map(Some).map_err(|error| (Place::Project, error.to_string()))
    }

    fn emit(&mut self, change: Change) {
        self.out.emit(change);
    }

    fn cut(&mut self, now: i64) {
        let ts = if self.plan.body.event_time.is_some() { self.reached.max(0) } else { now };
        let Counts { evicted, expired } = self.counts;
        let bytes = self.groups.bytes();
        // Without a limit, nothing is refused.
        let _ = self.out.cut(CutData { ts, now, evicted, expired, bytes }, None);
        self.expires_more |= self.out.expires_more(now);
    }

    fn parts(&self, queue: &RuleQueue, to: &mut impl StateParts) -> Result<(), CheckpointError> {
        self.memories.save(to)?;
        to.put(&self.groups.save())?;
        if let Some(sessions) = &self.sessions {
            to.put(&sessions.save())?;
        }
        let is_newest = matches!(self.plan.kind, ViewKind::Newest { .. });
        to.put(&if is_newest { self.out.rows() } else { Vec::new() })?;
        to.put(&self.reached)?;
        queue.save(to)
    }
}

/// The checked key of a group.
fn group_key(body: &Stateful, scope: &Scope<'_>, key: &mut GroupKey) -> Result<(), (Place, String)> {
    key.clear();
    for expr in &body.keys {
        let value = expr.eval(scope).map_err(|error| (Place::Aggregate, format!("run Select error: {error}")))?;
        key.push(&value);
    }
    check_group(key).map_err(|error| (Place::Aggregate, error.to_string()))
}

/// The key for the row of a group in a window.
fn of_window(key: &GroupKey, start: i64) -> GroupKey {
    let mut key = key.clone();
    key.push(&Value::Int(start));
    key
}
