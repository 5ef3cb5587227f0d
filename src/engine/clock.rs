//! An engine with a manual clock: tests and recordings set the time, and nothing waits for real time.
//!
//! The clock moves from deadline to deadline, and everything due at one is done before the next. So windows close at
//! their own times and in order, however far the clock is moved at once.

use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use tokio::sync::oneshot;

use crate::dataflow::command::Command;
use crate::time::Clock;

use super::Engine;

/// How often rules may ask for a deadline that has passed already before the clock moves on.
const ROUNDS: u32 = 10_000;

impl Engine {
    /// Returns when everything delivered so far has been processed, including by rules that read other rules' results,
    /// as far as this needs no further time.
    pub async fn settled(&self) {
        self.settle_by(Command::Settle).await;
    }

    /// The engine's time, ms since the epoch.
    pub fn now(&self) -> i64 {
        self.clock.now()
    }

    /// Moves a manual clock to `to`, ms since the epoch, through each deadline before it. It never goes back. Does
    /// nothing with the system clock.
    pub async fn move_clock(&self, to: i64) {
        let Clock::Manual(clock) = &self.clock else { return };
        let mut rounds = 0;
        loop {
            self.settled().await;
            let now = clock.load(Ordering::Relaxed);
            match self.next_deadline().await.filter(|due| *due <= to) {
                Some(due) if due > now => clock.store(due, Ordering::Relaxed),
                // The worker runs it when it next looks at the clock.
                Some(_) if rounds < ROUNDS => rounds += 1,
                _ if now >= to => return,
                _ => clock.store(to, Ordering::Relaxed),
            }
        }
    }

    /// The next deadline on any thread.
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
