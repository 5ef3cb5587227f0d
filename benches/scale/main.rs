//! The cost of more data threads, how evenly they share the work, and the speedup.
//!
//! **Over sockets**: eight senders send messages to one stream of the real binary, which runs one rule, or forwards
//! messages to 64 clients. For each number of data threads: the processor time of the whole process for each message
//! (or delivery), and the share of the busiest data thread: 1.0 is the mean. Wall-clock time says little where senders
//! and binary share few cores.
//!
//! **In process**: batches from memory on real data threads, with results that are discarded. Here the wall clock
//! counts. The same rules as over sockets, and queries of NEXMark.
//!
//! `cargo bench --bench scale` measures all. Words such as `-- sockets`, `-- memory` and `-- nexmark` name parts, and
//! numbers such as `-- 1 3` are numbers of threads. Linux only.

mod cpu;
#[allow(dead_code, reason = "shared with the benchmark nexmark, which checks the answers")]
#[path = "../nexmark/feed.rs"]
mod feed;
mod in_process;
mod nexmark;
mod sockets;
mod workload;

use in_process::{Job, Measured};
use workload::WORKLOADS;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let given: Vec<usize> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    let workers = if given.is_empty() { vec![1, 2, 4] } else { given };
    let parts = ["sockets", "memory", "nexmark"];
    let all = !arguments.iter().any(|argument| parts.contains(&argument.as_str()));
    let wanted = |part: &str| all || arguments.iter().any(|argument| argument == part);
    if wanted("sockets") {
        over_sockets(&workers).await;
    }
    let mut jobs: Vec<Job> = Vec::new();
    if wanted("memory") {
        jobs.extend(WORKLOADS.iter().map(Job::of));
    }
    if wanted("nexmark") {
        jobs.extend(nexmark::jobs());
    }
    if !jobs.is_empty() {
        from_memory(&jobs, &workers).await;
    }
}

async fn over_sockets(workers: &[usize]) {
    println!("over sockets: {} senders, {} messages each", sockets::SENDERS, sockets::MESSAGES);
    println!("{:<38} {:>7} {:>12} {:>8} {:>14}", "", "threads", "CPU ns/msg", "ratio", "busiest/mean");
    let row = |name: &str, workers: usize, cpu: f64, base: f64, share: f64| {
        println!("{name:<38} {workers:>7} {cpu:>12.0} {:>8.2} {share:>14.2}", cpu / base);
    };
    for workload in WORKLOADS {
        let mut first = None;
        for &workers in workers {
            let (cpu, share) = sockets::measure(workload, workers).await;
            row(workload.name, workers, cpu, *first.get_or_insert(cpu), share);
        }
    }
    println!("\nto {} clients: CPU of a delivery", sockets::CLIENTS);
    let mut first = None;
    for &workers in workers {
        let (cpu, share) = sockets::fan_out(workers).await;
        row("filter, to all clients", workers, cpu, *first.get_or_insert(cpu), share);
    }
}

async fn from_memory(jobs: &[Job], workers: &[usize]) {
    println!("\nin process");
    println!(
        "{:<38} {:>7} {:>12} {:>8} {:>12} {:>14} {:>8}",
        "", "threads", "rows/s", "ratio", "CPU ns/row", "busiest/mean", "late"
    );
    for job in jobs {
        let mut first = None;
        for &workers in workers {
            let Measured { rows_per_second, cpu, busiest, late } = job.measure(workers).await;
            let ratio = rows_per_second / *first.get_or_insert(rows_per_second);
            println!(
                "{:<38} {workers:>7} {rows_per_second:>12.0} {ratio:>8.2} {cpu:>12.0} {busiest:>14.2} {late:>8}",
                job.name
            );
        }
    }
}
