//! The gRPC service of `api/proto/control.proto`. Any engine answers any request; what the catalogue must decide goes to the
//! meta group's leader ([`route`]).

pub mod channels;
pub mod clones;
mod cluster;
pub mod convert;
mod diff;
pub mod encryption;
mod hold;
mod node;
mod replacements;
pub mod route;
mod scrub;
mod settings;
pub mod snapshots;
pub mod survey;
pub(crate) mod together;
mod volumes;

use std::sync::Arc;

use cairn_api::control as api;
use cairn_api::control::control_server::Control;
use cairn_api::ids::{GroupId, LogIndex, ReplicaId};
use tonic::{Request, Response, Status};

use crate::cluster::{init, join};
use crate::engine::Engine;
use crate::meta::{Command, Step};

/// The service.
#[derive(Clone)]
pub struct ControlService {
    engine: Arc<Engine>,
}

impl ControlService {
    /// Of `engine`.
    pub fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Control for ControlService {
    async fn get_node(&self, request: Request<api::GetNodeRequest>) -> Reply<api::NodeInfo> {
        route::note_asker(&self.engine, request.metadata());
        Ok(Response::new(node::info(&self.engine).await))
    }

    async fn init_cluster(&self, request: Request<api::InitClusterRequest>) -> Reply<api::InitClusterReply> {
        init::init(&self.engine, request.get_ref()).await?;
        Ok(Response::new(api::InitClusterReply {}))
    }

    async fn join_cluster(&self, request: Request<api::JoinClusterRequest>) -> Reply<api::JoinClusterReply> {
        join::join(&self.engine, request.get_ref()).await?;
        Ok(Response::new(api::JoinClusterReply {}))
    }

    async fn get_cluster(&self, _request: Request<api::GetClusterRequest>) -> Reply<api::ClusterStatus> {
        cluster::status(&self.engine).await.map(Response::new)
    }

    async fn get_catalogue(&self, request: Request<api::GetCatalogueRequest>) -> Reply<api::Catalogue> {
        route::serve_catalogue(&self.engine, &request).await.map(Response::new)
    }

    async fn create_volume(&self, request: Request<api::CreateVolumeRequest>) -> Reply<api::Volume> {
        let local = |engine: &Arc<Engine>, request| -> route::Call<'static, api::Volume> {
            let engine = Arc::clone(engine);
            Box::pin(async move { volumes::create(&engine, request).await })
        };
        let remote = |mut client: route::Client, request| -> route::Call<'static, Response<api::Volume>> {
            Box::pin(async move { client.create_volume(request).await })
        };
        route::on_leader(&self.engine, request, local, remote).await
    }

    async fn list_volumes(&self, _request: Request<api::ListVolumesRequest>) -> Reply<api::ListVolumesReply> {
        let volumes = volumes::list(&self.engine).await?;
        Ok(Response::new(api::ListVolumesReply { volumes }))
    }

    async fn get_volume(&self, request: Request<api::GetVolumeRequest>) -> Reply<api::Volume> {
        volumes::get(&self.engine, &request.get_ref().name)
            .await
            .map(Response::new)
    }

    async fn delete_volume(&self, request: Request<api::DeleteVolumeRequest>) -> Reply<api::DeleteVolumeReply> {
        let local = |engine: &Arc<Engine>, request| -> route::Call<'static, api::DeleteVolumeReply> {
            let engine = Arc::clone(engine);
            Box::pin(async move {
                volumes::delete(&engine, request).await?;
                Ok(api::DeleteVolumeReply {})
            })
        };
        let remote = |mut client: route::Client, request| -> route::Call<'static, Response<api::DeleteVolumeReply>> {
            Box::pin(async move { client.delete_volume(request).await })
        };
        route::on_leader(&self.engine, request, local, remote).await
    }

    async fn resize_volume(&self, request: Request<api::ResizeVolumeRequest>) -> Reply<api::Volume> {
        let local = |engine: &Arc<Engine>, request| -> route::Call<'static, api::Volume> {
            let engine = Arc::clone(engine);
            Box::pin(async move { settings::resize(&engine, request).await })
        };
        let remote = |mut client: route::Client, request| -> route::Call<'static, Response<api::Volume>> {
            Box::pin(async move { client.resize_volume(request).await })
        };
        route::on_leader(&self.engine, request, local, remote).await
    }

    async fn limit_volume(&self, request: Request<api::LimitVolumeRequest>) -> Reply<api::Volume> {
        let local = |engine: &Arc<Engine>, request| -> route::Call<'static, api::Volume> {
            let engine = Arc::clone(engine);
            Box::pin(async move { settings::limit(&engine, request).await })
        };
        let remote = |mut client: route::Client, request| -> route::Call<'static, Response<api::Volume>> {
            Box::pin(async move { client.limit_volume(request).await })
        };
        route::on_leader(&self.engine, request, local, remote).await
    }

    async fn detach_volume(&self, request: Request<api::DetachVolumeRequest>) -> Reply<api::DetachVolumeReply> {
        let epoch = volumes::detach(&self.engine, request.get_ref()).await?;
        Ok(Response::new(api::DetachVolumeReply { epoch }))
    }

    async fn rewrap_volume(&self, request: Request<api::RewrapVolumeRequest>) -> Reply<api::RewrapVolumeReply> {
        let local = |engine: &Arc<Engine>, request| -> route::Call<'static, api::RewrapVolumeReply> {
            let engine = Arc::clone(engine);
            Box::pin(async move { encryption::rewrap(&engine, &request).await })
        };
        let remote = |mut client: route::Client, request| -> route::Call<'static, Response<api::RewrapVolumeReply>> {
            Box::pin(async move { client.rewrap_volume(request).await })
        };
        route::on_leader(&self.engine, request, local, remote).await
    }

    async fn get_key_status(&self, _request: Request<api::GetKeyStatusRequest>) -> Reply<api::KeyStatus> {
        encryption::status(&self.engine).await.map(Response::new)
    }

    async fn create_snapshot(&self, request: Request<api::CreateSnapshotRequest>) -> Reply<api::Snapshot> {
        let local = |engine: &Arc<Engine>, request| -> route::Call<'static, api::Snapshot> {
            let engine = Arc::clone(engine);
            Box::pin(async move { snapshots::create(&engine, request).await })
        };
        let remote = |mut client: route::Client, request| -> route::Call<'static, Response<api::Snapshot>> {
            Box::pin(async move { client.create_snapshot(request).await })
        };
        route::on_leader(&self.engine, request, local, remote).await
    }

    async fn create_snapshots_together(
        &self,
        request: Request<api::CreateSnapshotsTogetherRequest>,
    ) -> Reply<api::ListSnapshotsReply> {
        let local = |engine: &Arc<Engine>, request| -> route::Call<'static, api::ListSnapshotsReply> {
            let engine = Arc::clone(engine);
            // It goes on if whoever asked goes away: half an attempt is one that has to be given up.
            let task = tokio::spawn(async move { together::create(&engine, &request).await });
            Box::pin(async move {
                task.await
                    .unwrap_or_else(|error| Err(Status::internal(error.to_string())))
            })
        };
        let remote = |mut client: route::Client, request| -> route::Call<'static, Response<api::ListSnapshotsReply>> {
            Box::pin(async move { client.create_snapshots_together(request).await })
        };
        route::on_leader(&self.engine, request, local, remote).await
    }

    async fn hold_volume(&self, request: Request<api::HoldVolumeRequest>) -> Reply<api::HoldVolumeReply> {
        hold::serve(&self.engine, request.into_inner()).await.map(Response::new)
    }

    async fn list_snapshots(&self, request: Request<api::ListSnapshotsRequest>) -> Reply<api::ListSnapshotsReply> {
        let snapshots = snapshots::list(&self.engine, &request.get_ref().volume).await?;
        Ok(Response::new(api::ListSnapshotsReply { snapshots }))
    }

    async fn get_snapshot(&self, request: Request<api::GetSnapshotRequest>) -> Reply<api::Snapshot> {
        snapshots::get(&self.engine, request.get_ref()).await.map(Response::new)
    }

    async fn delete_snapshot(&self, request: Request<api::DeleteSnapshotRequest>) -> Reply<api::DeleteSnapshotReply> {
        let local = |engine: &Arc<Engine>, request| -> route::Call<'static, api::DeleteSnapshotReply> {
            let engine = Arc::clone(engine);
            Box::pin(async move {
                snapshots::delete(&engine, request).await?;
                Ok(api::DeleteSnapshotReply {})
            })
        };
        let remote = |mut client: route::Client, request| -> route::Call<'static, Response<api::DeleteSnapshotReply>> {
            Box::pin(async move { client.delete_snapshot(request).await })
        };
        route::on_leader(&self.engine, request, local, remote).await
    }

    type DiffSnapshotsStream = diff::DiffStream;

    async fn diff_snapshots(&self, request: Request<api::DiffSnapshotsRequest>) -> Reply<diff::DiffStream> {
        diff::diff(&self.engine, request).await
    }

    async fn report_snapshot(&self, request: Request<api::ReportSnapshotRequest>) -> Reply<api::ReportSnapshotReply> {
        snapshots::report(&self.engine, request).await
    }

    async fn report_whole(&self, request: Request<api::ReportWholeRequest>) -> Reply<api::ReportWholeReply> {
        clones::report(&self.engine, request).await
    }

    async fn replace_disk(&self, request: Request<api::ReplaceDiskRequest>) -> Reply<api::Replacement> {
        let local = |engine: &Arc<Engine>, request| -> route::Call<'static, api::Replacement> {
            let engine = Arc::clone(engine);
            Box::pin(async move { replacements::replace(&engine, &request).await })
        };
        let remote = |mut client: route::Client, request| -> route::Call<'static, Response<api::Replacement>> {
            Box::pin(async move { client.replace_disk(request).await })
        };
        route::on_leader(&self.engine, request, local, remote).await
    }

    async fn get_replacement(&self, request: Request<api::GetReplacementRequest>) -> Reply<api::Replacement> {
        replacements::get(&self.engine, request.get_ref())
            .await
            .map(Response::new)
    }

    async fn scrub_disk(&self, request: Request<api::ScrubDiskRequest>) -> Reply<api::Scrub> {
        scrub::scrub(&self.engine, request).await
    }

    async fn advance_swap(&self, request: Request<api::AdvanceSwapRequest>) -> Reply<api::AdvanceSwapReply> {
        advance_swap(&self.engine, request).await
    }

    async fn list_local_replicas(
        &self,
        request: Request<api::ListLocalReplicasRequest>,
    ) -> Reply<api::ListLocalReplicasReply> {
        let request = request.get_ref();
        let replicas = survey::local_replicas(&self.engine, request.volume_id, request.with_snapshots).await;
        Ok(Response::new(api::ListLocalReplicasReply { replicas }))
    }

    async fn report_replica(&self, request: Request<api::ReportReplicaRequest>) -> Reply<api::ReportReplicaReply> {
        report_replica(&self.engine, request).await
    }

    async fn register_node(&self, request: Request<api::RegisterNodeRequest>) -> Reply<api::RegisterNodeReply> {
        register_node(&self.engine, request).await
    }
}

