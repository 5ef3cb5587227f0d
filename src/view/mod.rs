//! Live views: answers that are kept up to date, and clients that each follow their part of one.
//!
//! A [`View`] holds the current rows. Each row has a *life* in each part of the view that clients watch: when it was
//! born, when it last changed, when it died. A client is a cursor, the sequence number of the cut that it holds; what
//! it lacks is a walk over lives, the last changed first, down to its cursor. So a snapshot, a delta, a resumed client,
//! a slow client and a client with a rate of its own are one mechanism, and no change is kept for any of them.
//!
//! The operators of `dataflow` put rows in and make cuts; `io` moves the frames of [`Session`]s over sockets. This
//! module knows neither sockets nor timely: it is plain state behind one lock a view, held for single steps.

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

pub use client::{ClientError, ErrorCode};
pub use counters::OperatorStatus;
pub use description::{Column, ColumnType, Description, PartColumn};
pub use filter::Filter;
pub use form::{Form, NotScalar, form, form_of_part, write_part};
pub use frame::Frame;
pub use mailbox::Mailbox;
pub use rate::Rate;
pub use registry::{HEARTBEAT_MS, Views};
pub use session::{Identity, Over, Session};
pub use status::{ClientStatus, ViewStatus};
pub use store::{NetChange, View, ViewCell};

/// The number of a cut. Each cut with a change has a greater one than those before it.
pub type Sequence = u64;
