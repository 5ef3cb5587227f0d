//! Taps: show the rows between the operators of a running rule.
//!
//! A tap never slows a rule. An operator checks with one load whether it is tapped ([`Taps::wants`]); only then is a
//! row converted to text. A tap takes rows at a limited rate, and drops rows that its reader does not take in time;
//! rows beyond either limit are counted ([`TapReader::skipped`]). A tap ends with its reader or with its rule.
//!
//! Everything before a rule's filter is the same for all rules of a stream, so these points are tapped at the stream.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, error::TrySendError};

use crate::sync::locked;

use super::faults;

/// The most rows that wait for a reader; further ones are dropped.
const WAITING: usize = 256;

/// The most taps of one rule or stream at a time.
pub const TAPS: usize = 8;

/// The most bytes of a row that are shown.
const ROW_BYTES: usize = 8 * 1024;

/// How many rows a tap takes at once, and how many more each second, unless its settings say fewer.
const BURST: f64 = 256.0;
const PER_SECOND: f64 = 200.0;

/// A point where rows can be tapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// messages as they arrived
    Source,
    /// decoded messages
    Decode,
    /// rows that passed WHERE
    Filter,
    /// closed windows
    Window,
    /// result rows
    Project,
    /// messages for the sinks
    Sink,
}

impl Point {
    /// All points, in the order of the flow.
    pub const ALL: [Point; 6] =
        [Point::Source, Point::Decode, Point::Filter, Point::Window, Point::Project, Point::Sink];

