//! Reads the member `views` of rule files: CREATE VIEW statements, in a list or by name.

use std::sync::Arc;

use super::{Loader, PlannedRule, diagnose};
use crate::definition::name::LongName;
use crate::definition::stream::RelationKind;
use crate::engine::{Keeps, RuleSpec, view_id};
use crate::plan::PlanError;
use crate::plan::physical::Body;
use crate::plan::view::{Connected, check_cycle, connected, in_order, plan_view, reads};
use crate::sql::{self, ast::CreateView};
use crate::text::document::{Document, Member, Node, Place, Problem, Value};

/// A view, ready to start.
pub struct PlannedView {
    pub spec: RuleSpec,
    pub name: String,
    /// The path for its clients.
    pub path: String,
    pub create: CreateView,
    /// The statement as written.
    pub sql: String,
    file: String,
    place: Place,
}

/// A CREATE VIEW in a file.
struct FoundView {
    document: Arc<Document>,
    node: Node,
    /// set once it is parsed
    create: Option<CreateView>,
}

impl PlannedView {
    /// An error of this view when it starts.
    pub fn problem(&self, message: impl Into<String>) -> Problem {
        Problem::error(&self.file, Some(self.place), format!("view {}", self.name), message)
    }
}

impl Loader {
    /// Adds the names of a file's views, so that errors in queries that read them can say so.
    pub(super) fn name_views(&mut self, document: &Document) {
        let Some(views) = document.root.field("views") else { return };
        let mut names = Vec::new();
        each(views, &mut |_, node| names.extend(create_of(node).map(|create| create.name.name.to_string())));
        // A view with the name of a stream is refused; the stream keeps the name.
        names.retain(|name: &String| self.catalog.relation(name).is_none());
        names.iter().for_each(|name| self.catalog.add_view(name));
    }

    /// Reads the views of all files, each after those that it reads.
    pub(super) fn read_views(&mut self, documents: &[&Arc<Document>]) {
        let mut found = Vec::new();
        for document in documents {
            let Some(views) = document.root.field("views") else { continue };
            if !matches!(views.value, Value::Text(_) | Value::List(_) | Value::Map(_)) {
                let message = format!("views is {}, expected a list of CREATE VIEW statements", views.kind());
                self.problems.push(document.error(views.place, "", message));
                continue;
            }
            each(views, &mut |key, node| {
                let found_view = FoundView { document: (*document).clone(), node: node.clone(), create: None };
                found.extend(self.parse_view(found_view, key));
            });
        }
        let creates: Vec<&CreateView> = found.iter().filter_map(|found| found.create.as_ref()).collect();
        let order: Vec<usize> = in_order(&creates)
            .into_iter()
            .filter_map(|create| creates.iter().position(|known| std::ptr::eq(*known, create)))
            .collect();
        let circles: Vec<_> = creates.iter().map(|create| check_cycle(create, &creates).err()).collect();
        let mut found: Vec<Option<FoundView>> = found.into_iter().map(Some).collect();
        for place in order {
            let Some(FoundView { document, node, create: Some(create) }) = found[place].take() else { continue };
            self.read_view(&document, &node, create, circles[place].as_ref());
        }
    }

    fn parse_view(&mut self, found: FoundView, key: Option<&Member>) -> Option<FoundView> {
        let FoundView { document, node, .. } = &found;
        let subject = key.map_or_else(|| "view".to_owned(), |member| format!("view {}", member.key));
        let Some(statement) = statement_of(node) else {
            let message = format!("a view is a CREATE VIEW statement, this is {}", node.kind());
            self.problems.push(document.error(node.place, subject, message));
            return None;
        };
        match sql::parse_view(statement.text().unwrap_or_default()) {
            Ok(create) => Some(FoundView { create: Some(create), ..found }),
            Err(error) => {
                diagnose::of_create(document, statement, &subject, &error, &mut self.problems);
                None
            }
        }
    }

