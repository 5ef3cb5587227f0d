//! A block of lines at the bottom of a terminal that is replaced in place, cut to the size of the terminal: lines that
//! have scrolled away could not be replaced.

use std::os::fd::AsFd;

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub rows: usize,
    pub columns: usize,
}

impl Size {
    /// The size of the terminal that a stream writes to; that of an unknown terminal is 24 × 80.
    pub fn of(stream: impl AsFd) -> Size {
        let known = rustix::termios::tcgetwinsize(stream).ok().filter(|size| size.ws_row > 0 && size.ws_col > 0);
        known.map_or(Size { rows: 24, columns: 80 }, |size| Size {
            rows: size.ws_row.into(),
            columns: size.ws_col.into(),
        })
    }

    /// How many lines a block can have. The cursor is in the line below it.
    pub fn lines(self) -> usize {
        self.rows.saturating_sub(1).max(1)
    }
}

/// The block on the terminal.
#[derive(Default)]
pub struct Block {
    /// the number of its lines
    drawn: usize,
}

impl Block {
    /// The text that replaces the block by these lines.
    pub fn redraw(&mut self, lines: &[String], size: Size) -> String {
        let mut text = self.erase();
        // A line that the terminal wraps would count as two when the block is replaced.
        text.push_str("\x1b[?7l");
        let shown = fitted(lines, size);
        self.drawn = shown.len();
        for line in shown {
            text.push_str(&line);
            text.push('\n');
        }
        text.push_str("\x1b[?7h");
        text
    }

    /// Somebody has typed a line below the block. It is part of the block, which is replaced.
    pub fn grow(&mut self) {
        self.drawn += usize::from(self.drawn > 0);
    }

    /// The control sequence that removes the block.
    fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }
}

/// The first lines that fit, with the number of the others in the last one, each as wide as the terminal at most.
fn fitted(lines: &[String], size: Size) -> Vec<String> {
    let room = size.lines();
    let kept = if lines.len() > room { room.saturating_sub(1) } else { lines.len() };
    let mut shown: Vec<String> = lines.iter().take(kept).map(|line| cut(line, size.columns)).collect();
    if kept < lines.len() {
        shown.push(cut(&format!("… and {} lines more", lines.len() - kept), size.columns));
    }
    shown
}

/// A text of at most `most` characters, with `…` at the end if it was longer.
pub fn cut(text: &str, most: usize) -> String {
    match (text.char_indices().nth(most), most.checked_sub(1).and_then(|last| text.char_indices().nth(last))) {
        (Some(_), Some((last, _))) => format!("{}…", &text[..last]),
        (Some(_), None) => String::new(),
        (None, _) => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_replaces_the_one_before() {
        let mut block = Block::default();
        let size = Size { rows: 24, columns: 80 };
        let drawn = |text: &str| format!("\x1b[?7l{text}\x1b[?7h");
        assert_eq!(block.redraw(&["one".to_owned(), "two".to_owned()], size), drawn("one\ntwo\n"));
        assert_eq!(block.redraw(&["three".to_owned()], size), format!("\x1b[2A\x1b[J{}", drawn("three\n")));
        block.grow();
        assert_eq!(block.redraw(&[], size), format!("\x1b[2A\x1b[J{}", drawn("")));
        block.grow();
        assert_eq!(block.redraw(&[], size), drawn(""));
    }

    #[test]
    fn a_block_fits_the_terminal() {
        let lines: Vec<String> = (0..9).map(|line| format!("line {line}")).collect();
        let shown = |rows, columns| fitted(&lines, Size { rows, columns });
        assert_eq!(shown(10, 80), lines);
        assert_eq!(shown(4, 80), ["line 0", "line 1", "… and 7 lines more"]);
        assert_eq!(shown(4, 5), ["line…", "line…", "… an…"]);
        assert_eq!(shown(1, 80), ["… and 9 lines more"]);
        // The window may change while it is drawn.
        let mut block = Block::default();
        block.redraw(&lines, Size { rows: 4, columns: 80 });
        assert_eq!(block.drawn, 3);
    }

    #[test]
    fn texts_are_cut_between_characters() {
        for (text, most, shown) in
            [("wärme", 5, "wärme"), ("wärme", 3, "wä…"), ("wärme", 1, "…"), ("a", 0, ""), ("", 0, "")]
        {
            assert_eq!(cut(text, most), shown);
        }
    }
}
