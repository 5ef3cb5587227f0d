//! `plutino diff`: shows how a change of rules changes their results.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use serde_json::Value as Json;

use super::run::parts;
use super::{Etc, Failure, block_on, configure, say_problems};
use crate::config::Config;
use crate::io::queue::{Frame, Origin};
use crate::io::reach::FileRoots;
use crate::io::recording::{Reader, Recorded};
use crate::pipeline;
use crate::testing::{ActionChoice, Line, Matching, Stage, StageSettings, align, fits};

/// The most differences listed for one rule.
const LISTED: usize = 20;

/// The number of messages that are delivered together.
const BATCH: usize = 256;

/// Run the same messages through two rule files and show how their results differ
///
/// Nothing listens and nothing is dialled. A recording is replayed by its own clock. The lines of other files all
/// arrive at the same moment, so windows in processing time hold all of them. Actions of a rule are compared by their
/// numbers. The exit code is 0 if all results are the same, otherwise 1.
#[derive(Args)]
pub struct Diff {
    /// The old rule file
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The new rule file
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// A recording, or a file with one message a line; can be given several times
    #[arg(long, value_name = "FILE[@STREAM]", required = true)]
    feed: Vec<String>,
    #[command(flatten)]
    etc: Etc,
    /// Folder of the files that tables name
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,
}

/// The messages that rules have sent, by rule and number of the action.
type Results = BTreeMap<(String, usize), Vec<Bytes>>;

impl Diff {
    pub fn run(self, log: Option<&str>) -> Result<(), Failure> {
        let config = configure(&self.etc.etc, log)?;
        let (old, new) = block_on(async {
            let old = self.results(&self.old, &config).await?;
            Ok((old, self.results(&self.new, &config).await?))
        })?;
        let mut out = io::stdout().lock();
        let mut differ = false;
        let actions: BTreeSet<&(String, usize)> = old.keys().chain(new.keys()).collect();
        for action in actions {
            let name = match action {
                (rule, 1) => format!("rule {rule}"),
                (rule, number) => format!("rule {rule}, action {number}"),
            };
            differ |= show(&mut out, &name, old.get(action), new.get(action))?;
        }
        if differ { Err(Failure::Reported) } else { Ok(()) }
    }

    /// Sends the messages through a rule file.
    async fn results(&self, file: &Path, config: &Config) -> Result<Results, Failure> {
        let pipeline = pipeline::load(&[file.to_owned()], config).map_err(Failure::Problems)?;
        say_problems(&pipeline.warnings);
        let feeds = self.feed.iter().map(|argument| Feed::open(argument)).collect::<Result<Vec<_>, _>>()?;
        let begins = feeds.iter().filter_map(|feed| feed.next.as_ref()).filter_map(|next| next.at).min();
        let settings = StageSettings {
            start: begins.unwrap_or_else(crate::testing::default_start),
            zone: config.zone.clone(),
            files: FileRoots::new(self.data.clone()).with(&config.file_roots),
        };
        let stage = Stage::open(pipeline, settings, &BTreeSet::new()).await.map_err(Failure::Problems)?;
        let played = play(&stage, feeds, begins).await;
        stage.end().await;
        let sent = |(rule, number): (&str, usize)| {
            let messages = stage.take(rule, &ActionChoice::Number(number)).unwrap_or_default();
            ((rule.to_owned(), number), messages)
        };
        let results = stage.actions().map(sent).collect();
        stage.close().await;
        played.map(|()| results)
    }
}

/// One `--feed`.
struct Feed {
    file: PathBuf,
    stream: Option<String>,
    lines: Lines,
    next: Option<Next>,
}

enum Lines {
    Recorded(Reader),
    Plain(BufReader<std::fs::File>),
}

/// A message, and the time of its arrival if it is known.
struct Next {
    at: Option<i64>,
    frame: Frame,
    /// The metadata of its connection, if the recording has it.
    origin: Option<Arc<Origin>>,
}

impl Feed {
    fn open(argument: &str) -> Result<Feed, Failure> {
        let (file, stream) = parts(argument);
        let file = PathBuf::from(file);
        let failed = |error: io::Error| unreadable(&file, &error);
        let lines = match Reader::open(&file).map_err(failed)? {
            Some(reader) => Lines::Recorded(reader),
            None => Lines::Plain(BufReader::new(std::fs::File::open(&file).map_err(failed)?)),
        };
        let mut feed = Feed { file, stream: stream.map(str::to_owned), lines, next: None };
        feed.next = feed.read()?;
        Ok(feed)
    }

    fn read(&mut self) -> Result<Option<Next>, Failure> {
        let next = match &mut self.lines {
            Lines::Recorded(reader) => reader
                .read()
                .map(|message| message.map(|Recorded { at, frame, origin, .. }| Next { at: Some(at), frame, origin })),
            Lines::Plain(input) => {
                plain(input).map(|text| text.map(|text| Next { at: None, frame: text, origin: None }))
            }
        };
        next.map_err(|error| unreadable(&self.file, &error))
    }

