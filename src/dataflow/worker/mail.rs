//! Letters between the threads of a rule, where they arrive: rows go into the rule's queue, leave to send more to whoever
//! waits for it.

use crate::metrics::Place;

use super::super::command::{Command, RuleKey};
use super::super::letters::{ForwardedRows, RuleLetter};
use super::super::queue::Refused;
use super::WorkerLoop;

/// The letters with rows that have come for a rule.
#[derive(Default)]
pub(super) struct Mail {
    /// how many, since the rule's threads began
    letters: u64,
    /// those that have come before the rule is here, with their senders
    early: Vec<(usize, ForwardedRows)>,
}

impl WorkerLoop {
    /// Steps the shared worker and takes letters in; true: there may be more to do.
    pub(super) fn exchange(&mut self) -> bool {
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
            }
        }
        true
    }

    fn rows_came(&mut self, from: usize, rows: ForwardedRows) {
        let mail = self.mail.entry(rows.rule).or_default();
        mail.letters += 1;
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

    /// Whether a command that had to wait for letters need not wait any more.
    pub(super) fn may_go_on(&self) -> bool {
        self.held.as_ref().is_some_and(|held| !self.waits_for_letters(held))
    }

    fn waits_for_letters(&self, command: &Command) -> bool {
        let leaving = match command {
            Command::DropRule { leaving, .. } => Some(leaving),
            Command::AddRule(rule) => rule.replaces.as_ref(),
            _ => None,
        };
        leaving.is_some_and(|leaving| self.mail.get(&leaving.rule).map_or(0, |mail| mail.letters) < leaving.letters)
    }
}
