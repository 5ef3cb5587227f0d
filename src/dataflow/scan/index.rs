//! Finds the rules of a stream that a message may match: an index over the tests at the start of their filters. So the
//! cost of a message depends on the rules that it matches, not on the number of rules.
//!
//! For each rule, one test is indexed, or several on the same column that form a range: `=` and `IN` by hash of the
//! value; `<`, `<=`, `>`, `>=` and BETWEEN as ranges. The index returns too many rules rather than too few, and their
//! filters run as if there were no index. It leaves out a rule only if the rule's filter would have dropped the row
//! silently. If a value is of a kind for which one of the rule's tests, up to the indexed one, would fail, the rule is
//! returned, so that the error is reported and counted.
//!
//! This module does not know what is done with a message.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::expr::{Comparison, order_of_numbers, whole_float};
use crate::plan::physical::Condition;
use crate::value::{Text, Value};

use super::member::{Member, Members};
use super::ranges::{Edge, Ranges, Side};

/// The index of one stream.
#[derive(Debug, Default)]
pub struct RuleIndex {
    /// By column of the stream.
    columns: Vec<Column>,
    /// The columns that are read for each message.
    used: Vec<usize>,
    /// The entry of each rule.
    entries: HashMap<Member, Entry, RandomState>,
    /// Rules without an indexable test.
    always: Members,
}

/// The index of one column.
#[derive(Debug, Default)]
struct Column {
    /// By 64-bit whole number, regardless of how it was written.
    ints: Points<i64>,
    /// By the bits of other numbers.
    floats: Points<u64>,
    texts: Points<Text>,
    /// false, true
    bools: [Members; 2],
    numbers_between: Ranges<Number>,
    texts_between: Ranges<Text>,
    /// Rules that fail for a value that is not of this [`Kind`].
    expecting: [Members; 3],
    /// Rules with IN, which fails for no value except an absent one.
    lists: Members,
    /// The number of rules with an entry here.
    rules: usize,
}

type Points<K> = HashMap<K, Members, RandomState>;

/// The kinds of constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Number,
    Text,
    Bool,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Number, Kind::Text, Kind::Bool];

    fn of(value: &Value) -> Option<Kind> {
        match value {
            Value::Int(_) | Value::Float(_) | Value::Unsigned(_) => Some(Kind::Number),
            Value::Text(_) => Some(Kind::Text),
            Value::Bool(_) => Some(Kind::Bool),
            _ => None,
        }
    }
}

/// How a rule is indexed.
#[derive(Debug)]
struct Entry {
    column: usize,
    access: Access,
    /// The kinds of values that its tests, up to the indexed one, expect.
    guards: SmallVec<[Guard; 2]>,
}

/// A column, and the kind of value for which its test does not fail; `None`: IN, which accepts every kind.
type Guard = (usize, Option<Kind>);

#[derive(Debug)]
enum Access {
    /// One of these values.
    Points(SmallVec<[Point; 1]>),
    /// Numbers in a range.
    Numbers(Edge<Number>, Edge<Number>),
    /// Texts in a range.
    Texts(Edge<Text>, Edge<Text>),
}

/// A value as a key: equal values have equal keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Point {
    Int(i64),
    Float(u64),
    Text(Text),
    Bool(bool),
}

impl Point {
    fn of(value: &Value) -> Option<Point> {
        Some(match value {
            Value::Int(i) => Point::Int(*i),
            Value::Float(f) => whole_float(*f).map_or(Point::Float(f.to_bits()), Point::Int),
            Value::Text(text) => Point::Text(text.clone()),
            Value::Bool(b) => Point::Bool(*b),
            _ => return None,
        })
    }
}

/// A number, in the order of the language.
#[derive(Clone, Debug)]
struct Number(Value);

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        order_of_numbers(&self.0, &other.0)
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Number {}

/// What is known about a column of the current message.
pub enum Seen<'a> {
    Value(&'a Value),
    /// Its value does not fit the schema.
    Failed,
}

/// Looks up the columns of a message.
pub trait Columns {
    /// What is known about a column.
    fn seen(&mut self, column: usize) -> Seen<'_>;
}

/// A test of a rule: the stream's column, and the condition.
pub type ColumnTest<'a> = (usize, &'a Condition);

