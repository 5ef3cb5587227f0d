//! `plutino query`: a shell that runs SELECT statements and prints their results.
//!
//! It is a client of the service: each SELECT becomes a trial (`/ruletest`) on the real streams, and its events are
//! printed. One query runs at a time; the next one ends it. Statements come from a terminal or a pipe, one per line.

use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::remote::{Door, bearer, sent, unreachable};
use super::{Failure, Interrupts, block_on, say};
use crate::api;
use crate::sql::{self, SyntaxError};

const PROMPT: &str = "plutino > ";

/// How long the service may take to respond; streams of results have no limit.
const PATIENCE: Duration = Duration::from_secs(60);

/// Type SELECT statements and see their results
///
/// Each line is one SELECT on the streams of a running service; a new one ends the previous one. Ctrl-C ends the query,
/// or the shell if no query runs; `quit`, `exit` and the end of input end the shell. Statements can also come through a
/// pipe: the last one runs until the process ends, and the exit code is 1 if one was refused. A query ends after 5
/// minutes.
#[derive(Args)]
pub struct Query {
    #[command(flatten)]
    door: Door,
    /// Token for the data server, which sends the results, if it requires one
    #[arg(long, env = "PLUTINO_DATA_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    data_token: Option<String>,
}

/// Events that the shell waits for.
enum Event {
    Line(String),
    EndOfInput,
    /// the results of the query with this number have ended
    Ended(u64),
}

/// The service and its credentials.
#[derive(Clone)]
struct Asked {
    base: String,
    agent: ureq::Agent,
    /// value of the header `Authorization`
    token: Option<String>,
    /// the same for the data server
    data_token: Option<String>,
}

/// A running query.
struct Running {
    number: u64,
    id: String,
    /// set to stop printing its results
    over: Arc<AtomicBool>,
}

impl Query {
    pub fn run(self) -> Result<(), Failure> {
        let asked = Asked {
            base: self.door.base()?,
            agent: self.door.agent(None)?,
            token: self.door.authorization(),
            data_token: bearer(self.data_token.as_deref()),
        };
        let shell = Shell { asked, running: None, count: 0 };
        shell.asked.check()?;
        block_on(shell.run())
    }
}

struct Shell {
    asked: Asked,
    running: Option<Running>,
    count: u64,
}

impl Shell {
    async fn run(mut self) -> Result<(), Failure> {
        let mut interrupts = Interrupts::listen()?;
        let terminal = io::stdin().is_terminal();
        let (events, mut happens) = mpsc::channel(16);
        let lines = events.clone();
        // A blocking read of a terminal cannot be cancelled: this thread ends with the process.
        std::thread::spawn(move || {
            for line in io::stdin().lock().lines() {
                let Ok(line) = line else { break };
                if lines.blocking_send(Event::Line(line)).is_err() {
                    return;
                }
            }
            let _ = lines.blocking_send(Event::EndOfInput);
        });
        let (mut input, mut refused) = (true, false);
        prompt(terminal)?;
        let done = loop {
            let event = tokio::select! {
                event = happens.recv() => event,
                () = interrupts.next() => match self.running.is_some() && terminal {
                    true => {
                        self.stop();
                        println_or_end("")?;
                        prompt(terminal)?;
                        continue;
                    }
                    false => break Ok(()),
                },
            };
            match event {
                Some(Event::Line(line)) => {
                    let statement = line.trim().trim_end_matches(';').trim_end();
                    match statement.to_ascii_lowercase().as_str() {
                        "" => {}
                        "quit" | "exit" => break Ok(()),
                        _ => {
                            self.stop();
                            if let Err(error) = self.start(statement, &events) {
                                match error {
                                    // An invalid statement does not end the shell.
                                    Failure::Service(text) => {
                                        say(&text);
                                        refused = true;
                                    }
                                    other => break Err(other),
                                }
                            }
                        }
                    }
                    prompt(terminal)?;
                }
                Some(Event::EndOfInput) if terminal || self.running.is_none() => break Ok(()),
                Some(Event::EndOfInput) => input = false,
                Some(Event::Ended(number)) if self.running.as_ref().is_some_and(|query| query.number == number) => {
                    say("the query has ended");
                    self.stop();
                    if !input {
                        break Ok(());
                    }
                    prompt(terminal)?;
                }
                Some(Event::Ended(_)) => {}
                None => break Ok(()),
            }
        };
        self.stop();
        // People have seen the message; scripts need the exit code.
        if refused && !terminal { done.and(Err(Failure::Reported)) } else { done }
    }

    /// Starts a query, and prints its results on a separate thread.
    fn start(&mut self, statement: &str, events: &mpsc::Sender<Event>) -> Result<(), Failure> {
        if let Err(error) = sql::parse_select(statement) {
            return Err(Failure::Service(refusal(statement, &error)));
        }
        let id = format!("query-{:016x}", fastrand::u64(..));
        let trial = json!({"id": id, "sql": statement, "sinkProps": {}}).to_string();
        let made = self.asked.ask("POST", "/ruletest", &trial)?;
        let made: Value = serde_json::from_str(&made).unwrap_or_default();
        let Some(port) = made["port"].as_u64() else {
            return Err(Failure::Service("cannot understand the service's answer: it has no port".to_owned()));
        };
        let results = self.asked.events(port, &id)?;
        if let Err(error) = self.asked.ask("POST", &format!("/ruletest/{id}/start"), "") {
            self.asked.end(&id);
            return Err(error);
        }
        self.count += 1;
        let (number, over, events) = (self.count, Arc::new(AtomicBool::new(false)), events.clone());
        self.running = Some(Running { number, id, over: over.clone() });
        std::thread::spawn(move || {
            print_events(results, &over);
            let _ = events.blocking_send(Event::Ended(number));
        });
        Ok(())
    }

