//! What users define, read once at the edge: streams, rules and connections.
//!
//! Statements and JSON come in, typed definitions go out; nothing behind this module reads either again. It plans
//! nothing, opens nothing and runs nothing.

pub mod connection;
pub mod rule;
pub mod schedule;
pub mod stream;
pub mod view;
