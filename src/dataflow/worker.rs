//! A data thread: one OS thread that runs sockets and a timely worker together.
//!
//! The thread runs a current-thread tokio runtime. Socket tasks and the worker's loop are tasks of that runtime, so a
//! message goes from socket to socket without crossing a thread or waking the kernel. The loop takes commands, steps
//! until nothing is left, and waits for a notification or the next deadline; it never blocks.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use timely::communication::Allocator;
use timely::communication::allocator::thread::Thread;
use timely::worker::Worker;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

use crate::definition::stream::StreamSchema;
use crate::io::queue::{FeedChecks, FrameReceiver, Signal};
use crate::metrics::RuleMetrics;
use crate::plan::fingerprint::{self, Fingerprint};
use crate::plan::physical::{Body, Input, Role, RulePlan, Scan, Stateful};
use crate::plan::view::ViewKind;
use crate::time::Clock;
use crate::value::Text;
use crate::view::Views;

use super::build::{self, Installed, RuleParts, StreamInput};
use super::command::{Command, Keeps, Leaving, Mark, NewRule, RuleKey, Saved, StateAnswer, StreamKey};
use super::context::RuleContext;
use super::feed::Feed;
use super::lookup::Lookup;
use super::operate::Operate;
use super::operator::RuleOperator;
use super::output::{Gathering, Output};
use super::queue::RuleQueue;
use super::scan::{StreamScan, Target};
use super::table::{self, Tables};
use super::timers::{Alarm, Timers, WorkerClock};
use super::view::{Beginning, Network, ViewOperator};

/// Steps that the loop takes before sockets get their turn.
const STEPS_A_TURN: usize = 64;

/// A data thread, as the control plane sees it.
pub struct DataThread {
    /// runs futures on the thread, beside the worker
    pub handle: Handle,
    commands: Sender<Command>,
    ready: Sender<usize>,
    wake: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl DataThread {
    /// Starts thread number `index`. The rows of its views go into `views`.
    ///
    /// # Errors
    /// What the system says where it gives no thread or no runtime.
    pub fn start(index: usize, zone: jiff::tz::TimeZone, clock: Clock, views: Arc<Views>) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        // Unbounded, but filled only by the control plane, and by each signal once until the worker has looked.
        let (commands, inbox) = crossbeam_channel::unbounded();
        let (ready, slots) = crossbeam_channel::unbounded();
        let wake = Arc::new(Notify::new());
        let wake_of_loop = wake.clone();
        let thread = std::thread::Builder::new()
            .name(format!("data-{index}"))
            // Values nest up to the decoder's limit; debug builds need the room.
            .stack_size(8 * 1024 * 1024)
            .spawn(move || {
                let state = WorkerLoop::new(inbox, slots, wake_of_loop, zone, clock, views);
                runtime.block_on(state.run());
                // Sockets that are still open are cut.
                runtime.shutdown_background();
            })?;
        Ok(DataThread { handle, commands, ready, wake, thread: Some(thread) })
    }

    /// A signal for one of the worker's slots.
    pub fn signal(&self, slot: usize) -> Signal {
        Signal::new(slot, self.ready.clone(), self.wake.clone())
    }

    /// Asks something of the worker.
    pub fn command(&self, command: Command) {
        // A worker that has ended has nothing left to do.
        let _ = self.commands.send(command);
        self.wake.notify_one();
    }

    /// Ends the thread and waits for it.
    pub fn stop(mut self) {
        self.command(Command::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a data thread had panicked");
        }
    }
}

struct RunningStream {
    input: Rc<StreamInput>,
    scan: Rc<RefCell<StreamScan>>,
    dataflow: usize,
}

struct RunningRule {
    streams: Box<[StreamKey]>,
    /// the views whose changes it reads
    feeds: Vec<Rc<Feed>>,
    slot: usize,
    /// its dataflow, where it has state
    dataflow: Option<usize>,
    /// the queue before that dataflow
    queue: Option<Rc<RuleQueue>>,
    /// its state, where it has some
    operator: Option<Rc<RefCell<dyn Operate>>>,
    /// what checkpoints are made of
    memory: Option<Memory>,
}

