//! The rules that are measured, and their rows.

use serde_json::{Value, json};

/// A rule to measure.
pub struct Workload {
    pub name: &'static str,
    pub sql: &'static str,
    /// How many keys its rows have.
    pub keys: usize,
    pub event_time: bool,
}

pub const CREATE: &str = "CREATE STREAM input () WITH (TYPE=\"websocket\", DATASOURCE=\"/in\", TIMESTAMP=\"ts\")";

/// More than the rows in a window.
const ALL: usize = 1_000_000;

const BY_KEY: &str = "SELECT k, count(*) AS n, avg(v) AS a FROM input GROUP BY k, TUMBLINGWINDOW(ss, 10)";

pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "stateless: filter and project",
        sql: "SELECT k, v * 2 AS w FROM input WHERE v >= 5",
        keys: 1000,
        event_time: false,
    },
    Workload { name: "window of 10 keys", sql: BY_KEY, keys: 10, event_time: false },
    Workload { name: "window of 1000 keys, event time", sql: BY_KEY, keys: 1000, event_time: true },
    Workload { name: "window, each row a key", sql: BY_KEY, keys: ALL, event_time: false },
    Workload {
        name: "window of one row in ten",
        sql: "SELECT k, count(*) AS n, avg(v) AS a FROM input WHERE v = 3 GROUP BY k, TUMBLINGWINDOW(ss, 10)",
        keys: 1000,
        event_time: true,
    },
    Workload {
        name: "lag of 1000 keys",
        sql: "SELECT k, v - lag(v, 1, 0) OVER (PARTITION BY k) AS d FROM input",
        keys: 1000,
        event_time: false,
    },
    Workload {
        name: "last value of 1000 keys",
        sql: "SELECT k, last_value(v, true) AS v FROM input GROUP BY k, TUMBLINGWINDOW(ss, 10)",
        keys: 1000,
        event_time: true,
    },
    Workload {
        name: "last value of 10 keys",
        sql: "SELECT k, last_value(v, true) AS v FROM input GROUP BY k, TUMBLINGWINDOW(ss, 10)",
        keys: 10,
        event_time: true,
    },
];

impl Workload {
    /// The options of its rule.
    pub fn options(&self) -> Value {
        if self.event_time { json!({"isEventTime": true, "lateTolerance": "1h"}) } else { json!({}) }
    }

    /// A row of a sender.
    pub fn row(&self, sender: usize, number: usize) -> String {
        let key = (number * 31 + sender * 7919) % self.keys;
        format!("{{\"k\":\"sensor-{key}\",\"v\":{},\"ts\":{number}}}", number % 10)
    }
}
