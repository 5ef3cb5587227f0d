//! Plutino: SQL rules over live websocket feeds, on a timely dataflow.

pub mod codec;
pub mod expr;
pub mod io;
pub mod sql;
pub mod value;
