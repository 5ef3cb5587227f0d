//! Runs a template over a value.

use std::borrow::Cow;

use super::{Node, Operand, Pipe, RunError, Template, functions, print};
use crate::format::json;
use crate::value::{Text, Value};

/// The most nodes and elements that one run may visit.
const MAX_STEPS: usize = 1_000_000;
/// The most bytes that one run may produce.
const MAX_OUTPUT: usize = 16 * 1024 * 1024;
/// The most parts of a value that a function returns: the value itself, its elements and members, and those inside
/// them.
const MAX_PARTS: usize = 100_000;
/// This many parts count as one step.
const PARTS_A_STEP: usize = 16;

/// A text counts as one more part for each of this many bytes.
const BYTES_A_PART: usize = 1024;
/// The greatest depth of calls between templates.
const MAX_CALLS: usize = 100;

pub fn run(template: &Template, value: &Value) -> Result<String, RunError> {
    let root = json::expand(value);
    let mut run = Run {
        template,
        out: String::new(),
        variables: vec![(Text::default(), root.clone().into_owned())],
        steps: 0,
        calls: 0,
    };
    run.nodes(&template.body, &root)?;
    Ok(run.out)
}

struct Run<'t> {
    template: &'t Template,
    out: String,
    variables: Vec<(Text, Value)>,
    steps: usize,
    calls: usize,
}

/// How the run of a list of nodes ended.
#[derive(Clone, Copy, PartialEq)]
enum Flow {
    Next,
    Break,
    Continue,
}

