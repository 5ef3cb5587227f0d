//! What the system says of this process: time on the processors, memory, start. Nothing where it does not say it (other
//! systems than Linux).

/// Ticks of a second in `/proc/self/stat`: the kernel's interface has 100 on every architecture.
const TICKS: f64 = 100.0;

/// What the process has used so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// time on all processors, user and system, s
    pub cpu_seconds: f64,
    /// memory that is in use now, bytes
    pub resident_bytes: u64,
    /// when it began, s since the epoch
    pub start_seconds: f64,
}

impl Usage {
    /// As it is now; `None` where the system does not say it.
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

/// Of a line of `/proc/self/stat`: the processor time, and the start after that of the machine, s.
fn times(stat: &str) -> Option<(f64, f64)> {
    // The process's name is in parentheses, and may have blanks and parentheses in it.
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
