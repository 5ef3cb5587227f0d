//! Rules on data threads that are fed from memory: the speedup by more threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::BytesMut;
use futures_util::future::join_all;
use plutino::dataflow::cluster::Traffic;
use plutino::dataflow::command::{Command, NewRule, Part};
use plutino::dataflow::event_clock::EventClocks;
use plutino::dataflow::output::Encoding;
use plutino::dataflow::worker::DataThread;
use plutino::definition::rule::RuleOptions;
use plutino::definition::stream::Catalog;
use plutino::io::queue::{self, BATCH_FRAMES, Frame, FrameBatch, FrameSender, MessageBatch, Outlet};
use plutino::metrics::RuleMetrics;
use plutino::plan::physical::Body;
use plutino::sql::parse_create;
use plutino::time::Clock;
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::cpu::Cpu;
use crate::workload::{CREATE, Workload};

/// Rows of all threads.
pub const ROWS: usize = 4_000_000;

/// The number of generated rows; they are sent repeatedly.
const MADE: usize = 512 * 1024;

/// Counts results, and discards them.
#[derive(Default)]
struct Dropped(AtomicU64);

impl Outlet for Dropped {
    fn send(&self, batch: &Arc<MessageBatch>) {
        self.0.fetch_add(batch.len() as u64, Ordering::Relaxed);
    }
}

/// Rows per second, and the CPU time of the data threads for each, ns.
pub async fn measure(workload: &Workload, workers: usize) -> (f64, f64) {
    let batches = batches(workload);
    let traffic = Traffic::default();
    let zone = jiff::tz::TimeZone::UTC;
    let threads = DataThread::start_all(workers, &zone, &Clock::System, &Arc::default(), &traffic, None);
    let threads = threads.expect("threads");
    let (senders, metrics) = begin(workload, &threads).await;
    let (before, begun) = (Cpu::of("self"), Instant::now());
    let share = ROWS / BATCH_FRAMES / workers;
    let feeding = senders.iter().enumerate().map(|(thread, sender)| {
        let own = batches.iter().skip(thread).step_by(workers).cycle().take(share);
        async move {
            for batch in own {
                sender.send(batch.clone()).await.expect("the stream takes it");
            }
        }
    });
    join_all(feeding).await;
    drain(&threads, &traffic).await;
    let wall = begun.elapsed();
    let spent = Cpu::of("self").since(&before);
    let rows = (share * BATCH_FRAMES * workers) as f64;
    let lost = metrics.errors() + metrics.late.load(Ordering::Relaxed);
    assert_eq!((metrics.rows_in(), lost), (rows as u64, 0), "{}: {:?}", workload.name, metrics.last_error());
    threads.into_iter().for_each(DataThread::stop);
    (rows / wall.as_secs_f64(), spent.threads.iter().sum::<u64>() as f64 / rows)
}

/// Its rows, in batches like those from a socket under load.
fn batches(workload: &Workload) -> Vec<FrameBatch> {
    let batch = |number: usize| {
        let texts: Vec<String> = (0..BATCH_FRAMES).map(|row| workload.row(0, number * BATCH_FRAMES + row)).collect();
        let mut buffer = BytesMut::new();
        texts.iter().for_each(|text| buffer.extend_from_slice(text.as_bytes()));
        let mut buffer = buffer.freeze();
        let frame =
            |text: &String| Frame::Text(Utf8Bytes::try_from(buffer.split_to(text.len())).expect("the rows are UTF-8"));
        FrameBatch { frames: texts.iter().map(frame).collect(), origin: None, received: Instant::now() }
    };
    (0..MADE / BATCH_FRAMES).map(batch).collect()
}

/// The stream and the rule on all threads.
async fn begin(workload: &Workload, threads: &[DataThread]) -> (Vec<FrameSender>, Arc<RuleMetrics>) {
    let mut catalog = Catalog::default();
    catalog.create(&parse_create(CREATE).expect("it is right")).expect("it is new");
    let hour = 3_600_000;
    let options = RuleOptions { event_time: workload.event_time, late_tolerance: hour, ..RuleOptions::default() };
    let plan = plutino::plan::plan(workload.sql, &options, &catalog).expect("it is right");
    let clocks = EventClocks::new(plan.inputs.len());
    let metrics = Arc::new(RuleMetrics::default());
    let mut senders = Vec::new();
    for (index, thread) in threads.iter().enumerate() {
        let (sender, frames) = queue::inbound(thread.signal(0));
        let schema = plan.inputs[0].stream.schema();
        thread.command(Command::AddStream { key: 0, schema, checks: Default::default(), frames });
        senders.push(sender);
        let part = match &plan.body {
            Body::Rows(_) => Part::Whole,
            _ if threads.len() == 1 => Part::Whole,
            _ if index == 0 => Part::Home(clocks.clone()),
            _ => Part::Scan(0, clocks.clone()),
        };
        let results = Arc::new(Dropped::default());
        let (done, begun) = oneshot::channel();
        thread.command(Command::AddRule(Box::new(NewRule {
            key: 1,
            streams: vec![Some(0)],
            slot: 1,
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
