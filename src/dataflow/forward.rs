//! Sends rows to a rule whose state is on another thread.
//!
//! It replaces the rule's queue, which is on the thread of the state. Rows that pass the scan are sent in batches,
//! together with everything that advances the watermark; the queue decides which rows are late. At most about
//! `IN_FLIGHT` rows are on their way: beyond that, the streams of this thread wait for the rule.
//!
//! If the plan allows it, rows are accumulated here, and groups are sent (`combine`). In processing time they wait only
//! while this thread has more messages, and count when they arrive, at most 10 ms later. In event time they wait until
//! their slice is over for this thread, or until home asks for them: home knows that there may be some, and ends no
//! window without them. This thread decides whether an accumulated row is late, by the rows that it has seen itself.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use timely::scheduling::Activator;

use crate::time::Alignment;
use crate::value::Value;

use super::batch::RowBatch;
use super::cluster::Post;
use super::combine::Combiner;
use super::command::RuleKey;
use super::event_clock::{EventClocks, LateBy, Verdict};
use super::letters::{Advance, ForwardedRows, RuleLetter};
use super::window::Partial;

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
    /// For each input: whether more messages wait, as last reported to home.
    behind: Box<[Cell<bool>]>,
    /// For each input: whether more messages wait now.
    is_behind: Box<[Cell<bool>]>,
    /// The slices of accumulated rows, in event time.
    slices: Option<Alignment>,
    /// Set while home knows that rows may be held here: nothing needs to be sent until this thread's time reaches this.
    quiet_until: Cell<Option<i64>>,
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
            is_behind: (0..clocks.inputs()).map(|_| Cell::new(false)).collect(),
            slices: None,
            quiet_until: Cell::new(None),
            clocks,
            in_flight: Cell::new(0),
            letters: Cell::new(0),
            leaving: Cell::new(false),
            streams_waiting: RefCell::default(),
        }
    }

    /// Accumulates rows, and sends groups; `slices`: their slices, in event time. The rule has a single input.
    #[must_use]
    pub fn combining(self, combiner: Combiner, slices: Option<Alignment>) -> Forward {
        Forward { combiner: Some(RefCell::new(combiner)), slices, ..self }
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

    /// Whether there are unsent rows.
    pub fn holds_rows(&self) -> bool {
        !self.rows.borrow().is_empty() || self.combiner.as_ref().is_some_and(|combiner| !combiner.borrow().is_empty())
    }

    /// Sends what the scan of an input has found up to `now`. `behind` says whether more messages wait for the scan.
    pub fn hand_over(&self, input: u16, now: i64, behind: bool) {
        let (known, reached) = (self.behind[usize::from(input)].get(), self.reached[usize::from(input)].get());
        self.is_behind[usize::from(input)].set(behind);
        let quiet = self.quiet_until.get().is_some_and(|until| reached < until);
        if (quiet || known == behind) && self.holds_nothing() {
            return;
        }
        // Home ends no window without this thread as long as it knows that more may come.
        if (quiet || behind && known)
            && let Some(combiner) = &self.combiner
            && combiner.borrow_mut().may_wait(now, reached)
        {
            return;
        }
        self.send(input, true);
    }

    /// Sends what was found. With `goes_on`, a thread that accumulates rows by slices may hold rows again from now on.
    fn send(&self, input: u16, goes_on: bool) {
        let mut rows = self.rows.replace(RowBatch::of_width(self.width));
        self.combiner.iter().for_each(|combiner| combiner.borrow_mut().take(&mut rows));
        self.in_flight.set(self.in_flight.get() + rows.weight());
        self.letters.set(self.letters.get() + 1);
        let place = usize::from(input);
        let is_behind = self.is_behind[place].get();
        // If home has asked for rows while more messages wait, answer so until these have run.
        let catches_up = self.behind[place].get() && is_behind;
        let has_time = self.reached[place].get() > i64::MIN;
        let holds = goes_on && has_time && self.slices.is_some() && self.accumulates() && !catches_up;
        let slice_end = |slices: &Alignment| slices.bounds(self.reached[place].get()).1;
        self.quiet_until.set(self.slices.as_ref().filter(|_| holds).map(slice_end));
        let behind = is_behind && !holds;
        self.behind[place].set(behind);
        let letter = ForwardedRows { rule: self.rule, rows, advances: self.advances.take(), input, behind, holds };
        self.post.send(self.home, RuleLetter::Rows(letter));
    }

    /// Sends what is held here, because home has asked for it.
    pub fn give(&self) {
        self.send(0, false);
    }

    /// Sends slices that this thread has accumulated, and with `reached` how far its time has come.
    pub fn ship(&self, slices: Vec<Partial>, reached: Option<i64>) {
        let mut rows = RowBatch::of_width(self.width);
        slices.into_iter().for_each(|slice| rows.push_partial(slice));
        self.in_flight.set(self.in_flight.get() + rows.weight());
        self.letters.set(self.letters.get() + 1);
        // Rows come before an advance: these slices ended before this time.
        let advances = reached.map(|reached| Advance { row: 0, input: 0, reached }).into_iter().collect();
        let letter = ForwardedRows { rule: self.rule, rows, advances, input: 0, behind: false, holds: false };
        self.post.send(self.home, RuleLetter::Rows(letter));
    }

    /// Whether the limit of rows on their way is reached: then the streams should wait.
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
        // Home waits for a thread that may hold something.
        if !self.holds_nothing() || self.quiet_until.get().is_some() {
            self.send(0, false);
        }
    }

    fn holds_nothing(&self) -> bool {
        !self.holds_rows() && self.advances.borrow().is_empty()
    }

    /// Whether it sends rows of this rule, or of a part of it, to this worker.
    pub fn leads_to(&self, rule: RuleKey, worker: usize) -> bool {
        (self.rule, self.home) == (rule, worker)
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
    use super::super::window::slices_ahead;
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
            let slices = slices_ahead(&body, &context.zone);
            let combiner = Combiner::new(*body, context.clone(), output.clone());
            let seat = of_process(vec![Default::default()], &Default::default()).pop().expect("a seat");
            let shared = SharedWorker::take(seat);
            let forward = Forward::new(7, 0, shared.post().clone(), EventClocks::new(1), 2).combining(combiner, slices);
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

        /// Hands over; returns the letters that were sent: the rows and groups of each, and what comes after it.
        fn sent(&mut self, behind: bool) -> Vec<(usize, usize, Next)> {
            self.forward.hand_over(0, self.now, behind);
            self.came()
        }

        /// The same for the answer to home's question.
        fn given(&mut self) -> Vec<(usize, usize, Next)> {
            self.forward.give();
            self.came()
        }

        /// The letters that have arrived since the last call.
        fn came(&mut self) -> Vec<(usize, usize, Next)> {
            while self.shared.step() {}
            let letters = self.shared.receive().into_iter().map(|(_, letter)| match letter {
                RuleLetter::Rows(ForwardedRows { rows, behind, holds, .. }) => {
                    let groups = rows.partials.iter().map(|(_, partial)| partial.groups.len()).sum();
                    let next = match (behind, holds) {
                        (true, false) => Next::More,
                        (false, true) => Next::Asked,
                        (false, false) => Next::Nothing,
                        (true, true) => panic!("a thread that is asked reports nothing of its own accord"),
                    };
                    (rows.times.len(), groups, next)
                }
                other => panic!("{other:?}"),
            });
            letters.collect()
        }
    }

    /// What a letter says about the next one.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Next {
        /// Nothing is held, and no messages wait.
        Nothing,
        /// Messages wait.
        More,
        /// The next letter comes when home asks for it.
        Asked,
    }

    #[test]
    fn groups_wait_while_home_knows_that_there_may_be_some() {
        let mut letters = Letters::new();
        letters.rows(100, [1, 1, 1, 2, 2]);
        assert_eq!(letters.sent(true), [(0, 2, Next::Asked)], "home does not know yet");
        letters.rows(200, [1, 1, 1, 2, 2]);
        assert_eq!(letters.sent(true), []);
        assert_eq!(letters.sent(false), []);
        assert!(letters.forward.holds_rows());
        assert_eq!(letters.given(), [(0, 2, Next::Nothing)]);
        assert!(!letters.forward.holds_rows());
        letters.rows(300, [1, 1, 1, 2, 2]);
        assert_eq!(letters.sent(false), [(0, 2, Next::Asked)]);
        assert_eq!(letters.sent(true), []);
        assert_eq!(letters.given(), [(0, 0, Next::More)]);
        letters.rows(400, [1, 1]);
        assert_eq!(letters.sent(true), [], "home waits for what is behind");
        assert_eq!(letters.sent(false), [(0, 1, Next::Asked)]);
    }

    #[test]
    fn groups_go_when_their_window_ends_when_they_are_many_and_after_a_while() {
        let mut letters = Letters::new();
        letters.rows(100, [1, 1, 1]);
        assert_eq!(letters.sent(true), [(0, 1, Next::Asked)]);
        letters.rows(200, [1, 1, 1]);
        assert_eq!(letters.sent(true), []);
        letters.rows(1000, [1, 1, 1]);
        assert_eq!(letters.sent(true), [(0, 2, Next::Asked)], "the first window has ended");
        (0..4).for_each(|_| letters.rows(1001, 0..4096));
        assert_eq!(letters.sent(true), [(0, 4096, Next::Asked)]);
        letters.rows(1002, [1, 1, 1]);
        assert_eq!(letters.sent(true), []);
        letters.now += 999;
        assert_eq!(letters.sent(true), []);
        letters.now += 1;
        assert_eq!(letters.sent(true), [(0, 1, Next::Asked)], "it has waited long enough");
        letters.rows(1003, [1]);
        assert_eq!(letters.sent(true), []);
        letters.forward.flush();
        assert!(!letters.forward.holds_rows());
    }

    #[test]
    fn rows_go_as_they_are_while_each_has_a_group_of_its_own() {
        let mut letters = Letters::new();
        letters.rows(100, 0..100);
        assert_eq!(letters.sent(false), [(0, 100, Next::Nothing)]);
        let after = |number: usize, all: usize| if number == all { Next::Asked } else { Next::Nothing };
        // Groups are tried again, each time after twice as many letters.
        for tries in [4, 8, 16] {
            for number in 1..=tries {
                letters.rows(100, 0..100);
                assert_eq!(letters.sent(false), [(100, 0, after(number, tries))]);
            }
            letters.rows(100, 0..100);
            assert_eq!(letters.sent(false), []);
            assert_eq!(letters.given(), [(0, 100, Next::Nothing)]);
        }
        for number in 1..=32 {
            letters.rows(100, [1]);
            assert_eq!(letters.sent(false), [(1, 0, after(number, 32))]);
        }
        for _ in 0..3 {
            letters.rows(100, [1, 1, 1, 1]);
            assert_eq!(letters.sent(false), []);
        }
        assert_eq!(letters.given(), [(0, 1, Next::Nothing)]);
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
        for _ in 0..2 {
            letters.scan.run(&[FrameBatch { frames: frames(), origin: None, received: Instant::now() }], 0);
            assert_eq!(letters.came(), []);
        }
        assert!(!letters.scan.ready());
        assert_eq!(letters.came(), [(0, 1, Next::More)]);
        assert!(!letters.scan.ready());
        assert_eq!(letters.came(), []);
    }
}
