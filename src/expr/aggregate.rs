//! Aggregates as incremental accumulators: a window keeps one [`Accumulator`] for each aggregate call and group, never
//! the rows.

/// Which aggregate a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregate {
    /// count(*), count(e): rows, or rows where e is not null
    Count,
    /// sum(e)
    Sum,
    /// avg(e)
    Avg,
    /// min(e)
    Min,
    /// max(e)
    Max,
}
