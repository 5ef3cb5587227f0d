//! Sends rows to a rule whose state is on another thread.
//!
//! It replaces the rule's queue, which is on the thread of the state. Rows that pass the scan are sent in batches,
//! together with everything that advances the watermark; the queue decides which rows are late. At most about
//! `IN_FLIGHT` rows are on their way: beyond that, the streams of this thread wait for the rule.
//!
//! If the plan allows it, rows are accumulated here, and groups are sent (`combine`). They wait only while this thread
//! has more messages. In event time, home knows about this and ends no window before they arrive. In processing time
//! they count when they arrive, at most 10 ms later. This thread decides whether an accumulated row is behind what the
//! thread has seen.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use timely::scheduling::Activator;

use crate::value::Value;

use super::batch::RowBatch;
use super::cluster::Post;
use super::combine::Combiner;
use super::command::RuleKey;
use super::event_clock::{EventClocks, LateBy, Verdict};
use super::letters::{Advance, ForwardedRows, RuleLetter};

/// The most rows of one rule and thread that are on their way before the thread's streams wait.
const IN_FLIGHT: usize = 32 * 1024;

pub struct Forward {
    rule: RuleKey,
    /// The worker with the rule's state.
    home: usize,
    post: Post<RuleLetter>,
    clocks: EventClocks,
    rows: RefCell<RowBatch>,
    width: usize,
    /// Set if rows may be accumulated here.
    combiner: Option<RefCell<Combiner>>,
    advances: RefCell<Vec<Advance>>,
    /// For each input: the largest timestamp, less the tolerance.
    reached: Box<[Cell<i64>]>,
    /// For each input: whether more messages waited at the last send.
    behind: Box<[Cell<bool>]>,
    in_flight: Cell<usize>,
    /// The number of letters sent.
    letters: Cell<u64>,
    /// The rule is ending: the remaining rows are sent, however many are on their way.
    leaving: Cell<bool>,
    /// Wake the inputs of the streams, which may wait for the rule.
    streams_waiting: RefCell<Vec<Activator>>,
}

impl Forward {
    /// Sends rows of `width` slots to a rule's state on worker `home`.
    pub fn new(rule: RuleKey, home: usize, post: Post<RuleLetter>, clocks: EventClocks, width: usize) -> Forward {
        Forward {
            rule,
            home,
            post,
            rows: RefCell::new(RowBatch::of_width(width)),
            width,
            combiner: None,
            advances: RefCell::default(),
            reached: (0..clocks.inputs()).map(|_| Cell::new(i64::MIN)).collect(),
            behind: (0..clocks.inputs()).map(|_| Cell::new(false)).collect(),
            clocks,
            in_flight: Cell::new(0),
            letters: Cell::new(0),
            leaving: Cell::new(false),
            streams_waiting: RefCell::default(),
        }
    }

    /// Accumulates rows, and sends groups. The rule must have a single input.
    #[must_use]
    pub fn combining(self, combiner: Combiner) -> Forward {
        Forward { combiner: Some(RefCell::new(combiner)), ..self }
    }

    /// Sets the inputs of the rule's streams.
    pub fn fed_by(&self, inputs: Vec<Activator>) {
        *self.streams_waiting.borrow_mut() = inputs;
    }

    /// What happens to a row; see [`EventClocks::judge`].
    pub fn judge(&self, input: u16, time: i64, now: i64, skew: i64) -> Verdict {
        self.clocks.judge(input, time, now, skew)
    }

    /// Advances the watermark by a row of an input, whether or not the row passes the filter.
    ///
    /// # Errors
    /// The row is late. Rows that are not accumulated here are judged at home.
    pub fn advance(&self, input: u16, time: i64, tolerance: i64) -> Result<(), LateBy> {
        let known = &self.reached[usize::from(input)];
        if time < known.get() && self.accumulates() {
            return Err(LateBy(known.get().saturating_sub(time)));
        }
        let reached = time.saturating_sub(tolerance);
        if reached <= known.get() {
            return Ok(());
        }
        known.set(reached);
        let row = self.rows.borrow().times.len();
        let mut advances = self.advances.borrow_mut();
        match advances.last_mut() {
            Some(last) if (last.row, last.input) == (row, input) => last.reached = reached,
            _ => advances.push(Advance { row, input, reached }),
        }
        Ok(())
    }

    /// Adds a row of an input that has passed the scan at `now`. The row's slots may be taken.
    pub fn push(&self, input: u16, now: i64, time: i64, received: Instant, slots: &mut [Value]) {
        match &self.combiner {
            Some(combiner) if combiner.borrow().accumulates() => {
                combiner.borrow_mut().row(now, time, slots);
                self.rows.borrow_mut().received.get_or_insert(received);
            }
            _ => self.rows.borrow_mut().push(input, time, received, slots),
        }
    }

    fn accumulates(&self) -> bool {
        self.combiner.as_ref().is_some_and(|combiner| combiner.borrow().accumulates())
    }