/// The state of a rule that keeps it.
struct Memory {
    id: String,
    plan: Fingerprint,
    operator: Rc<RefCell<dyn Operate>>,
    metrics: Arc<RuleMetrics>,
}

/// The rules whose results wait for others, by slot.
type GatheringRules = HashMap<usize, (RuleKey, Rc<RefCell<Output>>)>;

struct WorkerLoop {
    worker: Worker,
    commands: Receiver<Command>,
    ready: Receiver<usize>,
    wake: Arc<Notify>,
    clock: Rc<WorkerClock>,
    timers: Rc<Timers>,
    /// how far the clock had stepped back when the timers were told
    stepped_back: i64,
    zone: jiff::tz::TimeZone,
    streams: HashMap<StreamKey, RunningStream>,
    rules: HashMap<RuleKey, RunningRule>,
    tables: Tables,
    /// the first operator of the dataflow behind each slot
    slots: HashMap<usize, timely::scheduling::Activator>,
    gathering: GatheringRules,
    views: Arc<Views>,
    /// what reads views
    network: Network,
    draining: Vec<oneshot::Sender<()>>,
    settling: Vec<oneshot::Sender<()>>,
    ending: Vec<(Arc<[RuleKey]>, oneshot::Sender<()>)>,
}

impl WorkerLoop {
    fn new(
        commands: Receiver<Command>,
        ready: Receiver<usize>,
        wake: Arc<Notify>,
        zone: jiff::tz::TimeZone,
        clock: Clock,
        views: Arc<Views>,
    ) -> Self {
        let allocator = Allocator::Thread(Thread::default());
        let mut config = timely::WorkerConfig::default();
        table::configure(&mut config);
        let worker = Worker::new(config, allocator, Some(std::time::Instant::now()));
        WorkerLoop {
            tables: Tables::new(&worker, zone.clone()),
            worker,
            commands,
            ready,
            wake,
            clock: Rc::new(WorkerClock::new(clock)),
            timers: Rc::new(Timers::default()),
            stepped_back: 0,
            zone,
            streams: HashMap::new(),
            rules: HashMap::new(),
            slots: HashMap::new(),
            gathering: GatheringRules::new(),
            views,
            network: Network::default(),
            draining: Vec::new(),
            settling: Vec::new(),
            ending: Vec::new(),
        }
    }

    async fn run(mut self) {
        let deadline = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(deadline);
        loop {
            while let Ok(command) = self.commands.try_recv() {
                if matches!(command, Command::Stop) {
                    return;
                }
                self.command(command);
            }
            while let Ok(slot) = self.ready.try_recv() {
                self.activate(slot);
            }
            let now = self.clock.now();
            let back = self.clock.stepped_back() - self.stepped_back;
            if back > 0 {
                self.stepped_back += back;
                self.timers.step_back(back);
                // Rules that run by the clock send what their windows hold.
                self.slots.keys().for_each(|slot| self.activate(*slot));
            }
            while let Some(slot) = self.timers.due(now) {
                self.activate(slot);
                if let Some((_, output)) = self.gathering.get(&slot) {
                    output.borrow_mut().tick();
                }
            }
            let idle = self.step();
            if idle {
                self.answer();
            }
            if !idle || !self.ready.is_empty() {
                // Sockets of this thread get their turn before the next round.
                tokio::task::yield_now().await;
                continue;
            }
            match self.timers.next() {
                None => self.wake.notified().await,
                // Whoever sets the clock wakes the worker.
                Some(_) if self.clock.is_manual() => self.wake.notified().await,
                Some(at) => {
                    let wait = u64::try_from(at - self.clock.now()).unwrap_or(0);
                    deadline.as_mut().reset(tokio::time::Instant::now() + Duration::from_millis(wait));
                    tokio::select! {
                        () = self.wake.notified() => {}
                        () = deadline.as_mut() => {}
                    }
                }
            }
        }
    }

