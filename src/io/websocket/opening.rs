//! The messages of `onOpen`, which a client role sends first on each connection.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::io::environment::{self, UnsetVariable};
use crate::io::reach::Variables;

/// The largest file of messages, bytes.
const FILE_BYTES: u64 = 1 << 20;

/// One entry of `onOpen`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Opening {
    /// a message
    Text(String),
    /// a file with messages, read at each dial, so that another program can update it, for example with a new login
    File {
        path: PathBuf,
        /// the variables that it may name; `None`: all
        variables: Option<Variables>,
    },
}

/// A file of messages that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpeningError {
    #[error("onOpen: cannot read {}: {source}", file.display())]
    Read { file: PathBuf, source: io::Error },
    #[error("onOpen: {}: {source}", file.display())]
    Variable { file: PathBuf, source: UnsetVariable },
    #[error("onOpen: {}: the variable {name} is not allowed here: add it to basic.envAllow", file.display())]
    Refused { file: PathBuf, name: String },
}

impl Opening {
    /// Parses an entry of the property: a text or JSON value to send, or `{file: …}`.
    pub fn parse(entry: &Value) -> Option<Opening> {
        match entry {
            Value::String(text) => Some(Opening::Text(text.clone())),
            Value::Object(members) => match (members.len(), members.get("file")) {
                (1, Some(Value::String(file))) => Some(Opening::File { path: file.into(), variables: None }),
                _ => Some(Opening::Text(entry.to_string())),
            },
            Value::Array(_) => Some(Opening::Text(entry.to_string())),
            _ => None,
        }
    }

    pub fn is_file(&self) -> bool {
        matches!(self, Opening::File { .. })
    }

    /// Limits the variables that a file may name.
    pub fn limit_variables(&mut self, allowed: &Variables) {
        if let Opening::File { variables, .. } = self {
            *variables = Some(allowed.clone());
        }
    }

    /// The messages. In a file with a JSON list, each element is one; any other file is one message.
    ///
    /// # Errors
    /// [`OpeningError`]
    pub fn messages(&self) -> Result<Vec<String>, OpeningError> {
        let (file, variables) = match self {
            Opening::Text(text) => return Ok(vec![text.clone()]),
            Opening::File { path, variables } => (path, variables),
        };
        let text = read(file).map_err(|source| OpeningError::Read { file: file.clone(), source })?;
        if let Some(name) = variables.as_ref().and_then(|variables| variables.refused(&text)) {
            return Err(OpeningError::Refused { file: file.clone(), name: name.to_owned() });
        }
        let text = environment::expand(text.trim_end())
            .map_err(|source| OpeningError::Variable { file: file.clone(), source })?;
        match serde_json::from_str(&text) {
            Ok(Value::Array(entries)) => Ok(entries.iter().map(message).collect()),
            _ => Ok(vec![text.into_owned()]),
        }
    }
}

fn message(entry: &Value) -> String {
    match entry {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Only regular files: a pipe may block forever.
fn read(file: &Path) -> io::Result<String> {
    if !std::fs::metadata(file)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut text = String::new();
    if File::open(file)?.take(FILE_BYTES + 1).read_to_string(&mut text)? as u64 > FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it has more than 1 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::io::reach::{FileRoots, Reach};

    #[test]
    fn entries_are_messages_or_files() {
        assert_eq!(Opening::parse(&json!("x")), Some(Opening::Text("x".into())));
        let file = Opening::File { path: "x".into(), variables: None };
        assert_eq!(Opening::parse(&json!({"file": "x"})), Some(file));
        assert_eq!(
            Opening::parse(&json!({"file": "x", "op": 1})),
            Some(Opening::Text("{\"file\":\"x\",\"op\":1}".into()))
        );
        assert_eq!(Opening::parse(&json!([1])), Some(Opening::Text("[1]".into())));
        assert_eq!(Opening::parse(&json!(1)), None);
    }

    #[test]
    fn files_are_read_each_time() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("login.json");
        let mut opening = Opening::File { path: file.clone(), variables: None };
        for (text, expected) in [
            ("{\"op\":\"login\"}\n", vec!["{\"op\":\"login\"}"]),
            ("[{\"op\":1}, \"ping\"]", vec!["{\"op\":1}", "ping"]),
            ("${PLUTINO_NOT_SET:-key}", vec!["key"]),
        ] {
            std::fs::write(&file, text).expect("it can be written");
            assert_eq!(opening.messages().expect("it can be read"), expected);
        }
        std::fs::write(&file, "{\"token\": \"${HOME}\"}").expect("it can be written");
        opening.limit_variables(
            &Reach::new(FileRoots::new(folder.path().to_owned()), &["PLUTINO_*".to_owned()]).variables,
        );
        let refused = opening.messages().expect_err("it is not allowed").to_string();
        assert!(refused.ends_with("the variable HOME is not allowed here: add it to basic.envAllow"), "{refused}");
        folder.close().expect("it can be removed");
        let error = opening.messages().expect_err("it is gone").to_string();
        assert!(error.starts_with("onOpen: cannot read "), "{error}");
        assert!(Opening::File { path: std::env::temp_dir(), variables: None }.messages().is_err());
    }
}
