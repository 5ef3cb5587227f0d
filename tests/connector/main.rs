//! The websocket connector through the library, against peers that behave and peers that do not.

mod admission;
mod deflate;
mod floods;
mod frames;
mod tls_peers;
mod websocket;
