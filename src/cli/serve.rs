//! `plutino serve`: runs the service behind its REST API until it is asked to end.
//!
//! The API and the engine's control side share this thread's runtime; messages flow on the data threads. SIGTERM and
//! Ctrl-C end it within `basic.gracefulShutdownTimeout`: the API accepts no more requests, rules stop cleanly, accepted
//! changes are on disk, and one line reports what was delivered, stored and lost. A second signal ends the process at
//! once. SIGHUP reads the configuration again (`reload`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::hosts::{Hosts, Joined, reachable, terms};
use super::reload::{Reloader, rest_tls, warn_of_open_data_server};
use super::{Etc, Failure, Interrupts, block_on, configure_service, end_at_once, say};
use crate::api::{self, Keys};
use crate::cluster::{Cluster, Introduction};
use crate::memory;
use crate::service::{InCluster, Service, ServiceSettings, Summary};

/// How long pending requests may take when the service ends.
const LAST_REQUESTS: Duration = Duration::from_secs(1);

/// What follows if another process ends in order.
const STORED: &str = ", and process 0 has stored the states of rules.";

/// How long the last line may wait for stderr to be read.
const LAST_LINE: Duration = Duration::from_millis(200);

/// Run as a service, with streams and rules managed over REST
///
/// The REST API listens on basic.restIp and basic.restPort of the configuration, by default 127.0.0.1:9081. Streams,
/// tables and rules are stored in the data folder, and run again after a restart.
#[derive(Args)]
pub struct Serve {
    #[command(flatten)]
    etc: Etc,
    /// Folder of stored state; it need not exist, and nothing is written outside it
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,
    /// Folder of log files, if basic.fileLog is on; by default `log` beside the data folder
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,
    /// Number of data threads. Each reads a part of a stream's connections; the state of a rule is on one of them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    #[command(flatten)]
    hosts: Hosts,
}

/// Why the service ends.
enum End {
    Signal,
    /// a request, with the exit code
    Asked(u8),
    /// another process of the cluster has ended intentionally
    Left(Failure),
}

impl Serve {
    pub fn run(self, log: Option<&str>) -> Result<(), Failure> {
        let beside = self.data.parent().map_or_else(|| PathBuf::from("log"), |folder| folder.join("log"));
        block_on(self.serve(log, beside))
    }

