//! Volumes that are changed while they are there.

use std::sync::Arc;

use cairn_api::control as api;
use cairn_api::ids::GroupId;
use tonic::Status;

use super::survey;
use super::volumes::find;
use crate::engine::Engine;
use crate::meta::{Command, LimitChange};

/// On the meta leader: raises the size in the catalogue. The engine whose replica leads the volume's group does the rest.
pub(super) async fn resize(engine: &Arc<Engine>, request: api::ResizeVolumeRequest) -> Result<api::Volume, Status> {
    let catalogue = engine.meta.barrier().await?;
    let group = find(&catalogue, &request.name)?.group;
    let size_bytes = request.size_bytes;
    engine
        .meta
        .execute(&Command::ResizeVolume { group, size_bytes })
        .await?;
    engine.wake.notify_one();
    present(engine, group).await
}

/// On the meta leader: changes what a volume may be asked for. Gateways hear of it from their engines.
pub(super) async fn limit(engine: &Arc<Engine>, request: api::LimitVolumeRequest) -> Result<api::Volume, Status> {
    let catalogue = engine.meta.barrier().await?;
    let group = find(&catalogue, &request.name)?.group;
    let some = |value: u64| (value > 0).then_some(value);
    let change = LimitChange {
        iops: request.iops.map(some),
        bytes_per_s: request.bytes_per_s.map(some),
        burst_ms: request.burst_ms,
    };
    engine.meta.execute(&Command::LimitVolume { group, change }).await?;
    engine.wake.notify_one();
    present(engine, group).await
}

/// The volume as it is now, with the revision by which every engine has heard of its change.
async fn present(engine: &Arc<Engine>, group: GroupId) -> Result<api::Volume, Status> {
    let view = engine.meta.view();
    let volume = view
        .volumes
        .get(&group)
        .ok_or_else(|| Status::not_found("the volume was deleted meanwhile"))?;
    let survey = survey::survey(engine, &view, Some(volume)).await;
    let revision = view.applied.get();
    Ok(api::Volume {
        revision,
        ..survey::describe(&view, volume, &survey)
    })
}
