//! The engine's inside: rows through timely dataflows, on one worker a data thread.
//!
//! A worker gets frame batches from `io::queue` and gives message batches to outlets; between the two, nothing waits
//! and nothing crosses a thread. This layer opens no socket and knows no JSON beyond what the scan decodes.

mod analytic;
pub mod build;
pub mod checkpoint;
mod index;
mod join;
pub mod measure;
mod message;
pub mod operator;
mod order;
pub mod output;
pub mod queue;
mod ranges;
mod results;
pub mod scan;
pub mod table;
#[cfg(test)]
mod tests;
mod window;
pub mod worker;
