//! Received letters between the threads of a rule: rows go into the rule's queue, results of other processes to its
//! sinks, and permissions to send more to those who wait for them.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use crate::metrics::Place;

use super::super::command::{Command, Letters, RuleKey};
use super::super::division::rule_of;
use super::super::letters::{ForwardedRows, ResultBatch, ResultsTaken, RuleLetter};
use super::super::output::Output;
use super::super::queue::Refused;
use super::super::relay;
use super::WorkerLoop;
use super::leaver::Leaver;

/// Letters of this many recently ended rules are dropped: they were in flight.
const GONE: usize = 64;

/// Received letters, by rule.
#[derive(Default)]
pub(super) struct Mailbox {
    rules: HashMap<RuleKey, Mail>,
    gone: VecDeque<RuleKey>,
}

/// The received letters of a rule.
#[derive(Default)]
struct Mail {
    /// the number of letters with rows, since the rule's threads started
    letters: Letters,
    /// the number of processes that have left the rule
    left: usize,
    /// those that arrived before the rule was here, with their senders
    early: Vec<(usize, ForwardedRows)>,
}

impl Mailbox {
    /// Counts a letter for a rule. `near`: from a thread of this process.
    fn came(&mut self, rule: RuleKey, near: bool) {
        let Letters { near: from_near, far } = &mut self.rules.entry(rule).or_default().letters;
        *if near { from_near } else { far } += 1;
    }

    /// Keeps rows of a rule that is not here yet.
    fn keep(&mut self, from: usize, rows: ForwardedRows) {
        self.rules.entry(rows.rule).or_default().early.push((from, rows));
    }

    /// Takes the rows that arrived for a rule before it was here.
    fn take_early(&mut self, rule: RuleKey) -> Vec<(usize, ForwardedRows)> {
        self.rules.get_mut(&rule).map(|mail| std::mem::take(&mut mail.early)).unwrap_or_default()
    }

    /// Another process has left a rule.
    fn is_left(&mut self, rule: RuleKey) {
        self.rules.entry(rule).or_default().left += 1;
    }

    fn letters(&self, rule: RuleKey) -> Letters {
        self.rules.get(&rule).map(|mail| mail.letters).unwrap_or_default()
    }

    /// Forgets the letters of a rule that has ended, or that will never start here. Returns how many processes have
    /// left it before.
    pub(super) fn forget(&mut self, rule: RuleKey) -> usize {
        let left = self.rules.remove(&rule).map_or(0, |mail| mail.left);
        if self.gone.len() == GONE {
            self.gone.pop_front();
        }
        self.gone.push_back(rule);
        left
    }

    fn is_gone(&self, rule: RuleKey) -> bool {
        self.gone.contains(&rule)
    }
}

/// Results of another process whose sender waits until the rule's sinks accept more.
pub(super) struct Unsettled {
    from: usize,
    /// the version whose sinks have the results here, if the rule is here
    taker: Option<RuleKey>,
    answer: ResultsTaken,
}

