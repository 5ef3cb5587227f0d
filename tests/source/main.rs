//! Checks of the source itself: its layers, and the pages that are generated from its tables.

mod generated_docs;
mod layers;
mod packages;
