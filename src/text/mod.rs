//! Texts for people: places in them, excerpts with carets, and documents whose nodes know their place.
//!
//! Every error report uses this module. It does not know what a text means.

pub mod document;
pub mod limited;
pub mod loose;
pub mod pattern;
pub mod secret;
pub mod span;
pub mod suggest;
