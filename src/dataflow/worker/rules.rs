//! Rules on a worker: how they begin, keep their state and leave.
//!
//! Of a rule that runs on several threads, each has a part (`command::Part`): the scan on all of them, the state on one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use crate::metrics::RuleMetrics;
use crate::plan::fingerprint::{self, Fingerprint};
use crate::plan::physical::{Body, Input, Role, RulePlan, Scan, Stateful};
use crate::plan::view::ViewKind;
use crate::value::Text;
use crate::view::Views;

use super::super::build::{self, Installed, RuleParts};
use super::super::combine::Combiner;
use super::super::command::{Keeps, Leaving, Left, Mark, NewRule, Part, RuleKey, Saved, StateAnswer, StreamKey};
use super::super::context::RuleContext;
use super::super::feed::Feed;
use super::super::forward::Forward;
use super::super::lookup::Lookup;
use super::super::operate::Operate;
use super::super::operator::RuleOperator;
use super::super::output::{Gathering, Output};
use super::super::queue::RuleQueue;
use super::super::relay::Relay;
use super::super::scan::Target;
use super::super::slots::SlotNames;
use super::super::timers::Alarm;
use super::super::view::{Beginning, ViewOperator};
use super::super::window::slices_ahead;
use super::WorkerLoop;
use super::leaver::Leaver;

pub(super) struct RunningRule {
    streams: Box<[StreamKey]>,
    /// The views whose changes it reads.
    feeds: Vec<Rc<Feed>>,
    slot: usize,
    /// its dataflow, where it has state
    dataflow: Option<usize>,
    /// the queue before that dataflow
    pub queue: Option<Rc<RuleQueue>>,
    /// the way to its state, where that is on another thread
    pub forward: Option<Rc<Forward>>,
    /// the way of its results to other processes, where there are some
    pub relay: Option<Rc<Relay>>,
    /// its state, where it has some
    pub operator: Option<Rc<RefCell<dyn Operate>>>,
    /// what checkpoints are made of
    memory: Option<Memory>,
    /// its results and errors
    pub output: Rc<RefCell<Output>>,
    /// whether its time is in its rows
    pub event_time: bool,
}

impl RunningRule {
    /// A rule without streams and state.
    fn new(slot: usize, output: Rc<RefCell<Output>>, event_time: bool) -> RunningRule {
        RunningRule {
            streams: Box::default(),
            feeds: Vec::new(),
            slot,
            dataflow: None,
            queue: None,
            forward: None,
            relay: None,
            operator: None,
            memory: None,
            output,
            event_time,
        }
    }
}

/// The state of a rule that keeps it.
struct Memory {
    id: String,
    plan: Fingerprint,
    operator: Rc<RefCell<dyn Operate>>,
    metrics: Arc<RuleMetrics>,
}

