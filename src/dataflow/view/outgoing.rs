//! The output of a view's operator: to its store, and to readers on the worker.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::dataflow::feed::{Feed, Why};
use crate::dataflow::row::KeyHasher;
use crate::metrics::{FlowCounts, Place, Point, RuleMetrics};
use crate::plan::view::ViewPlan;
use crate::sync::locked;
use crate::value::key::GroupKey;
use crate::view::{Form, ViewCell};

use super::top::{Change, TopRows};

/// The destination of the changes of a view.
pub struct Outgoing {
    view: Arc<ViewCell>,
    feed: Rc<Feed>,
    tops: Vec<TopRows>,
    changes: Vec<Change>,
    /// why rows are removed by the next cut, for readers of its changes
    why: HashMap<GroupKey, Why, KeyHasher>,
    metrics: Arc<RuleMetrics>,
}

/// Data of a cut.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    /// view time, ms
    pub ts: i64,
    /// the clock, ms
    pub now: i64,
    pub evicted: u64,
    pub expired: u64,
    /// bytes of accumulators and similar state
    pub bytes: usize,
}

impl Outgoing {
    /// The output to the store of a view. Rows in the store from an earlier operator are removed by the first cut,
    /// unless they are added again; with another definition the store starts empty. `level` is the number of views
    /// between this one and streams.
    pub fn new(
        plan: &ViewPlan,
        view: Arc<ViewCell>,
        feed: Rc<Feed>,
        level: usize,
        metrics: Arc<RuleMetrics>,
        now: i64,
    ) -> Outgoing {
        let mut changes = Vec::new();
        let anew = {
            let mut view = locked(&view);
            let anew = view.about().definition != plan.about.definition;
            if !anew {
                view.reconfigure(plan.about.clone());
                view.each_entry(|key, _, _| changes.push((key.clone(), None)));
                view.operator.stopped = None;
            } else {
                view.redefine(plan.about.clone(), now);
            }
            anew
        };
        feed.attach(&view, level, anew);
        let tops = plan.tops.iter().cloned().map(TopRows::new).collect();
        Outgoing { view, feed, tops, changes, why: HashMap::default(), metrics }
    }

    /// Whether anyone sees a cut when it is made: a client, a rule or another view.
    pub fn is_watched(&self) -> bool {
        self.feed.is_read() || locked(&self.view).is_watched()
    }

    /// The number of changes that wait for the next cut.
    pub fn pending(&self) -> usize {
        self.changes.len()
    }

    /// Removes a row, if it is there.
    pub fn remove(&mut self, key: GroupKey, why: Why) {
        if self.feed.is_read() {
            self.why.insert(key.clone(), why);
        }
        self.emit((key, None));
    }

    /// Passes a change on, through the limits to the first rows.
    pub fn emit(&mut self, change: Change) {
        if self.tops.is_empty() {
            return self.changes.push(change);
        }
        let mut changes = vec![change];
        for top in &mut self.tops {
            let mut next = Vec::new();
            changes.into_iter().for_each(|change| top.change(change, &mut next));
            changes = next;
        }
        self.changes.append(&mut changes);
    }

    /// Makes a cut of the changes.
    ///
    /// # Errors
    /// There would be more rows than `most`; the number of rows. Then nothing is cut.
    pub fn cut(&mut self, told: Told, most: Option<usize>) -> Result<(), usize> {
        let changes = {
            let mut view = locked(&self.view);
            let status = &mut view.operator;
            (status.evicted, status.expired, status.bytes) = (told.evicted, told.expired, told.bytes);
            view.record(self.feed.is_read());
            let tapped = self.metrics.taps.wants(Point::Project);
            for (key, row) in self.changes.drain(..) {
                if let Some(row) = row.as_ref().filter(|_| tapped) {
                    self.metrics.taps.offer(Point::Project, || String::from_utf8_lossy(&row.json).into_owned());
                }
                match row {
                    Some(row) => view.put(&key, &row.json, &row.forms),
                    None => view.remove(&key),
                }
            }
            if let Some(most) = most {
                // Rows beyond the first ones are kept too.
                let rows = self.tops.first().map_or_else(|| view.staged_len(), TopRows::len);
                if rows > most {
                    view.unstage();
                    return Err(rows);
                }
            }
            view.cut(told.ts, told.now);
            view.take_changes()
        };
        self.feed.publish(changes, &self.why);
        self.why.clear();
        Ok(())
    }

    /// Marks the view as stopped.
    pub fn stop(&mut self, why: String) {
        locked(&self.view).operator.stopped = Some(why.clone());
        self.metrics.fail(why);
    }

    /// Publishes the operator's counts.
    pub fn show_flow(&self, flow: &FlowCounts) {
        self.metrics.flow.put(flow);
    }

    /// Counts an error.
    pub fn error(&mut self, place: Place, error: &str) {
        self.metrics.error_at(place, error);
    }

    /// Visits the keys, rows and forms of part columns in the store.
    pub fn each_entry(&self, see: impl FnMut(&GroupKey, &[u8], &[Form])) {
        locked(&self.view).each_entry(see);
    }

    /// The operators that keep the first rows, and so have all of them.
    pub fn first_rows(&self) -> Option<&TopRows> {
        self.tops.first()
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.feed.detach();
    }
}
