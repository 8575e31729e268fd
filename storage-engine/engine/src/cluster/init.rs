//! How an engine becomes a member of a new cluster. It happens on request only, never by itself.
//!
//! Every engine gets the same request. Each notes the plan, claims its disks, and makes its replica of the meta group if it is
//! to have one. Whoever then leads the meta group commits the plan as the catalogue's first command. Each step is
//! durable before the next and done already if repeated, so a half-finished initialisation is finished by repeating it.

use std::sync::Arc;
use std::time::Duration;

use cairn_api::control as api;
use cairn_api::ids::{ClusterId, DiskId, GroupId, LogIndex, ReplicaId};
use cairn_core::event::{Command as CoreCommand, CommandReply, Member};
use tokio::time::Instant;
use tonic::Status;

use crate::control::convert;
use crate::disks::{DiskError, DiskThread, ask};
use crate::engine::{Engine, Phase};
use crate::identity::Identity;
use crate::meta::decide::{carry_out, decide};
use crate::meta::{Catalogue, Command, NodeRecord};

/// The longest cluster name, for people.
const CLUSTER_NAME_BYTES_MAX: usize = 63;
/// How long fresh disks may take to come up.
const DISKS_PATIENCE: Duration = Duration::from_secs(30);
/// How long a core may take for a control command.
const COMMAND_PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// What a request asks for, checked.
#[derive(Debug)]
struct Plan {
    id: ClusterId,
    name: String,
    nodes: Vec<NodeRecord>,
    members: Vec<Member>,
}

impl Plan {
    fn command(&self) -> Command {
        Command::FoundCluster {
            id: self.id,
            name: self.name.clone(),
            nodes: self.nodes.clone(),
            members: self.members.clone(),
        }
    }
}

/// Members of the meta group for so many engines: a majority must be possible, and two cannot have one.
pub fn meta_members(engines: usize) -> usize {
    match engines {
        0..=2 => 1,
        3..=4 => 3,
        _ => 5,
    }
}

fn plan(request: &api::InitClusterRequest) -> Result<Plan, Status> {
    let id: ClusterId = convert::parse_id("cluster_id", &request.cluster_id)?;
    if id.is_nil() {
        return Err(Status::invalid_argument(
            "cluster_id is the nil UUID: choose a random one",
        ));
    }
    if !(1..=CLUSTER_NAME_BYTES_MAX).contains(&request.cluster_name.len()) {
        let rule = format!(
            "cluster_name is '{}': write 1 to {CLUSTER_NAME_BYTES_MAX} bytes",
            request.cluster_name
        );
        return Err(Status::invalid_argument(rule));
    }
    let nodes: Vec<NodeRecord> = request
        .nodes
        .iter()
        .map(convert::node_record)
        .collect::<Result<_, _>>()?;
    Ok(Plan {
        id,
        name: request.cluster_name.clone(),
        members: choose_members(request, &nodes)?,
        nodes,
    })
}

/// The members that the request marks, else the first by name. Equal requests give equal members in equal order.
fn choose_members(request: &api::InitClusterRequest, nodes: &[NodeRecord]) -> Result<Vec<Member>, Status> {
    let mut chosen: Vec<(&api::NodeSpec, &NodeRecord)> = request
        .nodes
        .iter()
        .zip(nodes)
        .filter(|(spec, _)| spec.meta_member)
        .collect();
    if chosen.is_empty() {
        chosen = request.nodes.iter().zip(nodes).collect();
        chosen.sort_by(|one, other| one.1.name.cmp(&other.1.name));
        chosen.truncate(meta_members(nodes.len()));
    }
    if !matches!(chosen.len(), 1 | 3 | 5) {
        let rule = format!(
            "{} nodes are marked as members of the meta group: mark 1, 3 or 5",
            chosen.len()
        );
        return Err(Status::invalid_argument(rule));
    }
    chosen
        .into_iter()
        .zip(1..)
        .map(|((spec, node), number)| {
            let usable = spec.disks.iter().find(|disk| !disk.state.starts_with("failed"));
            let disk = usable.ok_or_else(|| {
                Status::invalid_argument(format!("node '{}' has no usable disk for the meta group", node.name))
            })?;
            Ok(Member {
                replica: ReplicaId(number),
                node: node.id,
                disk: convert::parse_id("disk_id", &disk.disk_id)?,
            })
        })
        .collect()
}