impl WorkerLoop {
    pub(super) fn add_rule(&mut self, rule: NewRule) {
        if let Body::View(view) = &rule.plan.body
            && matches!(view.kind, ViewKind::Derived { .. })
        {
            return self.add_derived(rule);
        }
        let NewRule { key, streams, slot, plan, id, encodings, dead_letters, send_error, metrics, mut keeps, .. } =
            rule;
        let before = rule.replaces.map(|leaving| self.leave(leaving)).unwrap_or_default();
        if let (Keeps::State(state), Some(Ok(saved))) = (&mut keeps, &before.state) {
            *state = Some(saved.bytes.clone());
        }
        let fingerprint = match keeps {
            Keeps::Nothing => None,
            Keeps::State(_) => fingerprint::of(&plan, &self.zone),
        };
        let RulePlan { inputs, body, send_nil, .. } = plan;
        let zone = self.zone.clone();
        let (hits, pause) = Default::default();
        let context = Rc::new(RuleContext { id, started: rule.started, zone, hits, pause });
        let output = Output::new(encodings, send_nil, send_error, metrics.clone()).with_dead_letters(dead_letters);
        let output = Rc::new(RefCell::new(output));
        if output.borrow().gathers() {
            let alarm = Alarm::new(self.timers.clone(), slot);
            output.borrow_mut().gather(Gathering { clock: self.clock.clone(), alarm });
            self.gathering.insert(slot, (key, output.clone()));
        }
        let relay = self
            .shared
            .as_ref()
            .filter(|shared| shared.counterparts().next().is_some())
            .map(|shared| Rc::new(Relay::new(key, &context.id, shared.post().clone(), shared.counterparts())));
        let relay = relay.filter(|_| output.borrow().is_everywhere());
        if let Some(relay) = &relay {
            output.borrow_mut().send_elsewhere(relay.clone());
            self.relayed.insert(relay.name(), key);
        }
        let watermark = match &body {
            Body::Stateful(plan) => plan.event_time,
            Body::View(view) => view.body.event_time,
            Body::Rows(_) => None,
        };
        let event_time = watermark.is_some();
        let scans: Vec<Scan> = inputs.iter().map(|input| input.scan.clone()).collect();
        let changes_of: Vec<Option<Text>> = inputs.iter().map(view_read).collect();
        let width = scans.iter().map(Scan::width).max().unwrap_or(0);
        let numbers = 0..inputs.len() as u16;
        let mut running = RunningRule::new(slot, output.clone(), event_time);
        let targets: Vec<Target> = match (body, rule.part) {
            (Body::Rows(projection), _) => vec![Target::Results(projection)],
            (body @ (Body::Stateful(_) | Body::View(_)), Part::Scan(home, clocks)) => {
                let Some(shared) = &self.shared else { return };
                let forward = Forward::new(key, home, shared.post().clone(), clocks, width);
                let forward = Rc::new(match body {
                    Body::Stateful(plan) if plan.merges => {
                        output.borrow_mut().name_slots(SlotNames::of(&inputs));
                        forward.combining(Combiner::new(*plan, context.clone(), output.clone()))
                    }
                    _ => forward,
                });
                running.forward = Some(forward.clone());
                numbers.map(|input| Target::Forward(forward.clone(), input)).collect()
            }
            (body, part) => {
                let counts = inputs.iter().map(|input| input.role == Role::Stream);
                let idle_timeout = watermark.map_or(0, |watermark| watermark.idle_timeout);
                let mut queue = RuleQueue::new(width, counts, idle_timeout, self.clock.now());
                if let (Part::Home(clocks), Some(shared)) = (part, &self.shared) {
                    let slices = match &body {
                        Body::Stateful(plan) if plan.merges => slices_ahead(plan, &self.zone),
                        _ => None,
                    };
                    queue = queue.gathering(key, clocks, shared.post().clone(), shared.peers()).by_slices(slices);
                }
                let queue = Rc::new(queue);
                let (clock, timers) = (self.clock.clone(), self.timers.clone());
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
                running.operator = Some(operator.clone());
                let id = context.id.clone();
                if let (Keeps::State(checkpoint), Some(plan)) = (keeps, fingerprint) {
                    let new = Memory { id: id.clone(), plan, operator: operator.clone(), metrics: metrics.clone() };
                    checkpoint.into_iter().for_each(|checkpoint| new.restore(&checkpoint, &queue));
                    running.memory = Some(new);
                }
                running.queue = Some(queue.clone());
                let targets = numbers.map(|input| Target::Queue(queue.clone(), input)).collect();
                let parts = RuleParts { id, event_time, queue, operator, metrics, clock, timers, slot };
                let Installed { dataflow, activator } = build::rule(&mut self.worker, parts);
                self.slots.insert(slot, activator);
                running.dataflow = Some(dataflow);
                targets
            }
        };
        for (((stream, view), scan), target) in streams.iter().zip(changes_of).zip(scans).zip(targets) {
            if let Some(view) = view {
                // A view is where the rule's state is.
                if running.forward.is_none() {
                    let feed = self.network.feed(&view, &self.zone);
                    feed.add_rule(key, scan, context.clone(), output.clone(), target);
                    running.feeds.push(feed);
                }
            } else if let Some(running) = stream.and_then(|stream| self.streams.get(&stream)) {
                running.scan.borrow_mut().add(key, scan, context.clone(), output.clone(), target);
            }
        }
        running.streams = streams.into_iter().flatten().collect();
        if let Some(relay) = relay {
            let waiting = running.streams.iter().chain([&slot]).filter_map(|slot| self.slots.get(slot).cloned());
            relay.wakes(waiting.collect());
            running.relay = Some(relay);
        }
        let inputs = || running.streams.iter().filter_map(|stream| self.slots.get(stream).cloned()).collect();
        running.queue.iter().for_each(|queue| queue.fed_by(inputs()));
        running.forward.iter().for_each(|forward| forward.fed_by(inputs()));
        self.rules.insert(key, running);
        self.deliver_early(key);
        let _ = rule.done.send(before);
    }

