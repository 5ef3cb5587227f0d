//! Reading JSON never panics, the scanner and the parser agree on what is valid, and what is written reads back.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/fuzz/bodies.rs"]
#[allow(dead_code)]
mod bodies;

fuzz_target!(|text: &str| bodies::json(text));
