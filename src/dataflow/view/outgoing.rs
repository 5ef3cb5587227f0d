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
use crate::view::ViewCell;

use super::row::Made;
use super::top::{Change, TopRows};

/// The most rows that one cut removes by their age, a few milliseconds' work. The next cut removes the others.
pub const EXPIRED_AT_ONCE: usize = 8 * 1024;

/// The destination of the changes of a view.
pub struct Outgoing {
    view: Arc<ViewCell>,
    feed: Rc<Feed>,
    tops: Vec<TopRows>,
    changes: Vec<Change>,
    /// how many changes the store has got since the last cut
    staged: usize,
    /// why rows are removed by the next cut, for readers of its changes
    why: HashMap<GroupKey, Why, KeyHasher>,
    /// when rows of messages leave by their age or number
    leaving: Option<Leaving>,
    left: Left,
    metrics: Arc<RuleMetrics>,
}

/// The limits beyond which the rows of messages leave on their own.
#[derive(Clone, Copy, Debug)]
pub struct Leaving {
    /// this long after its last message, ms
    pub expire: Option<i64>,
    /// beyond this many rows, those with the oldest last message first
    pub max_rows: usize,
}

/// How many rows have left by their age or number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Left {
    pub expired: u64,
    pub evicted: u64,
}

impl Leaving {
    /// Why the row with the oldest last message leaves, if it does. `at`: when that message came; `rows`: the number of
    /// rows.
    fn why(self, at: i64, rows: usize, now: i64) -> Option<Why> {
        let is_old = self.expire.is_some_and(|expire| at.saturating_add(expire) <= now);
        if is_old { Some(Why::Expired) } else { (rows > self.max_rows).then_some(Why::Evicted) }
    }
}

impl Left {
    fn count(&mut self, why: Why) {
        match why {
            Why::Expired => self.expired += 1,
            _ => self.evicted += 1,
        }
    }
}

