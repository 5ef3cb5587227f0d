//! Random messages and clients against the real binary: each client always holds exactly its part.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::client::Live;
use crate::process::{Plutino, send, stream};

/// A view, the queries of its clients, and its expected rows after all messages so far.
pub struct Case {
    pub name: &'static str,
    pub sql: &'static str,
    pub queries: &'static [&'static str],
    pub rows: fn(&[Value]) -> BTreeMap<String, Value>,
}

fn newest(messages: &[Value], passes: fn(&Value) -> bool) -> BTreeMap<String, Value> {
    let mut rows = BTreeMap::new();
    for message in messages {
        let key = json!([message["id"]]).to_string();
        if passes(message) {
            rows.insert(key, json!({"id": message["id"], "site": message["site"], "v": message["v"]}));
        } else {
            rows.remove(&key);
        }
    }
    rows
}

/// Time, place among the messages, and value.
type InWindow = (i64, usize, Value);

fn first(mut rows: Vec<(String, Value)>, count: usize) -> Vec<(String, Value)> {
    let v = |row: &Value| row["v"].as_i64().expect("a number");
    rows.sort_by_key(|(_, row)| (-v(row), row["id"].as_i64()));
    rows.truncate(count);
    rows
}

pub const CASES: &[Case] = &[
    Case {
        name: "newest",
        sql: "CREATE VIEW newest WITH (KEY=\"id\", PARAMS=\"id,site\") AS SELECT id, site, v FROM s WHERE v < 8",
        queries: &["", "?site=a", "?site=a&site=b", "?id=3", "?id=1&id=2&site=c", "?site=b&_every=50"],
        rows: |messages| newest(messages, |message| message["v"].as_i64() < Some(8)),
    },
    Case {
        name: "sums",
        sql: "CREATE VIEW sums WITH (PARAMS=\"n,site\") AS SELECT site, count(*) AS n, sum(v) AS total FROM s \
              GROUP BY site HAVING count(*) % 5 > 0",
        queries: &["", "?site=a", "?n=3&n=4", "?_every=100"],
        rows: |messages| {
            let mut groups: BTreeMap<String, (i64, i64)> = BTreeMap::new();
            for message in messages {
                let group = groups.entry(message["site"].as_str().unwrap().to_owned()).or_default();
                *group = (group.0 + 1, group.1 + message["v"].as_i64().unwrap());
            }
            let shown = groups.into_iter().filter(|(_, (n, _))| n % 5 > 0);
            shown
                .map(|(site, (n, total))| (json!([site]).to_string(), json!({"site":site,"n":n,"total":total})))
                .collect()
        },
    },
    Case {
        name: "best",
        sql: "CREATE VIEW best WITH (KEY=\"id\", PARAMS=\"site\") AS SELECT id, site, v FROM s ORDER BY v DESC LIMIT 3",
        queries: &["", "?site=a", "?site=b&site=c"],
        rows: |messages| first(newest(messages, |_| true).into_iter().collect(), 3).into_iter().collect(),
    },
    Case {
        name: "best_each",
        sql: "CREATE VIEW best_each WITH (KEY=\"id\", PARAMS=\"site\") AS SELECT id, site, v FROM s \
              WHERE v > 1 AND row_number() OVER (PARTITION BY site ORDER BY v DESC) <= 2",
        queries: &["", "?site=a"],
        rows: |messages| {
            let rows = newest(messages, |message| message["v"].as_i64() > Some(1));
            let mut sites: BTreeMap<String, Vec<(String, Value)>> = BTreeMap::new();
            for (key, row) in rows {
                sites.entry(row["site"].to_string()).or_default().push((key, row));
            }
            sites.into_values().flat_map(|rows| first(rows, 2)).collect()
        },
    },
    Case {
        name: "windows",
        sql: "CREATE VIEW windows WITH (PARAMS=\"site\", EVENT_TIME=\"true\", LATE_TOLERANCE=\"1000h\", EXPIRE=\"1000h\") AS \
              SELECT site, count(*) AS n, last_value(v) AS last, window_start() AS at FROM s \
              GROUP BY site, HOPPINGWINDOW(ss, 4, 2)",
        queries: &["", "?site=b"],
        rows: |messages| {
            let mut windows: BTreeMap<(String, i64), Vec<InWindow>> = BTreeMap::new();
            for (place, message) in messages.iter().enumerate() {
                let (site, ts) = (message["site"].as_str().unwrap(), message["ts"].as_i64().unwrap());
                for start in [ts.div_euclid(2_000) * 2_000 - 2_000, ts.div_euclid(2_000) * 2_000] {
                    let rows = windows.entry((site.to_owned(), start)).or_default();
                    rows.push((ts, place, message["v"].clone()));
                }
            }
            let row = |((site, at), mut rows): ((String, i64), Vec<InWindow>)| {
                rows.sort_by_key(|(ts, place, _)| (*ts, *place));
                let last = rows.last().map(|(_, _, v)| v.clone());
                (json!([site, at]).to_string(), json!({"site":site,"n":rows.len(),"last":last,"at":at}))
            };
            windows.into_iter().map(row).collect()
        },
    },
];

