//! A rule's operator by itself: rows go in as a scan gives them, and results are made but not encoded, since there is no
//! sink. Time is what the rows say.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use plutino::dataflow::batch::RowBatch;
use plutino::dataflow::context::RuleContext;
use plutino::dataflow::operator::RuleOperator;
use plutino::dataflow::output::Output;
use plutino::dataflow::timers::{Alarm, WorkerClock};
use plutino::definition::rule::RuleOptions;
use plutino::definition::stream::Catalog;
use plutino::metrics::RuleMetrics;
use plutino::plan::physical::{Body, Input};
use plutino::time::Clock;

/// A rule over the streams `s` and `r`, which have no schema.
pub struct Rule {
    operator: RuleOperator,
    pub inputs: Vec<Input>,
    /// slots of a row
    pub width: usize,
}

impl Rule {
    /// The rule of this statement, which must have state. The statements of a bench are right: where one is not, the bench
    /// ends.
    pub fn new(sql: &str) -> Rule {
        let mut catalog = Catalog::default();
        for name in ["s", "r"] {
            let create = format!("CREATE STREAM {name} () WITH (TYPE=\"websocket\", DATASOURCE=\"/{name}\")");
            let create = plutino::sql::parse_create(&create).expect("the statement is right");
            catalog.create(&create).expect("the name is free");
        }
        let plan = plutino::plan::plan(sql, &RuleOptions::default(), &catalog);
        let plan = plan.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let Body::Stateful(body) = plan.body else { panic!("{sql} has no state") };
        let width = plan.inputs.iter().map(|input| input.scan.width()).max().unwrap_or(0);
        let context = RuleContext {
            id: "bench".into(),
            started: 0,
            zone: jiff::tz::TimeZone::UTC,
            hits: Default::default(),
            pause: Default::default(),
        };
        let output = Rc::new(RefCell::new(Output::new(Vec::new(), false, false, Arc::new(RuleMetrics::default()))));
        let clock = Rc::new(WorkerClock::new(Clock::System));
        let inputs = plan.inputs.clone();
        let operator =
            RuleOperator::new(*body, plan.inputs, Default::default(), Rc::new(context), output, clock, Alarm::silent());
        Rule { operator, inputs, width }
    }

    /// Runs rows and all windows that end by `until`, ms.
    pub fn run(&mut self, batch: RowBatch, until: i64) {
        self.operator.rows(batch);
        self.operator.advance(Some(until));
        self.operator.settle();
    }
}
