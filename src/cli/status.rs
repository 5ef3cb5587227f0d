//! The live status of `plutino run`: the engine's counters as text.

use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime};

use super::terminal::{Block, Size};
use crate::engine::{RuleStatus, view_of};
use crate::io::{AddressStatus, LinkState, LinkStatus, NO_CLIENT, printable};

/// How long a failure is shown after the connection was restored.
const RECENT: Duration = Duration::from_secs(60);

/// Formats status snapshots as lines. It keeps the previous snapshot to compute rates.
pub struct Report {
    before: Vec<(String, u64, u64)>,
    at: Instant,
    block: Block,
}

impl Report {
    /// A status that has shown nothing yet.
    pub fn new() -> Report {
        Report { before: Vec::new(), at: Instant::now(), block: Block::default() }
    }

    /// The lines of a snapshot.
    pub fn lines(&mut self, rules: &[RuleStatus], now: Instant) -> Vec<String> {
        let seconds = (now - self.at).as_secs_f64().max(1e-3);
        let before = std::mem::take(&mut self.before);
        let mut lines: Vec<String> = Vec::new();
        // Rules that share a connection share its errors, which are shown once.
        let mut shown: Vec<String> = Vec::new();
        for rule in rules {
            let (_, was_in, was_out) =
                before.iter().find(|(id, ..)| *id == rule.id).cloned().unwrap_or((String::new(), 0, 0));
            let rate = |now: u64, was: u64| now.saturating_sub(was) as f64 / seconds;
            let mut line = match view_of(&rule.id) {
                Some(view) => format!("view {view}"),
                None => rule.id.clone(),
            };
            let _ = write!(line, ": in {} ({}/s)", rule.rows_in, short(rate(rule.rows_in, was_in)));
            // A view keeps its rows: it sends no results.
            if view_of(&rule.id).is_none() {
                let _ = write!(line, ", out {} ({}/s)", rule.rows_out, short(rate(rule.rows_out, was_out)));
            }
            let dropped = rule.dropped.saturating_sub(unheard(&rule.sinks));
            let _ = write!(line, ", errors {}, dropped {dropped}", rule.errors);
            if rule.late > 0 {
                let _ = write!(line, ", late {}", rule.late);
            }
            if rule.future > 0 {
                let _ = write!(line, ", too far ahead {}", rule.future);
            }
            for (event, count) in rule.feed.each() {
                let _ = write!(line, ", {} {count}", event.name());
            }
            if let Some(latency) = &rule.latency {
                let _ = write!(line, ", p50 {}, p99 {}", micros(latency.p50_us), micros(latency.p99_us));
            }
            lines.push(line);
            for link in rule.sources.iter().map(|(_, source)| source).chain(&rule.sinks) {
                for line in trouble(link).into_iter().chain(link.addresses.iter().filter_map(failing)) {
                    if !shown.contains(&line) {
                        shown.push(line.clone());
                        lines.push(line);
                    }
                }
            }
            if let Some((_, error)) = &rule.last_error {
                lines.push(format!("    last error: {}", printable(error)));
            }
            self.before.push((rule.id.clone(), rule.rows_in, rule.rows_out));
        }
        self.at = now;
        lines
    }

    /// The lines as a text that replaces the previous block on a terminal.
    pub fn redraw(&mut self, lines: &[String], size: Size) -> String {
        self.block.redraw(lines, size)
    }
}

/// Results without any receiver: the sinks count them as dropped, although nobody has lost anything.
fn unheard(sinks: &[LinkStatus]) -> u64 {
    let counts = sinks.iter().flat_map(|sink| &sink.dropped);
    counts.filter(|(cause, _)| *cause == NO_CLIENT).map(|(_, count)| count).sum()
}

/// The problem of a link that is not connected or loses messages.
fn trouble(link: &LinkStatus) -> Option<String> {
    let losses = link.dropped.iter().filter(|(cause, _)| *cause != NO_CLIENT);
    let lost: Vec<String> = losses.map(|(cause, count)| format!("{count} lost ({cause})")).collect();
    if link.state == LinkState::Connected && lost.is_empty() {
        return None;
    }
    let state = if link.serves() && link.state == LinkState::Connected { "listening" } else { link.state.as_str() };
    let mut line = format!("    {}: {state}", link.address);
    if link.state != LinkState::Connected {
        let since = SystemTime::now().duration_since(link.since).unwrap_or(Duration::ZERO);
        let _ = write!(line, " for {} s", since.as_secs());
        if let Some((_, error)) = &link.last_error {
            let _ = write!(line, ": {error}");
        }
    }
    for lost in lost {
        let _ = write!(line, ", {lost}");
    }
    if let Some((_, error)) =
        link.last_error.as_ref().filter(|_| link.state == LinkState::Connected && link.undelivered > 0)
    {
        let _ = write!(line, ": {error}");
    }
    Some(line)
}

