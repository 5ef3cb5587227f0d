//! Decides when each alias and analytic call is computed: by the scan of an input, for each of its rows with memory, or
//! over joined rows.

use std::collections::BTreeSet;

use crate::plan::error::{PlanError, PlanErrorKind};
use crate::plan::logical::{Expr, Logical, LogicalStep, SlotRef};
use crate::plan::physical::Role;

/// The stage at which a value is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// By the scan of this input.
    Scan(usize),
    /// For every row of this input, with memory.
    Step(usize),
    /// Over joined rows.
    Joined,
}

/// The stages of all aliases and analytic calls, and what each reads.
pub struct Stages {
    pub aliases: Vec<Stage>,
    /// The input of each analytic call.
    pub steps: Vec<usize>,
    /// The input whose rows unnest multiplies, if that happens before the rest.
    pub elements: Option<usize>,
}

/// What an expression reads.
#[derive(Clone, Default)]
pub struct Reads {
    pub inputs: BTreeSet<usize>,
    /// Whether it reads the result of an analytic call, or an alias with one.
    pub steps: bool,
    /// Whether it reads an alias over joined rows.
    pub joined: bool,
}

impl Stages {
    pub fn new(logical: &Logical) -> Result<Stages, PlanError> {
        let mut stages = Stages { aliases: Vec::new(), steps: Vec::new(), elements: None };
        let mut steps = logical.steps.iter().peekable();
        for number in 0..=logical.aliases.len() {
            while let Some(LogicalStep { call, span, .. }) = steps.next_if(|step| step.aliases <= number) {
                let mut reads = Reads::default();
                call.each_expr(&mut |expr| stages.note(expr, &mut reads));
                let mut inputs = reads.inputs.iter();
                let input = inputs.next().copied().unwrap_or(0);
                if inputs.next().is_some() || reads.joined || logical.inputs[input].role != Role::Stream {
                    let kind = PlanErrorKind::AnalyticInputs(call.analytic.to_string());
                    return Err(PlanError::at(kind, *span));
                }
                stages.steps.push(input);
            }
            if let Some(elements) = logical.elements.as_ref().filter(|e| e.before && e.aliases == number) {
                let reads = stages.reads(&elements.rows.arg);
                let input = reads.inputs.first().copied().unwrap_or(0);
                if reads.inputs.len() > 1 || reads.joined || logical.inputs[input].role != Role::Stream {
                    let kind = PlanErrorKind::AnalyticInputs(elements.rows.function.to_string());
                    return Err(PlanError::at(kind, elements.span));
                }
                stages.elements = Some(input);
            }
            let Some(alias) = logical.aliases.get(number) else { break };
            let mut reads = Reads::default();
            stages.note(&alias.expr, &mut reads);
            let mut inputs = reads.inputs.iter();
            let stage = match (inputs.next(), inputs.next()) {
                _ if reads.joined => Stage::Joined,
                (None, _) if logical.inputs.len() > 1 => Stage::Joined,
                (first, None) => match (first.copied().unwrap_or(0), reads.steps) {
                    (input, _) if logical.inputs[input].role != Role::Stream => Stage::Joined,
                    (input, false) => Stage::Scan(input),
                    (input, true) => Stage::Step(input),
                },
                _ => Stage::Joined,
            };
            stages.aliases.push(stage);
        }
        Ok(stages)
    }

    fn note(&self, expr: &Expr, reads: &mut Reads) {
        for slot in expr.slots() {
            match slot {
                SlotRef::Column { input, .. } => {
                    reads.inputs.insert(input);
                }
                SlotRef::Alias(alias) => match self.aliases[alias] {
                    Stage::Scan(input) => {
                        reads.inputs.insert(input);
                    }
                    Stage::Step(input) => {
                        reads.inputs.insert(input);
                        reads.steps = true;
                    }
                    Stage::Joined => reads.joined = true,
                },
                SlotRef::Step(step) => {
                    reads.inputs.insert(self.steps[step]);
                    reads.steps = true;
                }
                SlotRef::Element => {
                    if let Some(input) = self.elements {
                        reads.inputs.insert(input);
                        reads.steps = true;
                    }
                }
                SlotRef::Aggregate(_) | SlotRef::Number(_) | SlotRef::ResultStep(_) | SlotRef::WindowAggregate(_) => {}
            }
        }
    }

    pub fn reads(&self, expr: &Expr) -> Reads {
        let mut reads = Reads::default();
        self.note(expr, &mut reads);
        reads
    }
}
