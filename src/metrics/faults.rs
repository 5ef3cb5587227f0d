//! Errors of a rule by operator: how many, the last one, and the last few with the messages that caused them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

/// How many errors of one operator are kept with their messages.
pub const KEPT: usize = 10;

/// Bytes of a message or an error that are kept.
pub const KEPT_BYTES: usize = 1024;

/// The operators that can lose a row or a result to an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// a message that cannot be read, or a value that does not fit its column
    Decoder,
    /// WHERE
    Filter,
    /// analytic functions
    Analytic,
    /// what a window keeps of its rows, and its FILTER
    Window,
    /// conditions of joins
    Join,
    /// the answers of aggregates
    Aggregate,
    /// HAVING
    Having,
    /// ORDER BY
    Order,
    /// the select list, and whatever is of no other operator
    Project,
    /// results to messages
    Encode,
}

impl Place {
    /// Its name in the status and in taps.
    pub fn as_str(self) -> &'static str {
        match self {
            Place::Decoder => "decoder",
            Place::Filter => "filter",
            Place::Analytic => "analytic",
            Place::Window => "window",
            Place::Join => "join",
            Place::Aggregate => "aggregate",
            Place::Having => "having",
            Place::Order => "order",
            Place::Project => "project",
            Place::Encode => "encode",
        }
    }
}

/// The errors of one operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// the operator
    pub place: Place,
    /// how many
    pub count: u64,
    /// when the last one was
    pub time: SystemTime,
    /// the last one
    pub text: String,
    /// the last `KEPT`, the oldest first
    pub recent: VecDeque<Arc<Failure>>,
}

/// One error.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// when it was
    pub time: SystemTime,
    /// what it says
    pub text: String,
    /// the message or row that caused it, as far as it is known and cut to `KEPT_BYTES`
    pub message: Option<String>,
}

impl Failure {
    /// An error of now.
    pub fn new(text: String, message: Option<&str>) -> Arc<Failure> {
        Arc::new(Failure {
            time: SystemTime::now(),
            text,
            message: message.map(|text| cut(text.to_owned(), KEPT_BYTES)),
        })
    }
}

/// Adds errors of a place, the last of which were these; how many there are now.
pub(super) fn add(faults: &mut Vec<Fault>, place: Place, count: u64, recent: &[Arc<Failure>]) -> u64 {
    let Some(last) = recent.last() else { return 0 };
    let at = faults.iter().position(|fault| fault.place == place).unwrap_or_else(|| {
        let (time, text) = (SystemTime::UNIX_EPOCH, String::new());
        faults.push(Fault { place, count: 0, time, text, recent: VecDeque::new() });
        faults.len() - 1
    });
    let fault = &mut faults[at];
    fault.count += count;
    if last.time >= fault.time {
        fault.time = last.time;
        fault.text.clone_from(&last.text);
    }
    for failure in recent {
        keep(&mut fault.recent, failure.clone());
    }
    fault.count
}

/// Adds an error to the last ones.
pub(super) fn keep<T>(recent: &mut VecDeque<T>, new: T) {
    if recent.len() == KEPT {
        recent.pop_front();
    }
    recent.push_back(new);
}

/// The first bytes of a text, with a mark where it goes on.
pub fn cut(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let mut end = limit;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_errors_are_kept_with_their_messages_cut() {
        let mut faults = Vec::new();
        for number in 0..KEPT + 3 {
            let message = "ä".repeat(KEPT_BYTES);
            add(&mut faults, Place::Filter, 1, &[Failure::new(number.to_string(), Some(&message))]);
        }
        let [fault] = &faults[..] else { panic!("one operator") };
        assert_eq!((fault.count, fault.text.as_str(), fault.recent.len()), (13, "12", KEPT));
        assert_eq!(fault.recent[0].text, "3");
        let message = fault.recent[0].message.as_deref().unwrap_or_default();
        assert!(message.ends_with("ä…") && message.len() <= KEPT_BYTES + 3, "{}", message.len());
    }
}
