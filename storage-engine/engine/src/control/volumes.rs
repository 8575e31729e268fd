//! Volumes: create, list, show, delete, detach.

use std::sync::Arc;
use std::time::Duration;

use cairn_api::control as api;
use cairn_api::ids::GroupId;
use cairn_api::limits::VolumeLimits;
use cairn_core::event::{Command as CoreCommand, CommandError};
use tokio::time::Instant;
use tonic::Status;

use super::survey::{self, Survey};
use super::{clones, convert, encryption, route};
use crate::disks::{AskError, ask};
use crate::engine::Engine;
use crate::meta::clone::check_same;
use crate::meta::decide::{check_limits, check_volume, existing_volume};
use crate::meta::encryption::{Wanted, check_wanted};
use crate::meta::group::MetaError;
use crate::meta::placement::{NodeReport, place};
use crate::meta::{Catalogue, Command, Source, VolumePhase, VolumeRecord};

/// How long a creation waits for its replicas and a leader before it returns the volume as it is then.
const CREATE_PATIENCE: Duration = Duration::from_secs(20);
/// How long a deletion waits for the replicas to be dropped; the rest happens behind the scenes.
const DELETE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a detachment may take.
const DETACH_PATIENCE: Duration = Duration::from_secs(10);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) fn refuse(refusal: crate::meta::Refusal) -> Status {
    MetaError::from(refusal).into()
}

