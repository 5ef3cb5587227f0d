//! The command line: one module per verb. It parses arguments, reads files, drives the engine, and reports what
//! happens.
//!
//! Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 cannot run, 2 the command line is wrong, 3
//! unknown kind of object, 4 another process of the cluster is lost.

mod check;
mod console;
mod diff;
mod explain;
mod feed;
mod follow;
mod hosts;
mod junit;
mod look;
mod patrol;
mod peer;
mod player;
mod query;
mod record;
mod reload;
mod remote;
mod replay;
mod run;
mod schema;
mod serve;
mod status;
mod store;
mod tail;
mod terminal;
mod test;
mod token;
mod watch;

use std::ffi::OsString;
use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{self, Config, LogFormat};
use crate::logging::{self, LogError, LogSettings};
use crate::text::document::Problem;

/// SQL rules over live websocket feeds
#[derive(Parser)]
#[command(name = "plutino", version, arg_required_else_help = true)]
#[command(
    after_help = "A first look, with nothing else running:\n  plutino run examples/telemetry/rules.yaml --feed examples/telemetry/data.ndjson"
)]
struct Cli {
    /// What to log on stderr: error, warn, info, debug, trace, or directives such as plutino::io=debug
    #[arg(long, global = true, env = "PLUTINO_LOG", value_name = "LEVEL")]
    log: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Run(run::Run),
    Serve(serve::Serve),
    Check(check::Check),
    Test(test::Test),
    Diff(diff::Diff),
    Explain(explain::Explain),
    Feed(feed::Feed),
    Record(record::Record),
    Tail(tail::Tail),
    Watch(watch::Watch),
    Query(query::Query),
    Status(look::Status),
    Tap(look::Tap),
    Top(look::Top),
    Store(store::Store),
    Token(token::Token),
    /// Create a stream, table, view, rule, connection or confkey in a running service
    Create(remote::RemoteWithFile),
    /// Describe a stream, table, view, rule, connection or confkey of a running service
    Describe(remote::Remote),
    /// List the streams, tables, views, rules, confkeys or connections of a running service
    Show(remote::Remote),
    /// Drop a stream, table, view, rule, connection or confkey of a running service
    Drop(remote::Drop),
    /// Show the status of a rule or view, or of the last import
    Getstatus(remote::Remote),
    /// Show the operators of a rule as a graph
    Gettopo(remote::Remote),
    /// Start a rule
    Start(remote::Remote),
    /// Stop a rule
    Stop(remote::Remote),
    /// Restart a rule
    Restart(remote::Remote),
    /// Check a rule without creating it
    Validate(remote::RemoteWithFile),
    /// Import a ruleset, or all data, from a file
    Import(remote::Import),
    /// Export the ruleset, or all data, to a file
    Export(remote::Export),
    /// Show the plan of a rule of a running service (`explain rule NAME`)
    #[command(hide = true)]
    ExplainRule(remote::Remote),
    Schema(schema::Schema),
    /// Print shell completions
    Completions {
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of all verbs into a folder
    #[command(hide = true)]
    Man {
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

/// The configuration folder.
#[derive(Args)]
struct Etc {
    /// Configuration folder with plutino.yaml (or kuiper.yaml) and sources/websocket.yaml; it need not exist
    #[arg(long, value_name = "DIR", default_value = DEFAULT_ETC)]
    etc: PathBuf,
}

/// The default configuration folder. It need not exist.
const DEFAULT_ETC: &str = "etc";

/// How long `feed` and `tail` wait before they dial again.
const REDIAL: Duration = Duration::from_secs(1);

/// Why a verb ends with an error.
enum Failure {
    /// problems in files
    Problems(Vec<Problem>),
    /// any other reason, as one line
    Refused(String),
    /// the service's own error message
    Service(String),
    /// the arguments contradict each other
    Usage(String),
    /// the verb does not know this kind of object: exit code 3, and a message only on a terminal
    Object(String),
    /// another process of the cluster has ended: exit code 4
    Lost(String),
    /// the reason has been reported already
    Reported,
    /// the reader of stdout has closed it, so there is nobody to report to
    OutputClosed,
}

impl From<io::Error> for Failure {
    /// An error of writing to stdout.
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::Refused(format!("cannot write to stdout: {error}")),
        }
    }
}

/// Runs the command line and returns the process's exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse_from(words(std::env::args_os().collect()));
    let log = cli.log.as_deref();
    let done = match cli.verb {
        Verb::Run(run) => run.run(log),
        Verb::Serve(serve) => serve.run(log),
        Verb::Check(check) => check.run(log),
        Verb::Test(test) => test.run(log),
        Verb::Diff(diff) => diff.run(log),
        Verb::Explain(explain) => explain.run(log),
        Verb::Feed(feed) => start_log(log, None, LogSettings::default()).and_then(|()| feed.run()),
        Verb::Record(record) => start_log(log, None, LogSettings::default()).and_then(|()| record.run()),
        Verb::Tail(tail) => start_log(log, None, LogSettings::default()).and_then(|()| tail.run()),
        Verb::Watch(watch) => start_log(log, None, LogSettings::default()).and_then(|()| watch.run()),
        Verb::Query(query) => query.run(),
        Verb::Status(status) => status.run(),
        Verb::Tap(tap) => tap.run(),
        Verb::Top(top) => top.run(),
        Verb::Store(store) => store.run(),
        Verb::Token(token) => token.run(),
        Verb::Create(remote) => remote.run("create"),
        Verb::Describe(remote) => remote.run("describe"),
        Verb::Show(remote) => remote.run("show"),
        Verb::Drop(drop) => drop.run(),
        Verb::Getstatus(remote) => remote.run("getstatus"),
        Verb::Gettopo(remote) => remote.run("gettopo"),
        Verb::Start(remote) => remote.run("start"),
        Verb::Stop(remote) => remote.run("stop"),
        Verb::Restart(remote) => remote.run("restart"),
        Verb::Validate(remote) => remote.run("validate"),
        Verb::Import(import) => import.run(),
        Verb::Export(export) => export.run(),
        Verb::ExplainRule(remote) => remote.run("explain"),
        Verb::Schema(schema) => schema.run(),
        Verb::Completions { shell } => {
            // The library panics if it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "plutino", &mut script);
            io::stdout().lock().write_all(&script).map_err(Failure::from)
        }
        Verb::Man { folder } => write_man(&folder),
    };
    logging::finish();
    match done {
        Ok(()) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(Failure::Reported) => ExitCode::from(1),
        Err(Failure::Problems(problems)) => {
            say_problems(&problems);
            ExitCode::from(1)
        }
        Err(Failure::Refused(message)) => {
            say(&format!("plutino: {message}"));
            ExitCode::from(1)
        }
        Err(Failure::Service(message)) => {
            say(&message);
            ExitCode::from(1)
        }
        Err(Failure::Object(message)) => {
            if io::stderr().is_terminal() {
                say(&message);
            }
            ExitCode::from(3)
        }
        Err(Failure::Lost(message)) => {
            say(&format!("plutino: {message}"));
            ExitCode::from(hosts::LOST)
        }
        Err(Failure::Usage(message)) => {
            say(&format!("plutino: {message}\n\nFor more information, try '--help'."));
            ExitCode::from(2)
        }
    }
}

