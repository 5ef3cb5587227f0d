//! The message layer of a websocket: RFC 6455 after the handshake, with permessage-deflate (RFC 7692).
//!
//! [`Stream`] reads complete messages from a connection and writes frames to it. It is our own for three reasons:
//! messages are slices of the read buffer, so memory is allocated once per read and not once per message; a result is
//! framed (and compressed) once for all clients of a sink; and the bytes waiting for a peer are always bounded. The
//! handshake is tungstenite's, whose message layer is the reference in tests: both must read the same from the same
//! bytes.
//!
//! It knows bytes, frames and messages, but no endpoints, no queues of clients, and not the meaning of messages.

mod deflate;
mod error;
mod frame;
mod read;
mod stream;
mod utf8;
mod write;

#[cfg(test)]
mod cases;
#[cfg(test)]
mod oracle;

pub use deflate::{Deflate, accepted, negotiate, offer};
pub use error::ReadError;
pub use read::Intake;
pub use stream::{Opened, Read, Stream};

/// The role of this process in a connection: a client masks what it sends, a server does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// this process dialled
    Client,
    /// the peer dialled
    Server,
}

/// A close frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// RFC 6455, 7.4
    pub code: u16,
    /// text for people, at most 123 bytes
    pub reason: String,
}

/// The close codes that this program sends.
pub mod code {
    /// normal end
    pub const NORMAL: u16 = 1000;
    /// the endpoint ends
    pub const AWAY: u16 = 1001;
    /// the peer broke the protocol
    pub const PROTOCOL: u16 = 1002;
    /// text that is not UTF-8, or data that cannot be decompressed
    pub const INVALID: u16 = 1007;
    /// the peer is too slow
    pub const POLICY: u16 = 1008;
    /// a message is too long
    pub const SIZE: u16 = 1009;
    /// this process is overloaded
    pub const AGAIN: u16 = 1013;
}
