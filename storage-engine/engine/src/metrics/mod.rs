//! What the engine measures, for Prometheus. The hot path touches atomics only; everything else is gathered at a scrape.

mod collect;
mod histogram;
pub mod http;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use cairn_api::ids::{DiskId, GroupId};
use cairn_core::event::{CheckpointReport, CollectionReport, Damage, Stage};

pub use collect::EngineCollector;
pub use histogram::StageHistogram;

/// Counters and histograms that are fed from the disks' threads.
#[derive(Debug, Default)]
pub struct Metrics {
    queue: StageHistogram,
    disk: StageHistogram,
    replication: StageHistogram,
    commit: StageHistogram,
    frontend_write: StageHistogram,
    frontend_read: StageHistogram,
    leader_changes: AtomicU64,
    blocks_damaged: AtomicU64,
    blocks_repaired: AtomicU64,
    blocks_unrepairable: AtomicU64,
    blocks_scrubbed: AtomicU64,
    catch_up_bytes: AtomicU64,
    filled_blocks: AtomicU64,
    scrubs: AtomicU64,
    blocks_moved: AtomicU64,
    segments_emptied: AtomicU64,
    checkpoints: AtomicU64,
    checkpoint_bytes: AtomicU64,
    led: Mutex<BTreeSet<(DiskId, GroupId)>>,
    /// Of each limited volume, the requests that have waited here and the nanoseconds in all.
    throttled: Mutex<BTreeMap<GroupId, (u64, u64)>>,
    /// NBD connections that are negotiating.
    pub nbd_negotiating: AtomicU64,
    /// NBD connections refused or dropped before their transmission.
    pub nbd_refused: AtomicU64,
    /// Peers' connections refused.
    pub links_refused: AtomicU64,
}

impl Metrics {
    /// A stage took so long.
    pub fn measured(&self, stage: Stage, nanos: u64) {
        self.histogram(stage).observe(nanos);
    }

    fn histogram(&self, stage: Stage) -> &StageHistogram {
        match stage {
            Stage::Queue => &self.queue,
            Stage::Disk => &self.disk,
            Stage::Replication => &self.replication,
            Stage::Commit => &self.commit,
            Stage::Write => &self.frontend_write,
            Stage::Read => &self.frontend_read,
        }
    }

    /// Each histogram with the stage and the operation it is of.
    fn histograms(&self) -> [(&'static str, &'static str, &StageHistogram); 6] {
        [
            ("frontend", "write", &self.frontend_write),
            ("frontend", "read", &self.frontend_read),
            ("queue", "write", &self.queue),
            ("disk", "write", &self.disk),
            ("replication", "write", &self.replication),
            ("commit", "write", &self.commit),
        ]
    }

    /// Blocks that a disk had lost were noticed or repaired.
    pub fn damaged(&self, damage: Damage, blocks: u64) {
        let counter = match damage {
            Damage::Found => &self.blocks_damaged,
            Damage::Repaired => &self.blocks_repaired,
            Damage::Unrepairable => &self.blocks_unrepairable,
        };
        counter.fetch_add(blocks, Ordering::Relaxed);
    }

    /// Blocks of bases were copied into clones.
    pub fn filled(&self, blocks: u64) {
        self.filled_blocks.fetch_add(blocks, Ordering::Relaxed);
    }

    /// Data of a state was received, for a replica that is behind the log.
    pub fn caught_up(&self, bytes: u64) {
        self.catch_up_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Live blocks were moved, or a segment was emptied.
    pub fn collected(&self, report: CollectionReport) {
        self.blocks_moved.fetch_add(report.blocks, Ordering::Relaxed);
        self.segments_emptied.fetch_add(report.segments, Ordering::Relaxed);
    }

    /// A checkpoint is durable.
    pub fn checkpointed(&self, report: CheckpointReport) {
        self.checkpoints.fetch_add(1, Ordering::Relaxed);
        self.checkpoint_bytes.fetch_add(report.bytes, Ordering::Relaxed);
    }

    /// Blocks were read through for damage; perhaps the last ones of a pass.
    pub fn scrubbed(&self, blocks: u64, is_over: bool) {
        self.blocks_scrubbed.fetch_add(blocks, Ordering::Relaxed);
        self.scrubs.fetch_add(u64::from(is_over), Ordering::Relaxed);
    }

    /// A request has waited so long for its volume's limits. Such requests are as rare as the limits say, so that a lock does
    /// no harm.
    pub fn throttled(&self, group: GroupId, nanos: u64) {
        let mut throttled = self.throttled.lock().unwrap_or_else(PoisonError::into_inner);
        let (requests, waited) = throttled.entry(group).or_default();
        (*requests, *waited) = (*requests + 1, *waited + nanos);
    }

    /// Of each limited volume, the requests that have waited here and for how many nanoseconds in all.
    fn throttled_by_volume(&self) -> BTreeMap<GroupId, (u64, u64)> {
        self.throttled.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A group's leader, as known on that disk, changed.
    pub fn leader_changed(&self, disk: DiskId, group: GroupId, is_local: bool) {
        self.leader_changes.fetch_add(1, Ordering::Relaxed);
        let mut led = self.led.lock().unwrap_or_else(PoisonError::into_inner);
        if is_local {
            led.insert((disk, group));
        } else {
            led.remove(&(disk, group));
        }
    }

    /// A disk serves no more, and leads nothing.
    pub fn disk_failed(&self, disk: DiskId) {
        self.led
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|(of, _)| *of != disk);
    }

    fn groups_led(&self) -> usize {
        self.led.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