/// Writes `plutino.1` and one page for each verb into a folder, which is created if it does not exist.
fn write_man(folder: &Path) -> Result<(), Failure> {
    let written = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(Cli::command(), folder));
    written.map_err(|error| Failure::Refused(format!("cannot write into {}: {error}", folder.display())))
}

/// Moves verbs before the options that precede them: options may stand at any place. A nested verb, such as that of
/// `store check`, comes right after its own verb then. Unknown options are left to clap.
fn put_verbs_first(args: &mut [OsString]) {
    let cli = Cli::command();
    let (mut command, mut place) = (&cli, 1);
    while command.has_subcommands() {
        let mut at = place;
        let word_at = |at: usize| args.get(at).and_then(|arg| arg.to_str());
        while let Some(option) = word_at(at).filter(|arg| is_option(arg) && *arg != "--") {
            let Some(words) = words_of(&cli, option) else { return };
            at += words;
        }
        let verb = word_at(at).map(str::to_lowercase).unwrap_or_default();
        let Some(found) = command.find_subcommand(&verb) else { return };
        args[place..=at].rotate_right(1);
        (command, place) = (found, place + 1);
    }
}

fn is_option(arg: &str) -> bool {
    arg.starts_with('-')
}

/// How many words an option takes: two if its value follows. `None` if no verb has the option.
fn words_of(cli: &clap::Command, option: &str) -> Option<usize> {
    let name = option.split('=').next().unwrap_or_default();
    Some(if takes_word(cli, name)? && name == option { 2 } else { 1 })
}

