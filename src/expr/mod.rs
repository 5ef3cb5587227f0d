//! Compiled expressions and the functions they call.

pub mod aggregate;
pub mod cast;
pub mod datetime_text;
pub mod function;
pub mod pattern;
