//! The verbs for rules.

use std::fmt::Write as _;

use serde_json::Value;

use super::client::escaped;
use super::{Options, Reply, Request, refused, with_id};
use crate::cli::Failure;

impl Request<'_> {
    pub(super) fn create_rule(&self, rest: &[String]) -> Reply {
        let (mut output, name, rule) = rule_of(&self.options, rest)?;
        if let Some(other) =
            serde_json::from_str::<Value>(&rule).ok().as_ref().and_then(|rule| rule.get("id")?.as_str())
            && other != name
            && !other.is_empty()
        {
            let why = "invalid rule json: RuleId is not consistent with rule id.";
            return Err(refused(format!("{output}Create rule  error : {why}.")));
        }
        let answer = self.service.post("/rules", &with_id(&name, &rule))?;
        if !answer.is_right() {
            let message = answer.message();
            let subject = if message.starts_with("invalid rule json") { "" } else { name.as_str() };
            return Err(refused(answer.explained(format!("{output}Create rule {subject} error : {message}."))));
        }
        // Scripts match this text, which names eKuiper's program.
        let _ = write!(
            output,
            "Rule {name} was created successfully, please use 'bin/kuiper getstatus rule {name}' command to get rule \
             status."
        );
        self.message(output)
    }

    pub(super) fn validate_rule(&self, rest: &[String]) -> Reply {
        let (output, name, rule) = rule_of(&self.options, rest)?;
        let answer = self.service.post("/rules/validate", &with_id(&name, &rule))?;
        if !answer.is_right() {
            return Err(refused(output + &answer.message()));
        }
        self.message(output + "The rule has been successfully validated and is confirmed to be correct.")
    }

    pub(super) fn show_rules(&self) -> Reply {
        let answer = self.service.get("/rules")?;
        if !self.json && answer.is_right() && answer.parsed()?.as_array().is_some_and(Vec::is_empty) {
            return Ok("No rule definitions are found.".to_owned());
        }
        self.shown(answer)
    }

    /// The verbs for one existing rule.
    pub(super) fn rule(&self, rest: &[String]) -> Reply {
        let [name] = rest else { return Err(refused("Expect rule name.")) };
        let at = format!("/rules/{}", escaped(name));
        let service = &self.service;
        let (answer, done) = match self.verb {
            "describe" => (service.get(&at)?, None),
            "getstatus" => (service.get(&format!("{at}/status"))?, None),
            "gettopo" => (service.get(&format!("{at}/topo"))?, None),
            "explain" => (service.get(&format!("{at}/explain"))?, Some(String::new())),
            "drop" => (service.delete(&at)?, Some(format!("Rule {name} is dropped."))),
            "start" => (service.post(&format!("{at}/start"), "")?, Some(format!("Rule {name} was started"))),
            "stop" => (service.post(&format!("{at}/stop"), "")?, Some(format!("Rule {name} was stopped."))),
            _ => (service.post(&format!("{at}/restart"), "")?, Some(format!("Rule {name} was restarted."))),
        };
        if !answer.is_right() {
            let message = answer.message();
            let why = message.split_once("error: ").map_or(message.as_str(), |(_, why)| why);
            return Err(refused(match self.verb {
                "describe" => format!("Desc rule error : {why}."),
                "drop" => format!("Drop rule error : {why}."),
                _ => answer.explained(why.to_owned()),
            }));
        }
        match done {
            None => self.shown(answer),
            Some(done) if done.is_empty() => self.message(answer.body.trim_end()),
            Some(done) => self.message(done),
        }
    }
}

/// A first line for the user, and the name and text of a rule.
fn rule_of(options: &Options, rest: &[String]) -> Result<(String, String, String), Failure> {
    if let Some(file) = &options.file {
        let text = std::fs::read_to_string(file)
            .map_err(|_| refused(format!("The specified rule defenition file {file} is not existed.")))?;
        let output = format!("Creating a new rule from file {file}.\n");
        return match rest {
            [name] => Ok((output, name.clone(), text)),
            _ => Err(refused(output + "Expect rule name.")),
        };
    }
    match rest {
        [name, rule] => Ok((String::new(), name.clone(), rule.clone())),
        _ => {
            let given = rest.join(" ");
            Err(refused(format!("Expect rule name and json.\nBut found {} args:[{given}].", rest.len())))
        }
    }
}
