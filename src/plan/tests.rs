//! Which plans rules give, and which rules are refused.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::expr::Expr;
use crate::sql::parse_create;
use crate::text::span::mark;

fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    for sql in [
        "CREATE STREAM demo () WITH (DATASOURCE=\"/d\", TYPE=\"websocket\", TIMESTAMP=\"ts\")",
        "CREATE STREAM typed (a BIGINT, b FLOAT, s STRING, p STRUCT(x BIGINT), xs ARRAY(FLOAT), t DATETIME) \
         WITH (DATASOURCE=\"/t\", TYPE=\"websocket\", TIMESTAMP=\"ts\")",
        "CREATE STREAM twin (a BIGINT, s STRING) WITH (DATASOURCE=\"/u\", TYPE=\"websocket\", TIMESTAMP=\"ts\")",
        "CREATE STREAM timeless () WITH (DATASOURCE=\"/t\", TYPE=\"websocket\")",
    ] {
        catalog.create(&parse_create(sql).expect("the statement is correct")).expect("the stream is correct");
    }
    catalog
}

const PLANNED: &[&str] = &[
    "SELECT * FROM demo",
    "SELECT a, o->x, abs(b), b + 1 FROM demo WHERE a > 1 AND 5 <= b AND s = \"x\" AND abs(c) = 1 AND d < 1",
    "SELECT * EXCEPT(b, c), a + 1 AS a, c INVISIBLE FROM demo",
    "SELECT * REPLACE(a * 10 AS a) FROM demo WHERE a BETWEEN 1 AND 5",
    "SELECT *, a + 1 AS a FROM typed",
    "SELECT a + 1 AS a, a + 2 AS y FROM demo WHERE a > 1",
    "SELECT y * 2 AS z, x + 1 AS y, a AS x FROM demo WHERE x > 1",
    "SELECT a + 1 AS x INVISIBLE, sqrt(a) AS r INVISIBLE, x * x AS b FROM demo",
    "SELECT d.a, demo.b AS y, q.c, d.* FROM demo AS d",
    "SELECT a / 2 AS u, b / 2 AS v, (a + 1) / xs[0] AS w, p->x / 2 AS m FROM typed",
    "SELECT 1 + 2 * 3 AS c, upper(\"x\") AS s, 1 / 0 AS e, -5 AS n FROM demo WHERE true",
    "SELECT k, count(*) AS c, avg(a + 1), c * 2 AS d, avg(a + 1) / c AS q FROM demo WHERE a > 1 \
     GROUP BY k, TUMBLINGWINDOW(ss, 10) HAVING c > 1",
    "SELECT a * 2 AS x, sum(x) AS s, window_start() AS w, w + 1 AS v FROM demo WHERE b = 1 \
     GROUP BY x, COUNTWINDOW(4, 2) FILTER(WHERE c > 1)",
    "SELECT a FROM demo WHERE b > 1 GROUP BY TUMBLINGWINDOW(mi, 1) FILTER(WHERE c > 1) HAVING count(*) > 2 LIMIT 3",
    "SELECT count(*), max(a) FROM typed",
    "SELECT t FROM typed WHERE t > \"2024-01-01\" LIMIT 0",
    "SELECT k, sum(a) AS a, max(a) AS m FROM demo WHERE a > 1 GROUP BY k, TUMBLINGWINDOW(ss, 1)",
    "SELECT collect(*) AS l, last_value(a, true) AS v, last_value(a, false) AS w, percentile_disc(a, 0.9) AS p, \
     deduplicate(a, false)->b AS d, count(*) AS c FROM demo GROUP BY COUNTWINDOW(3)",
    "SELECT merge_agg(*) AS m FROM typed GROUP BY COUNTWINDOW(3)",
    "SELECT a, lag(a, 2) OVER (PARTITION BY k WHEN a > 0) AS p, a - p AS d, d * 2 AS e FROM demo WHERE d > 1",
    "SELECT changed_cols(\"c_\", true, avg(a), b) FROM demo GROUP BY SLIDINGWINDOW(ss, 10, 1) OVER (WHEN a > 3)",
    "SELECT demo.a, s, typed.b + timeless.c AS x, x * 2 AS y FROM demo INNER JOIN typed ON demo.a = typed.a AND b > 1 \
     LEFT JOIN timeless ON s = timeless.s WHERE demo.z = 5 AND x > 1 GROUP BY HOPPINGWINDOW(mi, 10, 5) ORDER BY y DESC",
    "SELECT k, row_number() OVER (PARTITION BY k ORDER BY a DESC) AS n, a FROM demo \
     GROUP BY STATEWINDOW(had_changed(true, a), b = 1) OVER (PARTITION BY k) ORDER BY a, k DESC LIMIT 3",
    "SELECT unnest(xs) AS x, a FROM typed LIMIT 2",
    "SELECT a, last_hit_count() AS n FROM demo WHERE last_hit_count() < 3",
    "SELECT * FROM demo AS x INNER JOIN demo AS y ON x.id = y.parent GROUP BY SESSIONWINDOW(ss, 60, 5)",
];

