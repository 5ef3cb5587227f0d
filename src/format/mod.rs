//! Bytes of messages to values, and values to bytes: one module a format.

pub mod compress;
pub mod delimited;
pub mod schema;
pub mod sink_format;
pub mod template;
pub mod urlencoded;

pub use crate::value::json;
