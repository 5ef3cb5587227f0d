//! What else holds of checkpoints: that every kind of memory outlives a restart, and what is refused.

use serde_json::json;

use super::{Restarts, Rule, by_clock, event_time};
use crate::dataflow::checkpoint::CheckpointError;
use crate::rule::RuleOptions;
