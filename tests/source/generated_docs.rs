//! The generated pages, and the generated parts of other pages, match their tables.

use std::path::Path;

use plutino::config;
use plutino::definition::rule::options;
use plutino::format::sink_format;

#[test]
fn functions() {
    is_as_generated("docs/functions.md", |_| plutino::expr::function::reference());
}

#[test]
fn connectors() {
    is_as_generated("docs/connectors.md", |_| plutino::io::connector::reference());
}

#[test]
fn settings() {
    let idle =
        format!("in `basic`: {}; in `rule`: those of [rules](rules.md#options)\n", config::without_effect("basic"));
    is_as_generated("docs/config.md", |page| {
        let page = with_part(page, "basic", &config::table("basic"));
        let page = with_part(&page, "source", &config::table("source"));
        with_part(&page, "without effect", &idle)
    });
}

#[test]
fn rule_options() {
    let idle = format!("{}\n", plutino::property::reference::without_effect(&options::entries()));
    is_as_generated("docs/rules.md", |page| {
        let page = with_part(page, "options", &options::table());
        with_part(&page, "without effect", &idle)
    });
}

#[test]
fn sink_properties() {
    let idle = format!("{}\n", plutino::property::reference::without_effect(&sink_format::entries()));
    is_as_generated("docs/sinks.md", |page| {
        let page = with_part(page, "properties", &sink_format::table());
        with_part(&page, "without effect", &idle)
    });
}

#[test]
fn schemas() {
    is_as_generated("docs/schema/rules.json", |_| format!("{:#}\n", plutino::pipeline::schema::rules()));
    is_as_generated("docs/schema/config.json", |_| format!("{:#}\n", config::schema()));
}

/// A page with the text between `<!-- generated: NAME -->` and `<!-- end -->` replaced.
fn with_part(page: &str, name: &str, text: &str) -> String {
    let begin = format!("<!-- generated: {name} -->\n");
    let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("the page has no {begin}"));
    let (_, after) = rest.split_once("<!-- end -->").unwrap_or_else(|| panic!("{name} has no end"));
    format!("{before}{begin}{text}<!-- end -->{after}")
}

/// Fails if a page is stale; with `UPDATE_DOCS=1` in the environment it rewrites the page.
fn is_as_generated(page: &str, generate: impl FnOnce(&str) -> String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let generated = generate(&found);
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        std::fs::write(&path, &generated).expect("the page can be written");
        return;
    }
    assert!(found == generated, "{page} is stale: run UPDATE_DOCS=1 cargo test --test source");
}
