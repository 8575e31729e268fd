//! The live state of replicas: every engine is asked at once, none for longer than a second.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cairn_api::control as api;
use cairn_api::ids::{DiskId, GroupId, NodeId, ReplicaId};
use cairn_core::event::{Command, CommandReply, GroupStatus, Member};
use tonic::{Response, Status};

use super::convert;
use crate::disks::ask;
use crate::engine::Engine;
use crate::meta::{Catalogue, ReplicaRecord, VolumePhase, VolumeRecord};

/// How long an engine may take to tell of its replicas.
const PATIENCE: Duration = Duration::from_secs(1);
/// The role of a replica that was made once and is gone from its disk.
pub const ROLE_DAMAGED: &str = "damaged";

/// What the engines say.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Each replica that was found.
    pub replicas: BTreeMap<ReplicaId, api::ReplicaStatus>,
    /// The engines that answered.
    pub answered: BTreeSet<NodeId>,
}

impl Survey {
    /// Whether the replica's engine answers, and its disk has it.
    pub fn is_alive(&self, replica: ReplicaId) -> bool {
        is_alive(self.replicas.get(&replica))
    }
}

/// The groups on each disk of this engine whose core tells of them. Of a disk that is not there nothing is known:
/// its core is busy or stops, and its groups are not gone.
pub async fn groups_by_disk(engine: &Engine) -> BTreeMap<DiskId, Vec<GroupStatus>> {
    let mut told = BTreeMap::new();
    for (disk, thread) in engine.disks.serving() {
        match ask(&thread, Command::Inspect, PATIENCE).await {
            Ok(CommandReply::Groups(found)) => {
                told.insert(disk, found);
            }
            Ok(other) => tracing::error!(%disk, ?other, "the disk's core answered an inspection with something else"),
            Err(error) => tracing::warn!(%disk, %error, "the disk's core does not tell of its groups"),
        }
    }
    told
}

/// The groups on this engine's disks, as those cores see them that tell.
pub async fn local_groups(engine: &Engine) -> Vec<(DiskId, GroupStatus)> {
    let told = groups_by_disk(engine).await.into_iter();
    told.flat_map(|(disk, groups)| groups.into_iter().map(move |status| (disk, status)))
        .collect()
}

/// This engine's replicas for the control API; `volume_id` 0 asks for those of all volumes.
pub async fn local_replicas(engine: &Engine, volume_id: u64, with_snapshots: bool) -> Vec<api::LocalReplica> {
    let wanted = |group: GroupId| match volume_id {
        0 => group != GroupId::META,
        volume_id => group.get() == volume_id,
    };
    // What is in the catalogue only later may have been made after its disk told.
    let view = engine.meta.view();
    let told = groups_by_disk(engine).await;
    let of_disk = |(disk, groups): (&DiskId, &Vec<GroupStatus>)| -> Vec<api::LocalReplica> {
        let groups = groups.iter().filter(|status| wanted(status.spec.group));
        let replica = |status: &GroupStatus| api::LocalReplica {
            volume_id: status.spec.group.get(),
            replica_id: status.replica.get(),
            disk_id: disk.to_string(),
            status: Some(convert::replica_status(status)),
        };
        groups.map(replica).collect()
    };
    let mut replicas: Vec<_> = told.iter().flat_map(of_disk).collect();
    if with_snapshots {
        for replica in &mut replicas {
            let spaces = snapshot_space(engine, replica).await;
            if let Some(status) = &mut replica.status {
                status.snapshot_space = spaces;
            }
        }
    }
    replicas.extend(damaged(&view, &told, wanted));
    replicas
}

/// What each snapshot takes, where the replica leads.
async fn snapshot_space(engine: &Engine, replica: &api::LocalReplica) -> Vec<api::SnapshotSpace> {
    let leads = replica.status.as_ref().is_some_and(|status| status.role == "leader");
    let thread = replica
        .disk_id
        .parse()
        .ok()
        .and_then(|disk| engine.disks.thread_of(disk));
    let Some(thread) = thread.filter(|_| leads) else {
        return Vec::new();
    };
    match ask(&thread, Command::Snapshots(GroupId(replica.volume_id)), PATIENCE).await {
        Ok(CommandReply::Snapshots(found)) => found.iter().map(convert::snapshot_space).collect(),
        _ => Vec::new(),
    }
}

