//! The state of a rule as data: checkpoints of it, and its size.
//!
//! Operators hand their state over part by part ([`checkpoint::StateParts`]); what becomes of the parts, bytes or a
//! number, they do not know.

pub mod checkpoint;
pub mod measure;

/// How many of so many things are forgotten at once where a rule remembers more than it may.
pub fn quarter(len: usize) -> usize {
    len.div_ceil(4)
}
