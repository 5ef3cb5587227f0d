//! Rules that are updated, stopped and started in two processes while messages come: each result comes once and in
//! order to the clients of both.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::cluster_service::{ask, clients, create_stream, rule};
use super::process::pair::Pair;
use super::process::serve::Served;
use super::process::{Client, next, send};

/// Checks that numbers follow each other from `first` on; otherwise it says where they do not, and what the processes
/// have warned of.
fn follow_each_other(what: &str, came: &[u64], first: u64, processes: &[Served; 2]) {
    let mut expected = first;
    let is_odd = |(_, number): &(usize, u64)| std::mem::replace(&mut expected, number + 1) != *number;
    let odd: Vec<(usize, u64)> = came.iter().copied().enumerate().filter(is_odd).take(5).collect();
    if odd.is_empty() {
        return;
    }
    let around = |(place, _): &(usize, u64)| {
        let (from, to) = (place.saturating_sub(3), (place + 4).min(came.len()));
        format!("  from place {from}: {:?}", &came[from..to])
    };
    let places: Vec<String> = odd.iter().map(around).collect();
    let warned = processes.iter().map(|process| {
        let said = process.has_said();
        said.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect::<Vec<_>>().join("\n")
    });
    let warned: Vec<String> = warned.collect();
    panic!("{what}: of {} numbers, these do not follow:\n{}\n{}", came.len(), places.join("\n"), warned.join("\n"));
}

/// Changes rules while both processes get messages: each message is in the results once, for clients of both.
async fn nothing_is_lost_by_updates(name: &str, workers: usize) {
    const MESSAGES: u64 = 3000;
    let pair = Pair::new(name).with_workers(workers);
    let processes = pair.start().await;
    create_stream(&processes[0], "demo").await;
    let version = |id: &str, number: u64| {
        let sql = match id {
            "pass" => format!("SELECT n, {number} AS version FROM demo"),
            // The plan stays the same, and so does the state.
            _ => "SELECT acc_count(*) AS c FROM demo".to_owned(),
        };
        let mut rule = rule(id, &sql, json!({"qos": 1, "checkpointInterval": "1h"}));
        rule["version"] = json!(format!("{number:04}"));
        rule
    };
    // Homes follow from names: some are in each process.
    let ids = ["pass", "c1", "c2", "c3", "c4"];
    for id in ids {
        ask(&processes[0], "POST", "/rules", version(id, 0)).await;
    }
    let mut receivers = Vec::new();
    for id in ids {
        for (process, client) in clients(&processes, &format!("/{id}")).await.into_iter().enumerate() {
            receivers.push((id, process, client));
        }
    }
    let mut senders = clients(&processes, "/demo").await;
    let rounds = Arc::new(AtomicU64::new(0));
    let updated = rounds.clone();
    let sending = tokio::spawn(async move {
        for n in 0..MESSAGES {
            // Rules are updated while messages come, however slow the disk is.
            while n == MESSAGES / 2 && updated.load(Ordering::Acquire) < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            send(&mut senders[(n % 2) as usize], json!({"n": n}).to_string()).await;
            if n % 10 == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        senders
    });
    let receiving = receivers.into_iter().map(|(id, process, mut client)| {
        tokio::spawn(async move {
            let mut came = Vec::new();
            while (came.len() as u64) < MESSAGES {
                let row = next(&mut client).await.expect("it goes on");
                let number = row[if id == "pass" { "n" } else { "c" }].as_u64().expect("a number");
                came.push(number);
                // What is missing is not waited for.
                if id != "pass" && number != came.len() as u64 {
                    break;
                }
            }
            // Messages come from two connections; counts are in order.
            if id == "pass" {
                came.sort_unstable();
            }
            (id, process, came)
        })
    });
    let receiving: Vec<_> = receiving.collect();
    let mut number = 0;
    while !sending.is_finished() {
        number += 1;
        for id in ids {
            ask(&processes[0], "PUT", &format!("/rules/{id}"), version(id, number)).await;
        }
        rounds.store(number, Ordering::Release);
    }
    for received in join_all(receiving).await {
        let (id, process, came) = received.expect("all came");
        follow_each_other(&format!("{id} at process {process}"), &came, u64::from(id != "pass"), &processes);
    }
    drop(sending.await.expect("all is sent"));
}

#[tokio::test]
async fn nothing_is_lost_by_updates_in_two_processes() {
    nothing_is_lost_by_updates("serve-updates", 1).await;
}

#[tokio::test]
async fn nothing_is_lost_by_updates_in_two_processes_of_two_threads() {
    nothing_is_lost_by_updates("serve-updates-two", 2).await;
}

#[tokio::test]
async fn the_last_results_of_a_stopping_rule_come_to_clients_of_all_processes() {
    const STOPS: usize = 10;
    let pair = Pair::new("serve-last").with_workers(2);
    let processes = pair.start().await;
    create_stream(&processes[0], "demo").await;
    // Homes follow from names: some are in each process.
    let ids = ["c1", "c2", "c3", "c4"];
    for id in ids {
        ask(&processes[0], "POST", "/rules", rule(id, "SELECT acc_count(*) AS c FROM demo", json!({"qos": 1}))).await;
    }
    let mut receivers = Vec::new();
    for id in ids {
        receivers.push(clients(&processes, &format!("/{id}")).await);
    }
    let sending = clients(&processes, "/demo").await.map(|mut sender| {
        tokio::spawn(async move {
            loop {
                for _ in 0..10 {
                    send(&mut sender, "{}").await;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
    });
    let (flows, mut flowing) = tokio::sync::mpsc::unbounded_channel();
    let receive = |mut client: Client| {
        let flows = flows.clone();
        tokio::spawn(async move {
            let mut came = Vec::new();
            while let Some(row) = next(&mut client).await {
                came.push(row["c"].as_u64().expect("a number"));
                if came.len() == 100 {
                    let _ = flows.send(());
                }
            }
            came
        })
    };
    let receiving: Vec<_> = receivers.into_iter().map(|both| both.map(receive)).collect();
    for _ in 0..2 * ids.len() {
        flowing.recv().await.expect("results come");
    }
    // Clients stay connected in between.
    for stop in 1..=STOPS {
        for id in ids {
            ask(&processes[0], "POST", &format!("/rules/{id}/stop"), Value::Null).await;
            if stop < STOPS {
                ask(&processes[0], "POST", &format!("/rules/{id}/start"), Value::Null).await;
            }
        }
    }
    for (id, both) in ids.into_iter().zip(receiving) {
        for (process, came) in join_all(both).await.into_iter().enumerate() {
            let came = came.expect("it ends");
            follow_each_other(&format!("{id} at process {process}"), &came, 1, &processes);
        }
    }
    sending.iter().for_each(tokio::task::JoinHandle::abort);
}
