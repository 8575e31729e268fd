//! From the disks' threads to the engine: rare events over a counted channel, measurements straight into the histograms.

use std::sync::Arc;

use bytes::Bytes;
use cairn_api::ids::{DiskId, GroupId, LogIndex, ReplicaId};
use cairn_core::event::{CheckpointReport, CollectionReport, Damage, RecoverySummary, Stage};
use tokio::sync::mpsc;

use super::DiskObserver;
use crate::meta::group::ApplyQueue;
use crate::metrics::Metrics;

/// Something that happened on a disk's thread.
#[derive(Debug)]
pub enum DiskEvent {
    /// Recovery is over.
    Recovered(DiskId, RecoverySummary),
    /// The meta group's leader changed.
    MetaLeader {
        /// On whose view.
        disk: DiskId,
        /// Who leads.
        leader: Option<ReplicaId>,
        /// Whether it is the replica on that disk.
        is_local: bool,
    },
    /// The disk serves no more.
    Failed(DiskId, String),
}

/// The observer of one disk.
pub struct DiskReporter {
    disk: DiskId,
    events: mpsc::UnboundedSender<DiskEvent>,
    apply: ApplyQueue,
    metrics: Arc<Metrics>,
}

impl DiskReporter {
    /// The observer of `disk`.
    pub fn new(
        disk: DiskId,
        events: mpsc::UnboundedSender<DiskEvent>,
        apply: ApplyQueue,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            disk,
            events,
            apply,
            metrics,
        }
    }

    fn tell(&self, event: DiskEvent) {
        // The receiver goes away only when the engine stops; then nobody needs to know.
        let _ = self.events.send(event);
    }
}

impl DiskObserver for DiskReporter {
    fn on_recovered(&self, summary: &RecoverySummary) {
        self.tell(DiskEvent::Recovered(self.disk, summary.clone()));
    }

    fn on_apply(&self, group: GroupId, index: LogIndex, data: Bytes) {
        if group == GroupId::META {
            self.apply.apply(index, data);
        } else {
            tracing::error!(%group, %index, "a command of a group that has no state machine here was delivered");
        }
    }

    fn on_leader_changed(&self, group: GroupId, leader: Option<ReplicaId>, is_local: bool) {
        self.metrics.leader_changed(self.disk, group, is_local);
        if group == GroupId::META {
            self.tell(DiskEvent::MetaLeader {
                disk: self.disk,
                leader,
                is_local,
            });
        }
    }

    fn on_disk_failed(&self, reason: String) {
        self.tell(DiskEvent::Failed(self.disk, reason));
    }

    fn on_measured(&self, stage: Stage, nanos: u64) {
        self.metrics.measured(stage, nanos);
    }

    fn on_throttled(&self, group: GroupId, nanos: u64) {
        self.metrics.throttled(group, nanos);
    }

    fn on_damage(&self, damage: Damage, blocks: u64) {
        self.metrics.damaged(damage, blocks);
    }

    fn on_caught_up(&self, bytes: u64) {
        self.metrics.caught_up(bytes);
    }

    fn on_filled(&self, blocks: u64) {
        self.metrics.filled(blocks);
    }

    fn on_collected(&self, report: CollectionReport) {
        self.metrics.collected(report);
    }

    fn on_checkpoint(&self, report: CheckpointReport) {
        self.metrics.checkpointed(report);
    }

    fn on_scrubbed(&self, blocks: u64, is_over: bool) {
        self.metrics.scrubbed(blocks, is_over);
    }
}
