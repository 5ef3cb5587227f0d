//! The verbs for views.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::client::escaped;
use super::{Reply, Request, indented, refused};

impl Request<'_> {
    pub(super) fn create_view(&self, rest: &[String]) -> Reply {
        let definition = match self.file_text()? {
            Some(text) => text,
            None => rest.join(" "),
        };
        let whole = crate::sql::is_create_view(&definition);
        let definition = if whole { definition } else { format!("CREATE VIEW {definition}") };
        let answer = self.service.post("/views", &json!({ "sql": definition }).to_string())?;
        if !answer.is_right() {
            return Err(refused(answer.explained(answer.message())));
        }
        self.message(answer.body.trim_end())
    }

    pub(super) fn show_views(&self) -> Reply {
        let answer = self.service.get("/views")?;
        if !answer.is_right() || self.json {
            return self.shown(answer);
        }
        let names = answer.parsed()?;
        let names: Vec<&str> = names.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if names.is_empty() { Ok("No view definitions are found.".to_owned()) } else { Ok(names.join("\n")) }
    }

    /// `describe`, `drop` and `getstatus` of a view.
    pub(super) fn view(&self, rest: &[String]) -> Reply {
        let [name] = rest else { return Err(refused("Expect the name of a view.")) };
        let path = format!("/views/{}", escaped(name));
        let answer = match self.verb {
            "drop" => self.service.delete(&format!("{path}{}", self.forced()))?,
            "getstatus" => self.service.get(&format!("{path}/status"))?,
            _ => self.service.get(&path)?,
        };
        if !answer.is_right() {
            return Err(refused(answer.message()));
        }
        match self.verb {
            "drop" => self.message(answer.body.trim_end()),
            "describe" if !self.json => Ok(described(&answer.parsed()?)),
            _ => indented(&answer.parsed()?),
        }
    }
}

/// A view for people: its statement, its columns, then everything else.
fn described(view: &Value) -> String {
    let mut text = format!("{}\n\nColumns\n{}\n", view["sql"].as_str().unwrap_or_default(), "-".repeat(80));
    let listed = |name: &str| {
        let names = view[name].as_array().into_iter().flatten().filter_map(Value::as_str);
        names.collect::<Vec<_>>().join(", ")
    };
    // Writing to a String cannot fail.
    for column in view["columns"].as_array().into_iter().flatten() {
        let of = |name: &str| column[name].as_str().unwrap_or_default().to_owned();
        let _ = writeln!(text, "{}\t{}", of("name"), of("type"));
    }
    let _ = write!(text, "\nKEY: {}\nPARAMS: {}\nPATH: ", listed("key"), listed("params"));
    text.push_str(view["path"].as_str().unwrap_or_default());
    text
}
