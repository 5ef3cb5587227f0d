use super::*;
use crate::sql::parse_create;

fn create(catalog: &mut Catalog, sql: &str) -> Result<Arc<StreamDef>, String> {
    let create = parse_create(sql).map_err(|error| error.to_string())?;
    catalog.create(&create).map_err(|errors| {
        let texts = errors.iter().map(|error| {
            let marked = &sql[error.span.start as usize..error.span.end as usize];
            format!("{error} @ {marked}")
        });
        texts.collect::<Vec<_>>().join("; ")
    })
}

#[test]
fn options_become_a_definition() {
    let mut catalog = Catalog::default();
    let sql = "CREATE STREAM demo (a BIGINT DEFAULT -1) WITH (DATASOURCE=\"/x\", DATASOURCE=\"/d\", FORMAT=\"JSON\", \
               TYPE=\"websocket\", TIMESTAMP=\"ts\", STRICT_VALIDATION=\"TRUE\", EXTRA=\"{\\\"k\\\": 1}\")";
    let stream = create(&mut catalog, sql).expect("the statement is correct");
    assert_eq!((stream.datasource.as_str(), stream.source.as_str()), ("/d", "websocket"));
    let timestamp = stream.timestamp.as_ref().map(ToString::to_string);
    assert_eq!((timestamp.as_deref(), stream.strict, stream.shared), (Some("ts"), true, false));
    assert_eq!(stream.extra["k"], 1);
    assert_eq!(catalog.stream("demo"), Some(&stream));
    assert_eq!(catalog.streams().count(), 1);
    let schemaless = create(&mut catalog, "CREATE STREAM other () WITH (DATASOURCE=\"/d\")").expect("correct");
    assert_eq!((&schemaless.columns, &schemaless.format), (&None, &Format::Json));
}

#[test]
fn options_for_the_shapes_of_feeds() {
    let mut catalog = Catalog::default();
    let sql = "CREATE STREAM a () WITH (DATASOURCE=\"/a\", JSON_ARRAY=\"ROW\", ON_MISMATCH=\"skip\", \
               FRAMING=\"lines\", TIMESTAMP=\"self[3]\", TIMESTAMP_FORMAT=\"epoch_us\")";
    let stream = create(&mut catalog, sql).expect("the statement is correct");
    assert_eq!(
        (stream.json_array, stream.on_mismatch, stream.framing),
        (JsonArray::Row, OnMismatch::Skip, Framing::Lines)
    );
    assert_eq!(stream.timestamp.as_ref().map(ToString::to_string).as_deref(), Some("self[3]"));
    let plain = create(&mut catalog, "CREATE STREAM b () WITH (JSON_ARRAY=\"rows\")").expect("correct");
    assert_eq!(
        (plain.json_array, plain.on_mismatch, plain.framing),
        (JsonArray::Rows, OnMismatch::Error, Framing::Message)
    );
}

#[test]
fn tables_have_a_kind_and_share_the_names() {
    let mut catalog = Catalog::default();
    for (name, options, kind) in [
        ("a", "TYPE=\"websocket\"", RelationKind::ScanTable { retain: Some(1) }),
        ("b", "TYPE=\"websocket\", KIND=\"SCAN\", RETAIN_SIZE=\"5\"", RelationKind::ScanTable { retain: Some(5) }),
        ("c", "TYPE=\"file\", RETAIN_SIZE=\"0\"", RelationKind::ScanTable { retain: Some(1) }),
        ("d", "TYPE=\"file\"", RelationKind::ScanTable { retain: None }),
        ("e", "TYPE=\"file\", KIND=\"lookup\"", RelationKind::LookupTable),
        ("f", "TYPE=\"memory\", KIND=\"Lookup\", KEY=\"id\"", RelationKind::LookupTable),
    ] {
        let table = create(&mut catalog, &format!("CREATE TABLE {name} () WITH (DATASOURCE=\"x\", {options})"))
            .expect("the statement is correct");
        assert_eq!(table.kind, kind, "{options}");
        assert_eq!((catalog.table(name), catalog.stream(name)), (Some(&table), None));
    }
    assert_eq!(catalog.table("f").and_then(|table| table.key.as_deref()), Some("id"));
    assert_eq!((catalog.streams().count(), catalog.tables().count()), (0, 6));
    let error = create(&mut catalog, "CREATE STREAM a () WITH (DATASOURCE=\"/d\")").err();
    assert_eq!(error.as_deref(), Some("Create stream fails: Item a already exists. @ a"));
    assert!(catalog.remove("a").is_some());
    assert!(create(&mut catalog, "CREATE STREAM a () WITH (DATASOURCE=\"/d\")").is_ok());
}

#[test]
fn refusals() {
    let mut catalog = Catalog::default();
    create(&mut catalog, "CREATE STREAM demo () WITH (DATASOURCE=\"/d\")").expect("correct");
    for (rest, message) in [
        ("STREAM demo () WITH (DATASOURCE=\"/d\")", "Create stream fails: Item demo already exists. @ demo"),
        ("STREAM x () WITH (FORMAT=\"toml\")", "option 'format=toml' is invalid @ \"toml\""),
        (
            "STREAM x (a BIGINT) WITH (FORMAT=\"binary\")",
            "'binary' format stream can have only 'bytea' type field @ \"binary\"",
        ),
        ("STREAM x () WITH (TIMESTAMP=\"a->\")", "option 'timestamp=a->' is invalid @ \"a->\""),
        ("STREAM x () WITH (JSON_ARRAY=\"list\")", "option 'json_array=list' is invalid @ \"list\""),
        (
            "STREAM x () WITH (FORMAT=\"binary\", JSON_ARRAY=\"row\")",
            "JSON_ARRAY=\"row\" needs FORMAT=\"json\" @ \"row\"",
        ),
        ("STREAM x () WITH (EXTRA=\"{oops\")", "invalid extra option, expect JSON string @ \"{oops\""),
        (
            "STREAM x () WITH (EXTRA=\"{\\\"decompression\\\": \\\"rar\\\"}\")",
            "option 'decompression=rar' is invalid @ \"{\\\"decompression\\\": \\\"rar\\\"}\"",
        ),
        ("STREAM x () WITH (EXTRA=\"[1]\")", "invalid extra option, expect JSON string @ \"[1]\""),
        ("STREAM x (a BIGINT DEFAULT \"x\") WITH (DATASOURCE=\"/d\")", "cannot convert string(x) to int64 @ a"),
        ("TABLE demo () WITH (DATASOURCE=\"/d\")", "Create table fails: Item demo already exists. @ demo"),
        (
            "TABLE x () WITH (TYPE=\"memory\", KIND=\"lookup\")",
            "Option \"key\" is required for memory lookup table. @ \"lookup\"",
        ),
        (
            "TABLE x () WITH (TYPE=\"websocket\", KIND=\"lookup\")",
            "lookup source type websocket not found. @ \"websocket\"",
        ),
        ("TABLE x () WITH (TYPE=\"memory\", KIND=\"index\")", "option 'kind=index' is invalid @ \"index\""),
        (
            "STREAM demo (a BIGINT DEFAULT true) WITH (FORMAT=\"toml\", EXTRA=\"5\")",
            "Create stream fails: Item demo already exists. @ demo; cannot convert bool(true) to int64 @ a; invalid \
             extra option, expect JSON string @ \"5\"; option 'format=toml' is invalid @ \"toml\"",
        ),
    ] {
        assert_eq!(create(&mut catalog, &format!("CREATE {rest}")).err().as_deref(), Some(message), "{rest}");
    }
    assert_eq!(catalog.streams().count(), 1);
}
