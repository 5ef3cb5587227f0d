//! The views over views of a worker, and the feeds between all its views.
//!
//! A view over views runs when the worker has nothing else to do, after everything that it reads: views with fewer
//! views between them and streams run first. So a view over several views gets a common cut of them, and a change
//! passes through all views above it before the next message.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use jiff::tz::TimeZone;

use crate::dataflow::command::RuleKey;
use crate::dataflow::context::RuleContext;
use crate::dataflow::feed::{Feed, Inbox, RowIndex};
use crate::dataflow::table::Tables;
use crate::dataflow::timers::{Turn, WorkerClock};
use crate::metrics::RuleMetrics;
use crate::plan::physical::Input;
use crate::plan::view::ViewPlan;
use crate::value::Text;
use crate::view::ViewCell;

use super::derived::{DerivedView, Ran, Rows};

/// The views over views of a worker, and the feeds of all views.
#[derive(Default)]
pub struct Network {
    feeds: HashMap<Text, Rc<Feed>>,
    /// those with fewer views below them first
    views: Vec<Node>,
    /// indexes that rules will look up
    lookups: Vec<Lookups>,
    /// set when something waits for readers of views
    waits: Rc<Cell<bool>>,
}

/// The parts of a view over views.
pub struct Beginning {
    pub plan: ViewPlan,
    pub inputs: Vec<Input>,
    /// destination of its rows
    pub view: Arc<ViewCell>,
    pub context: Rc<RuleContext>,
    pub metrics: Arc<RuleMetrics>,
    pub clock: Rc<WorkerClock>,
}

/// The indexes of a rule that is about to start.
struct Lookups {
    rule: RuleKey,
    indexes: Vec<Rc<RowIndex>>,
    /// called when they have all rows
    filled: Option<Box<dyn FnOnce()>>,
}

struct Node {
    key: RuleKey,
    level: usize,
    view: RefCell<DerivedView>,
    /// called when it has the rows that were there at the start
    filled: Option<Box<dyn FnOnce()>>,
}

impl Network {
    /// The feed of the view with this name.
    pub fn feed(&mut self, name: &str, zone: &TimeZone) -> Rc<Feed> {
        let new = || Rc::new(Feed::new(name.into(), zone.clone(), self.waits.clone()));
        self.feeds.entry(name.into()).or_insert_with(new).clone()
    }

    /// Starts a view over views with the current rows. No changes of its views and tables may be on their way. `filled`
    /// is called when it has all of them.
    pub fn begin(&mut self, key: RuleKey, tables: &Tables, begin: Beginning, filled: Box<dyn FnOnce()>) {
        let Beginning { plan, inputs, view, context, metrics, clock } = begin;
        let feed = self.feed(&plan.about.name, &context.zone);
        let rows = inputs
            .iter()
            .map(|input| {
                let name = &input.stream.name;
                if input.stream.view.is_some() {
                    return Rows::View(self.feed(name, &context.zone));
                }
                let inbox = Rc::new(Inbox::new(self.waits.clone()));
                let rows = tables.table(name).map(|table| table.follow(&inbox)).unwrap_or_default();
                Rows::Table(rows, inbox)
            })
            .collect();
        let view = DerivedView::new(plan, inputs, rows, (view, feed), context, metrics, clock);
        let level = view.level();
        let place = self.views.partition_point(|node| node.level <= level);
        self.views.insert(place, Node { key, level, view: RefCell::new(view), filled: Some(filled) });
        self.waits.set(true);
    }

    /// Makes indexes of views by some columns for a rule that is about to start. `filled` is called when they have all
    /// rows.
    pub fn prepare(&mut self, rule: RuleKey, by: Vec<(Text, Vec<Text>)>, zone: &TimeZone, filled: Box<dyn FnOnce()>) {
        let indexes = by.iter().map(|(view, columns)| self.feed(view, zone).index(columns)).collect();
        self.lookups.push(Lookups { rule, indexes, filled: Some(filled) });
        self.waits.set(true);
    }

    /// The rule has taken its indexes, or will not start.
    pub fn prepared(&mut self, rule: RuleKey) {
        self.lookups.retain(|lookups| lookups.rule != rule);
    }

    /// Removes a view over views, if the rule is one.
    pub fn remove(&mut self, key: RuleKey) {
        self.views.retain(|node| node.key != key);
    }

    /// Forgets feeds without readers and operators. Must be called when a rule has ended.
    pub fn sweep(&mut self) {
        self.feeds.retain(|_, feed| feed.is_used());
    }

    /// Runs the waiting views.
    pub fn run(&mut self, clock: &WorkerClock) -> Ran {
        if !self.waits.replace(false) {
            return Ran::Nothing;
        }
        let now = clock.now();
        let (mut ran, mut more) = (false, false);
        for node in &mut self.views {
            // A panic ends only this view.
            let run = || node.view.borrow_mut().run(now);
            match catch_unwind(AssertUnwindSafe(run)) {
                Ok(Ran::Nothing) => {}
                Ok(Ran::Something) => ran = true,
                Ok(Ran::More) => more = true,
                Err(_) => {
                    let failed = || node.view.borrow_mut().fail("internal error: the view's code panicked".to_owned());
                    // Its parts may be in any state: if this panics too, it is left as it is.
                    let _ = catch_unwind(AssertUnwindSafe(failed));
                }
            }
            if node.filled.is_some() && node.view.borrow().is_filled() {
                node.filled.take().into_iter().for_each(|filled| filled());
            }
        }
        let mut turn = Turn::begin();
        for feed in self.feeds.values() {
            ran |= feed.deliver(now);
            more |= !feed.fill(&mut turn);
        }
        for lookups in &mut self.lookups {
            if lookups.indexes.iter().all(|index| index.is_filled()) {
                lookups.filled.take().into_iter().for_each(|filled| filled());
            }
        }
        if more {
            self.waits.set(true);
            return Ran::More;
        }
        if ran { Ran::Something } else { Ran::Nothing }
    }
}
