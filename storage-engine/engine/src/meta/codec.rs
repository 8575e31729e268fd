//! The catalogue's bytes: between the records of [`super::catalogue`] and the messages of `proto/meta.proto`.
//!
//! Decoding checks what types alone do not say (ids of 16 bytes, a kind that is set); whether a command makes sense is for
//! [`super::decide`] to say.

use cairn_api::ids::{ClusterId, DiskId, GroupId, LogIndex, NodeId, ReplicaId, SnapshotId};
use cairn_api::limits::VolumeLimits;
use cairn_core::event::Member;
use prost::Message;

use super::catalogue::{Catalogue, Cluster, DiskRecord, NodeRecord, ReplicaRecord, VolumeRecord};
use super::clone::{Origin, Source};
use super::decide::{Command, LimitChange};
use super::encryption::{PlannedEncryption, ServiceKind, WrappedKey};
use super::succession::{Replacement, Step, Succession, Swap};
use super::{snapshot_codec, wire};

/// The longest encoded command in bytes, as the log takes it.
pub const COMMAND_BYTES_MAX: usize = 1 << 20;

/// Why bytes are not what they should be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CodecError {
    /// Not the message.
    #[error("{what} does not decode: {source}")]
    Malformed {
        /// Which message.
        what: &'static str,
        /// Why not.
        source: prost::DecodeError,
    },
    /// A field is missing or has the wrong length.
    #[error("field {0} is missing or has the wrong length")]
    Field(&'static str),
    /// The command's kind is none that this version knows.
    #[error("the command's kind is unknown to this version of the engine: upgrade it")]
    UnknownKind,
}

fn id_bytes(field: &'static str, bytes: &[u8]) -> Result<[u8; 16], CodecError> {
    bytes.try_into().map_err(|_| CodecError::Field(field))
}

fn node_id(bytes: &[u8]) -> Result<NodeId, CodecError> {
    id_bytes("node", bytes).map(NodeId::from_bytes)
}

fn disk_id(bytes: &[u8]) -> Result<DiskId, CodecError> {
    id_bytes("disk", bytes).map(DiskId::from_bytes)
}

fn cluster_id(bytes: &[u8]) -> Result<ClusterId, CodecError> {
    id_bytes("cluster", bytes).map(ClusterId::from_bytes)
}

fn collect<T, U>(items: Vec<T>, convert: impl Fn(T) -> Result<U, CodecError>) -> Result<Vec<U>, CodecError> {
    items.into_iter().map(convert).collect()
}

/// Encodes a command for the log.
pub fn encode_command(request: u64, command: &Command) -> Vec<u8> {
    let kind = Some(command_to_wire(command.clone()));
    wire::Command { request, kind }.encode_to_vec()
}

fn command_to_wire(command: Command) -> wire::command::Kind {
    use wire::command::Kind;
    match command {
        Command::FoundCluster {
            id,
            name,
            nodes,
            members,
        } => Kind::FoundCluster(wire::FoundCluster {
            cluster: id.to_bytes().to_vec(),
            name,
            nodes: nodes.into_iter().map(node_to_wire).collect(),
            members: members_to_wire(&members),
        }),
        Command::RegisterNode(node) => Kind::RegisterNode(wire::RegisterNode {
            node: Some(node_to_wire(node)),
        }),
        Command::CreateVolume {
            name,
            size_bytes,
            places,
            limits,
            encryption,
            source,
        } => Kind::CreateVolume(wire::CreateVolume {
            source: source.as_ref().map(source_to_wire),
            limits: limits_to_wire(limits),
            name,
            size_bytes,
            places: places.into_iter().map(place_to_wire).collect(),
            encryption: encryption.map(planned_to_wire),
        }),
        Command::ReportWhole { group, replica } => Kind::ReportWhole(whole_to_wire(group, replica)),
        Command::RewrapVolume { group, replaces, key } => Kind::RewrapVolume(wire::RewrapVolume {
            group: group.get(),
            replaces,
            key: Some(key_to_wire(key)),
        }),
        Command::ReportReplica {
            group,
            replica,
            dropped,
        } => Kind::ReportReplica(report_to_wire(group, replica, dropped)),
        Command::LimitVolume { group, change } => Kind::LimitVolume(limit_to_wire(group, change)),
        Command::ResizeVolume { group, size_bytes } => Kind::ResizeVolume(wire::ResizeVolume {
            group: group.get(),
            size_bytes,
        }),
        Command::DeleteVolume { group, snapshots } => Kind::DeleteVolume(wire::DeleteVolume {
            group: group.get(),
            snapshots,
        }),
        Command::Snapshot(command) => snapshot_codec::command_to_wire(command),
        Command::ReplaceDisk { old, new } => Kind::ReplaceDisk(replace_to_wire(old, new)),
        Command::AdvanceSwap {
            group,
            joining,
            step,
            revision,
        } => Kind::AdvanceSwap(wire::AdvanceSwap {
            group: group.get(),
            replica: joining.get(),
            step: step.code(),
            revision: revision.get(),
        }),
    }
}

