//! Replays recordings into streams, at their original pace or another.
//!
//! The engine's clock follows the recording: before a message is delivered, the clock moves to the time of its arrival,
//! through every deadline before it. So windows in processing time are the same at any pace. The streams' own sources
//! are replaced: they neither listen nor dial.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Failure;
use crate::engine::{Engine, RuleSpec};
use crate::io::connector::SourceSpec;
use crate::io::inlet::Inlet;
use crate::io::queue::{BATCH_FRAMES, Frame, FrameBatch, Origin};
use crate::io::recording::{Reader, Recorded};
use crate::pipeline::Pipeline;

/// How often the clock moves while nothing arrives, in real time.
const TICK: Duration = Duration::from_millis(50);

/// The longest wait, seconds.
const LONGEST: f64 = 1e9;

/// The speed of a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Pace {
    /// This many times the original speed.
    Times(f64),
    /// As fast as the engine takes messages.
    #[default]
    Max,
}

/// Parses a pace: `original`, `10x`, `max`.
pub fn pace(text: &str) -> Result<Pace, String> {
    match text {
        "original" => Ok(Pace::Times(1.0)),
        "max" => Ok(Pace::Max),
        text => {
            let times = text.strip_suffix('x').and_then(|number| number.parse::<f64>().ok());
            let times = times.filter(|times| times.is_finite() && *times > 0.0);
            times.map(Pace::Times).ok_or_else(|| "expected original, max, or a multiple such as 10x".to_owned())
        }
    }
}

/// Recordings that are replayed together.
pub struct Replay {
    tracks: Vec<Track>,
    pace: Pace,
    /// The time when the first message arrived, ms since the epoch.
    pub begins: i64,
}

/// One recording.
struct Track {
    file: PathBuf,
    stream: String,
    inlet: Inlet,
    reader: Reader,
    next: Option<Recorded>,
}

impl Replay {
    /// Opens recordings, each for a stream; `None` stands for the only one. The streams' sources are replaced.
    ///
    /// # Errors
    /// [`Failure`] for a file that cannot be read, and for an unknown stream.
    pub fn open(files: Vec<(PathBuf, Option<String>)>, pace: Pace, pipeline: &mut Pipeline) -> Result<Replay, Failure> {
        let mut tracks: Vec<Track> = Vec::new();
        for (file, stream) in files {
            let failed = |error: io::Error| unreadable(&file, &error);
            let Some(mut reader) = Reader::open(&file).map_err(failed)? else {
                let name = file.display();
                return Err(Failure::Usage(format!(
                    "--feed: {name} is not a recording; recordings play only together"
                )));
            };
            let stream = recorded_stream(pipeline, stream.as_deref())?;
            let next = reader.read().map_err(failed)?;
            let known = tracks.iter().find(|track| track.stream == stream).map(|track| track.inlet.clone());
            let inlet = match known {
                Some(inlet) => inlet,
                None => {
                    let checks = websockets(pipeline)
                        .find(|(name, _)| *name == stream)
                        .map(|(_, spec)| spec.settings().checks());
                    Inlet::new(checks.unwrap_or_default())
                }
            };
            tracks.push(Track { file, stream, inlet, reader, next });
        }
        pipeline.replace_sources(|name, _| {
            let track = tracks.iter().find(|track| track.stream == name)?;
            Some(SourceSpec::Inlet(track.inlet.clone()))
        });
        let begins = tracks.iter().filter_map(|track| track.next.as_ref()).map(|message| message.at).min();
        Ok(Replay { tracks, pace, begins: begins.unwrap_or_default() })
    }

    /// Replays all messages; returns their number.
    ///
    /// # Errors
    /// [`Failure`] for a recording that cannot be read further.
    pub async fn play(&mut self, engine: &Engine) -> Result<u64, Failure> {
        let (begun, mut at, mut played) = (Instant::now(), self.begins, 0);
        while let Some(next) = self.tracks.iter().filter_map(|track| track.next.as_ref()).map(|next| next.at).min() {
            // If the recorder's clock stepped back, the engine's clock waits.
            at = at.max(next);
            self.pass_time(engine, begun, at).await;
            for track in &mut self.tracks {
                played += track.hand_over(at).await?;
            }
        }
        engine.settled().await;
        Ok(played)
    }

