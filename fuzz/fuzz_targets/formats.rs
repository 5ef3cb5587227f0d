//! No text makes the readers of delimited text and of forms panic, and a form that is written reads back.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/fuzz/bodies.rs"]
#[allow(dead_code)]
mod bodies;

fuzz_target!(|text: &str| bodies::formats(text));
