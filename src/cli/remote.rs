//! The verbs that manage a running service: a client of its REST API, with the words and arguments of eKuiper's
//! command line.
//!
//! Verbs and objects are read in any case, and a statement may be one argument or many. An error goes to stderr and
//! ends with code 1. Nothing is decided here: the service is asked, and its answer put into the words that scripts
//! know.

mod settings;

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::{Failure, config_of};
use crate::api;
use crate::sql;

/// How long the service may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// The largest answer that is read, in bytes.
const LARGEST: u64 = 256 << 20;

/// The verbs, which are known in any case.
pub const VERBS: &[&str] = &[
    "create",
    "describe",
    "show",
    "drop",
    "getstatus",
    "gettopo",
    "start",
    "stop",
    "restart",
    "validate",
    "import",
    "export",
];

/// Where the service is, and how one gets in.
#[derive(Args)]
pub struct Door {
    /// Where the REST API of the service is, such as http://127.0.0.1:9081; without it where the configuration says
    #[arg(long, env = "PLUTINO_URL", value_name = "URL")]
    url: Option<String>,
    /// Token of the REST API, where it asks for one
    #[arg(long, env = "PLUTINO_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// PEM file of the authorities to trust in place of the well-known ones, for https
    #[arg(long, env = "PLUTINO_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Folder of the configuration that says where the service listens
    #[arg(long, value_name = "DIR", default_value = "etc")]
    etc: PathBuf,
}

/// Which service is asked, how it is said, and about what.
#[derive(Args)]
pub struct Remote {
    #[command(flatten)]
    door: Door,
    /// Print the service's answer as JSON
    #[arg(long)]
    json: bool,
    /// Tell every mistake of what is refused, with its place and a suggestion; a terminal is told anyway
    #[arg(long)]
    details: bool,
    /// What it is about, such as `stream NAME (…) WITH (…)`, `rule NAME JSON`, `rules`; -f FILE reads it from a file
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OBJECT")]
    args: Vec<String>,
}

/// What came of a request that was answered.
struct Answer {
    status: u16,
    body: String,
}

/// What the user is told.
type Said = Result<String, Failure>;

fn refused(text: impl Into<String>) -> Failure {
    Failure::Said(text.into())
}

impl Remote {
    /// Does what `verb` says.
    pub fn run(mut self, verb: &str) -> Result<(), Failure> {
        // Behind the object they are no part of it either.
        self.json |= self.args.iter().any(|arg| arg == "--json");
        self.details |= self.args.iter().any(|arg| arg == "--details");
        self.args.retain(|arg| arg != "--json" && arg != "--details");
        let service = Service {
            base: self.door.base()?,
            agent: self.door.agent(Some(PATIENCE))?,
            token: self.door.authorization(),
            details: self.details || io::stderr().is_terminal(),
        };
        let said = Request { service, verb, json: self.json }.run(&self.args)?;
        if !said.is_empty() {
            writeln!(io::stdout().lock(), "{said}")?;
        }
        Ok(())
    }
}

impl Door {
    /// The address of the REST API, without a slash at its end.
    pub fn base(&self) -> Result<String, Failure> {
        if let Some(url) = &self.url {
            return Ok(url.trim_end_matches('/').to_owned());
        }
        let config = config_of(&self.etc)?;
        let scheme = if config.rest_tls.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{}", reachable(config.rest)))
    }

    /// A client that gives up after `patience` and trusts whom `--ca` says.
    pub fn agent(&self, patience: Option<Duration>) -> Result<ureq::Agent, Failure> {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(patience);
        let agent = match &self.ca {
            None => agent,
            Some(file) => {
                let roots = RootCerts::Specific(Arc::new(authorities(file)?));
                agent.tls_config(TlsConfig::builder().root_certs(roots).build())
            }
        };
        Ok(agent.build().into())
    }

    /// What the header `Authorization` says.
    pub fn authorization(&self) -> Option<String> {
        bearer(self.token.as_deref())
    }
}

/// What the header `Authorization` says with a token; one that has a space says all of it.
pub fn bearer(token: Option<&str>) -> Option<String> {
    let token = token.map(str::trim).filter(|token| !token.is_empty())?;
    Some(if token.contains(' ') { token.to_owned() } else { format!("Bearer {token}") })
}

