//! Builds dataflows from plans: the only place where a physical operator becomes an operator of timely.
//!
//! A stream is a dataflow of two operators, `input` (batches of messages under a coarse timestamp) and `scan`. A rule
//! with state is a separate small dataflow: `rows` (the rows that scans put into the rule's queue; its capability is
//! the rule's watermark, or the clock) and `rule`, which acts on rows and when the frontier moves. Nothing here depends
//! on the state of one worker.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::generic::operator::source;
use timely::scheduling::Activator;
use timely::worker::Worker;

use crate::io::queue::{FrameBatch, FrameReceiver, Received};
use crate::metrics::RuleMetrics;
use crate::time::{stamp, unstamp};

use super::batch::RowBatch;
use super::leftover::RuleLeftover;
use super::operate::{Operate, Progress};
use super::queue::{Activity, RuleQueue};
use super::scan::StreamScan;
use super::timers::{Timers, Turn, WorkerClock};

/// The resolution of a stream's timestamps, ms. Progress tracking costs per timestamp, not per message.
const STREAM_TICK: i64 = 10;

/// The most batches that a stream processes before other streams and sockets have a turn.
const BATCHES_A_TURN: usize = 32;

/// A dataflow on a worker.
pub struct Installed {
    /// The number by which it is dropped.
    pub dataflow: usize,
    /// Runs its first operator.
    pub activator: Activator,
}

/// The input of a stream.
pub struct StreamInput {
    receiver: FrameReceiver,
    /// batches that were received but not processed when their turn ended
    rest: RefCell<VecDeque<FrameBatch>>,
}

