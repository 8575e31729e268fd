//! The catalogue: what the cluster is made of. Plain ordered maps, so that equal logs give equal catalogues.

use std::collections::BTreeMap;

use cairn_api::ids::{ClusterId, DiskId, GroupId, LogIndex, NodeId, ReplicaId, SnapshotId};
use cairn_api::limits::VolumeLimits;
use cairn_api::units::BLOCK_BYTES;
use cairn_core::event::{Command, GroupSpec, Member};

use super::clone::Origin;
use super::encryption::WrappedKey;
use super::snapshot::SnapshotRecord;
use super::succession::{Replacement, Succession, Swap};

/// The state of the meta group's state machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Catalogue {
    /// The last index that is applied: the catalogue's revision.
    pub applied: LogIndex,
    /// The cluster; none before it is founded.
    pub cluster: Option<Cluster>,
    /// The nodes.
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// The volumes.
    pub volumes: BTreeMap<GroupId, VolumeRecord>,
    /// Every disk that is or was replaced, by its id.
    pub replacements: BTreeMap<DiskId, Replacement>,
    /// The snapshots of each volume, by number.
    pub snapshots: BTreeMap<(GroupId, SnapshotId), SnapshotRecord>,
}

/// The cluster's own record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cluster {
    /// Its id.
    pub id: ClusterId,
    /// Its name, for people.
    pub name: String,
    /// The members of the meta group, as they are now.
    pub members: Vec<Member>,
    /// How its members are succeeded by others.
    pub succession: Succession,
    /// The number the next volume gets.
    pub next_group: GroupId,
    /// The number the next replica gets.
    pub next_replica: ReplicaId,
    /// The number the next snapshot gets.
    pub next_snapshot: SnapshotId,
}

/// An engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeRecord {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// `host:port` of its control API.
    pub control_address: String,
    /// `host:port` of its peers' listener.
    pub data_address: String,
    /// `host:port` of its NBD listener; empty if off.
    pub nbd_address: String,
    /// Its disks.
    pub disks: Vec<DiskRecord>,
}

/// A disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskRecord {
    /// Its id.
    pub id: DiskId,
    /// Its path on its node.
    pub path: String,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// A replica of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaRecord {
    /// Its number.
    pub id: ReplicaId,
    /// Its node.
    pub node: NodeId,
    /// Its disk.
    pub disk: DiskId,
    /// Its engine has made it. It is never made a second time: it would vote with an empty log.
    pub created: bool,
    /// Its engine has dropped it.
    pub dropped: bool,
}

/// A volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeRecord {
    /// Its number.
    pub group: GroupId,
    /// Its name, unique among the volumes that are neither hidden nor being deleted.
    pub name: String,
    /// Its capacity in bytes; whole blocks.
    pub size_bytes: u64,
    /// Its capacity when it was created, which is what every replica of it is made with.
    pub created_bytes: u64,
    /// What it may be asked for.
    pub limits: VolumeLimits,
    /// Its replicas, as they are now; one that is to take another's place is in `succession` until it has.
    pub replicas: Vec<ReplicaRecord>,
    /// It is being deleted.
    pub deleting: bool,
    /// How its replicas are succeeded by others.
    pub succession: Succession,
    /// Its wrapped data key, if it is encrypted.
    pub encryption: Option<WrappedKey>,
    /// What it was made of, if it is a clone.
    pub origin: Option<Origin>,
    /// Deleted, but for clones that still read from it: its name is free, and it goes when they are whole.
    pub hidden: bool,
}

/// Where a volume is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VolumePhase {
    /// Some replica is not made yet.
    Creating,
    /// All replicas are made.
    Ready,
    /// Some replica is not dropped yet.
    Deleting,
}

impl VolumeRecord {
    /// Where it is in its life.
    pub fn phase(&self) -> VolumePhase {
        if self.deleting {
            VolumePhase::Deleting
        } else if self.replicas.iter().all(|replica| replica.created) {
            VolumePhase::Ready
        } else {
            VolumePhase::Creating
        }
    }

    /// Its replicas as members of the group.
    pub fn members(&self) -> Vec<Member> {
        self.replicas.iter().map(ReplicaRecord::member).collect()
    }

    /// Its replicas as members of the group, and after them those that take another's place.
    pub fn members_and_coming(&self) -> impl Iterator<Item = Member> + '_ {
        let coming = self.succession.swaps.iter().map(|swap| swap.joining);
        self.members().into_iter().chain(coming)
    }

    /// The Raft group as it was created, which is how every replica of it is made.
    pub fn spec(&self) -> GroupSpec {
        GroupSpec {
            base: self.origin.as_ref().map(Origin::base),
            group: self.group,
            size_blocks: self.created_bytes / BLOCK_BYTES,
            members: self.succession.founders(&self.members()),
        }
    }

    /// Whether anything of it that a gateway must know is not as the gateway assumes.
    pub fn was_changed(&self) -> bool {
        self.size_bytes != self.created_bytes || self.limits != VolumeLimits::default()
    }

    /// What gateways and their clients' connections are told of the volume, on any disk's thread; one that has none ignores it.
    pub fn update(&self) -> Command {
        Command::UpdateVolume {
            group: self.group,
            size_bytes: self.size_bytes,
            limits: self.limits,
        }
    }

    /// The Raft group with its present members, which is whom a gateway asks.
    pub fn present_spec(&self) -> GroupSpec {
        GroupSpec {
            members: self.members(),
            ..self.spec()
        }
    }
}

