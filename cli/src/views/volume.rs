//! Volumes and their replicas.

use std::collections::BTreeMap;

use cairn_api::control;
use cairn_api::limits::BURST_MS_DEFAULT;
use cairn_api::units::ByteSize;
use serde::Serialize;

use super::key::EncryptionView;
use super::table::{Column, layout, properties};
use super::{View, non_empty, or_nothing};

/// Node names by node id.
pub type NodeNames = BTreeMap<String, String>;

/// A volume, with its replicas.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct VolumeView {
    /// Its name.
    pub name: String,
    /// Its number, never used again.
    pub volume_id: u64,
    /// Capacity.
    pub size_bytes: u64,
    /// What its leader serves: less than the capacity while it grows; absent while none answers.
    pub served_bytes: Option<u64>,
    /// What it may be asked for.
    pub limits: LimitsView,
    /// `creating`, `ready`, `deleting` or `unknown`.
    pub state: String,
    /// `healthy`, `degraded`, `unavailable`, `creating` or `deleting`.
    pub health: String,
    /// The node whose replica leads, if one is known.
    pub leader: Option<String>,
    /// The node that writes, if one does.
    pub attached_to: Option<String>,
    /// The attachment's epoch, if a replica told it.
    pub epoch: Option<u64>,
    /// What its data takes on each replica's disk, as the leader counts it.
    pub allocated_bytes: Option<u64>,
    /// Of that, what a snapshot shows, too.
    pub shared_bytes: Option<u64>,
    /// Of that, what no snapshot shows.
    pub exclusive_bytes: Option<u64>,
    /// What the volume has replaced and its snapshots keep.
    pub snapshot_bytes: Option<u64>,
    /// How many snapshots it has.
    pub snapshots: Option<u64>,
    /// Its replicas.
    pub replicas: Vec<ReplicaView>,
    /// Replicas that are about to take the place of others.
    pub joining: Vec<ReplicaView>,
    /// How it is encrypted, if it is.
    pub encryption: Option<EncryptionView>,
    /// What it was made of, if it is a clone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<OriginView>,
}

/// What a clone was made of.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct OriginView {
    /// `VOLUME` or `VOLUME@SNAPSHOT`, as it was called then.
    pub name: String,
    /// Whether it needs that no more.
    pub whole: bool,
    /// So much of it was its source's.
    pub size_bytes: u64,
    /// How much of that is its own by now; absent while no leader answers.
    pub filled_bytes: Option<u64>,
}

impl OriginView {
    fn new(origin: &control::VolumeOrigin, has_leader: bool) -> Self {
        Self {
            name: origin.name.clone(),
            whole: origin.whole,
            size_bytes: origin.size_bytes,
            filled_bytes: (origin.whole || has_leader).then_some(origin.filled_bytes),
        }
    }

    /// How far it is on its own.
    fn progress(&self) -> String {
        match self.filled_bytes {
            _ if self.whole => "whole".to_owned(),
            Some(filled) => format!("{} % its own", percent(filled, self.size_bytes)),
            None => "not whole".to_owned(),
        }
    }
}

/// What a volume may be asked for.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct LimitsView {
    /// Requests a second; absent if that is not limited.
    pub iops: Option<u64>,
    /// Bytes read and written a second; absent if that is not limited.
    pub bytes_per_s: Option<u64>,
    /// Milliseconds' worth of both that may be saved up.
    pub burst_ms: u32,
}

impl LimitsView {
    fn new(message: Option<&control::VolumeLimits>) -> Self {
        let some = |value: u64| (value > 0).then_some(value);
        let limits = message.copied().unwrap_or_default();
        Self {
            iops: some(limits.iops),
            bytes_per_s: some(limits.bytes_per_s),
            burst_ms: limits.burst_ms.unwrap_or(BURST_MS_DEFAULT),
        }
    }

    /// In a few words; nothing if there are none.
    fn words(&self) -> Option<String> {
        let iops = self.iops.map(|iops| format!("{iops} IOPS"));
        let bytes = self.bytes_per_s.map(|bytes| format!("{}/s", ByteSize(bytes)));
        let words: Vec<String> = iops.into_iter().chain(bytes).collect();
        (!words.is_empty()).then(|| words.join(", "))
    }

    /// With the burst.
    fn sentence(&self) -> String {
        match self.words() {
            Some(words) => format!("{words}, bursts of {} ms", self.burst_ms),
            None => "none".to_owned(),
        }
    }
}

