//! The layers of `docs/architecture.md`, checked by the imports: no layer reaches back.

use std::fs;
use std::path::{Path, PathBuf};

/// A part of `src`, and what its files must not name.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("text", &["crate::value", "crate::sql", "crate::plan", "tokio", "timely"]),
    ("value", &["crate::sql", "crate::plan", "crate::io", "crate::dataflow", "crate::engine", "tokio", "timely"]),
    ("sql", &["crate::plan", "crate::expr", "crate::io", "crate::dataflow", "crate::engine", "tokio", "timely"]),
    ("format", &["crate::plan", "crate::io", "crate::dataflow", "crate::engine", "tokio", "timely"]),
    ("expr", &["crate::plan", "crate::definition", "crate::io", "crate::dataflow", "crate::engine", "tokio", "timely"]),
    ("plan", &["crate::io", "crate::dataflow", "crate::engine", "crate::cli", "tokio", "timely"]),
    ("io", &["crate::sql", "crate::expr", "crate::plan", "crate::dataflow", "crate::engine", "crate::cli", "timely"]),
    (
        "dataflow",
        &[
            "crate::engine",
            "crate::cli",
            "crate::config",
            "crate::definition::rule",
            "crate::io::websocket",
            "TcpStream",
        ],
    ),
    ("engine.rs", &["crate::cli", "crate::config", "crate::service", "crate::api", "timely"]),
    ("engine", &["crate::cli", "crate::config", "crate::service", "crate::api", "timely"]),
    ("definition", &["crate::plan", "crate::pipeline", "crate::engine", "crate::dataflow", "crate::service", "timely"]),
    ("pipeline", &["crate::dataflow", "crate::service", "crate::api", "crate::cli", "timely"]),
    ("service", &["crate::cli", "crate::api", "crate::dataflow", "axum", "timely"]),
    ("api", &["crate::cli", "crate::engine", "crate::dataflow", "crate::plan::physical", "redb", "timely"]),
];

/// Only these files of the dataflow know tokio.
const KNOWS_TOKIO: &[&str] = &["dataflow/worker.rs"];

#[test]
fn no_layer_reaches_back() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for (part, forbidden) in FORBIDDEN {
        for file in rust_files(&src.join(part)) {
            for (number, name) in names(&file, forbidden) {
                wrong.push(format!("{}:{number} names {name}", file.display()));
            }
        }
    }
    for file in rust_files(&src.join("dataflow")) {
        if !KNOWS_TOKIO.iter().any(|known| file.ends_with(known)) {
            for (number, name) in names(&file, &["tokio"]) {
                wrong.push(format!("{}:{number} names {name}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "layers are crossed:\n{}", wrong.join("\n"));
}

/// The lines of a file's code (its tests and comments left out) that hold one of the names.
fn names<'a>(file: &Path, forbidden: &[&'a str]) -> Vec<(usize, &'a str)> {
    let text = fs::read_to_string(file).expect("a source file can be read");
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .flat_map(|(number, line)| {
            forbidden.iter().filter(move |name| line.contains(**name)).map(move |n| (number + 1, *n))
        })
        .collect()
}

fn rust_files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).expect("a source folder can be read") {
        let path = entry.expect("an entry can be read").path();
        // Tests may reach for what they need.
        let is_tests = path.file_stem().is_some_and(|name| name == "tests");
        if is_tests {
            continue;
        }
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
