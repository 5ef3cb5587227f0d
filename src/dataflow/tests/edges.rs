//! The edges: extreme times and lengths, changes of the clock, late rows, errors of rows, many keys.
