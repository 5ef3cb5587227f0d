//! The shapes of an object's members side by side, so that a message like those before is compared as a whole.
//!
//! Comparing each member with its own shape costs some steps before and after the comparison, more than the comparison
//! itself. Side by side, all members up to the first that differs are one comparison. The members after it are compared
//! from where they then are in the text.
//!
//! Shapes are side by side in *chains*: the members that followed each other in a recent message. This module does not
//! know when a layout is out of date.

use super::shape::{Bounds, Shape};

/// Stands for a member that a layout does not have.
pub(super) const NOWHERE: u32 = u32::MAX;

/// The most bytes of a layout. Its memory is four times as much.
const MOST_BYTES: usize = 4096;

/// What stands before the first chain, so that a block can always be loaded.
const FRONT: usize = 32;

#[derive(Clone, Debug, Default)]
pub(super) struct Layout {
    bounds: Bounds,
    members: Vec<Member>,
    /// the first member that is not known to fit, if the byte at this place is the first that does not
    broken: Vec<u16>,
    columns: Vec<Column>,
    /// how often each chain was compared from its start
    runs: Vec<u64>,
}

#[derive(Clone, Debug)]
struct Member {
    /// what its user calls it
    name: u32,
    /// the place of the comma or brace before it
    start: u32,
    /// the place of the comma or brace after it, which the next member of the chain begins with
    end: u32,
    /// the place after its chain
    stop: u32,
    /// the number of members up to the end of its chain
    reach: u32,
    /// the number of `columns` before it
    columns: u32,
    chain: u32,
    /// whether it is the first of its chain
    first: bool,
    /// whether a brace follows it
    ends: bool,
}

/// A member whose value has a column.
#[derive(Clone, Debug)]
struct Column {
    member: u32,
    column: u32,
    /// the place of its value
    value: u32,
    end: u32,
}

/// The members that fit.
pub(super) struct Run {
    /// the number of the member that does not fit; [`NOWHERE`] if the whole chain does
    pub(super) broken: u32,
    /// the name of the last one that fits
    pub(super) last: u32,
    /// the position of the comma or brace after it
    pub(super) end: usize,
    /// whether that is a brace
    pub(super) ends: bool,
}

/// A member of a layout that is being made.
pub(super) struct Part<'a> {
    pub(super) name: u32,
    pub(super) shape: &'a Shape,
    /// the bytes before its value
    pub(super) lead: u32,
    /// the number of its column, if it is wanted
    pub(super) column: Option<u32>,
}

impl Layout {
    /// Takes everything out.
    pub(super) fn clear(&mut self) {
        self.bounds.least.clear();
        self.bounds.least.resize(FRONT, 0);
        self.bounds.greatest.clear();
        self.bounds.greatest.resize(FRONT, u8::MAX);
        self.broken.clear();
        self.broken.resize(FRONT, 0);
        self.members.clear();
        self.columns.clear();
        self.runs.clear();
    }

    /// Adds a member to the last chain, or to a new one if `first`. Returns its number; `None`: there is no room.
    pub(super) fn push(&mut self, first: bool, part: &Part<'_>) -> Option<u32> {
        let follows = self.members.last().filter(|before| !first && !before.ends);
        let first = follows.is_none();
        let start = self.bounds.least.len() - usize::from(!first);
        let end = start + part.shape.length() - 1;
        let number = u16::try_from(self.members.len()).ok()?;
        if end >= MOST_BYTES {
            return None;
        }
        if first {
            self.broken.push(number);
            self.runs.push(0);
        } else {
            // The comma between two members belongs to both.
            self.bounds.least.truncate(start);
            self.bounds.greatest.truncate(start);
        }
        part.shape.append_to(&mut self.bounds);
        self.broken.resize(end + 1, number);
        let member = Member {
            name: part.name,
            start: start as u32,
            end: end as u32,
            stop: 0,
            reach: 0,
            columns: self.columns.len() as u32,
            chain: self.runs.len() as u32 - 1,
            first,
            ends: part.shape.ends,
        };
        self.members.push(member);
        if let Some(column) = part.column {
            let value = start as u32 + part.lead;
            self.columns.push(Column { member: number.into(), column, value, end: end as u32 });
        }
        Some(number.into())
    }

