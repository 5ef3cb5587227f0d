//! A view over views: it follows the rows of other views and of lookup tables, joins them, and makes rows or groups.
//!
//! Each change removes a row, adds a row, or both, and passes through the view alone: what was computed from a row when
//! it was added is computed again and removed when it is removed. The view keeps the rows that it joins ([`Joins`]) and
//! its groups ([`Tally`]), and no other rows. A cut of it is a common cut of everything that it reads.
//!
//! A new view adds the existing rows in turns, so that others can run in between. Each turn ends with a cut, and clients
//! see all of them as one. Meanwhile it takes only changes that affect rows which it has added.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use crate::dataflow::context::RuleContext;
use crate::dataflow::feed::{Feed, Inbox, RowChange, Why};
use crate::dataflow::row::KeyHasher;
use crate::dataflow::timers::{Turn, WorkerClock};
use crate::expr::function::CallContext;
use crate::expr::{EvalError, Scope};
use crate::format::schema;
use crate::io::queue::RowFrame;
use crate::metrics::{FlowCounts, Place, RuleMetrics};
use crate::plan::physical::{Column, ColumnSource, Filter, Input, Scan};
use crate::plan::view::ViewPlan;
use crate::value::Value;
use crate::value::key::GroupKey;
use crate::view::ViewCell;

use super::join::Joins;
use super::outgoing::{CutData, Outgoing};
use super::row::{RowMaker, check_group};
use super::tally::Tally;

/// The source of the rows of an input.
pub enum Rows {
    /// another view
    View(Rc<Feed>),
    /// a lookup table: its current rows, and their later changes
    Table(Vec<RowChange>, Rc<Inbox>),
}

/// The state of a view over views.
pub struct DerivedView {
    inputs: Vec<InputRows>,
    /// the views that it reads
    sources: Vec<Rc<Feed>>,
    level: usize,
    joins: Joins,
    work: Work,
    /// whether it has stopped
    stopped: bool,
    /// its feed, while it adds the rows that were there at the start
    filling: Option<Rc<Feed>>,
    clock: Rc<WorkerClock>,
    context: Rc<RuleContext>,
    /// scratch space for a joined row
    wide: Vec<Value>,
}

struct InputRows {
    input: Input,
    inbox: Rc<Inbox>,
    fill: Fill,
}

/// The rows of an input that were there at the start.
enum Fill {
    /// those of a view with numbers below this were added
    View(Rc<Feed>, u32),
    Table(std::vec::IntoIter<RowChange>),
    /// all were added
    Done,
}

/// The result of a run of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ran {
    /// there was nothing to do
    Nothing,
    Something,
    /// there is more to do in the next turn
    More,
}

/// The work on joined rows.
struct Work {
    plan: ViewPlan,
    grouped: bool,
    maker: RowMaker,
    groups: HashMap<GroupKey, Group, KeyHasher>,
    /// groups whose row must be made again
    dirty: HashSet<GroupKey, KeyHasher>,
    /// those of them whose turn it is
    making: Vec<GroupKey>,
    out: Outgoing,
    /// the number of rows of the first input, and the counts of ON, WHERE and HAVING
    flow: FlowCounts,
    key: GroupKey,
}

struct Group {
    rows: u64,
    /// slots of one of its rows: the slots read after grouping have the same value in all
    first: Vec<Value>,
    tallies: Vec<Tally>,
}

/// The number of changes in one cut that is always allowed, whatever MAX_ROWS is.
const CHANGES: usize = 65_536;

/// The number of rows added between two looks at the clock.
const FILLED_AT_ONCE: usize = 256;

/// Why a row is ignored.
type Lost = (Place, String);

