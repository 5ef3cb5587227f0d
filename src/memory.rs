//! The memory budget of the process: how much of it is used, and what the process gives up when it runs short.
//!
//! Three steps, each at its own share of the budget: refuse new clients; shorten clients' queues, the fullest first;
//! fail the rule with the most state. The data server, the clients' queues and the engine take these steps; this module
//! only measures and counts. The budget belongs to the process, so this state is global.
//!
//! It reads the system's files and knows nothing of rules or sockets.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::time::Instant;

/// How long a measurement is reused, ms, so that frequent calls are cheap.
const FRESH: i64 = 200;

/// The time between two calls of the allocator to return what is free, ms: it walks over all of it.
const BETWEEN_TRIMS: i64 = 5_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Enough memory.
    None,
    /// From 85 % of the budget: no new clients.
    Clients,
    /// From 92 %: clients' queues are shortened.
    Queues,
    /// From 98 %: the rule with the largest state fails.
    Rules,
}

impl Pressure {
    /// The step's name in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Pressure::None => "none",
            Pressure::Clients => "clients",
            Pressure::Queues => "queues",
            Pressure::Rules => "rules",
        }
    }

    fn of(resident: u64, budget: u64) -> Pressure {
        let percent = resident.saturating_mul(100).checked_div(budget).unwrap_or(0);
        match percent {
            98.. => Pressure::Rules,
            92.. => Pressure::Queues,
            85.. => Pressure::Clients,
            _ => Pressure::None,
        }
    }
}

static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
static BUDGET: AtomicU64 = AtomicU64::new(0);
static MEASURED: AtomicI64 = AtomicI64::new(i64::MIN / 2);
static LEVEL: AtomicU8 = AtomicU8::new(0);
static TRIMMED: AtomicI64 = AtomicI64::new(i64::MIN / 2);
/// The least memory of the process since something was last given up, bytes; 0: nothing was given up since memory
/// became short.
static GIVEN_UP_AT: AtomicU64 = AtomicU64::new(0);
/// Counts of refusals, cuts and failures, by step.
static ACTS: [AtomicU64; 3] = [AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)];

/// Sets the budget, bytes; `None`: 80 % of the control group or machine; 0: no budget.
pub fn set_budget(bytes: Option<u64>) {
    BUDGET.store(bytes.or_else(default_budget).unwrap_or(0), Ordering::Relaxed);
}

/// The budget, bytes; 0: none.
pub fn budget() -> u64 {
    BUDGET.load(Ordering::Relaxed)
}

/// The step, by a measurement that is at most `FRESH` old.
pub fn pressure() -> Pressure {
    let budget = budget();
    if budget == 0 {
        return Pressure::None;
    }
    if is_due(&MEASURED, FRESH) {
        let pressure = Pressure::of(resident().unwrap_or(0), budget);
        let before = LEVEL.swap(pressure as u8, Ordering::Relaxed);
        if pressure as u8 > before {
            tracing::warn!(budget, ?pressure, "memory is short");
        }
    }
    level()
}