/// `plans.txt` beside this file has the plans of these rules; `UPDATE_PLANS=1` in the environment rewrites it.
#[test]
fn plans() {
    let (catalog, options) = (catalog(), RuleOptions::default());
    let mut text = String::new();
    for sql in PLANNED {
        let plan = explain(sql, &options, &catalog).unwrap_or_else(|error| format!("refused: {error}\n"));
        text.push_str(&format!("{sql}\n\n{plan}\n"));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/plan/plans.txt");
    if std::env::var_os("UPDATE_PLANS").is_some_and(|value| value == "1") {
        std::fs::write(&path, &text).expect("plans.txt can be written");
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), text);
}

#[test]
fn refusals() {
    let (catalog, options) = (catalog(), RuleOptions::default());
    // The rule, the message, the marked text.
    for (sql, message, place) in [
        ("SELECT a FROM nosuch", "fail to get stream nosuch, please check if stream is created", "nosuch"),
        ("SELECT z FROM typed", "unknown field z", "z"),
        ("SELECT a FROM typed WHERE z > 1", "unknown field z", "z"),
        ("SELECT nope.z FROM typed", "unknown field nope", "nope"),
        ("SELECT A FROM typed", "field A not found in stream typed", "A"),
        ("SELECT nosuchfunc(a) AS b FROM demo", "function nosuchfunc not found", "nosuchfunc"),
        ("SELECT power(a) FROM demo", "validate function power error: Expect 2 arguments but found 1.", "power"),
        (
            "SELECT abs(\"x\") AS c FROM demo",
            "validate function abs error: Expect number - float or int type for parameter 1",
            "abs",
        ),
        ("SELECT sum() AS s FROM demo", "validate function sum error: Expect 1 arguments but found 0.", "sum"),
        ("SELECT sum(count(*)) AS c FROM demo", "invalid argument for func sum: aggregate argument is not allowed", ""),
        ("SELECT a, a, b FROM demo", "duplicate field definition a", ""),
        ("SELECT abs(a), abs(b) FROM demo", "duplicate field definition abs", "abs(b)"),
        ("SELECT a AS b, b FROM demo", "duplicate field definition b", ""),
        ("SELECT a AS x, b AS x FROM demo", "duplicate alias x", ""),
        ("SELECT a AS b, b AS a FROM demo", "select fields have cycled alias", ""),
        ("SELECT x AS y, y + 1 AS z, z AS x FROM demo", "select fields have cycled alias", ""),
        ("SELECT a FROM demo GROUP BY a", "select stmt group by should be used with window", ""),
        (
            "SELECT a FROM demo GROUP BY sum(a), COUNTWINDOW(2)",
            "Not allowed to call aggregate functions in GROUP BY clause: sum(a)",
            "sum(a)",
        ),
        (
            "SELECT sum(a) AS s FROM demo GROUP BY s, COUNTWINDOW(2)",
            "Not allowed to call aggregate functions in GROUP BY clause: s",
            "",
        ),
        (
            "SELECT a FROM demo WHERE count(*) > 1",
            "Not allowed to call aggregate functions in WHERE clause: count(*)",
            "count(*)",
        ),
        (
            "SELECT k FROM demo GROUP BY k, COUNTWINDOW(2) HAVING k = \"x\"",
            "Not allowed to call non-aggregate functions in HAVING clause: k = \"x\"",
            "k = \"x\"",
        ),
        ("SELECT abs(a) OVER (PARTITION BY a) AS x FROM demo", "Found OVER after non analytic function abs", ""),
        ("SELECT tags[1:1] AS s FROM demo", "colon start value can't be greater than end value", "tags[1:1]"),
        ("SELECT a FROM demo WHERE 5", "WHERE needs a condition, and 5 is never true or false", "5"),
        ("SELECT a FROM demo WHERE a LIKE 5", "the pattern of LIKE must be text, not 5", "5"),
        (
            "SELECT abs(*) FROM demo",
            "* is allowed in the select list, and in functions of whole rows: count, collect, merge_agg, first_value, last_value, lag, latest, changed_col, changed_cols, had_changed",
            "*",
        ),
        ("SELECT lag() FROM demo", "validate function lag error: expect one two or three args but got 0", "lag"),
        (
            "SELECT a FROM demo INNER JOIN typed ON demo.a = typed.a",
            "a time window or count window is required to join multiple streams",
            "typed",
        ),
        ("SELECT s FROM typed INNER JOIN twin ON typed.a = twin.a GROUP BY COUNTWINDOW(2)", "ambiguous field s", "s"),
        (
            "SELECT d.a FROM demo AS d INNER JOIN typed AS d ON d.a = 1 GROUP BY COUNTWINDOW(2)",
            "d names two streams of the rule: give each its own name with AS",
            "typed",
        ),
        (
            "SELECT a FROM demo GROUP BY COUNTWINDOW(2) OVER (WHEN a > 1)",
            "OVER is not allowed after this window: OVER (WHEN …) is for SLIDINGWINDOW, OVER (PARTITION BY …) for STATEWINDOW",
            "",
        ),
        ("SELECT abs(unnest(a)) FROM demo", "select clause shouldn't has nested set-returning-functions", ""),
        (
            "SELECT unnest(a) AS x, unnest(b) AS y FROM demo",
            "select clause shouldn't has multi set-returning-functions",
            "",
        ),
        ("SELECT a FROM demo WHERE row_number() > 1", "window functions can only be in select fields", ""),
        (
            "SELECT changed_cols(\"\", true, a) + 1 FROM demo",
            "function changed_cols can only be used inside the select clause",
            "",
        ),
        (
            "SELECT lag(demo.a + timeless.b) FROM demo INNER JOIN timeless ON demo.a = timeless.a GROUP BY COUNTWINDOW(2)",
            "an analytic function runs over the rows of one stream; lag reads several",
            "",
        ),
    ] {
        let error = plan(sql, &options, &catalog).expect_err(sql);
        assert_eq!(error.to_string(), message, "{sql}");
        let span = error.span().expect(sql);
        let marked = &sql[span.start as usize..span.end as usize];
        assert!(place.is_empty() || marked == place, "{}", mark(sql, span));
    }
}

