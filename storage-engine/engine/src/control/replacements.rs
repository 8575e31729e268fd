//! Replacing a disk: what the leader checks before it proposes the plan, and how far one is.
//!
//! The catalogue refuses what makes no sense ([`crate::meta::decide`]). Here is refused what could not succeed now: a disk that
//! does not serve or has no room, a group without enough live members. Once the plan stands, nothing is refused any more: the
//! same request only tells how far it is.

use std::sync::Arc;

use cairn_api::control as api;
use cairn_api::ids::{DiskId, GroupId, NodeId};
use cairn_api::units::{BLOCK_BYTES, ByteSize};
use tonic::Status;

use super::survey::{self, Survey};
use super::{convert, node, route};
use crate::engine::Engine;
use crate::meta::decide::decide;
use crate::meta::group::MetaError;
use crate::meta::{Catalogue, Command, Swap, VolumeRecord};

/// Volumes that a refusal names.
const NAMED_MAX: usize = 3;

/// On the meta leader: checks, commits the plan, and says how far it is.
pub(super) async fn replace(
    engine: &Arc<Engine>,
    request: &api::ReplaceDiskRequest,
) -> Result<api::Replacement, Status> {
    let old: DiskId = convert::parse_id("old_disk_id", &request.old_disk_id)?;
    let new: DiskId = convert::parse_id("new_disk_id", &request.new_disk_id)?;
    let catalogue = engine.meta.barrier().await?;
    let command = Command::ReplaceDisk { old, new };
    let (_, changes) = decide(&catalogue, &command).map_err(|refusal| Status::from(MetaError::from(refusal)))?;
    if !changes.is_empty() {
        check(engine, &catalogue, old, new).await?;
        engine.meta.execute(&command).await?;
        engine.wake.notify_one();
        tracing::info!(%old, %new, "a disk is to be replaced");
    }
    describe(engine, &engine.meta.view(), old).await
}

/// How far a replacement is.
pub(super) async fn get(
    engine: &Arc<Engine>,
    request: &api::GetReplacementRequest,
) -> Result<api::Replacement, Status> {
    route::require_cluster(engine)?;
    let old: DiskId = convert::parse_id("old_disk_id", &request.old_disk_id)?;
    let catalogue = route::catalogue_soon(engine).await?;
    describe(engine, &catalogue, old).await
}

async fn describe(engine: &Arc<Engine>, catalogue: &Catalogue, old: DiskId) -> Result<api::Replacement, Status> {
    let replacement = catalogue
        .replacements
        .get(&old)
        .ok_or_else(|| Status::not_found(format!("disk {old} is not being replaced")))?;
    let mut message = convert::replacement(catalogue, replacement);
    let leaves = |swap: &Swap| swap.leaving.iter().any(|member| member.disk == old);
    let swaps: Vec<(GroupId, &Swap)> = catalogue.swaps().filter(|(_, swap)| leaves(swap)).collect();
    if swaps.is_empty() {
        return Ok(message);
    }
    let mut survey = survey::survey(engine, catalogue, None).await;
    if swaps.iter().any(|(group, _)| *group == GroupId::META) {
        let nodes = catalogue.nodes.keys().copied().collect();
        let meta = survey::survey_group(engine, catalogue, GroupId::META, &nodes).await;
        survey.replicas.extend(meta.replicas);
    }
    let items = swaps
        .into_iter()
        .map(|(group, swap)| item(catalogue, old, group, swap, &survey));
    message.items = items.collect();
    Ok(message)
}

fn item(catalogue: &Catalogue, old: DiskId, group: GroupId, swap: &Swap, survey: &Survey) -> api::ReplacementItem {
    let volume = catalogue.volumes.get(&group);
    let members: Vec<_> = match volume {
        Some(volume) => volume.members(),
        None => catalogue
            .cluster
            .iter()
            .flat_map(|cluster| cluster.members.clone())
            .collect(),
    };
    let statuses = members.iter().filter_map(|member| survey.replicas.get(&member.replica));
    let leaving = swap.leaving.iter().find(|member| member.disk == old);
    let held = survey
        .replicas
        .get(&swap.joining.replica)
        .map_or(0, |status| status.last);
    api::ReplacementItem {
        volume_id: group.get(),
        volume: volume.map(|volume| volume.name.clone()).unwrap_or_default(),
        old_replica_id: leaving.map_or(0, |member| member.replica.get()),
        new_replica_id: swap.joining.replica.get(),
        step: swap.step.name().to_owned(),
        entries_held: held,
        entries_last: statuses.map(|status| status.last).max().unwrap_or(0).max(held),
    }
}

