//! Failures of a benchmark run. A slow candidate is a figure and never a failure; a wrong result is one.

use std::io;

/// Why the benchmark ends without a table.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The operating system refused something.
    #[error("{doing}: {source}")]
    System {
        /// What was being done, for the reader of the message.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// A candidate did not start, ended early, or sent something other than the workload expects.
    #[error("{0}")]
    Wrong(String),
    /// The command line names something that does not exist.
    #[error("{0}")]
    Usage(String),
}

/// The result of everything here.
pub type Outcome<T> = Result<T, Failure>;

/// Adds the failed action to an I/O error.
pub trait Doing<T> {
    /// Turns an I/O result into an [`Outcome`].
    fn doing(self, what: &str) -> Outcome<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: &str) -> Outcome<T> {
        self.map_err(|source| Failure::System { doing: what.to_owned(), source })
    }
}

/// A wrong result or a broken candidate, described in a text.
pub fn wrong<T>(text: impl Into<String>) -> Outcome<T> {
    Err(Failure::Wrong(text.into()))
}
