//! A pipeline on an engine whose edges the caller controls: it delivers messages one by one, keeps results, and moves
//! the clock.
//!
//! Websocket sources are replaced, so nothing listens and nothing is dialled. Files and memory topics stay, unless the
//! caller wants to feed them. Sinks are replaced too; memory sinks stay and are captured in addition.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::tz::TimeZone;
use serde_json::Value as Json;

use super::case::ActionChoice;
use crate::engine::{Engine, EngineError, EngineSettings, RuleSpec, SinkAction, view_id};
use crate::io::capture::Capture;
use crate::io::connector::{SinkSpec, SourceSpec};
use crate::io::inlet::Inlet;
use crate::io::queue::{Frame, FrameBatch, Origin, RowFrame};
use crate::io::reach::FileRoots;
use crate::io::websocket::ServerSettings;
use crate::pipeline::{self, Pipeline};
use crate::sync::locked;
use crate::text::document::Problem;
use crate::time::Clock;
use crate::value::{Text, Value, json};
use crate::view::Filter;

pub struct StageSettings {
    /// the time of the clock, ms since the epoch
    pub start: i64,
    /// the zone of windows and dates
    pub zone: TimeZone,
    /// the allowed folders of the files that tables name
    pub files: FileRoots,
}

/// A running pipeline.
pub struct Stage {
    engine: Engine,
    clock: Arc<AtomicI64>,
    inlets: BTreeMap<String, Way>,
    outputs: Vec<Output>,
    views: Vec<String>,
    /// the streams and tables that each rule reads
    reads: BTreeMap<String, Vec<String>>,
}

/// The inlet of a stream or table.
struct Way {
    inlet: Inlet,
    /// the topic, if its messages are rows of other rules
    topic: Option<Text>,
}

/// What one action of a rule sends.
struct Output {
    rule: String,
    /// from 1
    number: usize,
    kind: &'static str,
    capture: Arc<Capture>,
}

impl Stage {
    /// Starts everything in a pipeline. `fed` are the files and topics whose messages come from [`Stage::message`].
    ///
    /// # Errors
    /// A problem for each part that does not start.
    pub async fn open(
        mut pipeline: Pipeline,
        settings: StageSettings,
        fed: &BTreeSet<&str>,
    ) -> Result<Stage, Vec<Problem>> {
        let mut inlets: BTreeMap<String, Way> = BTreeMap::new();
        pipeline.replace_sources(|name, source| {
            let topic = match source {
                SourceSpec::Websocket(_) => None,
                SourceSpec::Memory(memory) if fed.contains(name) => Some(memory.topic.clone()),
                SourceSpec::File(_) if fed.contains(name) => None,
                _ => return None,
            };
            let way = || Way { inlet: Inlet::new(source.settings().checks()), topic };
            let way = inlets.entry(name.to_owned()).or_insert_with(way);
            Some(SourceSpec::Inlet(way.inlet.clone()))
        });
        let reads = pipeline.specs().map(|spec| (spec.id.clone(), read_by(spec))).collect();
        let mut outputs = Vec::new();
        for rule in &mut pipeline.rules {
            listen(&rule.spec.id, &mut rule.spec.sinks, &mut outputs);
        }
        let views = pipeline.views.iter().map(|view| view.name.clone()).collect();
        let clock = Arc::new(AtomicI64::new(settings.start));
        // Views need a data server, though no client connects.
        let server = ServerSettings { ip: "127.0.0.1".to_owned(), port: 0, ..ServerSettings::default() };
        let engine = EngineSettings { workers: 1, server, zone: settings.zone, shutdown: Default::default() };
        let engine = Engine::start_at(engine, Clock::Manual(clock.clone())).map_err(|error| vec![unstarted(&error)])?;
        let engine = engine.with_files(settings.files);
        let stage = Stage { engine, clock, inlets, outputs, views, reads };
        match pipeline::start(&stage.engine, pipeline).await {
            Ok(()) => {
                stage.engine.settled().await;
                Ok(stage)
            }
            Err(problems) => {
                stage.close().await;
                Err(problems)
            }
        }
    }

    /// The streams and tables that take messages.
    pub fn streams(&self) -> impl Iterator<Item = &str> {
        self.inlets.keys().map(String::as_str)
    }

    /// The rules, without repetition.
    pub fn rules(&self) -> Vec<&str> {
        let mut rules: Vec<&str> = self.outputs.iter().map(|output| output.rule.as_str()).collect();
        rules.dedup();
        rules
    }

    /// The actions: for each its rule, and its number from 1.
    pub fn actions(&self) -> impl Iterator<Item = (&str, usize)> {
        self.outputs.iter().map(|output| (output.rule.as_str(), output.number))
    }

    pub fn views(&self) -> &[String] {
        &self.views
    }

