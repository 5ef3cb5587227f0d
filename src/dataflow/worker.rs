//! A data thread: one OS thread that runs sockets and a timely worker together.
//!
//! The thread runs a current-thread tokio runtime. Socket tasks and the worker's loop are tasks of that runtime, so a
//! message goes from socket to socket without crossing a thread or waking the kernel. The loop takes commands, steps
//! until nothing is left, and waits for a notification or the next deadline; it never blocks.
//!
//! If there are several data threads, each has a second worker, which sends rows to the others (`cluster`).

mod leaver;
mod mail;
mod parts;
mod rules;
mod running;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use timely::communication::Allocator;
use timely::communication::allocator::thread::Thread;
use timely::worker::Worker;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

use crate::cluster::Part;
use crate::definition::stream::StreamSchema;
use crate::io::queue::{FeedChecks, FrameReceiver, Signal};
use crate::time::Clock;
use crate::view::Views;

use super::build::{self, Installed, StreamInput};
use super::cluster::{self, Seat, SharedWorker, Traffic};
use super::command::{Command, RuleKey, StreamKey};
use super::leftover::Leftover;
use super::letters::RuleLetter;
use super::output::Output;
use super::scan::StreamScan;
use super::table::{self, Tables};
use super::timers::{Timers, WorkerClock};
use super::view::{Network, Ran};

use leaver::Leaver;
use mail::{Mailbox, Unsettled};
use running::RunningRule;

/// Steps of the loop before sockets get their turn.
const STEPS_A_TURN: usize = 64;

/// A data thread, as the control plane uses it.
pub struct DataThread {
    /// runs futures on the thread, in parallel with the worker
    pub handle: Handle,
    commands: Commands,
    ready: Sender<usize>,
    leftover: Leftover,
    thread: Option<JoinHandle<()>>,
}

/// Sends commands to a worker. Clones send to the same one.
#[derive(Clone)]
pub struct Commands {
    commands: Sender<Command>,
    wake: Arc<Notify>,
}

impl Commands {
    /// Sends a command to the worker.
    pub fn send(&self, command: Command) {
        // A worker that has ended has nothing left to do.
        let _ = self.commands.send(command);
        self.wake.notify_one();
    }
}

impl DataThread {
    /// Starts `count` threads, which send rows to each other, and to the threads of other processes if this one is
    /// `part` of a cluster; `traffic` counts the letters in flight between the threads of this process. The rows of
    /// their views go into `views`.
    ///
    /// # Errors
    /// The system's error if a thread or runtime cannot be created.
    pub fn start_all(
        count: usize,
        zone: &jiff::tz::TimeZone,
        clock: &Clock,
        views: &Arc<Views>,
        traffic: &Traffic,
        part: Option<Part>,
    ) -> std::io::Result<Vec<Self>> {
        let wakes: Vec<Arc<Notify>> = (0..count).map(|_| Arc::default()).collect();
        let seats = match part {
            Some(part) => cluster::of_cluster(part, wakes.clone(), traffic),
            None if count > 1 => cluster::of_process(wakes.clone(), traffic),
            // A single thread needs no cluster.
            None => Vec::new(),
        };
        let mut seats = seats.into_iter();
        let start = |(index, wake)| {
            DataThread::start_with(index, zone.clone(), clock.clone(), views.clone(), wake, seats.next())
        };
        wakes.into_iter().enumerate().map(start).collect()
    }

    /// Starts a single thread.
    ///
    /// # Errors
    /// As [`DataThread::start_all`].
    pub fn start(index: usize, zone: jiff::tz::TimeZone, clock: Clock, views: Arc<Views>) -> std::io::Result<Self> {
        DataThread::start_with(index, zone, clock, views, Arc::default(), None)
    }

