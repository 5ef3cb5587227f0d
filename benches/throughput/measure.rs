//! One measurement: a fresh process, its clients, the messages, the figures.

use crate::candidate::{Candidate, Programs, Running};
use crate::failure::{Doing, Outcome, wrong};
use crate::load::{Connection, Expected, Pace, Receiver, Schedule, collect, collect_groups, drain, send};
use crate::meter::Meter;
use crate::report::Round;
use crate::workload::{Answer, Block, Workload};
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Silence after which a candidate has sent everything, unless a tool slows it.
const QUIET: Duration = Duration::from_millis(40);
/// Time between the call to start and the first message of a schedule, for the generator to be ready.
const AHEAD: Duration = Duration::from_millis(5);
/// A peer that drops overflowing messages gets at most this many messages ahead of its results.
const PEER_WINDOW: u64 = 400;
/// Messages per second for such a peer if results do not correspond to single messages.
const PEER_RATE: u64 = 10_000;
/// A peer gets this fraction of the messages: it is slow, and its figures need no more.
const PEER_PART: u64 = 20;

/// A process under test with all its clients connected.
pub struct Stage {
    runtime: Runtime,
    /// The process under test.
    pub running: Running,
    sender: Connection,
    receivers: Vec<Receiver>,
    /// Silence after which the candidate has sent everything.
    quiet: Duration,
}

impl Stage {
    /// Starts a candidate, connects its clients and sends probes until each receiver gets results.
    pub fn set(candidate: Candidate, workload: &Workload, block: &Block, programs: &Programs) -> Outcome<Stage> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().doing("starting tokio")?;
        let mut running = Running::start(candidate, workload, programs)?;
        let receivers = {
            let _inside = runtime.enter();
            let one = |_| Receiver::new(running.connect("/out")?);
            (0..workload.receivers).map(one).collect::<Outcome<Vec<Receiver>>>()?
        };
        let sender = running.connect("/in")?;
        let quiet = programs.meter.map_or(QUIET, Meter::quiet);
        let mut stage = Stage { runtime, running, sender, receivers, quiet };
        match workload.answer {
            // A probe would be part of a window. The first window ends long after the receiver is connected.
            Answer::Groups => thread::sleep(stage.quiet),
            _ => stage.probe(block)?,
        }
        Ok(stage)
    }

    fn probe(&mut self, block: &Block) -> Outcome<()> {
        for _ in 0..50 {
            send(&mut self.sender, block, block.probe(), Pace::Flood, &AtomicU64::new(0))?;
            let (least, _) = self.runtime.block_on(drain(&mut self.receivers, self.quiet))?;
            if least > 0 {
                return Ok(());
            }
            self.running.process.alive()?;
        }
        wrong(format!("probes had no results: {}", self.running.process.said()))
    }

    /// Sends messages and waits for all their results.
    pub fn round(&mut self, workload: &Workload, block: &Block, messages: u64, pace: Pace) -> Outcome<Round> {
        let schedule = if let Pace::Timed(schedule) = pace { Some(schedule) } else { None };
        let expected = Expected { block, messages, receivers: workload.receivers as u64, schedule };
        let progress = AtomicU64::new(0);
        let Stage { runtime, running, sender, receivers, quiet } = self;
        let begun = schedule.map_or_else(Instant::now, |schedule| schedule.start);
        let before = running.process.cpu()?;
        let (sent, latencies, end, after) = thread::scope(|scope| {
            let generator = scope.spawn(|| send(sender, block, messages, pace, &progress));
            let collected = runtime.block_on(async {
                match workload.answer {
                    Answer::Groups => collect_groups(receivers, &expected).await.map(|()| None),
                    _ => collect(receivers, &expected, &progress).await.map(Some),
                }
            });
            let end = Instant::now();
            let after = running.process.cpu();
            if collected.is_err() {
                // The generator may wait for results that never arrive: now it finds that it may continue, and that the
                // peer is gone.
                running.process.kill();
                progress.store(u64::MAX, Ordering::Relaxed);
            }
            let sent = generator.join().unwrap_or_else(|_| wrong("the generator panicked"));
            let latencies = collected.or_else(|failure| match running.process.said() {
                said if said.is_empty() => Err(failure),
                said => wrong(format!("{failure}; it said: {said}")),
            })?;
            Outcome::Ok((sent?, latencies, end, after?))
        })?;
        let (_, surplus) = match workload.answer {
            Answer::Groups => (0, 0),
            _ => runtime.block_on(drain(receivers, *quiet))?,
        };
        if surplus > 0 {
            return wrong(format!("{surplus} more results than expected"));
        }
        // The last window ends with its second, whatever the speed: then the time is that of sending.
        let end = if workload.answer == Answer::Groups { sent.end } else { end };
        let micros = |histogram: &Histogram<u64>, quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Ok(Round {
            messages,
            rate: messages as f64 / (end - begun).as_secs_f64(),
            cpu: (after - before).as_secs_f64() * 1e6 / messages as f64,
            latency: schedule.and(latencies.as_ref()).map(|l| [0.5, 0.99, 0.999].map(|quantile| micros(l, quantile))),
            lateness: schedule.map(|_| [0.5, 0.99].map(|quantile| micros(&sent.lateness, quantile))),
            peak: running.process.memory()?.peak,
        })
    }

    /// Disconnects the clients and ends the process.
    pub fn end(self) -> Outcome<()> {
        self.running.stop()
    }

    /// The same; returns what a tool has counted.
    pub fn count(self, meter: Meter) -> Outcome<u64> {
        self.running.count(meter)
    }
}

/// Single messages from now on, this many a second.
pub fn pace(rate: u64) -> Pace {
    Pace::Timed(Schedule { start: Instant::now() + AHEAD, rate })
}

/// Measures one candidate once, in a separate process.
pub fn measure(
    candidate: Candidate,
    workload: &Workload,
    block: &Block,
    messages: u64,
    programs: &Programs,
) -> Outcome<Round> {
    let mut stage = Stage::set(candidate, workload, block, programs)?;
    let peer = candidate == Candidate::Kuiperd;
    let (speed, messages) = match workload.rate {
        Some(rate) => (pace(rate), messages),
        None if peer && workload.answer == Answer::Groups => (pace(PEER_RATE), messages / PEER_PART),
        None if peer => (Pace::Window(PEER_WINDOW), messages / PEER_PART),
        None => (Pace::Flood, messages),
    };
    let round = stage.round(workload, block, messages, speed)?;
    stage.end()?;
    Ok(round)
}