    /// Whether there is anything that was not sent.
    pub fn holds_rows(&self) -> bool {
        !self.rows.borrow().is_empty() || self.combiner.as_ref().is_some_and(|combiner| !combiner.borrow().is_empty())
    }

    /// Sends what the scan of an input has found up to `now`; `behind`: more messages wait for the scan.
    pub fn hand_over(&self, input: u16, now: i64, behind: bool) {
        let (known, reached) = (&self.behind[usize::from(input)], self.reached[usize::from(input)].get());
        if known.get() == behind && self.holds_nothing() {
            return;
        }
        // Home ends no window without this thread while it knows that more is coming.
        if behind
            && known.get()
            && let Some(combiner) = &self.combiner
            && combiner.borrow_mut().may_wait(now, reached)
        {
            return;
        }
        known.set(behind);
        self.send(input, behind);
    }

    fn send(&self, input: u16, behind: bool) {
        let mut rows = self.rows.replace(RowBatch::of_width(self.width));
        self.combiner.iter().for_each(|combiner| combiner.borrow_mut().take(&mut rows));
        self.in_flight.set(self.in_flight.get() + rows.weight());
        self.letters.set(self.letters.get() + 1);
        let advances = self.advances.take();
        let letter = ForwardedRows { rule: self.rule, rows, advances, input, behind };
        self.post.send(self.home, RuleLetter::Rows(letter));
    }

    /// Whether so many rows are on their way that the streams should wait.
    pub fn is_full(&self) -> bool {
        self.in_flight.get() >= IN_FLIGHT && !self.leaving.get()
    }

    /// Records that the rule has taken this many rows.
    pub fn taken(&self, rows: usize) {
        let was_full = self.is_full();
        self.in_flight.set(self.in_flight.get().saturating_sub(rows));
        if was_full && !self.is_full() {
            self.streams_waiting.borrow().iter().for_each(Activator::activate);
        }
    }

    /// The rule leaves this thread: from now on nothing is held back.
    pub fn leave(&self) {
        self.leaving.set(true);
    }

    /// Sends what is held back for more messages, because none will come for now. Only rules with a single input hold
    /// something back.
    pub fn flush(&self) {
        if !self.holds_nothing() {
            self.send(0, self.behind[0].get());
        }
    }

    fn holds_nothing(&self) -> bool {
        !self.holds_rows() && self.advances.borrow().is_empty()
    }

    /// The worker that it sends to.
    pub fn to(&self) -> usize {
        self.home
    }

