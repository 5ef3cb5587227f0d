//! No text makes the parser panic, and what it accepts means the same after printing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plutino::sql::{mark, parse_create, parse_expr, parse_select, parse_statement};

fuzz_target!(|text: &str| {
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
});
