//! `plutino run`: runs rule files from start to end.
//!
//! The engine's control runtime is on this thread: rules start one after the other, then the thread shows the status,
//! plays the feeds, and waits for a signal or for the end of the feeds. Every end is clean: received messages are
//! processed and sinks are flushed. A second signal ends the process at once.

use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::future::try_join_all;
use serde_json::{Map, json};
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;

use super::console::{self, Console, Others, Running};
use super::follow::{Followed, say_changes};
use super::hosts::{Hosts, Joined, term_of_files, terms};
use super::patrol::{self, Misled};
use super::player::Track;
use super::replay::{Pace, Replay, is_recording};
use super::status::Report;
use super::terminal::Size;
use super::{Etc, Failure, Interrupts, block_on, configure, say, say_problems};
use crate::cluster::{Cluster, Introduction, Membership, Part, Term};
use crate::config::Config;
use crate::engine::{Engine, EngineSettings, PATROL, RuleSpec, RuleStatus};
use crate::io::connector::{SinkSpec, SourceSpec};
use crate::io::egress::Egress;
use crate::io::printable;
use crate::io::reach::FileRoots;
use crate::io::websocket::config::Role;
use crate::io::websocket::{self, ServerSettings, Settings};
use crate::memory;
use crate::pipeline::{self, Content, Pipeline};
use crate::time::Clock;

/// How often the status is updated, on a terminal and otherwise.
const REFRESH: Duration = Duration::from_secs(1);
const REPORT: Duration = Duration::from_secs(5);

/// How long clients may take to receive the last results and close, after a feed has ended.
const LAST: Duration = Duration::from_millis(7500);

/// How long the last messages of a feed may be on their way to the engine without progress.
const STALLED: Duration = Duration::from_secs(10);

/// Run rule files until Ctrl-C
///
/// Results of log sinks are lines on stdout; everything else is printed on stderr. With --feed, the process ends after
/// the file was played and all results are sent.
#[derive(Args)]
pub struct Run {
    /// Rule files, JSON or YAML; they are read together
    #[arg(required = true, value_name = "RULEFILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    etc: Etc,
    /// Folder of the files that tables name; it need not exist
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,
    /// Number of data threads. Each reads a part of a stream's connections; the state of a rule is on one of them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// Print only warnings and errors on stderr
    #[arg(long, short)]
    quiet: bool,
    /// Play a file with one JSON message per line (- is stdin) into a stream, through a websocket; can be given several
    /// times. The stream can be left out if there is only one that clients feed
    #[arg(long, value_name = "FILE[@STREAM]", allow_hyphen_values = true)]
    feed: Vec<String>,
    /// Pace of recordings (plutino record): original, max, or a multiple such as 10x. The clock follows the recording,
    /// so windows are the same at any pace
    #[arg(long, value_name = "PACE", requires = "feed", value_parser = super::replay::pace, conflicts_with_all = ["rate", "repeat"])]
    pace: Option<Pace>,
    /// Messages per second of each --feed; by default as fast as they are read
    #[arg(long, value_name = "N", requires = "feed", value_parser = rate)]
    rate: Option<f64>,
    /// Repeat the files of --feed until Ctrl-C. The times in the messages do not change: in event time, all rows after
    /// the first round are late
    #[arg(long = "loop", requires = "feed")]
    repeat: bool,
    /// Follow changes of the rule files: changed rules are replaced, others continue; if a file has an error, it is
    /// reported, and the old rules continue
    #[arg(long, conflicts_with_all = ["feed", "hosts"])]
    watch: bool,
    /// Show a read-only console and REST API; without an address, at basic.restIp and basic.restPort
    #[arg(long, value_name = "ADDR", num_args = 0..=1, require_equals = true, default_missing_value = "", value_parser = console::address)]
    console: Option<console::Address>,
    #[command(flatten)]
    hosts: Hosts,
}

/// Parses a rate: a number of messages per second above 0.
pub fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| "expected a number of messages per second, above 0".to_owned())
}