/// Whether the word after this option is its value; `None` if no verb has the option. An option means the same to all
/// verbs that have it.
fn takes_word(cli: &clap::Command, option: &str) -> Option<bool> {
    if option == "-json" {
        return Some(false);
    }
    let is_it = |arg: &&clap::Arg| match (option.strip_prefix("--"), option.strip_prefix('-')) {
        (Some(long), _) => arg.get_long() == Some(long),
        (None, Some(short)) => arg.get_short().is_some_and(|known| short.chars().eq([known])),
        (None, None) => false,
    };
    let arg = each_command(cli).into_iter().find_map(|verb| verb.get_arguments().find(is_it))?;
    Some(arg.get_action().takes_values() && !arg.is_require_equals_set())
}

/// A command with all its verbs, nested ones too.
fn each_command(command: &clap::Command) -> Vec<&clap::Command> {
    let nested = command.get_subcommands().flat_map(each_command);
    std::iter::once(command).chain(nested).collect()
}

/// Adjusts the arguments for clap. Scripts write the service's verbs in capitals (`CREATE STREAM`) and `-json` with one
/// hyphen. `explain rule NAME` queries the service, unless there is a file called `rule`. `run --console ADDR` names
/// the console's address, unless there is a file called so.
fn words(mut args: Vec<OsString>) -> Vec<OsString> {
    put_verbs_first(&mut args);
    let lower = |arg: Option<&OsString>| arg.and_then(|arg| arg.to_str()).map(str::to_lowercase);
    let Some(verb) = lower(args.get(1)) else { return args };
    if remote::VERBS.contains(&verb.as_str()) || verb == "query" {
        args[1] = verb.into();
        for arg in args.iter_mut().take_while(|arg| *arg != "--").filter(|arg| *arg == "-json") {
            *arg = "--json".into();
        }
    } else if verb == "explain" && explains_rule(&args) {
        args[1] = "explain-rule".into();
    } else if verb == "run" {
        join_console(&mut args);
    }
    args
}

/// Whether the first word after `explain` and its options is `rule`, and no file.
fn explains_rule(args: &[OsString]) -> bool {
    let cli = Cli::command();
    let mut at = 2;
    while let Some(option) = args.get(at).and_then(|arg| arg.to_str()).filter(|arg| is_option(arg)) {
        at += words_of(&cli, option).unwrap_or(1);
    }
    args.get(at).is_some_and(|word| word.eq_ignore_ascii_case("rule") && !Path::new(word).exists())
}

/// Joins `--console ADDR` to `--console=ADDR`. The address can be left out, so clap takes the next word as a rule file.
fn join_console(args: &mut Vec<OsString>) {
    let options = args.iter().take_while(|arg| *arg != "--");
    let Some(at) = options.into_iter().position(|arg| arg == "--console") else { return };
    let address = args.get(at + 1).and_then(|arg| arg.to_str()).unwrap_or_default().to_owned();
    if console::address(&address).is_ok_and(|address| address != console::Address::OfConfig)
        && !Path::new(&address).exists()
    {
        args.splice(at..at + 2, [OsString::from(format!("--console={address}"))]);
    }
}

/// Writes lines to stderr. A closed stderr is ignored.
fn say(text: &str) {
    logging::say(text);
}

fn say_problems(problems: &[Problem]) {
    for problem in problems {
        say(&problem.to_string());
    }
}

/// Reads the configuration of `etc` and the environment, starts the log, and reports warnings.
fn configure(etc: &Path, log: Option<&str>) -> Result<Config, Failure> {
    let (config, warnings) = load(etc)?;
    let settings = LogSettings { json: config.log_format == LogFormat::Json, ..LogSettings::default() };
    start_log(log, config.log.as_deref(), settings)?;
    say_problems(&warnings);
    Ok(config)
}

