//! The readers of a view on its worker: rules that read its changes, rules that look up its rows, and views over it.
//!
//! The operator of a view passes on the net changes of each cut, as rows that are parsed once for all readers. Rules
//! that read FROM the view get them through a scan, like messages. While the sink of such a rule is not ready, changes
//! of the same row are merged, so no more changes wait than the view has rows. Indexes are updated at once; changes for
//! views over it wait in their [`Inbox`]es until the worker runs these.
//!
//! A feed has the name of its view and outlives the operator of the view. This module does not know how a view is
//! computed.

mod change;
mod index;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use indexmap::IndexMap;
use jiff::tz::TimeZone;

use crate::definition::stream::StreamDef;
use crate::io::queue::{Frame, FrameBatch, Origin};
use crate::plan::physical::Scan;
use crate::sync::locked;
use crate::value::key::GroupKey;
use crate::value::{Text, Value};
use crate::view::{NetChange, ViewCell};

use super::command::RuleKey;
use super::context::RuleContext;
use super::output::Output;
use super::row::KeyHasher;
use super::scan::{StreamScan, Target};
use super::timers::Turn;

pub use change::{Inbox, RowChange, Why};
pub use index::RowIndex;

use change::parsed;

/// The number of rows that are added to an index between two checks of the clock.
const ROWS_AT_ONCE: usize = 256;

/// The readers of one view.
pub struct Feed {
    /// the latest view with this name
    view: RefCell<Option<Arc<ViewCell>>>,
    /// its operators: two for a moment while one replaces another
    operators: Cell<usize>,
    /// number of views between it and streams
    level: Cell<usize>,
    filling: Cell<bool>,
    /// set when something waits for the readers of any view on this worker
    waits: Rc<Cell<bool>>,
    scan: RefCell<StreamScan>,
    /// the number of rules that read its changes
    rules: Cell<usize>,
    /// changes that they have not read yet, by row
    held: RefCell<IndexMap<GroupKey, RowChange, KeyHasher>>,
    indexes: RefCell<Vec<Weak<RowIndex>>>,
    inboxes: RefCell<Vec<Weak<Inbox>>>,
    /// the metadata that `meta(…)` reads: of added, changed and removed rows, the latter by cause
    origins: ([Arc<Origin>; 2], [Arc<Origin>; 4]),
}

impl Feed {
    /// The feed of a view without readers. `waits` is set when something waits for readers.
    pub fn new(name: Text, zone: TimeZone, waits: Rc<Cell<bool>>) -> Feed {
        let word = |name: &'static str, word: &'static str| (Text::const_new(name), Value::Text(Text::const_new(word)));
        let origin = |op| Arc::new(Origin { meta: Value::object([word("op", op)]) });
        let deletes =
            |why: Why| Arc::new(Origin { meta: Value::object([word("op", "delete"), word("why", why.as_str())]) });
        Feed {
            view: RefCell::default(),
            operators: Cell::new(0),
            level: Cell::new(0),
            filling: Cell::new(false),
            waits,
            scan: RefCell::new(StreamScan::new(StreamDef::schemaless(name).schema(), zone)),
            rules: Cell::new(0),
            held: RefCell::default(),
            indexes: RefCell::default(),
            inboxes: RefCell::default(),
            origins: (["insert", "update"].map(origin), Why::ALL.map(deletes)),
        }
    }

    /// The number of views between this one and streams.
    pub fn level(&self) -> usize {
        self.level.get()
    }

    /// Connects a view. If its rows are not the earlier ones (`anew`, or another view with the name), readers drop what
    /// they have: indexes start empty, and views over it stop until they are created again.
    pub fn attach(&self, view: &Arc<ViewCell>, level: usize, anew: bool) {
        self.operators.set(self.operators.get() + 1);
        self.level.set(level);
        let before = self.view.borrow_mut().replace(view.clone());
        if !anew && before.is_some_and(|before| Arc::ptr_eq(&before, view)) {
            return;
        }
        self.held.borrow_mut().clear();
        self.inboxes.borrow().iter().filter_map(Weak::upgrade).for_each(|inbox| inbox.end());
        for index in self.indexes.borrow().iter().filter_map(Weak::upgrade) {
            index.clear();
            self.waits.set(true);
        }
    }

    /// Whether the view has readers.
    pub fn is_read(&self) -> bool {
        let read = |weak: &Weak<Inbox>| weak.strong_count() > 0;
        self.rules.get() > 0
            || self.indexes.borrow().iter().any(|index| index.strong_count() > 0)
            || self.inboxes.borrow().iter().any(read)
    }

    /// Whether the view has readers or an operator.
    pub fn is_used(&self) -> bool {
        self.operators.get() > 0 || self.is_read()
    }

    /// The view's operator has ended. Readers keep its last rows.
    pub fn detach(&self) {
        self.operators.set(self.operators.get() - 1);
        if self.operators.get() == 0 {
            self.filling.set(false);
        }
    }

