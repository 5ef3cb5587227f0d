//! The message layer of a websocket: RFC 6455 behind the handshake, and permessage-deflate (RFC 7692) as a stage of it.
//!
//! [`Stream`] reads whole messages from a wire and writes frames to it. It is our own for three reasons: messages are
//! slices of the read buffer, so that a read costs one allocation and not one a message; a result is framed (and
//! compressed) once for all clients of a sink; and what waits for a peer is bounded by construction. tungstenite's
//! layer, whose handshake we use, is the oracle of the tests: both read the same from the same bytes.
//!
//! It knows bytes, frames and messages. It must not know endpoints, queues of clients, or what a message means.

mod deflate;
mod error;
mod frame;
mod read;
mod stream;
mod write;

#[cfg(test)]
mod cases;
#[cfg(test)]
mod oracle;

pub use deflate::{Deflate, accepted, negotiate, offer};
pub use error::ReadError;
pub use read::Intake;
pub use stream::{Opened, Read, Stream};

/// Which end of a connection this process is: a client masks what it sends, a server does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// it dialled
    Client,
    /// it was dialled
    Server,
}

/// A close frame: the code and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// RFC 6455, 7.4
    pub code: u16,
    /// text for people, 123 bytes at the most
    pub reason: String,
}

/// The close codes that this program sends.
pub mod code {
    /// the connection has done what it was for
    pub const NORMAL: u16 = 1000;
    /// the endpoint ends
    pub const AWAY: u16 = 1001;
    /// the peer broke the protocol
    pub const PROTOCOL: u16 = 1002;
    /// text that is not UTF-8, or data that cannot be inflated
    pub const INVALID: u16 = 1007;
    /// the peer is too slow
    pub const POLICY: u16 = 1008;
    /// a message is too long
    pub const SIZE: u16 = 1009;
    /// this process has too much to do now
    pub const AGAIN: u16 = 1013;
}
