//! What the kernel's block layer saw: a trace of the writes that a process sent to the device.
//!
//! io_uring requests are invisible to strace, which sees system calls only. The block layer's tracepoint is a better
//! witness anyway: it shows each write as it is queued for the device, and whether it was sent durably (`F` in its flags:
//! forced unit access, or a flush).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

use crate::command::Tool;

/// The size of each processor's trace buffer: about 200 bytes an event, so 80,000 events.
const BUFFER_KIB: &str = "16384";

/// A trace of its own, apart from whatever else traces on this machine.
#[derive(Debug)]
pub struct BlockTrace {
    instance: PathBuf,
}

impl BlockTrace {
    /// Starts tracing. Fails where tracefs cannot be had, for instance in a container without the right to mount it.
    pub fn start() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = tracefs()?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let instance = root
            .join("instances")
            .join(format!("cairn-{}-{number}", std::process::id()));
        fs::create_dir(&instance).with_context(|| format!("cannot make {}", instance.display()))?;
        let trace = Self { instance };
        trace.set("buffer_size_kb", BUFFER_KIB)?;
        trace.set("events/block/block_bio_queue/enable", "1")?;
        Ok(trace)
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        let path = self.instance.join(file);
        fs::write(&path, value).with_context(|| format!("cannot set {}", path.display()))
    }

    /// Stops tracing and returns, for each thread, how many durable writes or flushes it queued.
    pub fn durable_writes(self) -> Result<BTreeMap<u32, u64>> {
        self.set("events/block/block_bio_queue/enable", "0")?;
        let text = fs::read_to_string(self.instance.join("trace"))?;
        let mut counts = BTreeMap::new();
        for thread in text.lines().filter_map(durable_write) {
            *counts.entry(thread).or_insert(0) += 1;
        }
        Ok(counts)
    }
}

impl Drop for BlockTrace {
    fn drop(&mut self) {
        // An instance that stays behind costs memory only until the next start of the machine.
        let _ = fs::remove_dir(&self.instance);
    }
}

/// The thread of a line such as `name-123 [001] ..... 12.3: block_bio_queue: 254,0 WFS 2048 + 8 [name]`, if it is a durable
/// write.
fn durable_write(line: &str) -> Option<u32> {
    let (before, after) = line.split_once("block_bio_queue: ")?;
    let flags = after.split_whitespace().nth(1)?;
    if !flags.contains('F') {
        return None;
    }
    let (task, _) = before.split_once('[')?;
    task.trim_end().rsplit_once('-')?.1.parse().ok()
}

fn tracefs() -> Result<PathBuf> {
    let root = Path::new("/sys/kernel/tracing");
    if !root.join("instances").exists() {
        Tool::new("mount").args(["-t", "tracefs", "nodev"]).arg(root).ok()?;
    }
    if !root.join("events/block/block_bio_queue").exists() {
        bail!("{} has no events of the block layer", root.display());
    }
    Ok(root.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_thread_of_a_durable_write() {
        let durable = "          disk-0-4711    [001] .....  1234.5: block_bio_queue: 254,0 WFS 2048 + 8 [disk-0]";
        assert_eq!(durable_write(durable), Some(4711));
        let plain = "          disk-0-4711    [001] .....  1234.5: block_bio_queue: 254,0 WS 2048 + 8 [disk-0]";
        assert_eq!(durable_write(plain), None);
    }
}
