//! A changed pipeline takes the place of the one that runs, rule by rule: what is the same goes on undisturbed.
//!
//! Rules are compared by their texts and by the statements that they read. Views and lookup tables are read by others
//! through the engine's own state, so a change of one of them makes everything start anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Pipeline, PlannedRule, start, start::message};
use crate::config::PropertySets;
use crate::definition::stream::StreamDef;
use crate::engine::{Engine, RuleSpec};
use crate::text::document::Problem;

/// What a pipeline is made of, by name: statements, and the JSON texts of rules.
#[derive(Clone, Debug, Default)]
pub struct Content {
    pub conf_keys: PropertySets,
    /// Streams and tables.
    pub relations: BTreeMap<String, String>,
    pub views: BTreeMap<String, String>,
    pub rules: BTreeMap<String, String>,
    /// What rules on the engine read streams by.
    defs: BTreeMap<String, Arc<StreamDef>>,
    lookups: Vec<String>,
}

/// What a change did, by the ids of rules.
#[derive(Debug, Default)]
pub struct Changes {
    /// Everything started anew.
    pub all: bool,
    pub started: Vec<String>,
    pub replaced: Vec<String>,
    pub stopped: Vec<String>,
    /// What could not start; the old version of a rule goes on.
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

    /// Whether a rule can only be replaced together with all others.
    fn needs_all(&self, new: &Content) -> bool {
        let read_by_others = |content: &Content| {
            let tables = content.lookups.iter().map(|name| (name.clone(), content.relations.get(name).cloned()));
            (tables.collect::<BTreeMap<_, _>>(), content.views.clone())
        };
        // What views read is not told apart: a change of any stream may be one of theirs.
        let views_read = !self.views.is_empty() && self.relations != new.relations;
        self.conf_keys != new.conf_keys || read_by_others(self) != read_by_others(new) || views_read
    }
}

/// Puts `pipeline` in the place of what runs, and says what that did. `running` is what runs, before and after.
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
                // It is tried again with the next change.
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

/// Lets a rule read streams by these definitions.
fn share(spec: &mut RuleSpec, defs: &BTreeMap<String, Arc<StreamDef>>) {
    for input in &mut spec.plan.inputs {
        if let Some(def) = defs.get(input.stream.name.as_str()) {
            input.stream = def.clone();
        }
    }
}

/// Starts a rule, in the place of its running version if there is one.
async fn put(engine: &Engine, rule: PlannedRule) -> Result<(), Problem> {
    let refused = rule.problem("");
    let replaced = async { engine.prepare_rule(rule.spec).await?.replace(false).await };
    replaced.await.map(drop).map_err(|error| Problem { message: message(error), ..refused })
}

/// Ends all that runs and starts the new pipeline.
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
    // What could not start is tried again with the next change.
    let mut started = Vec::new();
    for id in running.rules.keys() {
        if engine.rule_status(id).await.is_some() {
            started.push(id.clone());
        }
    }
    running.rules.retain(|id, _| started.contains(id));
    Changes { all: true, started, stopped, problems, ..Changes::default() }
}