/// On the meta leader: places, commits, and waits until the volume serves.
pub(super) async fn create(engine: &Arc<Engine>, request: api::CreateVolumeRequest) -> Result<api::Volume, Status> {
    let group = if !request.source_volume.is_empty() {
        clones::create_record(engine, &request).await?
    } else if request.source_snapshot.is_empty() {
        create_record(engine, &request).await?
    } else {
        let reason = "source_snapshot is a snapshot of source_volume, which is missing";
        return Err(Status::invalid_argument(reason));
    };
    engine.wake.notify_one();
    let deadline = Instant::now() + CREATE_PATIENCE;
    loop {
        let view = engine.meta.view();
        let volume = view
            .volumes
            .get(&group)
            .ok_or_else(|| Status::not_found("the volume was deleted meanwhile"))?;
        let survey = survey::survey(engine, &view, Some(volume)).await;
        let message = survey::describe(&view, volume, &survey);
        let serves =
            volume.phase() == VolumePhase::Ready && !message.leader.is_empty() && clones::is_there(&view, volume);
        if serves || volume.deleting || Instant::now() >= deadline {
            return Ok(message);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The number of the volume that was asked for: of a new one, or of one that is the same.
async fn create_record(engine: &Arc<Engine>, request: &api::CreateVolumeRequest) -> Result<GroupId, Status> {
    let replicas = usize::try_from(request.replicas).unwrap_or(usize::MAX);
    check_volume(&request.name, request.size_bytes, replicas).map_err(refuse)?;
    let limits = convert::limits(request.limits.as_ref());
    check_limits(&limits).map_err(refuse)?;
    let wanted = encryption::wanted(request)?;
    let catalogue = engine.meta.barrier().await?;
    let shape = (request.size_bytes, replicas, limits);
    if let Some(group) = existing(&catalogue, &request.name, shape, wanted, None)? {
        return Ok(group);
    }
    let reports = reports(engine, &catalogue).await;
    let places =
        place(&catalogue, &reports, replicas).map_err(|error| Status::failed_precondition(error.to_string()))?;
    encryption::create_record(engine, request, &places).await
}

/// The volume that is asked for, if it is there already; refused if another one has its name.
pub(super) fn existing(
    catalogue: &Catalogue,
    name: &str,
    (size_bytes, replicas, limits): (u64, usize, VolumeLimits),
    wanted: Wanted<'_>,
    source: Option<&Source>,
) -> Result<Option<GroupId>, Status> {
    let existing = existing_volume(catalogue, name, size_bytes, replicas, limits).map_err(refuse)?;
    if let Some(volume) = existing.and_then(|group| catalogue.volumes.get(&group)) {
        check_wanted(volume, wanted).map_err(refuse)?;
        check_same(volume, source).map_err(refuse)?;
    }
    Ok(existing)
}

/// What every engine says of its disks, in the catalogue's order.
async fn reports(engine: &Arc<Engine>, catalogue: &Catalogue) -> Vec<NodeReport> {
    let asked: Vec<_> = catalogue
        .nodes
        .values()
        .map(|node| {
            let engine = Arc::clone(engine);
            let (id, address) = (node.id, node.control_address.clone());
            let answer = tokio::spawn(async move {
                if id == engine.node() {
                    Ok(super::node::info(&engine).await)
                } else {
                    route::probe(engine, address).await
                }
            });
            (id, answer)
        })
        .collect();
    let mut reports = Vec::with_capacity(asked.len());
    for (node, answer) in asked {
        let disks = match answer.await {
            Ok(Ok(info)) if info.state == i32::from(api::NodeState::Draining) => Err("is stopping".to_owned()),
            Ok(Ok(info)) => Ok(info
                .disks
                .iter()
                .filter(|disk| disk.state.starts_with("ok"))
                .filter_map(|disk| Some((disk.disk_id.parse().ok()?, disk.free_bytes)))
                .collect()),
            Ok(Err(_)) | Err(_) => Err("does not answer".to_owned()),
        };
        reports.push(NodeReport { node, disks });
    }
    reports
}

/// All volumes with their live state.
pub(super) async fn list(engine: &Arc<Engine>) -> Result<Vec<api::Volume>, Status> {
    route::require_cluster(engine)?;
    let catalogue = route::catalogue_soon(engine).await?;
    let survey = survey::survey(engine, &catalogue, None).await;
    Ok(catalogue
        .visible_volumes()
        .map(|volume| survey::describe(&catalogue, volume, &survey))
        .collect())
}

pub(super) fn find<'a>(catalogue: &'a Catalogue, name: &str) -> Result<&'a VolumeRecord, Status> {
    catalogue
        .volume_by_name(name)
        .ok_or_else(|| Status::not_found(format!("there is no volume '{name}'")))
}

/// One volume with its live state.
pub(super) async fn get(engine: &Arc<Engine>, name: &str) -> Result<api::Volume, Status> {
    route::require_cluster(engine)?;
    let catalogue = route::catalogue_soon(engine).await?;
    let volume = find(&catalogue, name)?;
    let survey = survey::survey(engine, &catalogue, Some(volume)).await;
    Ok(survey::describe(&catalogue, volume, &survey))
}

/// On the meta leader: marks the volume and waits a little for its replicas to go.
pub(super) async fn delete(engine: &Arc<Engine>, request: api::DeleteVolumeRequest) -> Result<(), Status> {
    let catalogue = engine.meta.barrier().await?;
    let volume = find(&catalogue, &request.name)?.clone();
    if !volume.deleting {
        if !request.force {
            refuse_if_attached(engine, &catalogue, &volume).await?;
        }
        engine
            .meta
            .execute(&Command::DeleteVolume {
                group: volume.group,
                snapshots: request.snapshots,
            })
            .await?;
        engine.wake.notify_one();
    }
    let deadline = Instant::now() + DELETE_PATIENCE;
    let is_there = |group| {
        let view = engine.meta.view();
        view.volumes
            .get(&group)
            .is_some_and(|volume| !volume.hidden || volume.deleting)
    };
    while is_there(volume.group) && Instant::now() < deadline {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// A volume that somebody writes is not deleted by accident, nor one of which nobody can tell.
async fn refuse_if_attached(engine: &Arc<Engine>, catalogue: &Catalogue, volume: &VolumeRecord) -> Result<(), Status> {
    let name = &volume.name;
    if volume.replicas.iter().any(|replica| !replica.created) {
        return Ok(());
    }
    let survey = survey::survey(engine, catalogue, Some(volume)).await;
    let message = survey::describe(catalogue, volume, &survey);
    if message.leader.is_empty() {
        return Err(Status::failed_precondition(format!(
            "volume '{name}' has no leader now, so nobody can tell whether it is attached: delete it with --force, or \
             wait until it serves"
        )));
    }
    if message.attached_to.is_empty() {
        return Ok(());
    }
    // The attachment of a holder that is gone ends here; that of a live one is refused.
    match detach_command(engine, volume, false).await {
        Ok(()) => Ok(()),
        Err(_) => Err(Status::failed_precondition(format!(
            "volume '{name}' is attached to node '{}': disconnect its client, or delete it with --force",
            message.attached_to
        ))),
    }
}

async fn detach_command(engine: &Arc<Engine>, volume: &VolumeRecord, force: bool) -> Result<(), Status> {
    let (_, thread) = engine
        .disk_for(volume)
        .and_then(|disk| Some((disk, engine.disks.thread_of(disk)?)))
        .ok_or_else(|| Status::unavailable(format!("engine '{}' has no disk that serves", engine.config.name)))?;
    let command = CoreCommand::Detach {
        spec: volume.present_spec(),
        force,
    };
    match ask(&thread, command, DETACH_PATIENCE).await {
        Ok(_) => Ok(()),
        Err(AskError::Core(CommandError::Refused(reason))) => {
            let reason = with_names(&engine.meta.view(), reason);
            Err(Status::failed_precondition(format!(
                "volume '{}' was not detached: {reason}",
                volume.name
            )))
        }
        Err(AskError::TimedOut) => Err(Status::deadline_exceeded(format!(
            "volume '{}' was not detached within {} s: its leader does not answer",
            volume.name,
            DETACH_PATIENCE.as_secs()
        ))),
        Err(error) => Err(Status::unavailable(format!(
            "volume '{}' was not detached: {error}",
            volume.name
        ))),
    }
}

/// People know nodes by their names; the core knows their ids only.
fn with_names(catalogue: &Catalogue, text: String) -> String {
    catalogue.nodes.values().fold(text, |text, node| {
        text.replace(&node.id.to_string(), &format!("'{}'", node.name))
    })
}

/// Raises the attachment's epoch, through a gateway here.
pub(super) async fn detach(engine: &Arc<Engine>, request: &api::DetachVolumeRequest) -> Result<u64, Status> {
    route::require_cluster(engine)?;
    let catalogue = route::catalogue_soon(engine).await?;
    let volume = find(&catalogue, &request.name)?.clone();
    detach_command(engine, &volume, request.force).await?;
    let survey: Survey = survey::survey(engine, &catalogue, Some(&volume)).await;
    Ok(survey.replicas.values().map(|status| status.epoch).max().unwrap_or(0))
}