/// Decodes a command of the log, with the name of its proposal.
pub fn decode_command(data: &[u8]) -> Result<(u64, Command), CodecError> {
    use wire::command::Kind;
    let message = wire::Command::decode(data).map_err(|source| CodecError::Malformed {
        what: "a command",
        source,
    })?;
    let command = match message.kind.ok_or(CodecError::UnknownKind)? {
        Kind::FoundCluster(found) => Command::FoundCluster {
            id: cluster_id(&found.cluster)?,
            name: found.name,
            nodes: collect(found.nodes, node_from_wire)?,
            members: found.members.iter().map(member_from_wire).collect::<Result<_, _>>()?,
        },
        Kind::RegisterNode(register) => {
            Command::RegisterNode(node_from_wire(register.node.ok_or(CodecError::Field("node"))?)?)
        }
        Kind::CreateVolume(create) => create_from_wire(create)?,
        Kind::ReportWhole(report) => Command::ReportWhole {
            group: GroupId(report.group),
            replica: ReplicaId(report.replica),
        },
        Kind::RewrapVolume(rewrap) => Command::RewrapVolume {
            group: GroupId(rewrap.group),
            replaces: rewrap.replaces,
            key: key_from_wire(rewrap.key.ok_or(CodecError::Field("key"))?)?,
        },
        Kind::ReportReplica(report) => Command::ReportReplica {
            group: GroupId(report.group),
            replica: ReplicaId(report.replica),
            dropped: report.dropped,
        },
        Kind::LimitVolume(limit) => Command::LimitVolume {
            group: GroupId(limit.group),
            change: LimitChange {
                iops: limit.iops.map(some_if_any),
                bytes_per_s: limit.bytes_per_s.map(some_if_any),
                burst_ms: limit.burst_ms,
            },
        },
        Kind::ResizeVolume(resize) => Command::ResizeVolume {
            group: GroupId(resize.group),
            size_bytes: resize.size_bytes,
        },
        Kind::DeleteVolume(delete) => Command::DeleteVolume {
            group: GroupId(delete.group),
            snapshots: delete.snapshots,
        },
        Kind::CreateSnapshot(create) => Command::Snapshot(create.into()),
        Kind::ReportSnapshot(report) => Command::Snapshot(report.into()),
        Kind::DeleteSnapshot(delete) => Command::Snapshot(delete.into()),
        Kind::CreateTogether(create) => Command::Snapshot(create.into()),
        Kind::CompleteTogether(complete) => Command::Snapshot(complete.into()),
        Kind::AbortTogether(abort) => Command::Snapshot(abort.into()),
        Kind::ReplaceDisk(replace) => Command::ReplaceDisk {
            old: disk_id(&replace.old)?,
            new: disk_id(&replace.new)?,
        },
        Kind::AdvanceSwap(advance) => Command::AdvanceSwap {
            group: GroupId(advance.group),
            joining: ReplicaId(advance.replica),
            step: step(advance.step)?,
            revision: LogIndex(advance.revision),
        },
    };
    Ok((message.request, command))
}

