//! Resource usage of this process: CPU time, memory, start time. Absent on systems other than Linux.

/// Ticks per second in `/proc/self/stat`: 100 on every architecture.
const TICKS: f64 = 100.0;

/// Usage so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// CPU time of all cores, user and system, s.
    pub cpu_seconds: f64,
    /// Memory in use, bytes.
    pub resident_bytes: u64,
    /// Start time, s since the epoch.
    pub start_seconds: f64,
}

impl Usage {
    /// The current usage; `None` if the system does not report it.
    pub fn now() -> Option<Usage> {
        let read = |file: &str| std::fs::read_to_string(file).ok();
        let status = read("/proc/self/status")?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let resident: u64 = resident.trim().trim_end_matches("kB").trim().parse().ok()?;
        let (cpu, begun) = times(&read("/proc/self/stat")?)?;
        let boot = read("/proc/stat")?;
        let boot: f64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        Some(Usage { cpu_seconds: cpu, resident_bytes: resident * 1024, start_seconds: boot + begun })
    }
}

/// Parses `/proc/self/stat`: CPU time, and the start time since boot, s.
fn times(stat: &str) -> Option<(f64, f64)> {
    // The process name is in parentheses, and may contain spaces and parentheses.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks = |field: usize| fields.get(field)?.parse::<f64>().ok();
    Some(((ticks(11)? + ticks(12)?) / TICKS, ticks(19)? / TICKS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_shifts_no_field() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 1 0 0 0 150 50 0 0 20 0 3 0 1200 0 0";
        assert_eq!(times(stat), Some((2.0, 12.0)));
        assert_eq!(times(""), None);
    }
}
