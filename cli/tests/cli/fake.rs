//! An engine of make-believe: the control API over a catalogue in memory, with switches for what can go wrong.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use cairn_api::control::control_server::{Control, ControlServer};
use cairn_api::control::*;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// What the fake knows, and how it is to behave.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) node: NodeInfo,
    pub(crate) cluster: ClusterStatus,
    pub(crate) volumes: BTreeMap<String, Volume>,
    /// The version of the master key that wraps.
    pub(crate) master_version: u32,
    pub(crate) keys: KeyStatus,
    /// Looks at a new volume until it is ready.
    pub(crate) looks_until_ready: u32,
    /// Calls that are answered with "not now" before one is served.
    pub(crate) not_now: u32,
    /// Every `InitCluster` that arrived.
    pub(crate) inits: Vec<InitClusterRequest>,
    /// Every `JoinCluster` that arrived.
    pub(crate) joins: Vec<JoinClusterRequest>,
    /// The replacement that was asked for. Each look at it moves one group.
    pub(crate) replacement: Option<Replacement>,
    /// Whether looks at the replacement find it as it was.
    pub(crate) replacement_is_stuck: bool,
    /// Disks whose engines do not answer.
    pub(crate) silent_disks: Vec<String>,
    /// By volume and name. Each look at one that is being made brings it on.
    pub(crate) snapshots: BTreeMap<(String, String), Snapshot>,
    /// The scrubbing of any disk.
    pub(crate) scrub: Option<Scrub>,
    /// Whether looks at the scrubbing find it as it was.
    pub(crate) scrub_is_stuck: bool,
}

/// A fake that serves until it is dropped.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    _runtime: Runtime,
}

impl Fake {
    /// Starts one in state `state`.
    pub(crate) fn start(state: State) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let state = Arc::new(Mutex::new(state));
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let service = ControlServer::new(Service(state.clone()));
        runtime.spawn(
            Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Self {
            address,
            state,
            _runtime: runtime,
        }
    }

    /// Its state, to look at or to change.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

struct Service(Arc<Mutex<State>>);

type Answer<T> = Result<Response<T>, Status>;

impl Service {
    fn enter(&self) -> Result<MutexGuard<'_, State>, Status> {
        let mut state = self.0.lock().unwrap();
        if state.not_now > 0 {
            state.not_now -= 1;
            return Err(Status::unavailable("the meta group has no leader"));
        }
        Ok(state)
    }
}

fn no_snapshot(volume: &str, name: &str) -> Status {
    Status::not_found(format!("there is no snapshot '{name}' of volume '{volume}'"))
}

impl State {
    fn volume(&mut self, name: &str) -> Result<&mut Volume, Status> {
        let volume = self.volumes.get_mut(name);
        volume.ok_or_else(|| Status::not_found(format!("there is no volume '{name}'")))
    }
}

#[tonic::async_trait]
impl Control for Service {
    async fn get_node(&self, _: Request<GetNodeRequest>) -> Answer<NodeInfo> {
        Ok(Response::new(self.enter()?.node.clone()))
    }

    async fn init_cluster(&self, request: Request<InitClusterRequest>) -> Answer<InitClusterReply> {
        let mut state = self.enter()?;
        let request = request.into_inner();
        state.node.cluster_id = request.cluster_id.clone();
        state.cluster = ClusterStatus {
            cluster_id: request.cluster_id.clone(),
            cluster_name: request.cluster_name.clone(),
            meta_leader: request.nodes[0].name.clone(),
            nodes: request
                .nodes
                .iter()
                .map(|spec| crate::engines::status(spec.clone(), true))
                .collect(),
            volumes: Vec::new(),
            replacements: Vec::new(),
        };
        state.inits.push(request);
        Ok(Response::new(InitClusterReply {}))
    }