/// Limits are never 0, so that 0 stands for none.
fn some_if_any(value: u64) -> Option<u64> {
    (value > 0).then_some(value)
}

fn limits_to_wire(limits: VolumeLimits) -> Option<wire::Limits> {
    (limits != VolumeLimits::default()).then(|| wire::Limits {
        iops: limits.iops.unwrap_or_default(),
        bytes_per_s: limits.bytes_per_s.unwrap_or_default(),
        burst_ms: limits.burst_ms,
    })
}

fn limits_from_wire(limits: Option<wire::Limits>) -> VolumeLimits {
    limits.map_or_else(VolumeLimits::default, |limits| VolumeLimits {
        iops: some_if_any(limits.iops),
        bytes_per_s: some_if_any(limits.bytes_per_s),
        burst_ms: limits.burst_ms,
    })
}

fn member_to_wire(member: &Member) -> wire::MetaMember {
    wire::MetaMember {
        replica: member.replica.get(),
        node: member.node.to_bytes().to_vec(),
        disk: member.disk.to_bytes().to_vec(),
    }
}

fn member_from_wire(member: &wire::MetaMember) -> Result<Member, CodecError> {
    Ok(Member {
        replica: ReplicaId(member.replica),
        node: node_id(&member.node)?,
        disk: disk_id(&member.disk)?,
    })
}

fn step(code: u32) -> Result<Step, CodecError> {
    Step::from_code(code).ok_or(CodecError::Field("step"))
}

fn members_to_wire(members: &[Member]) -> Vec<wire::MetaMember> {
    members.iter().map(member_to_wire).collect()
}

fn members_from_wire(members: &[wire::MetaMember]) -> Result<Vec<Member>, CodecError> {
    members.iter().map(member_from_wire).collect()
}

fn key_to_wire(key: WrappedKey) -> wire::WrappedKey {
    wire::WrappedKey {
        service: key.service.code(),
        key_name: key.key_name,
        version: key.version,
        bytes: key.bytes,
    }
}

fn place_to_wire((node, disk): (NodeId, DiskId)) -> wire::Place {
    wire::Place {
        node: node.to_bytes().to_vec(),
        disk: disk.to_bytes().to_vec(),
    }
}

fn replace_to_wire(old: DiskId, new: DiskId) -> wire::ReplaceDisk {
    wire::ReplaceDisk {
        old: old.to_bytes().to_vec(),
        new: new.to_bytes().to_vec(),
    }
}

fn limit_to_wire(group: GroupId, change: LimitChange) -> wire::LimitVolume {
    wire::LimitVolume {
        group: group.get(),
        iops: change.iops.map(Option::unwrap_or_default),
        bytes_per_s: change.bytes_per_s.map(Option::unwrap_or_default),
        burst_ms: change.burst_ms,
    }
}

fn whole_to_wire(group: GroupId, replica: ReplicaId) -> wire::ReportWhole {
    wire::ReportWhole {
        group: group.get(),
        replica: replica.get(),
    }
}

fn report_to_wire(group: GroupId, replica: ReplicaId, dropped: bool) -> wire::ReportReplica {
    wire::ReportReplica {
        group: group.get(),
        replica: replica.get(),
        dropped,
    }
}

fn create_from_wire(create: wire::CreateVolume) -> Result<Command, CodecError> {
    Ok(Command::CreateVolume {
        name: create.name,
        size_bytes: create.size_bytes,
        limits: limits_from_wire(create.limits),
        places: collect(create.places, |place| {
            Ok((node_id(&place.node)?, disk_id(&place.disk)?))
        })?,
        encryption: create.encryption.map(planned_from_wire).transpose()?,
        source: create.source.map(|source| source_from_wire(&source)),
    })
}

