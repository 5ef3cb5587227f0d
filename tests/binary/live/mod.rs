//! Live views over real sockets.

mod client;
mod kinds;
mod libraries;
mod model;
mod over_views;
mod protocol;
mod service;
