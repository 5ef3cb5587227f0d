//! Rules on several data threads: the results are those of one thread, and no row is lost in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::{Kept, by_clock, catalog, event_time};
use crate::dataflow::cluster::Traffic;
use crate::dataflow::command::{Command, Keeps, Leaving, Left, Letters, NewRule, Part, StateAnswer};
use crate::dataflow::division::{Division, at_home};
use crate::dataflow::encoding::Encoding;
use crate::dataflow::event_clock::EventClocks;
use crate::dataflow::worker::DataThread;
use crate::definition::rule::RuleOptions;
use crate::format::sink_format::SinkFormat;
use crate::io::queue::{self, Frame, FrameBatch, FrameSender, MessageBatch, Outlet};
use crate::metrics::RuleMetrics;
use crate::plan::physical::{Body, WindowSpec};
use crate::time::Clock;

/// How many threads there are.
pub(super) const THREADS: usize = 3;

/// The thread of the rule's state.
pub(super) const HOME: usize = 1;

/// The streams, and their keys on the threads.
const STREAMS: [(&str, usize); 2] = [("a", 0), ("b", 1_000)];

/// Streams `a` and `b` on all threads, with one rule.
pub(super) struct Threads {
    threads: Vec<DataThread>,
    traffic: Traffic,
    runtime: Runtime,
    /// By thread, then by stream.
    senders: Vec<[FrameSender; 2]>,
    clock: Arc<AtomicI64>,
    kept: Arc<Kept>,
    sink: (Arc<SinkFormat>, Arc<dyn Outlet>),
    pub(super) metrics: Arc<RuleMetrics>,
}

/// A sink of single rows that refuses more while it is full. Only rules with state wait for it, streams do not.
#[derive(Default)]
pub(super) struct Slow {
    kept: Arc<Kept>,
    is_full: AtomicBool,
}

impl Outlet for Slow {
    fn send(&self, batch: &Arc<MessageBatch>) {
        self.kept.send(batch);
    }

    fn ready(&self) -> bool {
        !self.is_full.load(Ordering::Relaxed)
    }

    fn may_wait(&self) -> bool {
        false
    }
}

impl Threads {
    pub(super) fn new(sql: &str, options: &RuleOptions) -> Threads {
        Threads::beginning(sql, options, Keeps::State(None))
    }

    pub(super) fn beginning(sql: &str, options: &RuleOptions, keeps: Keeps) -> Threads {
        let kept: Arc<Kept> = Arc::default();
        Threads::with_sink(sql, options, keeps, kept.clone(), (Arc::default(), kept))
    }

    /// With a sink that is full from the start.
    pub(super) fn with_full_sink(sql: &str, options: &RuleOptions) -> (Threads, Arc<Slow>) {
        let slow = Arc::new(Slow { is_full: AtomicBool::new(true), ..Slow::default() });
        let single = SinkFormat { send_single: true, ..SinkFormat::default() };
        let sink = (Arc::new(single), slow.clone() as Arc<dyn Outlet>);
        (Threads::with_sink(sql, options, Keeps::Nothing, slow.kept.clone(), sink), slow)
    }

    fn with_sink(
        sql: &str,
        options: &RuleOptions,
        keeps: Keeps,
        kept: Arc<Kept>,
        sink: (Arc<SinkFormat>, Arc<dyn Outlet>),
    ) -> Threads {
        let clock = Arc::new(AtomicI64::new(1_000_000));
        let traffic = Traffic::default();
        let manual = Clock::Manual(clock.clone());
        let threads =
            DataThread::start_all(THREADS, &jiff::tz::TimeZone::UTC, &manual, &Arc::default(), &traffic, None)
                .expect("threads");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let stream = |thread: &DataThread, (name, key): (&str, usize)| {
            let (sender, frames) = queue::inbound(thread.signal(key));
            let schema = catalog().stream(name).expect("the stream is there").schema();
            thread.command(Command::AddStream { key, schema, checks: Default::default(), frames });
            sender
        };
        let senders = threads.iter().map(|thread| STREAMS.map(|which| stream(thread, which))).collect();
        let metrics = Arc::default();
        let threads = Threads { threads, traffic, runtime, senders, clock, kept, sink, metrics };
        threads.begin(1, sql, options, keeps, None);
        threads
    }