/// The certificates of a PEM file.
fn authorities(file: &Path) -> Result<Vec<Certificate<'static>>, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::Refused(format!("--ca {}: {error}", file.display()));
    let text = std::fs::read(file).map_err(|error| wrong(&error))?;
    let mut found = Vec::new();
    for item in parse_pem(&text) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| wrong(&error))? {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err(wrong(&"the file holds no certificate in PEM form")) } else { Ok(found) }
}

/// Where a client on this machine reaches what listens on `address`.
fn reachable(address: std::net::SocketAddr) -> std::net::SocketAddr {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

struct Service {
    base: String,
    agent: ureq::Agent,
    /// what the header `Authorization` says
    token: Option<String>,
    /// all mistakes of what is refused are asked for: people read them, scripts compare the text
    details: bool,
}

impl Service {
    fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.answer(self.allowed(self.agent.get(self.at(path))).call())
    }

    fn delete(&self, path: &str) -> Result<Answer, Failure> {
        self.answer(self.allowed(self.agent.delete(self.at(path))).call())
    }

    fn put(&self, path: &str, body: &str) -> Result<Answer, Failure> {
        let request = self.allowed(self.agent.put(self.at(path))).header("content-type", "application/json");
        self.answer(request.send(body))
    }

    fn post(&self, path: &str, body: &str) -> Result<Answer, Failure> {
        let mut at = self.at(path);
        if self.details {
            at.push_str(if at.contains('?') { "&details" } else { "?details" });
        }
        let request = self.allowed(self.agent.post(at)).header("content-type", "application/json");
        self.answer(request.send(body))
    }

    fn allowed<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("authorization", token.as_str()),
            None => request,
        }
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn answer(&self, sent: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Answer, Failure> {
        let base = &self.base;
        let mut response = sent.map_err(|error| {
            Failure::Refused(format!(
                "cannot reach the service at {base}: {error}; start it with `plutino serve`, or say where it is with \
                 --url or PLUTINO_URL"
            ))
        })?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(LARGEST).read_to_string();
        let body = body.map_err(|error| Failure::Refused(format!("the answer of {base} broke off: {error}")))?;
        Ok(Answer { status, body })
    }
}

impl Answer {
    fn is_right(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The text of an error.
    fn message(&self) -> String {
        let message = serde_json::from_str::<Value>(&self.body).ok();
        let message = message.and_then(|body| body.get("message")?.as_str().map(str::to_owned));
        message.unwrap_or_else(|| self.body.trim_end().to_owned())
    }

    /// `said`, and below it what the service says of each mistake, where it was asked to.
    fn explained(&self, said: String) -> String {
        let body = serde_json::from_str::<Value>(&self.body).unwrap_or_default();
        let details = body["details"].as_array().map(Vec::as_slice).unwrap_or_default();
        api::explained(&said, details)
    }

    fn parsed(&self) -> Result<Value, Failure> {
        serde_json::from_str(&self.body)
            .map_err(|error| Failure::Refused(format!("the service's answer is not understood: {error}")))
    }
}

/// A name in a path.
fn escaped(name: &str) -> String {
    let mut path = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => path.push(char::from(byte)),
            other => {
                let _ = write!(path, "%{other:02X}");
            }
        }
    }
    path
}

struct Request<'a> {
    service: Service,
    verb: &'a str,
    json: bool,
}

