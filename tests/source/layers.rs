//! The layers of `docs/architecture.md`, checked in the source: which module uses which, and that there is no cycle.
//!
//! The graph is derived from the paths in every file (`crate::…`, and `super::…` between files). Only comments, texts
//! and modules named `tests` are left out: tests may use what they need.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules from the bottom up, each with those that it may use. It may use none that is listed after it, so that
/// there is no cycle.
const LAYERS: &[(&str, &[&str])] = &[
    ("text", &[]),
    ("property", &["text"]),
    ("time", &[]),
    ("value", &["text"]),
    ("sync", &["value"]),
    ("memory", &[]),
    ("framing", &[]),
    ("metrics", &["sync", "value"]),
    ("cluster", &["framing", "sync"]),
    ("logging", &["sync"]),
    ("format", &["property", "text", "value"]),
    ("sql", &["text", "time", "value"]),
    ("expr", &["format", "text", "value"]),
    ("view", &["sync", "time", "value"]),
    ("io", &["framing", "memory", "format", "property", "sync", "text", "value", "view"]),
    ("definition", &["format", "io", "property", "sql", "text", "value"]),
    ("plan", &["definition", "expr", "property", "sql", "text", "time", "value", "view"]),
    (
        "dataflow",
        &["cluster", "definition", "expr", "format", "io", "metrics", "plan", "sync", "time", "value", "view"],
    ),
    (
        "engine",
        &[
            "cluster",
            "dataflow",
            "definition",
            "format",
            "io",
            "memory",
            "metrics",
            "plan",
            "sync",
            "time",
            "value",
            "view",
        ],
    ),
    ("config", &["definition", "io", "logging", "property", "text"]),
    ("pipeline", &["config", "definition", "engine", "io", "plan", "property", "sql", "sync", "text", "value"]),
    (
        "service",
        &[
            "cluster",
            "config",
            "definition",
            "engine",
            "expr",
            "format",
            "io",
            "memory",
            "metrics",
            "pipeline",
            "plan",
            "property",
            "sql",
            "sync",
            "text",
            "time",
            "value",
            "view",
        ],
    ),
    ("testing", &["config", "engine", "io", "pipeline", "property", "sync", "text", "time", "value", "view"]),
    (
        "api",
        &[
            "config", "expr", "format", "io", "logging", "memory", "metrics", "plan", "property", "service", "sql",
            "sync", "text", "time", "value", "view",
        ],
    ),
    (
        "cli",
        &[
            "api", "cluster", "config", "engine", "io", "logging", "memory", "metrics", "pipeline", "plan", "property",
            "service", "sql", "sync", "testing", "text", "time", "value",
        ],
    ),
    ("main", &["cli"]),
];

/// Crates that only these modules may use.
const CRATES: &[(&str, &[&str])] = &[
    (
        "tokio",
        &[
            "sync",
            "framing",
            "metrics::recorders",
            "metrics::tap",
            "cluster",
            "io",
            "dataflow::cluster",
            "dataflow::command",
            "dataflow::worker",
            "engine",
            "service",
            "api",
            "cli",
            "main",
        ],
    ),
    ("timely", &["cluster", "dataflow"]),
    ("axum", &["api"]),
    ("redb", &["service"]),
];