    /// Begins a view over views, which has no dataflow: it runs when what it reads has changed.
    fn add_derived(&mut self, rule: NewRule) {
        let NewRule { key, slot, plan, id, metrics, started, replaces, done, .. } = rule;
        let before = replaces.map(|leaving| self.leave(leaving)).unwrap_or_default();
        let RulePlan { inputs, body: Body::View(view), send_nil, .. } = plan else { return };
        self.settle(&[]);
        let zone = self.zone.clone();
        let context = Rc::new(RuleContext { id, started, zone, hits: Default::default(), pause: Default::default() });
        let store = self.views.find(&view.about.name);
        let store = store.unwrap_or_else(|| Views::detached(view.about.clone()));
        let clock = self.clock.clone();
        let output = Rc::new(RefCell::new(Output::new(Vec::new(), send_nil, false, metrics.clone())));
        let begin = Beginning { plan: *view, inputs, view: store, context, metrics, clock };
        let filled = move || {
            let _ = done.send(before);
        };
        self.network.begin(key, &self.tables, begin, Box::new(filled));
        let rule = RunningRule::new(slot, output, false);
        self.rules.insert(key, rule);
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
    pub(super) fn save_rule(&mut self, key: RuleKey, since: Mark) -> StateAnswer {
        self.rules.get(&key)?.memory.as_ref()?;
        // Nothing may be on its way within the rule's dataflow.
        self.settle(&[key]);
        let RunningRule { queue: Some(queue), memory: Some(memory), .. } = self.rules.get(&key)? else { return None };
        memory.save(queue, since)
    }

    /// Runs all that the rules were given, without turns and pauses.
    pub(super) fn settle(&mut self, rules: &[RuleKey]) {
        loop {
            while !self.run() {}
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
    pub(super) fn leave(&mut self, leaving: Leaving) -> Left {
        let Leaving { rule, settle, ends, save, .. } = leaving;
        let forward = self.rules.get(&rule).and_then(|rule| rule.forward.clone());
        forward.iter().for_each(|forward| forward.leave());
        settle.iter().chain(&ends).for_each(|stream| self.settle_stream(*stream));
        self.settle(&[rule]);
        forward.iter().for_each(|forward| forward.flush());
        let state = save.and_then(|since| self.save_rule(rule, since));
        let elsewhere = self.drop_rule(rule).into_iter().collect();
        ends.into_iter().for_each(|stream| self.drop_stream(stream));
        Left { state, letters: forward.map_or(0, |forward| forward.letters()), elsewhere }
    }

    /// Returns what tells when the other processes have left it, too.
    fn drop_rule(&mut self, key: RuleKey) -> Option<oneshot::Receiver<()>> {
        let left = self.mail.forget(key);
        let rule = self.rules.remove(&key)?;
        if let Some(relay) = &rule.relay
            && self.relayed.get(&relay.name()) == Some(&key)
        {
            self.relayed.remove(&relay.name());
        }
        if let Some((_, output)) = self.gathering.remove(&rule.slot) {
            output.borrow_mut().finish();
        }
        let elsewhere = rule.relay.clone().map(|relay| {
            let (done, elsewhere) = oneshot::channel();
            let awaited = relay.end().saturating_sub(left);
            self.leavers.insert(key, Leaver { relay, output: rule.output.clone(), awaited, done });
            self.let_go(key);
            elsewhere
        });
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
        elsewhere
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