/// As [`configure`], for the service, which can log to files in `folder`.
fn configure_service(etc: &Path, log: Option<&str>, folder: PathBuf) -> Result<Config, Failure> {
    let (config, warnings) = load(etc)?;
    let settings = LogSettings {
        json: config.log_format == LogFormat::Json,
        console: config.console_log,
        audit: config.rest_audit,
        file: config.file_log,
        rotation: config.log_file,
        folder: Some(folder),
    };
    start_log(log, config.log.as_deref(), settings)?;
    say_problems(&warnings);
    Ok(config)
}

/// Only the configuration, for verbs that query a service.
fn config_of(etc: &Path) -> Result<Config, Failure> {
    load(etc).map(|(config, _)| config)
}

fn load(etc: &Path) -> Result<(Config, Vec<Problem>), Failure> {
    // A misspelt folder would silently lose its tokens and TLS settings.
    if etc != Path::new(DEFAULT_ETC) && !etc.is_dir() {
        say(&format!("warning: --etc {}: no such folder; using defaults", etc.display()));
    }
    let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    config::load(etc, std::env::vars_os().filter_map(text)).map_err(Failure::Problems)
}

/// Checks the data server's certificates at the start; otherwise the first rule would report the error.
fn check_server_tls(config: &Config) -> Result<(), Failure> {
    let Some(files) = &config.server.tls else { return Ok(()) };
    let names = ["source.httpServerTls.certfile", "source.httpServerTls.keyfile", "source.httpServerTls.clientCaFile"];
    files.load(names).map(drop).map_err(|error| Failure::Refused(error.to_string()))
}

fn start_log(wanted: Option<&str>, configured: Option<&str>, settings: LogSettings) -> Result<(), Failure> {
    let directives = wanted.filter(|text| !text.trim().is_empty()).or(configured).unwrap_or("warn");
    logging::start(directives, settings).map_err(|error| match error {
        LogError::Directives(error) => Failure::Usage(format!("--log (or PLUTINO_LOG) is {directives:?}: {error}")),
        other => Failure::Refused(other.to_string()),
    })
}

/// Runs an async verb on a runtime of this thread.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Refused(format!("cannot start: {error}")))?;
    let done = runtime.block_on(work);
    // A thread that still reads stdin must not keep the process alive.
    runtime.shutdown_background();
    done
}

/// Ends the process at once. Only the log is flushed.
fn end_at_once(code: i32) -> ! {
    logging::finish();
    std::process::exit(code)
}

/// Ctrl-C, SIGTERM, and SIGHUP if it also means the end.
struct Interrupts {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl Interrupts {
    /// Takes over the signals, so that they no longer end the process by themselves.
    fn listen() -> Result<Interrupts, Failure> {
        let (interrupts, hangup) = Interrupts::listen_beside_hangup()?;
        Ok(Interrupts { hangup: Some(hangup), ..interrupts })
    }

    /// As [`Interrupts::listen`], for a verb that handles SIGHUP differently.
    fn listen_beside_hangup() -> Result<(Interrupts, Signal), Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::Refused(format!("cannot listen for signals: {error}")));
        let hangup = listen(SignalKind::hangup())?;
        let (terminate, interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        Ok((Interrupts { terminate, interrupt, hangup: None }, hangup))
    }

    /// Waits for the next signal. A closed terminal counts like the others.
    async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hangup => {}
        }
    }

    /// Waits for the signal to end at once: the second one, since the first asks for a clean end. `asked`: the first
    /// has come.
    async fn impatience(&mut self, asked: bool) {
        if !asked {
            self.next().await;
        }
        self.next().await;
    }
}

