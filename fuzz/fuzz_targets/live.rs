//! No text of a client ends its session but one that is too long; each answer is JSON, and the view goes on.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/fuzz/bodies.rs"]
#[allow(dead_code)]
mod bodies;

fuzz_target!(|text: &str| bodies::live(text));
