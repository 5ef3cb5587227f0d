//! The verbs for named connections and conf keys.
//!
//! eKuiper's command line has none; these are modelled on its verbs for rules.

use serde_json::{Map, Value};

use super::client::escaped;
use super::{Reply, Request, refused, with_id};

/// The classes of conf keys.
const CLASSES: [&str; 3] = ["sources", "sinks", "connections"];

impl Request<'_> {
    pub(super) fn show_connections(&self) -> Reply {
        let answer = self.service.get("/connections")?;
        if !self.json && answer.is_right() && answer.parsed()?.as_array().is_some_and(Vec::is_empty) {
            return Ok("No connection definitions are found.".to_owned());
        }
        self.shown(answer)
    }

    /// `create connection NAME JSON`, or `-f FILE NAME`; `describe`, `drop`: NAME.
    pub(super) fn connection(&self, rest: &[String]) -> Reply {
        let definition = self.file_text()?;
        let Some((name, rest)) = rest.split_first() else { return Err(refused("Expect connection name.")) };
        let at = format!("/connections/{}", escaped(name));
        let (answer, done) = match self.verb {
            "describe" => return self.shown(self.service.get(&at)?),
            "drop" => (self.service.delete(&at)?, "dropped"),
            _ => {
                let given = definition.or_else(|| rest.first().cloned());
                let given = given.ok_or_else(|| refused("Expect connection name and json."))?;
                (self.service.post("/connections", &with_id(name, &given))?, "created")
            }
        };
        if !answer.is_right() {
            return Err(refused(answer.message()));
        }
        self.message(format!("Connection {name} is {done}."))
    }

    pub(super) fn show_conf_keys(&self, rest: &[String]) -> Reply {
        let (class, rest) = class_of(rest);
        let kind = rest.first().map_or("websocket", String::as_str);
        self.shown(self.service.get(&format!("/metadata/{class}/yaml/{}", escaped(kind)))?)
    }

    /// `create confkey [sources|sinks|connections] TYPE KEY JSON`, or `-f FILE TYPE KEY`; `describe`, `drop`: TYPE KEY.
    pub(super) fn conf_key(&self, rest: &[String]) -> Reply {
        let definition = self.file_text()?;
        let (class, rest) = class_of(rest);
        let [kind, key, rest @ ..] = rest else {
            let what = if self.verb == "create" { "type, key and json" } else { "type and key" };
            return Err(refused(format!("Expect {what}, such as websocket mykey.")));
        };
        let at = format!("/metadata/{class}/{}/confKeys/{}", escaped(kind), escaped(key));
        let (answer, done) = match self.verb {
            "describe" => {
                let answer = self.service.get(&format!("/metadata/{class}/yaml/{}", escaped(kind)))?;
                if !answer.is_right() {
                    return Err(refused(answer.message()));
                }
                let Some(props) = answer.parsed()?.get(key).cloned() else {
                    return Err(refused(format!("Conf key {key} of {kind} is not found.")));
                };
                return super::indented(&props);
            }
            "drop" => (self.service.delete(&at)?, "dropped"),
            _ => {
                let given = definition.or_else(|| rest.first().cloned());
                let given = given.ok_or_else(|| refused("Expect type, key and json."))?;
                if let Err(error) = serde_json::from_str::<Map<String, Value>>(&given) {
                    return Err(refused(format!("the properties of conf key {key} are not a JSON object: {error}")));
                }
                (self.service.put(&at, &given)?, "created")
            }
        };
        if !answer.is_right() {
            return Err(refused(answer.message()));
        }
        self.message(format!("Conf key {key} of {kind} is {done}."))
    }
}

/// The class of the conf key (sources if none is given) and the remaining arguments.
fn class_of(rest: &[String]) -> (&str, &[String]) {
    match rest.split_first() {
        Some((class, others)) if CLASSES.contains(&class.as_str()) => (class, others),
        _ => ("sources", rest),
    }
}
