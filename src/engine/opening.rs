//! Starts a rule in stages: it joins its streams, opens its sinks, runs on its worker, and then its sources deliver.
//!
//! Sources are opened first but deliver last: a sink may share a source's connection, and messages on it belong to the
//! stream.
//!
//! [`PreparedRule`] owns what was opened so far and closes it again if a stage fails or its caller is dropped.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use futures_util::future::{BoxFuture, FutureExt, join_all};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::dataflow::command::{Command, Keeps, Leaving, Letters, RuleKey, StreamKey};
use crate::dataflow::division::Division;
use crate::dataflow::encoding::Encoding;
use crate::definition::stream::RelationKind;
use crate::io::connector::{ConnectorError, SinkSpec, SourceSpec};
use crate::io::queue::{self, Signal, SinkHandle};
use crate::io::source::OpenSource;
use crate::io::spool::StoreKey;
use crate::io::thread_queues::ThreadQueues;
use crate::metrics::RuleMetrics;
use crate::plan::physical::{Body, Input, Join, Role, RulePlan};
use crate::plan::spread::{self, Spread};
use crate::plan::view::Connected;

use super::cluster;
use super::running::{Place, RuleThreads};
use super::together::Begin;
use super::{
    Definition, Engine, EngineError, FLUSH, Home, RuleSpec, RunningRule, RunningSink, RunningStream, SinkAction,
    StreamId, StreamPart,
};

/// Where the state of a rule is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleHome {
    pub process: usize,
    /// one of its data threads
    pub thread: usize,
}

/// A rule whose streams and sinks are open, but which does not run yet. Dropping it closes them.
pub struct PreparedRule<'a> {
    pub(super) engine: &'a Engine,
    pub(super) id: String,
    pub(super) threads: RuleThreads,
    /// The place of its state, if process 0 has chosen it.
    given_home: Option<RuleHome>,
    /// The number of threads that may read its streams.
    readers: usize,
    connected: Connected,
    /// The streams that it has joined, without repetition.
    pub(super) streams: Vec<StreamId>,
    /// The stream of each input; `None` for lookup tables.
    pub(super) keys: Vec<Option<StreamKey>>,
    pub(super) sinks: Vec<RunningSink>,
    /// Whether it has opened each sink; the others belong to the version that it replaces.
    opened: Vec<bool>,
    /// messages kept for the peers of its sinks
    stores: Vec<StoreKey>,
    pub(super) encodings: Vec<Encoding>,
    pub(super) dead_letters: Vec<Encoding>,
    pub(super) plan: Option<RulePlan>,
    spread: Spread,
    stateful: bool,
    /// Where its state is, after that is decided.
    home: Option<Home>,
    /// How the state is divided among the threads of this process, once it runs.
    pub(super) division: Option<Division>,
    pub(super) send_error: bool,
    pub(super) keeps: Keeps,
    keeps_state: bool,
    pub(super) metrics: Arc<RuleMetrics>,
    /// Its key on its workers.
    pub(super) number: RuleKey,
    /// Set when it runs, or everything is closed again.
    settled: bool,
}

impl Engine {
    /// Starts a rule. When this returns, its sinks are open and its streams deliver messages.
    ///
    /// # Errors
    /// [`EngineError`]; everything is closed again then.
    pub async fn start_rule(&self, rule: RuleSpec) -> Result<(), EngineError> {
        self.prepare_rule(rule).await?.start().await
    }

