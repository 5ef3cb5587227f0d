//! The log of the process: lines on stderr, in files, or both, of which a filter says which are written.
//!
//! All of it can be changed while the process runs, by the REST API's `PATCH /configs`. As the log itself there is
//! one for the process: whoever embeds the library and starts a log of his own has it untouched.
//!
//! Texts from outside may stand in an event. Whatever they hold, it stays one line: control characters are escaped.
//! Files are written by a thread of their own behind a bounded queue; what does not fit in is lost, counted and told.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::sync::locked;

/// The target of the lines that tell of changes through the REST API.
pub const AUDIT: &str = "plutino::audit";

/// Lines that wait for the file at most; further ones are lost.
const WAITING: usize = 8192;

/// When a new log file begins, and how many stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// `basic.rotateTime`, hours: a new file each hour, or each day if it is 24 or more
    pub hours: u64,
    /// `basic.rotateCount`: files that are kept; 0: all
    pub count: usize,
}

impl Default for LogFile {
    fn default() -> LogFile {
        LogFile { hours: 24, count: 3 }
    }
}

/// How the log begins.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// lines are objects of JSON
    pub json: bool,
    /// lines go to stderr
    pub console: bool,
    /// lines of [`AUDIT`] are written whatever the level
    pub audit: bool,
    /// lines go to files
    pub file: bool,
    /// how these are, now or once they are switched on
    pub rotation: LogFile,
    /// the folder of the files; without it there are none
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

/// Why the log is not as it is wanted.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// no level or directives
    #[error("{0}")]
    Directives(#[from] ParseError),
    /// the filter has gone
    #[error("the log cannot be changed: {0}")]
    Gone(#[from] reload::Error),
    /// the files cannot be written
    #[error("the log cannot be written into {0}: {1}; check --log-dir and basic.fileLog")]
    File(PathBuf, String),
    /// the process has no folder for them
    #[error("this process keeps no log files")]
    NoFolder,
}

/// What is there of the log while it runs.
struct Control {
    filter: Handle<EnvFilter, Registry>,
    settings: LogSettings,
    wish: Mutex<Wish>,
    /// lines go to stderr
    console: AtomicBool,
    file: Mutex<Option<File>>,
}

/// The file that is written now.
struct File {
    lines: NonBlocking,
    /// lost lines that were told
    told: usize,
    /// writes what waits when it goes
    _guard: WorkerGuard,
}

/// What is wanted of the log.
#[derive(Clone, Debug)]
struct Wish {
    /// directives, or a level
    level: String,
    /// all that is worth a line for whoever looks for a fault
    debug: bool,
    /// lines go to stderr
    console: bool,
    /// lines go to files
    file: bool,
    /// the trail of changes is written whatever the level
    audit: bool,
}

static CONTROL: OnceLock<Control> = OnceLock::new();

/// A change of what is logged; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogChange {
    /// the least level that is written
    pub level: Option<Level>,
    /// whether everything down to debug is written, whatever the level
    pub debug: Option<bool>,
    /// whether lines go to stderr
    pub console: Option<bool>,
    /// whether lines go to files
    pub file: Option<bool>,
}

/// A level under its names in configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// every detail
    Trace,
    /// for whoever looks for a fault
    Debug,
    /// what happens
    Info,
    /// what may be wrong
    Warn,
    /// what is wrong
    Error,
}

impl Level {
    /// The level of this name, in whatever case; `fatal` and `panic`, which end eKuiper, are errors here.
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

