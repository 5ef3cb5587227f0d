//! Decodes messages to values and encodes values as messages: one module for each format.

pub mod address;
pub mod compress;
pub mod delimited;
pub mod schema;
pub mod sink_format;
pub mod template;
pub mod urlencoded;

pub use crate::value::json;