    async fn serve(self, log: Option<&str>, beside: PathBuf) -> Result<(), Failure> {
        let membership = self.hosts.membership(self.workers)?;
        // Signals are handled first, so that an early one is neither lost nor ends the process.
        let (mut interrupts, mut hangup) = Interrupts::listen_beside_hangup()?;
        let config = configure_service(&self.etc.etc, log, self.log_dir.clone().unwrap_or(beside))?;
        let refused = |error: &dyn std::fmt::Display| Failure::Refused(error.to_string());
        // The port is bound first: if it is taken, another service is running, and nothing of this one may start.
        let address = config.rest;
        let listener = TcpListener::bind(address).await.map_err(|error| {
            let hint = "check basic.restIp and basic.restPort";
            Failure::Refused(format!("the REST API cannot listen on {address}: {error}; {hint}"))
        })?;
        let address = listener.local_addr().map_err(|error| refused(&error))?;
        super::check_server_tls(&config)?;
        let keys = config.authentication.then(|| Keys::new(self.etc.etc.join("mgmt")));
        let tls = config.rest_tls.as_ref().map(rest_tls).transpose()?.map(watch::Sender::new);
        if keys.is_none() && !address.ip().is_loopback() {
            tracing::warn!(%address, "the REST API is open to everyone who can reach it: see basic.authentication");
        }
        warn_of_open_data_server(&config.server);
        let (prometheus, audit) = (config.prometheus, config.rest_audit);
        memory::set_budget(config.max_memory);
        let running = config.clone();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let joined = match membership {
            None => None,
            Some(membership) => {
                let rest = Some(format!("{scheme}://{}", reachable(address, &membership)));
                let introduction = Introduction { terms: terms("serve", &config), control: true, rest };
                let joined = self.hosts.join(membership, introduction, STORED, &mut interrupts).await?;
                let Some(joined) = joined else { return Ok(()) };
                Some(joined)
            }
        };
        let mut others = joined.as_ref().map(Joined::ended);
        let (mut cluster, part) = joined.map(|joined| (joined.cluster, joined.part)).unzip();
        let leader = cluster.as_mut().and_then(|cluster| cluster.rest.take());
        let controls = cluster.as_mut().map(|cluster| std::mem::take(&mut cluster.controls));
        let in_cluster = part.zip(controls).map(|(part, controls)| InCluster { part, controls });
        let workers = usize::from(self.workers);
        let settings = ServiceSettings { config, data: self.data, workers, cluster: in_cluster };
        let service = Service::open(settings).await.map_err(|error| {
            cluster.iter().for_each(|cluster| cluster.fail(&error.to_string()));
            refused(&error)
        })?;
        if let Some(leader) = &leader {
            say(&format!("the rules are those of process 0, {leader}"));
        }
        say(&format!("plutino {} serves {scheme}://{address}", env!("CARGO_PKG_VERSION")));

        let (ending, mut ends) = watch::channel(false);
        let ended = async move { drop(ends.wait_for(|ends| *ends).await) };
        let app = match &leader {
            Some(leader) => api::following_app(service.clone(), keys, leader),
            None => api::app(service.clone(), keys, audit),
        };
        let mut served = tokio::spawn(api::serve(listener, tls.as_ref().map(watch::Sender::subscribe), app, ended));
        if let Some(port) = prometheus {
            let at = SocketAddr::new(address.ip(), port);
            let listener = TcpListener::bind(at).await.map_err(|error| {
                let why = format!("the metrics cannot listen on {at}: {error}; check basic.prometheusPort");
                cluster.iter().for_each(|cluster| cluster.fail(&why));
                Failure::Refused(why)
            })?;
            let at = listener.local_addr().map_err(|error| refused(&error))?;
            say(&format!("metrics on http://{at}/metrics"));
            // It ends with the process, because a service that ends needs no metrics.
            tokio::spawn(api::serve(listener, None, api::metrics_app(service.clone()), std::future::pending()));
        }
        if leader.is_none() {
            let resumed = service.clone();
            tokio::spawn(async move { resumed.resume().await });
        }

        let has_log = log.is_some_and(|log| !log.trim().is_empty());
        let mut reloader = Reloader::new(&self.etc.etc, service.clone(), running, has_log, tls);
        if cluster.is_some() {
            reloader = reloader.in_cluster();
        }
        let end = loop {
            tokio::select! {
                () = interrupts.next() => break End::Signal,
                code = service.asked_to_end() => break End::Asked(code),
                failure = Joined::left(&mut others) => break End::Left(failure),
                _ = &mut served => return Err(Failure::Refused("the REST API has ended".to_owned())),
                // Several signals that arrive together count as one.
                _ = hangup.recv() => reloader.reload().await,
            }
        };
        let (shutdown, by_signal) = (service.config().shutdown_timeout, matches!(end, End::Signal));
        let _ = ending.send(true);
        let ends = async {
            if leader.is_some() && by_signal {
                // Process 0 stops the rules of all processes, so that no rows are on their way when states are stored.
                let all_end = async {
                    service.tell_ends().await;
                    Joined::left(&mut others).await
                };
                let _ = tokio::time::timeout(shutdown, all_end).await;
            }
            cluster.iter().for_each(Cluster::begin_to_leave);
            let began = Instant::now();
            let _ = tokio::time::timeout(LAST_REQUESTS.min(shutdown / 2), served).await;
            let summary = service.stop_within(shutdown.saturating_sub(began.elapsed())).await;
            cluster.iter().for_each(Cluster::leave);
            print_last(last_line(&summary, began.elapsed())).await;
        };
        tokio::select! {
            () = ends => {}
            () = interrupts.impatience(by_signal) => end_at_once(130),
        }
        match end {
            End::Signal | End::Asked(0) => Ok(()),
            End::Asked(code) => end_at_once(i32::from(code)),
            End::Left(failure) => Err(failure),
        }
    }
}

/// Prints the last line. A blocked stderr does not keep the process from ending.
async fn print_last(line: String) {
    let (printed, done) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        say(&line);
        let _ = printed.send(());
    });
    let _ = tokio::time::timeout(LAST_LINE, done).await;
}

/// The last line of the log.
fn last_line(summary: &Summary, took: Duration) -> String {
    let Summary { rules, views, states, totals } = summary;
    let lost: u64 = totals.lost.values().sum();
    let causes: Vec<String> = totals.lost.iter().map(|(cause, count)| format!("{count} {cause}")).collect();
    let kept = match totals.kept {
        0 => String::new(),
        kept => format!("kept {} for peers, ", super::messages(kept)),
    };
    let causes = if causes.is_empty() { String::new() } else { format!(" ({})", causes.join(", ")) };
    let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let views = if *views == 0 { String::new() } else { format!(" and {}", counted(*views, "view")) };
    format!(
        "stopped {}{views} in {:.1} s: delivered {}, {kept}{} on disk, lost {lost}{causes}",
        counted(*rules, "rule"),
        took.as_secs_f64(),
        super::messages(totals.delivered),
        counted(*states, "state"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Totals;

    #[test]
    fn the_last_line_says_what_was_lost_and_why() {
        let lost = [("no reader", 3), ("slow client", 4)].into();
        let summary = Summary { rules: 2, views: 1, states: 1, totals: Totals { delivered: 12, lost, kept: 0 } };
        let expected = "stopped 2 rules and 1 view in 1.2 s: delivered 12 messages, 1 state on disk, lost 7 (3 no reader, 4 slow client)";
        assert_eq!(last_line(&summary, Duration::from_millis(1234)), expected);
        let nothing = last_line(&Summary::default(), Duration::ZERO);
        assert_eq!(nothing, "stopped 0 rules in 0.0 s: delivered 0 messages, 0 states on disk, lost 0");
    }
}
