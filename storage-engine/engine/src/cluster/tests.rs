//! Whole engines with their gRPC and their catalogues, on disks that are fakes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cairn_api::control as api;
use cairn_api::control::control_client::ControlClient;
use cairn_api::ids::{ClusterId, GroupId, NodeId};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::Channel;

use crate::config::{Config, Overrides};
use crate::daemon::{self, DaemonError};
use crate::fakes::World;

pub(super) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), DaemonError>>,
}

pub(super) struct Bench {
    pub(super) world: World,
    /// The id of its cluster: a port that another test's engine had must not lead into this one's.
    cluster: ClusterId,
    directory: tempfile::TempDir,
    names: Vec<String>,
    ports: Vec<u16>,
    running: Vec<Option<Running>>,
    /// A second disk, for the engines that have one.
    pub(super) seconds: Vec<usize>,
}

impl Bench {
    pub(super) async fn new(engines: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let names = (0..engines).map(|number| format!("n{number}")).collect();
        let listeners: Vec<_> = (0..engines)
            .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let ports = listeners
            .iter()
            .map(|listener| listener.local_addr().unwrap().port())
            .collect();
        drop(listeners);
        let mut bench = Self {
            world: World::default(),
            cluster: ClusterId::random(),
            directory,
            names,
            ports,
            running: (0..engines).map(|_| None).collect(),
            seconds: Vec::new(),
        };
        for number in 0..engines {
            bench.world.format(&bench.disk(number));
            bench.start(number).await;
        }
        bench
    }

    pub(super) fn disk(&self, number: usize) -> PathBuf {
        self.directory.path().join(format!("disk{number}"))
    }

    /// The engine's second disk.
    pub(super) fn second(&self, number: usize) -> PathBuf {
        self.directory.path().join(format!("second{number}"))
    }

    /// Starts one more engine, on a formatted disk, in no cluster.
    pub(super) async fn grow(&mut self) -> usize {
        let number = self.names.len();
        self.names.push(format!("n{number}"));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        self.ports.push(listener.local_addr().unwrap().port());
        drop(listener);
        self.running.push(None);
        self.world.format(&self.disk(number));
        self.start(number).await;
        number
    }

    /// The file of master keys, which is there once a test writes it.
    pub(super) fn keys(&self) -> PathBuf {
        self.directory.path().join("master-keys")
    }

    pub(super) fn data_dir(&self, number: usize) -> PathBuf {
        self.directory.path().join(&self.names[number])
    }

    fn config(&self, number: usize) -> Config {
        let mut text = format!(
            "name = \"{}\"\ndata_dir = \"{}\"\n[control]\nlisten = \"127.0.0.1:{}\"\n[data]\nlisten = \
             \"127.0.0.1:0\"\n[[disk]]\npath = \"{}\"\n",
            self.names[number],
            self.data_dir(number).display(),
            self.ports[number],
            self.disk(number).display()
        );
        if self.seconds.contains(&number) {
            text.push_str(&format!("[[disk]]\npath = \"{}\"\n", self.second(number).display()));
        }
        text.push_str(&format!("[encryption.file]\npath = \"{}\"\n", self.keys().display()));
        Config::parse(Path::new("test.toml"), &text, &Overrides::default()).unwrap()
    }

    fn spawn(&self, number: usize) -> Running {
        let (stop, stopped) = oneshot::channel();
        let config = self.config(number);
        let world = Arc::new(self.world.clone());
        let task = tokio::spawn(async move {
            daemon::run(config, world, async {
                let _ = stopped.await;
                "the test's end"
            })
            .await
        });
        Running { stop, task }
    }