/// Data of a cut.
#[derive(Clone, Copy, Debug, Default)]
pub struct CutData {
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
                view.each_key(|key| changes.push((key.clone(), None)));
                view.operator.stopped = None;
            } else {
                view.redefine(plan.about.clone(), now);
            }
            anew
        };
        feed.attach(&view, level, anew);
        let tops = plan.tops.iter().cloned().map(TopRows::new).collect();
        Outgoing {
            view,
            feed,
            tops,
            changes,
            staged: 0,
            why: HashMap::default(),
            leaving: None,
            left: Left::default(),
            metrics,
        }
    }

    /// Makes rows of messages leave by their age and number.
    pub fn leaving(mut self, leaving: Leaving) -> Outgoing {
        self.leaving = Some(leaving);
        self
    }

    /// When the row with the oldest last message got it, ms, if that is kept.
    pub fn touched_first(&self) -> Option<i64> {
        match self.tops.first() {
            Some(top) => top.touched_first().map(|(_, at)| at),
            None => locked(&self.view).touched_first(),
        }
    }

    /// How many rows have left by their age or number.
    pub fn left(&self) -> Left {
        self.left
    }

    /// Whether rows are left that should have expired by now.
    pub fn expires_more(&self, now: i64) -> bool {
        let expire = self.leaving.and_then(|leaving| leaving.expire);
        expire.zip(self.touched_first()).is_some_and(|(expire, at)| at.saturating_add(expire) <= now)
    }

    /// Whether anyone sees a cut when it is made: a client, a rule or another view.
    pub fn is_watched(&self) -> bool {
        self.feed.is_read() || locked(&self.view).is_watched()
    }

    /// The number of changes that wait for the next cut.
    pub fn pending(&self) -> usize {
        self.changes.len() + self.staged
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
    /// The number of rows, if it is more than `most`. Then nothing is cut, and [`Outgoing::stop`] discards the
    /// changes.
    pub fn cut(&mut self, data: CutData, most: Option<usize>) -> Result<(), usize> {
        let most_expired = self.left.expired + EXPIRED_AT_ONCE as u64;
        self.drop_old_first_rows(data.now, most_expired);
        let is_read = self.feed.is_read();
        self.stage();
        let changes = {
            let mut view = locked(&self.view);
            view.operator.bytes = data.bytes;
            view.record(is_read);
            let leaving = self.leaving.filter(|_| self.tops.is_empty());
            while let Some(leaving) = leaving
                && let Some(at) = view.touched_first()
                && let Some(why) = leaving.why(at, view.touched_len(), data.now)
                && (why != Why::Expired || self.left.expired < most_expired)
            {
                let key = view.remove_first();
                self.left.count(why);
                self.why.extend(key.filter(|_| is_read).map(|key| (key, why)));
            }
            let Left { expired, evicted } = self.left;
            (view.operator.expired, view.operator.evicted) = (data.expired + expired, data.evicted + evicted);
            if let Some(most) = most {
                // Rows beyond the first ones are kept too.
                let rows = self.tops.first().map_or_else(|| view.staged_len(), TopRows::len);
                if rows > most {
                    return Err(rows);
                }
            }
            view.cut(data.ts, data.now);
            view.take_changes()
        };
        self.staged = 0;
        self.feed.publish(changes, &self.why);
        self.why.clear();
        Ok(())
    }

    /// Begins to add the first rows of a view, which clients see when [`Outgoing::opened`] is called.
    pub fn open(&self) {
        locked(&self.view).open();
    }

    /// Adds first rows. If the store has rows of an earlier operator, clients see the changes with the next cut.
    ///
    /// # Errors
    /// As [`Outgoing::cut`].
    pub fn add(&mut self, data: CutData, most: usize) -> Result<(), usize> {
        if locked(&self.view).is_opening() {
            return self.cut(data, Some(most));
        }
        self.stage();
        Ok(())
    }

    /// Takes the first rows back: the view cannot have all of them.
    pub fn discard(&mut self, now: i64) {
        if !locked(&self.view).is_opening() {
            return;
        }
        self.changes.clear();
        {
            let mut view = locked(&self.view);
            view.unstage();
            view.each_key(|key| self.changes.push((key.clone(), None)));
        }
        // Without a limit there is no error.
        let _ = self.cut(CutData { ts: now, now, ..CutData::default() }, None);
    }

    /// Whether the view was dropped: nobody sees its rows.
    pub fn is_gone(&self) -> bool {
        locked(&self.view).is_gone()
    }

    /// All first rows are there.
    pub fn opened(&self) {
        locked(&self.view).opened();
    }

    /// Gives the changes to the store, for its next cut. Clients do not see them before it.
    pub fn stage(&mut self) {
        // With limits the operators of the first rows keep the order of messages, and the store does not need it.
        let keeps_order = self.leaving.is_some() && self.tops.is_empty();
        let tapped = self.metrics.taps.wants(Point::Project);
        self.staged += self.changes.len();
        let mut view = locked(&self.view);
        for (key, row) in self.changes.drain(..) {
            if let Some(row) = row.as_ref().filter(|_| tapped) {
                self.metrics.taps.offer(Point::Project, || String::from_utf8_lossy(&row.json).into_owned());
            }
            match row {
                Some(Made { json, forms, touched, .. }) if keeps_order => view.put_touched(&key, json, forms, touched),
                Some(Made { json, forms, .. }) => view.put(&key, json, forms),
                None => view.remove(&key),
            }
        }
    }

    /// Removes rows that leave by their age or number, if limits keep all rows.
    fn drop_old_first_rows(&mut self, now: i64, most_expired: u64) {
        while let Some((leaving, top)) = self.leaving.zip(self.tops.first())
            && let Some((key, at)) = top.touched_first()
            && let Some(why) = leaving.why(at, top.len(), now)
            && (why != Why::Expired || self.left.expired < most_expired)
        {
            let key = key.clone();
            self.left.count(why);
            self.remove(key, why);
        }
    }

    /// Marks the view as stopped.
    pub fn stop(&mut self, why: String) {
        {
            let mut view = locked(&self.view);
            view.unstage();
            view.operator.stopped = Some(why.clone());
        }
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

    /// All rows of messages, those with the oldest last message first, for a checkpoint.
    pub fn rows(&self) -> Vec<(GroupKey, Made, i64)> {
        if let Some(top) = self.tops.first() {
            return top.rows().map(|(key, row)| (key.clone(), row.clone(), row.touched)).collect();
        }
        let mut rows = Vec::new();
        locked(&self.view).each_touched(|key, json, forms, touched| {
            let row = Made { json: json.into(), forms: forms.into(), sort: Box::default(), touched };
            rows.push((key.clone(), row, touched));
        });
        rows
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.feed.detach();
    }
}
