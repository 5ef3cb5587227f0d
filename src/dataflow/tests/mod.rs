//! Rules with state against simple models that follow the definitions.
//!
//! A rule is planned from its SQL and fed with JSON through the scan, as by a worker; the clock is set by hand. Most
//! rules are stopped now and then, and continue in new operators with the checkpoint of the old ones: this must never
//! affect the results.

mod batches;
mod checkpoints;
mod edges;
mod errors;
mod exchange;
mod feeds;
mod indexed;
mod joins;
mod partials;
mod sizes;
mod spread;
mod threads;
mod windows;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::Value as Json;

use super::context::RuleContext;
use super::division::Division;
use super::encoding::Encoding;
use super::operator::RuleOperator;
use super::output::Output;
use super::queue::RuleQueue;
use super::scan::{StreamScan, Target};
use super::timers::{Alarm, Timers, WorkerClock};
use crate::definition::rule::RuleOptions;
use crate::definition::stream::Catalog;
use crate::io::queue::{Frame, FrameBatch, MessageBatch, Outlet};
use crate::metrics::RuleMetrics;
use crate::plan::fingerprint::{self, Fingerprint};
use crate::plan::physical::{Body, Role, RulePlan};
use crate::sql::parse_create;
use crate::time::Clock;

/// A sink that keeps its messages.
#[derive(Default)]
struct Kept(Mutex<Vec<String>>);

impl Outlet for Kept {
    fn send(&self, batch: &Arc<MessageBatch>) {
        let texts = batch.messages().map(|message| String::from_utf8(message.to_vec()).expect("results are text"));
        self.0.lock().expect("no panic while it is held").extend(texts);
    }
}

/// A running rule.
struct Rule {
    /// the name of each input's stream, and its scan
    scans: Vec<(String, StreamScan)>,
    queue: Rc<RuleQueue>,
    operator: RuleOperator,
    kept: Arc<Kept>,
    metrics: Arc<RuleMetrics>,
    clock: Arc<AtomicI64>,
    timers: Rc<Timers>,
    event_time: bool,
    output: Rc<RefCell<Output>>,
    /// the plan, options and zone that it was made from
    origin: (RulePlan, RuleOptions, jiff::tz::TimeZone),
    fingerprint: Fingerprint,
    restarts: Restarts,
}

/// When a rule is moved to new operators.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Restarts {
    Never,
    AtEachStep,
    /// at random steps with this seed
    Sometimes(u64),
}

/// Three streams without declared columns, and a table of the last three rows.
fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    for name in ["a", "b", "c"] {
        let create =
            format!("CREATE STREAM {name} () WITH (TYPE=\"websocket\", DATASOURCE=\"/{name}\", TIMESTAMP=\"ts\")");
        catalog.create(&parse_create(&create).expect("it is right")).expect("it is new");
    }
    let create =
        "CREATE STREAM w () WITH (TYPE=\"websocket\", DATASOURCE=\"/w\", TIMESTAMP=\"ts\", EVENT_CLOCK=\"wall\")";
    catalog.create(&parse_create(create).expect("it is right")).expect("it is new");
    let create = "CREATE TABLE last () WITH (TYPE=\"websocket\", DATASOURCE=\"/last\", RETAIN_SIZE=\"3\")";
    catalog.create(&parse_create(create).expect("it is right")).expect("it is new");
    catalog
}

fn by_clock() -> RuleOptions {
    RuleOptions::default()
}

/// In event time, with this tolerance in ms.
fn event_time(late_tolerance: i64) -> RuleOptions {
    RuleOptions { event_time: true, late_tolerance, max_future_skew: 0, ..RuleOptions::default() }
}

impl Rule {
    fn new(sql: &str, options: &RuleOptions) -> Rule {
        Rule::in_zone(sql, options, jiff::tz::TimeZone::UTC)
    }