    /// Starts a rule, as the engine does; if `replaces` is set, in the place of the rule with the previous key.
    pub(super) fn begin(
        &self,
        key: u64,
        sql: &str,
        options: &RuleOptions,
        keeps: Keeps,
        replaces: Option<&dyn Fn() -> Leaving>,
    ) -> StateAnswer {
        let plan = crate::plan::plan(sql, options, &catalog()).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let clocks = EventClocks::new(plan.inputs.len());
        let division = match &plan.body {
            Body::Stateful(body) if !body.exchange.is_empty() => {
                let windows = !matches!(body.window, WindowSpec::Each);
                Some(Division::new(0..THREADS, windows.then_some(HOME)))
            }
            _ => None,
        };
        let part = |thread: usize| match plan.body {
            Body::Rows(_) => Part::Whole,
            _ if division.is_some() => Part::Exchange(division.clone().expect("it is some"), clocks.clone()),
            _ if thread == HOME => Part::Home(clocks.clone()),
            _ => Part::Scan(HOME, clocks.clone()),
        };
        let stream_key = |name: &str| STREAMS.iter().find(|(known, _)| *known == name).map(|(_, key)| *key);
        let streams: Vec<Option<usize>> = plan.inputs.iter().map(|input| stream_key(&input.stream.name)).collect();
        let mut keeps = keeps;
        let mut begin = |thread: usize, replaces: Option<Leaving>| -> Left {
            let (done, begun) = oneshot::channel();
            self.threads[thread].command(Command::AddRule(Box::new(NewRule {
                key,
                streams: streams.clone(),
                slot: key as usize,
                plan: plan.clone(),
                id: "r".into(),
                encodings: vec![Encoding {
                    name: 0,
                    format: self.sink.0.clone(),
                    outlets: vec![self.sink.1.clone()],
                    rows: Vec::new(),
                }],
                dead_letters: Vec::new(),
                send_error: false,
                metrics: self.metrics.clone(),
                keeps: match (&keeps, &division) {
                    (Keeps::State(state), Some(_)) => Keeps::State(state.clone()),
                    _ if thread == HOME => std::mem::take(&mut keeps),
                    _ => Keeps::Nothing,
                },
                part: part(thread),
                started: 0,
                replaces,
                done,
            })));
            self.runtime.block_on(begun).expect("the rule begins")
        };
        let others = (0..THREADS).filter(|thread| *thread != HOME);
        match replaces {
            None => {
                begin(HOME, None);
                others.for_each(|thread| _ = begin(thread, None));
                None
            }
            Some(leaving) => {
                let letters =
                    others.map(|thread| begin(thread, Some(Leaving { save: None, ..leaving() })).letters).sum();
                begin(HOME, Some(Leaving { letters: Letters { near: letters, far: 0 }, ..leaving() })).state
            }
        }
    }

    pub(super) fn now(&self) -> i64 {
        self.clock.load(Ordering::Relaxed)
    }

    pub(super) fn send(&self, thread: usize, rows: impl IntoIterator<Item = Json>) {
        self.send_to(thread, "a", rows);
    }

    pub(super) fn send_to(&self, thread: usize, stream: &str, rows: impl IntoIterator<Item = Json>) {
        let place = STREAMS.iter().position(|(known, _)| *known == stream).expect("the stream is there");
        let frames = rows.into_iter().map(|row| Frame::Text(row.to_string().into())).collect();
        let batch = FrameBatch { frames, origin: None, received: Instant::now() };
        self.in_time(self.senders[thread][place].send(batch)).expect("the stream takes it");
    }

