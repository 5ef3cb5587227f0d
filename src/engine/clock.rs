//! An engine by a manual clock: tests and recordings decide what time it is, and nothing waits for it.
//!
//! The clock goes from deadline to deadline, and all that happens at one of them is done before the next: so windows
//! close at their own times and in their order, however far the clock is moved at once.

use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use tokio::sync::oneshot;

use crate::dataflow::command::Command;
use crate::time::Clock;

use super::Engine;

/// How often a rule may ask to be run at a time that has come already, before the clock goes on without it.
const ROUNDS: u32 = 10_000;

impl Engine {
    /// Returns when all that was handed over has been run, also by the rules that read the results of others, as far as
    /// that happens without time going on.
    pub async fn settled(&self) {
        self.settle_by(Command::Settle).await;
    }

    /// The engine's time, ms since the epoch.
    pub fn now(&self) -> i64 {
        self.clock.now()
    }

    /// Moves a manual clock to `to`, ms since the epoch, by way of each deadline before it. It does not go back. The
    /// system's clock moves by itself: then nothing happens.
    pub async fn move_clock(&self, to: i64) {
        let Clock::Manual(clock) = &self.clock else { return };
        let mut rounds = 0;
        loop {
            self.settled().await;
            let now = clock.load(Ordering::Relaxed);
            match self.next_deadline().await.filter(|due| *due <= to) {
                Some(due) if due > now => clock.store(due, Ordering::Relaxed),
                // It is run when the worker looks at the clock the next time.
                Some(_) if rounds < ROUNDS => rounds += 1,
                _ if now >= to => return,
                _ => clock.store(to, Ordering::Relaxed),
            }
        }
    }

    /// When time will next make something happen on any thread.
    async fn next_deadline(&self) -> Option<i64> {
        let answers = self.threads.iter().map(|thread| {
            let (done, answer) = oneshot::channel();
            thread.command(Command::NextDeadline(done));
            answer
        });
        let answers: Vec<_> = answers.collect();
        join_all(answers).await.into_iter().filter_map(Result::ok).flatten().min()
    }
}
