//! Places in a text, and excerpts that show them.

/// A range in a statement: byte offsets, end exclusive.
#[derive(Clone, Copy, Debug, Default, Eq)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

/// Spans are ignored when trees are compared.
impl PartialEq for Span {
    fn eq(&self, _: &Span) -> bool {
        true
    }
}

impl Span {
    /// The span from the start of this one to the end of another.
    pub fn to(self, end: Span) -> Span {
        Span { start: self.start, end: end.end }
    }
}

/// Line and column of a byte offset, both from 1; columns count characters. An offset inside a character counts as that
/// character, an offset past the end as the end.
pub fn line_column(text: &str, offset: usize) -> (usize, usize) {
    let offset = boundary(text, offset);
    let line_start = text[..offset].rfind('\n').map_or(0, |at| at + 1);
    (1 + text[..offset].matches('\n').count(), 1 + text[line_start..offset].chars().count())
}

/// The line on which a span begins, with its line and column, and carets under the span:
///
/// ```text
/// 1:10 | SELECT a FORM demo
///      |          ^^^^
/// ```
///
/// A long line is cut to the surroundings of the span. If the span continues on further lines, only its first line is
/// marked.
pub fn mark(text: &str, span: Span) -> String {
    /// Characters shown before and after the beginning of the span.
    const BEFORE: usize = 60;
    const AFTER: usize = 60;
    let start = boundary(text, span.start as usize);
    let (line, column) = line_column(text, start);
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let before: Vec<char> = text[line_start..start].chars().collect();
    let after: Vec<char> = text[start..line_end].trim_end_matches('\r').chars().collect();
    let end = boundary(text, (span.end as usize).clamp(start, line_end.max(start)));
    let marked = text[start..end].chars().count().clamp(1, AFTER);

    let (mut shown, mut carets) = (String::new(), String::new());
    if before.len() > BEFORE {
        shown.push('…');
        carets.push(' ');
    }
    for c in &before[before.len().saturating_sub(BEFORE)..] {
        shown.push(*c);
        // A tab under a tab keeps the carets below their place, however wide tabs are.
        carets.push(if *c == '\t' { '\t' } else { ' ' });
    }
    shown.extend(after.iter().take(AFTER));
    if after.len() > AFTER {
        shown.push('…');
    }
    carets.extend(std::iter::repeat_n('^', marked));
    let place = format!("{line}:{column}");
    format!("{place} | {shown}\n{:width$} | {carets}", "", width = place.len())
}

/// The offset, moved back to the start of its character, or to the end of the text.
fn boundary(text: &str, offset: usize) -> usize {
    let mut at = offset.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
