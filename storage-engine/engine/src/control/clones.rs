//! Clones of volumes and snapshots: making their records, and reporting that they are whole.

use std::sync::Arc;

use cairn_api::control as api;
use cairn_api::ids::{GroupId, ReplicaId};
use cairn_api::limits::VolumeLimits;
use tonic::{Request, Response, Status};

use super::volumes::refuse;
use super::{convert, encryption, route, snapshots, volumes};
use crate::engine::Engine;
use crate::meta::clone::check_same;
use crate::meta::decide::{check_limits, check_volume};
use crate::meta::encryption::Wanted;
use crate::meta::{Catalogue, Command, SnapshotPhase, Source, VolumeRecord};

/// What is asked for, with what the source says where the request does not.
struct Asked {
    source: Source,
    size_bytes: u64,
    replicas: usize,
    limits: VolumeLimits,
}

impl Asked {
    fn new(catalogue: &Catalogue, request: &api::CreateVolumeRequest, volume: &VolumeRecord) -> Result<Self, Status> {
        let snapshot = match request.source_snapshot.as_str() {
            "" => None,
            name => Some(snapshots::find(catalogue, volume, name)?),
        };
        if request.encrypted && volume.encryption.is_none() {
            return Err(Status::failed_precondition(format!(
                "volume '{}' is not encrypted, and a clone shares its blocks: create an encrypted volume and copy to it",
                volume.name
            )));
        }
        if volume.encryption.is_none() && !request.key_name.is_empty() {
            return Err(Status::invalid_argument(format!(
                "key_name is for a clone of an encrypted volume, and '{}' is none",
                volume.name
            )));
        }
        let source = Source {
            group: volume.group,
            snapshot: snapshot.map(|snapshot| snapshot.id),
            created_unix_s: snapshots::now_unix_s(),
        };
        let replicas = match request.replicas {
            0 => volume.replicas.len(),
            count => usize::try_from(count).unwrap_or(usize::MAX),
        };
        if replicas != volume.replicas.len() {
            return Err(Status::invalid_argument(format!(
                "replicas is {replicas}, and a clone has as many as its source: volume '{}' has {}",
                volume.name,
                volume.replicas.len()
            )));
        }
        // Who does not name a size, and asks again after the source has grown, means the clone that is there.
        let existing = catalogue.volume_by_name(&request.name);
        let existing = existing.filter(|existing| check_same(existing, Some(&source)).is_ok());
        let size_bytes = match request.size_bytes {
            0 => match (existing, snapshot) {
                (Some(existing), _) => existing.size_bytes,
                (None, Some(snapshot)) => snapshot.size_bytes,
                (None, None) => volume.size_bytes,
            },
            size_bytes => size_bytes,
        };
        let limits = convert::limits(request.limits.as_ref());
        check_limits(&limits).map_err(refuse)?;
        Ok(Self {
            source,
            size_bytes,
            replicas,
            limits,
        })
    }
}

/// On the meta leader: the number of the clone that was asked for, of a new one or of one that is the same.
pub(super) async fn create_record(engine: &Arc<Engine>, request: &api::CreateVolumeRequest) -> Result<GroupId, Status> {
    let catalogue = engine.meta.barrier().await?;
    let volume = volumes::find(&catalogue, &request.source_volume)?.clone();
    if volume.deleting {
        let reason = format!("volume '{}' is being deleted and cannot be cloned", volume.name);
        return Err(Status::failed_precondition(reason));
    }
    let asked = Asked::new(&catalogue, request, &volume)?;
    if asked.size_bytes > 0 {
        check_volume(&request.name, asked.size_bytes, asked.replicas).map_err(refuse)?;
    }
    let key_name = Some(request.key_name.as_str()).filter(|name| !name.is_empty());
    let wanted = match volume.encryption {
        Some(_) => Wanted::Encrypted(key_name),
        None => Wanted::Plain,
    };
    let shape = (asked.size_bytes, asked.replicas, asked.limits);
    if let Some(group) = volumes::existing(&catalogue, &request.name, shape, wanted, Some(&asked.source))? {
        return Ok(group);
    }
    let places: Vec<_> = volume.replicas.iter().map(|one| (one.node, one.disk)).collect();
    let command = |encryption| Command::CreateVolume {
        name: request.name.clone(),
        size_bytes: asked.size_bytes,
        places: places.clone(),
        limits: asked.limits,
        encryption,
        source: Some(asked.source.clone()),
    };
    let group = encryption::create_clone(engine, &volume, (&request.name, key_name), command).await?;
    tracing::info!(clone = request.name, %group, of = volume.name, "a clone is asked for");
    Ok(group)
}

/// Whether what a clone stands on is made: from then on it is the source as it was at one moment. Of other volumes, always.
pub(super) fn is_there(catalogue: &Catalogue, volume: &VolumeRecord) -> bool {
    let Some(origin) = &volume.origin else { return true };
    let snapshot = catalogue.snapshots.get(&(origin.group, origin.snapshot));
    snapshot.is_none_or(|snapshot| snapshot.phase != SnapshotPhase::Creating)
}

/// Tells the meta leader that a replica of a clone is whole, wherever the leader is.
pub async fn report(
    engine: &Arc<Engine>,
    request: Request<api::ReportWholeRequest>,
) -> Result<Response<api::ReportWholeReply>, Status> {
    let local = |engine: &Arc<Engine>, request: api::ReportWholeRequest| -> route::Call<'static, _> {
        let engine = Arc::clone(engine);
        Box::pin(async move {
            let (group, replica) = (GroupId(request.volume_id), ReplicaId(request.replica_id));
            engine.meta.execute(&Command::ReportWhole { group, replica }).await?;
            Ok(api::ReportWholeReply {})
        })
    };
    let remote = |mut client: route::Client, request| -> route::Call<'static, Response<api::ReportWholeReply>> {
        Box::pin(async move { client.report_whole(request).await })
    };
    route::on_leader(engine, request, local, remote).await
}
