//! The interfaces of all sources: one for their settings, one for open sources.
//!
//! A connector implements both traits in its own files. These do not know rules or threads.

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

    /// Whether each process of a cluster reads its own messages; otherwise one process reads for all.
    fn is_local(&self) -> bool {
        false
    }

    /// Whether all data threads may read it, each from its own sockets. Checks need all messages on one thread.
    fn may_spread(&self) -> bool {
        false
    }

    /// Checks that a stream from the network may read the source.
    ///
    /// # Errors
    /// [`ReachError`]
    fn check(&self, _reach: &Reach) -> Result<(), ReachError> {
        Ok(())
    }

    /// Limits the variables that files read later may name, because others may write these files.
    fn limit_variables(&mut self, _allowed: &Variables) {}

    /// Whether reading its properties again may give other settings, or an error, because files have changed.
    fn has_files(&self) -> bool {
        true
    }

    /// Allows a rule to start although a file or peer is missing, because the rule was accepted before; the source
    /// keeps trying.
    fn skip_checks(&mut self) {}
}

/// Keeps an endpoint from reading until this is dropped.
pub type Pause = Box<dyn Any + Send>;

/// An open source. It delivers nothing before [`OpenSource::begin`]. After it is dropped, nothing more is read.
pub trait OpenSource: Send + Sync {
    fn status(&self) -> LinkStatus;

    /// Starts delivering messages, because the rules run. Has no effect when called again, or after
    /// [`OpenSource::detach`]. When this returns, a file is delivered completely, unless that takes very long.
    fn begin(&self) -> BoxFuture<'_, ()>;

    /// Whether its messages come from outside the process.
    fn is_outside(&self) -> bool {
        true
    }

    /// Stops reading for its rule; messages on their way are still delivered.
    fn detach(&self) {}

    /// Waits until everything read is delivered. Never ends while the stream accepts nothing.
    fn handed_over(&self) -> BoxFuture<'_, ()> {
        Box::pin(future::ready(()))
    }

    /// Waits like [`OpenSource::handed_over`], and keeps the endpoint from reading more; `None` if there is no
    /// endpoint.
    fn pause(&self) -> BoxFuture<'_, Option<Pause>> {
        Box::pin(future::ready(None))
    }

    /// Identifies its endpoint, which other sources may share.
    fn endpoint(&self) -> Option<usize> {
        None
    }

    /// Stops reading like [`OpenSource::close`], but does not wait for a peer.
    fn leave(&self) -> BoxFuture<'_, ()> {
        self.close()
    }

    /// Stops reading. When this returns, everything read is delivered. The status stays readable.
    fn close(&self) -> BoxFuture<'_, ()> {
        self.detach();
        Box::pin(future::ready(()))
    }
}
