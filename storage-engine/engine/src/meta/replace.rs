//! What the commands of a disk's replacement do to the catalogue: part of [`super::decide`], and as pure.
//!
//! [`replace`] plans a swap for every group that has something on the old disk, all in one step of the log, so that no crash
//! leaves half a plan. The engines carry it out and report; [`advance`] takes their reports. A replacement counts the groups
//! that are left on its disk; with the last one the disk is removed, and its node with it if it has no other.
//!
//! What is checked here depends on the catalogue alone. Whether disks and replicas answer, and whether there is room, is
//! checked by the leader before it proposes (`control::replacements`).

use std::collections::BTreeSet;

use cairn_api::ids::{DiskId, GroupId, LogIndex, NodeId, ReplicaId};
use cairn_core::event::Member;

use super::catalogue::{Catalogue, Cluster, NodeRecord, ReplicaRecord, VolumeRecord};
use super::clone;
use super::decide::{Change, Decision, Outcome, Refusal, invalid};
use super::encryption;
use super::succession::{Replacement, Step, Succession, Swap};

/// Disks that were ever replaced: what every engine keeps in memory for good.
const REPLACEMENTS_MAX: usize = 100_000;

/// Decides on [`super::Command::ReplaceDisk`].
pub(super) fn replace(catalogue: &Catalogue, old: DiskId, new: DiskId) -> Decision {
    let Some(cluster) = &catalogue.cluster else {
        return Err(Refusal::Precondition("the cluster is not founded yet".to_owned()));
    };
    if is_repeated(catalogue, old, new)? {
        return Ok((Outcome::Done, Vec::new()));
    }
    let (old_node, new_node) = check_disks(catalogue, old, new)?;
    let mut plan = Plan {
        catalogue,
        old,
        new: (new_node.id, new),
        cluster: cluster.clone(),
        groups: 0,
        changes: Vec::new(),
    };
    plan.meta_group()?;
    for volume in catalogue.volumes.values() {
        plan.volume(volume)?;
    }
    let replacement = Replacement {
        old,
        old_node: old_node.id,
        new,
        new_node: new_node.id,
        groups: plan.groups,
        left: plan.groups,
    };
    let mut changes = plan.changes;
    changes.push(Change::Cluster(plan.cluster));
    changes.extend(record(catalogue, replacement));
    Ok((Outcome::Done, changes))
}

/// Whether the same was asked before; a refusal if something else was.
fn is_repeated(catalogue: &Catalogue, old: DiskId, new: DiskId) -> Result<bool, Refusal> {
    if old == new {
        let rule = "a disk cannot take its own place; format it anew, and it comes back under another id";
        return Err(invalid("new disk", new, rule));
    }
    match catalogue.replacements.get(&old) {
        None => Ok(false),
        Some(known) if known.new == new => Ok(true),
        Some(known) if known.is_done() => Err(Refusal::Exists(format!(
            "disk {old} was replaced by {} already, and nothing is left on it",
            known.new
        ))),
        Some(known) => Err(Refusal::Exists(format!(
            "disk {old} is being replaced by {} already: wait until that is done; if {0} fails, replace that disk",
            known.new
        ))),
    }
}

fn check_disks(catalogue: &Catalogue, old: DiskId, new: DiskId) -> Result<(&NodeRecord, &NodeRecord), Refusal> {
    let old_node = catalogue.node_of(old).ok_or_else(|| {
        Refusal::NotFound(format!(
            "the cluster has no disk {old}: `cairn disk list` shows those it has"
        ))
    })?;
    let new_node = catalogue.node_of(new).ok_or_else(|| {
        Refusal::NotFound(format!(
            "disk {new} is not in the cluster: name it in the configuration of an engine and restart that; a new engine \
             joins with `cairn cluster add`"
        ))
    })?;
    if let Some(known) = catalogue.replacements.get(&new) {
        return Err(Refusal::Precondition(format!(
            "disk {new} is itself replaced by {}: choose another one, or format it anew",
            known.new
        )));
    }
    if catalogue.replacements.len() >= REPLACEMENTS_MAX {
        return Err(Refusal::Precondition(format!(
            "{REPLACEMENTS_MAX} disks were replaced, the most the catalogue keeps"
        )));
    }
    Ok((old_node, new_node))
}

/// A plan in the making.
struct Plan<'a> {
    catalogue: &'a Catalogue,
    old: DiskId,
    new: (NodeId, DiskId),
    cluster: Cluster,
    groups: u32,
    changes: Vec<Change>,
}

