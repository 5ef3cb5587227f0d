//! From a rule's tree to what a worker runs: names become slots, types are checked, conditions are pushed down.
//!
//! Every error that a rule's text can hold surfaces here, with its place. This layer knows neither sockets nor timely.

mod compile;
mod error;
mod explain;
mod logical;
pub mod physical;
mod resolve;
mod rewrite;
mod walk;

pub use error::{PlanError, PlanErrorKind};

use crate::catalog::Catalog;
use crate::rule::RuleOptions;
use crate::sql::parse_select;
use physical::RulePlan;

/// Plans the rule with this SQL over the streams of the catalog. The error is the first thing that cannot work.
pub fn plan(sql: &str, options: &RuleOptions, catalog: &Catalog) -> Result<RulePlan, PlanError> {
    let select = parse_select(sql)?;
    let logical = resolve::resolve(&select, options, catalog)?;
    Ok(rewrite::rewrite(&logical, options))
}

/// The physical plan of the rule as text.
pub fn explain(sql: &str, options: &RuleOptions, catalog: &Catalog) -> Result<String, PlanError> {
    plan(sql, options, catalog).map(|plan| format!("{plan:#?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse_create;

    #[test]
    fn smoke() {
        let mut catalog = Catalog::default();
        for sql in [
            "CREATE STREAM demo () WITH (DATASOURCE=\"/d\", TYPE=\"websocket\")",
            "CREATE STREAM typed (a BIGINT, b FLOAT, s STRING, p STRUCT(x BIGINT), xs ARRAY(FLOAT), t DATETIME) WITH (DATASOURCE=\"/d\", TYPE=\"websocket\", TIMESTAMP=\"t\")",
        ] {
            catalog.create(&parse_create(sql).unwrap()).unwrap();
        }
        for sql in [
            "SELECT * FROM demo WHERE a > 1 AND 5 <= b AND abs(c) = 1 AND d < 1",
            "SELECT a, b AS x, a + x AS y, y / 2 FROM demo WHERE y > 1",
            "SELECT * , a + 1 AS a FROM typed",
            "SELECT k, count(*) AS c, avg(a), c + 1 FROM demo WHERE a > 1 GROUP BY k, TUMBLINGWINDOW(ss, 10) HAVING c > 1",
            "SELECT k, sum(a/2), sum(a / 2) AS s FROM typed WHERE a > 1 GROUP BY COUNTWINDOW(3) FILTER(WHERE b > 2)",
            "SELECT A FROM typed",
            "SELECT nosuchfunc(a) FROM demo",
            "SELECT cuont(a) FROM demo",
            "SELECT a FROM dem",
            "SELECT a AS b, b AS a FROM demo",
            "SELECT count(*) FROM demo",
        ] {
            match plan(sql, &RuleOptions::default(), &catalog) {
                Ok(plan) => println!("{sql}\n  {:?}\n  {:?}", plan.scan, plan.body),
                Err(error) => println!("{sql}\n  {error} {:?} {:?}", error.span(), error.hint()),
            }
        }
    }
}