    fn read_view(&mut self, document: &Arc<Document>, node: &Node, create: CreateView, circle: Option<&PlanError>) {
        let Some(statement) = statement_of(node) else { return };
        let name = create.name.name.to_string();
        if let Err(error) = LongName::check(&name) {
            let span = Some(create.name.span);
            self.problems.push(document.sql_error(statement, "view", error.to_string(), span, None));
            self.broken.insert(name);
            return;
        }
        let subject = format!("view {name}");
        let mut refuse = |message: String| {
            let span = Some(create.name.span);
            self.problems.push(document.sql_error(statement, &subject, message, span, None));
        };
        if self.views.iter().any(|view| view.name == name) {
            return refuse(format!("view {name} already exists"));
        }
        if self.catalog.relation(&name).is_some() {
            return refuse(format!("{name} is the name of a stream or table"));
        }
        if let Some(circle) = circle {
            self.broken.insert(name);
            diagnose::of_plan(document, statement, &subject, circle, &mut self.problems);
            return;
        }
        for source in reads(&create) {
            let source = source.as_str();
            if let Some(stream) = self.streams.get_mut(source) {
                stream.used = true;
            } else if self.broken.contains(source) || !self.catalog.is_view(source) && !self.complete {
                // Its errors are reported at its statement.
                self.broken.insert(name);
                return;
            }
        }
        let plan = match plan_view(&create, &self.catalog) {
            Ok(plan) => plan,
            Err(error) => {
                self.broken.insert(name);
                diagnose::of_plan(document, statement, &subject, &error, &mut self.problems);
                return;
            }
        };
        let Body::View(view) = &plan.body else { return };
        self.catalog.define_view(&name, &view.shape);
        for warning in &view.warnings {
            self.problems.push(document.warning(node.place, &subject, warning.clone()));
        }
        if view.checkpoint.is_some() {
            let message =
                "CHECKPOINT: plutino run keeps no state, the view begins empty each time; plutino serve keeps it";
            self.problems.push(document.warning(node.place, &subject, message));
        }
        let path = view.about.path.clone();
        if let Some(other) = self.views.iter().find(|view| view.path == path) {
            let message = format!("its PATH {path} is that of view {}", other.name);
            self.problems.push(document.error(node.place, &subject, message));
            return;
        }
        let mut sources = Vec::with_capacity(plan.inputs.len());
        for input in &plan.inputs {
            let is_asked = input.stream.kind == RelationKind::View;
            let source = self.sources.get(input.stream.name.as_str()).filter(|_| !is_asked);
            if source.is_none() && !is_asked {
                return;
            }
            sources.push(source.cloned());
        }
        let (id, keeps, connected) = (view_id(&name), Keeps::Nothing, Connected::default());
        let spec = RuleSpec { id, plan, sources, sinks: Vec::new(), send_error: false, keeps, connected };
        let place = document.error(node.place, "", "").place.unwrap_or_default();
        let sql = statement.text().unwrap_or_default().to_owned();
        self.views.push(PlannedView { spec, name, path, create, sql, file: document.name.clone(), place });
    }
}

/// Sets what each view is connected with, after all rules are known.
pub(super) fn connect(views: &mut [PlannedView], rules: &[PlannedRule]) {
    let read = |rule: &PlannedRule| -> Vec<_> {
        let views = rule.spec.plan.inputs.iter().filter(|input| input.stream.view.is_some());
        views.map(|input| input.stream.name.clone()).collect()
    };
    let together: Vec<_> = rules.iter().map(read).collect();
    let creates: Vec<CreateView> = views.iter().map(|view| view.create.clone()).collect();
    let creates: Vec<&CreateView> = creates.iter().collect();
    for view in views {
        view.spec.connected = connected(std::slice::from_ref(&view.create.name.name), &creates, &together);
    }
}

/// Calls `see` with the statements of a section.
fn each<'a>(views: &'a Node, see: &mut dyn FnMut(Option<&'a Member>, &'a Node)) {
    match &views.value {
        Value::Text(_) => see(None, views),
        Value::List(nodes) => nodes.iter().for_each(|node| see(None, node)),
        Value::Map(members) => members.iter().for_each(|member| see(Some(member), &member.node)),
        _ => {}
    }
}

fn statement_of(node: &Node) -> Option<&Node> {
    match &node.value {
        Value::Text(_) => Some(node),
        _ => node.field("sql").filter(|sql| sql.text().is_some()),
    }
}

fn create_of(node: &Node) -> Option<CreateView> {
    sql::parse_view(statement_of(node)?.text()?).ok()
}
