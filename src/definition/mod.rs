//! What users define, read once at the edge: streams, rules, connections and the files that hold them.
//!
//! Statements and JSON come in, typed definitions go out; nothing behind this module reads either again. It opens
//! nothing and runs nothing.

mod bind;
pub mod connection;
pub mod diagnose;
pub mod pipeline;
pub mod rule;
pub mod schedule;
pub mod stream;
