//! What users define: streams, rules and connections.
//!
//! Takes statements and JSON and returns typed definitions, so no later code reads either again. This module plans,
//! opens and runs nothing.

pub mod connection;
pub mod name;
pub mod rule;
pub mod schedule;
pub mod stream;
pub mod view;
