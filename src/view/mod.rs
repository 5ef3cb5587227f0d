//! Live views: query results that are kept up to date, and clients that each follow a part of one.
//!
//! A [`View`] holds the current rows. Each row has a *life* in each watched part of the view: the cuts at which it
//! began, last changed and ended. A client is a cursor: the number of the last cut that it has. The changes that it
//! lacks are found by walking lives from the last changed back to its cursor. So snapshots, deltas, resumed clients,
//! slow clients and clients with their own rate use one mechanism, and no changes are stored for any of them.
//!
//! The operators of `dataflow` add rows and make cuts; `io` sends the frames of [`Session`]s over sockets. This module
//! knows neither sockets nor timely: it is plain state, one lock per view, held for one step at a time.

mod client;
mod cohort;
mod counters;
mod cursor;
mod description;
mod filter;
mod form;
mod frame;
mod lives;
mod mailbox;
mod pull;
mod rate;
mod registry;
mod rows;
mod session;
mod status;
mod store;
#[cfg(test)]
mod tests;
mod touched;

pub use client::{ClientError, ErrorCode};
pub use counters::OperatorStatus;
pub use description::{Column, ColumnType, Description, PartColumn};
pub use filter::Filter;
pub use form::{Form, NotScalar, form_in_column, write_part};
pub use frame::Frame;
pub use mailbox::Mailbox;
pub use rate::Rate;
pub use registry::{HEARTBEAT_MS, Views};
pub use session::{Identity, Over, Session};
pub use status::{ClientStatus, ViewStatus};
pub use store::{NetChange, View, ViewCell};
pub use touched::Touched;

/// The number of a cut. Each cut with a change has a larger number than earlier ones.
pub type Sequence = u64;