impl StreamInput {
    pub fn new(receiver: FrameReceiver) -> Self {
        StreamInput { receiver, rest: RefCell::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty() && self.has_no_rest()
    }

    /// How much is waiting: less after each turn that processed something.
    pub fn waiting(&self) -> (usize, usize) {
        (self.receiver.len(), self.rest.borrow().iter().map(|batch| batch.frames.len()).sum())
    }

    fn has_no_rest(&self) -> bool {
        self.rest.borrow().is_empty()
    }

    /// Processes batches for a turn. Remaining ones come first in the next turn.
    fn run(&self, scan: &mut StreamScan, batches: &mut Vec<FrameBatch>, now: i64) {
        if self.has_no_rest() {
            scan.set_behind(!self.is_empty());
            scan.run_for(batches, now, &Turn::begin());
        }
        if !batches.is_empty() {
            self.rest.borrow_mut().extend(batches.drain(..));
            self.receiver.signal().raise();
        }
    }
}

/// Builds the dataflow of a stream.
pub fn stream(
    worker: &mut Worker,
    name: &str,
    input: Rc<StreamInput>,
    scan: Rc<RefCell<StreamScan>>,
    clock: Rc<WorkerClock>,
) -> Installed {
    let dataflow = worker.next_dataflow_index();
    let activator = worker.dataflow_named::<u64, _, _>(name, |scope| {
        let mut activator = None;
        let clock_of_input = clock.clone();
        let scan_of_input = scan.clone();
        let input_of_scan = input.clone();
        let batches =
            source::<_, CapacityContainerBuilder<Vec<FrameBatch>>, _, _>(scope, "input", |capability, info| {
                let mine = scope.activator_for(info.address);
                activator = Some(mine.clone());
                let mut capability = capability;
                move |output| {
                    // The signal is lowered before the queue is read, so a batch that arrives meanwhile raises it
                    // again.
                    input.receiver.lower();
                    if !scan_of_input.borrow_mut().ready() {
                        // A sink makes the engine wait. The sink raises the signal when it is ready.
                        return;
                    }
                    let tick = stamp(clock_of_input.tick() / STREAM_TICK * STREAM_TICK);
                    if tick > *capability.time() {
                        capability.downgrade(&tick);
                    }
                    let mut session = output.session(&capability);
                    // The whole rest is taken, so whatever the scan leaves in this turn comes before later batches.
                    let rest = input.rest.take();
                    let received = rest.len()..BATCHES_A_TURN;
                    rest.into_iter().for_each(|batch| session.give(batch));
                    for _ in received {
                        match input.receiver.receive() {
                            Received::Batch(batch) => session.give(batch),
                            Received::Empty | Received::Ended => return,
                        }
                    }
                    input.receiver.signal().raise();
                }
            });
        batches.sink(Pipeline, "scan", move |(input, _frontier)| {
            input.for_each(|_time, batches| {
                input_of_scan.run(&mut scan.borrow_mut(), batches, clock.now());
            });
        });
        activator.expect("the source's constructor has run")
    });
    Installed { dataflow, activator }
}

/// The parts of a rule's dataflow.
pub struct RuleParts {
    pub id: String,
    pub event_time: bool,
    pub queue: Rc<RuleQueue>,
    pub operator: Rc<RefCell<dyn Operate>>,
    pub metrics: Arc<RuleMetrics>,
    pub clock: Rc<WorkerClock>,
    pub timers: Rc<Timers>,
    pub leftover: RuleLeftover,
    /// The slot for the rule's timers.
    pub slot: usize,
}

/// Builds the dataflow of a rule with state.
pub fn rule(worker: &mut Worker, parts: RuleParts) -> Installed {
    let RuleParts { id, event_time, queue, operator, metrics, clock, timers, mut leftover, slot } = parts;
    let dataflow = worker.next_dataflow_index();
    let (queue_of_rule, timers_of_rule, clock_of_rule) = (queue.clone(), timers.clone(), clock.clone());
    let activator = worker.dataflow_named::<u64, _, _>(&id, |scope| {
        let mut activator = None;
        let rows = source::<_, CapacityContainerBuilder<Vec<RowBatch>>, _, _>(scope, "rows", |capability, info| {
            let mine = scope.activator_for(info.address);
            activator = Some(mine.clone());
            queue.connect(mine);
            let mut capability = capability;
            let mut idle_check = None;
            let mut stepped_back = clock.stepped_back();
            move |output| {
                if queue.is_busy() {
                    // The rule has work left: an empty batch makes it run.
                    output.session(&capability).give(RowBatch::default());
                    return;
                }
                let now = clock.now();
                let mut batch = queue.take();
                if clock.stepped_back() != stepped_back {
                    stepped_back = clock.stepped_back();
                    idle_check = None;
                    queue.restart_idle(now);
                    if !event_time {
                        batch.step_back(now);
                    }
                }
                if !batch.is_empty() || batch.stepped_back || queue.ended() {
                    output.session(&capability).give(batch);
                }
                if event_time {
                    let next = queue.refresh(now);
                    // One timer at a time, so that the heap does not grow with the rows.
                    if idle_check.is_none_or(|at| at <= now)
                        && let Some(at) = next
                    {
                        timers.request(at, slot);
                        idle_check = Some(at);
                    }
                    if let Some(at) = queue.take_look(now) {
                        timers.request(at, slot);
                    }
                }
                let reached = stamp(if event_time { queue.watermark() } else { clock.tick() });
                if reached > *capability.time() {
                    capability.downgrade(&reached);
                }
            }
        });
        let mut failed = false;
        let mut wakes = None;
        rows.sink(Pipeline, "rule", move |(input, frontier)| {
            if !failed && metrics.has_failed() {
                // Another thread has a part of its state, and has failed.
                failed = true;
                operator.borrow_mut().forget();
                queue_of_rule.set_activity(Activity::Idle);
                leftover.set(0);
            }
            if failed {
                // Its rows continue to arrive until it is stopped.
                input.for_each(|_time, batches| batches.clear());
                return;
            }
            let frontier = frontier.frontier().first().map(|stamp| unstamp(*stamp));
            // At the end of input, time moves to its end once all rows have arrived.
            let time = |tick| if event_time { tick } else { clock_of_rule.time_of(tick) };
            let reached = frontier.filter(|_| !queue_of_rule.ended()).map(time);
            let mut progress = Progress::Done;
            run(&mut failed, &metrics, || {
                let mut operator = operator.borrow_mut();
                input.for_each(|_time, batches| {
                    let given = |batch: &RowBatch| !batch.is_empty() || batch.stepped_back;
                    batches.drain(..).filter(given).for_each(|batch| operator.rows(batch));
                });
                operator.advance(reached);
                progress = operator.work(&mut Turn::begin());
            });
            let was_busy = queue_of_rule.is_busy();
            queue_of_rule.set_activity(match progress {
                Progress::Done | Progress::StateFull(_) => Activity::Idle,
                Progress::More => Activity::Busy,
                Progress::WaitUntil(_) => Activity::Waiting,
                Progress::PauseUntil(_) => Activity::Pausing,
            });
            leftover.set(match progress {
                Progress::Done | Progress::StateFull(_) => 0,
                _ => queue_of_rule.waiting() as u64 + operator.borrow().unprocessed(),
            });
            match progress {
                Progress::StateFull(bytes) => {
                    failed = true;
                    operator.borrow_mut().forget();
                    metrics.fail(format!(
                        "the rule remembers {bytes} bytes, more than its maxStateBytes: use shorter windows or fewer \
                         groups, raise the limit, or set onStateFull to evict"
                    ));
                }
                Progress::Done => {}
                Progress::More => queue_of_rule.activate(),
                Progress::WaitUntil(at) | Progress::PauseUntil(at) if wakes == Some(at) => {}
                Progress::WaitUntil(at) | Progress::PauseUntil(at) => {
                    wakes = Some(at);
                    timers_of_rule.request(at, slot);
                }
            }
            if was_busy && progress == Progress::Done {
                // Rows may have arrived in the meantime.
                queue_of_rule.activate();
            }
        });
        activator.expect("the source's constructor has run")
    });
    Installed { dataflow, activator }
}

/// Runs a rule's code. A panic ends only this rule.
fn run(failed: &mut bool, metrics: &RuleMetrics, code: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(code)).is_err() {
        *failed = true;
        metrics.fail("internal error: the rule's code panicked; the rule is stopped");
    }
}