    async fn join_cluster(&self, request: Request<JoinClusterRequest>) -> Answer<JoinClusterReply> {
        self.enter()?.joins.push(request.into_inner());
        Ok(Response::new(JoinClusterReply {}))
    }

    async fn replace_disk(&self, request: Request<ReplaceDiskRequest>) -> Answer<Replacement> {
        let mut state = self.enter()?;
        let request = request.into_inner();
        let begun = Replacement {
            old_disk_id: request.old_disk_id,
            new_disk_id: request.new_disk_id,
            old_node: "3".to_owned(),
            new_node: "4".to_owned(),
            groups: 3,
            items: vec![ReplacementItem {
                volume_id: 7,
                volume: "data".to_owned(),
                old_replica_id: 13,
                new_replica_id: 20,
                step: "catch-up".to_owned(),
                entries_held: 40,
                entries_last: 100,
            }],
            ..Replacement::default()
        };
        Ok(Response::new(state.replacement.get_or_insert(begun).clone()))
    }

    async fn scrub_disk(&self, request: Request<ScrubDiskRequest>) -> Answer<Scrub> {
        let mut state = self.enter()?;
        let request = request.into_inner();
        if state.silent_disks.contains(&request.disk_id) {
            return Err(Status::unavailable("its engine does not answer"));
        }
        let is_stuck = state.scrub_is_stuck;
        let scrub = state.scrub.get_or_insert_with(|| Scrub {
            node: "3".to_owned(),
            path: "/dev/sdb".to_owned(),
            bytes_per_s: 8 << 20,
            next_in_s: Some(3600),
            ..Scrub::default()
        });
        scrub.disk_id.clone_from(&request.disk_id);
        let pass = |blocks| ScrubPass {
            blocks,
            damaged: 2,
            repaired: 1,
            unrepairable: 1,
            took_ms: 700,
        };
        match request.action() {
            ScrubAction::Begin => {
                (scrub.running, scrub.next_in_s) = (Some(pass(0)), None);
                scrub.blocks_expected = 512;
                scrub.bytes_per_s = request.bytes_per_s.max(1 << 20);
            }
            ScrubAction::Stop => scrub.running = None,
            ScrubAction::Unspecified if is_stuck => {}
            // Each look finds it further.
            ScrubAction::Unspecified => {
                if let Some(running) = scrub.running.take() {
                    match running.blocks {
                        512.. => (scrub.last, scrub.last_ended_s_ago) = (Some(pass(512)), 1),
                        blocks => scrub.running = Some(pass(blocks + 256)),
                    }
                }
            }
        }
        Ok(Response::new(scrub.clone()))
    }

    async fn get_replacement(&self, _: Request<GetReplacementRequest>) -> Answer<Replacement> {
        let mut state = self.enter()?;
        let is_stuck = state.replacement_is_stuck;
        let replacement = state
            .replacement
            .as_mut()
            .ok_or_else(|| Status::not_found("no such replacement"))?;
        if is_stuck {
            return Ok(Response::new(replacement.clone()));
        }
        replacement.groups_done = (replacement.groups_done + 1).min(replacement.groups);
        replacement.done = replacement.groups_done == replacement.groups;
        if replacement.done {
            replacement.items.clear();
        }
        Ok(Response::new(replacement.clone()))
    }

    async fn advance_swap(&self, _: Request<AdvanceSwapRequest>) -> Answer<AdvanceSwapReply> {
        Err(Status::unimplemented("the command never asks this"))
    }

    async fn get_cluster(&self, _: Request<GetClusterRequest>) -> Answer<ClusterStatus> {
        let state = self.enter()?;
        let volumes = state.volumes.values().cloned().collect();
        Ok(Response::new(ClusterStatus {
            volumes,
            ..state.cluster.clone()
        }))
    }

