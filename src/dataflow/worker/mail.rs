//! Letters between the threads of a rule, where they arrive: rows go into the rule's queue, results of other processes to
//! its sinks, and leave to send more to whoever waits for it.

use crate::metrics::Place;

use super::super::command::{Command, Letters, RuleKey};
use super::super::letters::{ForwardedRows, ResultBatch, RuleLetter};
use super::super::queue::Refused;
use super::super::relay;
use super::WorkerLoop;

/// The letters with rows that have come for a rule.
#[derive(Default)]
pub(super) struct Mail {
    /// how many, since the rule's threads began
    letters: Letters,
    /// those that have come before the rule is here, with their senders
    early: Vec<(usize, ForwardedRows)>,
}

/// Results of another process whose sender waits until the rule's sinks take more.
pub(super) struct Unsettled {
    from: usize,
    /// the version that has sent them
    rule: RuleKey,
    /// the version that has them here, if the rule runs here
    taker: Option<RuleKey>,
    bytes: usize,
}

impl WorkerLoop {
    /// Steps the shared worker and takes letters in; true: there may be more to do.
    pub(super) fn exchange(&mut self) -> bool {
        self.settle_results();
        let Some(shared) = &mut self.shared else { return false };
        let active = shared.step();
        let letters = shared.receive();
        if letters.is_empty() {
            return active;
        }
        for (from, letter) in letters {
            match letter {
                RuleLetter::Rows(rows) => self.rows_came(from, rows),
                RuleLetter::Taken { rule, rows } => {
                    let forward = self.rules.get(&rule).and_then(|rule| rule.forward.as_ref());
                    forward.iter().for_each(|forward| forward.taken(rows));
                }
                RuleLetter::Results(results) => self.results_came(from, results),
                RuleLetter::ResultsTaken { rule, bytes } => {
                    let relay = self.rules.get(&rule).and_then(|rule| rule.relay.as_ref());
                    relay.iter().for_each(|relay| relay.taken(from, bytes));
                }
            }
        }
        true
    }

    /// Results of a rule that does not run here are nobody's: no client has come for them yet.
    fn results_came(&mut self, from: usize, results: ResultBatch) {
        let ResultBatch { rule, name, form, batch } = results;
        let taker = self.relayed.get(&name).copied();
        if let Some(rule) = taker.and_then(|key| self.rules.get(&key)) {
            rule.output.borrow().send_on(form, &batch);
        }
        self.unsettled.push(Unsettled { from, rule, taker, bytes: relay::cost(&batch) });
        self.settle_results();
    }

    /// Lets other processes send more results where the sinks take more.
    fn settle_results(&mut self) {
        if self.unsettled.is_empty() {
            return;
        }
        let (Some(shared), rules) = (&self.shared, &self.rules) else { return };
        let takes_on = |rule: &RuleKey| rules.get(rule).is_none_or(|rule| rule.output.borrow().takes_on());
        self.unsettled.retain(|Unsettled { from, rule, taker, bytes }| {
            let settled = taker.as_ref().is_none_or(takes_on);
            if settled {
                shared.post().send(*from, RuleLetter::ResultsTaken { rule: *rule, bytes: *bytes });
            }
            !settled
        });
    }

    fn rows_came(&mut self, from: usize, rows: ForwardedRows) {
        let near = self.shared.as_ref().is_some_and(|shared| shared.post().is_near(from));
        let mail = self.mail.entry(rows.rule).or_default();
        if near {
            mail.letters.near += 1;
        } else {
            mail.letters.far += 1;
        }
        if self.rules.contains_key(&rows.rule) {
            self.deliver(from, rows);
        } else {
            // A new version of a rule begins on the other threads first.
            mail.early.push((from, rows));
        }
    }

    /// Delivers what has come for a rule before it was here.
    pub(super) fn deliver_early(&mut self, rule: RuleKey) {
        let early = self.mail.get_mut(&rule).map(|mail| std::mem::take(&mut mail.early)).unwrap_or_default();
        early.into_iter().for_each(|(from, rows)| self.deliver(from, rows));
    }

    fn deliver(&self, from: usize, rows: ForwardedRows) {
        let Some(rule) = self.rules.get(&rows.rule) else { return };
        let Some(queue) = &rule.queue else { return };
        let Refused { late, late_by, dropped } = queue.accept(from, rows, self.clock.now(), rule.event_time);
        let mut output = rule.output.borrow_mut();
        if late > 0 {
            output.metrics().are_late(late, late_by);
        }
        for _ in 0..dropped {
            output.error(
                Place::Window,
                "delay() holds the rule back: too many rows wait for it, and this one is dropped",
            );
        }
        queue.hand_over();
    }

    /// The next command, unless it has to wait for letters.
    pub(super) fn next_command(&mut self) -> Option<Command> {
        let command = self.held.take().or_else(|| self.commands.try_recv().ok())?;
        if self.waits_for_letters(&command) {
            self.held = Some(command);
            return None;
        }
        Some(command)
    }

    /// Whether a command was waiting for letters and can run now.
    pub(super) fn may_go_on(&self) -> bool {
        self.held.as_ref().is_some_and(|held| !self.waits_for_letters(held))
    }

    fn waits_for_letters(&self, command: &Command) -> bool {
        let leaving = match command {
            Command::DropRule { leaving, .. } => Some(leaving),
            Command::AddRule(rule) => rule.replaces.as_ref(),
            _ => None,
        };
        leaving.is_some_and(|leaving| {
            let came = self.mail.get(&leaving.rule).map(|mail| mail.letters).unwrap_or_default();
            came.near < leaving.letters.near || came.far < leaving.letters.far
        })
    }
}