impl Request<'_> {
    fn run(&self, args: &[String]) -> Said {
        let Some((object, rest)) = args.split_first() else { return self.objects() };
        let object = object.to_lowercase();
        match (self.verb, object.as_str()) {
            ("create", "stream" | "table") => self.create_relation(&object, rest),
            ("describe", "stream" | "table") => self.describe_relation(&object, rest),
            ("drop", "stream" | "table") => self.drop_relation(&object, rest),
            ("show", "streams" | "tables") => self.show_relations(&object, rest),
            ("create", "rule") => self.create_rule(rest),
            ("validate", "rule") => self.validate_rule(rest),
            ("show", "rules") => self.show_rules(),
            ("describe" | "drop" | "getstatus" | "gettopo" | "start" | "stop" | "restart" | "explain", "rule") => {
                self.rule(rest)
            }
            ("getstatus", "import") => self.shown(self.service.get("/data/import/status")?),
            ("import", "ruleset") => self.import_ruleset(rest),
            ("export", "ruleset") => self.export_ruleset(rest),
            ("import", "data") => self.import_data(rest),
            ("export", "data") => self.export_data(rest),
            ("show", "confkeys") => self.show_conf_keys(rest),
            ("describe" | "drop" | "create", "confkey") => self.conf_key(rest),
            ("show", "connections") => self.show_connections(),
            ("describe" | "drop" | "create", "connection") => self.connection(rest),
            ("show", "services" | "service_funcs") => Ok("No service definitions are found.".to_owned()),
            ("show", "udfs") => Ok("No udf is found.".to_owned()),
            ("show", "schemas") if rest.is_empty() => Err(refused("Expect schema type.")),
            ("show", "schemas") => match rest[0].as_str() {
                "protobuf" | "custom" => Ok("No schema definitions are found.".to_owned()),
                other => Err(refused(format!("Show schemas error: schema type {other} not found."))),
            },
            ("show", "plugins") => plugins(rest),
            ("create" | "describe" | "drop", "plugin" | "service" | "service_func" | "schema" | "udf" | "script") => {
                Err(refused(format!("A {object} is not part of Plutino.")))
            }
            _ => Err(Failure::Object(format!("No help topic for '{object}'; {} knows {}", self.verb, self.names()))),
        }
    }

    /// What the verb can be about.
    fn names(&self) -> String {
        let objects: &[&str] = match self.verb {
            "show" => &[
                "streams",
                "tables",
                "rules",
                "plugins",
                "services",
                "service_funcs",
                "schemas",
                "udfs",
                "confkeys",
                "connections",
            ],
            "create" | "describe" | "drop" => &["stream", "table", "rule", "connection", "confkey"],
            "getstatus" => &["rule", "import"],
            "import" | "export" => &["ruleset", "data"],
            _ => &["rule"],
        };
        objects.join(", ")
    }

    fn objects(&self) -> Said {
        Ok(format!("plutino {} OBJECT …\n\nCOMMANDS:\n  {}", self.verb, self.names().replace(", ", "\n  ")))
    }

    /// A text that the service said, as text or as JSON.
    fn told(&self, text: impl Into<String>) -> Said {
        let text = text.into();
        Ok(if self.json { json!({ "message": text }).to_string() } else { text })
    }

    /// An answer as indented JSON.
    fn shown(&self, answer: Answer) -> Said {
        if !answer.is_right() {
            return Err(refused(answer.message()));
        }
        indented(&answer.parsed()?)
    }

    fn create_relation(&self, object: &str, rest: &[String]) -> Said {
        let mut said = String::new();
        let definition = match file_of(rest)? {
            Some((file, _)) => {
                let _ = writeln!(said, "Creating a new {object} from file {file}.");
                let text = std::fs::read_to_string(&file)
                    .map_err(|_| refused(format!("The specified {object} defenition file {file} is not existed.")))?;
                // A file may hold the whole statement.
                let words: Vec<String> = text.split_whitespace().take(2).map(str::to_uppercase).collect();
                if words == ["CREATE", &object.to_uppercase()] { text } else { statement("CREATE", object, &[text]) }
            }
            None => statement("CREATE", object, rest),
        };
        let answer = self.service.post(&format!("/{object}s"), &json!({ "sql": definition }).to_string())?;
        if !answer.is_right() {
            let message = answer.message().replacen("Table command error", "Stream command error", 1);
            return Err(refused(answer.explained(said + &message)));
        }
        self.told(said + answer.body.trim_end())
    }

    /// The name in a statement such as `DROP STREAM name`, which may be split over arguments.
    fn named(&self, verb: &str, object: &str, rest: &[String]) -> Result<String, Failure> {
        if rest.is_empty() {
            return Err(refused(format!("Stream command error: found \"EOF\", expected {object} name.")));
        }
        match sql::parse_statement(&statement(verb, object, rest)) {
            Ok(sql::ast::Statement::Drop(_, name) | sql::ast::Statement::Describe(_, name)) => {
                Ok(name.name.to_string())
            }
            Ok(_) => Err(refused("Stream command error: a name is expected.")),
            Err(error) => Err(refused(format!("Stream command error: {error}"))),
        }
    }

    fn drop_relation(&self, object: &str, rest: &[String]) -> Said {
        let name = self.named("DROP", object, rest)?;
        let answer = self.service.delete(&format!("/{object}s/{}", escaped(&name)))?;
        if answer.is_right() {
            return self.told(format!("{} {name} is dropped.", capital(object)));
        }
        let message = answer.message();
        let why = message.split_once("error: ").map_or(message.as_str(), |(_, why)| why);
        Err(refused(format!("Stream command error: Drop {object} fails: {why}.")))
    }

    fn describe_relation(&self, object: &str, rest: &[String]) -> Said {
        let json = rest.iter().any(|arg| matches!(arg.as_str(), "-json" | "--json"));
        let rest: Vec<String> =
            rest.iter().filter(|arg| !matches!(arg.as_str(), "-json" | "--json")).cloned().collect();
        let name = self.named("DESCRIBE", object, &rest)?;
        let answer = self.service.get(&format!("/{object}s/{}", escaped(&name)))?;
        if !answer.is_right() {
            let message = answer.message();
            let why = message.split_once("error: ").map_or(message.as_str(), |(_, why)| why);
            return Err(refused(format!("Stream command error: {why}")));
        }
        let definition = answer.parsed()?;
        if json || self.json { indented(&definition) } else { Ok(described(&definition)) }
    }

    fn show_relations(&self, objects: &str, rest: &[String]) -> Said {
        if let Some(more) = rest.first() {
            return Err(refused(format!("Stream command error: found \"{more}\", expected semecolon or EOF.")));
        }
        let answer = self.service.get(&format!("/{objects}"))?;
        if !answer.is_right() || self.json {
            return self.shown(answer);
        }
        let names = answer.parsed()?;
        let names: Vec<&str> = names.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if names.is_empty() {
            let object = objects.trim_end_matches('s');
            return Ok(format!("No {object} definitions are found."));
        }
        Ok(names.join("\n"))
    }

    fn create_rule(&self, rest: &[String]) -> Said {
        let (mut said, name, rule) = rule_of(rest)?;
        if let Some(other) =
            serde_json::from_str::<Value>(&rule).ok().as_ref().and_then(|rule| rule.get("id")?.as_str())
            && other != name
            && !other.is_empty()
        {
            let why = "invalid rule json: RuleId is not consistent with rule id.";
            return Err(refused(format!("{said}Create rule  error : {why}.")));
        }
        let answer = self.service.post("/rules", &with_id(&name, &rule))?;
        if !answer.is_right() {
            let message = answer.message();
            let subject = if message.starts_with("invalid rule json") { "" } else { name.as_str() };
            return Err(refused(answer.explained(format!("{said}Create rule {subject} error : {message}."))));
        }
        // The words that scripts wait for name eKuiper's program.
        let _ = write!(
            said,
            "Rule {name} was created successfully, please use 'bin/kuiper getstatus rule {name}' command to get rule \
             status."
        );
        self.told(said)
    }

    fn validate_rule(&self, rest: &[String]) -> Said {
        let (said, name, rule) = rule_of(rest)?;
        let answer = self.service.post("/rules/validate", &with_id(&name, &rule))?;
        if !answer.is_right() {
            return Err(refused(said + &answer.message()));
        }
        self.told(said + "The rule has been successfully validated and is confirmed to be correct.")
    }

    fn show_rules(&self) -> Said {
        let answer = self.service.get("/rules")?;
        if !self.json && answer.is_right() && answer.parsed()?.as_array().is_some_and(Vec::is_empty) {
            return Ok("No rule definitions are found.".to_owned());
        }
        self.shown(answer)
    }

    /// The verbs about one rule that is there.
    fn rule(&self, rest: &[String]) -> Said {
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
            Some(done) if done.is_empty() => self.told(answer.body.trim_end()),
            Some(done) => self.told(done),
        }
    }

    fn import_ruleset(&self, rest: &[String]) -> Said {
        let Some((file, _)) = file_of(rest)? else { return Err(refused("Required ruleset json file to import")) };
        let text = read(&file)?;
        let answer = self.service.post("/ruleset/import", &json!({ "content": text }).to_string())?;
        if !answer.is_right() {
            return Err(refused(answer.message()));
        }
        self.told(answer.body.trim())
    }

    fn export_ruleset(&self, rest: &[String]) -> Said {
        let [file] = rest else { return Err(refused("Require exported file name.")) };
        let answer = self.service.post("/ruleset/export", "")?;
        if !answer.is_right() {
            return Err(refused(answer.message()));
        }
        let (streams, tables, rules) = counts(&answer.parsed()?);
        write_file(file, &answer.body)?;
        self.told(format!("exported {streams} streams, {tables} tables and {rules} rules"))
    }

    fn import_data(&self, rest: &[String]) -> Said {
        let Some((file, rest)) = file_of(rest)? else {
            return Err(refused("Required configuration json file to import"));
        };
        let flag = |name: &str| {
            let at = rest.iter().position(|arg| arg.trim_start_matches('-') == name && arg.starts_with('-'));
            let value = at.and_then(|at| rest.get(at + 1)).map(|value| value.to_lowercase());
            match value.as_deref() {
                Some("true") => Ok(true),
                Some("false") => Ok(false),
                _ => Err(refused(format!("Expect {name} flag to be a boolean value."))),
            }
        };
        let (stop, partial) = (flag("s")?, flag("p")?);
        let body = json!({ "content": read(&file)? }).to_string();
        let path = format!("/data/import?stop={}&partial={}", u8::from(stop), u8::from(partial));
        let answer = self.service.post(&path, &body)?;
        // What was refused is in the message, as JSON.
        match serde_json::from_str::<Value>(&answer.message()) {
            Ok(refusals @ Value::Object(_)) if !answer.is_right() => {
                let status = json!({ "ErrorMsg": "process error", "ConfigResponse": refusals });
                Err(indented(&status).map_or_else(|error| error, refused))
            }
            _ => self.shown(answer),
        }
    }

    fn export_data(&self, rest: &[String]) -> Said {
        let (rules, file) = match rest {
            [flag, rules, file] if flag == "-r" => (Some(rules), file),
            [file] => (None, file),
            _ => return Err(refused("Expect configuration file.")),
        };
        let answer = match rules {
            Some(rules) => self.service.post("/data/export", rules)?,
            None => self.service.get("/data/export")?,
        };
        if !answer.is_right() {
            return Err(refused(answer.message()));
        }
        write_file(file, &answer.body)?;
        self.told("export configuration success")
    }
}

