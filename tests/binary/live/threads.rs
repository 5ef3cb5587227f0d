//! Views with several data threads: independent ones are spread over them, connected ones are together, and none loses
//! a message when it moves. And new views over many rows, which are filled in steps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};
use tokio_tungstenite::connect_async;

use super::client::Live;
use crate::process::serve::{Folder, Served};
use crate::process::{next, send, stream};

fn serve(folder: &Folder, workers: &str) -> Served {
    let mut command = folder.command();
    command.args(["--workers", workers]);
    Served::start(command)
}

async fn make(service: &Served, path: &str, statements: &[&str]) {
    for sql in statements {
        service.asks("POST", path, &json!({"sql": sql})).await.done();
    }
}

async fn thread_of(service: &Served, view: &str) -> u64 {
    let status = service.asks("GET", &format!("/views/{view}/status"), &Value::Null).await.json();
    status["dataThread"].as_u64().expect("a number")
}

/// Repeatedly sends a message of one of two sites until it is stopped; counts the messages.
fn feed_on(service: &Served, path: &str) -> (Arc<AtomicBool>, tokio::task::JoinHandle<u64>) {
    let (url, ends) = (service.data_url(path), Arc::new(AtomicBool::new(false)));
    let ended = ends.clone();
    let feeding = tokio::spawn(async move {
        let mut feed = connect_async(url).await.expect("the stream takes clients").0;
        let mut sent = 0;
        while !ended.load(Ordering::Relaxed) {
            let site = if sent % 2 == 0 { "a" } else { "b" };
            send(&mut feed, json!({"site": site, "v": 1}).to_string()).await;
            sent += 1;
            if sent % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        sent
    });
    (ends, feeding)
}

#[tokio::test]
async fn views_that_get_connected_come_together_and_lose_nothing() {
    let folder = Folder::new("live-threads");
    let mut service = serve(&folder, "3");
    for name in ["one", "two", "three"] {
        make(&service, "/streams", &[&stream(name, "", "")]).await;
        let sums = format!(
            "CREATE VIEW sums_{name} WITH (CHECKPOINT=\"10s\") AS SELECT site, count(*) AS n FROM {name} GROUP BY site"
        );
        make(&service, "/views", &[&sums]).await;
    }
    let mut threads = Vec::new();
    for name in ["one", "two", "three"] {
        threads.push(thread_of(&service, &format!("sums_{name}")).await);
    }
    threads.sort_unstable();
    assert_eq!(threads, [0, 1, 2], "independent views use all threads");
    // Both feeds of `two` continue while its view moves.
    let (first, second) = (feed_on(&service, "/two"), feed_on(&service, "/two"));
    let other = feed_on(&service, "/one");
    let mut live = Live::open(service.data_port, "/live/sums_two").await;
    live.until(|rows| rows.len() == 2).await;
    let both = "CREATE VIEW both_of WITH (KEY=\"site\") AS SELECT o.site, o.n AS one, t.n AS two FROM sums_one AS o \
                INNER JOIN sums_two AS t ON o.site = t.site";
    make(&service, "/views", &[both]).await;
    let together = thread_of(&service, "both_of").await;
    for view in ["sums_one", "sums_two"] {
        assert_eq!(thread_of(&service, view).await, together);
    }
    assert_ne!(thread_of(&service, "sums_three").await, together);
    // A rule that joins two views also moves them together.
    let rule = json!({
        "id": "r", "sql": "SELECT one.site, sums_two.n AS two, sums_three.n AS three FROM one \
            INNER JOIN sums_two ON one.site = sums_two.site LEFT JOIN sums_three ON one.site = sums_three.site",
        "actions": [{"websocket": {"path": "/out", "sendSingle": true}}],
    });
    service.asks("POST", "/rules", &rule).await.done();
    let status = service.asks("GET", "/rules/r/status", &Value::Null).await.json();
    assert_eq!(status["status"], "running", "{status}");
    assert_eq!(thread_of(&service, "sums_three").await, together);
    let mut out = connect_async(service.data_url("/out")).await.unwrap().0;
    assert!(next(&mut out).await.is_some_and(|row| row["two"].as_u64() > Some(0)));
    let mut sent = BTreeMap::new();
    for (name, feeds) in [("two", vec![first, second]), ("one", vec![other])] {
        for (ends, feeding) in feeds {
            ends.store(true, Ordering::Relaxed);
            *sent.entry(name).or_insert(0) += feeding.await.unwrap();
        }
    }
    // Nothing was lost in between, and nothing was counted twice.
    let total = |rows: &BTreeMap<String, Value>, column: &str| -> u64 {
        rows.values().map(|row| row[column].as_u64().expect("a number")).sum()
    };
    live.until(|rows| total(rows, "n") >= sent["two"]).await;
    assert_eq!(total(&live.rows, "n"), sent["two"]);
    let mut both = Live::open(service.data_port, "/live/both_of").await;
    both.until(|rows| total(rows, "two") >= sent["two"] && total(rows, "one") >= sent["one"]).await;
    assert_eq!((total(&both.rows, "one"), total(&both.rows, "two")), (sent["one"], sent["two"]));
    // After a restart they are together from the start, with their rows.
    service.terminate();
    drop(service);
    let service = serve(&folder, "3");
    assert_eq!(thread_of(&service, "sums_one").await, thread_of(&service, "sums_two").await);
    let mut both = Live::open(service.data_port, "/live/both_of").await;
    both.until(|rows| rows.len() == 2).await;
    assert_eq!((total(&both.rows, "one"), total(&both.rows, "two")), (sent["one"], sent["two"]));
}

#[tokio::test]
async fn a_view_over_many_rows_is_filled_while_they_change() {
    let folder = Folder::new("live-filling");
    let service = serve(&folder, "1");
    make(&service, "/streams", &[&stream("s", "", ""), &stream("pings", "", ""), &stream("asked", "", "")]).await;
    let base = "CREATE VIEW base WITH (KEY=\"id\") AS SELECT id, site, v FROM s WHERE v < 90";
    make(&service, "/views", &[base]).await;
    let rule = json!({"id": "r", "sql": "SELECT * FROM pings", "actions": [{"websocket": {"path": "/pongs"}}]});
    service.asks("POST", "/rules", &rule).await.done();
    let mut feed = connect_async(service.data_url("/s")).await.unwrap().0;
    let mut random = fastrand::Rng::with_seed(31);
    let mut rows: BTreeMap<u64, (String, i64)> = BTreeMap::new();
    let mut change = |random: &mut fastrand::Rng, id: u64| {
        let (site, v) = (["a", "b", "c"][random.usize(0..3)].to_owned(), random.i64(0..100));
        let message = json!({"id": id, "site": site, "v": v}).to_string();
        if v < 90 {
            rows.insert(id, (site, v))
        } else {
            rows.remove(&id)
        };
        message
    };
    let most = 20_000;
    for id in 0..most {
        let message = change(&mut random, id);
        send(&mut feed, message).await;
    }
    let count = |status: &Value| status["messages"].as_u64().expect("a number");
    while count(&service.asks("GET", "/views/base/status", &Value::Null).await.json()) < most {}
    // It is created while rows are added, change and are removed, and while another rule of the thread responds.
    let answered = Arc::new(AtomicU64::new(0));
    let (mut pings, mut pongs) = (
        connect_async(service.data_url("/pings")).await.unwrap().0,
        connect_async(service.data_url("/pongs")).await.unwrap().0,
    );
    let answers = answered.clone();
    let asking = tokio::spawn(async move {
        loop {
            send(&mut pings, "{}").await;
            next(&mut pongs).await;
            answers.fetch_add(1, Ordering::Relaxed);
        }
    });
    let views = [
        "CREATE VIEW sites AS SELECT site, count(*) AS n, sum(v) AS total, max(v) AS most FROM base GROUP BY site",
        "CREATE VIEW over_sites WITH (KEY=\"id\") AS SELECT b.id, s.n FROM base AS b LEFT JOIN sites AS s ON b.site = s.site \
         WHERE b.v = 1",
        "CREATE VIEW copy WITH (KEY=\"id\") AS SELECT id, site, v FROM base",
    ];
    let join = json!({"id": "join", "sql": "SELECT a.id, b.v FROM asked AS a INNER JOIN base AS b ON a.id = b.id",
        "actions": [{"websocket": {"path": "/joined"}}]});
    let made = async {
        for view in views {
            make(&service, "/views", &[view]).await;
        }
        service.asks("POST", "/rules", &join).await.done();
    };
    // A client that comes while a view is filled waits until it has all rows.
    let (port, copy) = (service.data_port, service.data_url("/live/copy"));
    let early = tokio::spawn(async move {
        while connect_async(&copy).await.is_err() {}
        Live::open(port, "/live/copy").await
    });
    tokio::pin!(made);
    let before = answered.load(Ordering::Relaxed);
    loop {
        let id = random.u64(0..most + 2_000);
        let message = change(&mut random, id);
        tokio::select! {
            () = &mut made => {
                // It may be sent twice: it is the newest message of its key in any case.
                send(&mut feed, message).await;
                break;
            }
            () = send(&mut feed, message.clone()) => tokio::task::yield_now().await,
        }
    }
    let between = answered.load(Ordering::Relaxed) - before;
    assert!(between > 3, "the thread ran nothing else while the views were filled: {between} answers");
    asking.abort();
    let mut early = early.await.unwrap();
    assert!(early.rows.len() as u64 > most / 2, "it did not wait: {} rows", early.rows.len());
    let has_all = |shown: &BTreeMap<String, Value>| {
        shown.len() == rows.len() && rows.iter().all(|(id, (_, v))| shown[&json!([id]).to_string()]["v"] == *v)
    };
    early.until(has_all).await;
    let mut asked = connect_async(service.data_url("/asked")).await.unwrap().0;
    let mut joined = connect_async(service.data_url("/joined")).await.unwrap().0;
    for (id, (_, v)) in rows.iter().step_by(1_000) {
        send(&mut asked, json!({"id": id}).to_string()).await;
        assert_eq!(next(&mut joined).await, Some(json!([{"id": id, "v": v}])));
    }
    let mut wanted: BTreeMap<String, (u64, i64, i64)> = BTreeMap::new();
    for (site, v) in rows.values() {
        let site = wanted.entry(json!([site]).to_string()).or_default();
        *site = (site.0 + 1, site.1 + v, site.2.max(*v));
    }
    let mut sites = Live::open(service.data_port, "/live/sites").await;
    let is = |rows: &BTreeMap<String, Value>| {
        rows.len() == wanted.len()
            && wanted.iter().all(|(site, (n, total, most))| {
                let row = &rows[site];
                row["n"] == *n && row["total"] == *total && row["most"] == *most
            })
    };
    sites.until(is).await;
    let ones = rows.values().filter(|(_, v)| *v == 1).count();
    let mut over = Live::open(service.data_port, "/live/over_sites").await;
    over.until(|rows| rows.len() == ones).await;
}
