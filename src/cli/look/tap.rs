//! `plutino tap`: shows the rows between the operators of a rule or view.

use std::io::{self, BufRead, BufReader, Write};

use clap::Args;

use super::{Door, Failure};
use crate::cli::say;
use crate::io::printable;

/// Show the rows between the operators of a rule or view while it runs
///
/// Without an operator, the rows of all operators are shown, each after the operator's name. Rows are a sample of at
/// most 200 a second for each operator. A tap never slows the rule. The number of rows that were left out is printed on
/// stderr.
#[derive(Args)]
pub struct Tap {
    /// Name of the rule, and optionally of an operator: source, decode, filter, window, project, sink, or a name in the
    /// rule's status
    #[arg(value_name = "RULE[:OPERATOR]")]
    rule: String,
    /// The name is that of a view, whose operators are source, decode and project
    #[arg(long)]
    view: bool,
    /// End after this many rows
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Show at most one row of each operator in this many milliseconds
    #[arg(long, value_name = "MS")]
    every: Option<u64>,
    #[command(flatten)]
    door: Door,
}

impl Tap {
    pub fn run(self) -> Result<(), Failure> {
        let (rule, operator) = self.rule.split_once(':').map_or((&*self.rule, None), |(rule, op)| (rule, Some(op)));
        let mut query = form_urlencoded::Serializer::new(String::new());
        operator.iter().for_each(|operator| _ = query.append_pair("op", operator));
        self.limit.iter().for_each(|limit| _ = query.append_pair("limit", &limit.to_string()));
        self.every.iter().for_each(|every| _ = query.append_pair("every", &every.to_string()));
        let kind = if self.view { "views" } else { "rules" };
        let body = self.door.download(&format!("/{kind}/{rule}/tap?{}", query.finish()));
        let body = body.map_err(|failure| match failure {
            Failure::Service(text) if !self.view && self.is_view(rule) => {
                Failure::Service(format!("{text}; {rule} is a view: plutino tap --view {}", self.rule))
            }
            failure => failure,
        })?;
        let events = BufReader::new(body).lines();
        let (mut event, mut skipped) = (String::new(), 0);
        let mut out = io::stdout().lock();
        for line in events {
            let line = line.map_err(|error| Failure::Refused(format!("the tap has ended: {error}")))?;
            if line == ": tapped" {
                say(&format!("tapping {}", self.rule));
            } else if let Some(name) = line.strip_prefix("event: ") {
                name.clone_into(&mut event);
            } else if let Some(data) = line.strip_prefix("data: ") {
                match event.as_str() {
                    "skipped" => skipped = data.parse().unwrap_or(skipped),
                    "" => writeln!(out, "{}", printable(data))?,
                    operator => writeln!(out, "{operator:<8}{}", printable(data))?,
                }
                out.flush()?;
            } else if line.is_empty() {
                event.clear();
            }
        }
        if skipped > 0 {
            say(&format!("{skipped} further rows were not shown"));
        }
        Ok(())
    }

    /// Whether the service has a view of this name.
    fn is_view(&self, name: &str) -> bool {
        let views = self.door.download("/views").ok();
        let views = views.and_then(|views| serde_json::from_reader::<_, Vec<String>>(views).ok());
        views.is_some_and(|views| views.iter().any(|view| view == name))
    }
}