/// `CREATE STREAM …` of arguments that the shell has split anyhow.
fn statement(verb: &str, object: &str, rest: &[String]) -> String {
    let mut statement = format!("{verb} {}", object.to_uppercase());
    for part in rest {
        statement.push(' ');
        statement.push_str(part);
    }
    statement
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// The file of `-f FILE`, and the other arguments.
fn file_of(rest: &[String]) -> Result<Option<(String, Vec<String>)>, Failure> {
    let Some(at) = rest.iter().position(|arg| matches!(arg.as_str(), "-f" | "--file")) else { return Ok(None) };
    let mut others = rest.to_vec();
    others.remove(at);
    if at == others.len() {
        return Err(refused("Expect a file behind -f."));
    }
    let file = others.remove(at);
    Ok(Some((file, others)))
}

/// What was said so far, the name and the text of a rule.
fn rule_of(rest: &[String]) -> Result<(String, String, String), Failure> {
    if let Some((file, others)) = file_of(rest)? {
        let text = std::fs::read_to_string(&file)
            .map_err(|_| refused(format!("The specified rule defenition file {file} is not existed.")))?;
        let said = format!("Creating a new rule from file {file}.\n");
        return match others.as_slice() {
            [name] => Ok((said, name.clone(), text)),
            _ => Err(refused(said + "Expect rule name.")),
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

/// A JSON object with this id; what is no object goes to the service as it is, which says what is wrong with it.
fn with_id(id: &str, text: &str) -> String {
    match serde_json::from_str::<Map<String, Value>>(text) {
        Ok(mut object) => {
            object.insert("id".to_owned(), Value::from(id));
            Value::Object(object).to_string()
        }
        Err(_) => text.to_owned(),
    }
}

fn read(file: &str) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::NotFound => format!("open {file}: no such file or directory"),
            _ => error.to_string(),
        };
        refused(format!("fail to read file {file}: {why}"))
    })
}