impl DerivedView {
    /// A view that begins to add the current rows.
    pub fn new(
        plan: ViewPlan,
        inputs: Vec<Input>,
        rows: Vec<Rows>,
        (view, feed): (Arc<ViewCell>, Rc<Feed>),
        context: Rc<RuleContext>,
        metrics: Arc<RuleMetrics>,
        clock: Rc<WorkerClock>,
    ) -> DerivedView {
        let sources: Vec<Rc<Feed>> = rows
            .iter()
            .filter_map(|rows| match rows {
                Rows::View(feed) => Some(feed.clone()),
                Rows::Table(..) => None,
            })
            .collect();
        let level = 1 + sources.iter().map(|feed| feed.level()).max().unwrap_or(0);
        let now = clock.now();
        let out = Outgoing::new(&plan, view, feed.clone(), level, metrics, now);
        feed.set_filling(true);
        out.open();
        let joins = Joins::new(plan.body.joins.clone(), &inputs);
        let inputs = inputs.into_iter().zip(rows).map(|(input, rows)| match rows {
            Rows::View(feed) => InputRows { input, inbox: feed.follow(), fill: Fill::View(feed, 0) },
            Rows::Table(rows, inbox) => InputRows { input, inbox, fill: Fill::Table(rows.into_iter()) },
        });
        let inputs: Vec<InputRows> = inputs.collect();
        DerivedView {
            joins,
            wide: vec![Value::Absent; plan.body.result_slots()],
            work: Work {
                grouped: plan.body.grouped,
                maker: RowMaker::new(&plan),
                groups: HashMap::default(),
                dirty: HashSet::default(),
                making: Vec::new(),
                out,
                flow: FlowCounts::default(),
                key: GroupKey::default(),
                plan,
            },
            inputs,
            sources,
            level,
            stopped: false,
            filling: Some(feed),
            clock,
            context,
        }
    }

    /// The number of views between it and streams.
    pub fn level(&self) -> usize {
        self.level
    }

    /// Whether it has the rows that were there at the start.
    pub fn is_filled(&self) -> bool {
        self.filling.is_none()
    }

    /// Applies the changes and makes a cut, or adds rows for a turn.
    pub fn run(&mut self, now: i64) -> Ran {
        if self.stopped {
            return Ran::Nothing;
        }
        if self.filling.is_some() {
            return self.fill(now);
        }
        if self.inputs.iter().all(|input| input.inbox.is_empty()) {
            return Ran::Nothing;
        }
        let inputs = std::mem::take(&mut self.inputs);
        for (number, InputRows { input, inbox, .. }) in inputs.iter().enumerate() {
            inbox.take().iter().for_each(|change| self.change(number, input, change, now));
        }
        if !self.stopped {
            self.inputs = inputs;
            self.cut(now);
        }
        Ran::Something
    }

    /// Adds rows that were there at the start, for a turn, and makes a cut. At the end clients see them.
    fn fill(&mut self, now: i64) -> Ran {
        if self.work.out.is_gone() {
            self.fail("it was dropped while it was filled".to_owned());
            return Ran::Something;
        }
        if self.sources.iter().any(|source| source.is_filling()) {
            // Rows that are added there meanwhile are read afterwards.
            let unread = self.inputs.iter().filter(|input| matches!(input.fill, Fill::View(_, 0)));
            unread.for_each(|input| drop(input.inbox.take()));
            return Ran::More;
        }
        let mut turn = Turn::begin();
        let mut inputs = std::mem::take(&mut self.inputs);
        for (number, InputRows { input, inbox, fill }) in inputs.iter_mut().enumerate() {
            // A change of a row that is not added yet is already contained in that row.
            let added = match fill {
                Fill::View(_, next) => u64::from(*next),
                Fill::Table(_) => continue,
                Fill::Done => u64::MAX,
            };
            let changes = inbox.take();
            let concern = changes.iter().filter(|change| change.id < added);
            concern.for_each(|change| self.change(number, input, change, now));
        }
        let mut is_over = false;
        for (number, InputRows { input, inbox, fill }) in inputs.iter_mut().enumerate() {
            while !is_over && !self.stopped && !matches!(fill, Fill::Done) {
                let (rows, next) = match fill {
                    // Its rows were replaced, and this view will be too.
                    Fill::View(..) if inbox.has_ended() => (Vec::new(), Fill::Done),
                    Fill::View(feed, next) => {
                        let (rows, next) = feed.rows_from(*next, FILLED_AT_ONCE);
                        (rows, next.map_or(Fill::Done, |next| Fill::View(feed.clone(), next)))
                    }
                    Fill::Table(rows) => {
                        let some: Vec<RowChange> = rows.by_ref().take(FILLED_AT_ONCE).collect();
                        let rest = std::mem::take(rows);
                        (some, if rest.len() == 0 { Fill::Done } else { Fill::Table(rest) })
                    }
                    Fill::Done => break,
                };
                *fill = next;
                rows.iter().for_each(|change| self.change(number, input, change, now));
                is_over = turn.spend(FILLED_AT_ONCE as u32);
            }
        }
        if self.stopped {
            self.filled();
            return Ran::Something;
        }
        let done = inputs.iter().all(|input| matches!(input.fill, Fill::Done));
        self.inputs = inputs;
        let done = done && self.make_rows(now, &mut turn);
        if !done {
            self.cut_by(now, |out, data, most| out.add(data, most));
            return if self.stopped { Ran::Something } else { Ran::More };
        }
        self.cut(now);
        self.filled();
        Ran::Something
    }

