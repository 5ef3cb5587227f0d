//! Rules on a worker: how they start, keep their state and leave.
//!
//! If a rule runs on several threads, each has a part of it (`parts`): all have the scan, and one has the state, or
//! each has the state of some keys.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::sync::oneshot;

use crate::plan::fingerprint;
use crate::plan::physical::{Body, Input, Role, RulePlan, Scan};
use crate::plan::view::ViewKind;
use crate::value::Text;
use crate::view::Views;

use super::super::command::{Keeps, Leaving, Left, Mark, NewRule, Part, RuleKey, StateAnswer};
use super::super::context::RuleContext;
use super::super::encoding::Gathering;
use super::super::output::Output;
use super::super::queue::Activity;
use super::super::relay::Relay;
use super::super::timers::Alarm;
use super::super::view::Beginning;
use super::WorkerLoop;
use super::leaver::Leaver;
use super::parts::Begun;
use super::running::RunningRule;

impl WorkerLoop {
    pub(super) fn add_rule(&mut self, rule: NewRule) {
        if let Body::View(view) = &rule.plan.body
            && matches!(view.kind, ViewKind::Derived { .. })
            // Another process computes it.
            && !matches!(rule.part, Part::Scan(..))
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
        let scans: Vec<Scan> = inputs.iter().map(|input| input.scan.clone()).collect();
        let changes_of: Vec<Option<Text>> = inputs.iter().map(view_read).collect();
        let mut running = RunningRule::new(slot, output.clone());
        let begun = Begun { key, body, inputs, context: context.clone(), output: output.clone(), keeps, fingerprint };
        let targets = self.take_part(begun, rule.part, &mut running);
        for (((stream, view), scan), target) in streams.iter().zip(changes_of).zip(scans).zip(targets) {
            if let Some(view) = view {
                // A view runs where the rule's state is.
                if running.lanes.is_empty() {
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
        running.lanes.iter().for_each(|lane| lane.fed_by(inputs()));
        self.network.prepared(key);
        self.rules.insert(key, Box::new(running));
        self.deliver_early(key);
        let _ = rule.done.send(before);
    }

    /// Starts a view over views, which has no dataflow: it runs when the views it reads have changed.
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
        let rule = RunningRule::new(slot, output);
        self.rules.insert(key, Box::new(rule));
    }

    /// The state of a rule, including everything that its streams have passed to it.
    pub(super) fn save_rule(&mut self, key: RuleKey, since: Mark) -> StateAnswer {
        self.rules.get(&key)?.memory.as_ref()?;
        // Nothing may be in flight within the rule's dataflow.
        self.settle(&[key]);
        let RunningRule { queue: Some(queue), memory: Some(memory), .. } = &**self.rules.get(&key)? else {
            return None;
        };
        memory.save(queue, since)
    }

    /// Runs all input of the rules, without turns and pauses.
    pub(super) fn settle(&mut self, rules: &[RuleKey]) {
        loop {
            while !self.run() {}
            let mut settled = true;
            for rule in rules.iter().filter_map(|key| self.rules.get(key)) {
                let (Some(queue), Some(operator)) = (&rule.queue, &rule.operator) else { continue };
                if queue.is_busy() {
                    operator.borrow_mut().settle();
                    queue.set_activity(Activity::Idle);
                    // Rows that arrived meanwhile are next.
                    queue.activate();
                    settled = false;
                }
            }
            if settled {
                return;
            }
        }
    }

    /// Stops a rule from reading: everything its streams have received is run, and sent to its state. Returns how many
    /// letters with rows it has sent in total.
    pub(super) fn end_scan(&mut self, leaving: &Leaving) -> u64 {
        self.settle_streams(leaving);
        let Some(rule) = self.rules.get_mut(&leaving.rule) else { return 0 };
        for stream in std::mem::take(&mut rule.streams).iter().filter_map(|stream| self.streams.get(stream)) {
            stream.scan.borrow_mut().remove(leaving.rule);
        }
        rule.lanes.iter().for_each(|lane| lane.flush());
        rule.lanes.iter().map(|lane| lane.letters()).sum()
    }

    /// Runs the rows of a rule whose state is divided. Returns how many letters its part here has sent home in total.
    pub(super) fn send_home(&mut self, rule: RuleKey) -> u64 {
        self.settle(&[rule]);
        self.rules.get(&rule).and_then(|rule| rule.shipping.as_ref()).map_or(0, |home| home.letters())
    }

    /// Runs everything that the streams of a rule have received.
    fn settle_streams(&mut self, leaving: &Leaving) {
        if let Some(rule) = self.rules.get(&leaving.rule) {
            rule.lanes.iter().for_each(|lane| lane.leave());
            rule.queue.iter().for_each(|queue| queue.leave());
        }
        leaving.settle.iter().chain(&leaving.ends).for_each(|stream| self.settle_stream(*stream));
    }

    /// Runs everything that the streams of a rule have received, ends it, and returns its state if requested.
    pub(super) fn leave(&mut self, leaving: Leaving) -> Left {
        self.settle_streams(&leaving);
        let Leaving { rule, ends, save, .. } = leaving;
        self.settle(&[rule]);
        let lanes = self.rules.get(&rule).map(|rule| rule.lanes.clone()).unwrap_or_default();
        lanes.iter().for_each(|lane| lane.flush());
        let letters = lanes.iter().map(|lane| lane.letters()).sum();
        let state = save.and_then(|since| self.save_rule(rule, since));
        let elsewhere = self.drop_rule(rule).into_iter().collect();
        ends.into_iter().for_each(|stream| self.drop_stream(stream));
        Left { state, letters, elsewhere }
    }

    /// Returns a receiver that is notified when the other processes have left it, too.
    fn drop_rule(&mut self, key: RuleKey) -> Option<oneshot::Receiver<()>> {
        let left = self.mail.forget(key);
        self.network.prepared(key);
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
        // The streams may have waited for the rule.
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
