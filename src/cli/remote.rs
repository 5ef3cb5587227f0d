//! The verbs that manage a running service, with the words and arguments of eKuiper's command line.
//!
//! They are clients of the REST API and decide nothing: they print the service's response in the words that scripts
//! know. Verbs and objects match regardless of case, and a statement may be one argument or many. Options may be
//! anywhere; `--` ends them. An unknown option is refused before anything is sent: a misspelt `--url` must not act on
//! the wrong service.

mod client;
mod relations;
mod rules;
mod sending;
mod settings;
mod tls;
mod transfer;
mod views;

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use super::Failure;
use client::{Answer, Service};

pub use client::{Door, bearer, error_text, escaped};
pub use sending::{sent, unreachable};

/// How long the service may take to respond.
const PATIENCE: Duration = Duration::from_secs(60);

/// The verbs. They match regardless of case.
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

/// The service, how to show its response, and the verb's arguments.
#[derive(Args)]
pub struct Remote {
    #[command(flatten)]
    door: Door,
    /// Print the service's response as JSON
    #[arg(long)]
    json: bool,
    /// Explain every error in a refused definition, with its place and a suggestion (always on a terminal)
    #[arg(long)]
    details: bool,
    /// The object of the verb, such as `stream NAME (…) WITH (…)`, `rule NAME JSON`, `rules`
    #[arg(value_name = "OBJECT", allow_negative_numbers = true)]
    args: Vec<String>,
}

/// As [`Remote`], for verbs that can read the definition from a file.
#[derive(Args)]
pub struct RemoteWithFile {
    #[command(flatten)]
    remote: Remote,
    /// File with the statement, rule or properties
    #[arg(short, long, value_name = "FILE")]
    file: Option<String>,
}

/// `drop`.
#[derive(Args)]
pub struct Drop {
    #[command(flatten)]
    remote: Remote,
    /// Drop a stream, table or view even if rules or views read it
    #[arg(long)]
    force: bool,
}

/// `import`.
#[derive(Args)]
pub struct Import {
    #[command(flatten)]
    with_file: RemoteWithFile,
    /// For `import data`, true or false: end the service after the import, so that its supervisor restarts it
    #[arg(short, value_name = "BOOL")]
    stop: Option<String>,
    /// For `import data`, true or false: add to the service's data instead of replacing it
    #[arg(short, value_name = "BOOL")]
    partial: Option<String>,
}

/// `export`.
#[derive(Args)]
pub struct Export {
    #[command(flatten)]
    remote: Remote,
    /// For `export data`: JSON list of the rules to export
    #[arg(short, value_name = "RULES")]
    rules: Option<String>,
    /// Include passwords, tokens and keys; by default they are ***
    #[arg(long)]
    secrets: bool,
}

/// The text for the user, or the failure.
type Reply = Result<String, Failure>;

fn refused(text: impl Into<String>) -> Failure {
    Failure::Service(text.into())
}

/// The options that only some verbs have.
#[derive(Default)]
struct Options {
    /// a file with the definition
    file: Option<String>,
    /// `-s` of `import data`, as written
    stop: Option<String>,
    /// `-p` of `import data`, as written
    partial: Option<String>,
    /// `-r` of `export data`: a JSON list
    rules: Option<String>,
    /// `--secrets` of `export`
    secrets: bool,
    /// `--force` of `drop`
    force: bool,
}

impl Remote {
    /// Runs `verb`.
    pub fn run(self, verb: &str) -> Result<(), Failure> {
        self.run_with(verb, Options::default())
    }

    fn run_with(self, verb: &str, options: Options) -> Result<(), Failure> {
        let service = Service {
            base: self.door.base()?,
            agent: self.door.agent(Some(PATIENCE))?,
            token: self.door.authorization(),
            details: self.details || io::stderr().is_terminal(),
        };
        let reply = Request { service, verb, json: self.json, options }.run(&self.args)?;
        if !reply.is_empty() {
            writeln!(io::stdout().lock(), "{reply}")?;
        }
        Ok(())
    }
}

impl RemoteWithFile {
    /// Runs `verb`.
    pub fn run(self, verb: &str) -> Result<(), Failure> {
        self.remote.run_with(verb, Options { file: self.file, ..Options::default() })
    }
}

