//! The cost of more data threads, how evenly they share the work, and the speedup.
//!
//! **Over sockets**: eight senders send messages to one stream of the real binary, which runs one rule, or forwards
//! messages to 64 clients. For each number of data threads: the processor time of the whole process for each message
//! (or delivery), and the share of the busiest data thread: 1.0 is the mean. Wall-clock time says little where senders
//! and binary share few cores.
//!
//! **In process**: batches from memory on real data threads, with results that are discarded. Here the wall clock
//! counts.
//!
//! `cargo bench --bench scale`, or `cargo bench --bench scale -- 1 3` for other numbers of threads. Linux only.

mod cpu;
mod in_process;
mod sockets;
mod workload;

use workload::WORKLOADS;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let given: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let workers = if given.is_empty() { vec![1, 2, 4] } else { given };
    println!("over sockets: {} senders, {} messages each", sockets::SENDERS, sockets::MESSAGES);
    println!("{:<38} {:>7} {:>12} {:>8} {:>14}", "", "threads", "CPU ns/msg", "ratio", "busiest/mean");
    let row = |name: &str, workers: usize, cpu: f64, base: f64, share: f64| {
        println!("{name:<38} {workers:>7} {cpu:>12.0} {:>8.2} {share:>14.2}", cpu / base);
    };
    for workload in WORKLOADS {
        let mut first = None;
        for &workers in &workers {
            let (cpu, share) = sockets::measure(workload, workers).await;
            row(workload.name, workers, cpu, *first.get_or_insert(cpu), share);
        }
    }
    println!("\nto {} clients: CPU of a delivery", sockets::CLIENTS);
    let mut first = None;
    for &workers in &workers {
        let (cpu, share) = sockets::fan_out(workers).await;
        row("filter, to all clients", workers, cpu, *first.get_or_insert(cpu), share);
    }
    println!("\nin process: {} rows", in_process::ROWS);
    println!("{:<38} {:>7} {:>12} {:>8} {:>14}", "", "threads", "rows/s", "ratio", "CPU ns/row");
    for workload in WORKLOADS {
        let mut first = None;
        for &workers in &workers {
            let (rate, cpu) = in_process::measure(workload, workers).await;
            let ratio = rate / *first.get_or_insert(rate);
            println!("{:<38} {workers:>7} {rate:>12.0} {ratio:>8.2} {cpu:>14.0}", workload.name);
        }
    }
}