#[test]
fn what_was_meant() {
    for (sql, hint) in [
        ("SELECT a FROM dem", "did you mean demo?"),
        ("SELECT cuont(*) FROM demo", "did you mean count?"),
        ("SELECT A FROM typed", "did you mean a?"),
        ("SELECT count(*) FROM demo GROUP BY TUMBLINGWINDO(ss, 10)", "did you mean TUMBLINGWINDOW?"),
        ("SELECT count(*) FROM demo GROUP BY a, countwindw(10)", "did you mean COUNTWINDOW?"),
        ("SELECT a + s FROM typed", "convert one side, as in cast(x, \"float\") or cast(x, \"string\")"),
        ("SELECT s + s FROM typed", "concat(a, b) joins texts"),
        ("SELECT a AND b > 1 FROM typed", "both sides are conditions, such as x > 0"),
        (
            "SELECT xs + 1 FROM typed",
            "operators take single values: read a member of a struct with ->, an element of an array with [0]",
        ),
        ("SELECT s->x FROM typed", "-> reads a member of a struct: parse_json(x)->y, if the text is JSON"),
        ("SELECT xs->x FROM typed", "-> reads a member of a struct: x[0]->y reads that of an element"),
        ("SELECT a->x FROM typed", "-> reads a member of a struct: declare the column as STRUCT(…)"),
        ("SELECT s[0] FROM typed", "this needs an array: parse_json(x), if the text is JSON"),
        ("SELECT p[0] FROM typed", "this needs an array: a member of a struct is read with ->"),
        ("SELECT -s FROM typed", "this needs a number: convert the value, as in cast(x, \"float\")"),
        ("SELECT NOT a FROM typed", "this needs a condition, such as x > 0"),
    ] {
        let error = plan(sql, &RuleOptions::default(), &catalog()).expect_err(sql);
        assert_eq!(error.hint().as_deref(), Some(hint), "{sql}");
    }
}

