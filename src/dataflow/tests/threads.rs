//! Rules on a data thread, with a clock that the test sets: jumps of the clock, pauses, turns, limits of states.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::{Kept, Rule, by_clock, catalog};
use crate::dataflow::command::{Command, NewRule};
use crate::dataflow::encoding::Encoding;
use crate::dataflow::operate::Progress;
use crate::dataflow::timers::Turn;
use crate::dataflow::worker::DataThread;
use crate::definition::rule::RuleOptions;
use crate::io::queue::{self, Frame, FrameBatch, FrameSender};
use crate::metrics::RuleMetrics;
use crate::time::Clock;

/// Stream `a` with some rules on a data thread.
struct Thread {
    thread: DataThread,
    runtime: Runtime,
    sender: FrameSender,
    wall: Arc<AtomicI64>,
    monotonic: Arc<AtomicI64>,
    rules: Vec<(Arc<Kept>, Arc<RuleMetrics>)>,
}

impl Thread {
    fn new(rules: &[&str], options: &RuleOptions) -> Thread {
        let wall = Arc::new(AtomicI64::new(1_000_000_000_000));
        let monotonic = Arc::new(AtomicI64::new(0));
        let clock = Clock::Stepping { wall: wall.clone(), monotonic: monotonic.clone() };
        let thread = DataThread::start(0, jiff::tz::TimeZone::UTC, clock, Default::default()).expect("a thread");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (sender, frames) = queue::inbound(thread.signal(0));
        let catalog = catalog();
        let schema = catalog.stream("a").expect("the stream is there").schema();
        thread.command(Command::AddStream { key: 0, schema, checks: Default::default(), frames });
        let mut kept = Vec::new();
        for (number, sql) in rules.iter().enumerate() {
            let plan = crate::plan::plan(sql, options, &catalog).unwrap_or_else(|error| panic!("{sql}: {error}"));
            let (outlet, metrics) = (Arc::new(Kept::default()), Arc::new(RuleMetrics::default()));
            let (done, added) = oneshot::channel();
            thread.command(Command::AddRule(Box::new(NewRule {
                dead_letters: Vec::new(),
                key: number as u64 + 1,
                streams: vec![Some(0)],
                slot: number + 1,
                plan,
                id: format!("rule{number}"),
                encodings: vec![Encoding {
                    name: 0,
                    format: Arc::default(),
                    outlets: vec![outlet.clone()],
                    rows: Vec::new(),
                }],
                send_error: false,
                metrics: metrics.clone(),
                keeps: Default::default(),
                part: Default::default(),
                started: 0,
                replaces: None,
                done,
            })));
            runtime.block_on(added).expect("the rule begins");
            kept.push((outlet, metrics));
        }
        Thread { thread, runtime, sender, wall, monotonic, rules: kept }
    }

    fn send(&self, rows: impl IntoIterator<Item = Json>) {
        let frames = rows.into_iter().map(|row| Frame::Text(row.to_string().into())).collect();
        let batch = FrameBatch { frames, origin: None, received: Instant::now() };
        self.runtime.block_on(self.sender.send(batch)).expect("the stream takes it");
    }

    /// Waits until all that was sent has been run.
    fn drain(&self) {
        let (done, drained) = oneshot::channel();
        self.thread.command(Command::Drain(done));
        self.runtime.block_on(drained).expect("the thread answers");
    }

    fn clock(&self, wall: i64, monotonic: i64) {
        self.wall.fetch_add(wall, Ordering::Relaxed);
        self.monotonic.fetch_add(monotonic, Ordering::Relaxed);
    }

    fn texts(&self, rule: usize) -> Vec<String> {
        self.rules[rule].0.0.lock().expect("no panic while it is held").clone()
    }