#[test]
fn modules_name_only_what_their_layer_allows() {
    let mut wrong = Vec::new();
    let place = |module: &str| LAYERS.iter().position(|(name, _)| *name == module);
    for (index, (module, allowed)) in LAYERS.iter().enumerate() {
        for other in *allowed {
            if place(other).is_none_or(|place| place >= index) {
                wrong.push(format!("the table lets {module} name {other}, which stands after it"));
            }
        }
    }
    for file in files() {
        let Some(place) = place(&file.module[0]) else {
            wrong.push(format!("{}: the table does not know {}", file.path.display(), file.module[0]));
            continue;
        };
        let allowed = LAYERS[place].1;
        for (line, target) in &file.paths {
            let other = &target[0];
            let is_module = LAYERS.iter().any(|(name, _)| name == other);
            if *other != file.module[0] && is_module && !allowed.contains(&other.as_str()) {
                wrong.push(format!("{}:{line} names {}", file.path.display(), target.join("::")));
            }
        }
        let path = file.module.join("::");
        for (name, knowing) in CRATES {
            let knows = knowing.iter().any(|module| path == *module || path.starts_with(&format!("{module}::")));
            if !knows && let Some(line) = file.line_of_crate(name) {
                wrong.push(format!("{}:{line} names {name}", file.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "layers are crossed:\n{}", wrong.join("\n"));
}

#[test]
fn files_of_dataflow_are_in_no_circle() {
    let files: Vec<Source> = files().into_iter().filter(|file| file.module[0] == "dataflow").collect();
    let modules: BTreeSet<String> = files.iter().filter_map(|file| file.module.get(1).cloned()).collect();
    // An item re-exported by `dataflow/mod.rs` counts as the file that it comes from.
    let mut passed_on: BTreeMap<&str, &str> = BTreeMap::new();
    for file in files.iter().filter(|file| file.module.len() == 1) {
        for (_, path) in &file.relative {
            if let [module, .., name] = path.as_slice() {
                passed_on.insert(name, module);
            }
        }
    }
    let mut names: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for file in &files {
        let Some(module) = file.module.get(1) else { continue };
        for (_, path) in &file.paths {
            let [first, other, ..] = path.as_slice() else { continue };
            let other = passed_on.get(other.as_str()).copied().unwrap_or(other);
            if first == "dataflow" && other != module && modules.contains(other) {
                names.entry(module).or_default().insert(other);
            }
        }
    }
    let in_circle: Vec<&str> =
        modules.iter().map(String::as_str).filter(|module| reaches(&names, module, module)).collect();
    let edges = |module: &&str| format!("{module} -> {:?}", names.get(*module));
    assert!(in_circle.is_empty(), "in a circle:\n{}", in_circle.iter().map(edges).collect::<Vec<_>>().join("\n"));
}

/// Whether a path of at least one step leads from one module to another.
fn reaches(names: &BTreeMap<&str, BTreeSet<&str>>, from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut waiting: Vec<&str> = names.get(from).into_iter().flatten().copied().collect();
    while let Some(module) = waiting.pop() {
        if module == to {
            return true;
        }
        if seen.insert(module) {
            waiting.extend(names.get(module).into_iter().flatten());
        }
    }
    false
}

/// A source file and what it names.
struct Source {
    path: PathBuf,
    /// its place in the tree of modules
    module: Vec<String>,
    /// without comments, texts and tests
    code: String,
    /// the modules that it uses from the root, with the line
    paths: Vec<(usize, Vec<String>)>,
    /// what it uses by relative paths
    relative: Vec<(usize, Vec<String>)>,
}

impl Source {
    fn read(path: &Path, src: &Path) -> Source {
        let text = fs::read_to_string(path).expect("a source file can be read");
        let mut module: Vec<String> = path
            .strip_prefix(src)
            .expect("the file is below src")
            .with_extension("")
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        if module.last().is_some_and(|last| last == "mod") {
            module.pop();
        }
        let code = without_tests(&without_comments_and_texts(&text));
        let (mut paths, mut relative) = (Vec::new(), Vec::new());
        for (start, word) in words(&code) {
            let line = || 1 + code[..start].matches('\n').count();
            let before = code[..start].trim_end();
            if before.ends_with("::") || before.ends_with('$') {
                continue;
            }
            let mut rest = code[start + word.len()..].trim_start();
            let base = match word {
                "crate" => Vec::new(),
                "super" => {
                    let mut base = module.clone();
                    base.pop();
                    while let Some(more) = rest.strip_prefix("::super") {
                        base.pop();
                        rest = more;
                    }
                    base
                }
                "use" => {
                    let line = line();
                    each_path(rest, &mut |path| relative.push((line, path)));
                    continue;
                }
                _ => continue,
            };
            if let Some(tree) = rest.strip_prefix("::") {
                let line = line();
                each_path(tree, &mut |path| paths.push((line, base.iter().cloned().chain(path).collect::<Vec<_>>())));
            }
        }
        paths.retain(|(_, path)| !path.is_empty());
        Source { path: path.to_owned(), module, code, paths, relative }
    }

    /// The first line that names an external crate.
    fn line_of_crate(&self, name: &str) -> Option<usize> {
        let (start, _) = words(&self.code).find(|(start, word)| {
            *word == name && self.code[start + word.len()..].starts_with("::") && !self.code[..*start].ends_with("::")
        })?;
        Some(1 + self.code[..start].matches('\n').count())
    }
}

/// The paths of a use tree: `a::b`, `{a::b, c}`, `a::{b, c}`.
fn each_path(tree: &str, see: &mut dyn FnMut(Vec<String>)) {
    let tree = tree.trim_start();
    if let Some(group) = tree.strip_prefix('{') {
        let mut depth = 0;
        let mut start = 0;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => {
                    each_path(&group[start..at], see);
                    return;
                }
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    each_path(&group[start..at], see);
                    start = at + 1;
                }
                _ => {}
            }
        }
        return;
    }
    let length = tree.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(tree.len());
    if length == 0 {
        return;
    }
    let (name, rest) = (tree[..length].to_owned(), tree[length..].trim_start());
    match rest.strip_prefix("::") {
        Some(inner) if inner.trim_start().starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '{') => {
            each_path(inner, &mut |path| see(std::iter::once(name.clone()).chain(path).collect()));
        }
        _ => see(vec![name]),
    }
}