fn write_file(file: &str, text: &str) -> Result<(), Failure> {
    std::fs::write(Path::new(file), text).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => refused(format!("open {file}: no such file or directory")),
        _ => refused(format!("open {file}: {error}")),
    })
}

/// How many streams, tables and rules a ruleset has.
fn counts(ruleset: &Value) -> (usize, usize, usize) {
    let count = |name: &str| ruleset.get(name).and_then(Value::as_object).map_or(0, Map::len);
    (count("streams"), count("tables"), count("rules"))
}

fn indented(value: &Value) -> Said {
    serde_json::to_string_pretty(value).map_err(|error| Failure::Refused(error.to_string()))
}

fn plugins(rest: &[String]) -> Said {
    match rest.first().map(String::as_str) {
        None => Err(refused("Expect plugin type.")),
        Some("source" | "sink" | "function" | "portable" | "wasm") => Ok("No plugin is found.".to_owned()),
        Some(other) => Err(refused(format!(
            "Invalid plugin type {other}, should be \"source\", \"sink\", \"function\" or \"portable\" or \"wasm\"."
        ))),
    }
}

/// A stream or table for people: its columns, then its options.
fn described(definition: &Value) -> String {
    let mut text = format!("Fields\n{}\n", "-".repeat(80));
    for field in definition.get("StreamFields").and_then(Value::as_array).into_iter().flatten() {
        let name = field.get("Name").and_then(Value::as_str).unwrap_or_default();
        let _ = writeln!(text, "{name}\t{}", type_text(field.get("FieldType").unwrap_or(&Value::Null)));
    }
    let mut options: Vec<(String, String)> = Vec::new();
    for (name, value) in definition.get("Options").and_then(Value::as_object).into_iter().flatten() {
        let value = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        options.push((option_name(name), value));
    }
    options.sort_by_key(|(name, _)| ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len()));
    for (name, value) in options {
        let _ = write!(text, "\n{name}: {value}");
    }
    text
}

