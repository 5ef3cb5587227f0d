//! The part of a rule on a thread: the destination of the rows that pass its scan, and the state, if it or a part of it
//! is here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::plan::fingerprint::Fingerprint;
use crate::plan::physical::{Body, Input, Role, Stateful};
use crate::view::Views;

use super::super::build::{self, Installed, RuleParts};
use super::super::cluster::Post;
use super::super::combine::Combiner;
use super::super::command::{Keeps, Part, RuleKey};
use super::super::context::RuleContext;
use super::super::division::{Division, at_home};
use super::super::event_clock::EventClocks;
use super::super::exchange::{Exchange, Lane};
use super::super::forward::Forward;
use super::super::lookup::Lookup;
use super::super::operate::Operate;
use super::super::operator::{self, RuleOperator};
use super::super::output::Output;
use super::super::queue::RuleQueue;
use super::super::scan::Target;
use super::super::slots::SlotNames;
use super::super::timers::{Alarm, Turn};
use super::super::view::ViewOperator;
use super::super::window::slices_ahead;
use super::WorkerLoop;
use super::running::{Memory, RunningRule};

/// A rule that is being started.
pub(super) struct Begun {
    pub key: RuleKey,
    pub body: Body,
    pub inputs: Vec<Input>,
    pub context: Rc<RuleContext>,
    pub output: Rc<RefCell<Output>>,
    pub keeps: Keeps,
    /// the fingerprint of its plan, if it keeps its state
    pub fingerprint: Option<Fingerprint>,
}

/// The portion of a rule's state that is on this thread.
enum Portion {
    /// All of it.
    Whole,
    /// The state of this owner's keys, and what sends to home, if the rule has windows.
    Keys(Division, usize, Option<Rc<Forward>>),
    /// The windows of all owners.
    Windows(Division),
}

impl Begun {
    /// The same for the windows of a divided state, which are not stored.
    fn at_home(&self) -> Option<Begun> {
        let Body::Stateful(plan) = &self.body else { return None };
        let inputs = match plan.joins.is_empty() {
            true => self.inputs.clone(),
            false => vec![operator::joined_input(plan, &self.inputs)],
        };
        Some(Begun {
            key: at_home(self.key),
            body: Body::Stateful(Box::new(operator::at_home((**plan).clone()))),
            inputs,
            context: self.context.clone(),
            output: self.output.clone(),
            keeps: Keeps::Nothing,
            fingerprint: None,
        })
    }

    /// The slots of its rows.
    fn width(&self) -> usize {
        self.inputs.iter().map(|input| input.scan.width()).max().unwrap_or(0)
    }

    /// How it processes rows, unless it only projects them.
    fn stateful(&self) -> Option<&Stateful> {
        match &self.body {
            Body::Stateful(plan) => Some(plan),
            Body::View(view) => Some(&view.body),
            Body::Rows(_) => None,
        }
    }

    fn is_in_event_time(&self) -> bool {
        self.stateful().is_some_and(|plan| plan.event_time.is_some())
    }
}

impl WorkerLoop {
    /// Starts a rule's part on this thread. Returns the destinations of the rows of its inputs.
    pub(super) fn take_part(&mut self, begun: Begun, part: Part, running: &mut RunningRule) -> Vec<Target> {
        running.event_time = begun.is_in_event_time();
        let inputs = 0..begun.inputs.len() as u16;
        let queued = |queue: Rc<RuleQueue>| inputs.clone().map(|input| Target::Queue(queue.clone(), input)).collect();
        match (&begun.body, part, &self.shared) {
            (Body::Rows(projection), ..) => vec![Target::Results(projection.clone())],
            (_, Part::Scan(home, clocks), Some(shared)) => {
                let forward = Forward::new(begun.key, home, shared.post().clone(), clocks, begun.width());
                let forward = Rc::new(match &begun.body {
                    Body::Stateful(plan) if plan.merges => {
                        begun.output.borrow_mut().name_slots(SlotNames::of(&begun.inputs));
                        // Groups that a thread holds are in no checkpoint.
                        let slices = slices_ahead(plan, &self.zone).filter(|_| !plan.stored);
                        let plan = (**plan).clone();
                        let combiner = Combiner::new(plan, begun.context.clone(), begun.output.clone());
                        forward.combining(combiner, slices)
                    }
                    _ => forward,
                });
                running.lanes.push(forward.clone());
                inputs.map(|input| Target::Forward(forward.clone(), input)).collect()
            }
            (_, Part::Exchange(division, clocks), Some(_)) => {
                let exchange = Rc::new(self.divide(begun, division, clocks, running));
                inputs.map(|input| Target::Exchange(exchange.clone(), input)).collect()
            }
            (_, Part::Home(clocks), Some(_)) => {
                let queue = self.shared_queue(&begun, clocks);
                queued(self.add_state(begun, Portion::Whole, queue, running))
            }
            _ => {
                let queue = self.queue(&begun);
                queued(self.add_state(begun, Portion::Whole, queue, running))
            }
        }
    }

