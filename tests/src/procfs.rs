//! What the kernel says about a process.

use std::fs;

use anyhow::{Context, Result};

/// Clock ticks a second in `/proc/PID/stat`. Linux fixes this for user space at 100 on every architecture in use.
const TICKS_PER_SECOND: u64 = 100;

/// Processor time that a process has used so far, user and system, in microseconds.
pub fn cpu_us(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    // The second field is the program's name in parentheses and may hold anything, so count from its end.
    let (_, rest) = stat.rsplit_once(')').context("unexpected /proc/PID/stat")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |index: usize| -> Result<u64> { Ok(fields.get(index).context("short /proc/PID/stat")?.parse()?) };
    // utime and stime are fields 14 and 15 of the file, 11 and 12 after the name.
    Ok((ticks(11)? + ticks(12)?) * (1_000_000 / TICKS_PER_SECOND))
}

/// Bytes that a process has caused to be written to storage so far.
pub fn written_bytes(pid: u32) -> Result<u64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).with_context(|| format!("process {pid}"))?;
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "))
        .context("no write_bytes")?;
    Ok(line.trim().parse()?)
}

/// Resident memory in bytes.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// The load average of the last minute.
pub fn load_average() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split_whitespace().next().context("empty /proc/loadavg")?.parse()?)
}

/// The threads of a process.
pub fn threads(pid: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        found.push(entry?.file_name().to_string_lossy().parse()?);
    }
    Ok(found)
}
