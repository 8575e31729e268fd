//! Between the catalogue's records and the control API's messages. What comes from outside is checked and refused by name.

use cairn_api::control as api;
use cairn_api::ids::{ClusterId, DiskId, GroupId, LogIndex, NodeId, ReplicaId};
use cairn_core::event::{GroupStatus, Member, Role};
use tonic::Status;

use crate::meta::{Catalogue, Cluster, DiskRecord, NodeRecord, ReplicaRecord, VolumePhase, VolumeRecord};

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
            .map(|replica| api::Replica {
                replica_id: replica.id.get(),
                node_id: replica.node.to_string(),
                disk_id: replica.disk.to_string(),
                created: replica.created,
                status: None,
            })
            .collect(),
        leader: String::new(),
        attached_to: String::new(),
        health: health.to_owned(),
    }
}

/// The whole catalogue for another engine.
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
        volumes: catalogue.volumes.values().map(volume).collect(),
    }
}

/// Another engine's catalogue. Counters and the meta members' replica numbers are the meta group's own affair; members are
/// recorded by their node.
pub fn catalogue_from(message: &api::Catalogue) -> Result<Catalogue, Status> {
    let nodes: Vec<NodeRecord> = message.nodes.iter().map(node_record).collect::<Result<_, _>>()?;
    let members = message
        .nodes
        .iter()
        .zip(&nodes)
        .filter(|(spec, _)| spec.meta_member)
        .map(|(_, node)| Member {
            replica: ReplicaId(0),
            node: node.id,
            disk: node.disks.first().map_or(DiskId::NIL, |disk| disk.id),
        })
        .collect();
    let cluster = Cluster {
        id: parse_id::<ClusterId>("cluster_id", &message.cluster_id)?,
        name: message.cluster_name.clone(),
        members,
        next_group: GroupId::FIRST_VOLUME,
        next_replica: ReplicaId(1),
    };
    let volumes: Vec<VolumeRecord> = message.volumes.iter().map(volume_record).collect::<Result<_, _>>()?;
    Ok(Catalogue {
        applied: LogIndex(message.revision),
        cluster: Some(cluster),
        nodes: nodes.into_iter().map(|node| (node.id, node)).collect(),
        volumes: volumes.into_iter().map(|volume| (volume.group, volume)).collect(),
    })
}

fn volume_record(message: &api::Volume) -> Result<VolumeRecord, Status> {
    Ok(VolumeRecord {
        group: GroupId(message.volume_id),
        name: message.name.clone(),
        size_bytes: message.size_bytes,
        deleting: message.state == i32::from(api::VolumeState::Deleting),
        replicas: message
            .replicas
            .iter()
            .map(|replica| {
                Ok(ReplicaRecord {
                    id: ReplicaId(replica.replica_id),
                    node: parse_id::<NodeId>("node_id", &replica.node_id)?,
                    disk: parse_id::<DiskId>("disk_id", &replica.disk_id)?,
                    created: replica.created,
                    dropped: false,
                })
            })
            .collect::<Result<_, Status>>()?,
    })
}

/// A local replica's state.
pub fn replica_status(status: &GroupStatus) -> api::ReplicaStatus {
    let role = match status.role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
    };
    api::ReplicaStatus {
        role: role.to_owned(),
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
        allocated_bytes: status.allocated_blocks.saturating_mul(cairn_api::units::BLOCK_BYTES),
        leader_replica_id: status.leader.map_or(0, ReplicaId::get),
    }
}
