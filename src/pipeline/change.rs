//! Replaces a running pipeline by a changed one, rule by rule: what is unchanged continues undisturbed.
//!
//! Rules and views are compared by their texts and by the statements that they read, also through other views. Lookup
//! tables are read through the engine's own state, so a change to one of them restarts everything. So does a change for
//! which views must move to another data thread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Pipeline, PlannedRule, PlannedView, start, start::message};
use crate::config::PropertySets;
use crate::definition::stream::StreamDef;
use crate::engine::{Engine, RuleSpec};
use crate::text::document::Problem;

/// The parts of a pipeline by name: statements, and the JSON texts of rules.
#[derive(Clone, Debug, Default)]
pub struct Content {
    pub conf_keys: PropertySets,
    /// Statements of streams and tables.
    pub relations: BTreeMap<String, String>,
    pub views: BTreeMap<String, String>,
    pub rules: BTreeMap<String, String>,
    /// The definitions by which the running rules read their streams.
    defs: BTreeMap<String, Arc<StreamDef>>,
    lookups: Vec<String>,
}

/// The result of a change, by rule id; a view is `view NAME`.
#[derive(Debug, Default)]
pub struct Changes {
    /// Everything was restarted.
    pub all: bool,
    pub started: Vec<String>,
    pub replaced: Vec<String>,
    pub stopped: Vec<String>,
    /// What could not start; the old version of a rule or view continues.
    pub problems: Vec<Problem>,
}

impl Content {
    /// The content of a pipeline that is about to start.
    pub fn of(pipeline: &Pipeline) -> Content {
        let relations = pipeline.statements.clone();
        let defs = relations.keys().filter_map(|name| Some((name.clone(), pipeline.catalog.relation(name)?.clone())));
        Content {
            conf_keys: pipeline.conf_keys.clone(),
            defs: defs.collect(),
            relations,
            views: pipeline.views.iter().map(|view| (view.name.clone(), view.sql.clone())).collect(),
            rules: pipeline.rules.iter().map(|rule| (rule.spec.id.clone(), rule.text.clone())).collect(),
            lookups: pipeline.tables.iter().map(|table| table.spec.def.name.to_string()).collect(),
        }
    }

    /// Whether the change affects more than single rules, so that everything must be restarted.
    fn needs_all(&self, new: &Content) -> bool {
        let tables = |content: &Content| {
            let tables = content.lookups.iter().map(|name| (name.clone(), content.relations.get(name).cloned()));
            tables.collect::<BTreeMap<_, _>>()
        };
        self.conf_keys != new.conf_keys || tables(self) != tables(new)
    }

    /// The names of statements that differ: streams, tables and views, also those that only one of both has, and the
    /// views over them.
    fn differing(&self, new: &Content, views: &[PlannedView]) -> BTreeSet<String> {
        let named = |old: &BTreeMap<String, String>, new: &BTreeMap<String, String>| -> Vec<String> {
            let names = old.keys().chain(new.keys());
            names.filter(|name| old.get(*name) != new.get(*name)).cloned().collect()
        };
        let mut differing: BTreeSet<String> = named(&self.relations, &new.relations).into_iter().collect();
        differing.extend(named(&self.views, &new.views));
        loop {
            let reads_one = |view: &&PlannedView| !differing.contains(&view.name) && reads(&view.spec, &differing);
            let Some(view) = views.iter().find(reads_one) else { return differing };
            differing.insert(view.name.clone());
        }
    }
}

/// Whether a rule or view reads one of these.
fn reads(spec: &RuleSpec, names: &BTreeSet<String>) -> bool {
    spec.plan.inputs.iter().any(|input| names.contains(input.stream.name.as_str()))
}

