//! Processes rows in timely dataflows, with one worker for each data thread.
//!
//! A worker takes frame batches from `io::queue` and gives message batches to outlets; in between, nothing waits and
//! nothing crosses a thread. This layer opens no socket, and knows JSON only as the scan decodes it.

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
pub mod encoding;
pub mod event_clock;
mod exchange;
mod feed;
pub mod forward;
mod join;
mod leftover;
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
mod stream_time;
pub mod table;
#[cfg(test)]
mod tests;
pub mod timers;
mod view;
mod waiting;
mod window;
pub mod worker;
