//! `docs/functions.md` says what the function table says.

use std::path::Path;

/// Fails where the page is stale; with `UPDATE_DOCS=1` in the environment it writes the page anew.
#[test]
fn the_page_is_as_generated() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/functions.md");
    let generated = plutino::expr::function::reference();
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        std::fs::write(&path, &generated).expect("docs/functions.md can be written");
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(page == generated, "docs/functions.md is stale: run UPDATE_DOCS=1 cargo test --test functions_doc");
}