/// Makes this engine a member of the cluster that the request describes.
pub async fn init(engine: &Arc<Engine>, request: &api::InitClusterRequest) -> Result<(), Status> {
    let plan = plan(&in_order(request))?;
    let _one_at_a_time = engine.initialising.lock().await;
    if let Some(cluster) = engine.cluster().filter(|cluster| *cluster != plan.id) {
        return Err(Status::already_exists(format!(
            "engine '{}' belongs to cluster {cluster} already, not {}",
            engine.config.name, plan.id
        )));
    }
    check_own(engine, &plan)?;
    check_repeated(engine, &plan)?;
    // What an engine has kept of a cluster that it did not come to join does not count.
    let view = engine.meta.view();
    let is_other = view.cluster.as_ref().is_some_and(|cluster| cluster.id != plan.id);
    if view.applied == LogIndex(0) || is_other {
        let mut provisional = Catalogue::default();
        let (_, changes) = decide(&provisional, &plan.command())
            .map_err(|refusal| Status::from(crate::meta::group::MetaError::from(refusal)))?;
        carry_out(&mut provisional, LogIndex(0), &changes);
        engine.meta.keep_copy(provisional);
        engine.meta.fence().await;
    }
    // Claiming and starting write to disks and wait for threads: other requests go on meanwhile.
    tokio::task::block_in_place(|| claim(engine, plan.id))?;
    wait_for_disks(engine).await?;
    ensure_meta_group(engine).await?;
    engine.wake.notify_one();
    tracing::info!(cluster = %plan.id, name = plan.name, "member of the cluster");
    Ok(())
}

pub(super) fn claim(engine: &Engine, cluster: ClusterId) -> Result<(), Status> {
    let refuse = |error: DiskError| Status::failed_precondition(error.to_string());
    let identity = engine.identity();
    engine.disks.claim(cluster, identity.node).map_err(refuse)?;
    let identity = Identity {
        cluster: Some(cluster),
        ..identity
    };
    engine
        .set_identity(identity)
        .map_err(|error| Status::internal(error.to_string()))?;
    engine.start_disks().map_err(refuse)
}

/// The request with nodes and disks in the order of their ids: replicas are numbered by place, and every engine must number
/// them alike however its client happened to list them.
fn in_order(request: &api::InitClusterRequest) -> api::InitClusterRequest {
    let mut ordered = request.clone();
    ordered.nodes.sort_by(|one, other| one.node_id.cmp(&other.node_id));
    for node in &mut ordered.nodes {
        node.disks.sort_by(|one, other| one.disk_id.cmp(&other.disk_id));
    }
    ordered
}

/// A repeated request must want the same meta group: two plans under one cluster id could make two meta groups.
fn check_repeated(engine: &Engine, plan: &Plan) -> Result<(), Status> {
    let view = engine.meta.view();
    let known = view.cluster.as_ref().filter(|cluster| cluster.id == plan.id);
    match known {
        Some(cluster) if cluster.meta_spec().members != plan.members => Err(Status::already_exists(format!(
            "engine '{}' has noted other members of the meta group for cluster {}: repeat the first request as it was",
            engine.config.name, plan.id
        ))),
        _ => Ok(()),
    }
}

/// What the request says of this engine must be so.
fn check_own(engine: &Engine, plan: &Plan) -> Result<(), Status> {
    let own = engine.node();
    let Some(spec) = plan.nodes.iter().find(|node| node.id == own) else {
        return Err(Status::invalid_argument(format!(
            "engine '{}' ({own}) is not among the nodes of the request",
            engine.config.name
        )));
    };
    if spec.name != engine.config.name {
        return Err(Status::invalid_argument(format!(
            "node {own} is '{}' in the request, but its configuration says '{}'",
            spec.name, engine.config.name
        )));
    }
    let disks: Vec<DiskId> = engine
        .disks
        .views()
        .iter()
        .filter_map(crate::disks::DiskView::id)
        .collect();
    if let Some(disk) = spec.disks.iter().find(|disk| !disks.contains(&disk.id)) {
        return Err(Status::invalid_argument(format!(
            "disk {} ({}) is not one of engine '{}'",
            disk.id, disk.path, engine.config.name
        )));
    }
    Ok(())
}