    fn filled(&mut self) {
        self.filling.take().iter().for_each(|feed| feed.set_filling(false));
        self.work.out.opened();
    }

    /// Stops it for ever.
    pub fn fail(&mut self, why: String) {
        self.stopped = true;
        self.work.out.discard(self.clock.now());
        self.filled();
        self.work.out.stop(why);
        // Nothing reads later changes.
        self.inputs.clear();
    }

    fn change(&mut self, number: usize, input: &Input, change: &RowChange, now: i64) {
        if self.stopped {
            return;
        }
        for (row, comes) in [(&change.old, false), (&change.new, true)] {
            if let Some(row) = row
                && let Err((place, error)) = self.row(number, input, change.id, row, comes, now)
                && comes
            {
                self.work.out.error(place, &error);
            }
        }
        // A cut may at most replace all rows of the view: more changes mean a join without bounds.
        let most = self.work.plan.max_rows;
        if self.work.out.pending() > most.saturating_mul(4).saturating_add(CHANGES) {
            self.fail(format!("its join makes far more rows than MAX_ROWS, {most}: join by more columns"));
        }
    }

    /// Adds or removes a row of an input.
    fn row(
        &mut self,
        number: usize,
        input: &Input,
        id: u64,
        row: &RowFrame,
        comes: bool,
        now: i64,
    ) -> Result<(), Lost> {
        let rule = self.context.clone();
        let context = rule.row(now, now);
        let slots = &mut self.wide[input.slots.clone()];
        fill(slots, &input.scan.columns, row, &context)?;
        if number == 0 {
            self.work.flow.filter_in += u64::from(comes);
            if !scanned(&input.scan, slots, &context)? {
                return Ok(());
            }
        }
        let work = &mut self.work;
        let mut lost = None;
        let mut give = |wide: &mut [Value], comes: bool| {
            if let Err(error) = work.row(wide, comes, &context) {
                lost.get_or_insert(error);
            }
        };
        match number {
            0 => self.joins.first(id, comes, &mut self.wide, &context, &mut give),
            _ => self.joins.other(number, id, comes, &mut self.wide, &context, &mut give),
        }
        lost.map_or(Ok(()), Err)
    }

    /// Makes the rows of changed groups, up to the end of the turn; true if all are made.
    fn make_rows(&mut self, now: i64, turn: &mut Turn) -> bool {
        let rule = self.context.clone();
        let context = rule.row(now, now);
        self.wide.fill(Value::Absent);
        self.work.make_rows(&mut self.wide, &context, turn)
    }

    fn cut(&mut self, now: i64) {
        self.make_rows(now, &mut Turn::endless());
        self.cut_by(now, |out, data, most| out.cut(data, Some(most)));
    }

    fn cut_by(&mut self, now: i64, cut: impl FnOnce(&mut Outgoing, CutData, usize) -> Result<(), usize>) {
        // A row of a window is final when the view time of its source has passed the end of the window.
        let ts = self.sources.iter().filter_map(|source| source.ts()).min().unwrap_or(now);
        let group = size_of::<(GroupKey, Group)>() + self.work.plan.body.aggregates.len() * size_of::<Tally>();
        let bytes = self.joins.bytes() + self.work.groups.capacity() * group;
        let most = self.work.plan.max_rows;
        let data = CutData { ts, now: self.clock.now(), bytes, ..CutData::default() };
        self.work.out.show_flow(&self.work.flow);
        if let Err(rows) = cut(&mut self.work.out, data, most) {
            self.fail(format!(
                "the view has {rows} rows, more than its MAX_ROWS of {most}: raise MAX_ROWS, or read fewer"
            ));
        }
    }
}

impl Work {
    /// Adds or removes a joined row.
    fn row(&mut self, wide: &mut [Value], comes: bool, context: &CallContext<'_>) -> Result<(), Lost> {
        let body = &self.plan.body;
        for (place, expr) in body.computed.iter().enumerate() {
            let value = expr.eval(&Scope { slots: wide, context }).map_err(selecting)?.into_owned();
            wide[body.first_computed() + place] = value;
        }
        let scope = Scope { slots: wide, context };
        let passes = body.joined_filter.as_ref().map_or(Ok(true), |filter| filter.test(&scope));
        if !passes.map_err(|error| (Place::Filter, format!("run Where error: {error}")))? {
            return Ok(());
        }
        self.flow.filter_out += u64::from(comes);
        if self.grouped { self.count(wide, comes, context) } else { self.put(wide, comes, context) }
    }

