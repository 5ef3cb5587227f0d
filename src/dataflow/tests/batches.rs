//! Results do not depend on how messages are batched: n messages in one batch and n batches of one give the same, for
//! every function with memory in every position.

use proptest::prelude::*;
use serde_json::json;

use super::{Rule, by_clock, event_time};
use crate::definition::rule::RuleOptions;

/// Functions with memory, each returning a whole number.
const MEMORIES: [&str; 13] = [
    "last_hit_count()",
    "last_agg_hit_count()",
    "last_hit_time() % 5",
    "last_agg_hit_time() % 5",
    "lag(v)",
    "lag(v, 2, 1) OVER (PARTITION BY k)",
    "latest(v, 0)",
    "acc_sum(v)",
    "acc_count(v) OVER (WHEN v > 1)",
    "acc_max(v)",
    "acc_avg(v)",
    "had_changed(true, v)",
    "changed_col(true, v)",
];

/// The positions; `@` is the function.
const PLACES: [&str; 17] = [
    "SELECT v, @ AS n FROM a",
    "SELECT v, @ AS n FROM a WHERE n < 2",
    "SELECT v FROM a WHERE @ < 2",
    "SELECT v, @ AS n, n + 1 AS m FROM a WHERE m < 3 AND v < 4",
    "SELECT v, CASE WHEN @ < 2 THEN 1 ELSE 0 END AS n FROM a WHERE n = 1",
    "SELECT v, CASE WHEN x > 1 THEN @ ELSE 9 END AS n, unnest(xs) AS x FROM a WHERE x > 0 AND @ < 3",
    "SELECT count(*) AS c FROM a WHERE @ < 3 GROUP BY COUNTWINDOW(2)",
    "SELECT count(*) AS c FROM a GROUP BY COUNTWINDOW(2) FILTER (WHERE @ < 3)",
    "SELECT count(*) AS c, k FROM a GROUP BY k, TUMBLINGWINDOW(ms, 20) FILTER (WHERE @ < 3)",
    "SELECT sum(@) AS s FROM a GROUP BY TUMBLINGWINDOW(ms, 20)",
    "SELECT collect(v) AS l FROM a GROUP BY SLIDINGWINDOW(ms, 50) OVER (WHEN @ < 3)",
    "SELECT collect(v) AS l FROM a GROUP BY SLIDINGWINDOW(ms, 50, 10) OVER (WHEN @ < 3)",
    "SELECT collect(v) AS l FROM a GROUP BY STATEWINDOW(@ < 2, @ > 2)",
    "SELECT collect(v) AS l, @ AS n FROM a GROUP BY SLIDINGWINDOW(ms, 50) OVER (WHEN n < 3)",
    "SELECT count(*) AS c FROM a GROUP BY COUNTWINDOW(2) HAVING @ < 3",
    "SELECT count(*) AS c, lag(count(*) + @) AS n FROM a GROUP BY COUNTWINDOW(2)",
    "SELECT v FROM a GROUP BY COUNTWINDOW(3) ORDER BY @, v",
];

#[derive(Clone, Debug)]
struct Row {
    later: i64,
    v: i64,
    k: i64,
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (0i64..30, 0i64..4, 0i64..2).prop_map(|(later, v, k)| Row { later, v, k });
    prop::collection::vec(row, 1..12)
}

/// The results of the rule for the rows; it runs after each row, or after the last.
fn sent(sql: &str, options: &RuleOptions, rows: &[Row], one_by_one: bool) -> Vec<String> {
    let mut rule = Rule::new(sql, options);
    rule.clock_to(1000, false);
    let mut ts = 1000;
    for row in rows {
        ts += row.later;
        rule.send("a", json!({"ts": ts, "v": row.v, "k": row.k, "xs": [row.v, 2]}));
        if one_by_one {
            rule.step();
        }
    }
    rule.step();
    rule.clock_to(1100, false);
    rule.end();
    rule.texts()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]
    #[test]
    fn batches_do_not_matter(rows in rows(), tolerance in 0i64..40) {
        let mut planned = 0;
        for place in PLACES {
            for memory in MEMORIES {
                let number = format!("cast(coalesce({memory}, 0), \"bigint\")");
                let sql = place.replace('@', &number);
                for options in [by_clock(), event_time(tolerance)] {
                    if !Rule::has_state(&sql, &options) {
                        continue;
                    }
                    planned += 1;
                    let one_by_one = sent(&sql, &options, &rows, true);
                    prop_assert_eq!(sent(&sql, &options, &rows, false), one_by_one, "{}", sql);
                }
            }
        }
        // Most functions are allowed in most positions.
        prop_assert!(planned > 250, "{} rules", planned);
    }
}

#[test]
fn aliases_of_hits_advance_with_each_result() {
    let rows: Vec<Row> = (1..=4).map(|v| Row { later: 1, v, k: 0 }).collect();
    let sql = "SELECT v, last_hit_count() AS n FROM a WHERE n < 2";
    let expected = [r#"[{"v":1,"n":0}]"#, r#"[{"v":2,"n":1}]"#];
    assert_eq!(sent(sql, &by_clock(), &rows, false), expected);
    assert_eq!(sent(sql, &event_time(10), &rows, false), expected);
    let sql = "SELECT count(*) AS c FROM a GROUP BY SLIDINGWINDOW(ss, 1) OVER (WHEN last_agg_hit_count() < 3)";
    let expected = [r#"[{"c":1}]"#, r#"[{"c":2}]"#, r#"[{"c":3}]"#];
    assert_eq!(sent(sql, &by_clock(), &rows, false), expected);
}
