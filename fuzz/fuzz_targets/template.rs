//! No text makes the parser of templates panic, nor what it accepts when it runs.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/fuzz/bodies.rs"]
#[allow(dead_code)]
mod bodies;

fuzz_target!(|text: &str| bodies::template(text));