    /// Runs what is active; true: nothing is left.
    fn step(&mut self) -> bool {
        let activations = self.worker.activations();
        for _ in 0..STEPS_A_TURN {
            if activations.borrow().empty_for() != Some(Duration::ZERO) {
                if self.network.run(&self.clock) {
                    continue;
                }
                return true;
            }
            self.worker.step();
        }
        // Under load what reads views follows once a turn.
        self.network.run(&self.clock);
        false
    }

    fn activate(&self, slot: usize) {
        if let Some(activator) = self.slots.get(&slot) {
            activator.activate();
        }
    }

    /// Answers those who wait for the streams to be drained.
    fn answer(&mut self) {
        if self.draining.is_empty() && self.settling.is_empty() && self.ending.is_empty() {
            return;
        }
        if !self.streams.values().all(|stream| stream.input.is_empty()) || !self.tables.is_idle() {
            return;
        }
        // A rule that works or pauses between two turns has not run all that it was given.
        let busy = |rule: &RunningRule| rule.queue.as_ref().is_some_and(|queue| queue.is_busy());
        let paused = |rule: &RunningRule| rule.queue.as_ref().is_some_and(|queue| queue.is_paused());
        if !self.rules.values().any(|rule| busy(rule) && !paused(rule)) {
            for done in self.settling.drain(..) {
                let _ = done.send(());
            }
        }
        if !self.draining.is_empty() && self.rules.values().any(busy) {
            return;
        }
        if !self.draining.is_empty() {
            self.gathering.values().for_each(|(_, output)| output.borrow_mut().finish());
        }
        for done in self.draining.drain(..) {
            let _ = done.send(());
        }
        for (rules, done) in std::mem::take(&mut self.ending) {
            for queue in rules.iter().filter_map(|key| self.rules.get(key)?.queue.as_ref()) {
                queue.end();
            }
            self.settle(&rules);
            let ended = self.gathering.values().filter(|(key, _)| rules.contains(key));
            ended.for_each(|(_, output)| output.borrow_mut().finish());
            let _ = done.send(());
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::AddStream { key, schema, checks, frames } => self.add_stream(key, schema, checks, frames),
            Command::DropStream(key) => self.drop_stream(key),
            Command::AddRule(rule) => self.add_rule(*rule),
            Command::DropRule { leaving, done } => {
                let _ = done.send(self.leave(leaving));
            }
            Command::SaveRule { key, since, done } => {
                let _ = done.send(self.save_rule(key, since));
            }
            Command::MeasureRules { keys, done } => {
                let size = |key: &RuleKey| {
                    let rule = self.rules.get(key)?;
                    let size = rule.operator.as_ref()?.borrow().size(rule.queue.as_ref()?);
                    Some((*key, size))
                };
                let _ = done.send(keys.iter().filter_map(size).collect());
            }
            Command::ScannedRows { key, limit, done } => {
                let operator = self.rules.get(&key).and_then(|rule| rule.operator.as_ref());
                let _ = done.send(operator.map(|operator| operator.borrow().scanned(limit)).unwrap_or_default());
            }
            Command::MeasureTables(done) => {
                let _ = done.send(self.tables.sizes());
            }
            Command::AddTable { slot, schema, frames, metrics } => {
                let activator = self.tables.create(schema, frames, metrics);
                self.slots.insert(slot, activator);
            }
            Command::DropTable { slot, name } => {
                self.slots.remove(&slot);
                self.tables.drop(&name);
            }
            Command::UseZone(zone) => {
                self.tables.use_zone(zone.clone());
                self.zone = zone;
            }
            Command::Drain(done) => self.draining.push(done),
            Command::Settle(done) => self.settling.push(done),
            Command::NextDeadline(done) => {
                let _ = done.send(self.timers.next());
            }
            Command::EndOfInput { rules, done } => self.ending.push((rules, done)),
            Command::Stop => {}
        }
    }