    /// Moves the clock to `at`, when this time has come.
    async fn pass_time(&self, engine: &Engine, begun: Instant, at: i64) {
        let Pace::Times(times) = self.pace else { return engine.move_clock(at).await };
        let passed = u64::try_from(at.saturating_sub(self.begins)).unwrap_or(0);
        let seconds = passed as f64 / 1000.0 / times;
        let due = begun + Duration::from_secs_f64(seconds.min(LONGEST));
        while Instant::now() < due {
            let now = self.begins.saturating_add((begun.elapsed().as_secs_f64() * 1000.0 * times) as i64);
            engine.move_clock(now.min(at)).await;
            tokio::time::sleep_until(due.min(Instant::now() + TICK)).await;
        }
        engine.move_clock(at).await;
    }
}

impl Track {
    /// Delivers all messages up to `at`.
    async fn hand_over(&mut self, at: i64) -> Result<u64, Failure> {
        let mut played = 0;
        let (mut frames, mut origin): (Vec<Frame>, Option<Arc<Origin>>) = (Vec::new(), None);
        while let Some(message) = self.next.take_if(|message| message.at <= at) {
            let same = origin.as_ref().map(Arc::as_ptr) == message.origin.as_ref().map(Arc::as_ptr);
            if !frames.is_empty() && (!same || frames.len() == BATCH_FRAMES) {
                self.send(std::mem::take(&mut frames), origin.take()).await;
            }
            origin = message.origin;
            frames.push(message.frame);
            played += 1;
            self.next = self.reader.read().map_err(|error| unreadable(&self.file, &error))?;
        }
        if !frames.is_empty() {
            self.send(frames, origin).await;
        }
        Ok(played)
    }

    async fn send(&mut self, frames: Vec<Frame>, origin: Option<Arc<Origin>>) {
        self.inlet.send(FrameBatch { frames, origin, received: std::time::Instant::now() }).await;
    }
}

/// Whether a file is a recording.
///
/// # Errors
/// [`Failure`] if it cannot be read.
pub fn is_recording(file: &Path) -> Result<bool, Failure> {
    Reader::open(file).map(|reader| reader.is_some()).map_err(|error| unreadable(file, &error))
}

fn unreadable(file: &Path, error: &io::Error) -> Failure {
    Failure::Refused(format!("--feed: cannot read {}: {error}", file.display()))
}

/// The streams that are read from websockets, in either role.
fn websockets(pipeline: &Pipeline) -> impl Iterator<Item = (&str, &SourceSpec)> {
    let sources = pipeline.specs().flat_map(RuleSpec::sources);
    sources.filter(|(_, source)| matches!(source, SourceSpec::Websocket(_)))
}

/// The stream for a recording: the named one, or the only one.
fn recorded_stream(pipeline: &Pipeline, stream: Option<&str>) -> Result<String, Failure> {
    let mut names: Vec<&str> = websockets(pipeline).map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    match (stream, names.as_slice()) {
        (Some(stream), names) if names.contains(&stream) => Ok(stream.to_owned()),
        (Some(stream), names) => {
            let there = names.join(", ");
            Err(Failure::Refused(format!("--feed: no rule reads a stream {stream}; there are: {there}")))
        }
        (None, [only]) => Ok((*only).to_owned()),
        (None, names) => {
            Err(Failure::Refused(format!("--feed: say which stream, FILE@STREAM: there are {}", names.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paces_are_read() {
        for (text, expected) in [
            ("original", Some(Pace::Times(1.0))),
            ("10x", Some(Pace::Times(10.0))),
            ("0.5x", Some(Pace::Times(0.5))),
            ("max", Some(Pace::Max)),
            ("0x", None),
            ("10", None),
            ("-1x", None),
        ] {
            assert_eq!(pace(text).ok(), expected, "{text}");
        }
    }
}