/// If more rules than this share a constant, an indexed range is better.
const CROWD: usize = 16;

impl RuleIndex {
    /// Adds a rule with the tests at the start of its filter, in order.
    pub fn insert(&mut self, member: Member, tests: &[ColumnTest<'_>]) {
        let Some(entry) = self.entry(tests) else {
            self.always.insert(member);
            return;
        };
        for &(column, kind) in &entry.guards {
            self.column(column).guarded(kind).insert(member);
        }
        let column = self.column(entry.column);
        match &entry.access {
            Access::Points(points) => points.iter().for_each(|point| column.members_of(point).insert(member)),
            Access::Numbers(low, high) => column.numbers_between.insert(low.clone(), high.clone(), member),
            Access::Texts(low, high) => column.texts_between.insert(low.clone(), high.clone(), member),
        }
        for column in entry.columns() {
            self.columns[column].rules += 1;
            if let Err(at) = self.used.binary_search(&column) {
                self.used.insert(at, column);
            }
        }
        self.entries.insert(member, entry);
    }

    /// Removes a rule.
    pub fn remove(&mut self, member: Member) {
        let Some(entry) = self.entries.remove(&member) else {
            self.always.remove(member);
            return;
        };
        for &(column, kind) in &entry.guards {
            self.columns[column].guarded(kind).remove(member);
        }
        let column = &mut self.columns[entry.column];
        match &entry.access {
            Access::Points(points) => points.iter().for_each(|point| column.leave(point, member)),
            Access::Numbers(low, high) => column.numbers_between.remove(low, high, member),
            Access::Texts(low, high) => column.texts_between.remove(low, high, member),
        }
        for column in entry.columns() {
            self.columns[column].rules -= 1;
            if self.columns[column].rules == 0 {
                // Empty tables are removed too.
                self.columns[column] = Column::default();
                self.used.retain(|used| *used != column);
            }
        }
    }

    /// Replaces `found` by the rules that a message may match, the oldest first.
    pub fn find(&self, message: &mut impl Columns, found: &mut Vec<Member>) {
        found.clear();
        for &column in &self.used {
            self.columns[column].find(message.seen(column), found);
        }
        let indexed = found.len();
        found.extend_from_slice(self.always.all());
        if indexed > 0 {
            found.sort_unstable();
            found.dedup();
        }
    }

    fn column(&mut self, column: usize) -> &mut Column {
        if self.columns.len() <= column {
            self.columns.resize_with(column + 1, Column::default);
        }
        &mut self.columns[column]
    }

    /// How to index a rule; `None`: it has no indexable test.
    fn entry(&self, tests: &[ColumnTest<'_>]) -> Option<Entry> {
        let expected = usable(tests);
        let usable = &tests[..expected.len()];
        let range = best_range(usable);
        let (column, access, last) = match self.best_points(usable) {
            Some((_, crowd)) if crowd > CROWD && range.as_ref().is_some_and(|range| range.closed) => range?.found(),
            Some((at, _)) => (usable[at].0, Access::Points(points_of(usable[at].1)?), at),
            None => range?.found(),
        };
        let mut guards = SmallVec::new();
        for guard in expected.into_iter().take(last + 1) {
            if !guards.contains(&guard) {
                guards.push(guard);
            }
        }
        Some(Entry { column, access, guards })
    }

    /// The test for single values that the fewest rules share so far, and the number of these rules.
    fn best_points(&self, tests: &[ColumnTest<'_>]) -> Option<(usize, usize)> {
        let mut best: Option<(usize, usize)> = None;
        for (at, (column, condition)) in tests.iter().enumerate() {
            let Some(points) = points_of(condition) else { continue };
            let known = self.columns.get(*column);
            let crowd = points.iter().map(|point| known.map_or(0, |column| column.crowd(point))).sum();
            if best.is_none_or(|(_, least)| crowd < least) {
                best = Some((at, crowd));
            }
        }
        best
    }
}

impl Entry {
    /// The columns with an entry of the rule, without repetition.
    fn columns(&self) -> SmallVec<[usize; 3]> {
        let mut columns: SmallVec<[usize; 3]> = self.guards.iter().map(|(column, _)| *column).collect();
        columns.push(self.column);
        columns.sort_unstable();
        columns.dedup();
        columns
    }
}

impl Column {
    /// Adds the rules that a value may match.
    fn find(&self, seen: Seen<'_>, found: &mut Vec<Member>) {
        let mut add = |members: &Members| found.extend_from_slice(members.all());
        let Seen::Value(value) = seen else {
            self.expecting.iter().for_each(&mut add);
            add(&self.lists);
            return;
        };
        match value {
            Value::Absent | Value::Null => return,
            Value::Int(i) => self.ints.get(i).into_iter().for_each(&mut add),
            Value::Float(f) => match whole_float(*f) {
                Some(i) => self.ints.get(&i).into_iter().for_each(&mut add),
                None => self.floats.get(&f.to_bits()).into_iter().for_each(&mut add),
            },
            // Constants are never such numbers, but floats may equal one.
            Value::Unsigned(u) => match *u as f64 {
                f if f as u64 == *u => self.floats.get(&f.to_bits()).into_iter().for_each(&mut add),
                _ => {}
            },
            Value::Text(text) => self.texts.get(text).into_iter().for_each(&mut add),
            Value::Bool(b) => add(&self.bools[usize::from(*b)]),
            // A datetime equals texts and numbers by its own rules; values of other kinds match nothing.
            _ => add(&self.lists),
        }
        let kind = Kind::of(value);
        for other in Kind::ALL.into_iter().filter(|other| Some(*other) != kind) {
            add(&self.expecting[other as usize]);
        }
        match value {
            Value::Int(_) | Value::Float(_) | Value::Unsigned(_) if !self.numbers_between.is_empty() => {
                self.numbers_between.holding(&Number(value.clone()), found);
            }
            Value::Text(text) if !self.texts_between.is_empty() => self.texts_between.holding(text, found),
            _ => {}
        }
    }

    fn guarded(&mut self, kind: Option<Kind>) -> &mut Members {
        kind.map_or(&mut self.lists, |kind| &mut self.expecting[kind as usize])
    }

    fn members_of(&mut self, point: &Point) -> &mut Members {
        match point {
            Point::Int(i) => self.ints.entry(*i).or_default(),
            Point::Float(bits) => self.floats.entry(*bits).or_default(),
            Point::Text(text) => self.texts.entry(text.clone()).or_default(),
            Point::Bool(b) => &mut self.bools[usize::from(*b)],
        }
    }

    /// The number of rules with a constant.
    fn crowd(&self, point: &Point) -> usize {
        let members = match point {
            Point::Int(i) => self.ints.get(i),
            Point::Float(bits) => self.floats.get(bits),
            Point::Text(text) => self.texts.get(text),
            Point::Bool(b) => Some(&self.bools[usize::from(*b)]),
        };
        members.map_or(0, |members| members.all().len())
    }

    fn leave(&mut self, point: &Point, member: Member) {
        fn from<K, Q>(points: &mut Points<K>, key: &Q, member: Member)
        where
            K: Borrow<Q> + Eq + std::hash::Hash,
            Q: Eq + std::hash::Hash + ?Sized,
        {
            let Some(members) = points.get_mut(key) else { return };
            members.remove(member);
            if members.all().is_empty() {
                points.remove(key);
            }
        }
        match point {
            Point::Int(i) => from(&mut self.ints, i, member),
            Point::Float(bits) => from(&mut self.floats, bits, member),
            Point::Text(text) => from(&mut self.texts, text, member),
            Point::Bool(b) => self.bools[usize::from(*b)].remove(member),
        }
    }
}

/// The kinds that the tests at the start expect of their columns. Ends before a test that expects another kind for a
/// column than an earlier one, because every value fails one of the two.
fn usable(tests: &[ColumnTest<'_>]) -> SmallVec<[Guard; 4]> {
    let mut guards: SmallVec<[Guard; 4]> = SmallVec::new();
    for (column, condition) in tests {
        let kind = match condition {
            Condition::IsOneOf(_) => None,
            Condition::Compare(op, constant) => match Kind::of(constant) {
                // Booleans have no order.
                Some(Kind::Bool) if !matches!(op, Comparison::Equal | Comparison::NotEqual) => break,
                None => break,
                kind => kind,
            },
        };
        let other = |(known, before): &Guard| known == column && before.is_some() && *before != kind;
        if kind.is_some() && guards.iter().any(other) {
            break;
        }
        guards.push((*column, kind));
    }
    guards
}

/// The values that pass a test, if they can be enumerated.
fn points_of(condition: &Condition) -> Option<SmallVec<[Point; 1]>> {
    match condition {
        Condition::Compare(Comparison::Equal, constant) => Some(SmallVec::from_iter([Point::of(constant)?])),
        Condition::Compare(..) => None,
        Condition::IsOneOf(constants) => {
            let points = constants.iter().map(Point::of).collect::<Option<Vec<Point>>>()?;
            // `1` and `1.0` are equal.
            let mut known = HashSet::with_capacity(points.len());
            Some(points.into_iter().filter(|point| known.insert(point.clone())).collect())
        }
    }
}

/// A range formed by the tests of one column.
struct Range {
    column: usize,
    access: Access,
    /// It has two bounds.
    closed: bool,
    /// The last of its tests.
    last: usize,
}

impl Range {
    fn found(self) -> (usize, Access, usize) {
        (self.column, self.access, self.last)
    }
}

/// The first range formed by the tests of a column; one with two bounds is preferred.
fn best_range(tests: &[ColumnTest<'_>]) -> Option<Range> {
    let mut best: Option<Range> = None;
    let mut known: SmallVec<[usize; 4]> = SmallVec::new();
    for (column, condition) in tests {
        if bounds(condition).is_none() || known.contains(column) {
            continue;
        }
        known.push(*column);
        let range = range_of(*column, tests)?;
        if range.closed {
            return Some(range);
        }
        best.get_or_insert(range);
    }
    best
}

/// An end of a range.
type Bound<'a> = (&'a Value, Side);

/// The range that the tests of a column leave.
fn range_of(column: usize, tests: &[ColumnTest<'_>]) -> Option<Range> {
    let (mut low, mut high): (Option<Bound<'_>>, Option<Bound<'_>>) = (None, None);
    let (mut last, mut kind) = (0, None);
    for (at, (other, condition)) in tests.iter().enumerate() {
        let Some((value, lower, side)) = bounds(condition).filter(|_| *other == column) else { continue };
        (last, kind) = (at, Kind::of(value));
        let end = if lower { &mut low } else { &mut high };
        let tighter = end.is_none_or(|(known, known_side)| {
            let order = order(value, known).then(side.cmp(&known_side));
            order == if lower { Ordering::Greater } else { Ordering::Less }
        });
        if tighter {
            *end = Some((value, side));
        }
    }
    let closed = low.is_some() && high.is_some();
    let access = match kind? {
        Kind::Text => {
            let text = |value: &Value| value.as_text().unwrap_or_default().into();
            Access::Texts(edge(low, Edge::Least, text), edge(high, Edge::Most, text))
        }
        _ => {
            let number = |value: &Value| Number(value.clone());
            Access::Numbers(edge(low, Edge::Least, number), edge(high, Edge::Most, number))
        }
    };
    Some(Range { column, access, closed, last })
}

/// The bound of a test: its value, whether it is a lower one, and its side of the value.
fn bounds(condition: &Condition) -> Option<(&Value, bool, Side)> {
    let Condition::Compare(op, value) = condition else { return None };
    Kind::of(value).filter(|kind| *kind != Kind::Bool)?;
    match op {
        Comparison::Greater => Some((value, true, Side::Above)),
        Comparison::GreaterEqual => Some((value, true, Side::Below)),
        Comparison::Less => Some((value, false, Side::Below)),
        Comparison::LessEqual => Some((value, false, Side::Above)),
        Comparison::Equal | Comparison::NotEqual => None,
    }
}

fn order(left: &Value, right: &Value) -> Ordering {
    match (left, right) {
        (Value::Text(left), Value::Text(right)) => left.cmp(right),
        _ => order_of_numbers(left, right),
    }
}

fn edge<K>(bound: Option<(&Value, Side)>, open: Edge<K>, key: impl Fn(&Value) -> K) -> Edge<K> {
    bound.map_or(open, |(value, side)| Edge::At(key(value), side))
}