pub(super) async fn wait_for_disks(engine: &Arc<Engine>) -> Result<(), Status> {
    let deadline = Instant::now() + DISKS_PATIENCE;
    while engine.phase() == Phase::Recovering {
        if Instant::now() >= deadline {
            return Err(Status::deadline_exceeded(format!(
                "the disks of engine '{}' have not come up within {} s; repeat the request",
                engine.config.name,
                DISKS_PATIENCE.as_secs()
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
    if engine.disks.serving().is_empty() {
        let states: Vec<String> = engine
            .disks
            .views()
            .iter()
            .map(|view| format!("{} ({})", view.config.path.display(), view.state.describe()))
            .collect();
        return Err(Status::failed_precondition(format!(
            "no disk serves: {}",
            states.join(", ")
        )));
    }
    Ok(())
}

/// Makes this engine's replica of the meta group, if the plan wants one here and none was ever made.
///
/// It is made once: made again on a disk that lost it, it would vote with an empty log and undo what was committed.
pub async fn ensure_meta_group(engine: &Arc<Engine>) -> Result<(), Status> {
    let _one_at_a_time = engine.attaching.lock().await;
    let view = engine.meta.view();
    let identity = engine.identity();
    let Some(cluster) = &view.cluster else { return Ok(()) };
    if identity.meta_made || engine.meta.is_member() || view.applied != LogIndex(0) {
        return Ok(());
    }
    let Some(own) = cluster.members.iter().find(|member| member.node == identity.node) else {
        return Ok(());
    };
    let Some(thread) = engine.disks.thread_of(own.disk) else {
        return Err(Status::failed_precondition(format!(
            "disk {}, which is to hold the meta group's replica, does not serve",
            own.disk
        )));
    };
    let spec = cluster.meta_spec();
    let refuse = |error: crate::disks::AskError| Status::unavailable(format!("the meta group was not made: {error}"));
    let create = CoreCommand::CreateGroup {
        spec,
        replica: own.replica,
    };
    ask(&thread, create, COMMAND_PATIENCE).await.map_err(refuse)?;
    tracing::info!(disk = %own.disk, replica = %own.replica, "made a replica of the meta group");
    attach(engine, own.disk, &thread).await.map_err(refuse)?;
    Ok(())
}

/// Recovery has found the meta group's replica on this disk.
pub async fn attach_meta_group(
    engine: &Arc<Engine>,
    disk: DiskId,
    thread: &Arc<dyn DiskThread>,
) -> Result<(), crate::disks::AskError> {
    let _one_at_a_time = engine.attaching.lock().await;
    if engine.meta.is_on(disk) {
        return Ok(());
    }
    attach(engine, disk, thread).await
}

/// The meta group's commands are applied from where the own state machine stands.
async fn attach(
    engine: &Arc<Engine>,
    disk: DiskId,
    thread: &Arc<dyn DiskThread>,
) -> Result<(), crate::disks::AskError> {
    let identity = engine.identity();
    if !identity.meta_made
        && let Err(error) = engine.set_identity(Identity {
            meta_made: true,
            ..identity
        })
    {
        tracing::error!(%error, "cannot note that the meta group's replica was made");
    }
    let start = CoreCommand::StartApply {
        group: GroupId::META,
        applied: engine.meta.applied(),
    };
    ask(thread, start, COMMAND_PATIENCE).await?;
    let members = match ask(thread, CoreCommand::Inspect, COMMAND_PATIENCE).await? {
        CommandReply::Groups(groups) => groups
            .into_iter()
            .find(|status| status.spec.group == GroupId::META)
            .map(|status| status.membership.all().copied().collect())
            .unwrap_or_default(),
        _ => Vec::new(),
    };
    engine.meta.attach(disk, Arc::clone(thread), members);
    Ok(())
}

/// On the leader of a meta group that holds nothing yet: commits the plan.
pub async fn found(engine: &Arc<Engine>) {
    let view = engine.meta.view();
    if view.applied != LogIndex(0) || !engine.meta.is_leader() {
        return;
    }
    let Some(cluster) = &view.cluster else {
        tracing::warn!(
            "this engine leads the meta group, but has lost the plan of the cluster: repeat `cairn cluster init`"
        );
        return;
    };
    let command = Command::FoundCluster {
        id: cluster.id,
        name: cluster.name.clone(),
        nodes: view.nodes.values().cloned().collect(),
        members: cluster.members.clone(),
    };
    match engine.meta.commit(&command).await {
        Ok(_) => tracing::info!(cluster = %cluster.id, name = cluster.name, "the cluster is founded"),
        Err(error) => tracing::warn!(%error, "the cluster is not founded yet"),
    }
}