    async fn get_catalogue(&self, _: Request<GetCatalogueRequest>) -> Answer<Catalogue> {
        let state = self.enter()?;
        Ok(Response::new(Catalogue {
            cluster_id: state.cluster.cluster_id.clone(),
            cluster_name: state.cluster.cluster_name.clone(),
            revision: 1,
            nodes: state
                .cluster
                .nodes
                .iter()
                .filter_map(|node| node.spec.clone())
                .collect(),
            volumes: state.volumes.values().cloned().collect(),
            record: Vec::new(),
        }))
    }

    async fn create_volume(&self, request: Request<CreateVolumeRequest>) -> Answer<Volume> {
        let mut state = self.enter()?;
        let mut request = request.into_inner();
        let mut origin = None;
        if !request.source_volume.is_empty() {
            let source = state.volume(&request.source_volume)?;
            if request.size_bytes == 0 {
                request.size_bytes = source.size_bytes;
            }
            request.replicas = 3;
            origin = Some(VolumeOrigin {
                name: match request.source_snapshot.as_str() {
                    "" => request.source_volume.clone(),
                    snapshot => format!("{}@{snapshot}", request.source_volume),
                },
                whole: false,
                size_bytes: source.size_bytes,
                filled_bytes: source.size_bytes / 4,
            });
        }
        if let Some(volume) = state.volumes.get(&request.name) {
            if volume.size_bytes == request.size_bytes {
                return Ok(Response::new(volume.clone()));
            }
            return Err(Status::already_exists(format!(
                "its size is {} bytes, not {}",
                volume.size_bytes, request.size_bytes
            )));
        }
        let mut volume = crate::engines::volume(&request.name, request.size_bytes, request.replicas);
        volume.limits = request.limits;
        volume.origin = origin;
        volume.encryption = request.encrypted.then(|| VolumeEncryption {
            cipher: "aes-256-xts".to_owned(),
            service: "file".to_owned(),
            key_name: match request.key_name.as_str() {
                "" => "main".to_owned(),
                name => name.to_owned(),
            },
            key_version: 1,
            erased: false,
        });
        if state.looks_until_ready > 0 {
            volume.set_state(VolumeState::Creating);
        }
        state.volumes.insert(request.name, volume.clone());
        Ok(Response::new(volume))
    }

    async fn list_volumes(&self, _: Request<ListVolumesRequest>) -> Answer<ListVolumesReply> {
        Ok(Response::new(ListVolumesReply {
            volumes: self.enter()?.volumes.values().cloned().collect(),
        }))
    }

    async fn get_volume(&self, request: Request<GetVolumeRequest>) -> Answer<Volume> {
        let mut state = self.enter()?;
        let name = request.into_inner().name;
        state.looks_until_ready = state.looks_until_ready.saturating_sub(1);
        let ready = state.looks_until_ready == 0;
        let volume = state.volume(&name)?;
        if ready {
            volume.set_state(VolumeState::Ready);
            volume.served_bytes = volume.size_bytes;
        }
        Ok(Response::new(volume.clone()))
    }

    async fn resize_volume(&self, request: Request<ResizeVolumeRequest>) -> Answer<Volume> {
        let mut state = self.enter()?;
        let request = request.into_inner();
        let volume = state.volume(&request.name)?;
        if request.size_bytes < volume.size_bytes {
            return Err(Status::failed_precondition("a volume cannot shrink"));
        }
        volume.size_bytes = request.size_bytes;
        Ok(Response::new(volume.clone()))
    }

    async fn limit_volume(&self, request: Request<LimitVolumeRequest>) -> Answer<Volume> {
        let mut state = self.enter()?;
        let request = request.into_inner();
        let volume = state.volume(&request.name)?;
        let limits = volume.limits.get_or_insert_default();
        limits.iops = request.iops.unwrap_or(limits.iops);
        limits.bytes_per_s = request.bytes_per_s.unwrap_or(limits.bytes_per_s);
        limits.burst_ms = request.burst_ms.or(limits.burst_ms);
        Ok(Response::new(volume.clone()))
    }