    /// Makes a row of the view from the row.
    fn put(&mut self, slots: &[Value], comes: bool, context: &CallContext<'_>) -> Result<(), Lost> {
        let scope = Scope { slots, context };
        let project = |error: super::row::RowError| (Place::Project, error.to_string());
        self.maker.key(&scope, &mut self.key).map_err(project)?;
        let row = match comes {
            true => Some(self.maker.row(&self.key, &scope).map_err(project)?),
            false => None,
        };
        self.out.emit((self.key.clone(), row));
        Ok(())
    }

    /// Adds the row to its group.
    fn count(&mut self, slots: &[Value], comes: bool, context: &CallContext<'_>) -> Result<(), Lost> {
        let scope = Scope { slots, context };
        let body = &self.plan.body;
        self.key.clear();
        for expr in &body.keys {
            self.key.push(&*expr.eval(&scope).map_err(selecting)?);
        }
        check_group(&self.key).map_err(|error| (Place::Aggregate, error.to_string()))?;
        let arguments = super::groups::arguments(body, &scope).map_err(selecting)?;
        let new = || Group {
            rows: 0,
            first: body.kept_slots.iter().map(|slot| slots[*slot].clone()).collect(),
            tallies: body.aggregates.iter().map(Tally::new).collect(),
        };
        let group = self.groups.entry(self.key.clone()).or_insert_with(new);
        let values = || group.tallies.iter().zip(&arguments);
        let taken = values().try_for_each(|(tally, value)| tally.check(value.as_ref()));
        let tallies = group.tallies.iter_mut().zip(&arguments);
        match (&taken, comes) {
            (Ok(()), true) => {
                group.rows += 1;
                tallies.for_each(|(tally, value)| tally.add(value.as_ref()));
            }
            (Ok(()), false) => {
                group.rows -= 1;
                tallies.for_each(|(tally, value)| tally.remove(value.as_ref()));
            }
            (Err(_), _) => {}
        }
        self.dirty.insert(self.key.clone());
        taken.map_err(|error| (Place::Aggregate, format!("run Select error: {error}")))
    }

    /// Makes the rows of changed groups, up to the end of the turn; true if all are made.
    fn make_rows(&mut self, slots: &mut [Value], context: &CallContext<'_>, turn: &mut Turn) -> bool {
        self.making.extend(self.dirty.drain());
        while let Some(key) = self.making.pop() {
            if turn.spend(1) {
                self.making.push(key);
                return false;
            }
            // Without GROUP BY there is one row from the start.
            let is_empty = self.groups.get(&key).is_none_or(|group| group.rows == 0 && !self.plan.body.keys.is_empty());
            if is_empty {
                self.groups.remove(&key);
                self.out.emit((key, None));
                continue;
            }
            let made = self.make_row(&key, slots, context);
            let row = made.unwrap_or_else(|(place, error)| {
                self.out.error(place, &error);
                None
            });
            match row {
                Some(row) => self.out.emit((key, Some(row))),
                None => self.out.remove(key, Why::Filtered),
            }
        }
        true
    }

    /// The row of a group; `None` if HAVING excludes it.
    fn make_row(
        &mut self,
        key: &GroupKey,
        slots: &mut [Value],
        context: &CallContext<'_>,
    ) -> Result<Option<super::row::Made>, Lost> {
        let Some(group) = self.groups.get(key) else { return Ok(None) };
        let body = &self.plan.body;
        for (slot, value) in body.kept_slots.iter().zip(&group.first) {
            slots[*slot] = value.clone();
        }
        for (place, tally) in group.tallies.iter().enumerate() {
            slots[body.row_slots + place] = tally.answer().map_err(selecting)?;
        }
        let scope = Scope { slots, context };
        self.flow.having_in += 1;
        let passes = body.having.as_ref().map_or(Ok(true), |having| having.test(&scope));
        if !passes.map_err(|error| (Place::Having, format!("run Having error: {error}")))? {
            return Ok(None);
        }
        self.flow.having_out += 1;
        self.maker.row(key, &scope).map(Some).map_err(|error| (Place::Project, error.to_string()))
    }
}

