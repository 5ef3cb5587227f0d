//! Live views over real sockets.

mod client;
mod kinds;
mod model;
mod protocol;
mod service;
