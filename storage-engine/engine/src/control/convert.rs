//! Between the catalogue's records and the control API's messages. What comes from outside is checked and refused by name.

use cairn_api::control as api;
use cairn_api::ids::ReplicaId;
use cairn_api::limits::{BURST_MS_DEFAULT, VolumeLimits};
use cairn_core::event::{GroupStatus, Member, Role};
use cairn_core::map::SnapshotSpace;
use tonic::Status;

use crate::meta::{Catalogue, DiskRecord, NodeRecord, Replacement, Step, VolumePhase, VolumeRecord, WrappedKey, codec};

/// An id in its text form, refused by the name of its field.
pub fn parse_id<T: std::str::FromStr>(field: &str, text: &str) -> Result<T, Status> {
    text.parse()
        .map_err(|_| Status::invalid_argument(format!("{field} is '{text}': write a UUID")))
}

/// A node's record as the API shows it.
pub fn node_spec(node: &NodeRecord, meta_member: bool) -> api::NodeSpec {
    api::NodeSpec {
        node_id: node.id.to_string(),
        name: node.name.clone(),
        control_address: node.control_address.clone(),
        data_address: node.data_address.clone(),
        nbd_address: node.nbd_address.clone(),
        disks: node
            .disks
            .iter()
            .map(|disk| api::Disk {
                disk_id: disk.id.to_string(),
                node_id: node.id.to_string(),
                path: disk.path.clone(),
                size_bytes: disk.size_bytes,
                ..api::Disk::default()
            })
            .collect(),
        meta_member,
    }
}

/// A node's record from the API.
pub fn node_record(spec: &api::NodeSpec) -> Result<NodeRecord, Status> {
    for (field, address) in [
        ("control_address", &spec.control_address),
        ("data_address", &spec.data_address),
    ] {
        if address.parse::<std::net::SocketAddr>().is_err() {
            return Err(Status::invalid_argument(format!(
                "{field} of node '{}' is '{address}': write an IP address and a port",
                spec.name
            )));
        }
    }
    Ok(NodeRecord {
        id: parse_id("node_id", &spec.node_id)?,
        name: spec.name.clone(),
        control_address: spec.control_address.clone(),
        data_address: spec.data_address.clone(),
        nbd_address: spec.nbd_address.clone(),
        disks: spec
            .disks
            .iter()
            // A disk that could not be opened has no id that anybody could read.
            .filter(|disk| !disk.disk_id.is_empty())
            .map(|disk| {
                Ok(DiskRecord {
                    id: parse_id("disk_id", &disk.disk_id)?,
                    path: disk.path.clone(),
                    size_bytes: disk.size_bytes,
                })
            })
            .collect::<Result<_, Status>>()?,
    })
}

/// Limits from the API: those that are absent are the default, and 0 is none.
pub fn limits(message: Option<&api::VolumeLimits>) -> VolumeLimits {
    let some = |value: u64| (value > 0).then_some(value);
    message.map_or_else(VolumeLimits::default, |limits| VolumeLimits {
        iops: some(limits.iops),
        bytes_per_s: some(limits.bytes_per_s),
        burst_ms: limits.burst_ms.unwrap_or(BURST_MS_DEFAULT),
    })
}

fn limits_message(limits: &VolumeLimits) -> api::VolumeLimits {
    api::VolumeLimits {
        iops: limits.iops.unwrap_or_default(),
        bytes_per_s: limits.bytes_per_s.unwrap_or_default(),
        burst_ms: Some(limits.burst_ms),
    }
}

/// A volume as the catalogue has it; the live fields are left empty.
pub fn volume(volume: &VolumeRecord) -> api::Volume {
    let (state, health) = match volume.phase() {
        VolumePhase::Creating => (api::VolumeState::Creating, "creating"),
        VolumePhase::Ready => (api::VolumeState::Ready, "unavailable"),
        VolumePhase::Deleting => (api::VolumeState::Deleting, "deleting"),
    };
    api::Volume {
        name: volume.name.clone(),
        volume_id: volume.group.get(),
        size_bytes: volume.size_bytes,
        state: state.into(),
        replicas: volume
            .replicas
            .iter()
            .map(|record| replica(record.member(), record.created))
            .collect(),
        joining: volume
            .succession
            .swaps
            .iter()
            .map(|swap| replica(swap.joining, swap.step > Step::Make))
            .collect(),
        leader: String::new(),
        attached_to: String::new(),
        health: health.to_owned(),
        served_bytes: 0,
        revision: 0,
        limits: Some(limits_message(&volume.limits)),
        encryption: volume.encryption.as_ref().map(encryption),
        origin: volume.origin.as_ref().map(|origin| api::VolumeOrigin {
            name: origin.name.clone(),
            whole: origin.is_whole(),
            size_bytes: origin.size_bytes,
            filled_bytes: if origin.is_whole() { origin.size_bytes } else { 0 },
        }),
    }
}

