//! The verbs that import and export rulesets and all data.

use std::io;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Reply, Request, indented, read, refused};
use crate::cli::Failure;

impl Request<'_> {
    pub(super) fn import_ruleset(&self) -> Reply {
        let Some(file) = &self.options.file else { return Err(refused("Required ruleset json file to import")) };
        let text = read(file)?;
        let answer = self.service.post("/ruleset/import", &json!({ "content": text }).to_string())?;
        if !answer.is_right() {
            return Err(refused(answer.message()));
        }
        self.message(answer.body.trim())
    }

    pub(super) fn export_ruleset(&self, rest: &[String]) -> Reply {
        let [file] = rest else { return Err(refused("Require exported file name.")) };
        let answer = self.service.post(&format!("/ruleset/export{}", self.with_secrets()), "")?;
        if !answer.is_right() {
            return Err(refused(answer.message()));
        }
        let (streams, tables, rules) = counts(&answer.parsed()?);
        write_file(file, &answer.body)?;
        self.message(format!("exported {streams} streams, {tables} tables and {rules} rules"))
    }

    /// The query parameters of an export.
    fn with_secrets(&self) -> &'static str {
        if self.options.secrets { "?secrets=true" } else { "" }
    }

    pub(super) fn import_data(&self) -> Reply {
        let Some(file) = &self.options.file else {
            return Err(refused("Required configuration json file to import"));
        };
        let flag = |name: &str, value: &Option<String>| match value.as_deref().map(str::to_lowercase).as_deref() {
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            _ => Err(refused(format!("Expect {name} flag to be a boolean value."))),
        };
        let (stop, partial) = (flag("s", &self.options.stop)?, flag("p", &self.options.partial)?);
        let body = json!({ "content": read(file)? }).to_string();
        let path = format!("/data/import?stop={}&partial={}", u8::from(stop), u8::from(partial));
        let answer = self.service.post(&path, &body)?;
        // The message lists refused items as JSON.
        match serde_json::from_str::<Value>(&answer.message()) {
            Ok(refusals @ Value::Object(_)) if !answer.is_right() => {
                let status = json!({ "ErrorMsg": "process error", "ConfigResponse": refusals });
                Err(indented(&status).map_or_else(|error| error, refused))
            }
            _ => self.shown(answer),
        }
    }

    pub(super) fn export_data(&self, rest: &[String]) -> Reply {
        let [file] = rest else { return Err(refused("Expect configuration file.")) };
        let answer = match &self.options.rules {
            Some(rules) => self.service.post(&format!("/data/export{}", self.with_secrets()), rules)?,
            None => self.service.get(&format!("/data/export{}", self.with_secrets()))?,
        };
        if !answer.is_right() {
            return Err(refused(answer.message()));
        }
        write_file(file, &answer.body)?;
        self.message("export configuration success")
    }
}

fn write_file(file: &str, text: &str) -> Result<(), Failure> {
    std::fs::write(Path::new(file), text).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => refused(format!("open {file}: no such file or directory")),
        _ => refused(format!("open {file}: {error}")),
    })
}

/// The numbers of streams, tables and rules in a ruleset.
fn counts(ruleset: &Value) -> (usize, usize, usize) {
    let count = |name: &str| ruleset.get(name).and_then(Value::as_object).map_or(0, Map::len);
    (count("streams"), count("tables"), count("rules"))
}