impl Run {
    pub fn run(self, log: Option<&str>) -> Result<(), Failure> {
        let membership = self.hosts.membership(self.workers)?;
        if membership.is_some() && !self.feed.is_empty() {
            let hint = "play the file into one of the processes with: plutino feed URL FILE";
            return Err(Failure::Usage(format!("--feed ends a single process, and --hosts means several; {hint}")));
        }
        let config = configure(&self.etc.etc, log)?;
        let mut pipeline = pipeline::load(&self.files, &config).map_err(Failure::Problems)?;
        if self.watch {
            pipeline.keep_views();
        }
        say_problems(&pipeline.warnings);
        super::check_server_tls(&config)?;
        let feeds = match self.replay(&mut pipeline)? {
            Some(replay) => Feeds::Recorded(Box::new(replay)),
            None => Feeds::Live(self.feeds(&pipeline)?),
        };
        block_on(self.drive(config, pipeline, feeds, membership))
    }

    async fn drive(
        &self,
        config: Config,
        pipeline: Pipeline,
        mut feeds: Feeds,
        membership: Option<Membership>,
    ) -> Result<(), Failure> {
        let mut interrupts = Interrupts::listen()?;
        let console = match self.console {
            None => None,
            Some(address) => {
                Some(Console::bind(address, config.clone(), self.etc.etc.clone(), self.data.clone()).await?)
            }
        };
        let joined = match membership {
            None => None,
            Some(membership) => {
                let mut terms = terms("run", &config);
                terms.push(term_of_files(&self.files)?);
                // The console of process 0 asks the others over control links.
                let given = if console.is_some() { "given" } else { "absent" };
                terms.push(Term { name: "the option --console".to_owned(), value: given.to_owned() });
                let rest = console.as_ref().map(|console| console.rest_url(&membership));
                let introduction = Introduction { terms, control: console.is_some(), rest };
                let joined = self.hosts.join(membership, introduction, ".", &mut interrupts).await?;
                let Some(joined) = joined else { return Ok(()) };
                Some(joined)
            }
        };
        let mut ended = joined.as_ref().map(Joined::ended);
        let (mut cluster, part) = joined.map(|joined| (joined.cluster, joined.part.without_orders())).unzip();
        let others = cluster.as_mut().zip(part.as_ref()).map(|(cluster, part): (&mut Cluster, &Part)| Others {
            membership: part.membership.clone(),
            leader: cluster.rest.take(),
            controls: std::mem::take(&mut cluster.controls),
        });
        let secure = config.server.tls.is_some();
        let mut followed = self.watch.then(|| Followed::new(self.files.clone(), config.clone()));
        let mut misled = Misled::new(self.files.clone(), config.clone(), ended.is_some());
        memory::set_budget(config.max_memory);
        let shutdown = CancellationToken::new();
        let settings = EngineSettings {
            workers: usize::from(self.workers),
            // The endpoints of a rule file end with it.
            server: ServerSettings { linger: Duration::ZERO, ..config.server },
            zone: config.zone,
            shutdown: shutdown.clone(),
        };
        let clock = match &feeds {
            Feeds::Live(_) => Clock::System,
            Feeds::Recorded(replay) => Clock::Manual(Arc::new(replay.begins.into())),
        };
        let engine = match part {
            Some(part) => Engine::start_in_cluster(settings, part),
            None => Engine::start_at(settings, clock),
        };
        let engine = engine.map_err(|error| {
            cluster.iter().for_each(|cluster| cluster.fail(&error.to_string()));
            Failure::Refused(error.to_string())
        })?;
        let egress = Egress::new(&config.egress_allow).dialling_loopback(config.dial_loopback).trusting_rules();
        let engine = engine.with_files(FileRoots::new(self.data.clone()).with(&config.file_roots)).with_egress(egress);
        let (first, prints) = places(&pipeline);
        let mut content = Content::of(&pipeline);
        let started = {
            let mut starting = pin!(pipeline::start(&engine, pipeline));
            tokio::select! {
                started = &mut starting => Some(started),
                () = interrupts.next() => {
                    // A rule that is starting closes what it has opened.
                    shutdown.cancel();
                    tokio::select! {
                        _ = starting => None,
                        () = interrupts.next() => super::end_at_once(130),
                    }
                }
            }
        };
        let interrupted = started.is_none();
        if !matches!(started, Some(Ok(()))) {
            if let (Some(Err(problems)), Some(cluster)) = (&started, &cluster) {
                cluster.fail(&problems.first().map(|problem| problem.message.clone()).unwrap_or_default());
            }
            tokio::select! {
                _ = engine.stop(LAST) => {}
                () = interrupts.impatience(interrupted) => super::end_at_once(130),
            }
            cluster.iter().for_each(Cluster::leave);
            return started.map_or(Ok(()), |started| started.map_err(Failure::Problems));
        }
        let running = match console {
            None => Running::Alone(Box::new(RwLock::new(Some(engine)))),
            Some(console) => {
                if !self.quiet {
                    say(&format!("console on {}", console.url()));
                }
                Running::Shown(console.show(engine, &content, others).await?)
            }
        };
        // The engine is taken only here.
        let Some(engine) = running.engine().await else { return Ok(()) };
        let listening = engine.listening();
        let mut shown = Vec::new();
        if !self.quiet {
            shown = first.iter().map(|place| place.line(listening, secure)).collect();
            shown.iter().for_each(|line: &String| say(line));
        }

        // Results on the same terminal would be mixed up with a block that redraws itself.
        let live = io::stderr().is_terminal() && !(prints && io::stdout().is_terminal());
        let mut report = Report::new();
        let begun = Instant::now();
        let played = {
            let shows = async {
                let mut ticks = tokio::time::interval(if live { REFRESH } else { REPORT });
                ticks.tick().await;
                loop {
                    ticks.tick().await;
                    if !self.quiet {
                        show(&engine.status().await, &mut report, live, false);
                    }
                }
            };
            let plays = async {
                match &mut feeds {
                    Feeds::Live(feeds) if feeds.is_empty() => std::future::pending().await,
                    Feeds::Live(feeds) => {
                        let played = feeds.iter().map(|feed| feed.play(&engine, listening, secure));
                        try_join_all(played).await.map(|sent| Some(sent.iter().sum::<u64>()))
                    }
                    Feeds::Recorded(replay) => replay.play(&engine).await.map(Some),
                }
            };
            let follows = async {
                loop {
                    let changes = async {
                        match &mut followed {
                            Some(followed) => followed.changed().await,
                            None => std::future::pending().await,
                        }
                    };
                    let changed = tokio::select! {
                        changed = changes => Some(changed),
                        () = tokio::time::sleep(PATROL) => None,
                    };
                    let Some(changed) = changed else {
                        misled.restart_all(&engine, &content).await;
                        continue;
                    };
                    match changed {
                        Ok(pipeline) => {
                            say_problems(&pipeline.warnings);
                            let (new, _) = places(&pipeline);
                            let changes = pipeline::change(&engine, &mut content, pipeline).await;
                            say_problems(&changes.problems);
                            if !self.quiet {
                                say_changes(&changes);
                            }
                            running.show(&content).await;
                            let listening = engine.listening();
                            let lines: Vec<String> = new.iter().map(|place| place.line(listening, secure)).collect();
                            let unknown = lines.iter().filter(|line| !self.quiet && !shown.contains(line));
                            unknown.for_each(|line| say(line));
                            shown = lines;
                        }
                        Err(problems) => {
                            say_problems(&problems);
                            say("the rule files are wrong: the rules continue unchanged");
                        }
                    }
                }
            };
            tokio::select! {
                played = plays => played,
                never = shows => never,
                never = patrol::relieve_memory(&engine) => match never {},
                never = follows => never,
                () = interrupts.next() => Ok(None),
                failure = Joined::left(&mut ended) => Err(failure),
            }
        };
        let fed = begun.elapsed();
        let interrupted = matches!(played, Ok(None));
        cluster.iter().for_each(Cluster::begin_to_leave);
        let ends = async {
            if let Ok(Some(_)) = played {
                engine.end_of_input().await;
            }
            drop(engine);
            let Some(engine) = running.take_engine().await else { return };
            let rules = engine.stop(if interrupted { config.shutdown_timeout } else { LAST }).await.rules;
            if self.quiet {
                complain(rules);
            } else {
                show(&rules, &mut report, live, true);
            }
        };
        tokio::select! {
            () = ends => {}
            () = interrupts.impatience(interrupted) => super::end_at_once(130),
        }
        cluster.iter().for_each(Cluster::leave);
        if let Some(sent) = played?.filter(|_| !self.quiet) {
            say(&format!("fed {} in {:.3} s", super::messages(sent), fed.as_secs_f64()));
        }
        Ok(())
    }

