//! The rules of a stream: a table, and an index that finds those that a message may match.
//!
//! The cost of a message depends on the rules that it matches, not on the number of rules: the index finds the rules
//! whose filters must run, rows are counted once for all rules, and only outputs that were written to are flushed and
//! asked whether they accept more. The cost of adding or removing a rule does not depend on the number of other rules.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use crate::dataflow::command::RuleKey;
use crate::format::schema::SchemaError;
use crate::io::queue::Origin;
use crate::metrics::{FeedEvent, Place, Point, Sampler, StreamMetrics};
use crate::value::Text;

use super::feed::{Feed, Start, Verdict};
use super::index::RuleIndex;
use super::member::{Member, Members};
use super::message::{Body, Message};
use super::rule::{Part, ScanRule};

/// The rules of a stream.
#[derive(Default)]
pub(super) struct Rules {
    /// By index.
    table: Vec<Option<Box<ScanRule>>>,
    free: Vec<u32>,
    /// The indexes of a rule: one for each of its inputs that is this stream.
    places: HashMap<RuleKey, SmallVec<[Member; 1]>>,
    next_age: u32,
    all: Members,
    index: RuleIndex,
    /// Rules with `sendError`: errors of the stream are reported to them one by one.
    reporters: Members,
    /// Rules without state whose sinks may make the stream wait, and which have written since those were last ready.
    written: Vec<u32>,
    /// Rules that may make the stream wait, and also write while no messages arrive.
    watched: Members,
    /// Rules with state that the stream waits for, until they have taken their rows.
    full: Vec<u32>,
    /// Rules that know that more messages follow.
    behind: Vec<Member>,
    /// Rules with something to hand over.
    touched: Vec<Member>,
    /// The rules that the current message may match.
    found: Vec<Member>,
    metrics: Arc<StreamMetrics>,
    /// The number of rows that are not in `metrics` yet.
    rows: u64,
    /// decides which messages are looked at
    sampler: Sampler,
    /// whether anybody taps messages as they arrive, and decoded messages
    tapped: (bool, bool),
    /// whether anybody records the messages
    recorded: bool,
}

/// The arrival of a message.
#[derive(Clone, Copy)]
pub(super) struct Arrival<'a> {
    /// ms since the epoch
    pub(super) now: i64,
    /// When it was read, from which latencies are counted.
    pub(super) received: Instant,
    /// The connection of the message.
    pub(super) origin: Option<&'a Origin>,
}

/// Up to this many rules, all filters run, because an index would cost more.
const FEW: usize = 4;

impl Rules {
    /// A table without rules, for the stream with this name on a data thread.
    pub(super) fn of_stream(name: Text, thread: usize) -> Rules {
        Rules { metrics: Arc::new(StreamMetrics::new(name, thread)), ..Rules::default() }
    }

    /// Sets the time of the next batches, ms since the epoch.
    pub(super) fn begin(&mut self, now: i64) {
        self.sampler.refill(now);
        self.tapped = (self.metrics.taps.wants(Point::Source), self.metrics.taps.wants(Point::Decode));
        self.recorded = self.metrics.recorders.any();
    }

    /// Offers a message as it arrived to taps and recorders.
    pub(super) fn came(&self, bytes: &[u8], binary: bool, arrival: &Arrival<'_>) {
        if self.tapped.0 {
            self.metrics.taps.offer(Point::Source, || String::from_utf8_lossy(bytes).into_owned());
        }
        if self.recorded {
            self.metrics.recorders.came(arrival.now, binary, bytes, arrival.origin.map(|origin| &origin.meta));
        }
    }

