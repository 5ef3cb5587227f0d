//! A message that is a JSON array as one row: its elements are the columns, by position.
//!
//! Like [`Scanner`](super::Scanner), it validates the whole message in one pass and records where the wanted values
//! are, without decoding them.

use std::ops::Range;

use super::scan::{Spans, only_blanks};
use super::skip::{self, blanks, byte};
use super::{JsonError, Problem};

/// Which part of the array is a column's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArrayPart {
    /// the element at this position
    Element(usize),
    /// the array itself
    Whole,
    /// nothing: the column is absent in every message
    Nothing,
}

/// Finds the wanted elements of arrays.
#[derive(Clone, Debug)]
pub struct RowScanner {
    /// the wanted elements: position, then column
    elements: Vec<(usize, usize)>,
    /// the wanted columns that are the whole array
    wholes: Vec<usize>,
    spans: Spans,
}

impl RowScanner {
    /// A scanner for these columns.
    pub fn new(parts: impl IntoIterator<Item = ArrayPart>) -> RowScanner {
        let (mut elements, mut wholes, mut count) = (Vec::new(), Vec::new(), 0);
        for (column, part) in parts.into_iter().enumerate() {
            count = column + 1;
            match part {
                ArrayPart::Element(position) => elements.push((position, column)),
                ArrayPart::Whole => wholes.push(column),
                ArrayPart::Nothing => {}
            }
        }
        elements.sort_unstable();
        RowScanner { elements, wholes, spans: Spans::absent(count) }
    }

    /// Validates the message, and returns the position of its array and those of the wanted columns.
    ///
    /// # Errors
    /// [`Problem::NotArray`] for a message of another shape; anything else that is wrong with the text.
    pub fn scan(&mut self, text: &str) -> Result<(Range<usize>, &Spans), JsonError> {
        let text = text.as_bytes();
        if u32::try_from(text.len()).is_err() {
            return Err(JsonError::new(0, Problem::TooLong));
        }
        let start = blanks(text, 0);
        if byte(text, start) != b'[' {
            return Err(JsonError::new(start, Problem::NotArray));
        }
        self.spans.clear();
        let mut wanted = self.elements.iter().copied().peekable();
        let mut at = blanks(text, start + 1);
        let mut position = 0;
        if byte(text, at) != b']' {
            loop {
                let end = skip::value(text, at, 1)?;
                while let Some((_, column)) = wanted.next_if(|(wanted, _)| *wanted == position) {
                    self.spans.set(column, at..end);
                }
                position += 1;
                at = blanks(text, end);
                match byte(text, at) {
                    b',' => at = blanks(text, at + 1),
                    b']' => break,
                    _ => return Err(JsonError::new(at, Problem::CommaOrBracket)),
                }
            }
        }
        let end = at + 1;
        only_blanks(text, end)?;
        for column in &self.wholes {
            self.spans.set(*column, start..end);
        }
        Ok((start..end, &self.spans))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(parts: &[ArrayPart], text: &str) -> Result<Vec<Option<String>>, Problem> {
        let mut scanner = RowScanner::new(parts.iter().copied());
        // Twice: nothing of one message shows in the next.
        for _ in 0..2 {
            scanner.scan(r#"[0, "x", {"y": [1]}, null]"#).expect("a valid array");
        }
        let (_, spans) = scanner.scan(text).map_err(|error| error.problem)?;
        Ok((0..parts.len()).map(|column| spans.span(column).map(|span| text[span].to_owned())).collect())
    }

    #[test]
    fn elements_are_columns_by_position() {
        use ArrayPart::{Element, Nothing, Whole};
        let parts = [Element(2), Whole, Element(0), Nothing, Element(2)];
        let some = |text: &str| Some(text.to_owned());
        let whole = r#"[ 17 ,"hb",[1,{"a":2}] ]"#;
        let text = format!(" {whole} ");
        let list = some(r#"[1,{"a":2}]"#);
        assert_eq!(found(&parts, &text), Ok(vec![list.clone(), some(whole), some("17"), None, list]));
        assert_eq!(found(&parts, "[ ]"), Ok(vec![None, some("[ ]"), None, None, None]));
        assert_eq!(found(&parts, "[1]"), Ok(vec![None, some("[1]"), some("1"), None, None]));
    }

    #[test]
    fn what_is_no_array_is_refused() {
        for (text, problem) in [
            (r#"{"event":"info"}"#, Problem::NotArray),
            ("pong", Problem::NotArray),
            ("", Problem::NotArray),
            ("[1 2]", Problem::CommaOrBracket),
            ("[1] 2", Problem::Trailing),
        ] {
            assert_eq!(found(&[], text), Err(problem), "{text}");
        }
        assert!(found(&[], "[1,").is_err());
        assert!(found(&[], "[,]").is_err());
    }
}
