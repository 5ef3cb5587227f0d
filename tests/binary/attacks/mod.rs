//! Attacks on the service, each as somebody would make it: the real binary, and requests as bytes.
//!
//! One file for what an attack begins with; what each may not do is in the name of its test.

mod connections;
mod floods;
mod memory;
mod pages;
mod reach;
mod secrets;
mod store;
