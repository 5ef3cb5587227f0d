//! Rules on data threads that are fed from memory: the speedup by more threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::BytesMut;
use futures_util::future::join_all;
use plutino::dataflow::cluster::Traffic;
use plutino::dataflow::command::{Command, NewRule, Part};
use plutino::dataflow::division::Division;
use plutino::dataflow::encoding::Encoding;
use plutino::dataflow::event_clock::EventClocks;
use plutino::dataflow::worker::DataThread;
use plutino::definition::rule::RuleOptions;
use plutino::definition::stream::Catalog;
use plutino::io::queue::{self, BATCH_FRAMES, Frame, FrameBatch, FrameSender, MessageBatch, Outlet};
use plutino::metrics::RuleMetrics;
use plutino::plan::physical::{Body, RulePlan, WindowSpec};
use plutino::sql::parse_create;
use plutino::time::Clock;
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::cpu::Cpu;
use crate::workload::{CREATE, Workload};

/// Rows of a workload, over all threads.
pub const ROWS: usize = 4_000_000;

/// The number of generated rows; they are sent repeatedly.
const MADE: usize = 512 * 1024;

/// A rule to measure, and its rows.
pub struct Job {
    pub name: &'static str,
    pub plan: RulePlan,
    /// How often the batches are sent.
    pub rounds: usize,
    /// Batches, each with the number of the input that it is for.
    pub batches: Vec<(usize, FrameBatch)>,
}

/// What one run gave.
pub struct Measured {
    pub rows_per_second: f64,
    /// Processor time of the data threads for each row, ns.
    pub cpu: f64,
    /// The time of the busiest data thread; the mean of all is 1.
    pub busiest: f64,
    /// Rows that came too late for their windows.
    pub late: u64,
}

/// Counts results, and discards them.
#[derive(Default)]
struct Dropped(AtomicU64);

impl Outlet for Dropped {
    fn send(&self, batch: &Arc<MessageBatch>) {
        self.0.fetch_add(batch.len() as u64, Ordering::Relaxed);
    }
}

impl Job {
    pub fn of(workload: &Workload) -> Job {
        let mut catalog = Catalog::default();
        catalog.create(&parse_create(CREATE).expect("it is right")).expect("it is new");
        let hour = 3_600_000;
        let options = RuleOptions { event_time: workload.event_time, late_tolerance: hour, ..RuleOptions::default() };
        let plan = plutino::plan::plan(workload.sql, &options, &catalog).expect("it is right");
        let batch = |number: usize| {
            let rows = (0..BATCH_FRAMES).map(|row| workload.row(0, number * BATCH_FRAMES + row));
            let texts: Vec<String> = rows.collect();
            (0, batch(&texts.iter().map(String::as_bytes).collect::<Vec<_>>()))
        };
        let batches = (0..MADE / BATCH_FRAMES).map(batch).collect();
        Job { name: workload.name, plan, rounds: ROWS / MADE, batches }
    }

    /// Deals the batches out to so many threads, and waits until all have run.
    pub async fn measure(&self, workers: usize) -> Measured {
        let traffic = Traffic::default();
        let zone = jiff::tz::TimeZone::UTC;
        let threads = DataThread::start_all(workers, &zone, &Clock::System, &Arc::default(), &traffic, None);
        let threads = threads.expect("threads");
        let (senders, metrics) = begin(&self.plan, &threads).await;
        let (before, begun) = (Cpu::of("self"), Instant::now());
        let feeding = senders.iter().enumerate().map(|(thread, inputs)| async move {
            for _ in 0..self.rounds {
                for (input, batch) in self.batches.iter().skip(thread).step_by(workers) {
                    inputs[*input].send(batch.clone()).await.expect("the stream takes it");
                }
            }
        });
        join_all(feeding).await;
        drain(&threads, &traffic).await;
        let wall = begun.elapsed();
        let spent = Cpu::of("self").since(&before);
        let rows = (self.batches.iter().map(|(_, batch)| batch.frames.len()).sum::<usize>() * self.rounds) as f64;
        assert_eq!(
            (metrics.rows_in(), metrics.errors()),
            (rows as u64, 0),
            "{}: {:?}",
            self.name,
            metrics.last_error()
        );
        threads.into_iter().for_each(DataThread::stop);
        Measured {
            rows_per_second: rows / wall.as_secs_f64(),
            cpu: spent.threads.iter().sum::<u64>() as f64 / rows,
            busiest: spent.busiest(),
            late: metrics.late.load(Ordering::Relaxed),
        }
    }
}