/// Replicas that were made here once and are not on their disk, which told of what it has.
fn damaged(
    view: &Catalogue,
    told: &BTreeMap<DiskId, Vec<GroupStatus>>,
    wanted: impl Fn(GroupId) -> bool,
) -> Vec<api::LocalReplica> {
    let is_missing = |replica: &ReplicaRecord| {
        let groups = told.get(&replica.disk);
        groups.is_some_and(|groups| groups.iter().all(|status| status.replica != replica.id))
    };
    view.volumes
        .values()
        .filter(|volume| wanted(volume.group) && volume.phase() != VolumePhase::Deleting)
        .flat_map(|volume| volume.replicas.iter().map(move |replica| (volume, replica)))
        .filter(|(_, replica)| replica.created && is_missing(replica))
        .map(|(volume, replica)| api::LocalReplica {
            volume_id: volume.group.get(),
            replica_id: replica.id.get(),
            disk_id: replica.disk.to_string(),
            status: Some(api::ReplicaStatus {
                role: ROLE_DAMAGED.to_owned(),
                ..api::ReplicaStatus::default()
            }),
        })
        .collect()
}

/// Asks the engines that hold replicas of `volume`, or every engine if none is given.
pub async fn survey(engine: &Arc<Engine>, catalogue: &Catalogue, volume: Option<&VolumeRecord>) -> Survey {
    let holds = |node: NodeId| {
        volume.is_none_or(|volume| {
            let mut all = volume.members_and_coming();
            all.any(|member| member.node == node)
        })
    };
    let volume_id = volume.map_or(0, |volume| volume.group.get());
    ask_engines(engine, catalogue, (volume_id, false), holds).await
}

/// As [`survey`], with what each snapshot takes.
pub async fn survey_with_snapshots(
    engine: &Arc<Engine>,
    catalogue: &Catalogue,
    volume: Option<&VolumeRecord>,
) -> Survey {
    let volume_id = volume.map_or(0, |volume| volume.group.get());
    ask_engines(engine, catalogue, (volume_id, true), |_| true).await
}

/// Asks these nodes for their replicas of one group, which may be the meta group.
pub async fn survey_group(
    engine: &Arc<Engine>,
    catalogue: &Catalogue,
    group: GroupId,
    nodes: &BTreeSet<NodeId>,
) -> Survey {
    ask_engines(engine, catalogue, (group.get(), false), |node| nodes.contains(&node)).await
}

async fn ask_engines(
    engine: &Arc<Engine>,
    catalogue: &Catalogue,
    (volume_id, with_snapshots): (u64, bool),
    holds: impl Fn(NodeId) -> bool,
) -> Survey {
    let mut asked = Vec::new();
    for node in catalogue.nodes.values().filter(|node| holds(node.id)) {
        let engine = Arc::clone(engine);
        let (id, address) = (node.id, node.control_address.clone());
        asked.push((
            id,
            tokio::spawn(async move { ask_engine(&engine, id, &address, (volume_id, with_snapshots)).await }),
        ));
    }
    let mut survey = Survey::default();
    for (node, answer) in asked {
        match answer.await {
            Ok(Ok(replicas)) => {
                survey.answered.insert(node);
                for replica in replicas {
                    if let Some(status) = replica.status {
                        survey.replicas.insert(ReplicaId(replica.replica_id), status);
                    }
                }
            }
            Ok(Err(status)) => tracing::debug!(%node, %status, "an engine does not tell of its replicas"),
            Err(error) => tracing::error!(%node, %error, "asking an engine for its replicas failed"),
        }
    }
    survey
}