    /// Connects a rule to the workers of its keys, and starts the part of the state that is here, if there is one.
    fn divide(&mut self, begun: Begun, division: Division, clocks: EventClocks, running: &mut RunningRule) -> Exchange {
        let keys = begun.stateful().map(|plan| plan.exchange.clone()).unwrap_or_default();
        let (key, width) = (begun.key, begun.width());
        let post = self.shared.as_ref().map(|shared| shared.post().clone());
        let here = post.as_ref().map(Post::index);
        let is_home = here.is_some() && division.home() == here;
        let windows = if is_home { begun.at_home() } else { None };
        // Rows at home have the slots of those that were joined.
        let windows = windows.map(|windows| (windows, SlotNames::of(&begun.inputs)));
        let own = here.and_then(|here| division.owner(here)).map(|owner| {
            let home = division.home().zip(post.clone());
            let home = home.map(|(to, post)| Forward::new(at_home(key), to, post, clocks.clone(), width));
            running.shipping = home.map(Rc::new);
            let queue = self.shared_queue(&begun, clocks.clone());
            let portion = Portion::Keys(division.clone(), owner, running.shipping.clone());
            let queue = self.add_state(begun, portion, queue, running);
            let state = self.slots.get(&running.slot).cloned();
            running.shipping.iter().for_each(|home| home.fed_by(state.clone().into_iter().collect()));
            (owner, queue)
        });
        if let Some((windows, names)) = windows {
            self.add_windows(windows, &division, running);
            running.output.borrow_mut().name_slots(names);
        }
        let lanes = division.owners().iter().enumerate().filter_map(|(owner, worker)| match &own {
            Some((here, queue)) if *here == owner => Some(Lane::Here(queue.clone())),
            _ => {
                let away = Rc::new(Forward::new(key, *worker, post.clone()?, clocks.clone(), width));
                running.lanes.push(away.clone());
                Some(Lane::Away(away))
            }
        });
        let lanes = lanes.collect();
        running.division = Some(division.clone());
        Exchange::new(division, keys, clocks, lanes)
    }

    /// Adds the windows of a rule whose keys are divided. For the senders, this is a separate rule.
    fn add_windows(&mut self, begun: Begun, division: &Division, rule: &RunningRule) {
        // The slots of rules are counted from 0; this one is counted from the other end.
        let mut running = RunningRule::new(!rule.slot, rule.output.clone());
        running.event_time = rule.event_time;
        let queue = self.shared_queue(&begun, EventClocks::new(begun.inputs.len()));
        let queue = if rule.event_time { queue.by_slowest_of(division.owners()) } else { queue };
        let key = begun.key;
        self.add_state(begun, Portion::Windows(division.clone()), queue, &mut running);
        self.rules.insert(key, Box::new(running));
        self.deliver_early(key);
    }

    /// The queue of a rule whose rows come from this thread.
    fn queue(&self, begun: &Begun) -> RuleQueue {
        let counts = begun.inputs.iter().map(|input| input.role == Role::Stream);
        let watermark = begun.stateful().and_then(|plan| plan.event_time);
        let idle_timeout = watermark.map_or(0, |watermark| watermark.idle_timeout);
        RuleQueue::new(begun.width(), counts, idle_timeout, self.clock.now())
    }

