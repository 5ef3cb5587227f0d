//! The log of the process: lines on stderr, in files, or both. A filter selects the lines.
//!
//! Everything about it can be changed while the process runs, by the REST API's `PATCH /configs`. A process has one
//! log; a program that embeds the library and has set up its own log keeps that one.
//!
//! An event may contain texts from outside. It stays on one line: control characters are escaped.
//!
//! Writing a line never waits. One thread writes to stderr, another to the files, each from a bounded queue. If a queue
//! is full, because stderr is not read or the disk is slow, the line is dropped and counted ([`lost_lines`]); the next
//! line that is written reports how many were lost.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::sync::locked;

/// The target of audit lines: changes made through the REST API.
pub const AUDIT: &str = "plutino::audit";

/// The target of lines about reloads of the configuration. They are written at any level.
pub const RELOAD: &str = "plutino::reload";

/// The number of recent lines kept in memory, and the most bytes kept of each.
const KEPT_LINES: usize = 1000;
const KEPT_BYTES: usize = 1024;

/// The length of the queue to the files, lines.
const WAITING_FOR_FILE: usize = 8192;

/// The length of the queue to stderr, lines. Its memory is allocated at the start.
const WAITING_FOR_STDERR: usize = 1024;

/// Rotation of log files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// `basic.rotateTime`, hours: a new file each hour; from 24 on, each day.
    pub hours: u64,
    /// `basic.rotateCount`: the number of files kept; 0: all.
    pub count: usize,
}

impl Default for LogFile {
    fn default() -> LogFile {
        LogFile { hours: 24, count: 3 }
    }
}

/// Settings of the log.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// Lines are JSON objects instead of text.
    pub json: bool,
    /// Lines go to stderr.
    pub console: bool,
    /// Lines of [`AUDIT`] are written at any level.
    pub audit: bool,
    /// Lines go to files.
    pub file: bool,
    pub rotation: LogFile,
    /// The folder of the log files; `None`: no files.
    pub folder: Option<PathBuf>,
}

impl Default for LogSettings {
    fn default() -> LogSettings {
        LogSettings {
            json: false,
            console: true,
            audit: false,
            file: false,
            rotation: LogFile::default(),
            folder: None,
        }
    }
}

