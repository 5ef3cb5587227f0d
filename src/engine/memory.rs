//! What gives way when the process is short of memory: see [`memory`](crate::memory) for the steps.

use std::time::Duration;

use crate::memory::{self, Pressure};

use super::Engine;

/// How long the data threads may take to measure the state of their rules.
const MEASURING: Duration = Duration::from_secs(1);

/// The interval at which the engine's owner calls [`Engine::relieve_memory`].
pub const PATROL: Duration = Duration::from_secs(1);

impl Engine {
    /// Takes the step that the memory in use requires. Returns the rule that has failed; it must be stopped.
    pub async fn relieve_memory(&self) -> Option<String> {
        let pressure = memory::pressure();
        if pressure >= Pressure::Queues {
            self.connectors.websockets.shed().await;
        }
        if pressure < Pressure::Rules {
            return None;
        }
        let rule = self.fail_largest(MEASURING).await?;
        memory::count(Pressure::Rules);
        tracing::warn!(rule, "memory is short: the rule with the largest state is stopped");
        Some(rule)
    }
}
