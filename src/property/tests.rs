use serde_json::json;

use super::*;

#[derive(Clone, Debug, Default, PartialEq)]
struct Target {
    on: bool,
    name: String,
    mode: &'static str,
    wait: Duration,
    count: u64,
    share: f64,
    tags: Vec<String>,
}

type Row = Property<Target>;

const ROWS: &[Row] = &[
    Row::flag("on", |target, on| target.on = on).doc("Whether it is on"),
    Row::text("name", |target, name| target.name = name.to_owned()).alias(&["label"]).misspelt(&["nme"]),
    Row::choice("mode", &["fast", "slow"], |target, mode| target.mode = mode).default("fast").doc("How it goes"),
    Row::object(
        "timing",
        &[
            Row::duration("wait", |target, wait| target.wait = wait).default("1m30s"),
            Row::number("share", 0.0, 1.0, |target, share| target.share = share).default("0.5"),
        ],
    )
    .doc("When it goes"),
    Row::object("queue", &[Row::whole("count", 1, 9, |target, count| target.count = count).default("3")])
        .shorthand("count")
        .doc("How much waits | there"),
    Row::texts("tags", |target, tags| target.tags = tags).of_sink(),
    Row::choice("kind", &["gzip", "zstd"], |_, _| {})
        .otherwise(|kind| Some(format!("unsupported: {}", kind.as_str()?))),
    Row::parsed("even", "an even number", |_, text| match text.parse::<u64>() {
        Ok(number) if number % 2 == 0 => Ok(()),
        Ok(_) => Err(Wrong::Value),
        Err(error) => Err(error.into()),
    }),
    Row::without_effect("cache", Type::Flag),
    Row::unsupported("schema"),
];

fn filled(values: Json) -> (Target, Vec<String>, Vec<String>) {
    let values = values.as_object().expect("an object");
    let mut target = default(ROWS);
    let mut found = read(ROWS, Noun::Property, values, &mut target);
    found.unknown(Noun::Property, values, ROWS, ["others"]);
    let faults = found.faults.iter().map(|fault| match &fault.hint {
        Some(hint) => format!("{}: {fault} ({hint})", fault.property),
        None => format!("{}: {fault}", fault.property),
    });
    (target, faults.collect(), found.warnings.iter().map(Warning::to_string).collect())
}

#[test]
fn defaults_are_what_rows_say() {
    let (target, faults, warnings) = filled(json!({"name": null, "others": 1}));
    let expected = Target { mode: "fast", wait: Duration::from_secs(90), share: 0.5, count: 3, ..Target::default() };
    assert_eq!((target, faults, warnings), (expected, vec![], vec![]));
}

#[test]
fn values_are_set() {
    let (target, faults, warnings) = filled(json!({
        "ON": "True", "label": "x", "Mode": "SLOW", "timing": {"WAIT": 5, "share": 1}, "queue": 4,
        "tags": "a", "kind": "", "even": "12", "cache": false, "schema": "",
    }));
    let expected = Target {
        on: true,
        name: "x".into(),
        mode: "slow",
        wait: Duration::from_millis(5),
        count: 4,
        share: 1.0,
        tags: vec!["a".into()],
    };
    assert_eq!((target, faults, warnings), (expected, vec![], vec![]));
}

#[test]
fn every_fault_is_found_in_one_pass() {
    let (_, faults, warnings) = filled(json!({
        "on": "yes", "name": 5, "mode": "quick", "timing": {"wait": "soon", "share": 2, "shre": 1}, "queue": 0,
        "tags": [1], "kind": "zst", "even": "13", "cache": 1, "schema": "s", "tgas": 1, "zzzzzz": 1,
    }));
    assert_eq!(
        faults,
        [
            "on: property on is \"yes\", expected true or false",
            "name: property name is 5, expected a text",
            "mode: property mode is \"quick\", expected fast or slow",
            "timing.wait: property timing.wait is \"soon\", expected milliseconds, or a duration such as \"10s\"",
            "timing.share: property timing.share is 2, expected a number from 0 to 1",
            "queue: property queue is 0, expected a whole number from 1 to 9",
            "tags: property tags is [1], expected a list of texts",
            "kind: unsupported: zst (did you mean zstd?)",
            "even: property even is \"13\", expected an even number",
            "cache: property cache is 1, expected true or false",
            "schema: property schema is not supported yet",
        ]
    );
    assert_eq!(
        warnings,
        [
            "unknown property timing.shre is ignored: did you mean timing.share?",
            "unknown property tgas is ignored: did you mean tags?",
            "unknown property zzzzzz is ignored",
        ]
    );
}

#[test]
fn the_first_spelling_counts() {
    let (target, _, warnings) = filled(json!({"nme": "c", "Label": "b"}));
    assert_eq!((target.name.as_str(), warnings.len()), ("b", 0));
    let (target, _, warnings) = filled(json!({"nme": "c"}));
    assert_eq!((target.name.as_str(), warnings), ("c", vec!["property nme is read as name: write name".to_owned()]));
    let (target, ..) = filled(json!({"Name": "loose", "name": "exact", "label": "b"}));
    assert_eq!(target.name, "exact");
}

#[test]
fn a_reference_page_shows_each_property_that_works() {
    let page = reference::table(&entries(ROWS), true);
    for line in [
        "| `on` | both | true or false | – | Whether it is on |",
        "| `name`, `label`, `nme` | both | text | – |  |",
        "| `mode` | both | `fast` or `slow` | `fast` | How it goes |",
        "| `timing` | both | object {wait, share} | `{wait: 1m30s, share: 0.5}` | When it goes |",
        "| `queue` | both | whole number from 1 to 9, or object {count} | `{count: 3}` | How much waits \\| there |",
        "| `tags` | sink | list of texts | – |  |",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
    assert!(!page.contains("cache") && !page.contains("schema"), "{page}");
}

#[test]
fn many_unknown_names_are_counted() {
    let many: serde_json::Map<String, Json> = (0..100_000).map(|n| (format!("nme{n}"), Json::Null)).collect();
    let (_, _, warnings) = filled(Json::Object(many));
    assert_eq!(warnings.len(), 33);
    assert_eq!(warnings.last().map(String::as_str), Some("99968 more unknown names are ignored"));
}
