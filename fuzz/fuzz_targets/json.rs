//! Reading JSON never panics, the scanner and the parser agree on what is valid, and what is written reads back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plutino::codec::json::{self, Scanner, Wanted};

fuzz_target!(|text: &str| {
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
        let again = json::parse(std::str::from_utf8(&written).expect("JSON is UTF-8")).expect("what is written is valid");
        let mut twice = Vec::new();
        json::write_value(&mut twice, &again).expect("JSON has no NaN");
        assert_eq!(written, twice);
    }
});