/// The words of the code with their places.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + code[at..].find(|c: char| c.is_alphanumeric() || c == '_')?;
        let length = code[start..].find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len() - start);
        at = start + length;
        Some((start, &code[start..at]))
    })
}

/// The text with comments and texts blanked out; lines are kept.
fn without_comments_and_texts(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let blank = |part: &str, out: &mut String| out.extend(part.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
    while let Some(first) = rest.chars().next() {
        let raw = rest.strip_prefix('r').map(|rest| rest.len() - rest.trim_start_matches('#').len());
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) = raw
            && rest[1 + hashes..].starts_with('"')
            && !out.ends_with(|c: char| c.is_alphanumeric() || c == '_')
        {
            let end = format!("\"{}", "#".repeat(hashes));
            rest[2 + hashes..].find(&end).map_or(rest.len(), |at| 2 + hashes + at + end.len())
        } else if first == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            end.map_or(rest.len(), |end| end + 2)
        } else if let Some(end) = ["'\"'", "'\\\"'", "'\\''", "'\\\\'"].iter().find(|c| rest.starts_with(**c)) {
            end.len()
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        blank(&rest[..length], &mut out);
        rest = &rest[length..];
    }
    out
}

/// The code with the modules named `tests` blanked out; lines are kept. rustfmt aligns their ends with their starts.
fn without_tests(code: &str) -> String {
    let mut end: Option<String> = None;
    let mut out = String::with_capacity(code.len());
    for line in code.lines() {
        match &end {
            Some(close) if line == close => end = None,
            Some(_) => {}
            None if line.trim_start().starts_with("mod tests {") => {
                let indent = &line[..line.len() - line.trim_start().len()];
                end = Some(format!("{indent}}}"));
            }
            None => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

/// All files of `src` except the root of the library, which names all modules, and tests.
fn files() -> Vec<Source> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a source folder can be read") {
            let path = entry.expect("an entry can be read").path();
            if path.file_stem().is_some_and(|name| name == "tests") || path == src.join("lib.rs") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(Source::read(&path, &src));
            }
        }
    }
    files
}

#[test]
fn paths_are_found() {
    let mut found = Vec::new();
    each_path("{a::b, c::{d, e as f}, g} and more", &mut |path| found.push(path.join("::")));
    assert_eq!(found, ["a::b", "c::d", "c::e", "g"]);
    let code = "use a; // crate::b\n#[cfg(test)]\nmod tests {\n    use crate::c;\n}\nfn d() { \"crate::e\"; 'x'; r#\"f\"#; }\n";
    let code = without_tests(&without_comments_and_texts(code));
    assert_eq!(words(&code).map(|(_, word)| word).collect::<Vec<_>>(), ["use", "a", "cfg", "test", "fn", "d", "x"]);
}