    /// Opens everything that a rule needs, so that [`PreparedRule::start`] cannot fail because of a peer. A running
    /// rule with the same id continues; [`PreparedRule::replace`] replaces it by this one. Both share the streams, and
    /// the sinks that stay the same.
    ///
    /// # Errors
    /// [`EngineError`]; everything that the new rule opened is closed again.
    pub async fn prepare_rule(&self, rule: RuleSpec) -> Result<PreparedRule<'_>, EngineError> {
        self.prepare_rule_as(rule, self.slot() as RuleKey, None).await
    }

    /// As [`Engine::prepare_rule`] with a number and a place for its state; all processes of a cluster use the same
    /// ones.
    ///
    /// # Errors
    /// As [`Engine::prepare_rule`].
    pub async fn prepare_rule_as(
        &self,
        rule: RuleSpec,
        number: RuleKey,
        home: Option<RuleHome>,
    ) -> Result<PreparedRule<'_>, EngineError> {
        if self.shutdown.is_cancelled() {
            return Err(EngineError::Ending(rule.id));
        }
        if !self.running().starting.insert(rule.id.clone()) {
            return Err(EngineError::Exists(rule.id));
        }
        let metrics = Arc::new(RuleMetrics::new(&rule.id));
        let mut prepared = PreparedRule {
            engine: self,
            id: rule.id,
            threads: RuleThreads::default(),
            given_home: home.filter(|home| home.thread < self.threads.len()),
            readers: readers(&rule.plan, &rule.sinks, rule.connected.in_step).unwrap_or(self.threads.len()),
            connected: rule.connected,
            streams: Vec::new(),
            keys: Vec::new(),
            sinks: Vec::new(),
            opened: Vec::new(),
            stores: Vec::new(),
            encodings: Vec::new(),
            dead_letters: Vec::new(),
            spread: spread::of(&rule.plan),
            stateful: !matches!(rule.plan.body, Body::Rows(_)),
            home: None,
            division: None,
            plan: Some(rule.plan),
            send_error: rule.send_error,
            keeps_state: matches!(rule.keeps, Keeps::State(_)),
            keeps: rule.keeps,
            metrics,
            number,
            settled: false,
        };
        let opened = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Err(EngineError::Ending(prepared.id.clone())),
            opened = prepared.open(rule.sources, rule.sinks) => opened,
        };
        match opened {
            Ok(()) => Ok(prepared),
            Err(error) => {
                prepared.undo().await;
                Err(error)
            }
        }
    }

    /// The thread for a rule: that of a stream that is open already, otherwise one chosen by the name of its first
    /// stream.
    fn thread_of(&self, plan: &RulePlan) -> usize {
        let name = &plan.stream().name;
        if self.processes.are_several() {
            // Which streams are open depends on the order in which rules started and ended, so it differs between
            // processes.
            return self.thread_by(name);
        }
        let running = self.running();
        let known = running.streams.keys().filter(|id| id.name == *name && id.scan.is_none());
        let mut known = known.filter_map(|id| id.place.only());
        known.next().unwrap_or_else(|| self.thread_by(name))
    }

    /// A thread chosen by a name; always the same.
    fn thread_by(&self, name: &str) -> usize {
        cluster::thread_by(name, self.threads.len())
    }
}

/// The number of threads that may read the streams of a rule; `None`: all. It is one if results wait for each other, or
/// if views change in one step: then they need the messages of a stream in one step.
fn readers(plan: &RulePlan, sinks: &[SinkAction], in_step: bool) -> Option<usize> {
    let alone = match plan.body {
        Body::Rows(_) => sinks.iter().any(|sink| sink.format.gathers()),
        Body::Stateful(_) => false,
        Body::View(_) => in_step,
    };
    if alone { Some(1) } else { plan.concurrency.map(NonZeroUsize::get) }
}