fn replica(member: Member, created: bool) -> api::Replica {
    api::Replica {
        replica_id: member.replica.get(),
        node_id: member.node.to_string(),
        disk_id: member.disk.to_string(),
        created,
        status: None,
    }
}

/// How a volume is encrypted; nothing of its key.
pub fn encryption(key: &WrappedKey) -> api::VolumeEncryption {
    api::VolumeEncryption {
        cipher: "aes-256-xts".to_owned(),
        service: key.service.name().to_owned(),
        key_name: key.key_name.clone(),
        key_version: key.version,
        erased: key.is_erased(),
    }
}

/// The whole catalogue for people.
pub fn catalogue(catalogue: &Catalogue) -> api::Catalogue {
    api::Catalogue {
        cluster_id: catalogue
            .cluster
            .as_ref()
            .map(|cluster| cluster.id.to_string())
            .unwrap_or_default(),
        cluster_name: catalogue
            .cluster
            .as_ref()
            .map(|cluster| cluster.name.clone())
            .unwrap_or_default(),
        revision: catalogue.applied.get(),
        nodes: catalogue
            .nodes
            .values()
            .map(|node| node_spec(node, catalogue.is_meta_member(node.id)))
            .collect(),
        volumes: catalogue.visible_volumes().map(volume).collect(),
        record: Vec::new(),
    }
}

/// The whole catalogue for another engine, which needs all of it.
pub fn catalogue_record(catalogue: &Catalogue) -> api::Catalogue {
    api::Catalogue {
        revision: catalogue.applied.get(),
        record: codec::encode_catalogue(catalogue),
        ..api::Catalogue::default()
    }
}

/// Another engine's catalogue.
pub fn catalogue_from(message: &api::Catalogue) -> Result<Catalogue, Status> {
    let catalogue = codec::decode_catalogue(&message.record)
        .map_err(|error| Status::internal(format!("the catalogue that was sent cannot be read: {error}")))?;
    if catalogue.cluster.is_none() {
        return Err(Status::internal("the catalogue that was sent is of no cluster"));
    }
    Ok(catalogue)
}

/// A disk's replacement, without what is under way in detail.
pub fn replacement(catalogue: &Catalogue, replacement: &Replacement) -> api::Replacement {
    api::Replacement {
        old_disk_id: replacement.old.to_string(),
        new_disk_id: replacement.new.to_string(),
        old_node: catalogue.node_name(replacement.old_node),
        new_node: catalogue.node_name(replacement.new_node),
        done: replacement.is_done(),
        groups: replacement.groups,
        groups_done: replacement.groups.saturating_sub(replacement.left),
        items: Vec::new(),
    }
}

/// What a replica is in its group, on its own word.
fn role(status: &GroupStatus) -> &'static str {
    let members = &status.membership;
    if members.is_voter(status.replica) {
        return match status.role {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
        };
    }
    if members.member(status.replica).is_some() {
        "learner"
    } else if members.was_removed(status.replica) {
        "removed"
    } else {
        "joining"
    }
}

/// What a snapshot takes.
pub fn snapshot_space(space: &SnapshotSpace) -> api::SnapshotSpace {
    let bytes = |blocks: u64| blocks.saturating_mul(cairn_api::units::BLOCK_BYTES);
    api::SnapshotSpace {
        snapshot_id: space.id.get(),
        kept_bytes: bytes(space.kept),
        exclusive_bytes: bytes(space.exclusive),
    }
}

/// A local replica's state.
pub fn replica_status(status: &GroupStatus) -> api::ReplicaStatus {
    let bytes = |blocks: u64| blocks.saturating_mul(cairn_api::units::BLOCK_BYTES);
    api::ReplicaStatus {
        role: role(status).to_owned(),
        term: status.term.get(),
        committed: status.committed.get(),
        applied: status.applied.get(),
        last: status.last.get(),
        epoch: status.epoch.get(),
        holder: if status.holder.is_nil() {
            String::new()
        } else {
            status.holder.to_string()
        },
        allocated_bytes: bytes(status.space.allocated),
        shared_bytes: bytes(status.space.shared),
        snapshot_bytes: bytes(status.space.snapshots + status.space.merging),
        snapshots: status.snapshots as u64,
        snapshot_space: Vec::new(),
        has_base: status.base.is_some(),
        filled_bytes: bytes(status.filled_blocks),
        leader_replica_id: status.leader.map_or(0, ReplicaId::get),
        members_revision: status.settled.get(),
        size_bytes: status.size_blocks.saturating_mul(cairn_api::units::BLOCK_BYTES),
        catch_up: status.catch_up.map(|catch_up| api::CatchUp {
            bytes: catch_up.bytes,
            estimated_blocks: catch_up.blocks,
            staged_blocks: catch_up.staged_blocks,
        }),
    }
}
