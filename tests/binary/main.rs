//! The real binary, driven as its users drive it: over sockets, files, signals and the command line.
//!
//! One test binary, because each one costs a link. `cargo test --test binary durability` runs one module of it.

mod process;

mod attacks;
mod bad_input;
mod browser;
mod checkpoints;
mod cli;
mod cluster;
mod cluster_changes;
mod cluster_ends;
mod cluster_service;
mod connections;
mod cores;
mod durability;
mod examples;
mod fan_out;
mod feeds;
mod file_sink;
mod file_tables;
mod floods;
mod followed;
mod invariants;
mod live;
mod logs;
mod looks;
mod losses;
mod mistakes;
mod openapi;
mod operator_errors;
mod order;
mod packaging;
mod pipelines;
mod recordings;
mod reload;
mod rest_sink;
mod rule_tests;
mod run;
mod secure;
mod service_abuse;
mod soak;
mod sql_docs;
mod sse_sink;
mod starts;
mod store_forward;
mod surface;
mod tokens;
mod trial;
mod unsteady;
mod updates;
mod verbs;