impl Run<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, RunError> {
        let scope = self.variables.len();
        for node in nodes {
            let flow = self.node(node, dot)?;
            if flow != Flow::Next {
                self.variables.truncate(scope);
                return Ok(flow);
            }
        }
        self.variables.truncate(scope);
        Ok(Flow::Next)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, RunError> {
        match node {
            Node::Text(text) => {
                self.out.push_str(text);
                self.step(1)?;
            }
            Node::Print(pipe) => {
                let value = self.pipe(pipe, dot)?;
                if pipe.sets.is_empty() {
                    print::print(&mut self.out, &value);
                }
                self.step(pipe.line)?;
            }
            Node::If(pipe, body, otherwise) => {
                return self.scoped(|run| {
                    let value = run.pipe(pipe, dot)?;
                    run.nodes(if functions::is_true(&value) { body } else { otherwise }, dot)
                });
            }
            Node::With(pipe, body, otherwise) => {
                return self.scoped(|run| {
                    let value = run.pipe(pipe, dot)?;
                    if functions::is_true(&value) { run.nodes(body, &value) } else { run.nodes(otherwise, dot) }
                });
            }
            Node::Range(pipe, body, otherwise) => return self.scoped(|run| run.range(pipe, body, otherwise, dot)),
            Node::Call(name, pipe, line) => {
                let value = match pipe {
                    Some(pipe) => self.pipe(pipe, dot)?,
                    None => Value::Null,
                };
                let template = self.template;
                let Some(body) = template.defined.get(name) else {
                    return Err(RunError { line: *line, what: format!("template {:?} not defined", name.as_str()) });
                };
                if self.calls == MAX_CALLS {
                    return Err(RunError { line: *line, what: "exceeded maximum template depth".to_owned() });
                }
                self.calls += 1;
                let variables = std::mem::replace(&mut self.variables, vec![(Text::default(), value.clone())]);
                self.nodes(body, &value)?;
                self.variables = variables;
                self.calls -= 1;
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn scoped(&mut self, inner: impl FnOnce(&mut Self) -> Result<Flow, RunError>) -> Result<Flow, RunError> {
        let scope = self.variables.len();
        let flow = inner(self)?;
        self.variables.truncate(scope);
        Ok(flow)
    }

    fn range(&mut self, pipe: &Pipe, body: &[Node], otherwise: &[Node], dot: &Value) -> Result<Flow, RunError> {
        let value = self.evaluate(pipe, dot)?;
        let elements: Vec<(Value, Value)> = match &*json::expand(&value) {
            Value::Absent | Value::Null => Vec::new(),
            Value::Array(elements) => {
                elements.iter().enumerate().map(|(index, value)| (Value::Int(index as i64), value.clone())).collect()
            }
            Value::Object(members) => {
                let mut members: Vec<_> =
                    members.iter().map(|(key, value)| (Value::Text(key.clone()), value.clone())).collect();
                members.sort_by(|(left, _), (right, _)| left.as_text().cmp(&right.as_text()));
                members
            }
            Value::Int(count) => {
                let count = (*count).clamp(0, MAX_STEPS as i64 + 1);
                (0..count).map(|index| (Value::Int(index), Value::Int(index))).collect()
            }
            other => {
                let what = format!("range can't iterate over {}", print::text(other));
                return Err(RunError { line: pipe.line, what });
            }
        };
        if elements.is_empty() {
            return self.nodes(otherwise, dot);
        }
        for (index, element) in elements {
            self.step(pipe.line)?;
            let scope = self.variables.len();
            match pipe.sets.as_slice() {
                [name] => self.set(name, element.clone(), pipe.declares),
                [first, second] => {
                    self.set(first, index, pipe.declares);
                    self.set(second, element.clone(), pipe.declares);
                }
                _ => {}
            }
            let flow = self.nodes(body, &element)?;
            self.variables.truncate(scope);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::Next)
    }

    fn set(&mut self, name: &Text, value: Value, declares: bool) {
        if !declares && let Some((_, known)) = self.variables.iter_mut().rev().find(|(known, _)| known == name) {
            *known = value;
        } else {
            self.variables.push((name.clone(), value));
        }
    }

    /// Evaluates a pipeline and sets its variables.
    fn pipe(&mut self, pipe: &Pipe, dot: &Value) -> Result<Value, RunError> {
        let value = self.evaluate(pipe, dot)?;
        if let [name] = pipe.sets.as_slice() {
            self.set(name, value.clone(), pipe.declares);
        }
        Ok(value)
    }

    fn evaluate(&mut self, pipe: &Pipe, dot: &Value) -> Result<Value, RunError> {
        let mut result: Option<Value> = None;
        for command in &pipe.commands {
            result = Some(self.command(command, result.take(), dot, pipe.line)?);
        }
        Ok(result.unwrap_or_default())
    }

    fn command(
        &mut self,
        command: &[Operand],
        last: Option<Value>,
        dot: &Value,
        line: usize,
    ) -> Result<Value, RunError> {
        let Some((Operand::Function(function), args)) = command.split_first() else {
            return match command.first() {
                Some(operand) => self.operand(operand, dot, line),
                None => Ok(Value::Absent),
            };
        };
        // These evaluate no more arguments than they need.
        if matches!(function.name, "and" | "or") {
            let mut value = Value::Absent;
            for arg in args {
                value = self.operand(arg, dot, line)?;
                if functions::is_true(&value) == (function.name == "or") {
                    return Ok(value);
                }
            }
            return Ok(last.unwrap_or(value));
        }
        let mut values = Vec::with_capacity(args.len() + 1);
        for arg in args {
            let value = self.operand(arg, dot, line)?;
            let expanded = match json::expand(&value) {
                Cow::Owned(expanded) => Some(expanded),
                Cow::Borrowed(_) => None,
            };
            values.push(expanded.unwrap_or(value));
        }
        values.extend(last);
        self.step(line)?;
        let value = function.call(&values).map_err(|what| {
            let what = format!("error calling {}: {what}", function.name);
            RunError { line, what }
        })?;
        self.weigh(&value, line)?;
        if let (Some(Operand::Variable(name)), true) = (args.first(), functions::CHANGING.contains(&function.name)) {
            // The variable's dictionary changes too.
            self.set(name, value.clone(), false);
        }
        Ok(value)
    }

    /// Counts the size of a function's result as steps. Lists that share their parts can be far larger than their
    /// memory; a list that would take too long to walk is an error.
    fn weigh(&mut self, value: &Value, line: usize) -> Result<(), RunError> {
        let mut left = MAX_PARTS;
        // Elements share the memory of their text, but what is written does not.
        let parts = |value: &Value| 1 + value.as_text().map_or(0, str::len) / BYTES_A_PART;
        if !value.spend(&mut left, &parts) {
            return Err(RunError { line, what: "the list is too large".to_owned() });
        }
        self.steps += (MAX_PARTS - left) / PARTS_A_STEP;
        Ok(())
    }

    fn operand(&mut self, operand: &Operand, dot: &Value, line: usize) -> Result<Value, RunError> {
        match operand {
            Operand::Dot => Ok(dot.clone()),
            Operand::Value(value) => Ok(value.clone()),
            Operand::Variable(name) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                Ok(known.map(|(_, value)| value.clone()).unwrap_or_default())
            }
            Operand::Pipe(pipe) => self.evaluate(pipe, dot),
            Operand::Function(_) => self.command(std::slice::from_ref(operand), None, dot, line),
            Operand::Field(of, names) => {
                let mut value = self.operand(of, dot, line)?;
                for name in names {
                    value = field(&value, name).map_err(|what| RunError { line, what })?;
                }
                Ok(value)
            }
        }
    }

    fn step(&mut self, line: usize) -> Result<(), RunError> {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return Err(RunError { line, what: "the template takes too many steps".to_owned() });
        }
        if self.out.len() > MAX_OUTPUT {
            return Err(RunError { line, what: "the template makes too much text".to_owned() });
        }
        Ok(())
    }
}

/// Reads a member. Null and absent have none; any other value that cannot have members is an error.
fn field(value: &Value, name: &Text) -> Result<Value, String> {
    match &*json::expand(value) {
        Value::Object(members) => Ok(members.get(name).cloned().unwrap_or_default()),
        // An absent value has no members either; only null is an error.
        Value::Absent => Ok(Value::Absent),
        Value::Null => Err(format!("nil pointer evaluating interface {{}}.{name}")),
        other => Err(format!("can't evaluate field {name} in {}", print::type_name(other))),
    }
}