    pub fn as_str(self) -> &'static str {
        match self {
            Point::Source => "source",
            Point::Decode => "decode",
            Point::Filter => "filter",
            Point::Window => "window",
            Point::Project => "project",
            Point::Sink => "sink",
        }
    }

    /// The point with this name, or with that of an operator in the status such as `op_2_filter`.
    pub fn of(name: &str) -> Option<Point> {
        let name = name.to_ascii_lowercase();
        if let Some(point) = Point::ALL.into_iter().find(|point| point.as_str() == name) {
            return Some(point);
        }
        if name.starts_with("source_") {
            return Some(Point::Source);
        }
        if name.starts_with("sink_") {
            return Some(Point::Sink);
        }
        Some(match name.rsplit('_').next()? {
            "decoder" | "preprocessor" => Point::Decode,
            "filter" => Point::Filter,
            "window" => Point::Window,
            "project" | "projectset" => Point::Project,
            "transform" | "encode" | "batch" | "batchwriter" | "compress" => Point::Sink,
            _ => return None,
        })
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }

    fn bits(points: &[Point]) -> u8 {
        points.iter().fold(0, |bits, point| bits | point.bit())
    }

    /// Whether it is tapped at the stream.
    pub(super) fn is_of_stream(self) -> bool {
        matches!(self, Point::Source | Point::Decode)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TappedRow {
    /// the point
    pub point: Point,
    /// the row, usually as JSON
    pub text: String,
}

/// What a tap takes.
#[derive(Clone, Debug)]
pub struct TapSettings {
    /// the points
    pub points: Vec<Point>,
    /// at most one row from each point in this time; `None`: some hundred rows a second
    pub every: Option<Duration>,
}

/// The operators' end of a tap.
#[derive(Debug)]
pub(super) struct Tap {
    points: u8,
    every: Option<Duration>,
    budget: Mutex<[Budget; Point::ALL.len()]>,
    rows: mpsc::Sender<TappedRow>,
    skipped: Arc<AtomicU64>,
}

/// What a tap may still take from one point.
#[derive(Clone, Copy, Debug)]
struct Budget {
    left: f64,
    at: Option<Instant>,
}

/// The reader's end of a tap.
#[derive(Debug)]
pub struct TapReader {
    rows: mpsc::Receiver<TappedRow>,
    skipped: Arc<AtomicU64>,
}

/// Passes rows of other processes to a reader. Clones share it.
#[derive(Clone, Debug)]
pub struct TapWriter {
    rows: mpsc::Sender<TappedRow>,
    skipped: Arc<AtomicU64>,
}

impl TapWriter {
    /// Passes a row on; if too many wait, the row is skipped.
    pub fn give(&self, row: TappedRow) {
        if let Err(TrySendError::Full(_)) = self.rows.try_send(row) {
            self.skip(1);
        }
    }

    /// Counts rows that were skipped.
    pub fn skip(&self, rows: u64) {
        self.skipped.fetch_add(rows, Ordering::Relaxed);
    }

    /// Whether the reader is gone.
    pub fn is_closed(&self) -> bool {
        self.rows.is_closed()
    }

    /// Waits until the reader is gone.
    pub async fn closed(&self) {
        self.rows.closed().await;
    }
}

impl TapReader {
    /// A reader for rows of a writer. It ends when all clones of the writer are dropped.
    pub fn open() -> (TapWriter, TapReader) {
        let (sender, rows) = mpsc::channel(WAITING);
        let skipped = Arc::new(AtomicU64::new(0));
        (TapWriter { rows: sender, skipped: skipped.clone() }, TapReader { rows, skipped })
    }

    /// The next row, if one waits.
    pub fn next_now(&mut self) -> Option<TappedRow> {
        self.rows.try_recv().ok()
    }

    /// The next row; `None` when the rule has ended.
    pub async fn next(&mut self) -> Option<TappedRow> {
        self.rows.recv().await
    }

    /// The number of rows left out so far, because there were too many or they were not taken in time.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }
}

impl Tap {
    /// A tap and its reader.
    pub(super) fn open(settings: &TapSettings) -> (Arc<Tap>, TapReader) {
        let (sender, rows) = mpsc::channel(WAITING);
        let skipped = Arc::new(AtomicU64::new(0));
        let budget = Mutex::new([Budget { left: BURST, at: None }; Point::ALL.len()]);
        let points = Point::bits(&settings.points);
        let tap = Tap { points, every: settings.every, budget, rows: sender, skipped: skipped.clone() };
        (Arc::new(tap), TapReader { rows, skipped })
    }

    /// Takes another row from this point; `Err`: how long until it will.
    fn take(&self, point: Point, now: Instant) -> Result<(), Duration> {
        let mut budget = locked(&self.budget);
        let budget = &mut budget[point as usize];
        let passed = budget.at.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        if let Some(every) = self.every {
            if passed < every {
                return Err(every - passed);
            }
        } else {
            budget.left = (budget.left + passed.as_secs_f64() * PER_SECOND).min(BURST);
        }
        budget.at = Some(now);
        if self.every.is_none() {
            if budget.left < 1.0 {
                return Err(Duration::from_secs_f64((1.0 - budget.left) / PER_SECOND));
            }
            budget.left -= 1.0;
        }
        Ok(())
    }
}

/// The taps of a rule, or of a stream.
#[derive(Debug, Default)]
pub struct Taps {
    /// a bit for each point with a tap
    points: AtomicU8,
    /// made with the first tap: most rules never have one
    tapped: OnceLock<Box<Tapped>>,
}

/// What the taps of a rule or stream need.
#[derive(Debug, Default)]
struct Tapped {
    /// for each point
    rests: [Rest; Point::ALL.len()],
    own: Mutex<Vec<Arc<Tap>>>,
    /// taps lent by rules that read the stream
    lent: Mutex<Vec<Weak<Tap>>>,
}

/// A point's pause: while no tap may take a row, rows only cost reading the clock.
#[derive(Debug, Default)]
struct Rest {
    /// the end of the pause, ns of [`clock`]
    until: AtomicU64,
    /// the number of rows that passed during the pause
    rows: AtomicU64,
}

/// The time since the first tap.
fn clock(now: Instant) -> u64 {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let began = *BEGAN.get_or_init(|| now);
    u64::try_from(now.saturating_duration_since(began).as_nanos()).unwrap_or(u64::MAX)
}

impl Taps {
    /// Whether this point has a tap.
    #[inline]
    pub fn wants(&self, point: Point) -> bool {
        self.points.load(Ordering::Relaxed) & point.bit() != 0
    }

    /// Offers a row to the taps of this point. `row` makes the text, only if one of them takes it.
    pub fn offer(&self, point: Point, row: impl FnOnce() -> String) {
        let Some(tapped) = self.tapped.get() else { return };
        let now = Instant::now();
        let rest = &tapped.rests[point as usize];
        if clock(now) < rest.until.load(Ordering::Relaxed) {
            rest.rows.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let went_by = rest.rows.swap(0, Ordering::Relaxed);
        let all: Vec<Arc<Tap>> = self.all().into_iter().filter(|tap| tap.points & point.bit() != 0).collect();
        let mut ended = all.is_empty();
        let mut pause = Some(Duration::MAX);
        let mut row = Some(row);
        let mut made: Option<String> = None;
        for tap in &all {
            if tap.rows.is_closed() {
                ended = true;
                continue;
            }
            tap.skipped.fetch_add(went_by, Ordering::Relaxed);
            match tap.take(point, now) {
                Ok(()) => pause = None,
                Err(wait) => {
                    pause = pause.map(|pause| pause.min(wait));
                    tap.skipped.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
            }
            if let Some(make) = row.take() {
                made = Some(faults::cut(make(), ROW_BYTES));
            }
            let Some(text) = made.clone() else { continue };
            match tap.rows.try_send(TappedRow { point, text }) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    tap.skipped.fetch_add(1, Ordering::Relaxed);
                }
                Err(TrySendError::Closed(_)) => ended = true,
            }
        }
        if ended {
            self.tidy();
        } else if let Some(pause) = pause.filter(|pause| *pause < Duration::MAX) {
            let pause = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
            rest.until.store(clock(now).saturating_add(pause), Ordering::Relaxed);
        }
    }

    /// Adds a tap of the rule itself; false: there are already [`TAPS`].
    pub(super) fn add(&self, tap: &Arc<Tap>) -> bool {
        self.tidy();
        {
            let mut own = locked(&self.tapped.get_or_init(Box::default).own);
            if own.len() >= TAPS {
                return false;
            }
            own.push(tap.clone());
        }
        self.tidy();
        true
    }

    /// Adds a tap of a rule that reads the stream. It ends with the rule.
    pub(super) fn lend(&self, tap: &Arc<Tap>) {
        locked(&self.tapped.get_or_init(Box::default).lent).push(Arc::downgrade(tap));
        self.tidy();
    }

    fn all(&self) -> Vec<Arc<Tap>> {
        let Some(tapped) = self.tapped.get() else { return Vec::new() };
        let mut all: Vec<Arc<Tap>> = locked(&tapped.own).clone();
        all.extend(locked(&tapped.lent).iter().filter_map(Weak::upgrade));
        all
    }

    /// Removes taps that have ended.
    fn tidy(&self) {
        let Some(tapped) = self.tapped.get() else { return };
        locked(&tapped.own).retain(|tap| !tap.rows.is_closed());
        locked(&tapped.lent).retain(|tap| tap.upgrade().is_some_and(|tap| !tap.rows.is_closed()));
        let points = self.all().iter().fold(0, |points, tap| points | tap.points);
        self.points.store(points, Ordering::Relaxed);
        // A new tap does not wait for the pause of others.
        tapped.rests.iter().for_each(|rest| rest.until.store(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taps(points: &[Point], every: Option<Duration>) -> (Taps, TapReader) {
        let taps = Taps::default();
        let (tap, reader) = Tap::open(&TapSettings { points: points.to_vec(), every });
        assert!(taps.add(&tap));
        (taps, reader)
    }

    #[tokio::test]
    async fn rows_are_made_only_for_points_that_are_tapped() {
        let (taps, mut reader) = taps(&[Point::Filter], None);
        assert!(taps.wants(Point::Filter) && !taps.wants(Point::Project));
        taps.offer(Point::Project, || unreachable!("nobody taps it"));
        taps.offer(Point::Filter, || "{}".to_owned());
        assert_eq!(reader.next().await, Some(TappedRow { point: Point::Filter, text: "{}".to_owned() }));
        drop(reader);
        taps.offer(Point::Filter, || unreachable!("nobody reads it"));
        assert!(!taps.wants(Point::Filter));
    }

    #[test]
    fn a_reader_that_does_not_read_loses_rows_and_is_told_how_many() {
        let (taps, reader) = taps(&[Point::Sink], None);
        (0..WAITING + 50).for_each(|_| taps.offer(Point::Sink, || "x".to_owned()));
        assert!(reader.skipped() >= 1);
        let (seldom, slow) = self::taps(&[Point::Sink], Some(Duration::from_secs(3600)));
        (0..5).for_each(|_| seldom.offer(Point::Sink, || "x".to_owned()));
        // Rows that pass during a pause are counted with the next row that is offered.
        assert_eq!(slow.skipped(), 1);
    }

    #[test]
    fn a_tap_at_a_stream_ends_with_its_rule() {
        let stream = Taps::default();
        let (rule, _reader) = Tap::open(&TapSettings { points: vec![Point::Source], every: None });
        stream.lend(&rule);
        assert!(stream.wants(Point::Source));
        drop(rule);
        stream.offer(Point::Source, || unreachable!("the rule has ended"));
        assert!(!stream.wants(Point::Source));
    }

    #[test]
    fn points_have_the_names_of_operators_and_of_parts() {
        for point in Point::ALL {
            assert_eq!(Point::of(point.as_str()), Some(point));
        }
        for (name, point) in [
            ("source_demo", Some(Point::Source)),
            ("op_2_decoder", Some(Point::Decode)),
            ("op_demo_2_decoder", Some(Point::Decode)),
            ("op_3_filter", Some(Point::Filter)),
            ("op_4_window", Some(Point::Window)),
            ("op_5_project", Some(Point::Project)),
            ("sink_websocket_0", Some(Point::Sink)),
            ("op_websocket_0_1_encode", Some(Point::Sink)),
            ("op_4_having", None),
            ("nosuch", None),
        ] {
            assert_eq!(Point::of(name), point, "{name}");
        }
    }
}