/// The rows of `base` by id, and of `places` by site, as views over them see them.
fn base(messages: &[Value]) -> (BTreeMap<String, Value>, BTreeMap<String, i64>) {
    let rows = newest(messages, |message| message["v"].as_i64() < Some(9));
    let mut ranks = BTreeMap::new();
    for message in messages {
        let (site, v) = (message["site"].as_str().unwrap().to_owned(), message["v"].as_i64().unwrap());
        if v > 2 {
            ranks.insert(site, v)
        } else {
            ranks.remove(&site)
        };
    }
    (rows, ranks)
}

/// Rows over `base`, with the rank of their site if it has one.
fn ranked(messages: &[Value]) -> BTreeMap<String, Value> {
    let (rows, ranks) = base(messages);
    let row = |(key, mut row): (String, Value)| {
        row["rank"] = ranks.get(row["site"].as_str().unwrap()).map_or(Value::Null, |rank| json!(rank));
        (key, row)
    };
    rows.into_iter().map(row).collect()
}

fn by_site(messages: &[Value]) -> BTreeMap<String, Value> {
    let mut sites: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for row in base(messages).0.values() {
        sites.entry(row["site"].as_str().unwrap().to_owned()).or_default().push(row["v"].as_i64().unwrap());
    }
    let row = |(site, mut values): (String, Vec<i64>)| {
        values.sort_unstable();
        let (n, total, low, high) = (values.len(), values.iter().sum::<i64>(), values[0], values[values.len() - 1]);
        values.dedup();
        let row = json!({"site":site,"n":n,"total":total,"low":low,"high":high,"kinds":values.len()});
        (json!([site]).to_string(), row)
    };
    sites.into_iter().map(row).filter(|(_, row)| row["n"] != 2).collect()
}

/// Views that read others: each follows what its sources show.
const OVER_VIEWS: &[Case] = &[
    Case {
        name: "base",
        sql: "CREATE VIEW base WITH (KEY=\"id\") AS SELECT id, site, v FROM s WHERE v < 9",
        queries: &[""],
        rows: |messages| base(messages).0,
    },
    Case {
        name: "places",
        sql: "CREATE VIEW places WITH (KEY=\"site\") AS SELECT site, v AS rank FROM s WHERE v > 2",
        queries: &[""],
        rows: |messages| {
            let row = |(site, rank)| (json!([site]).to_string(), json!({"site":site,"rank":rank}));
            base(messages).1.into_iter().map(row).collect()
        },
    },
    Case {
        name: "by_site",
        sql: "CREATE VIEW by_site WITH (PARAMS=\"site,n\") AS SELECT site, count(*) AS n, sum(v) AS total, \
              min(v) AS low, max(v) AS high, count(DISTINCT v) AS kinds FROM base GROUP BY site HAVING count(*) <> 2",
        queries: &["", "?site=a", "?n=1&n=3"],
        rows: by_site,
    },
    Case {
        name: "ranked",
        sql: "CREATE VIEW ranked WITH (KEY=\"id\", PARAMS=\"site,rank\") AS SELECT b.*, p.rank FROM base AS b \
              LEFT JOIN places AS p ON b.site = p.site",
        queries: &["", "?site=b", "?rank=5&rank=6"],
        rows: ranked,
    },
    Case {
        name: "above",
        sql: "CREATE VIEW above WITH (KEY=\"id\") AS SELECT b.id, p.rank, b.v FROM places AS p \
              INNER JOIN base AS b ON p.site = b.site WHERE b.v > p.rank",
        queries: &[""],
        rows: |messages| {
            let mut rows = ranked(messages);
            rows.retain(|_, row| row["rank"].as_i64().is_some_and(|rank| row["v"].as_i64() > Some(rank)));
            rows.values_mut().for_each(|row| {
                row.as_object_mut().unwrap().remove("site");
            });
            rows
        },
    },
    Case {
        name: "share",
        sql: "CREATE VIEW share WITH (KEY=\"id\") AS SELECT r.id, r.rank, s.total FROM ranked AS r \
              LEFT JOIN by_site AS s ON r.site = s.site WHERE r.v <> 4",
        queries: &[""],
        rows: |messages| {
            let sites = by_site(messages);
            let row = |(key, row): (String, Value)| {
                let total =
                    sites.get(&json!([row["site"]]).to_string()).map_or(Value::Null, |site| site["total"].clone());
                (key, json!({"id":row["id"],"rank":row["rank"],"total":total}))
            };
            ranked(messages).into_iter().filter(|(_, row)| row["v"] != 4).map(row).collect()
        },
    },
    Case {
        name: "best_ranked",
        sql: "CREATE VIEW best_ranked WITH (KEY=\"id\") AS SELECT id, v FROM ranked WHERE rank IS NOT NULL \
              ORDER BY v DESC LIMIT 2",
        queries: &[""],
        rows: |messages| {
            let mut rows = ranked(messages);
            rows.retain(|_, row| !row["rank"].is_null());
            let rows = rows.into_iter().map(|(key, row)| (key, json!({"id":row["id"],"v":row["v"]})));
            first(rows.collect(), 2).into_iter().collect()
        },
    },
    Case {
        name: "all_of_it",
        sql: "CREATE VIEW all_of_it AS SELECT count(*) AS n, avg(v) AS mean, max(rank) AS most FROM ranked",
        queries: &[""],
        rows: |messages| {
            let rows = ranked(messages);
            if messages.iter().all(|message| message["v"] == 9) {
                return BTreeMap::new();
            }
            let total: i64 = rows.values().filter_map(|row| row["v"].as_i64()).sum();
            let mean = match rows.len() as i64 {
                0 => Value::Null,
                rows if total % rows == 0 => json!(total / rows),
                rows => json!(total as f64 / rows as f64),
            };
            let most = rows.values().filter_map(|row| row["rank"].as_i64()).max();
            BTreeMap::from([("[]".to_owned(), json!({"n":rows.len(),"mean":mean,"most":most}))])
        },
    },
];