    /// Adds the net changes of a cut; `why` has the causes of some removals.
    pub fn publish(&self, changes: Vec<NetChange>, why: &HashMap<GroupKey, Why, KeyHasher>) {
        if changes.is_empty() {
            return;
        }
        let mut keys = Vec::with_capacity(changes.len());
        let mut rows: Vec<RowChange> = Vec::with_capacity(changes.len());
        for change in changes {
            let why = why.get(&change.key).copied().unwrap_or_default();
            rows.push(RowChange { why, ..parsed(change.entry, change.old.as_deref(), change.new.as_deref()) });
            keys.push(change.key);
        }
        let mut indexes = self.indexes.borrow_mut();
        indexes.retain(|index| index.strong_count() > 0);
        for index in indexes.iter().filter_map(Weak::upgrade) {
            rows.iter().for_each(|change| index.change(change));
        }
        let mut inboxes = self.inboxes.borrow_mut();
        inboxes.retain(|inbox| inbox.strong_count() > 0);
        for inbox in inboxes.iter().filter_map(Weak::upgrade) {
            rows.iter().for_each(|change| inbox.push(change.clone()));
        }
        if self.rules.get() > 0 {
            let mut held = self.held.borrow_mut();
            keys.into_iter().zip(rows).for_each(|(key, change)| hold(&mut held, key, change));
        }
        self.waits.set(true);
    }

    /// Passes waiting changes to the rules that read the view, if their sinks are ready; true if there were any.
    pub fn deliver(&self, now: i64) -> bool {
        if self.held.borrow().is_empty() {
            return false;
        }
        let mut scan = self.scan.borrow_mut();
        if !scan.ready() {
            // The sink wakes the worker when it is ready.
            self.waits.set(true);
            return false;
        }
        let received = Instant::now();
        let held = std::mem::take(&mut *self.held.borrow_mut());
        let mut batches: Vec<FrameBatch> = Vec::new();
        let ([inserts, updates], deletes) = &self.origins;
        for (_, change) in held {
            let (origin, row) = match (change.old, change.new) {
                (None, Some(new)) => (inserts, new),
                (Some(_), Some(new)) => (updates, new),
                (Some(old), None) => (&deletes[change.why as usize], old),
                (None, None) => continue,
            };
            let same = |batch: &&mut FrameBatch| batch.origin.as_ref().is_some_and(|last| Arc::ptr_eq(last, origin));
            match batches.last_mut().filter(same) {
                Some(batch) => batch.frames.push(Frame::Row(row)),
                None => {
                    let (frames, origin) = (vec![Frame::Row(row)], Some(origin.clone()));
                    batches.push(FrameBatch { frames, origin, received });
                }
            }
        }
        scan.run(&batches, now);
        true
    }

    /// Adds a rule that reads the changes of the view.
    pub fn add_rule(
        &self,
        key: RuleKey,
        plan: Scan,
        context: Rc<RuleContext>,
        output: Rc<RefCell<Output>>,
        target: Target,
    ) {
        self.rules.set(self.rules.get() + 1);
        self.scan.borrow_mut().add(key, plan, context, output, target);
    }

    /// Removes a rule that reads the changes.
    pub fn remove_rule(&self, key: RuleKey) {
        self.rules.set(self.rules.get() - 1);
        self.scan.borrow_mut().remove(key);
        if self.rules.get() == 0 {
            self.held.borrow_mut().clear();
        }
    }

    /// An index of the rows by some columns, which exists as long as it is held. A new one has no rows before
    /// [`Feed::fill`].
    pub fn index(&self, columns: &[Text]) -> Rc<RowIndex> {
        let known = self.indexes.borrow().iter().filter_map(Weak::upgrade).find(|index| index.columns() == columns);
        if let Some(index) = known {
            return index;
        }
        let index = Rc::new(RowIndex::new(columns.to_vec()));
        self.indexes.borrow_mut().push(Rc::downgrade(&index));
        self.waits.set(true);
        index
    }

    /// Adds rows to new indexes, up to the end of the turn; true if all indexes have all rows.
    pub fn fill(&self, turn: &mut Turn) -> bool {
        for index in self.indexes.borrow().iter().filter_map(Weak::upgrade) {
            while let Some(next) = index.next() {
                if turn.spend(ROWS_AT_ONCE as u32) {
                    return false;
                }
                let (rows, next) = self.rows_from(next, ROWS_AT_ONCE);
                index.add(&rows, next);
            }
        }
        true
    }

    /// Whether the view is still adding its initial rows.
    pub fn is_filling(&self) -> bool {
        self.filling.get()
    }

    pub fn set_filling(&self, filling: bool) {
        self.filling.set(filling);
    }

    /// Up to `count` of the current rows, from a number on, and the next number; `None` at the end.
    pub fn rows_from(&self, from: u32, count: usize) -> (Vec<RowChange>, Option<u32>) {
        let mut rows = Vec::with_capacity(count);
        let Some(view) = self.view.borrow().clone() else { return (rows, None) };
        let next = locked(&view).each_numbered_from(from, |entry, json| {
            rows.push(parsed(entry, None, Some(json)));
            rows.len() < count
        });
        (rows, next)
    }

    /// The inbox for changes from now on.
    pub fn follow(&self) -> Rc<Inbox> {
        let inbox = Rc::new(Inbox::new(self.waits.clone()));
        self.inboxes.borrow_mut().push(Rc::downgrade(&inbox));
        inbox
    }

    /// View time of the last cut, ms.
    pub fn ts(&self) -> Option<i64> {
        self.view.borrow().as_ref().map(|view| locked(view).ts())
    }
}

/// Adds a change to the waiting ones, merged with an earlier change of the same row.
fn hold(held: &mut IndexMap<GroupKey, RowChange, KeyHasher>, key: GroupKey, change: RowChange) {
    match held.entry(key) {
        indexmap::map::Entry::Vacant(entry) => {
            entry.insert(change);
        }
        indexmap::map::Entry::Occupied(mut entry) => {
            (entry.get_mut().new, entry.get_mut().why) = (change.new, change.why);
        }
    }
}