    fn add_stream(&mut self, key: StreamKey, schema: StreamSchema, checks: FeedChecks, frames: FrameReceiver) {
        let name = schema.name.to_string();
        let scan = Rc::new(RefCell::new(StreamScan::new(schema, self.zone.clone()).checking(checks)));
        let input = Rc::new(StreamInput::new(frames));
        let Installed { dataflow, activator } =
            build::stream(&mut self.worker, &name, input.clone(), scan.clone(), self.clock.clone());
        self.slots.insert(key, activator);
        self.streams.insert(key, RunningStream { input, scan, dataflow });
    }

    fn add_rule(&mut self, rule: NewRule) {
        if let Body::View(view) = &rule.plan.body
            && matches!(view.kind, ViewKind::Derived { .. })
        {
            return self.add_derived(rule);
        }
        let NewRule {
            key,
            streams,
            slot,
            plan,
            id,
            encodings,
            dead_letters,
            send_error,
            metrics,
            mut keeps,
            replaces,
            done,
        } = rule;
        let before = replaces.and_then(|leaving| self.leave(leaving));
        if let (Keeps::State(state), Some(Ok(saved))) = (&mut keeps, &before) {
            *state = Some(saved.bytes.clone());
        }
        let fingerprint = match keeps {
            Keeps::Nothing => None,
            Keeps::State(_) => fingerprint::of(&plan, &self.zone),
        };
        let RulePlan { inputs, body, send_nil } = plan;
        let now = self.clock.now();
        let zone = self.zone.clone();
        let context =
            Rc::new(RuleContext { id, started: now, zone, hits: Default::default(), pause: Default::default() });
        let output = Output::new(encodings, send_nil, send_error, metrics.clone()).with_dead_letters(dead_letters);
        let output = Rc::new(RefCell::new(output));
        if output.borrow().gathers() {
            let alarm = Alarm::new(self.timers.clone(), slot);
            output.borrow_mut().gather(Gathering { clock: self.clock.clone(), alarm });
            self.gathering.insert(slot, (key, output.clone()));
        }
        let scans: Vec<Scan> = inputs.iter().map(|input| input.scan.clone()).collect();
        let changes_of: Vec<Option<Text>> = inputs.iter().map(view_read).collect();
        let (mut memory, mut state) = (None, None);
        let (targets, dataflow) = match body {
            Body::Rows(projection) => (vec![Target::Results(projection)], None),
            Body::Stateful(_) | Body::View(_) => {
                let width = scans.iter().map(Scan::width).max().unwrap_or(0);
                let counts = inputs.iter().map(|input| input.role == Role::Stream);
                let watermark = match &body {
                    Body::Stateful(plan) => plan.event_time,
                    Body::View(view) => view.body.event_time,
                    Body::Rows(_) => None,
                };
                let idle_timeout = watermark.map_or(0, |watermark| watermark.idle_timeout);
                let queue = Rc::new(RuleQueue::new(width, counts, idle_timeout, now));
                let targets = (0..inputs.len() as u16).map(|input| Target::Queue(queue.clone(), input)).collect();
                let (clock, timers) = (self.clock.clone(), self.timers.clone());
                let event_time = watermark.is_some();
                let alarm = if event_time { Alarm::silent() } else { Alarm::new(timers.clone(), slot) };
                let (rules_context, results) = (context.clone(), output.clone());
                let operator: Rc<RefCell<dyn Operate>> = match body {
                    Body::Stateful(plan) => {
                        let lookups = self.lookups(&plan, &inputs);
                        let (plan, clock) = (*plan, clock.clone());
                        let operator = RuleOperator::new(plan, inputs, lookups, rules_context, results, clock, alarm);
                        Rc::new(RefCell::new(operator))
                    }
                    Body::View(view) => {
                        // It is made before its plan is sent, and may have been dropped meanwhile: then nobody sees it.
                        let store = self.views.find(&view.about.name);
                        let store = store.unwrap_or_else(|| Views::detached(view.about.clone()));
                        let feed = self.network.feed(&view.about.name, &self.zone);
                        let (metrics, clock) = (metrics.clone(), clock.clone());
                        let operator = ViewOperator::new(*view, store, feed, rules_context, metrics, clock, alarm);
                        Rc::new(RefCell::new(operator))
                    }
                    Body::Rows(_) => return,
                };
                state = Some(operator.clone());
                let id = context.id.clone();
                if let (Keeps::State(checkpoint), Some(plan)) = (keeps, fingerprint) {
                    let new = Memory { id: id.clone(), plan, operator: operator.clone(), metrics: metrics.clone() };
                    checkpoint.into_iter().for_each(|checkpoint| new.restore(&checkpoint, &queue));
                    memory = Some(new);
                }
                let parts = RuleParts { id, event_time, queue, operator, metrics, clock, timers, slot };
                let Installed { dataflow, activator } = build::rule(&mut self.worker, parts);
                self.slots.insert(slot, activator);
                (targets, Some(dataflow))
            }
        };
        let queue = targets.iter().find_map(|target| match target {
            Target::Queue(queue, _) => Some(queue.clone()),
            Target::Results(_) => None,
        });
        let mut feeds = Vec::new();
        for (((stream, view), scan), target) in streams.iter().zip(changes_of).zip(scans).zip(targets) {
            if let Some(view) = view {
                let feed = self.network.feed(&view, &self.zone);
                feed.add_rule(key, scan, context.clone(), output.clone(), target);
                feeds.push(feed);
            } else if let Some(running) = stream.and_then(|stream| self.streams.get(&stream)) {
                running.scan.borrow_mut().add(key, scan, context.clone(), output.clone(), target);
            }
        }
        let streams: Box<[StreamKey]> = streams.into_iter().flatten().collect();
        if let Some(queue) = &queue {
            queue.fed_by(streams.iter().filter_map(|stream| self.slots.get(stream).cloned()).collect());
        }
        self.rules.insert(key, RunningRule { streams, feeds, slot, dataflow, queue, operator: state, memory });
        let _ = done.send(before);
    }

