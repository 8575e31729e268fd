//! What a run did, in numbers.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use super::plan::Kind;
use super::stage::Stage;

/// A stall that begins so long after a fault has ended is still put down to it: links and leaders must come back first.
const AFTERMATH_NS: u64 = 2_000_000_000;

/// When a fault was at work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) kind: Kind,
    /// Nanoseconds since the round's start.
    pub(super) from: u64,
    pub(super) to: u64,
}

/// One kind of fault.
#[derive(Debug, Clone, Copy, Default)]
pub struct OfKind {
    /// How often it was injected.
    pub injected: u64,
    /// How often its turn came while it could not be, because its engine was down already.
    pub skipped: u64,
    /// The longest time without an acknowledged write to some volume while it was at work, or shortly after.
    pub longest_stall: Duration,
    /// The longest time from its end to the next acknowledged write to every volume, of those times in which no other
    /// fault was at work.
    pub longest_recovery: Duration,
}

/// All figures of a run.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Clusters that were made, put through their faults and found whole.
    pub rounds: u64,
    /// How long all of it took.
    pub took: Duration,
    /// By kind of fault.
    pub kinds: BTreeMap<Kind, OfKind>,
    /// Acknowledged writes, trims and zeroings.
    pub writes: u64,
    /// Reads that were compared with the history.
    pub reads: u64,
    /// Sectors in them.
    pub sectors: u64,
    /// Writes that were refused with an error that tells of the attachment, or of no space.
    pub refused: u64,
    /// Requests whose connection went before their answer came.
    pub unanswered: u64,
    /// Reads of corrupted blocks that failed.
    pub unreadable: u64,
    /// Connections made.
    pub connections: u64,
    /// The longest that a request waited which was answered in the end.
    pub longest_wait: Duration,
    /// Payload blocks that were corrupted.
    pub rotted: u64,
    /// Blocks that engines fetched from another replica and wrote back, as those said that ran in the end.
    pub repaired: u64,
    /// Disks that were filled until they had no space.
    pub filled: u64,
    /// Replicas that were read whole, each as its volume's leader, and found equal to the history and to each other.
    pub replicas: u64,
}

impl Figures {
    /// Adds what the clients of a round did, and the stalls of its faults.
    pub(super) fn take(&mut self, stage: &Stage, windows: &[Window]) {
        for volume in &stage.volumes {
            let tally = &volume.recorder.tally;
            let number = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
            self.writes += number(&tally.writes);
            self.reads += number(&tally.reads);
            self.refused += number(&tally.refused);
            self.unanswered += number(&tally.lost);
            self.unreadable += number(&tally.unreadable);
            self.connections += number(&tally.connections);
            self.sectors += volume.recorder.checked();
            self.longest_wait = self.longest_wait.max(volume.recorder.longest_wait());
        }
        for window in windows {
            let stall = stage
                .volumes
                .iter()
                .map(|volume| volume.recorder.longest_gap(window.from, window.to + AFTERMATH_NS))
                .max()
                .unwrap_or_default();
            let of_kind = self.kinds.entry(window.kind).or_default();
            of_kind.longest_stall = of_kind.longest_stall.max(stall);
            if let Some(recovery) = recovery(stage, windows, window) {
                of_kind.longest_recovery = of_kind.longest_recovery.max(recovery);
            }
        }
    }

    pub(super) fn count(&mut self, kind: Kind, was_injected: bool) {
        let of_kind = self.kinds.entry(kind).or_default();
        if was_injected {
            of_kind.injected += 1;
        } else {
            of_kind.skipped += 1;
        }
    }

    /// Faults injected, of all kinds.
    pub fn faults(&self) -> u64 {
        self.kinds.values().map(|of_kind| of_kind.injected).sum()
    }

    /// Requests whose answers were checked.
    pub fn requests(&self) -> u64 {
        self.writes + self.reads
    }

    /// Kinds of faults with their figures, also those that never came.
    pub fn by_kind(&self) -> Vec<(Kind, OfKind)> {
        let of = |kind: Kind| (kind, self.kinds.get(&kind).copied().unwrap_or_default());
        Kind::ALL.into_iter().map(of).collect()
    }

    /// The figures that are no table, a line each.
    pub fn lines(&self) -> Vec<String> {
        vec![
            format!(
                "{} rounds in {:.0} s: {} faults, {} requests checked ({} writes acknowledged, {} reads of {} sectors)",
                self.rounds,
                self.took.as_secs_f64(),
                self.faults(),
                self.requests(),
                self.writes,
                self.reads,
                self.sectors
            ),
            format!(
                "{} connections; {} requests lost their connection, {} were refused, {} reads of corrupted blocks failed",
                self.connections, self.unanswered, self.refused, self.unreadable
            ),
            format!(
                "{} replicas read whole as leaders and found equal; {} blocks corrupted, at least {} of them read and \
                 repaired; {} disks full; longest answered wait {:.2} s",
                self.replicas,
                self.rotted,
                self.repaired,
                self.filled,
                self.longest_wait.as_secs_f64()
            ),
        ]
    }

    /// All of it for a program.
    pub fn to_json(&self) -> Value {
        let kinds: BTreeMap<&str, Value> = self
            .by_kind()
            .into_iter()
            .map(|(kind, of_kind)| {
                let value = json!({
                    "injected": of_kind.injected,
                    "skipped": of_kind.skipped,
                    "longest_stall_ms": millis(of_kind.longest_stall),
                    "longest_recovery_ms": millis(of_kind.longest_recovery),
                });
                (kind.name(), value)
            })
            .collect();
        json!({
            "rounds": self.rounds,
            "seconds": self.took.as_secs(),
            "faults": self.faults(),
            "faults_by_kind": kinds,
            "requests_checked": self.requests(),
            "writes_acknowledged": self.writes,
            "reads_checked": self.reads,
            "sectors_checked": self.sectors,
            "writes_refused": self.refused,
            "requests_unanswered": self.unanswered,
            "reads_of_corrupted_blocks_failed": self.unreadable,
            "connections": self.connections,
            "longest_wait_ms": millis(self.longest_wait),
            "blocks_corrupted": self.rotted,
            "blocks_repaired": self.repaired,
            "disks_filled": self.filled,
            "replicas_compared": self.replicas,
        })
    }
}

/// How long after the end of a fault every volume had acknowledged a write again; nothing if another fault came between.
fn recovery(stage: &Stage, windows: &[Window], ended: &Window) -> Option<Duration> {
    let times = stage.volumes.iter().map(|volume| volume.recorder.recovery(ended.to));
    let longest = times.collect::<Option<Vec<Duration>>>()?.into_iter().max()?;
    let again = ended.to + u64::try_from(longest.as_nanos()).ok()?;
    let is_disturbed = windows
        .iter()
        .any(|other| other.from <= again && other.to > ended.to && other.from != ended.from);
    (!is_disturbed).then_some(longest)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
