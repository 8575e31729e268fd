//! What this engine says of itself.

use std::sync::atomic::Ordering;

use cairn_api::control as api;

use super::survey;
use crate::disks::{DiskState, DiskView, Fullness};
use crate::engine::{Engine, Phase};

/// This engine's identity, addresses, disks and place in the meta group.
pub(super) async fn info(engine: &Engine) -> api::NodeInfo {
    let groups = survey::local_groups(engine).await;
    let identity = engine.identity();
    let disks = engine
        .disks
        .views()
        .iter()
        .map(|view| {
            let replicas = groups.iter().filter(|(disk, _)| view.id() == Some(*disk)).count();
            disk(engine, view, u32::try_from(replicas).unwrap_or(u32::MAX))
        })
        .collect();
    let state = match engine.phase() {
        Phase::Uninitialised => api::NodeState::Uninitialised,
        Phase::Recovering => api::NodeState::Recovering,
        Phase::Ready => api::NodeState::Ready,
        Phase::Draining => api::NodeState::Draining,
    };
    api::NodeInfo {
        cluster_id: identity.cluster.map(|cluster| cluster.to_string()).unwrap_or_default(),
        node_id: identity.node.to_string(),
        name: engine.config.name.clone(),
        state: state.into(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        control_address: engine.addresses.control.clone(),
        data_address: engine.addresses.data.clone(),
        nbd_address: engine.addresses.nbd.clone(),
        nbd_socket: engine.addresses.nbd_socket.clone(),
        disks,
        heard_revision: engine.heard.load(Ordering::Relaxed),
        meta_leader: engine.meta_leader_name().unwrap_or_default(),
        meta_member: engine.meta.is_member() || engine.meta.view().is_meta_member(identity.node),
    }
}

/// What a disk does, and how full it is if somebody should know.
fn describe(view: &DiskView) -> String {
    let state = view.state.describe();
    match view.thread.as_ref().map(|thread| thread.stats().fullness) {
        Some(fullness) if view.state == DiskState::Ok && fullness > Fullness::Roomy => format!("{state}, {fullness}"),
        _ => state,
    }
}

fn disk(engine: &Engine, view: &DiskView, replicas: u32) -> api::Disk {
    let label = view.label.as_ref();
    let stats = view.thread.as_ref().map(|thread| thread.stats());
    api::Disk {
        disk_id: label.map(|label| label.disk.to_string()).unwrap_or_default(),
        node_id: engine.node().to_string(),
        path: view.config.path.display().to_string(),
        size_bytes: label.map_or(0, |label| label.size_bytes),
        free_bytes: match (&stats, label) {
            (Some(stats), _) => stats.free_bytes,
            (None, Some(label)) if label.cluster.is_nil() => label.size_bytes,
            _ => 0,
        },
        state: describe(view),
        used_bytes: stats.as_ref().map_or(0, |stats| stats.used_bytes),
        capacity_bytes: stats.as_ref().map_or(0, |stats| stats.capacity_bytes),
        replicas,
    }
}