    async fn delete_volume(&self, request: Request<DeleteVolumeRequest>) -> Answer<DeleteVolumeReply> {
        let mut state = self.enter()?;
        let request = request.into_inner();
        let snapshots = state.snapshots.keys().filter(|(volume, _)| *volume == request.name);
        let has_snapshots = snapshots.count() > 0;
        let volume = state.volume(&request.name)?;
        if has_snapshots && !request.snapshots {
            return Err(Status::failed_precondition(
                "it has snapshots: delete the volume with --snapshots",
            ));
        }
        if !volume.attached_to.is_empty() && !request.force {
            return Err(Status::failed_precondition(format!(
                "it is attached to node {}",
                volume.attached_to
            )));
        }
        state.volumes.remove(&request.name);
        Ok(Response::new(DeleteVolumeReply {}))
    }

    async fn create_snapshot(&self, request: Request<CreateSnapshotRequest>) -> Answer<Snapshot> {
        let mut state = self.enter()?;
        let CreateSnapshotRequest { volume, name } = request.into_inner();
        let size_bytes = state.volume(&volume)?.size_bytes;
        let made = state.looks_until_ready == 0;
        let snapshot = Snapshot {
            volume: volume.clone(),
            name: name.clone(),
            snapshot_id: 3,
            state: if made {
                SnapshotState::Ready
            } else {
                SnapshotState::Creating
            }
            .into(),
            created_unix_s: 951_827_696,
            size_bytes,
            index: 99,
            ..Snapshot::default()
        };
        let snapshot = state.snapshots.entry((volume, name)).or_insert(snapshot).clone();
        Ok(Response::new(snapshot))
    }

    async fn create_snapshots_together(
        &self,
        request: Request<CreateSnapshotsTogetherRequest>,
    ) -> Answer<ListSnapshotsReply> {
        let CreateSnapshotsTogetherRequest { volumes, name } = request.into_inner();
        let mut state = self.enter()?;
        let mut snapshots = Vec::new();
        for volume in volumes {
            let size_bytes = state.volume(&volume)?.size_bytes;
            snapshots.push(Snapshot {
                volume,
                name: name.clone(),
                snapshot_id: 3,
                state: SnapshotState::Ready.into(),
                created_unix_s: 951_827_696,
                size_bytes,
                kept_bytes: Some(8192),
                exclusive_bytes: Some(4096),
                together_id: 3,
                ..Snapshot::default()
            });
        }
        for snapshot in &snapshots {
            let key = (snapshot.volume.clone(), name.clone());
            state.snapshots.insert(key, snapshot.clone());
        }
        Ok(Response::new(ListSnapshotsReply { snapshots }))
    }

    async fn hold_volume(&self, _request: Request<HoldVolumeRequest>) -> Answer<HoldVolumeReply> {
        Err(Status::unimplemented("engines ask each other"))
    }

    async fn list_snapshots(&self, request: Request<ListSnapshotsRequest>) -> Answer<ListSnapshotsReply> {
        let mut state = self.enter()?;
        let of = request.into_inner().volume;
        if !of.is_empty() {
            state.volume(&of)?;
        }
        let snapshots = state
            .snapshots
            .values()
            .filter(|snapshot| of.is_empty() || snapshot.volume == of);
        Ok(Response::new(ListSnapshotsReply {
            snapshots: snapshots.cloned().collect(),
        }))
    }

    async fn get_snapshot(&self, request: Request<GetSnapshotRequest>) -> Answer<Snapshot> {
        let mut state = self.enter()?;
        state.looks_until_ready = state.looks_until_ready.saturating_sub(1);
        let ready = state.looks_until_ready == 0;
        let GetSnapshotRequest { volume, name } = request.into_inner();
        let key = (volume.clone(), name.clone());
        let snapshot = state
            .snapshots
            .get_mut(&key)
            .ok_or_else(|| no_snapshot(&volume, &name))?;
        if ready {
            snapshot.set_state(SnapshotState::Ready);
            snapshot.kept_bytes = Some(8192);
            snapshot.exclusive_bytes = Some(4096);
        }
        Ok(Response::new(snapshot.clone()))
    }

