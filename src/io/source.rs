//! What all sources have in common: what their settings decide, and what the engine asks of an open one.
//!
//! A connector implements both traits in its own files. It must not know rules or threads.

use std::any::Any;

use futures_util::future::{self, BoxFuture};

use super::LinkStatus;
use super::queue::FeedChecks;
use super::reach::{Reach, ReachError, Variables};

/// The settings of a source.
pub trait SourceSettings {
    /// The checks of each message.
    fn checks(&self) -> FeedChecks {
        FeedChecks::default()
    }

    /// Whether each process of a cluster reads what comes to it; otherwise one process reads for all.
    fn is_local(&self) -> bool {
        false
    }

    /// Whether all data threads may read it, each what its own sockets receive. Checks need all messages on one thread.
    fn may_spread(&self) -> bool {
        false
    }

    /// Checks that a stream which came over the network may read there.
    ///
    /// # Errors
    /// [`ReachError`]
    fn check(&self, _reach: &Reach) -> Result<(), ReachError> {
        Ok(())
    }

    /// Files that are read later may name only these variables: they may be written by others.
    fn limit_variables(&mut self, _allowed: &Variables) {}

    /// Lets a rule start although a file or peer is missing: the rule was accepted before, and is tried again.
    fn skip_checks(&mut self) {}
}

/// Keeps an endpoint from reading until it is dropped.
pub type Pause = Box<dyn Any + Send>;

/// An open source. It hands nothing over before [`OpenSource::begin`]. Dropped, it reads nothing more.
pub trait OpenSource: Send + Sync {
    fn status(&self) -> LinkStatus;

    /// Its rules run: messages are handed over from now on. Called again, or after [`OpenSource::detach`], it does
    /// nothing. A file has been taken over when this returns, unless that takes very long.
    fn begin(&self) -> BoxFuture<'_, ()>;

    /// Whether its messages come from outside of the process.
    fn is_outside(&self) -> bool {
        true
    }

    /// Stops reading for its rule; messages under way are still handed over.
    fn detach(&self) {}

    /// Waits until what was read is handed over. Never ends while the stream takes nothing.
    fn handed_over(&self) -> BoxFuture<'_, ()> {
        Box::pin(future::ready(()))
    }

    /// Waits as [`OpenSource::handed_over`] does, and keeps the endpoint from reading on; `None` without an endpoint.
    fn pause(&self) -> BoxFuture<'_, Option<Pause>> {
        Box::pin(future::ready(None))
    }

    /// Identifies its endpoint, which other sources may share.
    fn endpoint(&self) -> Option<usize> {
        None
    }

    /// Stops reading as [`OpenSource::close`] does, but waits for no peer.
    fn leave(&self) -> BoxFuture<'_, ()> {
        self.close()
    }

    /// Stops reading; what was read has been handed over when this returns. The status stays readable.
    fn close(&self) -> BoxFuture<'_, ()> {
        self.detach();
        Box::pin(future::ready(()))
    }
}
