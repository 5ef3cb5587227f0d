//! Live views over real sockets.

mod client;
mod kinds;
mod libraries;
mod model;
mod protocol;
mod service;
