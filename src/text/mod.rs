//! Texts that people write and read: places in them, excerpts with carets, and documents whose nodes know their place.
//!
//! Everything that reports a mistake stands on this module. It must not know what any text means.

pub mod document;
pub mod loose;
pub mod pattern;
pub mod secret;
pub mod span;
pub mod suggest;