/// The order in which options are described.
const ORDER: &[&str] = &[
    "DATASOURCE",
    "FORMAT",
    "SCHEMAID",
    "KEY",
    "CONF_KEY",
    "SHARED",
    "STRICT_VALIDATION",
    "TYPE",
    "TIMESTAMP",
    "TIMESTAMP_FORMAT",
    "RETAIN_SIZE",
    "KIND",
    "DELIMITER",
];

/// `confKey` as it is written in statements.
fn option_name(name: &str) -> String {
    let written = name.to_uppercase();
    let known = ORDER.iter().find(|known| known.replace('_', "") == written.replace('_', ""));
    known.map_or(written, |known| (*known).to_owned())
}

fn type_text(of: &Value) -> String {
    let named = |key: &str| of.get(key).and_then(Value::as_str);
    match (of, named("Type")) {
        (Value::String(name), _) => name.clone(),
        (_, Some("array")) => format!("array({})", type_text(of.get("ElementType").unwrap_or(&Value::Null))),
        (_, Some("struct")) => {
            let field = |field: &Value| {
                let name = field.get("Name").and_then(Value::as_str).unwrap_or_default();
                format!("{name} {}", type_text(field.get("FieldType").unwrap_or(&Value::Null)))
            };
            let fields = of.get("Fields").and_then(Value::as_array).into_iter().flatten();
            format!("struct({})", fields.map(field).collect::<Vec<_>>().join(", "))
        }
        (other, _) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_may_be_split_anyhow() {
        let args = ["demo", "()", "WITH", "(TYPE=\"websocket\")"].map(str::to_owned);
        assert_eq!(statement("CREATE", "stream", &args), "CREATE STREAM demo () WITH (TYPE=\"websocket\")");
    }

    #[test]
    fn files_are_found_among_the_arguments() {
        let args = ["-f", "r.json", "r1"].map(str::to_owned);
        assert!(matches!(file_of(&args), Ok(Some((file, rest))) if file == "r.json" && rest == ["r1"]));
        assert!(file_of(&["-f".to_owned()]).is_err());
    }

    #[test]
    fn names_stay_in_their_place_of_a_path() {
        assert_eq!(escaped("a/../b c?"), "a%2F..%2Fb%20c%3F");
    }
}
