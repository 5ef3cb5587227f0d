//! Texts for people: places in them, excerpts with carets, and documents whose nodes know their place.
//!
//! Every report of a mistake uses this module. It must not know what any text means.

pub mod document;
pub mod loose;
pub mod pattern;
pub mod secret;
pub mod span;
pub mod suggest;
