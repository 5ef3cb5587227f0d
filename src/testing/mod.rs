//! Tests of rules: input, time and expected output, written in YAML beside the rules.
//!
//! A test runs its rules on the real engine, as `plutino run` does: statements are planned, rows go through timely, and
//! results are encoded for the rule's sinks. Only the edges differ (`stage`): messages come from the test, results are
//! kept for it, and the clock is manual, so nothing sleeps and each run gives the same results.
//!
//! `load` finds tests in files, `case` parses them, `run` runs one, `compare` compares results, `report` describes the
//! differences, and `update` writes new expectations into the file. This module prints nothing and does not know the
//! command line.

mod case;
mod compare;
mod load;
mod report;
mod run;
mod stage;
mod update;

pub use self::case::{ActionChoice, Case, default_start};
pub use self::compare::{Line, Matching, align, fits};
pub use self::load::{Suite, find, load};
pub use self::report::report;
pub use self::run::{Failure, Outcome, Sent, run};
pub use self::stage::{Stage, StageSettings};
pub use self::update::{Edit, apply, edits};