    /// What the log's filter calls it.
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

/// Starts the process's log with these directives (`info`, `plutino=debug,warn` …).
///
/// # Errors
/// Directives that cannot be read, files that cannot be written.
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
    // As they are, so that an error names what the user wrote.
    EnvFilter::try_new(directives)?;
    let (filter, handle) = reload::Layer::new(EnvFilter::try_new(wish.directives())?);
    let file = if wish.file { Some(File::open(&settings)?) } else { None };
    let lines = fmt::layer().with_writer(|| Lines).with_ansi(false);
    let lines = if settings.json { lines.json().boxed() } else { lines.boxed() };
    let console = AtomicBool::new(settings.console);
    let control = Control { filter: handle, settings, wish: Mutex::new(wish), console, file: Mutex::new(file) };
    // There is one log, so that nobody has been here before.
    let _ = CONTROL.set(control);
    tracing_subscriber::registry().with(filter).with(lines).init();
    Ok(())
}

/// Writes what waits for the files; lines after it go to stderr alone.
pub fn finish() {
    if let Some(control) = CONTROL.get() {
        let file = locked(&control.file).take();
        drop(file);
    }
}

/// Changes what is logged from now on, until the process ends. Without a log of [`start`] there is nothing to change.
///
/// # Errors
/// The filter cannot be exchanged, or files cannot be written; then all stays as it is.
pub fn change(change: &LogChange) -> Result<(), LogError> {
    let Some(control) = CONTROL.get() else { return Ok(()) };
    let mut wish = locked(&control.wish);
    let new = wish.clone().with(change);
    let filter = EnvFilter::try_new(new.directives())?;
    let opened = if new.file && !wish.file { Some(File::open(&control.settings)?) } else { None };
    // The file is not locked meanwhile: an exchange of the filter may write lines.
    control.filter.reload(filter)?;
    if new.file != wish.file {
        let mut file = locked(&control.file);
        let old = std::mem::replace(&mut *file, opened);
        drop(file);
        drop(old);
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
            // Trace is more than debug.
            Wish { debug: true, level, .. } if level != "trace" => "debug",
            Wish { level, .. } => level,
        };
        if self.audit { format!("{level},{AUDIT}=info") } else { level.to_owned() }
    }
}

impl File {
    fn open(settings: &LogSettings) -> Result<File, LogError> {
        let folder = settings.folder.as_deref().ok_or(LogError::NoFolder)?;
        let LogFile { hours, count } = settings.rotation;
        let wrong = |error: &dyn std::error::Error| LogError::File(folder.to_owned(), error.to_string());
        std::fs::create_dir_all(folder).map_err(|error| wrong(&error))?;
        let appender = appender(folder, hours, count).map_err(|error| wrong(&error))?;
        let (lines, guard) = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING).finish(appender);
        Ok(File { lines, told: 0, _guard: guard })
    }

    fn write(&mut self, line: &str, json: bool) {
        let lost = self.lines.error_counter().dropped_lines();
        if lost > self.told {
            let count = lost - self.told;
            self.told = lost;
            let told = match json {
                true => format!("{{\"level\":\"WARN\",\"message\":\"lines of the log were lost\",\"lost\":{count}}}\n"),
                false => format!("WARN {count} lines of the log were lost: the disk is too slow\n"),
            };
            let _ = self.lines.write_all(told.as_bytes());
        }
        // It takes the line or counts it as lost.
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

/// Writes each event, which comes in one piece, as one line to where lines go.
struct Lines;

impl Write for Lines {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = one_line(event);
        let Some(control) = CONTROL.get() else { return Ok(event.len()) };
        if control.console.load(Ordering::Relaxed) {
            // That nobody reads it is no reason to stop.
            let _ = io::stderr().lock().write_all(line.as_bytes());
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
    fn an_event_is_one_line_whatever_it_holds() {
        assert_eq!(
            one_line(b"WARN a\nERROR forged \x1b[2J \r\xc3\xa9\n"),
            "WARN a\\nERROR forged \\u{1b}[2J \\r\u{e9}\n"
        );
    }

    #[test]
    fn levels_have_names() {
        assert_eq!(Level::of("WARNING"), Some(Level::Warn));
        assert_eq!(Level::of("fatal"), Some(Level::Error));
        assert_eq!(Level::of("loud"), None);
    }
}