impl Drop {
    /// Runs `drop`.
    pub fn run(self) -> Result<(), Failure> {
        self.remote.run_with("drop", Options { force: self.force, ..Options::default() })
    }
}

impl Import {
    /// Runs `import`.
    pub fn run(self) -> Result<(), Failure> {
        let RemoteWithFile { remote, file } = self.with_file;
        remote.run_with("import", Options { file, stop: self.stop, partial: self.partial, ..Options::default() })
    }
}

impl Export {
    /// Runs `export`.
    pub fn run(self) -> Result<(), Failure> {
        self.remote.run_with("export", Options { rules: self.rules, secrets: self.secrets, ..Options::default() })
    }
}

struct Request<'a> {
    service: Service,
    verb: &'a str,
    json: bool,
    options: Options,
}

impl Request<'_> {
    fn run(&self, args: &[String]) -> Reply {
        let Some((object, rest)) = args.split_first() else { return self.objects() };
        let object = object.to_lowercase();
        match (self.verb, object.as_str()) {
            ("create", "stream" | "table") => self.create_relation(&object, rest),
            ("describe", "stream" | "table") => self.describe_relation(&object, rest),
            ("drop", "stream" | "table") => self.drop_relation(&object, rest),
            ("show", "streams" | "tables") => self.show_relations(&object, rest),
            ("create", "view") => self.create_view(rest),
            ("show", "views") => self.show_views(),
            ("describe" | "drop" | "getstatus", "view") => self.view(rest),
            ("create", "rule") => self.create_rule(rest),
            ("validate", "rule") => self.validate_rule(rest),
            ("show", "rules") => self.show_rules(),
            ("describe" | "drop" | "getstatus" | "gettopo" | "start" | "stop" | "restart" | "explain", "rule") => {
                self.rule(rest)
            }
            ("getstatus", "import") => self.shown(self.service.get("/data/import/status")?),
            ("import", "ruleset") => self.import_ruleset(),
            ("export", "ruleset") => self.export_ruleset(rest),
            ("import", "data") => self.import_data(),
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

    /// The text of the file that `-f` names.
    fn file_text(&self) -> Result<Option<String>, Failure> {
        self.options.file.as_deref().map(read).transpose()
    }

    /// The query parameter of `--force`, which also drops what rules or views read.
    fn forced(&self) -> &'static str {
        if self.options.force { "?force=true" } else { "" }
    }

    /// The objects that the verb knows.
    fn names(&self) -> String {
        let objects: &[&str] = match self.verb {
            "show" => &[
                "streams",
                "tables",
                "views",
                "rules",
                "plugins",
                "services",
                "service_funcs",
                "schemas",
                "udfs",
                "confkeys",
                "connections",
            ],
            "create" | "describe" | "drop" => &["stream", "table", "view", "rule", "connection", "confkey"],
            "getstatus" => &["rule", "view", "import"],
            "import" | "export" => &["ruleset", "data"],
            _ => &["rule"],
        };
        objects.join(", ")
    }

    fn objects(&self) -> Reply {
        Ok(format!("plutino {} OBJECT …\n\nCOMMANDS:\n  {}", self.verb, self.names().replace(", ", "\n  ")))
    }

    /// A message from the service, as text or as JSON.
    fn message(&self, text: impl Into<String>) -> Reply {
        let text = text.into();
        Ok(if self.json { json!({ "message": text }).to_string() } else { text })
    }

    /// A response as indented JSON.
    fn shown(&self, answer: Answer) -> Reply {
        if !answer.is_right() {
            return Err(refused(answer.message()));
        }
        indented(&answer.parsed()?)
    }
}

/// Sets the id of a JSON object. Any other text goes to the service unchanged, which reports what is wrong with it.
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

fn indented(value: &Value) -> Reply {
    serde_json::to_string_pretty(value).map_err(|error| Failure::Refused(error.to_string()))
}

fn plugins(rest: &[String]) -> Reply {
    match rest.first().map(String::as_str) {
        None => Err(refused("Expect plugin type.")),
        Some("source" | "sink" | "function" | "portable" | "wasm") => Ok("No plugin is found.".to_owned()),
        Some(other) => Err(refused(format!(
            "Invalid plugin type {other}, should be \"source\", \"sink\", \"function\" or \"portable\" or \"wasm\"."
        ))),
    }
}