    fn wait_for(&self, what: impl Fn() -> bool) {
        let begun = Instant::now();
        while !what() {
            assert!(begun.elapsed() < Duration::from_secs(60), "it does not come");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

#[test]
fn a_step_back_of_the_clock_sends_what_windows_hold_and_stops_none() {
    let thread = Thread::new(
        &[
            "SELECT count(*) AS n FROM a GROUP BY TUMBLINGWINDOW(ss, 10)",
            "SELECT count(*) AS n FROM a GROUP BY SLIDINGWINDOW(ss, 10)",
            "SELECT count(*) AS n FROM a GROUP BY SESSIONWINDOW(ss, 100, 10)",
            "SELECT count(*) AS n FROM a GROUP BY HOPPINGWINDOW(ss, 10, 10)",
            "SELECT count(*) AS n FROM a GROUP BY COUNTWINDOW(3)",
        ],
        &by_clock(),
    );
    let row = || [json!({"v": 1})];
    thread.send(row());
    thread.drain();
    thread.clock(-3_600_000, 5);
    thread.send(row());
    thread.drain();
    let one = r#"[{"n":1}]"#;
    for rule in [0, 2, 3] {
        assert_eq!(thread.texts(rule), [one], "the window of before is sent: {rule}");
    }
    assert_eq!(thread.texts(1), [one, one], "a sliding window holds no rows of another time");
    // Time advances: the windows of the new time end as they should.
    thread.clock(20_000, 20_000);
    thread.drain();
    for rule in [0, 2, 3] {
        assert_eq!(thread.texts(rule), [one, one], "{rule}");
    }
    thread.send(row());
    thread.drain();
    assert_eq!(thread.texts(4), [r#"[{"n":3}]"#], "rows are counted whatever the clock does");
    thread.thread.stop();
}

#[test]
fn a_pause_of_one_rule_does_not_hold_up_another() {
    let thread = Thread::new(&["SELECT delay(1000, v) AS v FROM a", "SELECT v FROM a"], &by_clock());
    thread.send((0..2).map(|v| json!({"v": v})));
    thread.wait_for(|| thread.texts(1).len() == 2);
    assert_eq!(thread.texts(0).len(), 0);
    // The first row's result is sent after its pause, then the second row is processed.
    for rows in 1..=2 {
        thread.clock(1000, 1000);
        thread.send([]);
        thread.wait_for(|| thread.texts(0).len() == rows);
    }
    thread.drain();
    assert_eq!(thread.texts(0), [r#"[{"v":0}]"#, r#"[{"v":1}]"#]);
    thread.thread.stop();
}

#[test]
fn at_the_end_pauses_end_and_rows_that_wait_are_counted() {
    let thread = Thread::new(&["SELECT delay(10000, v) AS v FROM a"], &by_clock());
    let unprocessed = || {
        let (done, count) = oneshot::channel();
        thread.thread.command(Command::CountUnprocessed(done));
        thread.runtime.block_on(count).expect("the thread answers")
    };
    thread.send((0..5).map(|v| json!({"v": v})));
    thread.wait_for(|| unprocessed() == 4);
    assert_eq!(thread.texts(0).len(), 0, "the first row pauses the rule");
    thread.wait_for(|| thread.thread.leftover() == 4);
    thread.thread.command(Command::EndPauses);
    thread.drain();
    assert_eq!((thread.texts(0).len(), unprocessed(), thread.thread.leftover()), (5, 0, 0));
    thread.send([json!({"v": 5})]);
    thread.drain();
    assert_eq!(thread.texts(0).len(), 6, "no pause begins");
    thread.thread.stop();
}

#[test]
fn a_rule_that_remembers_too_much_fails_or_forgets_the_oldest() {
    let sql = "SELECT k, count(*) AS n FROM a GROUP BY k, TUMBLINGWINDOW(ss, 10)";
    let limited = |evicts| RuleOptions { max_state_bytes: 300_000, evicts, ..by_clock() };
    let rows = || (0..20_000).map(|k| json!({"k": k}));
    let thread = Thread::new(&[sql], &limited(false));
    let metrics = &thread.rules[0].1;
    rows().collect::<Vec<_>>().chunks(200).for_each(|rows| thread.send(rows.to_vec()));
    thread.drain();
    let (_, error) = metrics.last_error().expect("it has failed");
    assert!(metrics.has_failed() && error.contains("more than its maxStateBytes"), "{error}");
    thread.thread.stop();

    let thread = Thread::new(&[sql], &limited(true));
    rows().collect::<Vec<_>>().chunks(200).for_each(|rows| thread.send(rows.to_vec()));
    thread.drain();
    thread.clock(20_000, 20_000);
    thread.drain();
    let groups: Vec<Json> = serde_json::from_str(&thread.texts(0)[0]).expect("a list");
    assert!((100..10_000).contains(&groups.len()), "{}", groups.len());
    assert_eq!(groups.last().map(|group| &group["k"]), Some(&json!(19_999)), "the newest are there");
    let metrics = &thread.rules[0].1;
    assert!(!metrics.has_failed() && metrics.errors() > 0);
    thread.thread.stop();
}

#[test]
fn a_large_join_is_made_in_turns_and_sent_whole() {
    let sql = "SELECT a.v AS l, b.v AS r FROM a INNER JOIN b ON a.k = b.k GROUP BY TUMBLINGWINDOW(ms, 100)";
    let mut rule = Rule::new(sql, &by_clock());
    rule.never_restart();
    for v in 0..400 {
        rule.send("a", json!({"k": 1, "v": v}));
        rule.send("b", json!({"k": 1, "v": v}));
    }
    rule.step();
    rule.clock.store(100, Ordering::Relaxed);
    rule.operator.advance(Some(100));
    let mut turns = 0;
    while rule.operator.work(&mut Turn::begin()) != Progress::Done {
        assert_eq!(rule.texts().len(), 0, "half a result is nobody's");
        turns += 1;
    }
    assert!(turns > 0);
    let rows: Vec<Json> = serde_json::from_str(&rule.texts()[0]).expect("a list");
    assert_eq!(rows.len(), 160_000);
}