impl WorkerLoop {
    /// Steps the shared worker and receives letters; true: there may be more to do.
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
                    let Some(running) = self.rules.get(&rule_of(rule)) else { continue };
                    let all = running.lanes.iter().chain(&running.shipping);
                    all.filter(|lane| lane.leads_to(rule, from)).for_each(|lane| lane.taken(rows));
                }
                RuleLetter::Ask(rule) => {
                    let lanes = self.rules.get(&rule).map_or(&[][..], |rule| &rule.lanes);
                    lanes.iter().filter(|lane| lane.leads_to(rule, from)).for_each(|lane| lane.give());
                }
                RuleLetter::Results(results) => self.results_came(from, results),
                RuleLetter::ResultsTaken(taken) => self.results_taken(from, &taken),
                RuleLetter::ResultsEnd(rule) => self.results_end(rule),
            }
        }
        true
    }

    /// Results go to the version that made them, also while it leaves, otherwise to the running one. If neither is here
    /// they are dropped: no client has connected for them yet, or all have received a close frame.
    fn results_came(&mut self, from: usize, results: ResultBatch) {
        let ResultBatch { rule, number, name, form, batch } = results;
        let taker = self.output_of(&rule).map(|_| rule).or_else(|| self.relayed.get(&name).copied());
        let output = taker.and_then(|key| self.output_of(&key));
        let heard = output.map(|output| output.borrow().send_on(form, &batch)).unwrap_or_default();
        let answer = ResultsTaken { rule, number, bytes: relay::cost(&batch), heard };
        self.unsettled.push(Unsettled { from, taker, answer });
        self.settle_results();
    }

    fn results_taken(&mut self, from: usize, taken: &ResultsTaken) {
        let runs = self.rules.get(&taken.rule).and_then(|rule| rule.relay.as_ref());
        let relay = runs.or_else(|| self.leavers.get(&taken.rule).map(|leaver| &leaver.relay));
        relay.iter().for_each(|relay| relay.taken(from, taken));
        self.let_go(taken.rule);
    }

    fn results_end(&mut self, rule: RuleKey) {
        match self.leavers.get_mut(&rule) {
            Some(leaver) => leaver.awaited = leaver.awaited.saturating_sub(1),
            None if self.mail.is_gone(rule) => {}
            None => self.mail.is_left(rule),
        }
        self.let_go(rule);
    }

    /// Closes a rule that has left once nothing is in flight.
    pub(super) fn let_go(&mut self, rule: RuleKey) {
        if self.leavers.get(&rule).is_some_and(Leaver::is_over)
            && let Some(leaver) = self.leavers.remove(&rule)
        {
            let _ = leaver.done.send(());
        }
    }

    /// The sinks of a version that runs here, or that has left before those on the other threads.
    fn output_of(&self, rule: &RuleKey) -> Option<&Rc<RefCell<Output>>> {
        let runs = self.rules.get(rule).map(|rule| &rule.output);
        runs.or_else(|| self.leavers.get(rule).filter(|leaver| leaver.listens()).map(|leaver| &leaver.output))
    }

    /// Lets other processes send more results if the sinks accept more.
    fn settle_results(&mut self) {
        if self.unsettled.is_empty() {
            return;
        }
        let mut unsettled = std::mem::take(&mut self.unsettled);
        let Some(shared) = &self.shared else { return };
        let takes_on = |rule: &RuleKey| self.output_of(rule).is_none_or(|output| output.borrow().takes_on());
        unsettled.retain(|Unsettled { from, taker, answer }| {
            let settled = taker.as_ref().is_none_or(takes_on);
            if settled {
                shared.post().send(*from, RuleLetter::ResultsTaken(answer.clone()));
            }
            !settled
        });
        self.unsettled = unsettled;
    }

    fn rows_came(&mut self, from: usize, rows: ForwardedRows) {
        let here = self.rules.contains_key(&rows.rule);
        if !here && self.mail.is_gone(rows.rule) {
            // Its streams on other threads may continue: they do not wait for a rule that has ended on this thread
            // only.
            if let Some(shared) = &self.shared {
                let taken = RuleLetter::Taken { rule: rows.rule, rows: rows.rows.weight() };
                shared.post().send(from, taken);
            }
            return;
        }
        let near = self.shared.as_ref().is_some_and(|shared| shared.post().is_near(from));
        self.mail.came(rows.rule, near);
        if here {
            self.deliver(from, rows);
        } else {
            // A new version of a rule begins on the other threads first.
            self.mail.keep(from, rows);
        }
    }

    /// Delivers the letters that arrived for a rule before it was here.
    pub(super) fn deliver_early(&mut self, rule: RuleKey) {
        self.mail.take_early(rule).into_iter().for_each(|(from, rows)| self.deliver(from, rows));
    }

    fn deliver(&self, from: usize, rows: ForwardedRows) {
        let Some(rule) = self.rules.get(&rows.rule) else { return };
        let Some(queue) = &rule.queue else { return };
        if let (Some(division), Some(shared)) = (&rule.division, &self.shared) {
            division.letter_came(shared.post().is_near(from));
        }
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
            let came = self.mail.letters(leaving.rule);
            came.near < leaving.letters.near || came.far < leaving.letters.far
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::batch::RowBatch;
    use super::*;

    fn rows(rule: RuleKey) -> ForwardedRows {
        ForwardedRows { rule, rows: RowBatch::of_width(0), advances: Vec::new(), input: 0, behind: false, holds: false }
    }

    #[test]
    fn rows_wait_for_a_rule_unless_it_has_gone() {
        let mut mail = Mailbox::default();
        for rule in [1, 2] {
            mail.came(rule, true);
            mail.keep(0, rows(rule));
        }
        mail.forget(1);
        assert!(mail.is_gone(1) && mail.take_early(1).is_empty());
        assert_eq!((mail.letters(1).near, mail.letters(2).near), (0, 1));
        assert_eq!(mail.take_early(2).len(), 1);
        for rule in 3..1_000 {
            mail.forget(rule);
        }
        assert_eq!((mail.rules.len(), mail.gone.len()), (1, GONE));
        assert!(mail.is_gone(999) && !mail.is_gone(2));
    }
}