    fn start_with(
        index: usize,
        zone: jiff::tz::TimeZone,
        clock: Clock,
        views: Arc<Views>,
        wake: Arc<Notify>,
        seat: Option<Seat>,
    ) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        // Unbounded, but filled only by the control plane, and by each signal once until the worker has handled it.
        let (commands, inbox) = crossbeam_channel::unbounded();
        let (ready, slots) = crossbeam_channel::unbounded();
        let wake_of_loop = wake.clone();
        let leftover = Leftover::default();
        let leftover_of_loop = leftover.clone();
        let thread = std::thread::Builder::new()
            .name(format!("data-{index}"))
            // Values nest up to the decoder's limit; debug builds need the space.
            .stack_size(8 * 1024 * 1024)
            .spawn(move || {
                let mut state = WorkerLoop::new(inbox, slots, wake_of_loop, zone, clock, views, seat);
                state.leftover = leftover_of_loop;
                runtime.block_on(state.serve());
                // Sockets that are still open are closed.
                runtime.shutdown_background();
            })?;
        Ok(DataThread { handle, commands: Commands { commands, wake }, ready, leftover, thread: Some(thread) })
    }

    /// The rows that its rules had left to process after their last turns.
    pub fn leftover(&self) -> u64 {
        self.leftover.rows()
    }

    /// A signal for one of the worker's slots.
    pub fn signal(&self, slot: usize) -> Signal {
        Signal::new(slot, self.ready.clone(), self.commands.wake.clone())
    }

    /// Sends a command to the worker.
    pub fn command(&self, command: Command) {
        self.commands.send(command);
    }

    /// The sender of commands, for later use.
    pub fn commands(&self) -> Commands {
        self.commands.clone()
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

/// The rules whose results are gathered into batches, by slot.
type GatheringRules = HashMap<usize, (RuleKey, Rc<RefCell<Output>>)>;

struct WorkerLoop {
    worker: Worker,
    /// Set if there are other threads.
    shared: Option<SharedWorker<RuleLetter>>,
    commands: Receiver<Command>,
    /// A command that waits for letters; later ones wait after it.
    held: Option<Command>,
    ready: Receiver<usize>,
    wake: Arc<Notify>,
    clock: Rc<WorkerClock>,
    timers: Rc<Timers>,
    /// how far the clock had gone back when the timers were last notified
    stepped_back: i64,
    zone: jiff::tz::TimeZone,
    streams: HashMap<StreamKey, RunningStream>,
    rules: HashMap<RuleKey, Box<RunningRule>>,
    mail: Mailbox,
    /// The rules that also receive results of other processes, by the name in their letters.
    relayed: HashMap<u64, RuleKey>,
    tables: Tables,
    /// the first operator of the dataflow at each slot
    slots: HashMap<usize, timely::scheduling::Activator>,
    leftover: Leftover,
    gathering: GatheringRules,
    views: Arc<Views>,
    /// The readers of views.
    network: Network,
    draining: Vec<oneshot::Sender<()>>,
    settling: Vec<oneshot::Sender<()>>,
    ending: Vec<(Arc<[RuleKey]>, oneshot::Sender<()>)>,
    /// results of other processes that sinks have accepted; their senders are notified when the sinks accept more
    unsettled: Vec<Unsettled>,
    /// rules that have left, while results are in flight between the processes
    leavers: HashMap<RuleKey, Leaver>,
}

impl WorkerLoop {
    fn new(
        commands: Receiver<Command>,
        ready: Receiver<usize>,
        wake: Arc<Notify>,
        zone: jiff::tz::TimeZone,
        clock: Clock,
        views: Arc<Views>,
        seat: Option<Seat>,
    ) -> Self {
        let allocator = Allocator::Thread(Thread::default());
        let mut config = timely::WorkerConfig::default();
        table::configure(&mut config);
        let worker = Worker::new(config, allocator, Some(std::time::Instant::now()));
        WorkerLoop {
            tables: Tables::new(&worker, zone.clone()),
            worker,
            shared: seat.map(SharedWorker::take),
            commands,
            held: None,
            ready,
            wake,
            clock: Rc::new(WorkerClock::new(clock)),
            timers: Rc::new(Timers::default()),
            stepped_back: 0,
            zone,
            streams: HashMap::new(),
            rules: HashMap::new(),
            mail: Mailbox::default(),
            relayed: HashMap::new(),
            slots: HashMap::new(),
            leftover: Leftover::default(),
            gathering: GatheringRules::new(),
            views,
            network: Network::default(),
            draining: Vec::new(),
            settling: Vec::new(),
            ending: Vec::new(),
            unsettled: Vec::new(),
            leavers: HashMap::new(),
        }
    }

    async fn serve(mut self) {
        let deadline = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(deadline);
        loop {
            while let Some(command) = self.next_command() {
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
                // Rules in processing time send the content of their windows.
                self.slots.keys().for_each(|slot| self.activate(*slot));
            }
            while let Some(slot) = self.timers.due(now) {
                self.activate(slot);
                if let Some((_, output)) = self.gathering.get(&slot) {
                    output.borrow_mut().tick();
                }
            }
            let idle = self.step() && self.answer();
            if !idle || !self.ready.is_empty() || self.may_go_on() {
                // Sockets of this thread get their turn before the next round.
                tokio::task::yield_now().await;
                continue;
            }
            match self.timers.next() {
                None => self.wake.notified().await,
                // Setting the clock wakes the worker.
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

    /// Runs active operators, and receives letters of other threads; true: nothing is left.
    fn step(&mut self) -> bool {
        for _ in 0..STEPS_A_TURN {
            // The shared worker steps first: only then is it known whether anything has arrived.
            let exchanged = self.exchange();
            if self.is_active() {
                self.worker.step();
            } else if !exchanged {
                match self.network.run(&self.clock) {
                    Ran::Nothing => return true,
                    Ran::Something => {}
                    // Sockets get their turn before the next one.
                    Ran::More => return false,
                }
            }
        }
        // Under load the readers of views run once a turn.
        self.network.run(&self.clock);
        false
    }

    /// Runs active operators; true: nothing is left.
    fn run(&mut self) -> bool {
        for _ in 0..STEPS_A_TURN {
            if self.is_active() {
                self.worker.step();
            } else if self.network.run(&self.clock) != Ran::Something {
                return true;
            }
        }
        self.network.run(&self.clock);
        false
    }

    fn is_active(&self) -> bool {
        self.worker.activations().borrow().empty_for() == Some(Duration::ZERO)
    }

    fn activate(&self, slot: usize) {
        if let Some(activator) = self.slots.get(&slot) {
            activator.activate();
        }
    }

    /// Notifies those who wait for the streams to be drained. False: there is more to do.
    fn answer(&mut self) -> bool {
        if self.draining.is_empty() && self.settling.is_empty() && self.ending.is_empty() {
            return true;
        }
        if !self.streams.values().all(|stream| stream.input.is_empty()) || !self.tables.is_idle() {
            return true;
        }
        // Rows that are held for later ones have not reached their rules.
        let mut held = self.rules.values().flat_map(|rule| &rule.lanes).filter(|lane| lane.holds_rows()).peekable();
        if held.peek().is_some() {
            held.for_each(|lane| lane.flush());
            return false;
        }
        // A rule that works, waits or pauses between two turns has not processed all its input.
        let busy = |rule: &RunningRule| rule.queue.as_ref().is_some_and(|queue| queue.is_busy());
        let works = |rule: &RunningRule| rule.queue.as_ref().is_some_and(|queue| queue.is_working());
        if !self.rules.values().any(|rule| works(rule)) {
            for done in self.settling.drain(..) {
                let _ = done.send(());
            }
        }
        if !self.draining.is_empty() && self.rules.values().any(|rule| busy(rule)) {
            return true;
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
        true
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::AddStream { key, schema, checks, frames } => self.add_stream(key, schema, checks, frames),
            Command::PrepareLookups { rule, by, done } => {
                let filled = move || _ = done.send(());
                self.network.prepare(rule, by, &self.zone, Box::new(filled));
            }
            Command::AddRule(rule) => self.add_rule(*rule),
            Command::EndScan { leaving, done } => {
                let _ = done.send(self.end_scan(&leaving));
            }
            Command::SendHome { rule, done } => {
                let _ = done.send(self.send_home(rule));
            }
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
            Command::EmptyTable { slot, name } => {
                self.tables.empty(&name);
                self.activate(slot);
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
            Command::EndPauses => {
                self.clock.end_pauses();
                self.rules.values().filter_map(|rule| rule.queue.as_ref()).for_each(|queue| queue.activate());
            }
            Command::CountUnprocessed(done) => {
                let _ = done.send(self.rules.values().map(|rule| rule.unprocessed()).sum());
            }
            Command::NextDeadline(done) => {
                let _ = done.send(self.timers.next());
            }
            Command::EndOfInput { rules, done } => self.ending.push((rules, done)),
            Command::Stop => {}
        }
    }

    fn add_stream(&mut self, key: StreamKey, schema: StreamSchema, checks: FeedChecks, frames: FrameReceiver) {
        let name = schema.name.to_string();
        let thread = self.shared.as_ref().map_or(0, SharedWorker::thread);
        let scan = Rc::new(RefCell::new(StreamScan::new(schema, self.zone.clone()).on_thread(thread).checking(checks)));
        let input = Rc::new(StreamInput::new(frames));
        let Installed { dataflow, activator } =
            build::stream(&mut self.worker, &name, input.clone(), scan.clone(), self.clock.clone());
        self.slots.insert(key, activator);
        self.streams.insert(key, RunningStream { input, scan, dataflow });
    }

    /// Runs everything that a stream has received, as far as its sinks accept results.
    fn settle_stream(&mut self, stream: StreamKey) {
        let Some(input) = self.streams.get(&stream).map(|stream| stream.input.clone()) else { return };
        let mut waiting = (usize::MAX, usize::MAX);
        while input.waiting() < waiting {
            waiting = input.waiting();
            self.activate(stream);
            while !self.run() {}
        }
    }

    fn drop_stream(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.remove(&key) {
            self.slots.remove(&key);
            self.worker.drop_dataflow(stream.dataflow);
        }
    }
}