impl Plan<'_> {
    fn newcomer(&mut self) -> Member {
        let replica = self.cluster.next_replica;
        self.cluster.next_replica = replica.next();
        self.groups += 1;
        let (node, disk) = self.new;
        Member { replica, node, disk }
    }

    fn meta_group(&mut self) -> Result<(), Refusal> {
        let members = self.cluster.members.clone();
        if !self.cluster.succession.is_on(&members, self.old) {
            return Ok(());
        }
        let staying = self.cluster.succession.staying(&members, self.old);
        if let Some(member) = staying.iter().find(|member| member.node == self.new.0) {
            return Err(Refusal::Precondition(format!(
                "node '{}' holds replica {} of the meta group already, and an engine holds at most one: choose a disk of \
                 a node that holds none{}",
                self.catalogue.node_name(member.node),
                member.replica,
                self.other_nodes(&staying),
            )));
        }
        let joining = self.newcomer();
        self.cluster.succession.plan(&members, self.old, joining);
        Ok(())
    }

    fn volume(&mut self, volume: &VolumeRecord) -> Result<(), Refusal> {
        if volume.deleting {
            self.give_up_deleted(volume);
            return Ok(());
        }
        let members = volume.members();
        if !volume.succession.is_on(&members, self.old) {
            return Ok(());
        }
        clone::refuse_to_move(self.catalogue, volume)?;
        self.check_place(volume, &volume.succession.staying(&members, self.old))?;
        let mut volume = volume.clone();
        let joining = self.newcomer();
        volume.succession.plan(&members, self.old, joining);
        self.changes.push(Change::Volume(volume));
        Ok(())
    }

    /// Nobody waits for a disk that is given up to drop what it has of a volume that is being deleted.
    fn give_up_deleted(&mut self, volume: &VolumeRecord) {
        let mut left = volume.clone();
        let on_old = left.replicas.iter_mut().filter(|replica| replica.disk == self.old);
        on_old.for_each(|replica| replica.dropped = true);
        let change = kept_or_forgotten(self.catalogue, left, Some(self.old));
        if change != Change::Volume(volume.clone()) {
            self.changes.push(change);
        }
    }

    /// Two replicas of a volume share a node only if no other node has a disk for one.
    fn check_place(&self, volume: &VolumeRecord, staying: &[Member]) -> Result<(), Refusal> {
        let (node, disk) = self.new;
        if let Some(member) = staying.iter().find(|member| member.disk == disk) {
            return Err(Refusal::Precondition(format!(
                "disk {disk} holds replica {} of volume '{}' already: choose another disk",
                member.replica, volume.name
            )));
        }
        let shared = staying.iter().find(|member| member.node == node);
        let others = self.other_nodes(staying);
        match shared {
            Some(member) if !others.is_empty() => Err(Refusal::Precondition(format!(
                "node '{}' holds replica {} of volume '{}' already, and replicas share a node only if no other node has \
                 a disk: choose a disk of another node{others}",
                self.catalogue.node_name(node),
                member.replica,
                volume.name
            ))),
            _ => Ok(()),
        }
    }

    /// The nodes that could take a replica beside those that stay, for a message.
    fn other_nodes(&self, staying: &[Member]) -> String {
        let is_usable = |disk: DiskId| disk != self.old && !self.catalogue.is_given_up(disk);
        let nodes = self.catalogue.nodes.values();
        let others: Vec<&str> = nodes
            .filter(|node| staying.iter().all(|member| member.node != node.id))
            .filter(|node| node.disks.iter().any(|disk| is_usable(disk.id)))
            .map(|node| node.name.as_str())
            .collect();
        if others.is_empty() {
            return String::new();
        }
        format!(" ({})", others.join(", "))
    }
}

/// What a replacement's new count means: its record, and the end of a node that has no other disk.
fn record(catalogue: &Catalogue, replacement: Replacement) -> Vec<Change> {
    let mut changes = vec![Change::Replacement(replacement)];
    if !replacement.is_done() {
        return changes;
    }
    let is_removed = |disk: DiskId| disk == replacement.old || catalogue.is_removed(disk);
    if let Some(node) = catalogue.nodes.get(&replacement.old_node)
        && node.disks.iter().all(|disk| is_removed(disk.id))
    {
        // An engine that lives registers itself again, with whatever disks it has by then.
        changes.push(Change::ForgetNode(node.id));
    }
    changes
}

/// Counts groups off the disks that they have left.
fn count_off(catalogue: &Catalogue, swaps: &[Swap]) -> Vec<Change> {
    let leaving = swaps.iter().flat_map(|swap| &swap.leaving);
    let disks: BTreeSet<DiskId> = leaving.map(|member| member.disk).collect();
    let known = disks.iter().filter_map(|disk| catalogue.replacements.get(disk));
    let counted = known.map(|replacement| Replacement {
        left: replacement.left.saturating_sub(1),
        ..*replacement
    });
    counted.flat_map(|replacement| record(catalogue, replacement)).collect()
}

