//! What the kernel saw of an engine's writes: how many of them were made durable.
//!
//! io_uring requests are invisible to strace, which sees system calls only. The kernel's tracepoints are a better witness
//! anyway. A durable write (`RWF_DSYNC`) reaches the device in one of two ways: as a write with forced unit access, queued
//! by the engine's own thread, or, where the device lacks that, as a write followed by a synchronisation of that one file,
//! which ends in a flush of the device. Both are counted, the first by thread and the second by inode.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

use crate::command::Tool;
use crate::engine::Engine;
use crate::procfs;

/// The size of each processor's trace buffer: about 100 bytes an event, so more than 100,000 events.
const BUFFER_KIB: &str = "16384";

/// Tells each write as it is queued for the device.
const QUEUED: &str = "events/block/block_bio_queue/enable";
/// Tells each synchronisation of a file on ext4.
const SYNCED: &str = "events/ext4/ext4_sync_file_enter/enable";

/// A trace of its own, apart from whatever else traces on this machine.
#[derive(Debug)]
pub struct Trace {
    instance: PathBuf,
}

/// What a trace has seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Writes with forced unit access or a flush, by the thread that queued them.
    forced: BTreeMap<u32, u64>,
    /// Synchronisations, by the file's inode.
    synced: BTreeMap<u64, u64>,
}

impl Trace {
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
        trace.set(QUEUED, "1")?;
        if root.join(SYNCED).exists() {
            trace.set(SYNCED, "1")?;
        }
        Ok(trace)
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        let path = self.instance.join(file);
        fs::write(&path, value).with_context(|| format!("cannot set {}", path.display()))
    }

    /// Stops tracing and counts.
    pub fn finish(self) -> Result<Seen> {
        self.set("tracing_on", "0")?;
        let text = fs::read_to_string(self.instance.join("trace"))?;
        let mut seen = Seen::default();
        text.lines().for_each(|line| seen.take(line));
        Ok(seen)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // An instance that stays behind costs memory only, until the machine starts again.
        let _ = fs::remove_dir(&self.instance);
    }
}

impl Seen {
    /// Counts one line, such as `disk-0-123 [001] ..... 12.3: block_bio_queue: 254,0 FWFS 2048 + 8 [disk-0]` or
    /// `kworker/1:7-47 [001] ..... 12.3: ext4_sync_file_enter: dev 254,0 ino 42 parent 41 datasync 1`.
    fn take(&mut self, line: &str) {
        if let Some((before, after)) = line.split_once("block_bio_queue: ") {
            let forced = after.split_whitespace().nth(1).is_some_and(|flags| flags.contains('F'));
            if let Some(thread) = thread_of(before).filter(|_| forced) {
                *self.forced.entry(thread).or_insert(0) += 1;
            }
        } else if let Some((_, after)) = line.split_once("ext4_sync_file_enter: ") {
            let mut words = after.split_whitespace().skip_while(|word| *word != "ino").skip(1);
            if let Some(inode) = words.next().and_then(|word| word.parse().ok()) {
                *self.synced.entry(inode).or_insert(0) += 1;
            }
        }
    }

    /// How many writes of this engine to its disks were made durable.
    pub fn durable_writes(&self, engine: &Engine) -> Result<u64> {
        let mut count = 0;
        for thread in procfs::threads(engine.pid()?)? {
            count += self.forced.get(&thread).copied().unwrap_or_default();
        }
        for disk in &engine.config.disks {
            count += self.synced.get(&fs::metadata(disk)?.ino()).copied().unwrap_or_default();
        }
        Ok(count)
    }
}

fn thread_of(before: &str) -> Option<u32> {
    let (task, _) = before.split_once('[')?;
    task.trim_end().rsplit_once('-')?.1.parse().ok()
}

fn tracefs() -> Result<PathBuf> {
    let root = Path::new("/sys/kernel/tracing");
    if !root.join("instances").exists() {
        Tool::new("mount").args(["-t", "tracefs", "nodev"]).arg(root).ok()?;
    }
    if !root.join(QUEUED).exists() {
        bail!("{} has no events of the block layer", root.display());
    }
    Ok(root.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_forced_writes_by_thread_and_syncs_by_inode() {
        let mut seen = Seen::default();
        seen.take("   disk-0-4711    [001] .....  1234.5: block_bio_queue: 254,0 WFS 2048 + 8 [disk-0]");
        seen.take("   disk-0-4711    [001] .....  1234.5: block_bio_queue: 254,0 WS 2048 + 8 [disk-0]");
        seen.take("   kworker/1:7-4779 [001] ..... 2.7: ext4_sync_file_enter: dev 254,0 ino 42 parent 41 datasync 1 ");
        assert_eq!(seen.forced, BTreeMap::from([(4711, 1)]));
        assert_eq!(seen.synced, BTreeMap::from([(42, 1)]));
    }
}