    pub(super) fn insert(&mut self, rule: ScanRule) {
        let place = self.free.pop().unwrap_or(self.table.len() as u32);
        let member = Member { age: self.next_age, place };
        self.next_age = self.next_age.wrapping_add(1);
        self.all.insert(member);
        self.index.insert(member, &rule.tests());
        self.places.entry(rule.key).or_default().push(member);
        let (reports, gathers) = (rule.output.borrow().reports_errors(), rule.output.borrow().gathers());
        if reports {
            self.reporters.insert(member);
        }
        if rule.may_wait && (gathers || rule.target.takes_values()) {
            self.watched.insert(member);
        }
        rule.metrics.join(&self.metrics, !reports);
        match self.table.get_mut(place as usize) {
            Some(free) => *free = Some(Box::new(rule)),
            None => self.table.push(Some(Box::new(rule))),
        }
    }

    /// Removes a rule; returns what it read.
    pub(super) fn remove(&mut self, key: RuleKey) -> Vec<Part> {
        let mut read = Vec::new();
        for member in self.places.remove(&key).unwrap_or_default() {
            self.all.remove(member);
            self.index.remove(member);
            self.reporters.remove(member);
            self.watched.remove(member);
            self.written.retain(|place| *place != member.place);
            self.full.retain(|place| *place != member.place);
            self.behind.retain(|other| other.place != member.place);
            self.free.push(member.place);
            if let Some(rule) = self.table[member.place as usize].take() {
                rule.metrics.leave(&self.metrics);
                read.extend_from_slice(&rule.sources);
            }
        }
        read
    }

    /// Runs a row unless one of these columns does not fit its type.
    pub(super) fn fitting(
        &mut self,
        mut message: Message<'_>,
        columns: &[usize],
        feed: Option<&mut Feed>,
        arrival: Arrival<'_>,
    ) {
        match columns.iter().all(|column| message.value(*column).is_ok()) {
            true => self.checked(message, feed, arrival),
            false => self.mismatched(),
        }
    }

    /// Runs a row that has passed the checks of the feed.
    fn checked(&mut self, mut message: Message<'_>, feed: Option<&mut Feed>, arrival: Arrival<'_>) {
        if let Some(feed) = feed {
            let value = |start| match start {
                Start::Column(column) => message.value(column).ok().cloned(),
                Start::Whole => Some(message.whole()),
            };
            match feed.check(&self.metrics, arrival.now, value) {
                Verdict::Passes(gap) => message.gap = gap,
                Verdict::Duplicate => return,
            }
        }
        self.row(&mut message, arrival.now, arrival.received);
    }

    /// Runs the rules that a row may match, the oldest first.
    fn row(&mut self, message: &mut Message<'_>, now: i64, received: Instant) {
        let Rules { table, all, index, found, touched, metrics, rows, sampler, tapped, .. } = self;
        *rows += 1;
        if sampler.wants() {
            look_at(message, sampler, metrics);
        }
        if tapped.1 {
            metrics.taps.offer(Point::Decode, || message.shown().into_owned());
        }
        let members = if all.all().len() > FEW {
            index.find(message, found);
            found.as_slice()
        } else {
            all.all()
        };
        for member in members {
            let Some(rule) = table[member.place as usize].as_deref_mut() else { continue };
            if rule.failed || rule.skips {
                continue;
            }
            if rule.guarded(message, now, received) {
                touch(touched, *member, rule);
            }
            if rule.failed {
                // The rule has failed with this row, and gets no more.
                metrics.rows(std::mem::take(rows));
                rule.metrics.leave(metrics);
            }
        }
    }

    /// Counts a message that is lost for all rules.
    pub(super) fn lose(&mut self, error: std::fmt::Arguments<'_>, message: Option<&str>) {
        for member in self.reporters.all() {
            let Some(rule) = self.table[member.place as usize].as_deref_mut() else { continue };
            if !rule.failed {
                rule.output.borrow_mut().error_of(Place::Decoder, error, message);
                touch(&mut self.touched, *member, rule);
            }
        }
        self.metrics.error(error.to_string(), message);
    }

    /// Counts a message of another shape that is skipped.
    pub(super) fn mismatched(&self) {
        self.metrics.count(FeedEvent::Mismatched, 1);
    }