    /// Gives all threads a command, and waits for their answers.
    pub(super) fn ask<T>(&self, command: impl Fn(oneshot::Sender<T>) -> Command) -> Vec<T> {
        let asked: Vec<_> = self
            .threads
            .iter()
            .map(|thread| {
                let (done, answer) = oneshot::channel();
                thread.command(command(done));
                answer
            })
            .collect();
        asked.into_iter().map(|answer| self.in_time(answer).expect("the thread answers")).collect()
    }

    /// Waits for the threads, with a time limit.
    fn in_time<T>(&self, what: impl Future<Output = T>) -> T {
        let limited = async { tokio::time::timeout(Duration::from_secs(60), what).await };
        self.runtime.block_on(limited).expect("the threads stand still")
    }

    /// Whether no letter was on its way then, nor was sent since.
    fn is_quiet_since(&self, before: (u64, u64)) -> bool {
        before.0 == before.1 && before == self.traffic.counts()
    }

    /// Waits until the threads have read `rows` rows, and no letter is on its way.
    pub(super) fn have_read(&self, rows: u64) {
        self.in_time(async {
            loop {
                let before = self.traffic.counts();
                let read = self.metrics.rows_in() >= rows;
                if read && self.is_quiet_since(before) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }

    /// The sink takes results again.
    pub(super) fn empty(&self, sink: &Slow) {
        sink.is_full.store(false, Ordering::Relaxed);
        // Rules look again after a while.
        self.clock.fetch_add(100, Ordering::Relaxed);
    }

    /// Ends the scans of a rule on all threads, as when it is stopped.
    pub(super) fn end_scans(&self, rule: u64) {
        self.ask(|done| Command::EndScan { leaving: Leaving { settle: vec![0], ..leaving(rule) }, done });
    }

    /// Waits until all that was sent has been run.
    pub(super) fn drain(&self) {
        self.ask_until_quiet(Command::Drain);
    }

    /// The same, or until rules wait for their sinks or for home.
    pub(super) fn settle(&self) {
        self.ask_until_quiet(Command::Settle);
    }

    /// The same, and lets a moment pass: time waits for no thread any more.
    pub(super) fn drain_and_wait(&self) {
        self.drain();
        for _ in 0..2 {
            self.clock.fetch_add(100, Ordering::Relaxed);
            self.drain();
        }
    }

    fn ask_until_quiet(&self, command: impl Fn(oneshot::Sender<()>) -> Command) {
        loop {
            let before = self.traffic.counts();
            self.ask(&command);
            if self.is_quiet_since(before) {
                return;
            }
        }
    }

    /// Removes the rule from all threads; returns the parts of its state.
    pub(super) fn leave(&self, leaving: Leaving) -> Vec<StateAnswer> {
        let drop_rule = |thread: &DataThread| {
            let (done, left) = oneshot::channel();
            let Leaving { rule, save, letters, .. } = leaving;
            let leaving = Leaving { rule, settle: vec![0], ends: Vec::new(), save, letters };
            thread.command(Command::DropRule { leaving, done });
            self.in_time(left).expect("the thread answers").state
        };
        self.threads.iter().map(drop_rule).collect()
    }

    /// No more rows will come.
    pub(super) fn end(&self) {
        self.drain();
        for rules in [[1, 2], [at_home(1), at_home(2)]] {
            self.ask(|done| Command::EndOfInput { rules: rules.into(), done });
            self.drain();
        }
    }

    pub(super) fn messages(&self) -> Vec<Json> {
        let texts = self.kept.0.lock().expect("no panic while it is held").clone();
        texts.iter().map(|text| serde_json::from_str(text).expect("JSON")).collect()
    }

    pub(super) fn rows(&self) -> Vec<Json> {
        let rows = |message: Json| message.as_array().expect("a list of rows").clone();
        self.messages().into_iter().flat_map(rows).collect()
    }

    pub(super) fn stop(self) {
        self.threads.into_iter().for_each(DataThread::stop);
    }
}

#[test]
fn a_group_is_one_whatever_threads_its_rows_come_to() {
    let threads = Threads::new(
        "SELECT k, count(*) AS n, sum(v) AS s FROM a WHERE v > 0 GROUP BY k, TUMBLINGWINDOW(ss, 10)",
        &by_clock(),
    );
    for turn in 0..30 {
        let row = |k: i64| json!({"k": k, "v": if turn % 3 == 0 { 0 } else { 1 }});
        threads.send(turn % THREADS, (0..4).map(row));
        threads.send((turn + 1) % THREADS, (0..4).map(row));
    }
    threads.end();
    let mut rows = threads.rows();
    rows.sort_by_key(|row| row["k"].as_i64());
    let expected: Vec<Json> = (0..4).map(|k| json!({"k": k, "n": 40, "s": 40})).collect();
    assert_eq!(rows, expected);
    assert_eq!(threads.metrics.rows_in(), 240);
    threads.stop();
}

#[test]
fn rows_beyond_what_may_be_under_way_wait_and_none_is_lost() {
    let threads = Threads::new("SELECT count(*) AS n, max(v) AS m FROM a GROUP BY TUMBLINGWINDOW(ss, 10)", &by_clock());
    let rows = 100_000;
    (0..rows).collect::<Vec<_>>().chunks(500).for_each(|some| {
        threads.send(0, some.iter().map(|v| json!({"v": v})));
        threads.send(2, some.iter().map(|v| json!({"v": v})));
    });
    threads.end();
    assert_eq!(threads.rows(), [json!({"n": 2 * rows, "m": rows - 1})]);
    threads.stop();
}

/// Rows of a window whose result has 10 MB.
fn long_rows() -> impl Iterator<Item = Json> {
    let text = "x".repeat(1_000);
    (0..10_000).map(move |k| json!({"k": k, "v": text, "ts": 1_000_000}))
}

/// Rows that arrive while the rule waits for its sink wait too; none is dropped.
#[test]
fn rows_wait_for_a_full_sink_with_the_rule() {
    let (threads, sink) = Threads::with_full_sink("SELECT v FROM a GROUP BY COUNTWINDOW(10000)", &by_clock());
    let rows: Vec<Json> = long_rows().collect();
    rows.chunks(500).for_each(|some| threads.send(HOME, some.to_vec()));
    threads.have_read(10_000);
    // The rule has begun to send the result, and waits.
    threads.settle();
    // As many as may be on their way from two threads: more than the rule's queue holds.
    for thread in [0, 2] {
        (0..50).for_each(|_| threads.send(thread, (0..500).map(|v| json!({"v": v}))));
    }
    threads.have_read(10_000 + 2 * 25_000);
    assert_eq!(threads.metrics.errors(), 0, "{:?}", threads.metrics.last_error());
    threads.empty(&sink);
    threads.drain();
    assert_eq!((threads.messages().len(), threads.metrics.errors()), (60_000, 0));
    threads.stop();
}

#[test]
fn late_rows_of_another_thread_hold_nobody_up() {
    for counted in ["last_value(v, true)", "count(*)"] {
        let sql = format!("SELECT {counted} AS n FROM a GROUP BY k, TUMBLINGWINDOW(ss, 1)");
        let threads = Threads::new(&sql, &event_time(0));
        threads.send(2, [json!({"ts": 1_000_000, "k": 0, "v": 0})]);
        threads.drain();
        let rows = 80_000;
        (0..rows).collect::<Vec<_>>().chunks(500).for_each(|some| {
            threads.send(0, some.iter().map(|v| json!({"ts": 1, "k": v / 2, "v": v})));
        });
        threads.drain();
        assert_eq!(threads.metrics.late.load(Ordering::Relaxed), rows, "{counted}");
        threads.stop();
    }
}

#[test]
fn a_row_is_late_behind_rows_of_any_thread() {
    // Aggregates that depend on the order of rows are gathered as rows.
    let sql = "SELECT count(*) AS n, window_end() AS e, last_value(k, true) AS k FROM a WHERE k = 1 \
               GROUP BY TUMBLINGWINDOW(ss, 1)";
    let threads = Threads::new(sql, &event_time(100));
    let send = |thread: usize, rows: &[(i64, i64)]| {
        threads.send(thread, rows.iter().map(|(ts, k)| json!({"ts": ts, "k": k})));
        threads.drain_and_wait();
        threads.metrics.late.load(Ordering::Relaxed)
    };
    assert_eq!(send(0, &[(500, 1), (450, 1)]), 0);
    assert_eq!(send(2, &[(900, 1)]), 0);
    // A row that does not pass also moves the watermark: to 900, then to 1100.
    assert_eq!(send(0, &[(1000, 0)]), 0);
    assert_eq!(send(2, &[(899, 1), (950, 1)]), 1);
    assert_eq!(send(0, &[(1200, 0)]), 1);
    assert_eq!(send(2, &[(1099, 1), (1100, 1)]), 2);
    assert_eq!(send(HOME, &[(1099, 1), (1500, 1)]), 3);
    assert_eq!(send(2, &[(1399, 1), (1400, 1)]), 4);
    threads.end();
    assert_eq!(threads.rows(), [json!({"n": 4, "e": 1000, "k": 1}), json!({"n": 3, "e": 2000, "k": 1})]);
    threads.stop();
}

#[test]
fn rules_without_state_run_on_each_thread() {
    let threads = Threads::new("SELECT v + 1 AS w FROM a WHERE v != 3", &by_clock());
    (0..6).for_each(|v| threads.send(v % THREADS, [json!({"v": v})]));
    threads.drain();
    let mut sums: Vec<i64> = threads.rows().iter().filter_map(|row| row["w"].as_i64()).collect();
    sums.sort_unstable();
    assert_eq!(sums, [1, 2, 3, 5, 6]);
    threads.stop();
}

#[test]
fn a_new_version_goes_on_where_the_old_one_stood_on_every_thread() {
    let sql = "SELECT count(*) AS n FROM a GROUP BY TUMBLINGWINDOW(ss, 10)";
    let threads = Threads::new(sql, &by_clock());
    let mut sent = 0;
    for key in 2..6_u64 {
        for thread in 0..THREADS {
            threads.send(thread, (0..100).map(|v| json!({"v": v})));
            sent += 100;
        }
        // The sender does not wait for its letters: each row belongs to one version or the other.
        let saved = threads.begin(key, sql, &by_clock(), Keeps::State(None), Some(&|| leaving(key - 1)));
        assert!(matches!(saved, Some(Ok(_))), "the old version gives its state");
    }
    threads.drain();
    threads.ask(|done| Command::EndOfInput { rules: Arc::new([5]), done });
    assert_eq!(threads.rows(), [json!({"n": sent})]);
    threads.stop();
}

pub(super) fn leaving(rule: u64) -> Leaving {
    Leaving { rule, settle: Vec::new(), ends: Vec::new(), save: Some(u64::MAX), letters: Letters::default() }
}

#[test]
fn the_clock_closes_windows_of_rows_from_other_threads() {
    let threads = Threads::new("SELECT count(*) AS n FROM a GROUP BY TUMBLINGWINDOW(ss, 10)", &by_clock());
    for round in 1..=3 {
        (0..THREADS).for_each(|thread| threads.send(thread, [json!({"v": 1})]));
        threads.drain();
        threads.clock.fetch_add(10_000, Ordering::Relaxed);
        // Deadlines are checked when something wakes the thread.
        threads.drain();
        let expected = vec![json!({"n": 3}); round];
        assert_eq!(threads.rows(), expected);
    }
    threads.stop();
}
