//! Replaces a running pipeline by a changed one, rule by rule: what is unchanged continues undisturbed.
//!
//! Rules are compared by their texts and by the statements of their streams. Views and lookup tables are read through
//! the engine's own state, so a change to one of them restarts everything.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Pipeline, PlannedRule, start, start::message};
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

/// The result of a change, by rule id.
#[derive(Debug, Default)]
pub struct Changes {
    /// Everything was restarted.
    pub all: bool,
    pub started: Vec<String>,
    pub replaced: Vec<String>,
    pub stopped: Vec<String>,
    /// What could not start; the old version of a rule continues.
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
        let read_by_others = |content: &Content| {
            let tables = content.lookups.iter().map(|name| (name.clone(), content.relations.get(name).cloned()));
            (tables.collect::<BTreeMap<_, _>>(), content.views.clone())
        };
        // Which streams the views read is not checked: any change of a stream may affect them.
        let views_read = !self.views.is_empty() && self.relations != new.relations;
        self.conf_keys != new.conf_keys || read_by_others(self) != read_by_others(new) || views_read
    }
}

/// Replaces what runs by `pipeline`, and returns the result. `running` is the running content, and is updated.
pub async fn change(engine: &Engine, running: &mut Content, mut pipeline: Pipeline) -> Changes {
    let mut new = Content::of(&pipeline);
    if running.needs_all(&new) {
        return start_anew(engine, running, pipeline, new).await;
    }
    // Rules that read a stream by one definition share it.
    for (name, old) in &running.defs {
        if running.relations.get(name) == new.relations.get(name) {
            new.defs.insert(name.clone(), old.clone());
        }
    }
    for rule in &mut pipeline.rules {
        share(&mut rule.spec, &new.defs);
    }
    let mut changes = Changes::default();
    let gone: Vec<String> = running.rules.keys().filter(|id| !new.rules.contains_key(*id)).cloned().collect();
    for id in gone {
        engine.stop_rule(&id, false).await;
        changes.stopped.push(id);
    }
    for rule in pipeline.rules {
        let id = rule.spec.id.clone();
        let reads = rule.spec.plan.inputs.iter().map(|input| input.stream.name.to_string());
        let same = running.rules.get(&id) == new.rules.get(&id)
            && reads.into_iter().all(|name| running.relations.get(&name) == new.relations.get(&name));
        if same {
            continue;
        }
        let was = running.rules.get(&id).cloned();
        match put(engine, rule).await {
            Ok(()) if was.is_some() => changes.replaced.push(id),
            Ok(()) => changes.started.push(id),
            Err(problem) => {
                changes.problems.push(problem);
                // The next change tries it again.
                match was {
                    Some(was) => drop(new.rules.insert(id, was)),
                    None => drop(new.rules.remove(&id)),
                }
            }
        }
    }
    *running = new;
    changes
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
    // The next change tries again what could not start.
    let mut started = Vec::new();
    for id in running.rules.keys() {
        if engine.rule_status(id).await.is_some() {
            started.push(id.clone());
        }
    }
    running.rules.retain(|id, _| started.contains(id));
    Changes { all: true, started, stopped, problems, ..Changes::default() }
}
