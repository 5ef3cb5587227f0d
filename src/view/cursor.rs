//! Cursors: `EPOCH.SEQUENCE`.
//!
//! The epoch begins with the name of the run, so that a cursor of an earlier run can be distinguished from one of
//! another view, parameters, claims or definition.

use std::hash::{BuildHasher, Hash};

use super::Sequence;
use super::frame::GapReason;
use crate::value::Text;

/// The number of characters that name the run.
const RUN: usize = 6;

/// Makes a random name for a run.
pub fn new_run() -> Text {
    let mut run = Text::default();
    for _ in 0..RUN {
        run.push(fastrand::alphanumeric().to_ascii_lowercase());
    }
    run
}

/// The epoch for these values in a run.
pub fn epoch(run: &str, of: &impl Hash) -> Text {
    // Fixed keys, so that the same subscription has the same epoch for all clients.
    let mut hash = foldhash::quality::FixedState::with_seed(0x70_6c_75).hash_one(of);
    let mut epoch = Text::from(run);
    for _ in 0..8 {
        let digit = (hash % 36) as u32;
        epoch.push(char::from_digit(digit, 36).unwrap_or('0'));
        hash /= 36;
    }
    epoch
}

pub fn cursor(epoch: &str, sequence: Sequence) -> Text {
    let mut text = Text::from(epoch);
    text.push('.');
    text.push_str(itoa::Buffer::new().format(sequence));
    text
}

/// The sequence number of a cursor of this epoch, or why it is not one.
pub fn resume(cursor: &str, epoch: &str) -> Result<Sequence, GapReason> {
    let (of, sequence) = cursor.rsplit_once('.').ok_or(GapReason::Restart)?;
    let sequence: Sequence = sequence.parse().map_err(|_| GapReason::Restart)?;
    if of == epoch {
        Ok(sequence)
    } else if of.len() == epoch.len() && of.get(..RUN) == epoch.get(..RUN) {
        Err(GapReason::Changed)
    } else {
        Err(GapReason::Restart)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_tells_why_it_does_not_resume() {
        let run = new_run();
        let (mine, other) = (epoch(&run, &"a"), epoch(&run, &"b"));
        let earlier = epoch("zzzzzz", &"a");
        assert_eq!(resume(&cursor(&mine, 12), &mine), Ok(12));
        assert_eq!(resume(&cursor(&other, 12), &mine), Err(GapReason::Changed));
        assert_eq!(resume(&cursor(&earlier, 12), &mine), Err(GapReason::Restart));
        for unreadable in
            ["", "12", ".", "a.b", "a.-1", &format!("{mine}."), &format!("{mine}.99999999999999999999999")]
        {
            assert_eq!(resume(unreadable, &mine), Err(GapReason::Restart), "{unreadable:?}");
        }
    }
}