    async fn delete_snapshot(&self, request: Request<DeleteSnapshotRequest>) -> Answer<DeleteSnapshotReply> {
        let DeleteSnapshotRequest { volume, name } = request.into_inner();
        let gone = self.enter()?.snapshots.remove(&(volume.clone(), name.clone()));
        gone.ok_or_else(|| no_snapshot(&volume, &name))?;
        Ok(Response::new(DeleteSnapshotReply {}))
    }

    type DiffSnapshotsStream = tokio_stream::Iter<std::vec::IntoIter<Result<DiffSnapshotsReply, Status>>>;

    async fn diff_snapshots(&self, request: Request<DiffSnapshotsRequest>) -> Answer<Self::DiffSnapshotsStream> {
        let request = request.into_inner();
        let key = (request.volume.clone(), request.to.clone());
        let state = self.enter()?;
        let snapshot = state.snapshots.get(&key).ok_or_else(|| no_snapshot(&key.0, &key.1))?;
        let part = |offset, length, zero| {
            Ok(DiffSnapshotsReply {
                size_bytes: snapshot.size_bytes,
                extents: vec![ChangedExtent { offset, length, zero }],
                next_byte: offset + length,
            })
        };
        let all = vec![part(0, 4096, false), part(4096, 8192, false), part(1 << 20, 4096, true)];
        let parts = if request.from.is_empty() { all } else { Vec::new() };
        Ok(Response::new(tokio_stream::iter(parts)))
    }

    async fn report_snapshot(&self, _: Request<ReportSnapshotRequest>) -> Answer<ReportSnapshotReply> {
        Err(Status::unimplemented("no engine asks a fake"))
    }

    async fn report_whole(&self, _: Request<ReportWholeRequest>) -> Answer<ReportWholeReply> {
        Err(Status::unimplemented("no engine asks a fake"))
    }

    async fn detach_volume(&self, request: Request<DetachVolumeRequest>) -> Answer<DetachVolumeReply> {
        let mut state = self.enter()?;
        let name = request.into_inner().name;
        let volume = state.volume(&name)?;
        volume.attached_to.clear();
        Ok(Response::new(DetachVolumeReply { epoch: 4 }))
    }

    async fn rewrap_volume(&self, request: Request<RewrapVolumeRequest>) -> Answer<RewrapVolumeReply> {
        let mut state = self.enter()?;
        let request = request.into_inner();
        let current = state.master_version;
        let volume = state.volume(&request.name)?;
        let Some(encryption) = &mut volume.encryption else {
            let text = format!("volume '{}' is not encrypted: there is nothing to rewrap", request.name);
            return Err(Status::failed_precondition(text));
        };
        let changed = encryption.key_version != current;
        encryption.key_version = current;
        Ok(Response::new(RewrapVolumeReply {
            changed,
            encryption: Some(encryption.clone()),
        }))
    }

    async fn get_key_status(&self, _: Request<GetKeyStatusRequest>) -> Answer<KeyStatus> {
        Ok(Response::new(self.enter()?.keys.clone()))
    }

    async fn list_local_replicas(&self, _: Request<ListLocalReplicasRequest>) -> Answer<ListLocalReplicasReply> {
        Err(Status::unimplemented("the command never asks this"))
    }

    async fn report_replica(&self, _: Request<ReportReplicaRequest>) -> Answer<ReportReplicaReply> {
        Err(Status::unimplemented("the command never asks this"))
    }

    async fn register_node(&self, _: Request<RegisterNodeRequest>) -> Answer<RegisterNodeReply> {
        Err(Status::unimplemented("the command never asks this"))
    }
}
