use super::*;

#[test]
fn a_long_comment_is_no_mistake() {
    let text = format!("a:\n{}b: 1\n", "  # x: 1\n".repeat(500));
    let document = Document::parse("f.yaml", text).expect("it is YAML");
    assert_eq!(document.root.members().len(), 2);
}

fn place_of(document: &str, word: &str) -> (Place, Place) {
    let document = Document::parse("test", document.to_owned()).unwrap();
    let node = &document.root.member("sql").unwrap().node;
    let offset = node.text().unwrap().find(word).unwrap();
    let start = document.text.find(word).unwrap();
    let (line, column) = span::line_column(&document.text, start);
    (document.place_in(node, offset), Place { line: line as u64, column: column as u64, offset: start })
}

#[test]
fn places_in_texts_of_every_notation() {
    for document in [
        "{\"sql\": \"SELECT \\\"ä\\\" FORM demo\"}",
        "{\"a\": 1,\n  \"sql\": \"SELECT \\n\\t\\u00e4, \\ud83d\\ude00 FORM demo\"}",
        "{\n\t\"sql\":\t\"SELECT \\/ FORM demo\"\n}",
        "sql: SELECT a FORM demo",
        "# a comment\nsql: SELECT a,\n  b\n\n  FORM demo\n",
        "sql: |\n  SELECT a\n    -- why\n\n  FORM demo\n",
        "sql: >-\n  SELECT a,\n  b FORM demo\n",
        "sql: 'SELECT ''x'' FORM demo'",
        "sql: \"SELECT \\\n   a FORM demo\"",
    ] {
        let (found, expected) = place_of(document, "FORM");
        assert_eq!(found, expected, "{document}");
    }
}

#[test]
fn places_in_nested_documents_are_those_of_the_file() {
    let text = "{\"rules\": {\"r1\":\n  \"{\\\"id\\\": 1,\\n \\\"sql\\\": \\\"SELECT FORM\\\"}\"}}";
    let document = Arc::new(Document::parse("test", text.to_owned()).unwrap());
    let rule = &document.root.member("rules").unwrap().node.member("r1").unwrap().node;
    let nested = document.nested(rule).unwrap();
    let sql = &nested.root.member("sql").unwrap().node;
    let (line, column) = span::line_column(text, text.find("FORM").unwrap());
    let place = nested.place_in(sql, 7);
    assert_eq!((place.line, place.column), (line as u64, column as u64));
    let problem = nested.sql_error(sql, "rule r1", "wrong", Some(Span { start: 7, end: 11 }), None);
    assert_eq!(
        problem.to_string(),
        format!("test:{line}:{column}: error: rule r1: wrong\n    1:8 | SELECT FORM\n        |        ^^^^")
    );
}

#[test]
fn values_keep_their_types() {
    let text = r#"{"a": 1, "b": "1", "c": 1.5, "d": true, "e": null, "f": [1, {"g": "x"}], "h": "true", "i": yes, "j": "null", "k": 9223372036854775807}"#;
    let document = Document::parse("test", text.to_owned()).unwrap();
    let expected = text.replace("yes", "\"yes\"");
    assert_eq!(document.root.json(), serde_json::from_str::<Json>(&expected).unwrap());
}

#[test]
fn what_is_no_document_is_told_with_its_place() {
    let problem = Document::parse("x.json", "{\"a\": 1,\n \"b\" 2}".to_owned()).unwrap_err();
    assert!(problem.to_string().starts_with("x.json:2:"), "{problem}");
    let problem = Document::parse("x.yaml", "a: 1\na: 2\n".to_owned()).unwrap_err();
    assert!(problem.to_string().starts_with("x.yaml:2:1"), "{problem}");
    assert!(Document::parse("empty", "# nothing\n".to_owned()).unwrap().root.is_null());
}

#[test]
fn deep_documents_are_refused() {
    let deep = "[".repeat(100_000);
    assert!(Document::parse("deep", deep).is_err());
}