    /// The replay of `--feed`; `None` if its files are not recordings.
    fn replay(&self, pipeline: &mut Pipeline) -> Result<Option<Replay>, Failure> {
        let mut files = Vec::new();
        for argument in &self.feed {
            let (file, stream) = parts(argument);
            files.push((PathBuf::from(file), stream.map(str::to_owned)));
        }
        let mut recorded = false;
        for (file, _) in files.iter().filter(|(file, _)| file.as_os_str() != "-") {
            recorded |= is_recording(file)?;
        }
        if !recorded {
            return match self.pace {
                Some(_) => {
                    let message = "--pace: the file has no times; --pace is for recordings (plutino record), --rate \
                                   for other files";
                    Err(Failure::Usage(message.to_owned()))
                }
                None => Ok(None),
            };
        }
        if self.repeat || self.rate.is_some() {
            return Err(Failure::Usage("--feed: a recording is replayed once, at its --pace".to_owned()));
        }
        Replay::open(files, self.pace.unwrap_or_default(), pipeline).map(Some)
    }

    /// The feeds that `--feed` names.
    fn feeds(&self, pipeline: &Pipeline) -> Result<Vec<Feed>, Failure> {
        let mut stdin = 0;
        let mut feeds = Vec::new();
        for argument in &self.feed {
            let (file, stream) = parts(argument);
            let (stream, settings) = fed(pipeline, stream)?;
            let file = (file != "-").then(|| PathBuf::from(file));
            if let Some(file) = &file
                && let Err(error) = std::fs::File::open(file)
            {
                return Err(Failure::Refused(format!("--feed: cannot read {}: {error}", file.display())));
            }
            stdin += usize::from(file.is_none());
            if file.is_none() && (self.repeat || stdin > 1) {
                return Err(Failure::Usage("--feed: stdin can be read only once".to_owned()));
            }
            let track = Track { file, recorded: false, rate: self.rate, pace: Pace::Max, repeat: self.repeat };
            let reads =
                pipeline.specs().filter(|spec| spec.plan.inputs.iter().any(|input| input.stream.name == stream));
            let rules = reads.map(|spec| spec.id.clone()).collect();
            feeds.push(Feed { track, stream, rules, settings });
        }
        Ok(feeds)
    }
}