    /// The time of the clock, ms since the epoch.
    pub fn now(&self) -> i64 {
        self.clock.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Delivers messages to a stream together, without processing them. False: nothing reads the stream.
    pub async fn hand_over(&self, stream: &str, frames: Vec<Frame>, meta: Option<Value>) -> bool {
        let Some(way) = self.inlets.get(stream) else { return false };
        let frames = match &way.topic {
            Some(topic) => frames.iter().flat_map(|frame| rows(topic, frame)).collect(),
            None => frames,
        };
        let origin = meta.map(|meta| Arc::new(Origin { meta }));
        way.inlet.send(FrameBatch { frames, origin, received: Instant::now() }).await > 0
    }

    /// Delivers a message to a stream and processes everything that follows from it. False: nothing reads the stream.
    pub async fn message(&self, stream: &str, message: Frame, meta: Option<&Json>) -> bool {
        let meta = meta.and_then(|meta| json::parse(&meta.to_string()).ok());
        let read = self.hand_over(stream, vec![message], meta).await;
        self.engine.settled().await;
        read
    }

    /// Processes everything that does not need time to pass.
    pub async fn settled(&self) {
        self.engine.settled().await;
    }

    /// Moves the clock to `to`, ms since the epoch, through everything that happens until then.
    pub async fn move_clock(&self, to: i64) {
        self.engine.move_clock(to).await;
    }

    /// Ends the input: windows that time closes are sent.
    pub async fn end(&self) {
        self.engine.end_of_input().await;
    }

    /// What an action of a rule has sent since the last call; `None` if there is no such action.
    pub fn take(&self, rule: &str, action: &ActionChoice) -> Option<Vec<Bytes>> {
        let mut of_rule = self.outputs.iter().filter(|output| output.rule == rule);
        let output = of_rule.find(|output| match action {
            ActionChoice::First => true,
            ActionChoice::Number(number) => output.number == *number,
            ActionChoice::Kind(kind) => output.kind == kind,
        });
        output.map(|output| output.capture.take())
    }

    /// The number of errors of a rule, and the last one; then the same for each lookup table that it reads.
    pub async fn errors(&self, rule: &str) -> Vec<(u64, String)> {
        let status = self.engine.status().await;
        let own = status.into_iter().find(|status| status.id == rule);
        let own = own.map(|status| (status.errors, status.last_error.map(|(_, text)| text).unwrap_or_default()));
        let mut errors = vec![own.unwrap_or_default()];
        let read = self.reads.get(rule).map(Vec::as_slice).unwrap_or_default();
        for table in self.engine.tables().iter().filter(|table| read.contains(&table.name)) {
            // The text names the table.
            let last = table.last_error.as_ref().map(|(_, text)| text.clone());
            errors.push((table.errors, last.unwrap_or_default()));
        }
        errors
    }

    /// The rows of a view as JSON; `None` if there is no such view.
    pub fn rows(&self, view: &str) -> Option<Vec<Json>> {
        let view = self.engine.views().find(view)?;
        let view = locked(&view);
        let about = view.about().without_claims();
        let all = Filter::resolve(&about, &[], Some(&serde_json::Map::new())).ok()?;
        let mut rows = Vec::new();
        view.each_row(&all, |row| {
            rows.extend(serde_json::from_slice::<Json>(row));
            true
        });
        Some(rows)
    }

    /// Why a view has stopped, or its last error, if any.
    pub async fn view_error(&self, view: &str) -> Option<String> {
        let errors = self.errors(&view_id(view)).await;
        errors.into_iter().map(|(_, text)| text).find(|text| !text.is_empty())
    }

    pub async fn close(self) {
        self.engine.stop(Duration::ZERO).await;
    }
}

/// The streams and tables that a rule or view reads.
fn read_by(spec: &RuleSpec) -> Vec<String> {
    spec.plan.inputs.iter().map(|input| input.stream.name.to_string()).collect()
}

/// Captures all sinks of a rule.
fn listen(rule: &str, sinks: &mut Vec<SinkAction>, outputs: &mut Vec<Output>) {
    let mut beside = Vec::new();
    for (index, action) in sinks.iter_mut().enumerate() {
        let capture = Arc::new(Capture::default());
        let kind = action.spec.settings().kind();
        let spec = SinkSpec::Capture(capture.clone());
        match action.spec {
            SinkSpec::Memory(_) => {
                beside.push(SinkAction { spec, format: action.format.clone(), dead_letter: action.dead_letter })
            }
            _ => action.spec = spec,
        }
        outputs.push(Output { rule: rule.to_owned(), number: index + 1, kind, capture });
    }
    sinks.append(&mut beside);
}

/// A JSON message as the rows that a rule would write to a topic.
fn rows(topic: &Text, frame: &Frame) -> Vec<Frame> {
    let text = String::from_utf8_lossy(frame.bytes());
    let values = match json::parse(&text) {
        Ok(Value::Array(values)) => values.to_vec(),
        Ok(value) => vec![value],
        Err(_) => Vec::new(),
    };
    let row = |value: Value| match value {
        Value::Object(members) => {
            let row = members.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            Some(Frame::Row(Arc::new(RowFrame { topic: topic.clone(), row, ..RowFrame::default() })))
        }
        _ => None,
    };
    values.into_iter().filter_map(row).collect()
}

fn unstarted(error: &EngineError) -> Problem {
    Problem::error("plutino", None, "", error.to_string())
}