    /// Begins a view over views, which has no dataflow: it runs when what it reads has changed.
    fn add_derived(&mut self, rule: NewRule) {
        let NewRule { key, slot, plan, id, metrics, replaces, done, .. } = rule;
        let before = replaces.and_then(|leaving| self.leave(leaving));
        let RulePlan { inputs, body: Body::View(view), .. } = plan else { return };
        self.settle(&[]);
        let (started, zone) = (self.clock.now(), self.zone.clone());
        let context = Rc::new(RuleContext { id, started, zone, hits: Default::default(), pause: Default::default() });
        let store = self.views.find(&view.about.name);
        let store = store.unwrap_or_else(|| Views::detached(view.about.clone()));
        let clock = self.clock.clone();
        let begin = Beginning { plan: *view, inputs, view: store, context, metrics, clock };
        self.network.begin(key, &self.tables, begin);
        let streams = Box::default();
        let rule =
            RunningRule { streams, feeds: Vec::new(), slot, dataflow: None, queue: None, operator: None, memory: None };
        self.rules.insert(key, rule);
        let _ = done.send(before);
    }

    /// Where a rule looks rows up, by input.
    fn lookups(&mut self, plan: &Stateful, inputs: &[Input]) -> HashMap<usize, Lookup> {
        let mut lookups = HashMap::new();
        for join in plan.joins.iter().filter(|join| inputs[join.input].role == Role::Lookup) {
            let stream = &inputs[join.input].stream;
            let lookup = match &stream.view {
                Some(_) => Some(Lookup::View(self.network.feed(&stream.name, &self.zone).index(&join.columns))),
                None => self.tables.table(&stream.name).map(|table| Lookup::Table(table.index(&join.columns))),
            };
            lookups.extend(lookup.map(|lookup| (join.input, lookup)));
        }
        lookups
    }

    /// The state of a rule, with all that its streams have handed to it.
    fn save_rule(&mut self, key: RuleKey, since: Mark) -> StateAnswer {
        self.rules.get(&key)?.memory.as_ref()?;
        // Nothing may be on its way within the rule's dataflow.
        self.settle(&[key]);
        let RunningRule { queue: Some(queue), memory: Some(memory), .. } = self.rules.get(&key)? else { return None };
        memory.save(queue, since)
    }