fn source_to_wire(source: &Source) -> wire::Source {
    wire::Source {
        group: source.group.get(),
        snapshot: source.snapshot.unwrap_or_default().get(),
        created_unix_s: source.created_unix_s,
    }
}

fn source_from_wire(source: &wire::Source) -> Source {
    Source {
        group: GroupId(source.group),
        snapshot: some_if_any(source.snapshot).map(SnapshotId),
        created_unix_s: source.created_unix_s,
    }
}

fn origin_to_wire(origin: Origin) -> wire::Origin {
    wire::Origin {
        group: origin.group.get(),
        snapshot: origin.snapshot.get(),
        size_bytes: origin.size_bytes,
        name: origin.name,
        whole: origin.whole.into_iter().map(ReplicaId::get).collect(),
        released: origin.is_released,
    }
}

fn origin_from_wire(origin: wire::Origin) -> Origin {
    Origin {
        group: GroupId(origin.group),
        snapshot: SnapshotId(origin.snapshot),
        size_bytes: origin.size_bytes,
        name: origin.name,
        whole: origin.whole.into_iter().map(ReplicaId).collect(),
        is_released: origin.released,
    }
}

fn planned_to_wire(planned: PlannedEncryption) -> wire::PlannedEncryption {
    wire::PlannedEncryption {
        volume: planned.volume.get(),
        key: Some(key_to_wire(planned.key)),
    }
}

fn key_from_wire(key: wire::WrappedKey) -> Result<WrappedKey, CodecError> {
    Ok(WrappedKey {
        service: ServiceKind::from_code(key.service).ok_or(CodecError::Field("service"))?,
        key_name: key.key_name,
        version: key.version,
        bytes: key.bytes,
    })
}

fn planned_from_wire(planned: wire::PlannedEncryption) -> Result<PlannedEncryption, CodecError> {
    Ok(PlannedEncryption {
        volume: GroupId(planned.volume),
        key: key_from_wire(planned.key.ok_or(CodecError::Field("key"))?)?,
    })
}

fn succession_to_wire(succession: &Succession) -> Option<wire::Succession> {
    // Nothing at all for a group whose members never changed, which is most of them.
    (*succession != Succession::default()).then(|| wire::Succession {
        founders: members_to_wire(&succession.founders),
        swaps: succession.swaps.iter().map(swap_to_wire).collect(),
        retired: members_to_wire(&succession.retired),
        revision: succession.revision.get(),
    })
}

fn succession_from_wire(succession: Option<wire::Succession>) -> Result<Succession, CodecError> {
    let succession = succession.unwrap_or_default();
    Ok(Succession {
        founders: members_from_wire(&succession.founders)?,
        swaps: collect(succession.swaps, |swap| swap_from_wire(&swap))?,
        retired: members_from_wire(&succession.retired)?,
        revision: LogIndex(succession.revision),
    })
}

fn swap_to_wire(swap: &Swap) -> wire::Swap {
    wire::Swap {
        leaving: members_to_wire(&swap.leaving),
        joining: Some(member_to_wire(&swap.joining)),
        step: swap.step.code(),
    }
}

fn swap_from_wire(swap: &wire::Swap) -> Result<Swap, CodecError> {
    Ok(Swap {
        leaving: members_from_wire(&swap.leaving)?,
        joining: member_from_wire(swap.joining.as_ref().ok_or(CodecError::Field("joining"))?)?,
        step: step(swap.step)?,
    })
}

fn replacement_to_wire(replacement: &Replacement) -> wire::Replacement {
    wire::Replacement {
        old: replacement.old.to_bytes().to_vec(),
        old_node: replacement.old_node.to_bytes().to_vec(),
        new: replacement.new.to_bytes().to_vec(),
        new_node: replacement.new_node.to_bytes().to_vec(),
        groups: replacement.groups,
        left: replacement.left,
    }
}