/// A replica. What only the engine knows is absent while the engine does not answer.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct ReplicaView {
    /// Its number.
    pub replica_id: u64,
    /// The node's name, or its id if the name is not known.
    pub node: String,
    /// The disk.
    pub disk_id: String,
    /// Whether its engine has made it.
    pub created: bool,
    /// Whether its engine told its state.
    pub answering: bool,
    /// `leader`, `follower` or `candidate`; `joining`, then `learner`, before it takes another's place; `removed` when it
    /// has lost it; `damaged` if it is gone from its disk.
    pub role: Option<String>,
    /// Raft's term.
    pub term: Option<u64>,
    /// The last committed entry it knows of.
    pub committed: Option<u64>,
    /// The last entry it has applied.
    pub applied: Option<u64>,
    /// The last entry in its log.
    pub last: Option<u64>,
    /// Entries in the leader's log that this replica has not applied.
    pub lag: Option<u64>,
    /// What the volume's data takes on its disk.
    pub allocated_bytes: Option<u64>,
    /// How far it is, while it receives the leader's state because it is too far behind its log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catch_up: Option<CatchUpView>,
}

/// How far a replica is that receives the leader's state.
#[derive(Serialize, Clone, Copy, PartialEq, Debug)]
pub struct CatchUpView {
    /// Data that came so far.
    pub bytes: u64,
    /// How much of the state is in place, in per cent: an estimate, since writes go on.
    pub percent: u64,
}

impl VolumeView {
    /// From the API's answer; `names` gives nodes their names.
    pub fn new(volume: &control::Volume, names: &NodeNames) -> Self {
        // A newcomer may lead before the catalogue has heard that it took its place.
        let leader = volume
            .replicas
            .iter()
            .chain(&volume.joining)
            .filter_map(|replica| replica.status.as_ref())
            .filter(|status| status.role == "leader")
            .max_by_key(|status| status.term);
        let state = match volume.state() {
            control::VolumeState::Unspecified => "unknown",
            control::VolumeState::Creating => "creating",
            control::VolumeState::Ready => "ready",
            control::VolumeState::Deleting => "deleting",
        };
        Self {
            name: volume.name.clone(),
            volume_id: volume.volume_id,
            size_bytes: volume.size_bytes,
            served_bytes: (volume.served_bytes > 0).then_some(volume.served_bytes),
            limits: LimitsView::new(volume.limits.as_ref()),
            state: state.to_owned(),
            health: volume.health.clone(),
            leader: non_empty(&volume.leader),
            attached_to: non_empty(&volume.attached_to),
            epoch: volume
                .replicas
                .iter()
                .filter_map(|replica| replica.status.as_ref())
                .map(|status| status.epoch)
                .max(),
            allocated_bytes: leader.map(|status| status.allocated_bytes),
            shared_bytes: leader.map(|status| status.shared_bytes),
            exclusive_bytes: leader.map(|status| status.allocated_bytes.saturating_sub(status.shared_bytes)),
            snapshot_bytes: leader.map(|status| status.snapshot_bytes),
            snapshots: leader.map(|status| status.snapshots),
            replicas: volume
                .replicas
                .iter()
                .map(|replica| ReplicaView::new(replica, leader, names))
                .collect(),
            joining: volume
                .joining
                .iter()
                .map(|replica| ReplicaView::new(replica, leader, names))
                .collect(),
            encryption: volume.encryption.as_ref().map(EncryptionView::new),
            origin: volume
                .origin
                .as_ref()
                .map(|origin| OriginView::new(origin, leader.is_some())),
        }
    }

    /// Its size, and how much of it is not there yet.
    fn size(&self) -> String {
        let size = ByteSize(self.size_bytes);
        match self.served_bytes {
            Some(served) if served < self.size_bytes => format!("{size}, of which {} are served yet", ByteSize(served)),
            _ => size.to_string(),
        }
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            ByteSize(self.size_bytes).to_string(),
            self.replicas.len().to_string(),
            self.state.clone(),
            self.health.clone(),
            or_nothing(self.leader.as_deref()),
            or_nothing(self.attached_to.as_deref()),
            or_nothing(self.limits.words().as_deref()),
        ]
    }
}

impl ReplicaView {
    fn new(replica: &control::Replica, leader: Option<&control::ReplicaStatus>, names: &NodeNames) -> Self {
        let status = replica.status.as_ref();
        Self {
            replica_id: replica.replica_id,
            node: names.get(&replica.node_id).unwrap_or(&replica.node_id).clone(),
            disk_id: replica.disk_id.clone(),
            created: replica.created,
            answering: status.is_some(),
            role: status.and_then(|status| non_empty(&status.role)),
            term: status.map(|status| status.term),
            committed: status.map(|status| status.committed),
            applied: status.map(|status| status.applied),
            last: status.map(|status| status.last),
            lag: status
                .zip(leader)
                .map(|(own, leader)| leader.last.saturating_sub(own.applied)),
            allocated_bytes: status.map(|status| status.allocated_bytes),
            catch_up: status.and_then(|status| status.catch_up).map(|catch_up| CatchUpView {
                bytes: catch_up.bytes,
                percent: percent(catch_up.staged_blocks, catch_up.estimated_blocks),
            }),
        }
    }