/// `1 message`, `2 messages`.
fn messages(count: u64) -> String {
    if count == 1 { "1 message".to_owned() } else { format!("{count} messages") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_known_in_any_case() {
        let args = |words: &[&str]| -> Vec<OsString> { words.iter().map(OsString::from).collect() };
        assert_eq!(words(args(&["p", "CREATE", "STREAM", "x"])), args(&["p", "create", "STREAM", "x"]));
        assert_eq!(words(args(&["p", "explain", "rule", "r1"])), args(&["p", "explain-rule", "rule", "r1"]));
        assert_eq!(words(args(&["p", "describe", "-json"])), args(&["p", "describe", "--json"]));
        assert_eq!(words(args(&["p", "show", "--", "-json"])), args(&["p", "show", "--", "-json"]));
        assert_eq!(words(args(&["p", "explain", "rules.yaml"])), args(&["p", "explain", "rules.yaml"]));
        assert_eq!(
            words(args(&["p", "--log", "info", "explain", "rule", "r1"]))[1..],
            args(&["explain-rule", "--log", "info", "rule", "r1"])
        );
    }

    #[test]
    fn the_address_of_the_console_may_follow_a_space() {
        let args = |words: &[&str]| -> Vec<OsString> { words.iter().map(OsString::from).collect() };
        for (written, read) in [
            (
                &["p", "run", "--console", "127.0.0.1:9090", "a.yaml"][..],
                &["p", "run", "--console=127.0.0.1:9090", "a.yaml"][..],
            ),
            (&["p", "run", "a.yaml", "--console", "9090"], &["p", "run", "a.yaml", "--console=9090"]),
            (&["p", "run", "--console", "a.yaml"], &["p", "run", "--console", "a.yaml"]),
            (&["p", "run", "a.yaml", "--console"], &["p", "run", "a.yaml", "--console"]),
            // A file of this name exists.
            (&["p", "run", "--console", "Cargo.toml"], &["p", "run", "--console", "Cargo.toml"]),
        ] {
            assert_eq!(words(args(written)), args(read));
        }
    }

    #[test]
    fn options_may_stand_before_the_verb() {
        let args = |words: &[&str]| -> Vec<OsString> { words.iter().map(OsString::from).collect() };
        for (written, read) in [
            (&["p", "--url", "U", "DROP", "stream", "d"][..], &["p", "drop", "--url", "U", "stream", "d"][..]),
            (&["p", "--url=U", "--json", "status"], &["p", "status", "--url=U", "--json"]),
            (&["p", "--log", "debug", "serve"], &["p", "serve", "--log", "debug"]),
            (&["p", "--url", "U", "run", "a.yaml"], &["p", "run", "--url", "U", "a.yaml"]),
            (&["p", "--etc", "E", "--console", "run", "a.yaml"], &["p", "run", "--etc", "E", "--console", "a.yaml"]),
            (&["p", "--force", "DROP", "stream", "d"], &["p", "drop", "--force", "stream", "d"]),
            (&["p", "-f", "F", "create", "rule", "r"], &["p", "create", "-f", "F", "rule", "r"]),
            (&["p", "--nosuch", "create", "rule", "r"], &["p", "--nosuch", "create", "rule", "r"]),
            (&["p", "--data", "D", "store", "check"], &["p", "store", "check", "--data", "D"]),
            (&["p", "store", "--data=D", "export", "F"], &["p", "store", "export", "--data=D", "F"]),
            (
                &["p", "--log", "info", "store", "--url", "U", "backup"],
                &["p", "store", "backup", "--log", "info", "--url", "U"],
            ),
            (&["p", "token", "--kind", "p256", "key", "F"], &["p", "token", "key", "--kind", "p256", "F"]),
            (
                &["p", "--key", "K", "token", "--expires", "1h", "create"],
                &["p", "token", "create", "--key", "K", "--expires", "1h"],
            ),
            (&["p", "store", "--data", "D", "nosuch"], &["p", "store", "--data", "D", "nosuch"]),
            (&["p", "store", "--", "check"], &["p", "store", "--", "check"]),
            (&["p", "--", "drop"], &["p", "--", "drop"]),
            (&["p", "--url"], &["p", "--url"]),
            (&["p", "--help"], &["p", "--help"]),
        ] {
            assert_eq!(words(args(written)), args(read));
        }
    }

    #[test]
    fn an_option_takes_a_value_with_every_verb_or_with_none() {
        let cli = Cli::command();
        for arg in each_command(&cli).into_iter().flat_map(clap::Command::get_arguments) {
            let takes = arg.get_action().takes_values() && !arg.is_require_equals_set();
            let names =
                [arg.get_long().map(|long| format!("--{long}")), arg.get_short().map(|short| format!("-{short}"))];
            for name in names.into_iter().flatten() {
                assert_eq!(takes_word(&cli, &name), Some(takes), "{name}");
            }
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!([0, 1, 2].map(super::messages), ["0 messages", "1 message", "2 messages"]);
    }
}
