//! Attacks on the service, as an attacker would make them: the real binary, and requests as bytes.
//!
//! One file for each way in; the name of each test says what must not be possible.

mod connections;
mod floods;
mod memory;
mod pages;
mod reach;
mod secrets;
mod store;
mod times;
