//! Plutino: SQL rules over live websocket feeds, on a timely dataflow.

pub mod api;
pub mod catalog;
pub mod cli;
pub mod codec;
pub mod config;
pub mod connection;
pub mod dataflow;
pub mod document;
pub mod engine;
pub mod expr;
pub mod io;
pub mod lock;
pub mod logging;
pub mod metrics;
pub mod pipeline;
pub mod plan;
pub mod rule;
pub mod schedule;
pub mod service;
pub mod shape;
pub mod sql;
pub mod template;
pub mod time;
pub mod value;