/// Whether `last` is at least `every` ms ago. Then it becomes now, and of several callers only one gets true.
fn is_due(last: &AtomicI64, every: i64) -> bool {
    let now = i64::try_from(BEGIN.elapsed().as_millis()).unwrap_or(i64::MAX);
    let before = last.load(Ordering::Relaxed);
    now.saturating_sub(before) >= every
        && last.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// Whether freed memory should be returned now, because memory is short and it was not done lately. Otherwise memory would
/// stay short after something was given up, and new clients would be refused until others use it.
pub fn trim_is_due(pressure: Pressure) -> bool {
    pressure > Pressure::None && is_due(&TRIMMED, BETWEEN_TRIMS)
}

/// Returns the memory that the allocator holds free to the system. It blocks: some ms for each GB.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
    #[allow(unsafe_code)]
    // SAFETY: malloc_trim takes a number, no pointer. It locks the allocator itself, so any thread may call it at any
    // time, and it touches only memory that nobody owns.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The step at the last measurement. It is cheap enough to ask with each batch.
pub fn level() -> Pressure {
    match LEVEL.load(Ordering::Relaxed) {
        0 => Pressure::None,
        1 => Pressure::Clients,
        2 => Pressure::Queues,
        _ => Pressure::Rules,
    }
}

/// Whether something must be given up. Freed memory is reused before the system gets it back, so after something was
/// given up, nothing else is until the process has grown further. Memory that the system got back is not counted as
/// used.
pub fn needs_more() -> bool {
    let Some(resident) = resident() else { return true };
    // 0 remains 0.
    let given_up_at = GIVEN_UP_AT.fetch_min(resident, Ordering::Relaxed).min(resident);
    needs_more_at(resident, given_up_at, budget())
}

fn needs_more_at(resident: u64, given_up_at: u64, budget: u64) -> bool {
    given_up_at == 0 || resident >= given_up_at.saturating_add(budget / 50)
}

/// Records that something was given up.
pub fn relieved() {
    GIVEN_UP_AT.store(resident().unwrap_or(1).max(1), Ordering::Relaxed);
}

/// Records that memory is no longer short.
pub fn is_enough() {
    GIVEN_UP_AT.store(0, Ordering::Relaxed);
}

/// Counts a refusal, cut or failure by this step.
pub fn count(step: Pressure) {
    if let Some(acts) = (step as usize).checked_sub(1).and_then(|index| ACTS.get(index)) {
        acts.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts of refused clients, shortened queues and failed rules.
pub fn counts() -> [(&'static str, u64); 3] {
    let of = |index: usize| ACTS[index].load(Ordering::Relaxed);
    let named = |step: Pressure, index| (step.name(), of(index));
    [named(Pressure::Clients, 0), named(Pressure::Queues, 1), named(Pressure::Rules, 2)]
}

/// The resident memory of this process, bytes.
fn resident() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    // Pages are 4 KiB on all supported platforms.
    Some(pages * 4096)
}

fn default_budget() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|info| {
        let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    });
    let group = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|file| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok());
    let available = machine.into_iter().chain(group).min()?;
    Some(available / 100 * 80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_has_its_share_of_the_budget() {
        for (resident, step) in [
            (0, Pressure::None),
            (849, Pressure::None),
            (850, Pressure::Clients),
            (920, Pressure::Queues),
            (979, Pressure::Queues),
            (980, Pressure::Rules),
            (5_000, Pressure::Rules),
        ] {
            assert_eq!(Pressure::of(resident, 1000), step, "{resident}");
        }
        assert_eq!(Pressure::of(u64::MAX, 0), Pressure::None);
    }

    #[test]
    fn memory_is_returned_only_while_it_is_short() {
        assert!(!trim_is_due(Pressure::None));
        let blocks: Vec<Vec<u8>> = (0..1000).map(|_| vec![1; 10_000]).collect();
        drop(blocks);
        trim();
        assert_eq!(vec![2_u8; 10_000], [2; 10_000]);
    }

    #[test]
    fn one_thing_is_given_up_at_a_time() {
        assert!(needs_more_at(990, 0, 1000));
        assert!(!needs_more_at(1005, 990, 1000), "what was freed is used again first");
        assert!(needs_more_at(1010, 990, 1000));
    }

    /// The memory of this process is far below the mark, as if the system had reclaimed most of it.
    #[test]
    fn the_mark_follows_the_memory_down() {
        GIVEN_UP_AT.store(u64::MAX / 2, Ordering::Relaxed);
        let _ = needs_more();
        let mark = GIVEN_UP_AT.swap(0, Ordering::Relaxed);
        assert!(mark < 1 << 45, "{mark}");
        assert!(needs_more(), "nothing was given up");
    }

    #[test]
    fn the_machine_has_a_budget() {
        assert!(default_budget().is_none_or(|budget| budget > 1 << 20));
        assert!(resident().is_none_or(|resident| resident > 1 << 16));
    }
}
