//! Nodes, volumes and clusters to put into fakes.

use cairn_api::control::*;

use crate::fake::{Fake, State};

/// A node as it tells of itself before it has a cluster.
pub(crate) fn node(name: &str) -> NodeInfo {
    let disk = Disk {
        disk_id: format!("disk-{name}"),
        node_id: format!("node-{name}"),
        path: format!("/disks/{name}.img"),
        size_bytes: 2 << 30,
        free_bytes: 3 << 29,
        used_bytes: 1 << 28,
        capacity_bytes: 1 << 30,
        state: "ok".to_owned(),
        replicas: 1,
    };
    NodeInfo {
        node_id: format!("node-{name}"),
        name: name.to_owned(),
        state: NodeState::Uninitialised.into(),
        version: "0.1.0".to_owned(),
        control_address: format!("10.0.0.{name}:7400"),
        data_address: format!("10.0.0.{name}:7401"),
        nbd_address: format!("10.0.0.{name}:10809"),
        nbd_socket: format!("/run/{name}/nbd.sock"),
        disks: vec![disk],
        ..NodeInfo::default()
    }
}

/// The catalogue's entry of [`node`].
pub(crate) fn spec(name: &str) -> NodeSpec {
    let node = node(name);
    NodeSpec {
        node_id: node.node_id,
        name: node.name,
        control_address: node.control_address,
        data_address: node.data_address,
        nbd_address: node.nbd_address,
        disks: node.disks,
        meta_member: true,
    }
}

/// A node in a cluster.
pub(crate) fn status(spec: NodeSpec, reachable: bool) -> NodeStatus {
    let mut info = node(&spec.name);
    info.set_state(NodeState::Ready);
    NodeStatus {
        spec: Some(spec),
        reachable,
        problem: if reachable {
            String::new()
        } else {
            "connection refused".to_owned()
        },
        info: reachable.then_some(info),
    }
}

/// A ready volume with its first replica leading and its last one behind.
pub(crate) fn volume(name: &str, size_bytes: u64, replicas: u32) -> Volume {
    let replica = |(number, node): (u32, &str)| Replica {
        replica_id: u64::from(10 + number),
        node_id: format!("node-{node}"),
        disk_id: format!("disk-{node}"),
        created: true,
        status: Some(ReplicaStatus {
            role: if number == 1 { "leader" } else { "follower" }.to_owned(),
            term: 3,
            committed: 100,
            applied: if number == replicas { 90 } else { 100 },
            last: 100,
            epoch: 2,
            holder: String::new(),
            allocated_bytes: 12 << 20,
            leader_replica_id: 11,
            members_revision: 0,
            shared_bytes: 4 << 20,
            snapshot_bytes: 1 << 20,
            snapshots: 2,
            size_bytes,
            ..ReplicaStatus::default()
        }),
    };
    let mut volume = Volume {
        name: name.to_owned(),
        volume_id: 7,
        size_bytes,
        served_bytes: size_bytes,
        replicas: (1..=replicas).zip(["1", "2", "3", "4", "5"]).map(replica).collect(),
        leader: "1".to_owned(),
        health: "healthy".to_owned(),
        ..Volume::default()
    };
    volume.set_state(VolumeState::Ready);
    volume
}

/// A fake that belongs to a cluster of three, of which the third does not answer.
pub(crate) fn member() -> Fake {
    let cluster = ClusterStatus {
        cluster_id: "11111111-2222-3333-4444-555555555555".to_owned(),
        cluster_name: "lab".to_owned(),
        meta_leader: "1".to_owned(),
        nodes: vec![
            status(spec("1"), true),
            status(spec("2"), true),
            status(spec("3"), false),
        ],
        volumes: Vec::new(),
        replacements: Vec::new(),
    };
    Fake::start(State {
        node: node("1"),
        cluster,
        ..State::default()
    })
}

/// A fake that waits for a cluster.
pub(crate) fn fresh(name: &str) -> Fake {
    Fake::start(State {
        node: node(name),
        ..State::default()
    })
}