/// Replaces what runs by `pipeline`, and returns the result. `running` is the running content, and is updated.
pub async fn change(engine: &Engine, running: &mut Content, mut pipeline: Pipeline) -> Changes {
    let mut new = Content::of(&pipeline);
    let moves = |view: &PlannedView| !engine.views_apart(&view.spec.connected).is_empty();
    if running.needs_all(&new) || pipeline.views.iter().any(moves) {
        return start_anew(engine, running, pipeline, new).await;
    }
    // Rules that read a stream by one definition share it.
    for (name, old) in &running.defs {
        if running.relations.get(name) == new.relations.get(name) {
            new.defs.insert(name.clone(), old.clone());
        }
    }
    let views = pipeline.views.iter_mut().map(|view| &mut view.spec);
    views.chain(pipeline.rules.iter_mut().map(|rule| &mut rule.spec)).for_each(|spec| share(spec, &new.defs));
    let differing = running.differing(&new, &pipeline.views);
    let mut changes = Changes::default();
    let gone: Vec<String> = running.rules.keys().filter(|id| !new.rules.contains_key(*id)).cloned().collect();
    for id in gone {
        engine.stop_rule(&id, false).await;
        changes.stopped.push(id);
    }
    for name in running.views.keys().filter(|name| !new.views.contains_key(*name)) {
        engine.drop_view(name).await;
        changes.stopped.push(format!("view {name}"));
    }
    for view in pipeline.views.into_iter().filter(|view| differing.contains(&view.name)) {
        let (name, refused) = (view.name.clone(), view.problem(""));
        let was = running.views.get(&name).cloned();
        let done = match was {
            Some(_) => engine.change_view(view.spec).await,
            None => engine.create_view(view.spec).await,
        };
        match done {
            Ok(()) if was.is_some() => changes.replaced.push(format!("view {name}")),
            Ok(()) => changes.started.push(format!("view {name}")),
            Err(error) => {
                changes.problems.push(Problem { message: message(error), ..refused });
                keep(&mut new.views, name, was);
            }
        }
    }
    for rule in pipeline.rules {
        let id = rule.spec.id.clone();
        if running.rules.get(&id) == new.rules.get(&id) && !reads(&rule.spec, &differing) {
            continue;
        }
        let was = running.rules.get(&id).cloned();
        match put(engine, rule).await {
            Ok(()) if was.is_some() => changes.replaced.push(id),
            Ok(()) => changes.started.push(id),
            Err(problem) => {
                changes.problems.push(problem);
                keep(&mut new.rules, id, was);
            }
        }
    }
    *running = new;
    changes
}

/// Restarts a rule with empty state. `pipeline` is the content of the rule files, read again; false: it is no longer what
/// runs, so nothing is done.
///
/// # Errors
/// Why the rule cannot start; it continues then.
pub async fn restart(engine: &Engine, running: &Content, pipeline: Pipeline, id: &str) -> Result<bool, Box<Problem>> {
    let new = Content::of(&pipeline);
    let same = running.conf_keys == new.conf_keys
        && running.relations == new.relations
        && running.views == new.views
        && running.rules.get(id) == new.rules.get(id);
    let rule = pipeline.rules.into_iter().find(|rule| rule.spec.id == id).filter(|_| same);
    let Some(mut rule) = rule else { return Ok(false) };
    share(&mut rule.spec, &running.defs);
    put(engine, rule).await.map(|()| true).map_err(Box::new)
}

/// Records what continues to run when the new version of a rule or view could not start. The next change tries the new
/// version again.
fn keep(texts: &mut BTreeMap<String, String>, name: String, was: Option<String>) {
    match was {
        Some(was) => drop(texts.insert(name, was)),
        None => drop(texts.remove(&name)),
    }
}

/// Makes a rule read streams by these definitions.
fn share(spec: &mut RuleSpec, defs: &BTreeMap<String, Arc<StreamDef>>) {
    for input in &mut spec.plan.inputs {
        if let Some(def) = defs.get(input.stream.name.as_str()) {
            input.stream = def.clone();
        }
    }
}

/// Starts a rule, in place of its running version if there is one.
async fn put(engine: &Engine, rule: PlannedRule) -> Result<(), Problem> {
    let refused = rule.problem("");
    let replaced = async { engine.prepare_rule(rule.spec).await?.replace(false).await };
    replaced.await.map(drop).map_err(|error| Problem { message: message(error), ..refused })
}

/// Stops everything and starts the new pipeline.
async fn start_anew(engine: &Engine, running: &mut Content, pipeline: Pipeline, new: Content) -> Changes {
    for id in running.rules.keys() {
        engine.stop_rule(id, false).await;
    }
    for name in running.views.keys() {
        engine.drop_view(name).await;
    }
    for name in &running.lookups {
        engine.drop_table(name).await;
    }
    let stopped = running.rules.keys().filter(|id| !new.rules.contains_key(*id)).cloned().collect();
    *running = new;
    let problems = start(engine, pipeline).await.err().unwrap_or_default();
    // The next change tries again to start the missing ones.
    let mut started = Vec::new();
    for id in running.rules.keys() {
        if engine.rule_status(id).await.is_some() {
            started.push(id.clone());
        }
    }
    running.rules.retain(|id, _| started.contains(id));
    Changes { all: true, started, stopped, problems, ..Changes::default() }
}