/// Reports what went wrong while nothing was shown.
fn complain(rules: Vec<RuleStatus>) {
    for rule in rules {
        if let Some((_, error)) = rule.last_error {
            let error = printable(&error);
            let errors =
                if rule.errors == 1 { "an error".to_owned() } else { format!("{} errors, the last one", rule.errors) };
            say(&format!("warning: rule {}: {errors}: {error}", rule.id));
        }
    }
}

/// Shows the status of rules; `live`: in place of the one before. `last`: it stays, so that all of it is shown.
fn show(rules: &[RuleStatus], report: &mut Report, live: bool, last: bool) {
    let size = if last { Size { rows: usize::MAX, columns: usize::MAX } } else { Size::of(io::stderr()) };
    let lines = report.lines(rules, Instant::now());
    let mut err = io::stderr().lock();
    // Errors of a closed stderr are ignored.
    let _ = if live {
        err.write_all(report.redraw(&lines, size).as_bytes())
    } else {
        lines.iter().try_for_each(|line| writeln!(err, "{line}"))
    };
}

/// A place where a pipeline connects to the outside.
enum Place {
    /// an endpoint of the data server, and its purpose
    Endpoint { path: String, purpose: String, events: bool },
    /// a peer that is dialled
    Peer { address: String, purpose: String },
}