    /// Runs all that the rules were given, without turns and pauses.
    fn settle(&mut self, rules: &[RuleKey]) {
        loop {
            while !self.step() {}
            let mut settled = true;
            for rule in rules.iter().filter_map(|key| self.rules.get(key)) {
                let (Some(queue), Some(operator)) = (&rule.queue, &rule.operator) else { continue };
                if queue.is_busy() {
                    operator.borrow_mut().settle();
                    queue.set_busy(false, false);
                    // Rows that came meanwhile are next.
                    queue.activate();
                    settled = false;
                }
            }
            if settled {
                return;
            }
        }
    }

    /// Runs what the streams of a rule have received, ends it, and returns its state if that was asked for.
    fn leave(&mut self, leaving: Leaving) -> StateAnswer {
        let Leaving { rule, settle, ends, save } = leaving;
        settle.iter().chain(&ends).for_each(|stream| self.settle_stream(*stream));
        self.settle(&[rule]);
        let saved = save.and_then(|since| self.save_rule(rule, since));
        self.drop_rule(rule);
        ends.into_iter().for_each(|stream| self.drop_stream(stream));
        saved
    }

    /// Runs what a stream has received, as far as its sinks take results.
    fn settle_stream(&mut self, stream: StreamKey) {
        let Some(input) = self.streams.get(&stream).map(|stream| stream.input.clone()) else { return };
        let mut waiting = usize::MAX;
        while input.waiting() < waiting {
            waiting = input.waiting();
            self.activate(stream);
            while !self.step() {}
        }
    }

    fn drop_stream(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.remove(&key) {
            self.slots.remove(&key);
            self.worker.drop_dataflow(stream.dataflow);
        }
    }

    fn drop_rule(&mut self, key: RuleKey) {
        let Some(rule) = self.rules.remove(&key) else { return };
        if let Some((_, output)) = self.gathering.remove(&rule.slot) {
            output.borrow_mut().finish();
        }
        for stream in rule.streams.iter().filter_map(|stream| self.streams.get(stream)) {
            stream.scan.borrow_mut().remove(key);
        }
        rule.feeds.iter().for_each(|feed| feed.remove_rule(key));
        self.network.remove(key);
        // The rule may be what its streams had to wait for.
        rule.streams.iter().for_each(|stream| self.activate(*stream));
        if let Some(dataflow) = rule.dataflow {
            self.slots.remove(&rule.slot);
            self.worker.drop_dataflow(dataflow);
            self.tables.sweep();
        }
        drop(rule);
        self.network.sweep();
    }
}

/// The view whose changes an input is.
fn view_read(input: &Input) -> Option<Text> {
    (input.role == Role::Stream && input.stream.view.is_some()).then(|| input.stream.name.clone())
}

impl Memory {
    fn restore(&self, checkpoint: &[u8], queue: &RuleQueue) {
        let begun = Instant::now();
        let (rule, bytes) = (&self.id, checkpoint.len());
        match self.operator.borrow_mut().restore(checkpoint, &self.plan, queue) {
            Ok(()) => tracing::debug!(rule, bytes, took = ?begun.elapsed(), "continues with its stored state"),
            Err(error) => tracing::warn!(rule, "its stored state cannot be used, it starts with empty state: {error}"),
        }
    }

    fn save(&self, queue: &RuleQueue, since: Mark) -> StateAnswer {
        // A panic may have left it half changed.
        if self.metrics.has_failed() {
            return None;
        }
        let begun = Instant::now();
        let operator = self.operator.borrow();
        let mark = operator.changes() + queue.changes();
        if mark == since {
            return None;
        }
        Some(operator.save(&self.plan, queue).map(|bytes| {
            tracing::debug!(rule = self.id, bytes = bytes.len(), took = ?begun.elapsed(), "checkpoint");
            Saved { bytes, mark }
        }))
    }
}
