//! Why reading ends without a close frame.

use std::io;

use super::code;

/// An error of a connection. The texts describe what the peer did, for the status of a source or sink.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("protocol error: a frame has reserved bits set")]
    ReservedBits,
    /// an opcode that RFC 6455 does not define
    #[error("protocol error: a frame has the unknown opcode {0}")]
    Opcode(u8),
    #[error("protocol error: a client sent a frame that is not masked")]
    Unmasked,
    #[error("protocol error: a server sent a masked frame")]
    Masked,
    #[error("protocol error: a control frame is fragmented")]
    FragmentedControl,
    #[error("protocol error: a control frame holds {0} bytes; 125 are allowed")]
    LargeControl(u64),
    #[error("protocol error: a continuation frame without a message to continue")]
    NothingToContinue,
    #[error("protocol error: a message begins before the one before it has ended")]
    Unfinished,
    /// a close frame with a payload of one byte, or with a code that must not be sent
    #[error("protocol error: a close frame has no valid code")]
    CloseCode,
    #[error("a text message is not valid UTF-8")]
    Utf8,
    #[error("a message of {size} bytes is longer than maxMessageSize ({limit})")]
    Size {
        /// size of the message, or of its announced part
        size: u64,
        limit: usize,
    },
    /// a compressed message larger than the limit when decompressed
    #[error("a compressed message inflates to more than maxMessageSize ({limit} bytes)")]
    Bomb { limit: usize },
    #[error("a compressed message cannot be inflated")]
    Deflate,
    #[error("incomplete messages of all connections take more than {limit} bytes: this one was dropped")]
    Budget { limit: usize },
    #[error("the connection ended without a close frame")]
    Reset,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl ReadError {
    /// The code of the close frame for the peer; `None` if the peer can no longer be reached.
    pub fn code(&self) -> Option<u16> {
        match self {
            ReadError::Utf8 | ReadError::Deflate => Some(code::INVALID),
            ReadError::Size { .. } | ReadError::Bomb { .. } => Some(code::SIZE),
            ReadError::Budget { .. } => Some(code::AGAIN),
            ReadError::Reset | ReadError::Io(_) => None,
            _ => Some(code::PROTOCOL),
        }
    }
}
