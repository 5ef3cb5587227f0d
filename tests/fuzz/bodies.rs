//! What must hold for any text: one body for the fuzz targets in `fuzz/` and for the test beside this file.

use plutino::codec::json::{self, Scanner, Wanted};
use plutino::sql::{mark, parse_create, parse_expr, parse_select, parse_statement};

/// No text makes the parser panic, and what it accepts means the same after printing.
pub fn sql(text: &str) {
    match parse_statement(text) {
        Ok(tree) => {
            let printed = tree.to_string();
            assert_eq!(parse_statement(&printed), Ok(tree), "{printed}");
        }
        Err(error) => {
            let _ = (error.to_string(), error.hint(), mark(text, error.span()));
        }
    }
    let _ = (parse_select(text), parse_create(text), parse_expr(text));
}

/// Reading JSON never panics, the scanner and the parser agree on what is valid, and what is written reads back.
pub fn json(text: &str) {
    let mut scanner = Scanner::new(Wanted::new(["a".into(), "b".into()]));
    for _ in 0..2 {
        let scanned = scanner.scan(text, |object, spans| {
            json::parse(&text[object]).expect("objects of a scanned message are valid");
            for span in (0..2).filter_map(|column| spans.span(column)) {
                json::parse(&text[span]).expect("values of a scanned message are valid");
            }
        });
        if scanned.is_ok() {
            json::parse(text).expect("a scanned message is valid");
        }
    }
    if let Ok(value) = json::parse(text) {
        let mut written = Vec::new();
        json::write_value(&mut written, &value).expect("JSON has no NaN");
        let again =
            json::parse(std::str::from_utf8(&written).expect("JSON is UTF-8")).expect("what is written is valid");
        let mut twice = Vec::new();
        json::write_value(&mut twice, &again).expect("JSON has no NaN");
        assert_eq!(written, twice);
    }
}
