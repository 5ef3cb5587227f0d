//! The engine's inside: rows through timely dataflows, on one worker a data thread.
//!
//! A worker gets frame batches from `io::queue` and gives message batches to outlets; between the two, nothing waits
//! and nothing crosses a thread. This layer opens no socket and knows no JSON beyond what the scan decodes.

mod analytic;
pub mod batch;
pub mod build;
pub mod cluster;
mod combine;
pub mod command;
pub mod context;
mod dead_letters;
mod decode;
pub mod division;
pub mod event_clock;
mod exchange;
mod feed;
pub mod forward;
mod join;
pub mod letters;
mod lookup;
pub mod operate;
pub mod operator;
pub mod output;
mod project;
pub mod queue;
pub mod relay;
mod results;
pub mod row;
pub mod scan;
mod slots;
mod sort;
pub mod state;
pub mod table;
#[cfg(test)]
mod tests;
pub mod timers;
mod view;
mod waiting;
mod window;
pub mod worker;