impl Place {
    fn of(settings: &Settings, purpose: String) -> Place {
        match settings.role {
            Role::Server => Place::Endpoint { path: settings.route().to_owned(), purpose, events: settings.events },
            Role::Client { .. } => Place::Peer { address: settings.address(), purpose },
        }
    }

    fn line(&self, listening: Option<SocketAddr>, secure: bool) -> String {
        match self {
            Place::Endpoint { path, purpose, events } => {
                let scheme = match (events, secure) {
                    (false, false) => "ws",
                    (false, true) => "wss",
                    (true, false) => "http",
                    (true, true) => "https",
                };
                let address = listening.map_or_else(|| "?".to_owned(), |address| address.to_string());
                format!("listening on {scheme}://{address}{path}  ({purpose})")
            }
            Place::Peer { address, purpose } => format!("dialling {address}  ({purpose})"),
        }
    }
}

/// The places where streams and rules listen and dial, without repetition, and whether any results go to stdout.
fn places(pipeline: &Pipeline) -> (Vec<Place>, bool) {
    let mut places = Vec::new();
    let mut console = false;
    let mut streams: Vec<&str> = Vec::new();
    for (stream, source) in pipeline.specs().flat_map(RuleSpec::sources) {
        if !streams.contains(&stream) {
            streams.push(stream);
            if let SourceSpec::Websocket(settings) = source {
                places.push(Place::of(settings, format!("stream {stream}")));
            }
        }
    }
    for rule in &pipeline.rules {
        for sink in &rule.spec.sinks {
            match &sink.spec {
                SinkSpec::Websocket(settings) => {
                    places.push(Place::of(settings, format!("results of rule {}", rule.spec.id)));
                }
                SinkSpec::Log(_) => console = true,
                _ => {}
            }
        }
    }
    for view in &pipeline.views {
        places.push(Place::Endpoint { path: view.path.clone(), purpose: format!("view {}", view.name), events: false });
    }
    (places, console)
}

/// The file and stream of `FILE@STREAM`. If a file with the whole name exists, the argument is that file.
pub(super) fn parts(argument: &str) -> (&str, Option<&str>) {
    match argument.rsplit_once('@') {
        Some((file, stream)) if !file.is_empty() && !Path::new(argument).exists() => (file, Some(stream)),
        _ => (argument, None),
    }
}

/// The sources of messages.
enum Feeds {
    /// Files that are sent to the data server.
    Live(Vec<Feed>),
    /// Recordings that are replayed by their own clock.
    Recorded(Box<Replay>),
}

/// One `--feed`.
struct Feed {
    track: Track,
    stream: String,
    /// the rules that read the stream
    rules: Vec<String>,
    /// the settings of the stream's source, in the server role
    settings: Box<Settings>,
}