/// An address whose connections fail repeatedly: it has no connection now, or one has failed within the last minute.
fn failing(at: &AddressStatus) -> Option<String> {
    let recent = at.last_error.as_ref().is_some_and(|(time, _)| time.elapsed().is_ok_and(|ago| ago < RECENT));
    let fails = at.failures() > 1 && (recent || at.connected == 0);
    fails.then(|| format!("    {}: {}", at.address, at.trouble()))
}

/// A rate with few digits.
fn short(rate: f64) -> String {
    match rate {
        rate if rate >= 1e6 => format!("{:.2}M", rate / 1e6),
        rate if rate >= 1e4 => format!("{:.0}k", rate / 1e3),
        rate => format!("{rate:.0}"),
    }
}

/// A time with its unit.
pub fn micros(us: u64) -> String {
    match us {
        0..10_000 => format!("{us} µs"),
        10_000..10_000_000 => format!("{} ms", us / 1000),
        _ => format!("{} s", us / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::view_id;
    use crate::metrics::Latency;
    use crate::plan::spread::Spread;

    fn link(state: LinkState) -> LinkStatus {
        let now = SystemTime::now();
        LinkStatus { state, last_error: Some((now, "refused".to_owned())), ..LinkStatus::new("ws://a:1/x", now) }
    }

    fn rule(rows_in: u64, state: LinkState) -> RuleStatus {
        RuleStatus {
            watermark: None,
            id: "r".to_owned(),
            rows_in,
            rows_out: rows_in / 2,
            errors: 1,
            dropped: 10,
            late: 0,
            spread: Spread::Alone,
            home: None,
            future: 0,
            feed: Default::default(),
            last_error: None,
            oddities: Vec::new(),
            work: Default::default(),
            latency: Some(Latency { p50_us: 90, p99_us: 12_345, ..Latency::default() }),
            sources: vec![("s".to_owned(), link(state))],
            sinks: vec![LinkStatus { dropped: vec![("slow client", 3), (NO_CLIENT, 7)], ..link(LinkState::Connected) }],
        }
    }

    #[test]
    fn numbers_and_rates() {
        let mut report = Report::new();
        let start = report.at;
        report.lines(&[rule(0, LinkState::Connected)], start);
        let timed = RuleStatus { late: 4, future: 2, ..rule(100_000, LinkState::Connecting) };
        let lines = report.lines(&[timed], start + Duration::from_secs(2));
        assert_eq!(
            lines,
            [
                "r: in 100000 (50k/s), out 50000 (25k/s), errors 1, dropped 3, late 4, too far ahead 2, p50 90 µs, p99 12 ms",
                "    ws://a:1/x: connecting for 0 s: refused",
                "    ws://a:1/x: connected, 3 lost (slow client)",
            ]
        );
    }

    #[test]
    fn an_address_that_fails_again_and_again_has_a_line() {
        let at = |address: &str, connected, closed, unreached, error: &str, ago| AddressStatus {
            address: address.to_owned(),
            connected,
            closed,
            unreached,
            last_error: Some((SystemTime::now() - Duration::from_secs(ago), error.to_owned())),
        };
        let addresses = vec![
            at("ws://a:1/x", 1, 11, 0, "ws://a:1/x: closed by the peer: 1008 no hb", 0),
            at("ws://b:1/x", 0, 1, 5, "ws://b:1/x: refused", 600),
            at("ws://c:1/x", 1, 3, 0, "long ago", 600),
            at("ws://d:1/x", 1, 1, 0, "the first time", 0),
        ];
        let source = LinkStatus { addresses, ..link(LinkState::Connected) };
        let rule =
            RuleStatus { sources: vec![("s".to_owned(), source)], sinks: Vec::new(), ..rule(1, LinkState::Connected) };
        let mut report = Report::new();
        let lines = report.lines(&[rule], report.at);
        let expected = [
            "    ws://a:1/x: closed 11 times, last: 1008 no hb",
            "    ws://b:1/x: closed once, not reached 5 times, last: refused",
        ];
        assert_eq!(lines[1..], expected);
    }

    #[test]
    fn a_sink_whose_results_are_refused_says_why() {
        let sink = LinkStatus { dropped: vec![("refused", 2)], undelivered: 2, ..link(LinkState::Connected) };
        let rule = RuleStatus { sinks: vec![sink], ..rule(1, LinkState::Connected) };
        let mut report = Report::new();
        let lines = report.lines(&[rule], report.at);
        assert!(lines.contains(&"    ws://a:1/x: connected, 2 lost (refused): refused".to_owned()), "{lines:?}");
    }

    #[test]
    fn a_view_has_rows_and_no_results() {
        let view = RuleStatus { id: view_id("fleet"), latency: None, ..rule(10, LinkState::Connected) };
        let mut report = Report::new();
        let line = report.lines(&[view], report.at).remove(0);
        assert!(line.starts_with("view fleet: in 10 (") && line.ends_with("/s), errors 1, dropped 3"), "{line}");
    }
}