    /// Starts an engine and waits until it answers. sled lets go of its lock a moment after the last engine on the same
    /// directory has ended, so a start may have to be repeated.
    pub(super) async fn start(&mut self, number: usize) {
        for _ in 0..50 {
            let running = self.spawn(number);
            for _ in 0..100 {
                if running.task.is_finished() {
                    break;
                }
                if self.try_node(number).await.is_ok() {
                    self.running[number] = Some(running);
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        panic!("engine {number} does not start");
    }

    pub(super) async fn stop(&mut self, number: usize) {
        let running = self.running[number].take().unwrap();
        let _ = running.stop.send(());
        running.task.await.unwrap().unwrap();
    }

    pub(super) fn client(&self, number: usize) -> ControlClient<Channel> {
        let address = format!("http://127.0.0.1:{}", self.ports[number]);
        ControlClient::new(tonic::transport::Endpoint::from_shared(address).unwrap().connect_lazy())
    }

    async fn try_node(&self, number: usize) -> Result<api::NodeInfo, tonic::Status> {
        self.client(number)
            .get_node(api::GetNodeRequest {})
            .await
            .map(tonic::Response::into_inner)
    }

    pub(super) async fn node(&self, number: usize) -> api::NodeInfo {
        self.try_node(number).await.unwrap()
    }

    async fn request(&self) -> api::InitClusterRequest {
        let mut nodes = Vec::new();
        for number in 0..self.names.len() {
            let info = self.node(number).await;
            nodes.push(api::NodeSpec {
                node_id: info.node_id,
                name: info.name,
                control_address: info.control_address,
                data_address: info.data_address,
                nbd_address: info.nbd_address,
                disks: info.disks,
                meta_member: false,
            });
        }
        let cluster_id = self.cluster.to_string();
        api::InitClusterRequest {
            cluster_id,
            cluster_name: "test".to_owned(),
            nodes,
        }
    }

    async fn init(&self, request: &api::InitClusterRequest) {
        for number in 0..self.names.len() {
            self.client(number).init_cluster(request.clone()).await.unwrap();
        }
    }

    async fn founded(&self) {
        for _ in 0..200 {
            if self
                .client(0)
                .get_catalogue(api::GetCatalogueRequest {})
                .await
                .is_ok_and(|reply| reply.get_ref().revision > 0)
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the cluster was not founded");
    }

    pub(super) async fn three() -> Self {
        let bench = Self::new(3).await;
        bench.init(&bench.request().await).await;
        bench.founded().await;
        bench
    }

    pub(super) async fn create(
        &self,
        number: usize,
        name: &str,
        size_bytes: u64,
    ) -> Result<api::Volume, tonic::Status> {
        let request = api::CreateVolumeRequest {
            name: name.to_owned(),
            size_bytes,
            replicas: 3,
            ..api::CreateVolumeRequest::default()
        };
        self.client(number)
            .create_volume(request)
            .await
            .map(tonic::Response::into_inner)
    }

    pub(super) async fn volume(&self, number: usize, name: &str) -> Result<api::Volume, tonic::Status> {
        let request = api::GetVolumeRequest { name: name.to_owned() };
        self.client(number)
            .get_volume(request)
            .await
            .map(tonic::Response::into_inner)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_never_makes_a_cluster_by_itself() {
    let bench = Bench::new(1).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(bench.world.groups(&bench.disk(0)), []);
    assert!(bench.world.label(&bench.disk(0)).cluster.is_nil());
    let info = bench.node(0).await;
    assert_eq!(
        (info.state, info.cluster_id.as_str()),
        (api::NodeState::Uninitialised.into(), "")
    );
    let refusal = bench.create(0, "v", 4096).await.unwrap_err();
    assert_eq!(refusal.code(), Code::FailedPrecondition);
    assert!(
        refusal.message().contains("cairn cluster init"),
        "{}",
        refusal.message()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn three_engines_become_a_cluster_and_make_and_delete_a_volume() {
    let bench = Bench::three().await;
    for number in 0..3 {
        assert_eq!(bench.world.groups(&bench.disk(number)), [GroupId::META]);
        assert_eq!(bench.world.label(&bench.disk(number)).cluster, bench.cluster);
    }
    // From an engine that does not lead, twice, and once with another size.
    let volume = bench.create(2, "v", 1 << 20).await.unwrap();
    assert_eq!(volume.state, i32::from(api::VolumeState::Ready));
    assert_eq!(
        (volume.health.as_str(), volume.replicas.len(), volume.leader.is_empty()),
        ("healthy", 3, false)
    );
    assert_eq!(bench.create(1, "v", 1 << 20).await.unwrap().volume_id, volume.volume_id);
    let refusal = bench.create(1, "v", 1 << 21).await.unwrap_err();
    assert_eq!(refusal.code(), Code::AlreadyExists);
    assert!(refusal.message().contains("1 MiB, not 2 MiB"), "{}", refusal.message());
    assert_eq!(
        bench.world.groups(&bench.disk(1)),
        [GroupId::META, GroupId(volume.volume_id)]
    );
    let status = bench
        .client(1)
        .get_cluster(api::GetClusterRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(status.nodes.iter().all(|node| node.reachable), "{status:?}");
    assert_eq!((status.meta_leader.as_str(), status.volumes.len()), ("n0", 1));
    let request = api::DeleteVolumeRequest {
        name: "v".to_owned(),
        force: false,
        snapshots: false,
    };
    bench.client(2).delete_volume(request.clone()).await.unwrap();
    assert_eq!(bench.volume(1, "v").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(
        bench.client(2).delete_volume(request).await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(bench.world.groups(&bench.disk(1)), [GroupId::META]);
}

#[tokio::test(flavor = "multi_thread")]
async fn initialising_again_is_done_already_and_another_cluster_is_refused() {
    let bench = Bench::three().await;
    let mut request = bench.request().await;
    bench.init(&request).await;
    request.cluster_id = ClusterId::from_bytes([8; 16]).to_string();
    let refusal = bench.client(0).init_cluster(request).await.unwrap_err();
    assert_eq!(refusal.code(), Code::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_finished_initialisation_is_finished_by_repeating_it() {
    let mut bench = Bench::new(3).await;
    let request = bench.request().await;
    bench.client(0).init_cluster(request.clone()).await.unwrap();
    bench.stop(0).await;
    bench.start(0).await;
    bench.init(&request).await;
    bench.founded().await;
    bench.create(0, "v", 4096).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_repeated_in_another_order_is_the_same_and_with_other_members_is_refused() {
    let bench = Bench::new(3).await;
    let first = bench.request().await;
    bench.client(0).init_cluster(first.clone()).await.unwrap();
    let mut other = first.clone();
    other.nodes.truncate(2);
    other.nodes.iter_mut().for_each(|node| node.meta_member = false);
    let refused = bench.client(0).init_cluster(other).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(
        refused.message().contains("other members of the meta group"),
        "{}",
        refused.message()
    );
    let mut reversed = first;
    reversed.nodes.reverse();
    for number in 0..3 {
        bench.client(number).init_cluster(reversed.clone()).await.unwrap();
    }
    bench.founded().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_does_not_fit_the_engine_is_refused_by_name() {
    let bench = Bench::new(2).await;
    let request = bench.request().await;
    let without = api::InitClusterRequest {
        nodes: request.nodes[1..].to_vec(),
        ..request.clone()
    };
    let mut renamed = request.clone();
    renamed.nodes[0].name = "other".to_owned();
    let mut two_members = request.clone();
    two_members.nodes.iter_mut().for_each(|node| node.meta_member = true);
    for (request, part) in [
        (without, "not among the nodes"),
        (renamed, "'other'"),
        (two_members, "mark 1, 3 or 5"),
    ] {
        let refusal = bench.client(0).init_cluster(request).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument);
        assert!(refusal.message().contains(part), "{}", refusal.message());
    }
    assert!(bench.world.label(&bench.disk(0)).cluster.is_nil());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_data_directory_is_restored_from_the_disks_and_the_log() {
    let mut bench = Bench::three().await;
    let volume = bench.create(0, "v", 4096).await.unwrap();
    let before = bench.node(1).await;
    bench.stop(1).await;
    std::fs::remove_dir_all(bench.data_dir(1)).unwrap();
    bench.start(1).await;
    assert_eq!(bench.node(1).await.node_id, before.node_id);
    // With the first engine gone the second leads, from the catalogue that it has replayed.
    bench.stop(0).await;
    for _ in 0..100 {
        if bench.node(1).await.meta_leader == "n1" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let found = bench.volume(1, "v").await.unwrap();
    assert_eq!((found.volume_id, found.health.as_str()), (volume.volume_id, "degraded"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_lost_is_not_made_again() {
    let bench = Bench::three().await;
    let volume = bench.create(0, "v", 4096).await.unwrap();
    bench.world.lose(&bench.disk(2), GroupId(volume.volume_id));
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(bench.world.groups(&bench.disk(2)), [GroupId::META]);
    let found = bench.volume(1, "v").await.unwrap();
    assert_eq!(found.health, "degraded");
    let roles: Vec<_> = found
        .replicas
        .iter()
        .filter_map(|replica| replica.status.clone())
        .map(|s| s.role)
        .collect();
    assert!(roles.contains(&"damaged".to_owned()), "{roles:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_does_not_tell_of_its_replicas_has_not_lost_them() {
    let bench = Bench::three().await;
    bench.create(0, "v", 4096).await.unwrap();
    bench.world.mute(&bench.disk(2));
    let found = bench.volume(1, "v").await.unwrap();
    assert_ne!(found.health, "healthy", "nothing is known of the third replica");
    let told = found.replicas.iter().filter(|replica| replica.status.is_some());
    assert_eq!(told.count(), 2, "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_the_refusal_says_who_can_be_reached() {
    let mut bench = Bench::three().await;
    bench.stop(0).await;
    bench.stop(1).await;
    let refusal = bench.create(2, "v", 4096).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unavailable);
    assert_eq!(
        refusal.message(),
        "the meta group has no leader (reachable engines: n2)"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_need_three_nodes_and_the_refusal_names_them() {
    let mut bench = Bench::three().await;
    bench.stop(2).await;
    let refusal = bench.create(0, "v", 4096).await.unwrap_err();
    assert_eq!(refusal.code(), Code::FailedPrecondition);
    for part in [
        "3 replicas need 3 nodes with a healthy disk; there are 2",
        "n2 (does not answer)",
        "n0 (8 GiB free)",
    ] {
        assert!(refusal.message().contains(part), "{}", refusal.message());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_without_a_usable_disk_ends_with_the_reasons() {
    let mut bench = Bench::new(1).await;
    bench.stop(0).await;
    bench.world.break_disk(&bench.disk(0));
    let error = bench.spawn(0).task.await.unwrap().unwrap_err().to_string();
    assert!(
        error.contains("no disk can be used") && error.contains("cannot be read"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_whose_last_disk_fails_ends_with_the_reason() {
    let bench = Bench::three().await;
    bench.world.fail(&bench.disk(1), "the disk ended early");
    let mut bench = bench;
    let running = bench.running[1].take().unwrap();
    let error = running.task.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("the disk ended early"), "{error}");
    assert_eq!(bench.node(0).await.state, i32::from(api::NodeState::Ready));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_of_another_cluster_is_refused_by_name() {
    let mut bench = Bench::three().await;
    bench.stop(1).await;
    bench
        .world
        .relabel(&bench.disk(1), ClusterId::from_bytes([9; 16]), NodeId::random());
    let error = loop {
        match bench.spawn(1).task.await.unwrap().unwrap_err() {
            DaemonError::Store(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            error => break error.to_string(),
        }
    };
    assert!(error.contains("disk1 belongs to cluster 09090909"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_outside_the_meta_group_makes_replicas_and_recovers_from_the_loss_of_its_copy() {
    let mut bench = Bench::new(4).await;
    bench.init(&bench.request().await).await;
    bench.founded().await;
    assert_eq!(bench.world.groups(&bench.disk(3)), []);
    assert!(!bench.node(3).await.meta_member);
    // Two volumes on three of four equal disks: the second goes where the first has left most room.
    for name in ["one", "two"] {
        let volume = bench.create(3, name, 4096).await.unwrap();
        assert_eq!(volume.health, "healthy", "{volume:?}");
    }
    assert!(!bench.world.groups(&bench.disk(3)).is_empty());
    bench.stop(3).await;
    std::fs::remove_dir_all(bench.data_dir(3)).unwrap();
    bench.start(3).await;
    // Until a member has greeted it, it knows of no cluster to ask; that may be over before this question comes.
    if let Err(refusal) = bench.volume(3, "two").await {
        assert_eq!(refusal.code(), Code::Unavailable);
    }
    for _ in 0..150 {
        if bench.volume(3, "two").await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(bench.volume(3, "two").await.unwrap().health, "healthy");
    let request = api::DeleteVolumeRequest {
        name: "two".to_owned(),
        force: false,
        snapshots: false,
    };
    bench.client(3).delete_volume(request).await.unwrap();
    assert_eq!(bench.volume(0, "two").await.unwrap_err().code(), Code::NotFound);
}