    /// Whether no plan can be made for it.
    fn refused(sql: &str, options: &RuleOptions) -> bool {
        crate::plan::plan(sql, options, &catalog()).is_err()
    }

    /// Whether its plan has state.
    fn has_state(sql: &str, options: &RuleOptions) -> bool {
        let plan = crate::plan::plan(sql, options, &catalog());
        plan.is_ok_and(|plan| matches!(plan.body, Body::Stateful(_)))
    }

    fn in_zone(sql: &str, options: &RuleOptions, zone: jiff::tz::TimeZone) -> Rule {
        let plan = crate::plan::plan(sql, options, &catalog()).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let mut rule = Rule::build(plan, options, zone, Arc::default(), Arc::default(), Arc::default());
        // The same for the same rule, so that a failure can be reproduced.
        let seed = sql.bytes().fold(1, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        rule.restarts = match seed % 4 {
            0 => Restarts::Never,
            1 => Restarts::AtEachStep,
            _ => Restarts::Sometimes(seed),
        };
        rule
    }

    fn build(
        plan: RulePlan,
        options: &RuleOptions,
        zone: jiff::tz::TimeZone,
        kept: Arc<Kept>,
        metrics: Arc<RuleMetrics>,
        clock: Arc<AtomicI64>,
    ) -> Rule {
        let fingerprint = fingerprint::of(&plan, &zone).expect("the rule has state");
        let origin = (plan.clone(), options.clone(), zone.clone());
        let Body::Stateful(body) = plan.body else { panic!("the rule has no state") };
        let now = clock.load(Ordering::Relaxed);
        let worker_clock = Rc::new(WorkerClock::new(Clock::Manual(clock.clone())));
        let timers = Rc::new(Timers::default());
        let encoding = Encoding { name: 0, format: Default::default(), outlets: vec![kept.clone()], rows: Vec::new() };
        let output = Rc::new(RefCell::new(Output::new(vec![encoding], false, false, metrics.clone())));
        let context = Rc::new(RuleContext {
            id: "r".into(),
            started: 0,
            zone: zone.clone(),
            hits: Default::default(),
            pause: Default::default(),
        });
        let width = plan.inputs.iter().map(|input| input.scan.width()).max();
        let streams = plan.inputs.iter().map(|input| input.role == Role::Stream);
        let queue = Rc::new(RuleQueue::new(width.unwrap_or(0), streams, options.idle_timeout, now));
        let mut scans = Vec::new();
        for (number, input) in plan.inputs.iter().enumerate() {
            let mut scan = StreamScan::new(input.stream.schema(), zone.clone());
            let target = Target::Queue(queue.clone(), number as u16);
            scan.add(1, input.scan.clone(), context.clone(), output.clone(), target);
            scans.push((input.stream.name.to_string(), scan));
        }
        let alarm = if options.event_time { Alarm::silent() } else { Alarm::new(timers.clone(), 0) };
        let results = output.clone();
        let operator = RuleOperator::new(*body, plan.inputs, Default::default(), context, results, worker_clock, alarm);
        let (event_time, restarts) = (options.event_time, Restarts::Never);
        Rule { scans, queue, operator, output, kept, metrics, clock, timers, event_time, origin, fingerprint, restarts }
    }

    /// Messages longer than this, in bytes, are dropped.
    fn limit_messages(&mut self, limit: usize) {
        self.restarts = Restarts::Never;
        self.output.borrow_mut().limit_messages(limit);
    }

    /// Only with the state of this owner's keys.
    fn of_owner(self, division: Division, owner: usize) -> Rule {
        Rule { operator: self.operator.of_owner(division, owner, None), restarts: Restarts::Never, ..self }
    }

    fn never_restart(&mut self) {
        self.restarts = Restarts::Never;
    }

    fn checkpoint(&self) -> Vec<u8> {
        self.operator.save(&self.fingerprint, &self.queue).expect("it is small")
    }

    /// Continues with the state of another one.
    fn restore(&mut self, checkpoint: &[u8]) {
        self.operator.restore(checkpoint, &self.fingerprint, &self.queue).expect("the checkpoint is whole");
    }

    /// Replaces the rule's dataflow by a new one with its state.
    fn restart(&mut self) {
        let checkpoint = self.checkpoint();
        let (plan, options, zone) = self.origin.clone();
        let restarts = self.restarts;
        *self = Rule::build(plan, &options, zone, self.kept.clone(), self.metrics.clone(), self.clock.clone());
        self.restarts = restarts;
        self.restore(&checkpoint);
    }

    fn now(&self) -> i64 {
        self.clock.load(Ordering::Relaxed)
    }

    /// Sends a message to a stream; the rule has not run yet.
    fn send(&mut self, stream: &str, message: impl ToString) {
        let frames = vec![Frame::Text(message.to_string().into())];
        let batch = [FrameBatch { frames, origin: None, received: Instant::now() }];
        let now = self.now();
        self.scans.iter_mut().filter(|(name, _)| name == stream).for_each(|(_, scan)| scan.run(&batch, now));
    }

    /// Runs the rule.
    fn step(&mut self) {
        let now = self.now();
        self.queue.refresh(now);
        self.operator.rows(self.queue.take());
        self.operator.advance(Some(if self.event_time { self.queue.watermark() } else { now }));
        self.operator.settle();
        let restart = match &mut self.restarts {
            Restarts::Never => false,
            Restarts::AtEachStep => true,
            Restarts::Sometimes(seed) => {
                let mut random = fastrand::Rng::with_seed(*seed);
                *seed = random.u64(..);
                random.u8(..4) == 0
            }
        };
        if restart {
            self.restart();
        }
    }

    /// Advances the clock to `now`; the rule runs at each of its deadlines in between, or, if `late`, only at the end.
    fn clock_to(&mut self, now: i64, late: bool) {
        while let Some(at) = self.timers.next()
            && at <= now
        {
            self.clock.store(if late { now } else { at.max(self.now()) }, Ordering::Relaxed);
            self.timers.due(at);
            self.step();
        }
        self.clock.store(now, Ordering::Relaxed);
    }

    /// No more rows will come.
    fn end(&mut self) {
        self.step();
        self.operator.advance(None);
        self.operator.settle();
    }

    /// The messages sent so far.
    fn texts(&self) -> Vec<String> {
        self.kept.0.lock().expect("no panic while it is held").clone()
    }

    /// The messages sent so far, with all numbers as doubles.
    fn messages(&self) -> Vec<Vec<Json>> {
        let texts = self.texts();
        texts
            .iter()
            .map(|text| serde_json::from_str(text).expect("a list of rows"))
            .map(|rows: Vec<Json>| rows.into_iter().map(plain).collect())
            .collect()
    }

    fn errors(&self) -> Option<String> {
        self.metrics.last_error().map(|(_, error)| error.to_string())
    }
}

/// With all numbers as doubles of few digits: the notation of numbers is not tested here.
fn plain(value: Json) -> Json {
    match value {
        Json::Number(number) => Json::from(number.as_f64().map(|number| (number * 1e6).round() / 1e6)),
        Json::Array(elements) => elements.into_iter().map(plain).collect(),
        Json::Object(members) => members.into_iter().map(|(key, value)| (key, plain(value))).collect(),
        other => other,
    }
}

/// Fails with the first message that differs.
fn assert_same(sql: &str, sent: &[Vec<Json>], expected: &[Vec<Json>]) {
    let differs = (0..sent.len().max(expected.len())).find(|number| sent.get(*number) != expected.get(*number));
    if let Some(number) = differs {
        let show = |messages: &[Vec<Json>]| messages.get(number).map(|rows| Json::from(rows.clone()).to_string());
        panic!("{sql}: message {number} is {:?} and not {:?}", show(sent), show(expected));
    }
}