    /// Reports a message to the rules that read a column with an error, and makes them skip it until
    /// [`Rules::end_skipping`]. Returns their indexes.
    pub(super) fn skip_misfits(&mut self, errors: &[Option<SchemaError>], message: &str) -> Vec<u32> {
        let mut skipping = Vec::new();
        for member in self.all.all() {
            let Some(rule) = self.table[member.place as usize].as_deref_mut() else { continue };
            let error = rule.sources.iter().find_map(|part| match part {
                Part::Column(column) => errors[*column].as_ref(),
                Part::Whole | Part::Meta | Part::Topic => None,
            });
            if let Some(error) = error
                && !rule.failed
            {
                rule.skips = true;
                rule.output.borrow_mut().error_of(Place::Decoder, error, Some(message));
                skipping.push(member.place);
                touch(&mut self.touched, *member, rule);
            }
        }
        skipping
    }

    /// Ends [`Rules::skip_misfits`] after a message of this many rows.
    pub(super) fn end_skipping(&mut self, places: Vec<u32>, rows: usize) {
        for place in places {
            if let Some(rule) = self.table[place as usize].as_deref_mut() {
                rule.skips = false;
                rule.metrics.without_rows(rows as u64);
            }
        }
    }

    /// Hands over the results of the messages; `behind`: more messages are waiting.
    pub(super) fn hand_over(&mut self, now: i64, behind: bool) {
        self.metrics.rows(std::mem::take(&mut self.rows));
        self.metrics.received(now);
        // A rule that waits for more messages must learn when there are none, even if the last ones did not match it.
        for member in std::mem::take(&mut self.behind) {
            if let Some(rule) = self.table[member.place as usize].as_deref_mut() {
                touch(&mut self.touched, member, rule);
            }
        }
        self.touched.sort_unstable();
        for member in self.touched.drain(..) {
            let place = member.place;
            let Some(rule) = self.table[place as usize].as_deref_mut() else { continue };
            rule.touched = false;
            rule.metrics.works(now, std::mem::take(&mut rule.passed));
            rule.target.hand_over(now, behind);
            if behind && rule.target.waits_for_the_last(rule.plan.event_time.is_some()) {
                self.behind.push(member);
            }
            if rule.target.is_full() && !self.full.contains(&place) {
                self.full.push(place);
            }
            // Errors of dropped rows of a rule with state are sent now, with `sendError`.
            rule.output.borrow_mut().flush();
            if rule.may_wait && !rule.written {
                rule.written = true;
                self.written.push(place);
            }
        }
    }

    /// Hands over what rules have held back for more messages.
    pub(super) fn flush(&self) {
        let waiting = self.behind.iter().filter_map(|member| self.table[member.place as usize].as_deref());
        waiting.for_each(|rule| rule.target.flush());
    }

    pub(super) fn ready(&mut self) -> bool {
        let table = &mut self.table;
        self.written.retain(|place| {
            let Some(rule) = table[*place as usize].as_deref_mut() else { return false };
            rule.written = !rule.failed && !rule.output.borrow().ready();
            rule.written
        });
        self.full.retain(|place| {
            table[*place as usize].as_deref().is_some_and(|rule| !rule.failed && rule.target.is_full())
        });
        let ready = |member: &Member| {
            table[member.place as usize].as_deref().is_none_or(|rule| rule.failed || rule.output.borrow().ready())
        };
        self.full.is_empty() && self.written.is_empty() && self.watched.all().iter().all(ready)
    }
}

/// Looks at the fields of a message.
#[cold]
fn look_at(message: &Message<'_>, sampler: &mut Sampler, metrics: &StreamMetrics) {
    match message.body {
        Body::Text { object, .. } => {
            sampler.took(object.len());
            metrics.look(|seen| seen.look_at_text(object));
        }
        Body::Row(frame) => {
            sampler.took(frame.row.len() * 32);
            metrics.look(|seen| seen.look_at_row(&frame.row));
        }
    }
}

/// Marks a rule that has something to hand over.
fn touch(touched: &mut Vec<Member>, member: Member, rule: &mut ScanRule) {
    if !rule.touched {
        rule.touched = true;
        touched.push(member);
    }
}