fn replacement_from_wire(replacement: &wire::Replacement) -> Result<Replacement, CodecError> {
    Ok(Replacement {
        old: disk_id(&replacement.old)?,
        old_node: node_id(&replacement.old_node)?,
        new: disk_id(&replacement.new)?,
        new_node: node_id(&replacement.new_node)?,
        groups: replacement.groups,
        left: replacement.left,
    })
}

/// Encodes a disk's replacement.
pub fn encode_replacement(replacement: &Replacement) -> Vec<u8> {
    replacement_to_wire(replacement).encode_to_vec()
}

/// Decodes a disk's replacement.
pub fn decode_replacement(bytes: &[u8]) -> Result<Replacement, CodecError> {
    let message = wire::Replacement::decode(bytes).map_err(|source| CodecError::Malformed {
        what: "a disk's replacement",
        source,
    })?;
    replacement_from_wire(&message)
}

fn node_to_wire(node: NodeRecord) -> wire::Node {
    wire::Node {
        node: node.id.to_bytes().to_vec(),
        name: node.name,
        control_address: node.control_address,
        data_address: node.data_address,
        nbd_address: node.nbd_address,
        disks: node
            .disks
            .into_iter()
            .map(|disk| wire::Disk {
                disk: disk.id.to_bytes().to_vec(),
                path: disk.path,
                size_bytes: disk.size_bytes,
            })
            .collect(),
    }
}

fn node_from_wire(node: wire::Node) -> Result<NodeRecord, CodecError> {
    Ok(NodeRecord {
        id: node_id(&node.node)?,
        name: node.name,
        control_address: node.control_address,
        data_address: node.data_address,
        nbd_address: node.nbd_address,
        disks: collect(node.disks, |disk| {
            Ok(DiskRecord {
                id: disk_id(&disk.disk)?,
                path: disk.path,
                size_bytes: disk.size_bytes,
            })
        })?,
    })
}

fn volume_to_wire(volume: VolumeRecord) -> wire::Volume {
    wire::Volume {
        limits: limits_to_wire(volume.limits),
        succession: succession_to_wire(&volume.succession),
        group: volume.group.get(),
        name: volume.name,
        size_bytes: volume.size_bytes,
        replicas: volume
            .replicas
            .into_iter()
            .map(|replica| wire::Replica {
                replica: replica.id.get(),
                node: replica.node.to_bytes().to_vec(),
                disk: replica.disk.to_bytes().to_vec(),
                created: replica.created,
                dropped: replica.dropped,
            })
            .collect(),
        deleting: volume.deleting,
        created_bytes: if volume.created_bytes == volume.size_bytes {
            0
        } else {
            volume.created_bytes
        },
        encryption: volume.encryption.map(key_to_wire),
        origin: volume.origin.map(origin_to_wire),
        hidden: volume.hidden,
    }
}

fn volume_from_wire(volume: wire::Volume) -> Result<VolumeRecord, CodecError> {
    Ok(VolumeRecord {
        limits: limits_from_wire(volume.limits),
        succession: succession_from_wire(volume.succession)?,
        group: GroupId(volume.group),
        name: volume.name,
        size_bytes: volume.size_bytes,
        created_bytes: match volume.created_bytes {
            0 => volume.size_bytes,
            created_bytes => created_bytes,
        },
        replicas: collect(volume.replicas, |replica| {
            Ok(ReplicaRecord {
                id: ReplicaId(replica.replica),
                node: node_id(&replica.node)?,
                disk: disk_id(&replica.disk)?,
                created: replica.created,
                dropped: replica.dropped,
            })
        })?,
        deleting: volume.deleting,
        encryption: volume.encryption.map(key_from_wire).transpose()?,
        origin: volume.origin.map(origin_from_wire),
        hidden: volume.hidden,
    })
}

fn cluster_to_wire(cluster: &Cluster) -> wire::Cluster {
    wire::Cluster {
        cluster: cluster.id.to_bytes().to_vec(),
        name: cluster.name.clone(),
        members: cluster.members.iter().map(member_to_wire).collect(),
        next_group: cluster.next_group.get(),
        next_replica: cluster.next_replica.get(),
        next_snapshot: cluster.next_snapshot.get(),
        succession: succession_to_wire(&cluster.succession),
    }
}

