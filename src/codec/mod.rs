//! Bytes of messages to values, and values to bytes.

pub mod json;

pub mod schema;