impl PreparedRule<'_> {
    /// Starts the rule. No rule with its id may be running.
    ///
    /// # Errors
    /// [`EngineError::Exists`] if one is running; everything is closed again then.
    pub async fn start(mut self) -> Result<(), EngineError> {
        if self.engine.running().rules.contains_key(&self.id) {
            let exists = EngineError::Exists(self.id.clone());
            self.undo().await;
            return Err(exists);
        }
        self.run().await;
        self.engine.starts.begin(self.sources()).await;
        let rule = self.installed();
        let mut running = self.engine.running();
        running.starting.remove(&self.id);
        running.rules.insert(self.id.clone(), Box::new(rule));
        Ok(())
    }

    /// The rule's number: see [`Engine::prepare_rule_as`].
    pub fn number(&self) -> RuleKey {
        self.number
    }

    /// Where its state will be.
    pub fn home(&self) -> RuleHome {
        RuleHome { process: self.threads.process, thread: self.threads.home }
    }

    /// Takes the checkpoint that it would continue from.
    pub fn take_checkpoint(&mut self) -> Option<Vec<u8>> {
        match &mut self.keeps {
            Keeps::State(state) => state.take(),
            Keeps::Nothing => None,
        }
    }

    /// Sets the checkpoint to continue from, if the rule keeps state.
    pub fn continue_from(&mut self, checkpoint: Vec<u8>) {
        if let Keeps::State(state) = &mut self.keeps {
            *state = Some(checkpoint);
        }
    }

    /// Closes what was opened, and waits until it is closed. Dropping the rule closes without waiting.
    pub async fn undo(mut self) {
        self.let_go().await;
    }

    async fn open(&mut self, sources: Vec<Option<SourceSpec>>, sinks: Vec<SinkAction>) -> Result<(), EngineError> {
        for source in sources.iter().flatten() {
            self.engine.connectors.check_source(source).await.map_err(|error| self.failed(error))?;
        }
        let signal = self.join_streams(sources).await?;
        self.open_sinks(sinks, &signal).await?;
        self.prepare_lookups().await;
        Ok(())
    }

    /// Makes the indexes of the views that it will look up, in turns, so that its worker's other work continues.
    async fn prepare_lookups(&self) {
        let Some(RulePlan { inputs, body: Body::Stateful(body), .. }) = &self.plan else { return };
        let of_view =
            |join: &&Join| inputs[join.input].role == Role::Lookup && inputs[join.input].stream.view.is_some();
        let joins = body.joins.iter().filter(of_view);
        let by: Vec<_> = joins.map(|join| (inputs[join.input].stream.name.clone(), join.columns.clone())).collect();
        if by.is_empty() || self.home.is_none() {
            return;
        }
        let (done, ready) = oneshot::channel();
        self.engine.threads[self.threads.home].command(Command::PrepareLookups { rule: self.number, by, done });
        // If the thread has ended, the rule cannot start either.
        let _ = ready.await;
    }

    fn failed(&self, error: ConnectorError) -> EngineError {
        EngineError::Connector { rule: self.id.clone(), error: Box::new(error) }
    }

    /// Joins its streams, and opens those that are not open. Returns the signal that wakes them, for sinks that make
    /// them wait.
    ///
    /// A stream whose sockets are on all threads is read on all of them, if the rule may run on several.
    async fn join_streams(&mut self, sources: Vec<Option<SourceSpec>>) -> Result<Signal, EngineError> {
        let engine = self.engine;
        let plan = self.plan.take().expect("the plan goes when the rule runs");
        self.streams.reserve_exact(plan.inputs.len());
        let _locks = engine.locks.pass(plan.inputs.iter().map(|input| &input.stream.name)).await;
        let all = engine.threads.len();
        let readers = self.readers.min(all);
        let spreads = |(input, source): (&Input, &Option<SourceSpec>)| {
            readers > 1
                && input.role == Role::Stream
                && source.as_ref().is_some_and(|source| source.settings().may_spread())
        };
        let spread: Vec<bool> = plan.inputs.iter().zip(&sources).map(spreads).collect();
        let scattered = spread.iter().zip(&sources).all(|(spread, source)| *spread || source.is_none());
        let known = match self.given_home.map_or_else(|| self.thread_of_views(&plan), |home| Ok(Some(home.thread))) {
            Ok(thread) => thread,
            Err(error) => {
                self.plan = Some(plan);
                return Err(error);
            }
        };
        let home = match known {
            Some(thread) => thread,
            None if scattered => self.choose_home(),
            None => engine.thread_of(&plan),
        };
        let named = if scattered { self.id.as_str() } else { plan.stream().name.as_str() };
        // A new version keeps its state where it is, so that no rows are lost while it moves.
        let old = || engine.running().rules.get(&self.id).map(|old| old.threads.process);
        let process = match self.given_home {
            Some(home) => home.process,
            None if plan.has_views() => cluster::LEADER,
            None => old().unwrap_or_else(|| engine.processes.by(named)),
        };
        if self.stateful && engine.processes.is_own(process) {
            self.home = Some(engine.homes.on(home));
        }
        let alone = Place::alone(home, all);
        let readers = if spread.contains(&true) { Place::with(home, readers, all) } else { alone };
        self.threads = RuleThreads { home, process, readers };
        self.check_tables(&plan)?;
        // One signal wakes the streams on all threads; each input resets its own.
        let mut signals: Vec<(StreamKey, Vec<Signal>)> = Vec::new();
        for ((input, source), spread) in plan.inputs.iter().zip(sources).zip(spread) {
            let Some(source) = source else {
                self.keys.push(None);
                continue;
            };
            let scan = matches!(input.role, Role::Table { .. }).then(|| engine.slot());
            let def = Definition(input.stream.clone());
            let place = if spread { readers } else { alone };
            let id = StreamId { name: input.stream.name.clone(), def, place, scan };
            let (key, wakes) = match self.joined(&id) {
                Some(known) => known,
                None => self.open_stream(id, source).await?,
            };
            self.keys.push(Some(key));
            if !signals.iter().any(|(known, _)| *known == key) {
                signals.push((key, wakes));
            }
        }
        self.plan = Some(plan);
        let mut signals = signals.into_iter().flat_map(|(_, wakes)| wakes);
        // A rule that reads only views runs whenever its worker is woken.
        let first = signals.next().unwrap_or_else(|| engine.threads[home].signal(engine.slot()));
        Ok(first.with(signals.collect()))
    }

    /// The thread for the state of a rule whose streams are read on all threads.
    fn choose_home(&mut self) -> usize {
        let engine = self.engine;
        let by_name = engine.thread_by(&self.id);
        if !self.stateful || engine.processes.are_several() {
            return by_name;
        }
        // If it has the same home as the old version, the replacement is one step.
        let old = engine.running().rules.get(&self.id).and_then(|old| old.home.as_ref().map(Home::thread));
        let home = match old {
            Some(thread) => engine.homes.on(thread),
            None => engine.homes.least(by_name),
        };
        let thread = home.thread();
        self.home = Some(home);
        thread
    }

    /// The thread of a view, or of a rule that reads views: connected views and rules share one, so that a change
    /// passes through all of them in one step. `None` for other rules, and for the first of several connected views.
    ///
    /// # Errors
    /// [`EngineError::Apart`]
    fn thread_of_views(&self, plan: &RulePlan) -> Result<Option<usize>, EngineError> {
        let read = plan.inputs.iter().filter(|input| input.stream.view.is_some()).map(|input| &input.stream.name);
        let mut homes = read.filter_map(|name| self.engine.thread_of_view(name));
        if let Some(home) = homes.next() {
            let together = homes.all(|other| other == home);
            return if together { Ok(Some(home)) } else { Err(EngineError::Apart { rule: self.id.clone() }) };
        }
        let Body::View(view) = &plan.body else { return Ok(None) };
        let known = self.connected.views.iter().chain([&view.about.name]);
        let mut known = known.filter_map(|name| self.engine.thread_of_view(name));
        Ok(known.next())
    }

    /// Checks that the tables and views that a rule reads exist.
    fn check_tables(&self, plan: &RulePlan) -> Result<(), EngineError> {
        let running = self.engine.running();
        for input in &plan.inputs {
            let name = &input.stream.name;
            let rule = self.id.clone();
            if input.stream.view.is_some() {
                if self.engine.views.find(name).is_none() {
                    return Err(EngineError::NoView { rule, view: name.to_string() });
                }
            } else if (input.role == Role::Lookup || input.stream.kind == RelationKind::View)
                && !running.tables.contains_key(name)
            {
                return Err(EngineError::NoTable { rule, table: name.to_string() });
            }
        }
        Ok(())
    }

    /// Joins an open stream.
    fn joined(&mut self, id: &StreamId) -> Option<(StreamKey, Vec<Signal>)> {
        let mut running = self.engine.running();
        let stream = running.streams.get_mut(id)?;
        if !self.streams.contains(id) {
            stream.rules += 1;
            self.streams.push(id.clone());
        }
        Some((stream.key, stream.parts.iter().map(|part| part.signal.clone()).collect()))
    }

    /// Opens a stream and joins it.
    async fn open_stream(&mut self, id: StreamId, spec: SourceSpec) -> Result<(StreamKey, Vec<Signal>), EngineError> {
        let engine = self.engine;
        let key = engine.slot();
        let (mut parts, mut senders, mut receivers) = (Vec::new(), Vec::new(), Vec::new());
        for (thread, worker) in engine.threads.iter().enumerate() {
            if id.place.contains(thread) {
                let signal = worker.signal(key);
                let (sender, frames) = queue::inbound(signal.clone());
                parts.push(StreamPart { thread, signal, backlog: sender.backlog() });
                senders.push(sender);
                receivers.push((worker, frames));
            }
        }
        let queues = ThreadQueues::new(parts.iter().map(|part| part.thread).zip(senders).collect());
        let checks = spec.settings().checks();
        let source = match engine.reads(&id.name, &spec) {
            true => {
                let opened = engine.connectors.open_source(spec, self.threads.home, queues).await;
                Some(opened.map_err(|error| self.failed(error))?.into())
            }
            false => None,
        };
        for (worker, frames) in receivers {
            let (schema, checks) = (id.def.0.schema(), checks.clone());
            worker.command(Command::AddStream { key, schema, checks, frames });
        }
        let signals = parts.iter().map(|part| part.signal.clone()).collect();
        let stream = RunningStream { key, parts, source, ended: None, rules: 1 };
        engine.running().streams.insert(id.clone(), stream);
        self.streams.push(id);
        Ok((key, signals))
    }

    /// Opens the sinks. Sinks that the running version has too are taken over with their queues.
    async fn open_sinks(&mut self, sinks: Vec<SinkAction>, signal: &Signal) -> Result<(), EngineError> {
        let mut shared = self.sinks_to_share();
        self.sinks.reserve_exact(sinks.len());
        // Only other processes ask by a form's name.
        let several = self.engine.processes.are_several();
        for action in sinks {
            let known = shared.iter().position(|known| known.spec == action.spec);
            let store = action.spec.store_key(&self.id, 0).map(|key| {
                let same = |known: &&StoreKey| (known.kind, &known.address) == (key.kind, &key.address);
                StoreKey { ordinal: self.stores.iter().filter(same).count(), ..key }
            });
            self.stores.extend(store.clone());
            let sink = match known {
                Some(known) => shared.swap_remove(known).sink,
                None => {
                    let (spec, signal) = (action.spec.clone(), signal.clone());
                    let opened = self.engine.connectors.open_sink(spec, self.threads.home, signal, store);
                    opened.await.map_err(|error| self.failed(error))?.into()
                }
            };
            self.opened.push(known.is_none());
            let outlet = sink.outlet();
            let shape = match &outlet {
                SinkHandle::Messages(_) => action.format.clone(),
                SinkHandle::Rows(_) => Arc::new(action.format.of_rows()),
            };
            let encodings = if action.dead_letter { &mut self.dead_letters } else { &mut self.encodings };
            let index = encodings.iter().position(|known| known.format == shape).unwrap_or_else(|| {
                let name = if several { cluster::hash(&format!("{shape:?}")) } else { 0 };
                encodings.push(Encoding { name, format: shape, outlets: Vec::new(), rows: Vec::new() });
                encodings.len() - 1
            });
            if several && let SinkSpec::Websocket(settings) = &action.spec {
                encodings[index].name ^= cluster::hash(&settings.address());
            }
            match outlet {
                SinkHandle::Messages(outlet) => encodings[index].outlets.push(outlet),
                SinkHandle::Rows(outlet) => encodings[index].rows.push(outlet),
            }
            self.sinks.push(RunningSink { spec: action.spec, sink });
        }
        Ok(())
    }

    /// The sinks of the running version that this version may take over: all if it reads the same streams, otherwise
    /// only those that never make their streams wait.
    fn sinks_to_share(&self) -> Vec<RunningSink> {
        let running = self.engine.running();
        let Some(old) = running.rules.get(&self.id) else { return Vec::new() };
        let same = old.streams.len() == self.streams.len() && old.streams.iter().all(|id| self.streams.contains(id));
        let may_share = |sink: &&RunningSink| {
            same || match sink.sink.outlet() {
                SinkHandle::Messages(outlet) => !outlet.may_wait(),
                SinkHandle::Rows(_) => false,
            }
        };
        old.sinks.iter().filter(may_share).cloned().collect()
    }

    /// The sources of its streams. Those that other rules read are already running.
    pub(super) fn sources(&self) -> Vec<Begin> {
        let running = self.engine.running();
        let source = |id: &StreamId| {
            let source = running.streams.get(id)?.source.clone()?;
            Some(Begin { source, is_table: id.scan.is_some() })
        };
        self.streams.iter().filter_map(source).collect()
    }

    /// Marks the rule as installed: dropping this no longer closes anything.
    pub(super) fn installed(&mut self) -> RunningRule {
        self.settled = true;
        self.engine.connectors.spool().tidy(&self.id, &self.stores);
        let everywhere = self.threads.is_spread() || self.engine.processes.are_several();
        RunningRule {
            key: self.number,
            streams: self.engine.lists.share(std::mem::take(&mut self.streams)),
            threads: self.threads,
            spread: if everywhere { self.spread.clone() } else { Spread::Alone },
            metrics: self.metrics.clone(),
            home: self.home.take(),
            division: self.division.take(),
            sinks: std::mem::take(&mut self.sinks),
            keeps_state: self.keeps_state,
            kept: AtomicU64::new(0),
        }
    }

    /// Removes the rule from its worker and its streams. Returns what must still be closed.
    fn let_go(&mut self) -> BoxFuture<'static, ()> {
        if std::mem::replace(&mut self.settled, true) {
            return async {}.boxed();
        }
        let threads = self.engine.commands(self.threads, self.division.take());
        let left = {
            let mut running = self.engine.running();
            running.starting.remove(&self.id);
            running.leave(&self.streams)
        };
        let ends: Vec<StreamKey> = left.iter().map(|(_, stream)| stream.key).collect();
        // Even if it never began here, rows may have arrived from processes where it did.
        let leaving = Leaving { rule: self.number, settle: Vec::new(), ends, save: None, letters: Letters::default() };
        let leaving = threads.undo(leaving);
        // These sources have no reader left, so they do not wait for one.
        let sources: Vec<Arc<dyn OpenSource>> = left.into_iter().filter_map(|(_, stream)| stream.source).collect();
        let sinks = std::mem::take(&mut self.sinks).into_iter().zip(std::mem::take(&mut self.opened));
        let sinks: Vec<RunningSink> = sinks.filter_map(|(sink, opened)| opened.then_some(sink)).collect();
        async move {
            leaving.await;
            join_all(sources.iter().map(|source| source.close())).await;
            join_all(sinks.iter().map(|sink| sink.sink.close(FLUSH))).await;
        }
        .boxed()
    }
}

impl Drop for PreparedRule<'_> {
    fn drop(&mut self) {
        if !self.settled {
            let closing = self.let_go();
            self.engine.closings.spawn_on(closing, &self.engine.control);
        }
    }
}
