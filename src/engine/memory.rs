//! What gives way when the process is short of memory: see [`memory`](crate::memory) for the steps.

use std::time::Duration;

use crate::memory::{self, Pressure};

use super::Engine;

/// How long the data threads may take to say how much their rules remember.
const MEASURING: Duration = Duration::from_secs(1);

/// How often whoever runs an engine calls [`Engine::relieve_memory`].
pub const PATROL: Duration = Duration::from_secs(1);

impl Engine {
    /// Does what is to be done for now. Gives the rule that has failed, which waits to be stopped.
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
        tracing::warn!(rule, "memory is short: the rule that remembers most is stopped");
        Some(rule)
    }
}