    /// Ends the last chain; called once after its members were added.
    pub(super) fn end_chain(&mut self) {
        let (stop, reach) = (self.bounds.least.len() as u32, self.members.len() as u32);
        for member in self.members.iter_mut().rev().take_while(|member| member.stop == 0) {
            (member.stop, member.reach) = (stop, reach);
        }
    }

    /// How often the chain of a member was compared from its start.
    pub(super) fn runs(&self, member: u32) -> u64 {
        self.members.get(member as usize).and_then(|member| self.runs.get(member.chain as usize)).copied().unwrap_or(0)
    }

    /// Compares the text from `at` on with the members from `from` on, and sets the places of their columns. `None`: the
    /// first one does not fit.
    #[inline(always)]
    pub(super) fn run(&mut self, from: u32, text: &[u8], at: usize, places: &mut [(u32, u32)]) -> Option<Run> {
        let member = self.members.get(from as usize)?;
        if member.first
            && let Some(runs) = self.runs.get_mut(member.chain as usize)
        {
            *runs += 1;
        }
        let (start, length) = (member.start as usize, (member.stop - member.start) as usize);
        let fitting = self.bounds.fitting(start, length, text, at);
        let (reached, broken) = match self.broken.get(start + fitting) {
            Some(broken) if fitting < length => ((*broken).into(), (*broken).into()),
            _ => (member.reach, NOWHERE),
        };
        if reached <= from {
            return None;
        }
        let last = self.members.get(reached as usize - 1)?;
        // Places are below 4 GiB, as in all texts.
        let shift = (at as u32).wrapping_sub(member.start);
        for column in self.columns.iter().skip(member.columns as usize) {
            if column.member >= reached {
                break;
            }
            if let Some(place) = places.get_mut(column.column as usize) {
                *place = (column.value.wrapping_add(shift), column.end.wrapping_add(shift));
            }
        }
        Some(Run { broken, last: last.name, end: at + (last.end - member.start) as usize, ends: last.ends })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_fit_up_to_the_first_that_differs() {
        let members = [("{\"a\":", "1.5"), (",\"b\":", "\"x1\""), (",\"c\":", "[7,true]")];
        let mut layout = Layout::default();
        layout.clear();
        for (number, (lead, value)) in (0..).zip(members) {
            let shape = Shape::of(lead.as_bytes(), value.as_bytes(), if number == 2 { b'}' } else { b',' }).unwrap();
            let part = Part { name: 10 + number, shape: &shape, lead: lead.len() as u32, column: Some(2 - number) };
            assert_eq!(layout.push(number == 0, &part), Some(number));
        }
        layout.end_chain();
        let mut run = |from, text: &'static str, at| {
            let mut places = [(0, 0); 3];
            let run = layout.run(from, text.as_bytes(), at, &mut places);
            let found = places.map(|(start, end)| text[start as usize..end as usize].to_owned());
            run.map(|run| (run.broken, run.last, &text[run.end..], run.ends, found))
        };
        let found = |found: [&str; 3]| found.map(str::to_owned);
        let text = r#"{"a":2.5,"b":"x2","c":[8,true]} "#;
        assert_eq!(run(0, text, 0), Some((NOWHERE, 12, "} ", true, found(["[8,true]", "\"x2\"", "2.5"]))));
        assert_eq!(run(1, text, 8), Some((NOWHERE, 12, "} ", true, found(["[8,true]", "\"x2\"", ""]))));
        assert_eq!(run(1, text, 0).map(|run| run.0), None);
        // The places of differences: a value, the comma after one, a key, the brace at the end.
        for (text, broken, rest) in [
            (r#"{"a":2.5,"b":"x"2,"c":[8,true]} "#, 1, r#","b":"x"2,"c":[8,true]} "#),
            (r#"{"a":2.5,"b":"x2" ,"c":[8,true]} "#, 1, r#","b":"x2" ,"c":[8,true]} "#),
            (r#"{"a":2.5,"b":"x2","d":[8,true]} "#, 2, r#","d":[8,true]} "#),
            (r#"{"a":2.5,"b":"x2","c":[8,true],   "#, 2, r#","c":[8,true],   "#),
            (r#"{"a":2.5,"b":"x2","c":[8,true]"#, 2, r#","c":[8,true]"#),
        ] {
            let found = run(0, text, 0).map(|run| (run.0, run.2));
            assert_eq!(found, Some((broken, rest)), "{text}");
        }
        assert_eq!(run(0, r#"{"a":22.5,"b":"x2","c":[8,true]}"#, 0).map(|run| run.0), None);
    }
}
