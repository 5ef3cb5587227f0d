//! Errors of a rule by operator: their number, and the last few with the messages that caused them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

/// The number of errors kept with their messages, for each operator.
pub const KEPT: usize = 10;

/// The most bytes kept of a message or an error text.
pub const KEPT_BYTES: usize = 1024;

/// The operators that can lose a row or a result to an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// a message that cannot be read, or a value that does not fit its column
    Decoder,
    /// WHERE
    Filter,
    Analytic,
    /// what a window computes for its rows, and its FILTER
    Window,
    /// conditions of joins
    Join,
    /// results of aggregates
    Aggregate,
    /// HAVING
    Having,
    /// ORDER BY
    Order,
    /// the select list, and everything outside other operators
    Project,
    /// encoding of results
    Encode,
}

impl Place {
    /// The name in the status and in taps.
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub place: Place,
    pub count: u64,
    /// the time of the last one
    pub time: SystemTime,
    /// the text of the last one
    pub text: String,
    /// the last `KEPT`, the oldest first
    pub recent: VecDeque<Arc<Failure>>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    pub time: SystemTime,
    pub text: String,
    /// the message or row that caused it, if known, cut to `KEPT_BYTES`
    pub message: Option<String>,
}

impl Failure {
    /// An error at the current time.
    pub fn new(text: String, message: Option<&str>) -> Arc<Failure> {
        Arc::new(Failure {
            time: SystemTime::now(),
            text,
            message: message.map(|text| cut(text.to_owned(), KEPT_BYTES)),
        })
    }
}

/// Adds errors of a place; `recent` has the last ones. Returns their new number.
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

/// Adds an error to the recent ones, and drops the oldest if there are too many.
pub(super) fn keep<T>(recent: &mut VecDeque<T>, new: T) {
    if recent.len() == KEPT {
        recent.pop_front();
    }
    recent.push_back(new);
}

/// Cuts a text to this many bytes, and marks the cut.
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
