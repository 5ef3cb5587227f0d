//! The log of the process: lines on stderr, of which a filter says which are written.
//!
//! The filter can be exchanged while the process runs, by the REST API's `PATCH /configs`. As the log itself there is
//! one for the process: whoever embeds the library and starts a log of his own has his filter untouched.

use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::EnvFilter;

/// Exchanges the filter.
type Exchange = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

struct Control {
    exchange: Exchange,
    wish: Mutex<Wish>,
}

/// What is wanted of the log.
#[derive(Clone, Debug)]
struct Wish {
    /// directives, or a level
    level: String,
    /// all that is worth a line for whoever looks for a fault
    debug: bool,
    /// nothing is written
    silent: bool,
}

static CONTROL: OnceLock<Control> = OnceLock::new();

/// A change of what is logged; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogChange {
    /// the least level that is written
    pub level: Option<Level>,
    /// whether everything down to debug is written, whatever the level
    pub debug: Option<bool>,
    /// whether anything is written
    pub console: Option<bool>,
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

    fn directive(self) -> &'static str {
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
/// Directives that cannot be read.
///
/// # Panics
/// If the process has a log already.
pub fn start(directives: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(directives).map_err(|error| error.to_string())?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false);
    let builder = builder.with_filter_reloading();
    let handle = builder.reload_handle();
    builder.init();
    let exchange = Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()));
    let wish = Mutex::new(Wish { level: directives.to_owned(), debug: false, silent: false });
    // There is one log, so that nobody has been here before.
    let _ = CONTROL.set(Control { exchange, wish });
    Ok(())
}

/// Changes what is logged from now on, until the process ends. Without a log of [`start`] there is nothing to change.
///
/// # Errors
/// The filter cannot be exchanged.
pub fn change(change: &LogChange) -> Result<(), String> {
    let Some(control) = CONTROL.get() else { return Ok(()) };
    let mut wish = control.wish.lock().unwrap_or_else(PoisonError::into_inner);
    let new = wish.clone().with(change);
    (control.exchange)(EnvFilter::try_new(new.directives()).map_err(|error| error.to_string())?)?;
    *wish = new;
    Ok(())
}

impl Wish {
    fn with(self, change: &LogChange) -> Wish {
        Wish {
            level: change.level.map_or(self.level, |level| level.directive().to_owned()),
            debug: change.debug.unwrap_or(self.debug),
            silent: change.console.map_or(self.silent, |console| !console),
        }
    }

    fn directives(&self) -> &str {
        match self {
            Wish { silent: true, .. } => "off",
            // Trace is more than debug.
            Wish { debug: true, level, .. } if level != "trace" => "debug",
            Wish { level, .. } => level,
        }
    }
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
            let wish = Wish { level: "warn".to_owned(), debug: false, silent: false };
            let wish = changes.iter().fold(wish, Wish::with);
            assert_eq!(wish.directives(), *directives, "{changes:?}");
        }
    }

    #[test]
    fn levels_have_names() {
        assert_eq!(Level::of("WARNING"), Some(Level::Warn));
        assert_eq!(Level::of("fatal"), Some(Level::Error));
        assert_eq!(Level::of("loud"), None);
    }
}
