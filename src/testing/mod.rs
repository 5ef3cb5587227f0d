//! Tests of rules: what goes in, what time does, and what must come out, written in YAML beside the rules.
//!
//! A test runs its rules on the real engine, as `plutino run` does: statements are planned, rows go through timely, and
//! results are encoded as the rule's sinks want them. Only the edges differ (`stage`): messages come from the test,
//! results are kept for it, and the clock is set by hand, so nothing sleeps and each run gives the same results.
//!
//! `load` finds the tests of files, `case` reads them, `run` runs one, `compare` says how results differ, `report`
//! puts that into words, and `update` writes new expectations into the file. This module prints nothing and does not
//! know the command line.

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
