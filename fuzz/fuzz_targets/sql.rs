//! No text makes the parser panic, and what it accepts means the same after printing.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/fuzz/bodies.rs"]
#[allow(dead_code)]
mod bodies;

fuzz_target!(|text: &str| bodies::sql(text));
