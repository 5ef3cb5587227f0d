//! From a rule's tree to what a worker runs: names become slots, types are checked, conditions are pushed down.
//!
//! Every error that a rule's text can hold surfaces here, with its place. This layer knows neither sockets nor timely.

pub mod physical;