fn cluster_from_wire(cluster: wire::Cluster) -> Result<Cluster, CodecError> {
    Ok(Cluster {
        id: cluster_id(&cluster.cluster)?,
        name: cluster.name,
        members: cluster.members.iter().map(member_from_wire).collect::<Result<_, _>>()?,
        next_group: GroupId(cluster.next_group),
        next_replica: ReplicaId(cluster.next_replica),
        next_snapshot: SnapshotId(cluster.next_snapshot),
        succession: succession_from_wire(cluster.succession)?,
    })
}

/// Encodes the cluster's record.
pub fn encode_cluster(cluster: &Cluster) -> Vec<u8> {
    cluster_to_wire(cluster).encode_to_vec()
}

/// Decodes the cluster's record.
pub fn decode_cluster(bytes: &[u8]) -> Result<Cluster, CodecError> {
    let message = wire::Cluster::decode(bytes).map_err(|source| CodecError::Malformed {
        what: "the cluster's record",
        source,
    })?;
    cluster_from_wire(message)
}

/// Encodes a node's record.
pub fn encode_node(node: &NodeRecord) -> Vec<u8> {
    node_to_wire(node.clone()).encode_to_vec()
}

/// Decodes a node's record.
pub fn decode_node(bytes: &[u8]) -> Result<NodeRecord, CodecError> {
    let message = wire::Node::decode(bytes).map_err(|source| CodecError::Malformed {
        what: "a node's record",
        source,
    })?;
    node_from_wire(message)
}

/// Encodes a volume's record.
pub fn encode_volume(volume: &VolumeRecord) -> Vec<u8> {
    volume_to_wire(volume.clone()).encode_to_vec()
}

/// Decodes a volume's record.
pub fn decode_volume(bytes: &[u8]) -> Result<VolumeRecord, CodecError> {
    let message = wire::Volume::decode(bytes).map_err(|source| CodecError::Malformed {
        what: "a volume's record",
        source,
    })?;
    volume_from_wire(message)
}

/// Encodes a whole catalogue.
pub fn encode_catalogue(catalogue: &Catalogue) -> Vec<u8> {
    wire::Snapshot {
        cluster: catalogue.cluster.as_ref().map(cluster_to_wire),
        nodes: catalogue.nodes.values().cloned().map(node_to_wire).collect(),
        volumes: catalogue.volumes.values().cloned().map(volume_to_wire).collect(),
        applied: catalogue.applied.get(),
        replacements: catalogue.replacements.values().map(replacement_to_wire).collect(),
        snapshots: catalogue.snapshots.values().map(snapshot_codec::to_wire).collect(),
    }
    .encode_to_vec()
}

/// Decodes a whole catalogue.
pub fn decode_catalogue(bytes: &[u8]) -> Result<Catalogue, CodecError> {
    let message = wire::Snapshot::decode(bytes).map_err(|source| CodecError::Malformed {
        what: "a catalogue",
        source,
    })?;
    Ok(Catalogue {
        applied: LogIndex(message.applied),
        cluster: message.cluster.map(cluster_from_wire).transpose()?,
        nodes: collect(message.nodes, node_from_wire)?
            .into_iter()
            .map(|node| (node.id, node))
            .collect(),
        volumes: collect(message.volumes, volume_from_wire)?
            .into_iter()
            .map(|volume| (volume.group, volume))
            .collect(),
        replacements: collect(message.replacements, |replacement| replacement_from_wire(&replacement))?
            .into_iter()
            .map(|replacement| (replacement.old, replacement))
            .collect(),
        snapshots: collect(message.snapshots, snapshot_codec::from_wire)?
            .into_iter()
            .map(|snapshot| ((snapshot.group, snapshot.id), snapshot))
            .collect(),
    })
}