/// One batch whose messages share one allocation, as those do that a socket has read together.
pub fn batch(texts: &[&[u8]]) -> FrameBatch {
    let mut buffer = BytesMut::new();
    texts.iter().for_each(|text| buffer.extend_from_slice(text));
    let mut buffer = buffer.freeze();
    let frame =
        |text: &&[u8]| Frame::Text(Utf8Bytes::try_from(buffer.split_to(text.len())).expect("the rows are UTF-8"));
    FrameBatch { frames: texts.iter().map(frame).collect(), origin: None, received: Instant::now() }
}

/// The streams and the rule on all threads. Returns the ways to the inputs of each thread.
async fn begin(plan: &RulePlan, threads: &[DataThread]) -> (Vec<Vec<FrameSender>>, Arc<RuleMetrics>) {
    let clocks = EventClocks::new(plan.inputs.len());
    let metrics = Arc::new(RuleMetrics::default());
    let division = match &plan.body {
        Body::Stateful(body) if !body.exchange.is_empty() && threads.len() > 1 => {
            let windows = !matches!(body.window, WindowSpec::Each);
            Some(Division::new(0..threads.len(), windows.then_some(0)))
        }
        _ => None,
    };
    let mut senders = Vec::new();
    for (index, thread) in threads.iter().enumerate() {
        let mut of_thread = Vec::new();
        for (key, input) in plan.inputs.iter().enumerate() {
            let (sender, frames) = queue::inbound(thread.signal(key));
            let schema = input.stream.schema();
            thread.command(Command::AddStream { key, schema, checks: Default::default(), frames });
            of_thread.push(sender);
        }
        senders.push(of_thread);
        let part = match (&plan.body, &division) {
            (Body::Rows(_), _) => Part::Whole,
            _ if threads.len() == 1 => Part::Whole,
            (_, Some(division)) => Part::Exchange(division.clone(), clocks.clone()),
            _ if index == 0 => Part::Home(clocks.clone()),
            _ => Part::Scan(0, clocks.clone()),
        };
        let inputs = plan.inputs.len();
        let results = Arc::new(Dropped::default());
        let (done, begun) = oneshot::channel();
        thread.command(Command::AddRule(Box::new(NewRule {
            key: 1,
            streams: (0..inputs).map(Some).collect(),
            slot: inputs,
            plan: plan.clone(),
            id: "r".to_owned(),
            encodings: vec![Encoding { name: 0, format: Arc::default(), outlets: vec![results], rows: Vec::new() }],
            dead_letters: Vec::new(),
            send_error: false,
            metrics: metrics.clone(),
            keeps: Default::default(),
            part,
            started: Clock::System.now(),
            replaces: None,
            done,
        })));
        begun.await.expect("the rule begins");
    }
    (senders, metrics)
}

/// Waits until everything has run.
async fn drain(threads: &[DataThread], traffic: &Traffic) {
    loop {
        let before = traffic.counts();
        let asked = threads.iter().map(|thread| {
            let (done, answer) = oneshot::channel();
            thread.command(Command::Drain(done));
            answer
        });
        for answer in asked.collect::<Vec<_>>() {
            answer.await.expect("the thread answers");
        }
        if before.0 == before.1 && before == traffic.counts() {
            return;
        }
    }
}
