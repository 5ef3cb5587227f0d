//! Compiled expressions and the functions they call.

pub mod aggregate;
pub mod function;
