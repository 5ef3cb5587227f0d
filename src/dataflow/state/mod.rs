//! The state of a rule as data: checkpoints of it, and its size.
//!
//! Operators pass their state part by part ([`checkpoint::StateParts`]); they do not know whether it becomes bytes or a
//! size.

pub mod checkpoint;
pub mod measure;

/// How many of `len` values are dropped at once if the state exceeds its limit.
pub fn quarter(len: usize) -> usize {
    len.div_ceil(4)
}