/// All errors are reported at once: the main one first, the others in the order of their places, and none that only
/// follows from another.
#[test]
fn each_error_is_reported_once() {
    for (sql, expected) in [
        (
            "SELECT uper(a) AS x, lwoer(b), x + 1 AS y FROM demo WHERE cuont(c) > 1 AND abss(d) = nope(e)",
            &[
                "uper: function uper not found",
                "lwoer: function lwoer not found",
                "cuont: function cuont not found",
                "abss: function abss not found",
                "nope: function nope not found",
            ][..],
        ),
        (
            "SELECT abs(uper(a), 1), b FROM dmeo WHERE 5 GROUP BY COUNTWINDOW(2) HAVING b = 1",
            &[
                "dmeo: fail to get stream dmeo, please check if stream is created",
                "uper: function uper not found",
                "5: WHERE needs a condition, and 5 is never true or false",
                "b = 1: Not allowed to call non-aggregate functions in HAVING clause: b = 1",
            ],
        ),
        (
            "SELECT aa, b AS n, c AS n, sum(sum(a)) AS t FROM typed WHERE sum(a) > 1 AND bb = 1 ORDER BY q",
            &[
                "n: duplicate alias n",
                "aa: unknown field aa",
                "c: unknown field c",
                "sum(sum(a)): invalid argument for func sum: aggregate argument is not allowed",
                "sum(a): Not allowed to call aggregate functions in WHERE clause: sum(a)",
                "bb: unknown field bb",
                "q: unknown field q",
            ],
        ),
        (
            "SELECT unnest(uper(a)), changed_cols(lwoer(b), true, a), abs() FROM demo GROUP BY a",
            &[
                "a: select stmt group by should be used with window",
                "uper: function uper not found",
                "lwoer: function lwoer not found",
                "abs: validate function abs error: Expect 1 arguments but found 0.",
            ],
        ),
        (
            "SELECT sum(uper(a)), lag(uper(a)) OVER (PARTITION BY lwoer(b)) FROM demo",
            &["uper: function uper not found", "uper: function uper not found", "lwoer: function lwoer not found"],
        ),
    ] {
        let error = plan(sql, &RuleOptions::default(), &catalog()).expect_err(sql);
        let found = error.each().map(|error| {
            let span = error.span().expect(sql);
            format!("{}: {error}", &sql[span.start as usize..span.end as usize])
        });
        assert_eq!(found.collect::<Vec<_>>(), expected, "{sql}");
    }
    let joined = |more: usize| (0..more).map(|number| format!(" CROSS JOIN dmeo{number}")).collect::<String>();
    for many in [
        format!("SELECT {} FROM demo", vec!["uper(a) + 1"; 5000].join(", ")),
        format!("SELECT {} FROM demo", vec!["a AS x"; 5000].join(", ")),
        format!("SELECT a FROM demo{}", joined(63)),
    ] {
        let error = plan(&many, &RuleOptions::default(), &catalog()).expect_err("5000 mistakes");
        assert_eq!(error.each().count(), 20, "{:.40}", many);
    }
    let many = format!("SELECT a FROM demo{}", joined(64));
    let error = plan(&many, &RuleOptions::default(), &catalog()).expect_err("65 sources");
    assert!(error.to_string().starts_with("the rule reads 65 streams and tables, at most 64"), "{error}");
    assert_eq!(error.span().map(|span| &many[span.start as usize..span.end as usize]), Some("dmeo63"));
}

/// `/` is integer division only if neither operand comes from a message without a schema.
#[test]
fn integer_division_needs_declared_whole_numbers() {
    for (stream, division, expected) in [
        ("demo", "a / 2", false),
        ("demo", "(1 + abs(a)) / 2", false),
        ("demo", "7 / length(a)", true),
        ("demo", "cast(a, \"bigint\") / 2", true),
        ("demo", "CASE WHEN a > 1 THEN 2 ELSE b END / 2", false),
        ("demo", "sum(a) / 2", false),
        ("demo", "count(a) / 2", true),
        ("demo", "coalesce(a, 1) / 2", false),
        ("typed", "a / 2", true),
        ("typed", "-a / 2", true),
        ("typed", "sum(a) / 2", true),
        ("typed", "p->x / 2", true),
        ("typed", "abs(a + 1) / 2", true),
    ] {
        let sql = format!("SELECT {division} AS q FROM {stream}");
        let plan = plan(&sql, &RuleOptions::default(), &catalog()).expect(&sql);
        let items = match &plan.body {
            physical::Body::Rows(projection) => &projection.items,
            physical::Body::Stateful(body) => &body.projection.items,
            physical::Body::View(_) => unreachable!("a rule is not a view"),
        };
        let [physical::Item::Field { expr: crate::expr::Expr::Binary { integral, .. }, .. }] = items.as_slice() else {
            panic!("{sql}: {items:?}");
        };
        assert_eq!(*integral, expected, "{sql}");
    }
}