async fn ask_engine(
    engine: &Arc<Engine>,
    node: NodeId,
    address: &str,
    (volume_id, with_snapshots): (u64, bool),
) -> Result<Vec<api::LocalReplica>, Status> {
    if node == engine.node() {
        return Ok(local_replicas(engine, volume_id, with_snapshots).await);
    }
    let mut client = engine.channels.client(address)?;
    let request = api::ListLocalReplicasRequest {
        volume_id,
        with_snapshots,
    };
    match tokio::time::timeout(PATIENCE, client.list_local_replicas(request)).await {
        Ok(reply) => reply.map(Response::into_inner).map(|reply| reply.replicas),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

/// The volume's leader, of those that the survey found.
pub fn leader_of<'a>(volume: &VolumeRecord, survey: &'a Survey) -> Option<(Member, &'a api::ReplicaStatus)> {
    // A deposed leader may still believe in itself: the highest term is right.
    // A newcomer may lead before the catalogue has heard that it took its place.
    volume
        .members_and_coming()
        .filter_map(|member| Some((member, survey.replicas.get(&member.replica)?)))
        .filter(|(_, status)| status.role == "leader")
        .max_by_key(|(_, status)| status.term)
}

/// A volume with what the survey found of it.
pub fn describe(catalogue: &Catalogue, volume: &VolumeRecord, survey: &Survey) -> api::Volume {
    let mut message = convert::volume(volume);
    let hidden = catalogue.hidden_snapshots(volume.group);
    for replica in message.replicas.iter_mut().chain(&mut message.joining) {
        replica.status = survey.replicas.get(&ReplicaId(replica.replica_id)).cloned();
        if let Some(status) = &mut replica.status {
            status.snapshots = status.snapshots.saturating_sub(hidden);
        }
    }
    let leader = leader_of(volume, survey);
    if let Some((member, status)) = &leader {
        message.leader = catalogue.node_name(member.node);
        message.served_bytes = status.size_bytes;
        if let Some(origin) = message.origin.as_mut().filter(|origin| !origin.whole) {
            origin.filled_bytes = status.filled_bytes.min(origin.size_bytes);
        }
        message.attached_to = status
            .holder
            .parse()
            .map(|holder| catalogue.node_name(holder))
            .unwrap_or_default();
    }
    if volume.phase() == VolumePhase::Ready {
        let leader_committed = leader.as_ref().map_or(0, |(_, status)| status.committed);
        let alive = message
            .replicas
            .iter()
            .filter(|replica| is_alive(replica.status.as_ref()) && keeps_up(replica.status.as_ref(), leader_committed))
            .count();
        message.health = match (leader.is_some(), alive) {
            (true, alive) if alive == message.replicas.len() => "healthy",
            (true, alive) if alive * 2 > message.replicas.len() => "degraded",
            _ => "unavailable",
        }
        .to_owned();
    }
    message
}

/// How far a replica's log may end behind what is committed for it to count as whole: what is on its way to a follower that
/// keeps up. One that is further behind is being caught up, and until then a majority cannot rely on it.
const BEHIND_MAX: u64 = 512;

fn keeps_up(status: Option<&api::ReplicaStatus>, leader_committed: u64) -> bool {
    status.is_some_and(|status| status.last + BEHIND_MAX >= leader_committed)
}

fn is_alive(status: Option<&api::ReplicaStatus>) -> bool {
    status.is_some_and(|status| status.role != ROLE_DAMAGED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::tests::{add_volume, sample};

    fn status(role: &str, term: u64) -> api::ReplicaStatus {
        api::ReplicaStatus {
            role: role.to_owned(),
            term,
            ..api::ReplicaStatus::default()
        }
    }

    fn health(made: bool, roles: [Option<(&str, u64)>; 3]) -> (String, String) {
        let mut catalogue = sample(3);
        let group = add_volume(&mut catalogue, "v", 8192, &[1, 2, 3]);
        let volume = catalogue.volumes.get_mut(&group).unwrap();
        volume.replicas.iter_mut().for_each(|replica| replica.created = made);
        let volume = volume.clone();
        let mut survey = Survey::default();
        for (replica, role) in volume.replicas.iter().zip(roles) {
            if let Some((role, term)) = role {
                survey.replicas.insert(replica.id, status(role, term));
            }
        }
        let message = describe(&catalogue, &volume, &survey);
        (message.health, message.leader)
    }

    #[test]
    fn health_follows_the_replicas_that_answer_and_the_leader_of_the_highest_term() {
        let follower = Some(("follower", 2));
        let leader = Some(("leader", 2));
        assert_eq!(
            health(true, [leader, follower, follower]),
            ("healthy".into(), "n1".into())
        );
        assert_eq!(health(true, [None, leader, follower]), ("degraded".into(), "n2".into()));
        assert_eq!(health(true, [Some(("damaged", 0)), leader, follower]).0, "degraded");
        assert_eq!(health(true, [None, None, leader]).0, "unavailable");
        assert_eq!(
            health(true, [follower, follower, follower]),
            ("unavailable".into(), String::new())
        );
        assert_eq!(health(true, [Some(("leader", 1)), leader, follower]).1, "n2");
        assert_eq!(health(false, [leader, follower, follower]).0, "creating");
        let behind = api::ReplicaStatus {
            last: 10,
            ..status("follower", 2)
        };
        assert!(keeps_up(Some(&behind), 10 + BEHIND_MAX) && !keeps_up(Some(&behind), 11 + BEHIND_MAX));
    }
}