fn selecting(error: EvalError) -> Lost {
    (Place::Aggregate, format!("run Select error: {error}"))
}

/// Copies the columns of a row to the slots of its input.
fn fill(slots: &mut [Value], columns: &[Column], row: &RowFrame, context: &CallContext<'_>) -> Result<(), Lost> {
    for (slot, column) in slots.iter_mut().zip(columns) {
        *slot = match &column.source {
            ColumnSource::Key(wanted) => {
                let value = row.row.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
                schema::accept(wanted, column.ty.as_ref(), value, None, context.zone)
                    .map_err(|error| (Place::Decoder, error.to_string()))?
            }
            ColumnSource::Whole => Value::object(row.row.iter().cloned()),
            // A view over views has none of these.
            ColumnSource::Meta | ColumnSource::Topic => Value::Absent,
        };
    }
    Ok(())
}

/// Does the work of the scan of the first input; false if the row is excluded.
fn scanned(scan: &Scan, slots: &mut [Value], context: &CallContext<'_>) -> Result<bool, Lost> {
    let compute = |which: std::ops::Range<usize>, slots: &mut [Value]| {
        for index in which {
            let value = scan.computed[index].eval(&Scope { slots, context }).map_err(selecting)?.into_owned();
            slots[scan.columns.len() + index] = value;
        }
        Ok(())
    };
    compute(0..scan.computed_for_filter, slots)?;
    let passes = Filter::passes(scan.filter.as_ref(), &Scope { slots, context });
    if !passes.map_err(|error| (Place::Filter, format!("run Where error: {error}")))? {
        return Ok(false);
    }
    compute(scan.computed_for_filter..scan.computed.len(), slots)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use jiff::tz::TimeZone;

    use super::*;
    use crate::definition::stream::Catalog;
    use crate::plan::physical::{Body, RulePlan};
    use crate::plan::view::plan_view;
    use crate::sql::{parse_create, parse_view};
    use crate::sync::locked;
    use crate::time::Clock;
    use crate::view::Views;

    fn planned(sql: &str, catalog: &Catalog) -> (ViewPlan, Vec<Input>) {
        let plan = plan_view(&parse_view(sql).expect("a view"), catalog).expect("a plan");
        let RulePlan { inputs, body: Body::View(view), .. } = plan else { panic!("no view: {sql}") };
        (*view, inputs)
    }

    #[test]
    fn a_view_that_is_dropped_while_it_is_filled_takes_no_more_rows() {
        let mut catalog = Catalog::default();
        let stream = parse_create("CREATE STREAM s () WITH (DATASOURCE=\"/s\", TYPE=\"websocket\")");
        catalog.create(&stream.expect("a stream")).expect("it is right");
        let (base, _) = planned("CREATE VIEW base WITH (KEY=\"id\") AS SELECT id FROM s", &catalog);
        catalog.define_view("base", &base.shape);
        let views = Views::default();
        let store = views.create(base.about);
        for id in 0..9 {
            let row = format!("{{\"id\":{id}}}").into_bytes();
            locked(&store).put(&GroupKey::from_values([&Value::Int(id)]), row.into(), Box::default());
        }
        locked(&store).cut(1, 1);
        let waits = Rc::new(Cell::new(false));
        let feed = |name: &str| Rc::new(Feed::new(name.into(), TimeZone::UTC, waits.clone()));
        let rows = feed("base");
        rows.attach(&store, 0, true);
        for (dropped, filled) in [(false, 9), (true, 0)] {
            let (plan, inputs) = planned("CREATE VIEW copy WITH (KEY=\"id\") AS SELECT id FROM base", &catalog);
            let copy = views.create(plan.about.clone());
            let (id, hits, pause) = ("view:copy".to_owned(), Cell::default(), Cell::default());
            let context = Rc::new(RuleContext { id, started: 1, zone: TimeZone::UTC, hits, pause });
            let metrics = Arc::new(RuleMetrics::new("view:copy"));
            let clock = Rc::new(WorkerClock::new(Clock::System));
            let place = (copy.clone(), feed("copy"));
            let source = vec![Rows::View(rows.clone())];
            let mut view = DerivedView::new(plan, inputs, source, place, context, metrics.clone(), clock);
            if dropped {
                locked(&copy).end_opening();
            }
            while !view.is_filled() {
                view.run(1);
            }
            assert_eq!((locked(&copy).len(), metrics.has_failed()), (filled, dropped));
        }
    }
}