#[test]
fn event_time_needs_a_timestamp() {
    let options = RuleOptions { event_time: true, ..RuleOptions::default() };
    let planned = |sql| plan(sql, &options, &catalog()).map_err(|error| error.to_string());
    let timestamp = planned("SELECT a FROM demo")
        .map(|plan| plan.inputs[0].scan.event_time.clone().map(|time| (time.slot, time.late_tolerance)));
    assert_eq!(timestamp, Ok(Some((1, 1000))));
    assert_eq!(
        planned("SELECT a FROM timeless").err().as_deref(),
        Some("preprocessor is set to be event time but stream option TIMESTAMP not found")
    );
    assert_eq!(planned("SELECT a FROM typed").err().as_deref(), Some("timestamp field ts not found"));
}

/// Aliases of aggregates that repeat each other must not grow without a limit, and chains of aliases must not overflow
/// the stack.
#[test]
fn repeated_aliases_are_limited() {
    let doubled: Vec<String> = (0..60).map(|i| format!("a{i} + a{i} AS a{}", i + 1)).collect();
    let sql = format!("SELECT count(*) AS a0, {} FROM demo", doubled.join(", "));
    let error = plan(&sql, &RuleOptions::default(), &catalog()).expect_err("too large");
    assert!(matches!(*error.kind, PlanErrorKind::TooComplex(_)), "{error}");
    let chain: Vec<String> = (0..3000).map(|i| format!("a{i} + 1 AS a{}", i + 1)).collect();
    let sql = format!("SELECT {} FROM demo WHERE a3000 > 1", chain.join(", "));
    assert_eq!(
        plan(&sql, &RuleOptions::default(), &catalog()).expect("a chain").inputs[0].scan.computed_for_filter,
        3000
    );
    let sql = format!("SELECT {} FROM demo", vec!["a"; 450].join(" + "));
    assert!(plan(&sql, &RuleOptions::default(), &catalog()).is_ok());
}

/// Values that exist only in finished result rows are refused, under any alias, in clauses that run before.
#[test]
fn clauses_cannot_read_results_that_come_later() {
    let planned = |sql: &str| plan(sql, &RuleOptions::default(), &catalog()).map(|_| ());
    for tail in
        ["WHERE n > 1 GROUP BY COUNTWINDOW(2)", "GROUP BY n, COUNTWINDOW(2)", "GROUP BY COUNTWINDOW(2) HAVING n"]
    {
        for call in ["row_number()", "row_number() + 1", "lag(window_start()->m) BETWEEN a AND 5", "lag(sum(a))"] {
            assert!(planned(&format!("SELECT {call} AS n FROM demo {tail}")).is_err(), "{call} {tail}");
        }
    }
    assert!(planned("SELECT row_number() AS n, sum(n) AS s FROM demo GROUP BY COUNTWINDOW(2)").is_err());
    assert!(planned("SELECT a, row_number() AS n FROM demo GROUP BY COUNTWINDOW(2) ORDER BY n DESC").is_ok());
    assert!(planned("SELECT a, lag(sum(a)) AS n FROM demo GROUP BY a, COUNTWINDOW(2) ORDER BY n").is_err());
    assert!(planned("SELECT lag(sum(a)) AS n, n + 1 AS m FROM demo GROUP BY COUNTWINDOW(2)").is_ok());
}