    fn row(&self) -> Vec<String> {
        let number = |value: Option<u64>| or_nothing(value.map(|value| value.to_string()).as_deref());
        let role = match (self.created, self.answering) {
            (_, true) => match (&self.role, self.catch_up) {
                (Some(role), Some(CatchUpView { percent, .. })) => format!("{role}, catching up: {percent} %"),
                (role, _) => or_nothing(role.as_deref()),
            },
            (true, false) => "not answering".to_owned(),
            (false, false) => "not made yet".to_owned(),
        };
        vec![
            self.replica_id.to_string(),
            self.node.clone(),
            role,
            number(self.term),
            number(self.applied),
            number(self.lag),
            size(self.allocated_bytes),
            self.disk_id.clone(),
        ]
    }
}

/// How much `part` is of `whole`, never all of it: what is done is not shown.
fn percent(part: u64, whole: u64) -> u64 {
    part.saturating_mul(100).checked_div(whole).unwrap_or(0).min(99)
}

fn size(bytes: Option<u64>) -> String {
    or_nothing(bytes.map(|bytes| ByteSize(bytes).to_string()).as_deref())
}

impl View for VolumeView {
    fn table(&self) -> String {
        let snapshots = match self.snapshots {
            Some(0) => "none".to_owned(),
            Some(count) => format!("{count}, which keep {}", size(self.snapshot_bytes)),
            None => or_nothing(None),
        };
        let mut pairs = vec![
            ("Volume", format!("{} (number {})", self.name, self.volume_id)),
            ("Size", self.size()),
            ("Allocated", size(self.allocated_bytes)),
            ("Shared", size(self.shared_bytes)),
            ("Exclusive", size(self.exclusive_bytes)),
            ("Snapshots", snapshots),
            ("Limits", self.limits.sentence()),
            ("State", self.state.clone()),
            ("Health", self.health.clone()),
            ("Leader", or_nothing(self.leader.as_deref())),
            (
                "Attached to",
                match (&self.attached_to, self.epoch) {
                    (Some(node), Some(epoch)) => format!("{node} (epoch {epoch})"),
                    (Some(node), None) => node.clone(),
                    (None, _) => "nobody".to_owned(),
                },
            ),
        ];
        if let Some(origin) = &self.origin {
            pairs.push(("Clone of", format!("{}, {}", origin.name, origin.progress())));
        }
        if let Some(encryption) = &self.encryption {
            pairs.push(("Encryption", encryption.cipher.clone()));
            pairs.push(("Master key", encryption.master()));
        }
        let head = properties(&pairs);
        let columns = [
            Column::Number("REPLICA"),
            Column::Words("NODE"),
            Column::Words("ROLE"),
            Column::Number("TERM"),
            Column::Number("APPLIED"),
            Column::Number("LAG"),
            Column::Number("ALLOCATED"),
            Column::Words("DISK"),
        ];
        format!(
            "{head}\n\n{}",
            layout(
                &columns,
                self.replicas
                    .iter()
                    .chain(&self.joining)
                    .map(ReplicaView::row)
                    .collect()
            )
        )
    }
}

/// All volumes.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct VolumeListView {
    /// Sorted by name.
    pub volumes: Vec<VolumeView>,
}

impl VolumeListView {
    /// From the API's answer.
    pub fn new(volumes: &[control::Volume], names: &NodeNames) -> Self {
        let mut volumes: Vec<VolumeView> = volumes.iter().map(|volume| VolumeView::new(volume, names)).collect();
        volumes.sort_by(|left, right| left.name.cmp(&right.name));
        Self { volumes }
    }
}

impl View for VolumeListView {
    fn table(&self) -> String {
        if self.volumes.is_empty() {
            return "No volumes yet: `cairn volume create NAME --size 10GiB` makes one.".to_owned();
        }
        let mut columns = vec![
            Column::Words("VOLUME"),
            Column::Number("SIZE"),
            Column::Number("REPLICAS"),
            Column::Words("STATE"),
            Column::Words("HEALTH"),
            Column::Words("LEADER"),
            Column::Words("ATTACHED TO"),
            Column::Words("LIMITS"),
        ];
        let mut rows: Vec<Vec<String>> = self.volumes.iter().map(VolumeView::row).collect();
        // Where there are no clones nobody looks for them.
        if self.volumes.iter().any(|volume| volume.origin.is_some()) {
            columns.push(Column::Words("CLONE OF"));
            for (row, volume) in rows.iter_mut().zip(&self.volumes) {
                let origin = volume.origin.as_ref();
                let words = origin.map(|origin| format!("{}, {}", origin.name, origin.progress()));
                row.push(or_nothing(words.as_deref()));
            }
        }
        // Where nothing is encrypted nobody looks for it.
        if self.volumes.iter().any(|volume| volume.encryption.is_some()) {
            columns.push(Column::Words("MASTER KEY"));
            for (row, volume) in rows.iter_mut().zip(&self.volumes) {
                row.push(or_nothing(
                    volume.encryption.as_ref().map(EncryptionView::master).as_deref(),
                ));
            }
        }
        layout(&columns, rows)
    }
}