/// The stream for a feed: the named one, or the only one that clients feed.
fn fed(pipeline: &Pipeline, stream: Option<&str>) -> Result<(String, Box<Settings>), Failure> {
    let mut open: Vec<(&str, &Settings)> = Vec::new();
    for (name, source) in pipeline.specs().flat_map(RuleSpec::sources) {
        let SourceSpec::Websocket(settings) = source else { continue };
        if !open.iter().any(|(other, _)| *other == name) {
            open.push((name, settings));
        }
    }
    let of = |role: fn(&Role) -> bool| -> Vec<(&str, &Settings)> {
        open.iter().copied().filter(|(_, settings)| role(&settings.role)).collect()
    };
    let served = of(|role| *role == Role::Server);
    let names = |streams: &[(&str, &Settings)]| streams.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let found = match stream {
        Some(stream) => match open.iter().find(|(name, _)| *name == stream) {
            Some((name, settings)) if settings.role == Role::Server => (*name, *settings),
            Some((name, settings)) => {
                return Err(Failure::Refused(format!(
                    "--feed: stream {name} dials {}, so it takes no clients; serve the file there with: plutino feed \
                     --listen {0} FILE",
                    settings.address()
                )));
            }
            None => {
                return Err(Failure::Refused(format!(
                    "--feed: no rule reads a stream {stream}; there are: {}",
                    names(&open)
                )));
            }
        },
        None => match served.as_slice() {
            [one] => *one,
            [] => {
                let address = open.first().map(|(_, settings)| settings.address()).unwrap_or_default();
                return Err(Failure::Refused(format!(
                    "--feed: no stream takes clients, they dial ({}); serve the file there with: plutino feed \
                     --listen {address} FILE",
                    names(&open)
                )));
            }
            several => {
                let message = format!("--feed: say which stream, FILE@STREAM: there are {}", names(several));
                return Err(Failure::Refused(message));
            }
        },
    };
    Ok((found.0.to_owned(), Box::new(found.1.clone())))
}

impl Feed {
    /// Sends the track to the data server; returns the number of messages. By then the engine has all of them,
    /// or it is said how many it has not.
    async fn play(&self, engine: &Engine, listening: Option<SocketAddr>, secure: bool) -> Result<u64, Failure> {
        let failed = |reason: String| Failure::Refused(format!("--feed {}: {reason}", self.track.name()));
        let Some(address) = listening else { return Err(failed("the data server does not listen".to_owned())) };
        let ip = match address.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        let props = Map::from_iter([
            ("addr".to_owned(), json!(SocketAddr::new(ip, address.port()).to_string())),
            ("scheme".to_owned(), json!(if secure { "wss" } else { "ws" })),
            // The server is this process, so its certificate, which has another name, needs no check.
            ("insecureSkipVerify".to_owned(), json!(true)),
            ("maxMessageSize".to_owned(), json!(1u64 << 30)),
        ]);
        let (settings, _) =
            Settings::source(self.settings.route(), &props).map_err(|error| failed(error.to_string()))?;
        let before = self.taken(engine).await;
        let websocket = websocket::dial(&settings).await.map_err(|error| failed(error.to_string()))?;
        let sent = self.track.play_until(websocket, engine.stuck()).await.map_err(|error| failed(error.to_string()))?;
        // The socket has delivered everything; the last batch may still be on its way to the engine.
        let (mut taken, mut since) = (self.taken(engine).await, Instant::now());
        while taken < before + sent && since.elapsed() < STALLED && !engine.is_stuck() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let now = self.taken(engine).await;
            if now != taken {
                (taken, since) = (now, Instant::now());
            }
        }
        if let missing @ 1.. = (before + sent).saturating_sub(taken) {
            let name = self.track.name();
            say(&format!("warning: --feed {name}: {missing} of {sent} messages have not reached the rules"));
        }
        Ok(sent)
    }

    /// The number of messages that the stream's source has delivered, summed over the rules that read it.
    async fn taken(&self, engine: &Engine) -> u64 {
        let status = engine.status().await;
        let readers = status.iter().filter(|rule| self.rules.contains(&rule.id));
        // A rule that joins also has sources of other streams, which other feeds may feed.
        let sources = readers.flat_map(|rule| &rule.sources).filter(|(stream, _)| *stream == self.stream);
        sources.map(|(_, source)| source.messages).min().unwrap_or_default()
    }
}