/// Refuses what could not succeed now.
async fn check(engine: &Arc<Engine>, catalogue: &Catalogue, old: DiskId, new: DiskId) -> Result<(), Status> {
    let target = ask_disk(engine, catalogue, new).await;
    let target = target.map_err(|problem| {
        Status::failed_precondition(format!(
            "disk {new} cannot take the place of another: {problem}; see to it that its engine runs and the disk is 'ok' \
             (`cairn disk list`)"
        ))
    })?;
    let source = ask_disk(engine, catalogue, old).await;
    let survey = survey::survey(engine, catalogue, None).await;
    let concerned = catalogue.volumes.values().filter(|volume| !volume.deleting);
    let concerned: Vec<&VolumeRecord> = concerned
        .filter(|volume| volume.succession.is_on(&volume.members(), old))
        .collect();
    check_majorities(catalogue, &concerned, &survey)?;
    let needed = match &source {
        // New replicas receive whole logs, and the old disk holds them.
        Ok(disk) => disk.size_bytes.saturating_sub(disk.free_bytes),
        Err(_) => concerned.iter().map(|volume| allocated(volume, &survey)).sum(),
    };
    if target.free_bytes < needed {
        return Err(Status::failed_precondition(format!(
            "disk {new} has {} free, and what it would take from disk {old} needs {}: choose an emptier or a larger one",
            ByteSize(target.free_bytes),
            ByteSize(needed.next_multiple_of(BLOCK_BYTES)),
        )));
    }
    Ok(())
}

/// What the volume's data takes on a disk, as far as its replicas tell.
fn allocated(volume: &VolumeRecord, survey: &Survey) -> u64 {
    let statuses = volume
        .replicas
        .iter()
        .filter_map(|replica| survey.replicas.get(&replica.id));
    statuses.map(|status| status.allocated_bytes).max().unwrap_or(0)
}

/// A group without a majority changes no members, and may have lost what it acknowledged.
fn check_majorities(catalogue: &Catalogue, volumes: &[&VolumeRecord], survey: &Survey) -> Result<(), Status> {
    let mut lacking = Vec::new();
    for volume in volumes {
        let silent: Vec<String> = volume
            .replicas
            .iter()
            .filter(|replica| !survey.is_alive(replica.id))
            .map(|replica| format!("{} on {}", replica.id, catalogue.node_name(replica.node)))
            .collect();
        let all = volume.replicas.len();
        if (all - silent.len()) * 2 <= all {
            lacking.push(format!(
                "volume '{}' has {} of {all} replicas (silent: {})",
                volume.name,
                all - silent.len(),
                silent.join(", ")
            ));
        }
    }
    if lacking.is_empty() {
        return Ok(());
    }
    let more = match lacking.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    lacking.truncate(NAMED_MAX);
    Err(Status::failed_precondition(format!(
        "too few replicas answer for a new one to be made from them: {}{more}. Bring a majority back first",
        lacking.join("; ")
    )))
}

/// What the disk's engine says of it, if it serves.
async fn ask_disk(engine: &Arc<Engine>, catalogue: &Catalogue, disk: DiskId) -> Result<api::Disk, String> {
    let record = catalogue.node_of(disk).ok_or("it is not in the cluster")?;
    let info = ask_node(engine, record.id, &record.control_address).await;
    let info = info.map_err(|status| format!("the engine of node '{}' says: {}", record.name, status.message()))?;
    if info.state == i32::from(api::NodeState::Draining) {
        return Err(format!("node '{}' is stopping", record.name));
    }
    let id = disk.to_string();
    match info.disks.into_iter().find(|disk| disk.disk_id == id) {
        None => Err(format!("the engine of node '{}' has no such disk now", record.name)),
        Some(disk) if !disk.state.starts_with("ok") => Err(format!("it is {} on node '{}'", disk.state, record.name)),
        Some(disk) => Ok(disk),
    }
}

async fn ask_node(engine: &Arc<Engine>, id: NodeId, address: &str) -> Result<api::NodeInfo, Status> {
    if id == engine.node() {
        return Ok(node::info(engine).await);
    }
    route::probe(Arc::clone(engine), address.to_owned()).await
}