/// Decides on [`super::Command::AdvanceSwap`].
pub(super) fn advance(
    catalogue: &Catalogue,
    group: GroupId,
    joining: ReplicaId,
    step: Step,
    revision: LogIndex,
) -> Decision {
    if group == GroupId::META {
        let Some(cluster) = &catalogue.cluster else {
            return Err(Refusal::Precondition("the cluster is not founded yet".to_owned()));
        };
        let mut cluster = cluster.clone();
        let is_member = cluster.members.iter().any(|member| member.replica == joining);
        let done = move_on(&mut cluster.succession, (group, joining), is_member, step, revision)?;
        if let Moved::Settled(swap) = &done {
            put(&mut cluster.members, |member| member.replica, swap, swap.joining);
        }
        return Ok((Outcome::Done, done.changes(catalogue, Change::Cluster(cluster))));
    }
    let Some(volume) = catalogue.volumes.get(&group) else {
        return Err(Refusal::NotFound(format!("there is no volume {group}")));
    };
    let mut volume = volume.clone();
    let is_member = volume.replicas.iter().any(|replica| replica.id == joining);
    let done = move_on(&mut volume.succession, (group, joining), is_member, step, revision)?;
    if let Moved::Settled(swap) = &done {
        let newcomer = ReplicaRecord {
            created: true,
            ..ReplicaRecord::planned(swap.joining)
        };
        put(&mut volume.replicas, |replica| replica.id, swap, newcomer);
    }
    Ok((Outcome::Done, done.changes(catalogue, Change::Volume(volume))))
}

/// What a report of progress did.
enum Moved {
    Nothing,
    On,
    Settled(Swap),
}

impl Moved {
    fn changes(&self, catalogue: &Catalogue, change: Change) -> Vec<Change> {
        match self {
            Self::Nothing => Vec::new(),
            Self::On => vec![change],
            Self::Settled(swap) => {
                let mut changes = vec![change];
                changes.extend(count_off(catalogue, std::slice::from_ref(swap)));
                changes
            }
        }
    }
}

fn move_on(
    succession: &mut Succession,
    (group, joining): (GroupId, ReplicaId),
    is_member: bool,
    step: Step,
    revision: LogIndex,
) -> Result<Moved, Refusal> {
    if succession.swap_by(joining).is_none() {
        // It was settled, and this report comes late or twice.
        return if is_member {
            Ok(Moved::Nothing)
        } else {
            Err(Refusal::NotFound(format!(
                "replica {joining} takes nobody's place in group {group}"
            )))
        };
    }
    if step == Step::Settled {
        return Ok(succession
            .settle(joining, revision)
            .map_or(Moved::Nothing, Moved::Settled));
    }
    Ok(if succession.advance(joining, step) {
        Moved::On
    } else {
        Moved::Nothing
    })
}

/// Puts the newcomer where the one stands whose place it takes.
fn put<T>(present: &mut Vec<T>, id: impl Fn(&T) -> ReplicaId, swap: &Swap, newcomer: T) {
    let is_leaving = |item: &T| swap.leaving.iter().any(|member| member.replica == id(item));
    match present.iter().position(is_leaving) {
        Some(place) => present[place] = newcomer,
        None => present.push(newcomer),
    }
}

/// Begins to drop a volume for good.
pub(super) fn delete(catalogue: &Catalogue, group: GroupId) -> Decision {
    let Some(volume) = catalogue.volumes.get(&group) else {
        return Err(Refusal::NotFound(format!("there is no volume {group}")));
    };
    if volume.deleting {
        return Ok((Outcome::Done, Vec::new()));
    }
    let mut volume = VolumeRecord {
        deleting: true,
        ..volume.clone()
    };
    encryption::erase(&mut volume);
    let swaps = volume.succession.abandon();
    for replica in &mut volume.replicas {
        // Nobody waits for a disk that is given up.
        replica.dropped |= catalogue.is_given_up(replica.disk);
    }
    let mut changes = vec![kept_or_forgotten(catalogue, volume, None)];
    for swap in &swaps {
        changes.extend(count_off(catalogue, std::slice::from_ref(swap)));
    }
    Ok((Outcome::Done, changes))
}

/// Decides on the report that a replica is dropped which is no member any more; `None` if it is about another.
pub(super) fn report_retired(catalogue: &Catalogue, group: GroupId, replica: ReplicaId) -> Option<Decision> {
    if group == GroupId::META {
        let mut cluster = catalogue.cluster.clone()?;
        let changes = if cluster.succession.forget(replica) {
            vec![Change::Cluster(cluster)]
        } else {
            Vec::new()
        };
        return Some(Ok((Outcome::Done, changes)));
    }
    let mut volume = catalogue.volumes.get(&group)?.clone();
    volume
        .succession
        .forget(replica)
        .then(|| Ok((Outcome::Done, vec![kept_or_forgotten(catalogue, volume, None)])))
}

/// A volume as it is now, or its end: if it is being deleted and no disk that still counts has anything of it.
pub(super) fn kept_or_forgotten(catalogue: &Catalogue, volume: VolumeRecord, given_up: Option<DiskId>) -> Change {
    let is_waited_for = |disk: DiskId| Some(disk) != given_up && !catalogue.is_given_up(disk);
    let is_gone = volume.replicas.iter().all(|replica| replica.dropped)
        && !volume
            .succession
            .retired
            .iter()
            .any(|member| is_waited_for(member.disk));
    if volume.deleting && is_gone {
        Change::Forget(volume.group)
    } else {
        Change::Volume(volume)
    }
}