/// The parameters of a query with their values.
pub fn params(query: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut wanted: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in query.trim_start_matches('?').split('&').filter_map(|pair| pair.split_once('=')) {
        if !name.starts_with('_') {
            wanted.entry(name).or_default().push(value);
        }
    }
    wanted
}

/// Whether a row is in the part that a query selects.
pub fn is_in(query: &str, row: &Value) -> bool {
    params(query).iter().all(|(name, values)| {
        let text = row[name].as_str().map_or_else(|| row[name].to_string(), str::to_owned);
        values.contains(&text.as_str())
    })
}

/// A random message.
pub fn message(random: &mut fastrand::Rng) -> Value {
    let site = ["a", "b", "c"][random.usize(0..3)];
    json!({"id": random.u8(0..6), "site": site, "v": random.u8(0..10), "ts": 1_000_000 + random.i64(0..20_000)})
}

async fn model(name: &str, cases: &[Case], workers: &str, seed: u64) {
    // In any order in the file.
    let views: Vec<&str> = cases.iter().rev().map(|case| case.sql).collect();
    let rules = json!({"streams": [stream("s", "", ", TIMESTAMP=\"ts\"")], "views": views, "rules": []});
    let plutino = Plutino::run(name, &rules, &["--workers", workers]).await;
    let mut feed = plutino.connect("/s").await;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut messages: Vec<Value> = Vec::new();
    // Each with its case and path; a disconnected client has no socket.
    let mut clients: Vec<(usize, String, Live)> = Vec::new();
    for round in 0..40 {
        for _ in 0..random.usize(1..12) {
            let message = message(&mut random);
            send(&mut feed, message.to_string()).await;
            messages.push(message);
        }
        if clients.len() < 14 {
            let case = random.usize(0..cases.len());
            let query = cases[case].queries[random.usize(0..cases[case].queries.len())];
            let path = format!("/live/{}{query}", cases[case].name);
            let live = Live::open(plutino.port, &path).await;
            clients.push((case, path, live));
        } else if random.u8(0..4) == 0 {
            clients.swap_remove(random.usize(0..clients.len()));
        }
        if !clients.is_empty() && random.bool() {
            let (case, path, mut live) = clients.swap_remove(random.usize(0..clients.len()));
            let _ = live.socket.close(None).await;
            let live = live.resume(plutino.port, &path).await;
            clients.push((case, path, live));
        }
        // Without traffic, every client reaches the rows of a simple model.
        if round % 4 == 3 {
            for (case, path, live) in &mut clients {
                let query = path.split_once('?').map_or("", |(_, query)| query);
                let mut wanted = (cases[*case].rows)(&messages);
                wanted.retain(|_, row| is_in(query, row));
                live.until(|rows| *rows == wanted).await;
            }
        }
    }
}

#[tokio::test]
async fn every_client_holds_its_part() {
    model("live-model-1", CASES, "1", 11).await;
}

#[tokio::test]
async fn every_client_holds_its_part_over_three_threads() {
    model("live-model-3", CASES, "3", 12).await;
}

#[tokio::test]
async fn views_over_views_follow_every_change() {
    model("live-model-over-1", OVER_VIEWS, "1", 13).await;
}

#[tokio::test]
async fn views_over_views_follow_every_change_over_three_threads() {
    model("live-model-over-3", OVER_VIEWS, "3", 14).await;
}