/// Tells the meta leader of a replica, wherever the leader is.
pub async fn report_replica(
    engine: &Arc<Engine>,
    request: Request<api::ReportReplicaRequest>,
) -> Reply<api::ReportReplicaReply> {
    let local = |engine: &Arc<Engine>, request: api::ReportReplicaRequest| -> route::Call<'static, _> {
        let engine = Arc::clone(engine);
        Box::pin(async move {
            let (group, replica) = (GroupId(request.volume_id), ReplicaId(request.replica_id));
            engine
                .meta
                .execute(&Command::ReportReplica {
                    group,
                    replica,
                    dropped: request.dropped,
                })
                .await?;
            Ok(api::ReportReplicaReply {})
        })
    };
    let remote = |mut client: route::Client, request| -> route::Call<'static, Response<api::ReportReplicaReply>> {
        Box::pin(async move { client.report_replica(request).await })
    };
    route::on_leader(engine, request, local, remote).await
}

/// Tells the meta leader how far a replica is that takes another's place, wherever the leader is.
pub async fn advance_swap(
    engine: &Arc<Engine>,
    request: Request<api::AdvanceSwapRequest>,
) -> Reply<api::AdvanceSwapReply> {
    let local = |engine: &Arc<Engine>, request: api::AdvanceSwapRequest| -> route::Call<'static, _> {
        let engine = Arc::clone(engine);
        Box::pin(async move {
            let step = Step::from_name(&request.step)
                .ok_or_else(|| Status::invalid_argument(format!("step is '{}', which is none", request.step)))?;
            let command = Command::AdvanceSwap {
                group: GroupId(request.volume_id),
                joining: ReplicaId(request.replica_id),
                step,
                revision: LogIndex(request.revision),
            };
            engine.meta.execute(&command).await?;
            Ok(api::AdvanceSwapReply {})
        })
    };
    let remote = |mut client: route::Client, request| -> route::Call<'static, Response<api::AdvanceSwapReply>> {
        Box::pin(async move { client.advance_swap(request).await })
    };
    route::on_leader(engine, request, local, remote).await
}

/// Tells the meta leader of a node, wherever the leader is.
pub async fn register_node(
    engine: &Arc<Engine>,
    request: Request<api::RegisterNodeRequest>,
) -> Reply<api::RegisterNodeReply> {
    let local = |engine: &Arc<Engine>, request: api::RegisterNodeRequest| -> route::Call<'static, _> {
        let engine = Arc::clone(engine);
        Box::pin(async move {
            let spec = request
                .spec
                .ok_or_else(|| Status::invalid_argument("spec is missing"))?;
            engine
                .meta
                .execute(&Command::RegisterNode(convert::node_record(&spec)?))
                .await?;
            Ok(api::RegisterNodeReply {})
        })
    };
    let remote = |mut client: route::Client, request| -> route::Call<'static, Response<api::RegisterNodeReply>> {
        Box::pin(async move { client.register_node(request).await })
    };
    route::on_leader(engine, request, local, remote).await
}