    /// The queue of a rule whose rows come from other threads, too.
    fn shared_queue(&self, begun: &Begun, clocks: EventClocks) -> RuleQueue {
        let queue = self.queue(begun);
        let Some(shared) = &self.shared else { return queue };
        let slices = match &begun.body {
            Body::Stateful(plan) if plan.merges => slices_ahead(plan, &self.zone),
            _ => None,
        };
        queue.gathering(begun.key, clocks, shared.post().clone(), shared.peers()).by_slices(slices)
    }

    /// Builds the dataflow behind a queue.
    fn add_state(
        &mut self,
        begun: Begun,
        portion: Portion,
        queue: RuleQueue,
        running: &mut RunningRule,
    ) -> Rc<RuleQueue> {
        let event_time = begun.is_in_event_time();
        let Begun { body, inputs, context, output, keeps, fingerprint, .. } = begun;
        let queue = Rc::new(queue);
        let (clock, timers) = (self.clock.clone(), self.timers.clone());
        let slot = running.slot;
        // Rows that are sent home have no windows to end here.
        let ends_none = event_time || matches!(portion, Portion::Keys(_, _, Some(_)));
        let alarm = if ends_none { Alarm::silent() } else { Alarm::new(timers.clone(), slot) };
        let (id, metrics) = (context.id.clone(), output.borrow().metrics().clone());
        let operator: Rc<RefCell<dyn Operate>> = match body {
            Body::Stateful(plan) => {
                let lookups = self.lookups(&plan, &inputs);
                let operator = RuleOperator::new(*plan, inputs, lookups, context, output, clock.clone(), alarm);
                Rc::new(RefCell::new(match portion {
                    Portion::Whole => operator,
                    Portion::Keys(division, owner, home) => operator.of_owner(division, owner, home),
                    Portion::Windows(division) => operator.of_home(division),
                }))
            }
            Body::View(view) => {
                // The store is made before the plan is sent. If it has been dropped meanwhile, the view has no readers.
                let store = self.views.find(&view.about.name);
                let store = store.unwrap_or_else(|| Views::detached(view.about.clone()));
                let feed = self.network.feed(&view.about.name, &self.zone);
                let (metrics, clock) = (metrics.clone(), clock.clone());
                let operator = ViewOperator::new(*view, store, feed, context, metrics, clock, alarm);
                Rc::new(RefCell::new(operator))
            }
            Body::Rows(_) => return queue,
        };
        running.operator = Some(operator.clone());
        if let (Keeps::State(checkpoint), Some(plan)) = (keeps, fingerprint) {
            let new = Memory { id: id.clone(), plan, operator: operator.clone(), metrics: metrics.clone() };
            checkpoint.into_iter().for_each(|checkpoint| new.restore(&checkpoint, &queue));
            running.memory = Some(new);
        }
        running.queue = Some(queue.clone());
        let leftover = self.leftover.of_rule();
        let parts =
            RuleParts { id, event_time, queue: queue.clone(), operator, metrics, clock, timers, leftover, slot };
        let Installed { dataflow, activator } = build::rule(&mut self.worker, parts);
        self.slots.insert(slot, activator);
        running.dataflow = Some(dataflow);
        queue
    }

    /// The tables and views in which a rule looks rows up, by input.
    fn lookups(&mut self, plan: &Stateful, inputs: &[Input]) -> HashMap<usize, Lookup> {
        let mut lookups = HashMap::new();
        for join in plan.joins.iter().filter(|join| inputs[join.input].role == Role::Lookup) {
            let stream = &inputs[join.input].stream;
            let lookup = match &stream.view {
                Some(_) => {
                    let feed = self.network.feed(&stream.name, &self.zone);
                    let index = feed.index(&join.columns);
                    // It was prepared, unless the view has been replaced.
                    feed.fill(&mut Turn::endless());
                    Some(Lookup::View(index))
                }
                None => self.tables.table(&stream.name).map(|table| Lookup::Table(table.index(&join.columns))),
            };
            lookups.extend(lookup.map(|lookup| (join.input, lookup)));
        }
        lookups
    }
}