    /// The stream for the messages.
    fn stream<'a>(&'a self, stage: &'a Stage) -> Result<&'a str, Failure> {
        let names: Vec<&str> = stage.streams().collect();
        match (self.stream.as_deref(), names.as_slice()) {
            (Some(stream), names) if names.contains(&stream) => Ok(stream),
            (None, [only]) => Ok(only),
            (Some(stream), names) => {
                let names = names.join(", ");
                Err(Failure::Refused(format!("--feed: no rule reads a stream {stream}; there are: {names}")))
            }
            (None, names) => {
                Err(Failure::Refused(format!("--feed: say which stream, FILE@STREAM: there are {}", names.join(", "))))
            }
        }
    }
}

/// The next line that is not empty.
fn plain(input: &mut impl BufRead) -> io::Result<Option<Frame>> {
    loop {
        let mut line = Vec::new();
        if input.read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        let length = line.trim_ascii_end().len();
        line.truncate(length);
        if !line.is_empty() {
            return Ok(Some(match String::from_utf8(line) {
                Ok(text) => Frame::Text(text.into()),
                Err(error) => Frame::Binary(error.into_bytes().into()),
            }));
        }
    }
}

fn unreadable(file: &Path, error: &io::Error) -> Failure {
    Failure::Refused(format!("--feed: cannot read {}: {error}", file.display()))
}

/// Delivers all messages; a message with a time arrives at that time.
async fn play(stage: &Stage, mut feeds: Vec<Feed>, begins: Option<i64>) -> Result<(), Failure> {
    let mut now = begins.unwrap_or(i64::MIN);
    loop {
        let earliest = |feed: &Feed| feed.next.as_ref().map(|next| next.at.unwrap_or(i64::MIN));
        let Some(at) = feeds.iter().filter_map(earliest).min() else { return Ok(()) };
        if at > now {
            now = at;
            stage.move_clock(now).await;
        }
        for feed in &mut feeds {
            let mut frames = Vec::new();
            let origin = feed.next.as_ref().and_then(|next| next.origin.clone());
            let of = |origin: &Option<Arc<Origin>>| origin.as_ref().map(Arc::as_ptr);
            let fits = |next: &mut Next| next.at.is_none_or(|at| at <= now) && of(&next.origin) == of(&origin);
            while frames.len() < BATCH {
                let Some(next) = feed.next.take_if(fits) else { break };
                frames.push(next.frame);
                feed.next = feed.read()?;
            }
            if !frames.is_empty() {
                let stream = feed.stream(stage)?.to_owned();
                stage.hand_over(&stream, frames, origin.map(|origin| origin.meta.clone())).await;
                stage.settled().await;
            }
        }
    }
}

/// Shows how the results of an action differ; true if they do.
fn show(out: &mut impl Write, name: &str, old: Option<&Vec<Bytes>>, new: Option<&Vec<Bytes>>) -> io::Result<bool> {
    let (old, new) = match (old, new) {
        (Some(old), Some(new)) => (old, new),
        (Some(old), None) => {
            writeln!(out, "{name}: only in the old file, {}", super::messages(old.len() as u64))?;
            return Ok(true);
        }
        (None, new) => {
            let count = new.map_or(0, Vec::len);
            writeln!(out, "{name}: only in the new file, {}", super::messages(count as u64))?;
            return Ok(true);
        }
    };
    let values = |messages: &[Bytes]| -> Vec<Json> { messages.iter().map(value).collect() };
    let (old, new) = (values(old), values(new));
    let exact = Matching::default();
    let lines = align(old.len(), new.len(), &exact, |one, other| fits(&old[one], &new[other], &exact));
    let differing: Vec<&Line> = lines.iter().filter(|line| !matches!(line, Line::Same { .. })).collect();
    if differing.is_empty() {
        writeln!(out, "{name}: the same {}", super::messages(old.len() as u64))?;
        return Ok(false);
    }
    let count = |kind: fn(&Line) -> bool| differing.iter().filter(|line| kind(line)).count();
    let (changed, missing, added) = (
        count(|line| matches!(line, Line::Differs { .. })),
        count(|line| matches!(line, Line::Missing { .. })),
        count(|line| matches!(line, Line::Unexpected { .. })),
    );
    let (before, after) = (super::messages(old.len() as u64), new.len());
    writeln!(out, "{name}: {before} before, {after} after: {changed} changed, {missing} removed, {added} added")?;
    for line in differing.iter().take(LISTED) {
        let (before, after) = match line {
            Line::Differs { expected, sent } => (Some(&old[*expected]), Some(&new[*sent])),
            Line::Missing { expected } => (Some(&old[*expected]), None),
            Line::Unexpected { sent } => (None, Some(&new[*sent])),
            Line::Same { .. } => (None, None),
        };
        if let Some(before) = before {
            writeln!(out, "  - {before}")?;
        }
        if let Some(after) = after {
            writeln!(out, "  + {after}")?;
        }
    }
    if differing.len() > LISTED {
        writeln!(out, "  … and {} more", differing.len() - LISTED)?;
    }
    Ok(true)
}

/// A message as JSON, or as text if it is not JSON.
fn value(message: &Bytes) -> Json {
    serde_json::from_slice(message).unwrap_or_else(|_| Json::from(String::from_utf8_lossy(message).into_owned()))
}
