//! Files shipped with the binary: those that no program here runs are at least parsed, and name only what exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value as Json;

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn yaml(file: &str) -> Json {
    let document = plutino::text::document::Document::parse(file, read(file));
    document.unwrap_or_else(|problem| panic!("{problem}")).root.json()
}

/// The series that a text names.
fn series(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours = words.filter(|word| word.starts_with("kuiper_") || word.starts_with("plutino_"));
    ours.map(|word| word.trim_end_matches("_bucket").to_owned()).collect()
}

#[test]
fn dashboard_and_alerts_name_series_that_exist() {
    let source = read("src/api/prometheus.rs");
    let exists = |name: &str| {
        let of_part = ["kuiper_source_", "kuiper_op_", "kuiper_sink_"]
            .iter()
            .any(|part| name.strip_prefix(part).is_some_and(|field| source.contains(&format!("\"{field}\""))));
        of_part || source.contains(&format!("\"{name}\""))
    };
    let dashboard: Json = serde_json::from_str(&read("etc/grafana/dashboard.json")).expect("it is JSON");
    let mut expressions = Vec::new();
    for panel in dashboard["panels"].as_array().expect("there are panels") {
        for target in panel["targets"].as_array().expect("a panel has targets") {
            expressions.push(target["expr"].as_str().expect("a target has an expression").to_owned());
        }
    }
    let alerts = yaml("etc/prometheus/alerts.yaml");
    for rule in alerts["groups"][0]["rules"].as_array().expect("there are alerts") {
        assert!(rule["annotations"]["summary"].is_string(), "{rule}");
        expressions.push(rule["expr"].as_str().expect("an alert has an expression").to_owned());
    }
    assert!(expressions.len() > 20);
    for expression in expressions {
        let balanced = expression.matches('(').count() == expression.matches(')').count();
        assert!(balanced, "{expression}");
        for name in series(&expression) {
            assert!(exists(&name), "{name} in {expression} does not exist");
        }
    }
}

#[test]
fn the_compose_file_mounts_what_exists() {
    let compose = yaml("compose.yaml");
    for service in ["plutino", "prometheus", "grafana"] {
        let volumes = compose["services"][service]["volumes"].as_array().expect("a service has volumes");
        for volume in volumes.iter().filter_map(Json::as_str).filter(|volume| volume.starts_with("./")) {
            let path = volume.split(':').next().unwrap_or_default();
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists(), "{path}");
        }
    }
    for file in [
        "etc/prometheus/prometheus.yaml",
        "etc/grafana/provisioning/datasources/prometheus.yaml",
        "etc/grafana/provisioning/dashboards/plutino.yaml",
    ] {
        assert!(yaml(file).is_object(), "{file}");
    }
}
