use super::batcher::MAX_GATHERED;
use super::*;
use crate::format::json;
use crate::value::{Row, Value, cast};

fn row(text: &str) -> Row {
    let Value::Object(members) = json::expand(&json::parse(text).unwrap()).into_owned() else { panic!("{text}") };
    members.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn messages_of(format: SinkFormat, rows: &[&str]) -> Vec<String> {
    let mut batcher = Batcher::new(Arc::new(format));
    let mut messages = Vec::new();
    let mut give = |made: Result<Made, FormatError>| {
        messages.push(match made {
            Ok(Made::Message(message)) => String::from_utf8(message).unwrap(),
            Ok(Made::Rows(rows)) => {
                let rows = rows.into_iter().map(|row| cast::text(&Value::object(row)).into_owned());
                format!("rows {}", rows.collect::<Vec<_>>().join(" "))
            }
            Ok(Made::For(to, message)) => format!("{} <- {}", to.join(" "), String::from_utf8(message).unwrap()),
            Err(error) => format!("error: {error}"),
        });
    };
    for text in rows {
        batcher.rows(vec![row(text)], 0, &mut give);
    }
    messages
}

fn template(text: &str) -> Option<(Text, Arc<Template>)> {
    Some((text.into(), Arc::new(Template::new(text).unwrap())))
}

#[test]
fn messages() {
    let single = || SinkFormat { send_single: true, ..SinkFormat::default() };
    let delimited = |header| OutputFormat::Delimited { delimiter: ",".into(), header };
    for (format, rows, expected) in [
        (
            SinkFormat { fields: vec!["b".into(), "z".into()], ..single() },
            &[r#"{"a":1,"b":2}"#][..],
            &[r#"{"b":2,"z":null}"#][..],
        ),
        (SinkFormat { excluded: vec!["a".into()], ..SinkFormat::lists() }, &[r#"{"a":1,"b":2}"#], &[r#"[{"b":2}]"#]),
        (SinkFormat { data_field: Some("o".into()), ..SinkFormat::lists() }, &[r#"{"o":{"x":1}}"#], &[r#"{"x":1}"#]),
        (
            SinkFormat { data_field: Some("q".into()), ..single() },
            &[r#"{"o":1}"#],
            &["error: dataField q is not in the result"],
        ),
        (SinkFormat { template: template("<{{.a}}>"), ..single() }, &[r#"{"a":1}"#], &["<1>"]),
        (SinkFormat { template: template("{{len .}}"), ..SinkFormat::lists() }, &[r#"{"a":1}"#], &["1"]),
        (
            SinkFormat { batch_size: 2, ..single() },
            &[r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":3}"#],
            &[r#"[{"a":1},{"a":2}]"#],
        ),
        (
            SinkFormat { batch_size: 2, template: template("{\"n\":{{.a}}}"), ..single() },
            &[r#"{"a":1}"#, r#"{"a":2}"#],
            &[r#"[{"n":1},{"n":2}]"#],
        ),
        (
            SinkFormat { batch_size: 2, template: template("n{{.a}}"), ..single() },
            &[r#"{"a":1}"#, r#"{"a":2}"#],
            &["n1\nn2"],
        ),
        (SinkFormat { format: delimited(true), ..single() }, &[r#"{"b":"x","a":1,"n":null}"#], &["a,b,n\n1,x,"]),
        // An error loses only its row; with sendSingle each row has its own dataField.
        (
            SinkFormat { batch_size: 2, template: template("{{.a.b}}"), ..single() },
            &[r#"{"a":1}"#, r#"{"a":{"b":2}}"#],
            &["error: template: sink:1: can't evaluate field b in int64", "[2]"],
        ),
        (
            SinkFormat { batch_size: 2, data_field: Some("o".into()), ..single() },
            &[r#"{"o":{"x":1}}"#, r#"{"o":{"x":2}}"#],
            &[r#"[{"x":1},{"x":2}]"#],
        ),
        (
            SinkFormat { batch_size: 2, template: template("1"), format: delimited(false), ..single() },
            &["{}", "{}"],
            &["1\n1"],
        ),
        (
            SinkFormat { data_field: Some("o".into()), ..single() },
            &[r#"{"o":1}"#],
            &["error: dataField o is neither an object nor a list of objects"],
        ),
        (
            SinkFormat { format: OutputFormat::Rows, fields: vec!["b".into()], ..single() },
            &[r#"{"a":1,"b":2}"#],
            &[r#"rows {"b":2}"#],
        ),
        (
            SinkFormat {
                format: OutputFormat::Rows,
                template: template(r#"[{"x":{{(index . 0).a}}},{}]"#),
                ..SinkFormat::lists()
            },
            &[r#"{"a":1}"#],
            &[r#"rows {"x":1} {}"#],
        ),
        (
            SinkFormat { format: OutputFormat::Rows, template: template("{{.a}}"), ..single() },
            &[r#"{"a":1}"#],
            &["error: the result cannot be written as rows"],
        ),
        (
            SinkFormat { format: OutputFormat::Rows, batch_size: 2, data_field: Some("o".into()), ..single() },
            &[r#"{"o":{"x":1}}"#, r#"{"o":{"x":2}}"#],
            &[r#"rows {"x":1}"#, r#"rows {"x":2}"#],
        ),
        (SinkFormat { format: OutputFormat::Binary, ..single() }, &[r#"{"self":"aGk="}"#], &["hi"]),
        (SinkFormat { format: OutputFormat::Binary, ..SinkFormat::lists() }, &[r#"{"x":"no base64"}"#], &["no base64"]),
        (
            SinkFormat { format: OutputFormat::Binary, ..single() },
            &[r#"{"a":1,"b":2}"#],
            &["error: the result cannot be written as binary"],
        ),
        (
            SinkFormat { format: delimited(false), fields: vec!["b".into(), "a".into()], ..SinkFormat::lists() },
            &[r#"{"a":1,"b":[1,"x"]}"#],
            &["[1 x],1"],
        ),
        (
            SinkFormat { format: OutputFormat::UrlEncoded, ..single() },
            &[r#"{"b":"x y&z","a":[1,2],"c":2.5}"#],
            &["a=1&a=2&b=x+y%26z&c=2.5"],
        ),
    ] {
        assert_eq!(messages_of(format, rows), expected, "{rows:?}");
    }
}

#[test]
fn with_to_each_row_is_a_message() {
    let serde_json::Value::Object(props) = serde_json::json!({"to": "{{.client}}", "dataTemplate": "[3,{{.id}}]"})
    else {
        return;
    };
    let (format, found) = read(&props);
    assert!(found.faults.is_empty() && format.send_single);
    assert_eq!(messages_of(format, &[r#"{"client":"c1","id":7}"#]), ["c1 <- [3,7]"]);
}

#[test]
fn packed_messages_unpack() {
    for name in ["gzip", "zlib", "flate", "zstd"] {
        let compression = Method::of(name);
        let format = SinkFormat { compression, ..SinkFormat::lists() };
        assert!(!format.is_text() && !format.is_plain());
        let mut messages = Vec::new();
        Batcher::new(Arc::new(format)).rows(vec![row(r#"{"a":1}"#)], 0, &mut |made| messages.extend(made));
        let [Made::Message(message)] = messages.as_slice() else { panic!("{messages:?}") };
        let unpacked = compression.unwrap().unpack(message).unwrap();
        assert_eq!(unpacked, br#"[{"a":1}]"#, "{name}");
    }
}

#[test]
fn what_only_time_ends_has_a_bound() {
    let mut batcher = Batcher::new(Arc::new(SinkFormat { linger: 100, ..SinkFormat::default() }));
    let mut messages = 0;
    batcher.rows(vec![Row::new(); MAX_GATHERED + 1], 0, &mut |_| messages += 1);
    assert_eq!(messages, 1);
}

#[test]
fn what_waits_goes_when_its_time_has_come() {
    let mut batcher = Batcher::new(Arc::new(SinkFormat { linger: 100, ..SinkFormat::default() }));
    let mut messages = 0;
    let mut give = |_| messages += 1;
    assert_eq!(batcher.rows(vec![row("{}")], 1000, &mut give), Some(1100));
    assert_eq!(batcher.rows(vec![row("{}")], 1050, &mut give), None);
    batcher.tick(1099, &mut give);
    batcher.tick(1100, &mut give);
    batcher.tick(1200, &mut give);
    assert_eq!(messages, 1);
}
