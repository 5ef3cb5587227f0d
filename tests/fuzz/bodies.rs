//! Properties that hold for any text: one body for the fuzz targets in `fuzz/` and for the test in this folder.

use std::sync::Arc;

use plutino::format::json::{self, Scanner, Wanted};
use plutino::format::template::Template;
use plutino::format::{delimited, urlencoded};
use plutino::sql::{parse_create, parse_expr, parse_select, parse_statement};
use plutino::text::span::mark;
use plutino::value::Value;
use plutino::value::key::GroupKey;
use plutino::view::{Column, ColumnType, Description, Identity, Mailbox, PartColumn, Session, Views};

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

/// No text makes the parser of templates panic, nor a parsed template when it runs; errors have a line of the text.
pub fn template(text: &str) {
    let data = r#"{"a": 7, "f": 2.5, "s": "x\"é", "l": [1, "b", null, {"a": 1}], "o": {"b": {"c": true}}, "n": null}"#;
    let dot = json::parse(data).expect("the data is JSON");
    match Template::new(text) {
        Ok(template) => drop(template.run(&dot)),
        Err(error) => assert!(error.line >= 1 && error.line <= text.matches('\n').count() + 1, "{error}"),
    }
}

/// No text of a client ends its session except one that is too long; each response is JSON, and the view continues.
pub fn live(text: &str) {
    let views = Arc::new(Views::default());
    let column = |name: &str, ty| Column { name: name.into(), ty };
    let part = |name: &str, ty, in_key| PartColumn { name: name.into(), ty, in_key, is_param: true, claim: None };
    let view = views.create(Description {
        name: "v".into(),
        path: "/live/v".to_owned(),
        key: vec!["a".into()],
        columns: vec![column("a", ColumnType::Bigint), column("b", ColumnType::Any)],
        parts: vec![part("a", ColumnType::Bigint, Some(0)), part("b", ColumnType::Any, None)],
        retain: 1_000,
        max_rows: 10,
        ..Description::default()
    });
    let mailbox = Arc::new(Mailbox::new("client".to_owned()));
    let mut session = Session::new(views.clone(), mailbox, Identity::default(), 0);
    session.receive(text, 0);
    session.subscribe_url("v", text, None, 0);
    session.check_query(text);
    let key = GroupKey::from_values([&Value::Int(1)]);
    {
        let mut view = view.lock().expect("nothing panics under the lock");
        view.put(&key, br#"{"a":1,"b":"x"}"#.as_slice().into(), [Some("1".into()), Some("x".into())].into());
        view.cut(1, 1);
    }
    for _ in 0..100 {
        let Some(frame) = session.next(1) else { break };
        serde_json::from_slice::<serde_json::Value>(&frame.json).expect("a frame is JSON");
    }
    assert!(session.over().is_none() || text.len() > 64 * 1024, "{text}");
    drop(session);
    assert_eq!(view.lock().expect("nothing panics under the lock").status().subscriptions, 0);
}

/// No text makes the readers of delimited text and of forms panic, and a form that is written reads back.
pub fn formats(text: &str) {
    let create =
        parse_create("CREATE STREAM s (a BIGINT, b FLOAT, c DATETIME, d ARRAY(BIGINT), e BYTEA) WITH (TYPE=\"x\")");
    let columns = create.expect("the statement is right").columns;
    for columns in [None, Some(columns.as_slice())] {
        delimited::decode(text, ",", columns);
        delimited::decode_lines(text, "||", columns);
    }
    let Ok(row) = urlencoded::decode(text) else { return };
    let pairs: Vec<(&str, &str)> =
        row.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_text()?))).collect();
    let written = urlencoded::encode(pairs.iter().copied());
    let again = urlencoded::decode(&written).expect("what is written is a form");
    let again: Vec<(&str, &str)> =
        again.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_text()?))).collect();
    assert_eq!(pairs, again);
}