    /// Ends the running query.
    fn stop(&mut self) {
        if let Some(query) = self.running.take() {
            query.over.store(true, Ordering::Release);
            self.asked.end(&query.id);
        }
    }
}

impl Asked {
    /// Checks that the service answers.
    fn check(&self) -> Result<(), Failure> {
        self.ask("GET", "/ping", "").map(drop)
    }

    /// The body of a successful response.
    fn ask(&self, method: &str, path: &str, body: &str) -> Result<String, Failure> {
        let limit = Some(PATIENCE);
        let path = if method == "POST" { format!("{path}?details") } else { path.to_owned() };
        let mut answer = sent(&self.base, &path, |at| match method {
            "GET" => self.allowed(self.agent.get(at)).config().timeout_global(limit).build().call(),
            "DELETE" => self.allowed(self.agent.delete(at)).config().timeout_global(limit).build().call(),
            _ => self.allowed(self.agent.post(at)).config().timeout_global(limit).build().send(body),
        })?;
        let text = answer.body_mut().read_to_string().map_err(|error| unreachable(&self.base, &error))?;
        if answer.status().is_success() {
            return Ok(text);
        }
        let refusal = serde_json::from_str::<Value>(&text).unwrap_or_default();
        let details = refusal["details"].as_array().map(Vec::as_slice).unwrap_or_default();
        Err(Failure::Service(match refusal["message"].as_str() {
            Some(message) => api::explained(message, details),
            None => text.trim_end().to_owned(),
        }))
    }

    fn allowed<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("authorization", token.as_str()),
            None => request,
        }
    }

    fn end(&self, id: &str) {
        // If this fails, the service ends the query after its time limit.
        let _ = self.ask("DELETE", &format!("/ruletest/{id}"), "");
    }

    /// The results of a trial, from the data server on the same machine.
    fn events(&self, port: u64, id: &str) -> Result<impl io::Read + use<>, Failure> {
        let host = self.base.split("://").nth(1).unwrap_or(&self.base);
        let host = host.split('/').next().unwrap_or_default();
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        let at = format!("{host}:{port}/test/{id}");
        // Detects TLS without sending the token.
        let mut answer = self.read(&format!("http://{at}"), None)?;
        let mut scheme = "http";
        if answer.status() == 400 {
            scheme = "https";
            answer = self.read(&format!("https://{at}"), self.data_token.as_deref())?;
        } else if answer.status() == 401 && self.data_token.is_some() {
            answer = self.read(&format!("http://{at}"), self.data_token.as_deref())?;
        }
        let why = match answer.status().as_u16() {
            200 => return Ok(answer.into_body().into_reader()),
            401 if self.data_token.is_some() => "the data server does not accept the token of --data-token".to_owned(),
            401 => "the data server asks for a token: pass it with --data-token or PLUTINO_DATA_TOKEN".to_owned(),
            status => format!("it answers {status}"),
        };
        Err(Failure::Service(format!("cannot read the results at {scheme}://{at}: {why}")))
    }

    fn read(&self, at: &str, token: Option<&str>) -> Result<ureq::http::Response<ureq::Body>, Failure> {
        let request = self.agent.get(at);
        let request = match token {
            Some(token) => request.header("authorization", token),
            None => request,
        };
        request.call().map_err(|error| {
            let hint = match at.starts_with("https") {
                true => {
                    "; pass its certificates with --ca; a data server that asks for client certificates cannot be read"
                }
                false => "",
            };
            Failure::Service(format!("cannot read the results at {at}: {error}{hint}"))
        })
    }
}

/// Prints the data of events until they end, the query is stopped, or stdout is closed.
fn print_events(results: impl io::Read, over: &AtomicBool) {
    for line in BufReader::new(results).lines() {
        let Ok(line) = line else { return };
        if over.load(Ordering::Acquire) {
            return;
        }
        let printed = match (line.strip_prefix("data: "), line.strip_prefix(": ")) {
            (Some(data), _) => println_or_end(data),
            (None, Some(comment)) => {
                say(comment);
                Ok(())
            }
            (None, None) => Ok(()),
        };
        if printed.is_err() {
            return;
        }
    }
}

fn println_or_end(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

fn prompt(terminal: bool) -> Result<(), Failure> {
    if terminal {
        let mut out = io::stdout().lock();
        write!(out, "{PROMPT}")?;
        out.flush()?;
    }
    Ok(())
}

/// The error with its place and a suggestion.
fn refusal(statement: &str, error: &SyntaxError) -> String {
    let mut text = format!("{error}\n{}", crate::text::span::mark(statement, error.span()));
    if let Some(hint) = error.hint() {
        text.push_str("\nhint: ");
        text.push_str(&hint);
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_mistake_is_pointed_at() {
        let statement = "SELECT a FORM demo";
        let error = crate::sql::parse_select(statement).unwrap_err();
        assert_eq!(
            super::refusal(statement, &error),
            "found \"FORM\", expected FROM.\n1:10 | SELECT a FORM demo\n     |          ^^^^\nhint: did you mean FROM?"
        );
    }
}
