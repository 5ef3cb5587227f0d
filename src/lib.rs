//! Plutino: SQL rules over live websocket feeds, on a timely dataflow.

pub mod api;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod dataflow;
pub mod definition;
pub mod engine;
pub mod expr;
pub mod format;
pub mod framing;
pub mod io;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod pipeline;
pub mod plan;
pub mod property;
pub mod service;
pub mod sql;
pub mod sync;
pub mod testing;
pub mod text;
pub mod time;
pub mod value;
pub mod view;
