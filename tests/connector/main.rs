//! The websocket connector through the library, against correct and faulty peers.

mod admission;
mod deflate;
mod floods;
mod frames;
mod shared;
mod slow_clients;
mod tls_peers;
mod websocket;