/// Why the log cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("{0}")]
    Directives(#[from] ParseError),
    #[error("the log cannot be changed: {0}")]
    Gone(#[from] reload::Error),
    #[error("the log cannot be written into {0}: {1}; check --log-dir and basic.fileLog")]
    File(PathBuf, String),
    #[error("this process keeps no log files, because it has no folder for them: start it with --log-dir")]
    NoFolder,
}

struct Control {
    filter: Handle<EnvFilter, Registry>,
    settings: LogSettings,
    wish: Mutex<Wish>,
    /// Lines go to stderr.
    console: AtomicBool,
    /// `None` after the log has ended.
    stderr: Mutex<Option<Target>>,
    file: Mutex<Option<Target>>,
    /// Lines lost by targets that are closed now.
    lost: AtomicUsize,
    /// Whether a line is being written to stderr.
    writing: Arc<AtomicBool>,
    recent: Mutex<Recent>,
}

/// Recent lines, kept in memory.
#[derive(Default)]
struct Recent {
    lines: VecDeque<String>,
    /// number of lines so far
    last: u64,
}

struct Stderr(Arc<AtomicBool>);

/// A destination of lines: stderr, or the current file.
struct Target {
    lines: NonBlocking,
    /// The reason for lost lines, for the log.
    reason: &'static str,
    /// How many lost lines the log has reported.
    reported: usize,
    /// Dropping it writes the queue out, for at most a second.
    _guard: WorkerGuard,
}

/// The requested settings of the log.
#[derive(Clone, Debug)]
struct Wish {
    /// Filter directives, or a level.
    level: String,
    /// Write all levels down to debug, whatever `level` says.
    debug: bool,
    /// lines go to stderr
    console: bool,
    /// lines go to files
    file: bool,
    /// Write the audit log at any level.
    audit: bool,
}

static CONTROL: OnceLock<Control> = OnceLock::new();

/// A change of the log; `None` leaves a setting unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogChange {
    pub level: Option<Level>,
    /// whether to write all levels down to debug, whatever the level is
    pub debug: Option<bool>,
    /// whether lines go to stderr
    pub console: Option<bool>,
    /// whether lines go to files
    pub file: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

impl Level {
    /// The level with this name, regardless of case; eKuiper's `fatal` and `panic` count as error.
    pub fn of(name: &str) -> Option<Level> {
        Some(match name.to_ascii_lowercase().as_str() {
            "trace" => Level::Trace,
            "debug" => Level::Debug,
            "info" => Level::Info,
            "warn" | "warning" => Level::Warn,
            "error" | "fatal" | "panic" => Level::Error,
            _ => return None,
        })
    }

    /// The level's name in filter directives.
    pub fn directive(self) -> &'static str {
        match self {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

/// Starts the log of the process with these directives (`info`, `plutino=debug,warn` …).
///
/// # Errors
/// Invalid directives, or files that cannot be written.
///
/// # Panics
/// If the process has a log already.
pub fn start(directives: &str, settings: LogSettings) -> Result<(), LogError> {
    let wish = Wish {
        level: directives.to_owned(),
        debug: false,
        console: settings.console,
        file: settings.file,
        audit: settings.audit,
    };
    // Parsed as written, so that an error shows what the user wrote.
    EnvFilter::try_new(directives)?;
    let (filter, handle) = reload::Layer::new(wish.filter()?);
    let file = if wish.file { Some(Target::file(&settings)?) } else { None };
    let lines = fmt::layer().with_writer(|| Lines).with_ansi(false);
    let lines = if settings.json { lines.json().boxed() } else { lines.boxed() };
    let console = AtomicBool::new(settings.console);
    let writing = Arc::new(AtomicBool::new(false));
    let control = Control {
        filter: handle,
        settings,
        wish: Mutex::new(wish),
        console,
        stderr: Mutex::new(Some(Target::stderr(writing.clone()))),
        file: Mutex::new(file),
        lost: AtomicUsize::new(0),
        writing,
        recent: Mutex::default(),
    };
    // A second log was refused above, so this is not set yet.
    let _ = CONTROL.set(control);
    tracing_subscriber::registry().with(filter).with(lines).init();
    Ok(())
}

/// Writes a line to stderr that is not a log event, such as a command's output. It waits no longer than log lines do.
pub fn say(text: &str) {
    let line = format!("{text}\n");
    match CONTROL.get() {
        Some(control) => control.console(&line),
        // Errors of a closed stderr are ignored.
        None => drop(io::stderr().lock().write_all(line.as_bytes())),
    }
}

/// Ends the log: writes the queues out, for at most a second. Later lines go directly to stderr.
pub fn finish() {
    if let Some(control) = CONTROL.get() {
        let targets = [locked(&control.file).take(), locked(&control.stderr).take()];
        targets.into_iter().flatten().for_each(|target| control.close(target));
    }
}

/// The lines after the one with this number, each with its number, and the number of the last line. At most the last
/// thousand are kept.
pub fn recent(after: u64) -> (Vec<(u64, String)>, u64) {
    let Some(control) = CONTROL.get() else { return (Vec::new(), 0) };
    let recent = locked(&control.recent);
    // A number larger than the last one comes from an earlier process.
    let after = if after > recent.last { 0 } else { after };
    let first = recent.last - recent.lines.len() as u64 + 1;
    let numbered = (first..).zip(&recent.lines).filter(|(number, _)| *number > after);
    (numbered.map(|(number, line)| (number, line.clone())).collect(), recent.last)
}

/// Lines dropped since the start because they could not be written in time.
pub fn lost_lines() -> usize {
    let Some(control) = CONTROL.get() else { return 0 };
    let of = |target: &Mutex<Option<Target>>| locked(target).as_ref().map_or(0, Target::lost);
    control.lost.load(Ordering::Relaxed) + of(&control.file) + of(&control.stderr)
}

/// Changes the log until the process ends. Does nothing before [`start`].
///
/// # Errors
/// The filter cannot be replaced, or files cannot be written; the log is unchanged.
pub fn change(change: &LogChange) -> Result<(), LogError> {
    let Some(control) = CONTROL.get() else { return Ok(()) };
    let mut wish = locked(&control.wish);
    let new = wish.clone().with(change);
    let filter = new.filter()?;
    let opened = if new.file && !wish.file { Some(Target::file(&control.settings)?) } else { None };
    // The file is not locked here, because replacing the filter may write lines.
    control.filter.reload(filter)?;
    if new.file != wish.file {
        let old = std::mem::replace(&mut *locked(&control.file), opened);
        old.into_iter().for_each(|target| control.close(target));
    }
    control.console.store(new.console, Ordering::Relaxed);
    *wish = new;
    Ok(())
}

impl Wish {
    fn with(self, change: &LogChange) -> Wish {
        Wish {
            level: change.level.map_or(self.level, |level| level.directive().to_owned()),
            debug: change.debug.unwrap_or(self.debug),
            console: change.console.unwrap_or(self.console),
            file: change.file.unwrap_or(self.file),
            audit: self.audit,
        }
    }

    fn directives(&self) -> String {
        let level = match self {
            Wish { console: false, file: false, .. } => return "off".to_owned(),
            // `trace` writes more than `debug`, so it wins.
            Wish { debug: true, level, .. } if level != "trace" => "debug",
            Wish { level, .. } => level,
        };
        if self.audit { format!("{level},{AUDIT}=info") } else { level.to_owned() }
    }

    fn filter(&self) -> Result<EnvFilter, ParseError> {
        match self.directives() {
            off if !self.console && !self.file => EnvFilter::try_new(off),
            directives => EnvFilter::try_new(format!("{directives},{RELOAD}=info")),
        }
    }
}

impl Control {
    /// Writes a line to stderr. If another line is stuck there, the caller does not wait.
    fn console(&self, line: &str) {
        match locked(&self.stderr).as_mut() {
            Some(stderr) => stderr.write(line, self.settings.json),
            None if self.writing.load(Ordering::Acquire) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
            // Errors of a closed stderr are ignored.
            None => drop(io::stderr().lock().write_all(line.as_bytes())),
        }
    }

    fn close(&self, target: Target) {
        let lost = target.lines.error_counter().clone();
        drop(target);
        self.lost.fetch_add(lost.dropped_lines(), Ordering::Relaxed);
    }
}

impl Recent {
    fn keep(&mut self, line: &str) {
        if self.lines.len() == KEPT_LINES {
            self.lines.pop_front();
        }
        let line = line.trim_end_matches('\n');
        let end = (0..=line.len().min(KEPT_BYTES)).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
        self.lines.push_back(line[..end].to_owned());
        self.last += 1;
    }
}

impl Target {
    fn new(writer: impl Write + Send + 'static, waiting: usize, reason: &'static str) -> Target {
        let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(waiting);
        let (lines, guard) = builder.finish(writer);
        Target { lines, reason, reported: 0, _guard: guard }
    }

    fn stderr(writing: Arc<AtomicBool>) -> Target {
        Target::new(Stderr(writing), WAITING_FOR_STDERR, "nobody reads stderr")
    }

    fn file(settings: &LogSettings) -> Result<Target, LogError> {
        let folder = settings.folder.as_deref().ok_or(LogError::NoFolder)?;
        let LogFile { hours, count } = settings.rotation;
        let wrong = |error: &dyn std::error::Error| LogError::File(folder.to_owned(), error.to_string());
        std::fs::create_dir_all(folder).map_err(|error| wrong(&error))?;
        let appender = appender(folder, hours, count).map_err(|error| wrong(&error))?;
        Ok(Target::new(appender, WAITING_FOR_FILE, "the disk is too slow"))
    }

    fn lost(&self) -> usize {
        self.lines.error_counter().dropped_lines()
    }

    fn write(&mut self, line: &str, json: bool) {
        let lost = self.lost();
        if lost > self.reported {
            let (count, reason) = (lost - self.reported, self.reason);
            self.reported = lost;
            let line = match json {
                true => format!(
                    "{{\"level\":\"WARN\",\"message\":\"lines of the log were lost: {reason}\",\"lost\":{count}}}\n"
                ),
                false => format!("WARN {count} lines of the log were lost: {reason}\n"),
            };
            let _ = self.lines.write_all(line.as_bytes());
        }
        // The queue takes the line, or counts it as lost.
        let _ = self.lines.write_all(line.as_bytes());
    }
}

fn appender(
    folder: &Path,
    hours: u64,
    count: usize,
) -> Result<RollingFileAppender, tracing_appender::rolling::InitError> {
    let rotation = if hours >= 24 { Rotation::DAILY } else { Rotation::HOURLY };
    let builder = RollingFileAppender::builder().rotation(rotation).filename_prefix("plutino").filename_suffix("log");
    if count > 0 { builder.max_log_files(count).build(folder) } else { builder.build(folder) }
}

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.store(true, Ordering::Release);
        let written = io::stderr().write(bytes);
        self.0.store(false, Ordering::Release);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes each event as one line to the targets; an event arrives in one piece.
struct Lines;

impl Write for Lines {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = one_line(event);
        let Some(control) = CONTROL.get() else { return Ok(event.len()) };
        locked(&control.recent).keep(&line);
        if control.console.load(Ordering::Relaxed) {
            control.console(&line);
        }
        if let Some(file) = locked(&control.file).as_mut() {
            file.write(&line, control.settings.json);
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn one_line(event: &[u8]) -> String {
    let text = String::from_utf8_lossy(event);
    let body = text.strip_suffix('\n').unwrap_or(&text);
    let mut line = String::with_capacity(text.len() + 1);
    for c in body.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_adds_up() {
        let level = |level| LogChange { level: Some(level), ..LogChange::default() };
        let debug = |debug| LogChange { debug: Some(debug), ..LogChange::default() };
        let console = |console| LogChange { console: Some(console), ..LogChange::default() };
        let cases: &[(&[LogChange], &str)] = &[
            (&[], "warn"),
            (&[level(Level::Info)], "info"),
            (&[debug(true)], "debug"),
            (&[debug(true), level(Level::Error)], "debug"),
            (&[debug(true), level(Level::Error), debug(false)], "error"),
            (&[debug(true), level(Level::Trace)], "trace"),
            (&[console(false)], "off"),
            (&[console(false), level(Level::Info), console(true)], "info"),
        ];
        for (changes, directives) in cases {
            let wish = Wish { level: "warn".to_owned(), debug: false, console: true, file: false, audit: false };
            let wish = changes.iter().fold(wish, Wish::with);
            assert_eq!(wish.directives(), *directives, "{changes:?}");
        }
    }

    #[test]
    fn the_last_lines_are_kept_and_cut() {
        let mut recent = Recent::default();
        (0..KEPT_LINES + 2).for_each(|number| recent.keep(&format!("{number} {}\n", "ä".repeat(KEPT_BYTES))));
        assert_eq!((recent.lines.len(), recent.last), (KEPT_LINES, KEPT_LINES as u64 + 2));
        assert!(recent.lines[0].starts_with("2 ä") && recent.lines[0].len() <= KEPT_BYTES);
    }

    #[test]
    fn an_event_is_one_line_whatever_it_holds() {
        assert_eq!(
            one_line(b"WARN a\nERROR forged \x1b[2J \r\xc3\xa9\n"),
            "WARN a\\nERROR forged \\u{1b}[2J \\r\u{e9}\n"
        );
    }

    /// A writer that blocks until the test releases it.
    struct Blocked(std::sync::mpsc::Receiver<()>);

    impl Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_nobody_reads_are_dropped_and_counted() {
        let (release, blocked) = std::sync::mpsc::channel();
        let mut target = Target::new(Blocked(blocked), 10, "nobody reads stderr");
        for n in 0..100 {
            target.write(&format!("line {n}\n"), false);
        }
        // Of 100 lines and the reports about lost ones, 10 wait, and one or two are being written.
        assert!((80..200).contains(&target.lost()), "{}", target.lost());
        drop(release);
    }

    #[test]
    fn levels_have_names() {
        assert_eq!(Level::of("WARNING"), Some(Level::Warn));
        assert_eq!(Level::of("fatal"), Some(Level::Error));
        assert_eq!(Level::of("loud"), None);
    }
}
