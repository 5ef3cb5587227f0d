//! Live views over real sockets.

mod browser;
pub mod client;
mod details;
mod endurance;
mod kinds;
mod libraries;
mod model;
mod over_views;
mod processes;
mod protocol;
mod recipes;
mod service;
mod status;
mod threads;