/// Expressions of all kinds over names that may be columns, aliases or undefined.
fn expressions() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "a",
        "b",
        "x",
        "y",
        "demo.a",
        "d.b",
        "p",
        "xs",
        "s",
        "t",
        "1",
        "2.5",
        "\"abc\"",
        "true",
        "count(*)",
        "k.z",
        "window_start()",
        "row_number()",
        "meta(demo.k)",
        "-1",
        "0",
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(4, 24, 3, |e| {
        let two = (e.clone(), e.clone());
        prop_oneof![
            (two.clone(), prop::sample::select(vec!["+", "/", "%", "=", "<", "AND", "OR", "&"]))
                .prop_map(|((l, r), op)| format!("({l} {op} {r})")),
            (e.clone(), prop::sample::select(vec!["abs", "sum", "avg", "upper", "lag", "coalesce", "max", "nope"]))
                .prop_map(|(e, f)| format!("{f}({e})")),
            two.clone().prop_map(|(l, r)| format!("({l} BETWEEN {r} AND 5)")),
            two.clone().prop_map(|(l, r)| format!("({l} IN ({r}, 1))")),
            two.clone().prop_map(|(l, r)| format!("({l} LIKE {r})")),
            two.clone().prop_map(|(l, r)| format!("({l})[{r}]")),
            two.prop_map(|(l, r)| format!("CASE WHEN {l} THEN {r} ELSE 1 END")),
            e.clone().prop_map(|e| format!("({e})->m")),
            e.prop_map(|e| format!("(NOT {e})")),
        ]
    })
}

proptest! {
    /// Every rule is either planned or refused with a place inside its text, and a plan reads only slots that exist.
    #[test]
    fn every_rule_is_planned_or_refused(
        one in expressions(), two in expressions(), condition in expressions(), key in expressions(),
        stream in prop::sample::select(vec!["demo", "demo AS d", "typed"]),
        tail in prop::sample::select(vec!["", "COUNTWINDOW(3)", "TUMBLINGWINDOW(ss, 1)", "KEY, COUNTWINDOW(2)"]),
        star in prop::sample::select(vec!["", "*, ", "* EXCEPT(a), "]),
        event_time in any::<bool>(),
        having in any::<bool>(),
    ) {
        let group = if tail.is_empty() { String::new() } else { format!(" GROUP BY {}", tail.replace("KEY", &key)) };
        let late = if having { format!(" HAVING {key} ORDER BY {key}") } else { String::new() };
        let sql = format!("SELECT {star}{one} AS x, {two} AS y FROM {stream} WHERE {condition}{group}{late}");
        let options = RuleOptions { event_time, ..RuleOptions::default() };
        match plan(&sql, &options, &catalog()) {
            Ok(plan) => slots_exist(&plan)?,
            Err(error) => {
                let end = error.span().map_or(0, |span| span.end as usize);
                prop_assert!(end <= sql.len() && !error.to_string().is_empty());
            }
        }
        let _ = explain(&sql, &options, &catalog());
    }
}

fn slots_exist(plan: &RulePlan) -> Result<(), TestCaseError> {
    let scan = &plan.inputs[0].scan;
    let columns = scan.columns.len();
    for (index, expr) in scan.computed.iter().enumerate() {
        prop_assert!(expr.slots().iter().all(|slot| *slot < columns + index));
    }
    if let Some(filter) = &scan.filter {
        let known = columns + scan.computed_for_filter;
        let slots = filter.rest.iter().flat_map(|rest| rest.slots()).chain(filter.tests.iter().map(|test| test.slot));
        prop_assert!(slots.into_iter().all(|slot| slot < known));
    }
    let row = columns + scan.computed.len();
    let (projection, slots) = match &plan.body {
        physical::Body::Rows(projection) => (projection, row),
        physical::Body::Stateful(body) => {
            let answers = body.row_slots + body.aggregates.len();
            prop_assert!(body.having.iter().flat_map(Expr::slots).all(|slot| slot < answers));
            prop_assert!(body.keys.iter().flat_map(Expr::slots).all(|slot| slot < body.row_slots));
            let args = body.aggregates.iter().flat_map(|call| &call.arg);
            prop_assert!(args.flat_map(Expr::slots).all(|slot| slot < body.row_slots));
            let order = body.order.iter().flat_map(|key| key.expr.slots());
            prop_assert!(order.into_iter().all(|slot| slot < body.first_result_step()));
            (&body.projection, body.result_slots())
        }
        physical::Body::View(_) => unreachable!("a rule is not a view"),
    };
    for item in &projection.items {
        if let physical::Item::Field { expr, .. } | physical::Item::Hidden { expr } = item {
            prop_assert!(expr.slots().iter().all(|slot| *slot < slots));
        }
    }
    Ok(())
}