    pub fn letters(&self) -> u64 {
        self.letters.get()
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::super::cluster::{SharedWorker, of_process};
    use super::super::context::RuleContext;
    use super::super::output::Output;
    use super::super::scan::{StreamScan, Target};
    use super::*;
    use crate::definition::rule::RuleOptions;
    use crate::definition::stream::Catalog;
    use crate::io::queue::{Frame, FrameBatch};
    use crate::plan::physical::Body;
    use crate::sql::parse_create;

    /// A rule with windows of 1 s in event time, whose home is on the same worker.
    struct Letters {
        shared: SharedWorker<RuleLetter>,
        forward: Rc<Forward>,
        /// The scan of the rule's stream.
        scan: StreamScan,
        now: i64,
    }

    impl Letters {
        fn new() -> Letters {
            let mut catalog = Catalog::default();
            let create = "CREATE STREAM a () WITH (TYPE=\"websocket\", DATASOURCE=\"/a\", TIMESTAMP=\"ts\")";
            catalog.create(&parse_create(create).expect("it is right")).expect("it is new");
            let options = RuleOptions { event_time: true, ..RuleOptions::default() };
            let sql = "SELECT count(*) AS n FROM a GROUP BY k, TUMBLINGWINDOW(ss, 1)";
            let plan = crate::plan::plan(sql, &options, &catalog).expect("it is right");
            let Body::Stateful(body) = plan.body else { panic!("it has windows") };
            let context = RuleContext {
                id: "r".into(),
                started: 0,
                zone: jiff::tz::TimeZone::UTC,
                hits: Default::default(),
                pause: Default::default(),
            };
            let output = Output::new(Vec::new(), false, false, Default::default());
            let (context, output) = (Rc::new(context), Rc::new(RefCell::new(output)));
            let combiner = Combiner::new(*body, context.clone(), output.clone());
            let seat = of_process(vec![Default::default()], &Default::default()).pop().expect("a seat");
            let shared = SharedWorker::take(seat);
            let forward = Forward::new(7, 0, shared.post().clone(), EventClocks::new(1), 2).combining(combiner);
            let forward = Rc::new(forward);
            let input = &plan.inputs[0];
            let mut scan = StreamScan::new(input.stream.schema(), jiff::tz::TimeZone::UTC);
            scan.add(7, input.scan.clone(), context, output, Target::Forward(forward.clone(), 0));
            Letters { shared, forward, scan, now: 0 }
        }

        /// Rows with the same time, one for each key; a row's columns are its time and its key.
        fn rows(&self, time: i64, keys: impl IntoIterator<Item = i64>) {
            for key in keys {
                assert_eq!(self.forward.advance(0, time, 0), Ok(()));
                let mut slots = [Value::Int(key), Value::Int(time)];
                self.forward.push(0, self.now, time, Instant::now(), &mut slots);
            }
        }

        /// Hands over; returns the letters sent: the rows and groups of each, and whether more follows.
        fn sent(&mut self, behind: bool) -> Vec<(usize, usize, bool)> {
            self.forward.hand_over(0, self.now, behind);
            self.came()
        }

        /// The letters that have arrived since the last call.
        fn came(&mut self) -> Vec<(usize, usize, bool)> {
            while self.shared.step() {}
            let letters = self.shared.receive().into_iter().map(|(_, letter)| match letter {
                RuleLetter::Rows(ForwardedRows { rows, behind, .. }) => {
                    let groups = rows.partials.iter().map(|(_, partial)| partial.groups.len()).sum();
                    (rows.times.len(), groups, behind)
                }
                other => panic!("{other:?}"),
            });
            letters.collect()
        }
    }

    #[test]
    fn groups_wait_while_home_knows_that_more_comes() {
        let mut letters = Letters::new();
        letters.rows(100, [1, 1, 1, 2, 2]);
        assert_eq!(letters.sent(true), [(0, 2, true)], "home does not know yet");
        letters.rows(200, [1, 1, 1, 2, 2]);
        assert_eq!(letters.sent(true), []);
        assert!(letters.forward.holds_rows());
        letters.rows(300, [1, 2, 2]);
        assert_eq!(letters.sent(false), [(0, 2, false)]);
        assert!(!letters.forward.holds_rows());
        assert_eq!(letters.sent(false), []);
    }

    #[test]
    fn groups_go_when_their_window_ends_when_they_are_many_and_after_a_while() {
        let mut letters = Letters::new();
        letters.rows(100, [1, 1, 1]);
        assert_eq!(letters.sent(true), [(0, 1, true)]);
        letters.rows(200, [1, 1, 1]);
        assert_eq!(letters.sent(true), []);
        letters.rows(1000, [1, 1, 1]);
        assert_eq!(letters.sent(true), [(0, 2, true)], "the first window has ended");
        (0..4).for_each(|_| letters.rows(1001, 0..4096));
        assert_eq!(letters.sent(true), [(0, 4096, true)]);
        letters.rows(1002, [1, 1, 1]);
        assert_eq!(letters.sent(true), []);
        letters.now += 9;
        assert_eq!(letters.sent(true), []);
        letters.now += 1;
        assert_eq!(letters.sent(true), [(0, 1, true)], "it has waited long enough");
        letters.rows(1003, [1]);
        assert_eq!(letters.sent(true), []);
        letters.forward.flush();
        assert!(!letters.forward.holds_rows());
    }

    #[test]
    fn rows_go_as_they_are_while_each_has_a_group_of_its_own() {
        let mut letters = Letters::new();
        letters.rows(100, 0..100);
        assert_eq!(letters.sent(false), [(0, 100, false)]);
        // Groups are tried again, after twice as many letters each time.
        for tries in [4, 8, 16] {
            for _ in 0..tries {
                letters.rows(100, 0..100);
                assert_eq!(letters.sent(false), [(100, 0, false)]);
            }
            letters.rows(100, 0..100);
            assert_eq!(letters.sent(false), [(0, 100, false)]);
        }
        for _ in 0..32 {
            letters.rows(100, [1]);
            assert_eq!(letters.sent(false), [(1, 0, false)]);
        }
        for _ in 0..3 {
            letters.rows(100, [1, 1, 1, 1]);
            assert_eq!(letters.sent(false), [(0, 1, false)]);
        }
    }

    fn full() -> Letters {
        let mut letters = Letters::new();
        for _ in 0..8 {
            (0..3).for_each(|_| letters.rows(100, 0..4096));
            letters.sent(false);
        }
        letters
    }

    #[test]
    fn groups_count_for_what_is_under_way() {
        let letters = full();
        assert!(letters.forward.is_full());
        letters.forward.taken(4096);
        assert!(!letters.forward.is_full());
    }

    #[test]
    fn a_stream_that_waits_keeps_nothing() {
        let mut letters = full();
        letters.scan.set_behind(true);
        let frames = || vec![Frame::Text(r#"{"ts":100,"k":1}"#.into()); 3];
        for sent in [vec![(0, 1, true)], vec![]] {
            letters.scan.run(&[FrameBatch { frames: frames(), origin: None, received: Instant::now() }], 0);
            assert_eq!(letters.came(), sent);
        }
        assert!(!letters.scan.ready());
        assert_eq!(letters.came(), [(0, 1, true)]);
        assert!(!letters.scan.ready());
        assert_eq!(letters.came(), []);
    }
}
