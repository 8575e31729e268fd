//! Snapshots: create, list, show, delete.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cairn_api::control as api;
use cairn_api::ids::{GroupId, LogIndex, SnapshotId};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::survey::{self, Survey};
use super::{route, volumes};
use crate::engine::Engine;
use crate::meta::group::MetaError;
use crate::meta::snapshot::check_snapshot_name;
use crate::meta::{Catalogue, Command, Outcome, SnapshotCommand, SnapshotPhase, SnapshotRecord, VolumeRecord};

/// How long a creation or a deletion waits for the volume's leader before it returns the snapshot as it is then.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause between two looks: making a snapshot takes two commits.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) fn find<'a>(
    catalogue: &'a Catalogue,
    volume: &VolumeRecord,
    name: &str,
) -> Result<&'a SnapshotRecord, Status> {
    catalogue
        .snapshot_by_name(volume.group, name)
        .ok_or_else(|| Status::not_found(format!("there is no snapshot '{name}' of volume '{}'", volume.name)))
}

/// Seconds since 1970, by this engine's clock: only shown, nothing is decided by it.
pub(super) fn now_unix_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// On the meta leader: commits, and waits until the volume's leader has made it.
pub(super) async fn create(engine: &Arc<Engine>, request: api::CreateSnapshotRequest) -> Result<api::Snapshot, Status> {
    check_snapshot_name(&request.name).map_err(MetaError::from)?;
    let catalogue = engine.meta.barrier().await?;
    let volume = volumes::find(&catalogue, &request.volume)?.clone();
    let command = SnapshotCommand::Create {
        group: volume.group,
        name: request.name.clone(),
        created_unix_s: now_unix_s(),
    };
    let Outcome::Snapshot(id) = engine.meta.execute(&Command::Snapshot(command)).await? else {
        return Err(Status::internal("a snapshot was created without a number"));
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let view = engine.meta.view();
        let snapshot = view
            .snapshots
            .get(&(volume.group, id))
            .ok_or_else(|| Status::not_found("the snapshot was deleted meanwhile"))?;
        if snapshot.phase != SnapshotPhase::Creating || Instant::now() >= deadline {
            return Ok(describe(&volume, snapshot, &BTreeMap::new()));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The snapshots of one volume, or of all, with what they take.
pub(super) async fn list(engine: &Arc<Engine>, volume: &str) -> Result<Vec<api::Snapshot>, Status> {
    route::require_cluster(engine)?;
    let catalogue = route::catalogue_soon(engine).await?;
    let only = match volume {
        "" => None,
        name => Some(volumes::find(&catalogue, name)?),
    };
    let survey = survey::survey_with_snapshots(engine, &catalogue, only).await;
    let volumes = catalogue.volumes.values();
    let wanted = volumes.filter(|volume| only.is_none_or(|only| only.group == volume.group));
    Ok(wanted
        .flat_map(|volume| {
            let space = space_of(volume, &survey);
            let snapshots = catalogue.snapshots_of(volume.group).filter(|snapshot| !snapshot.hidden);
            snapshots
                .map(|snapshot| describe(volume, snapshot, &space))
                .collect::<Vec<_>>()
        })
        .collect())
}

/// One snapshot with what it takes.
pub(super) async fn get(engine: &Arc<Engine>, request: &api::GetSnapshotRequest) -> Result<api::Snapshot, Status> {
    route::require_cluster(engine)?;
    let catalogue = route::catalogue_soon(engine).await?;
    let volume = volumes::find(&catalogue, &request.volume)?;
    let snapshot = find(&catalogue, volume, &request.name)?;
    let survey = survey::survey_with_snapshots(engine, &catalogue, Some(volume)).await;
    Ok(describe(volume, snapshot, &space_of(volume, &survey)))
}

/// On the meta leader: marks it, and waits a little for it to go.
pub(super) async fn delete(engine: &Arc<Engine>, request: api::DeleteSnapshotRequest) -> Result<(), Status> {
    let catalogue = engine.meta.barrier().await?;
    let volume = volumes::find(&catalogue, &request.volume)?;
    let key = (volume.group, find(&catalogue, volume, &request.name)?.id);
    let (group, snapshot) = key;
    let command = Command::Snapshot(SnapshotCommand::Delete { group, snapshot });
    engine.meta.execute(&command).await?;
    let deadline = Instant::now() + PATIENCE;
    // One that clones need is hidden, and goes when they are whole.
    let is_there = || {
        engine
            .meta
            .view()
            .snapshots
            .get(&key)
            .is_some_and(|snapshot| !snapshot.hidden)
    };
    while is_there() && Instant::now() < deadline {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Tells the meta leader that a snapshot was made or deleted, wherever the leader is.
pub async fn report(
    engine: &Arc<Engine>,
    request: Request<api::ReportSnapshotRequest>,
) -> Result<Response<api::ReportSnapshotReply>, Status> {
    let local = |engine: &Arc<Engine>, request: api::ReportSnapshotRequest| -> route::Call<'static, _> {
        let engine = Arc::clone(engine);
        Box::pin(async move {
            let command = SnapshotCommand::Report {
                group: GroupId(request.volume_id),
                snapshot: SnapshotId(request.snapshot_id),
                made: (!request.deleted).then_some((LogIndex(request.index), request.size_bytes)),
            };
            engine.meta.execute(&Command::Snapshot(command)).await?;
            Ok(api::ReportSnapshotReply {})
        })
    };
    let remote = |mut client: route::Client, request| -> route::Call<'static, Response<api::ReportSnapshotReply>> {
        Box::pin(async move { client.report_snapshot(request).await })
    };
    route::on_leader(engine, request, local, remote).await
}

pub(super) type Space = BTreeMap<u64, api::SnapshotSpace>;

/// What the leader says that each snapshot takes.
fn space_of(volume: &VolumeRecord, survey: &Survey) -> Space {
    let leader = survey::leader_of(volume, survey);
    let spaces = leader
        .map(|(_, status)| status.snapshot_space.clone())
        .unwrap_or_default();
    spaces.into_iter().map(|space| (space.snapshot_id, space)).collect()
}

pub(super) fn describe(volume: &VolumeRecord, snapshot: &SnapshotRecord, space: &Space) -> api::Snapshot {
    let state = match snapshot.phase {
        SnapshotPhase::Creating => api::SnapshotState::Creating,
        SnapshotPhase::Ready => api::SnapshotState::Ready,
        SnapshotPhase::Deleting => api::SnapshotState::Deleting,
    };
    let space = space.get(&snapshot.id.get());
    api::Snapshot {
        volume: volume.name.clone(),
        name: snapshot.name.clone(),
        volume_id: volume.group.get(),
        snapshot_id: snapshot.id.get(),
        state: state.into(),
        created_unix_s: snapshot.created_unix_s,
        size_bytes: snapshot.size_bytes,
        index: snapshot.index.get(),
        kept_bytes: space.map(|space| space.kept_bytes),
        exclusive_bytes: space.map(|space| space.exclusive_bytes),
        together_id: snapshot.together.map_or(0, |together| together.first.get()),
    }
}
