//! The generated pages say what their tables say.

use std::path::Path;

#[test]
fn functions() {
    is_as_generated("docs/functions.md", &plutino::expr::function::reference());
}

#[test]
fn connectors() {
    is_as_generated("docs/connectors.md", &plutino::io::connector::reference());
}

/// Fails where a page is stale; with `UPDATE_DOCS=1` in the environment it writes the page anew.
fn is_as_generated(page: &str, generated: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        std::fs::write(&path, generated).expect("the page can be written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == generated, "{page} is stale: run UPDATE_DOCS=1 cargo test --test source");
}