impl ReplicaRecord {
    /// A member that is not made yet.
    pub const fn planned(member: Member) -> Self {
        Self {
            id: member.replica,
            node: member.node,
            disk: member.disk,
            created: false,
            dropped: false,
        }
    }

    /// The replica as a member of its group.
    pub const fn member(&self) -> Member {
        Member {
            replica: self.id,
            node: self.node,
            disk: self.disk,
        }
    }
}

impl Cluster {
    /// The meta group as it was created.
    pub fn meta_spec(&self) -> GroupSpec {
        GroupSpec {
            base: None,
            group: GroupId::META,
            size_blocks: 0,
            members: self.succession.founders(&self.members),
        }
    }
}

impl Catalogue {
    /// The volume of that name; one that is being deleted only if there is no other.
    pub fn volume_by_name(&self, name: &str) -> Option<&VolumeRecord> {
        let mut named = self
            .volumes
            .values()
            .filter(|volume| volume.name == name && !volume.hidden);
        let first = named.next()?;
        Some(if first.deleting {
            named.find(|volume| !volume.deleting).unwrap_or(first)
        } else {
            first
        })
    }

    /// The volumes that people see: all but those that are deleted and stay for clones.
    pub fn visible_volumes(&self) -> impl Iterator<Item = &VolumeRecord> {
        self.volumes.values().filter(|volume| !volume.hidden || volume.deleting)
    }

    /// The node of that name.
    pub fn node_by_name(&self, name: &str) -> Option<&NodeRecord> {
        self.nodes.values().find(|node| node.name == name)
    }

    /// The node's name, or its id where the catalogue does not know it.
    pub fn node_name(&self, node: NodeId) -> String {
        self.nodes
            .get(&node)
            .map_or_else(|| node.to_string(), |record| record.name.clone())
    }

    /// Whether the node is a member of the meta group.
    pub fn is_meta_member(&self, node: NodeId) -> bool {
        self.cluster
            .as_ref()
            .is_some_and(|cluster| cluster.members.iter().any(|member| member.node == node))
    }

    /// Whether the disk is or was replaced: nothing new is put on it.
    pub fn is_given_up(&self, disk: DiskId) -> bool {
        self.replacements.contains_key(&disk)
    }

    /// Whether the disk was replaced: no group has a member on it.
    pub fn is_removed(&self, disk: DiskId) -> bool {
        self.replacements.get(&disk).is_some_and(Replacement::is_done)
    }

    /// The disk's node.
    pub fn node_of(&self, disk: DiskId) -> Option<&NodeRecord> {
        let mut nodes = self.nodes.values();
        nodes.find(|node| node.disks.iter().any(|own| own.id == disk))
    }

    /// How the group's members are succeeded by others: a volume's, or the meta group's.
    pub fn succession(&self, group: GroupId) -> Option<&Succession> {
        if group == GroupId::META {
            self.cluster.as_ref().map(|cluster| &cluster.succession)
        } else {
            self.volumes.get(&group).map(|volume| &volume.succession)
        }
    }

    /// Every group's succession.
    fn successions(&self) -> impl Iterator<Item = (GroupId, &Succession)> {
        let meta = self.cluster.iter().map(|cluster| (GroupId::META, &cluster.succession));
        meta.chain(self.volumes.iter().map(|(group, volume)| (*group, &volume.succession)))
    }

    /// Every replica that is taking another's place, with its group.
    pub fn swaps(&self) -> impl Iterator<Item = (GroupId, &Swap)> {
        let all = self.successions();
        all.flat_map(|(group, succession)| succession.swaps.iter().map(move |swap| (group, swap)))
    }

    /// Every replica that is no member any more and is not known to be dropped, with its group.
    pub fn retired(&self) -> impl Iterator<Item = (GroupId, &Member)> {
        let all = self.successions();
        all.flat_map(|(group, succession)| succession.retired.iter().map(move |member| (group, member)))
    }

    /// What a group is called in a message.
    pub fn group_name(&self, group: GroupId) -> String {
        match self.volumes.get(&group) {
            Some(volume) => format!("volume '{}'", volume.name),
            None if group == GroupId::META => "the meta group".to_owned(),
            None => format!("group {group}"),
        }
    }

    /// The replicas that belong on `disk`, with their volumes.
    pub fn replicas_on(&self, disk: DiskId) -> impl Iterator<Item = (&VolumeRecord, &ReplicaRecord)> {
        self.volumes.values().flat_map(move |volume| {
            volume
                .replicas
                .iter()
                .filter(move |replica| replica.disk == disk)
                .map(move |replica| (volume, replica))
        })
    }
}
