//! What each command does to the catalogue: a pure function from the state and the command to changes or a refusal.
//!
//! It is asked twice: before proposing, so that a hopeless request costs no log entry, and when the entry is applied, where its
//! answer counts. Applying is deterministic: it reads nothing but the catalogue and the command.

use cairn_api::ids::{ClusterId, DiskId, GroupId, LogIndex, NodeId, ReplicaId, SnapshotId};
use cairn_api::limits::{LimitError, VolumeLimits};
use cairn_api::units::{BLOCK_BYTES, ByteSize};
use cairn_core::event::Member;

use super::catalogue::{Catalogue, Cluster, NodeRecord, ReplicaRecord, VolumeRecord};
use super::clone::{self, Source};
use super::encryption::{self, PlannedEncryption, Wanted, WrappedKey};
use super::replace;
use super::settings;
use super::snapshot::{self, SnapshotCommand, SnapshotRecord};
use super::succession::{Replacement, Step, Succession};

/// The longest volume name in bytes: it becomes an NBD export name and, later, a Kubernetes object's name.
pub const VOLUME_NAME_BYTES_MAX: usize = 253;
/// The largest volume in bytes: 64 TiB keeps a volume's map within what a disk's thread can page.
pub const VOLUME_BYTES_MAX: u64 = 64 << 40;
/// Volumes of a cluster. Each costs every engine some memory for its catalogue entry.
pub const VOLUMES_MAX: usize = 100_000;
/// Nodes of a cluster: every core may hold a link to every other.
pub const NODES_MAX: usize = 1_000;
/// Disks of a node.
pub const DISKS_PER_NODE_MAX: usize = 64;

/// A command of the catalogue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// The first command of a cluster.
    FoundCluster {
        /// Its id.
        id: ClusterId,
        /// Its name.
        name: String,
        /// Its nodes.
        nodes: Vec<NodeRecord>,
        /// The meta group's members.
        members: Vec<Member>,
    },
    /// A node's addresses and disks: adds it or brings it up to date.
    RegisterNode(NodeRecord),
    /// Makes a volume on these disks; its numbers are given when it is applied.
    CreateVolume {
        /// Its name.
        name: String,
        /// Its capacity.
        size_bytes: u64,
        /// A node and a disk of it, for each replica.
        places: Vec<(NodeId, DiskId)>,
        /// What it may be asked for.
        limits: VolumeLimits,
        /// Its key, if it is to be encrypted.
        encryption: Option<PlannedEncryption>,
        /// What it is to be a clone of, if it is: the places are its source's then.
        source: Option<Source>,
    },
    /// A replica of a clone has dropped its base: the entry that filled the last of it is applied there.
    ReportWhole {
        /// The clone.
        group: GroupId,
        /// The replica.
        replica: ReplicaId,
    },
    /// Puts another wrapping of a volume's key in the place of one.
    RewrapVolume {
        /// The volume.
        group: GroupId,
        /// The wrapping that must still be there.
        replaces: Vec<u8>,
        /// The new one.
        key: WrappedKey,
    },
    /// A replica was made, or dropped.
    ReportReplica {
        /// The volume.
        group: GroupId,
        /// The replica.
        replica: ReplicaId,
        /// Dropped rather than made.
        dropped: bool,
    },
    /// Changes what a volume may be asked for.
    LimitVolume {
        /// The volume.
        group: GroupId,
        /// What is different from then on.
        change: LimitChange,
    },
    /// Makes a volume larger.
    ResizeVolume {
        /// The volume.
        group: GroupId,
        /// Its capacity from then on.
        size_bytes: u64,
    },
    /// Begins to delete a volume.
    DeleteVolume {
        /// The volume.
        group: GroupId,
        /// Its snapshots, too; without, a volume that has some is kept.
        snapshots: bool,
    },
    /// Something of snapshots.
    Snapshot(SnapshotCommand),
    /// Gives a disk up for another one: every replica on it is to be succeeded by one on the other.
    ReplaceDisk {
        /// The disk that is given up.
        old: DiskId,
        /// The one that takes its place.
        new: DiskId,
    },
    /// A replica that takes another's place has come so far.
    AdvanceSwap {
        /// The group.
        group: GroupId,
        /// The replica that comes.
        joining: ReplicaId,
        /// How far it is.
        step: Step,
        /// For the last step, the index of the group's last change of members.
        revision: LogIndex,
    },
}

/// Which of a volume's limits are to be others; `None` leaves one as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LimitChange {
    /// Requests a second; `Some(None)` lifts the limit.
    pub iops: Option<Option<u64>>,
    /// Bytes a second; `Some(None)` lifts the limit.
    pub bytes_per_s: Option<Option<u64>>,
    /// Milliseconds' worth of both.
    pub burst_ms: Option<u32>,
}

/// What a command achieved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is done, or was done already.
    Done,
    /// The volume of that number stands in the catalogue.
    Volume(GroupId),
    /// The snapshot of that number stands in the catalogue.
    Snapshot(SnapshotId),
}

/// Why the catalogue refuses a command.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// A value breaks a rule.
    #[error("{what} is '{value}': {rule}")]
    Invalid {
        /// Which value.
        what: &'static str,
        /// What was given.
        value: String,
        /// What it must be.
        rule: String,
    },
    /// Something else of that name is there.
    #[error("{0}")]
    Exists(String),
    /// It is not there.
    #[error("{0}")]
    NotFound(String),
    /// Not in this state.
    #[error("{0}")]
    Precondition(String),
}

/// A change of one record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// The cluster's record.
    Cluster(Cluster),
    /// A node's record.
    Node(NodeRecord),
    /// A volume's record.
    Volume(VolumeRecord),
    /// A volume is forgotten, and its snapshots with it.
    Forget(GroupId),
    /// A disk's replacement.
    Replacement(Replacement),
    /// A node is forgotten.
    ForgetNode(NodeId),
    /// A snapshot's record.
    Snapshot(SnapshotRecord),
    /// A snapshot is forgotten.
    ForgetSnapshot(GroupId, SnapshotId),
}

/// What a command achieves, with the changes it makes.
pub type Decision = Result<(Outcome, Vec<Change>), Refusal>;

pub(super) fn invalid(what: &'static str, value: impl std::fmt::Display, rule: impl Into<String>) -> Refusal {
    Refusal::Invalid {
        what,
        value: value.to_string(),
        rule: rule.into(),
    }
}

/// Decides on `command` in the state `catalogue`.
pub fn decide(catalogue: &Catalogue, command: &Command) -> Decision {
    match command {
        Command::FoundCluster {
            id,
            name,
            nodes,
            members,
        } => found(catalogue, *id, name, nodes, members),
        Command::RegisterNode(node) => register(catalogue, node),
        Command::CreateVolume {
            name,
            size_bytes,
            places,
            limits,
            encryption,
            source,
        } => {
            let asked = Asked {
                name,
                size_bytes: *size_bytes,
                limits: *limits,
            };
            create(catalogue, asked, places, encryption.as_ref(), source.as_ref())
        }
        Command::ReportWhole { group, replica } => clone::report_whole(catalogue, *group, *replica),
        Command::RewrapVolume { group, replaces, key } => encryption::rewrap(catalogue, *group, replaces, key),
        Command::ReportReplica {
            group,
            replica,
            dropped,
        } => report(catalogue, *group, *replica, *dropped),
        Command::LimitVolume { group, change } => settings::limit(catalogue, *group, change),
        Command::ResizeVolume { group, size_bytes } => settings::resize(catalogue, *group, *size_bytes),
        Command::DeleteVolume { group, snapshots } => {
            if !snapshots {
                snapshot::refuse_volume_with_snapshots(catalogue, *group)?;
            }
            clone::delete(catalogue, *group)
        }
        Command::Snapshot(command) => snapshot::decide(catalogue, command),
        Command::ReplaceDisk { old, new } => replace::replace(catalogue, *old, *new),
        Command::AdvanceSwap {
            group,
            joining,
            step,
            revision,
        } => replace::advance(catalogue, *group, *joining, *step, *revision),
    }
}

/// Carries out what was decided, and moves the revision to `index`.
pub fn carry_out(catalogue: &mut Catalogue, index: LogIndex, changes: &[Change]) {
    for change in changes {
        match change {
            Change::Cluster(cluster) => catalogue.cluster = Some(cluster.clone()),
            Change::Node(node) => {
                catalogue.nodes.insert(node.id, node.clone());
            }
            Change::Volume(volume) => {
                catalogue.volumes.insert(volume.group, volume.clone());
            }
            Change::Forget(group) => {
                catalogue.volumes.remove(group);
                catalogue.snapshots.retain(|(of, _), _| of != group);
            }
            Change::Replacement(replacement) => {
                catalogue.replacements.insert(replacement.old, *replacement);
            }
            Change::ForgetNode(node) => {
                catalogue.nodes.remove(node);
            }
            Change::Snapshot(snapshot) => {
                catalogue
                    .snapshots
                    .insert((snapshot.group, snapshot.id), snapshot.clone());
            }
            Change::ForgetSnapshot(group, snapshot) => {
                catalogue.snapshots.remove(&(*group, *snapshot));
            }
        }
    }
    catalogue.applied = index;
}

fn found(catalogue: &Catalogue, id: ClusterId, name: &str, nodes: &[NodeRecord], members: &[Member]) -> Decision {
    if let Some(cluster) = &catalogue.cluster {
        if cluster.id == id {
            return Ok((Outcome::Done, Vec::new()));
        }
        return Err(Refusal::Exists(format!(
            "the cluster is {} already, not {id}",
            cluster.id
        )));
    }
    if id.is_nil() {
        return Err(invalid("cluster id", id, "the nil id stands for no cluster"));
    }
    if members.is_empty() || nodes.is_empty() || nodes.len() > NODES_MAX {
        return Err(invalid(
            "nodes",
            nodes.len(),
            format!("a cluster has 1 to {NODES_MAX} nodes and a meta member"),
        ));
    }
    let mut changes = Vec::new();
    let next_replica = members
        .iter()
        .map(|member| member.replica)
        .max()
        .unwrap_or_default()
        .next();
    changes.push(Change::Cluster(Cluster {
        id,
        name: name.to_owned(),
        members: members.to_vec(),
        succession: Succession::default(),
        next_group: GroupId::FIRST_VOLUME,
        next_replica,
        next_snapshot: SnapshotId(1),
    }));
    for node in nodes {
        check_node(catalogue, node)?;
        changes.push(Change::Node(node.clone()));
    }
    Ok((Outcome::Done, changes))
}

fn check_node(catalogue: &Catalogue, node: &NodeRecord) -> Result<(), Refusal> {
    if !crate::config::is_node_name(&node.name) {
        return Err(invalid(
            "node name",
            &node.name,
            "a node's name is 1 to 63 of a-z, 0-9 and '-'",
        ));
    }
    if node.id.is_nil() {
        return Err(invalid("node id", node.id, "the nil id stands for no node"));
    }
    if node.disks.len() > DISKS_PER_NODE_MAX {
        return Err(invalid(
            "disks",
            node.disks.len(),
            format!("a node has at most {DISKS_PER_NODE_MAX}"),
        ));
    }
    for other in catalogue.nodes.values().filter(|other| other.id != node.id) {
        if other.name == node.name {
            return Err(Refusal::Exists(format!(
                "node name '{}' belongs to node {}, not {}: give each engine its own `name`",
                node.name, other.id, node.id
            )));
        }
        if let Some(disk) = node
            .disks
            .iter()
            .find(|disk| other.disks.iter().any(|theirs| theirs.id == disk.id))
        {
            return Err(Refusal::Exists(format!(
                "disk {} belongs to node '{}' already",
                disk.id, other.name
            )));
        }
    }
    Ok(())
}

fn register(catalogue: &Catalogue, node: &NodeRecord) -> Decision {
    if catalogue.cluster.is_none() {
        return Err(Refusal::Precondition("the cluster is not founded yet".to_owned()));
    }
    check_node(catalogue, node)?;
    let mut node = node.clone();
    if let Some(known) = catalogue.nodes.get(&node.id) {
        // A disk that did not open this time is still this node's, with whatever replicas it has.
        for disk in known.disks.iter().filter(|disk| !catalogue.is_removed(disk.id)) {
            if !node.disks.iter().any(|other| other.id == disk.id) {
                node.disks.push(disk.clone());
            }
        }
        node.disks.sort_by_key(|disk| disk.id);
        let mut before = known.clone();
        before.disks.sort_by_key(|disk| disk.id);
        if before == node {
            return Ok((Outcome::Done, Vec::new()));
        }
    } else if catalogue.nodes.len() >= NODES_MAX {
        return Err(Refusal::Precondition(format!(
            "the cluster has {NODES_MAX} nodes, the most there can be"
        )));
    }
    node.disks.sort_by_key(|disk| disk.id);
    Ok((Outcome::Done, vec![Change::Node(node)]))
}

/// Checks what does not depend on the catalogue.
pub fn check_volume(name: &str, size_bytes: u64, replicas: usize) -> Result<(), Refusal> {
    let is_name_byte =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_');
    if !(1..=VOLUME_NAME_BYTES_MAX).contains(&name.len()) || !name.bytes().all(is_name_byte) {
        let rule = format!("a volume's name is 1 to {VOLUME_NAME_BYTES_MAX} of a-z, 0-9, '-', '.' and '_'");
        return Err(invalid("name", name, rule));
    }
    check_size(size_bytes)?;
    if !matches!(replicas, 1 | 3 | 5) {
        return Err(invalid("replicas", replicas, "a volume has 1, 3 or 5 replicas"));
    }
    Ok(())
}

/// Checks a volume's capacity.
pub fn check_size(size_bytes: u64) -> Result<(), Refusal> {
    if size_bytes == 0 || !size_bytes.is_multiple_of(BLOCK_BYTES) || size_bytes > VOLUME_BYTES_MAX {
        let rule = format!(
            "the size is a multiple of {BLOCK_BYTES} bytes, up to {}",
            ByteSize(VOLUME_BYTES_MAX)
        );
        return Err(invalid("size_bytes", size_bytes, rule));
    }
    Ok(())
}

/// Checks what a volume may be asked for.
pub fn check_limits(limits: &VolumeLimits) -> Result<(), Refusal> {
    let refused = |error: LimitError| Refusal::Invalid {
        what: error.what,
        value: error.value,
        rule: error.rule,
    };
    limits.check().map_err(refused)
}

/// Whether a volume of that name stands already: its number if it is the same, a refusal if it differs.
pub fn existing_volume(
    catalogue: &Catalogue,
    name: &str,
    size_bytes: u64,
    replicas: usize,
    limits: VolumeLimits,
) -> Result<Option<GroupId>, Refusal> {
    let Some(volume) = catalogue.volume_by_name(name) else {
        return Ok(None);
    };
    if volume.deleting {
        return Err(Refusal::Precondition(format!(
            "volume '{name}' is still being deleted; ask again when it is gone"
        )));
    }
    let mut differences = Vec::new();
    if volume.size_bytes != size_bytes {
        differences.push(format!(
            "its size is {}, not {}",
            ByteSize(volume.size_bytes),
            ByteSize(size_bytes)
        ));
    }
    if volume.replicas.len() != replicas {
        differences.push(format!("it has {} replicas, not {replicas}", volume.replicas.len()));
    }
    // Limits are changed later on; only who asks for some wants them as they are.
    if limits != VolumeLimits::default() && volume.limits != limits {
        differences.push("it has other limits (`cairn volume limit` changes them)".to_owned());
    }
    if differences.is_empty() {
        return Ok(Some(volume.group));
    }
    Err(Refusal::Exists(format!(
        "volume '{name}' exists and differs: {}",
        differences.join("; ")
    )))
}

/// The replicas of a new volume on these disks, with numbers of their own.
fn planned_replicas(
    catalogue: &Catalogue,
    cluster: &mut Cluster,
    places: &[(NodeId, DiskId)],
) -> Result<Vec<ReplicaRecord>, Refusal> {
    let mut replicas: Vec<ReplicaRecord> = Vec::with_capacity(places.len());
    for (node, disk) in places {
        let known = catalogue
            .nodes
            .get(node)
            .is_some_and(|record| record.disks.iter().any(|own| own.id == *disk));
        if !known {
            return Err(Refusal::NotFound(format!(
                "disk {disk} of node {node} is not in the catalogue"
            )));
        }
        if catalogue.is_given_up(*disk) {
            return Err(Refusal::Precondition(format!(
                "disk {disk} is being replaced and takes no new replicas: ask again, and another one is chosen"
            )));
        }
        if replicas.iter().any(|replica| replica.node == *node) {
            return Err(invalid("places", node, "two replicas of a volume never share a node"));
        }
        replicas.push(ReplicaRecord {
            id: cluster.next_replica,
            node: *node,
            disk: *disk,
            created: false,
            dropped: false,
        });
        cluster.next_replica = cluster.next_replica.next();
    }
    Ok(replicas)
}

/// A volume that is asked for.
struct Asked<'a> {
    name: &'a str,
    size_bytes: u64,
    limits: VolumeLimits,
}

fn create(
    catalogue: &Catalogue,
    Asked {
        name,
        size_bytes,
        limits,
    }: Asked<'_>,
    places: &[(NodeId, DiskId)],
    planned: Option<&PlannedEncryption>,
    source: Option<&Source>,
) -> Decision {
    let Some(cluster) = &catalogue.cluster else {
        return Err(Refusal::Precondition("the cluster is not founded yet".to_owned()));
    };
    check_volume(name, size_bytes, places.len())?;
    check_limits(&limits)?;
    if let Some(group) = existing_volume(catalogue, name, size_bytes, places.len(), limits)? {
        let key = planned.map(|planned| planned.key.key_name.as_str());
        let wanted = key.map_or(Wanted::Plain, |name| Wanted::Encrypted(Some(name)));
        if let Some(volume) = catalogue.volumes.get(&group) {
            encryption::check_wanted(volume, wanted)?;
            clone::check_same(volume, source)?;
        }
        return Ok((Outcome::Volume(group), Vec::new()));
    }
    if catalogue.volumes.len() >= VOLUMES_MAX {
        return Err(Refusal::Precondition(format!(
            "the cluster has {VOLUMES_MAX} volumes, the most there can be"
        )));
    }
    let mut cluster = cluster.clone();
    let (origin, snapshot) = source
        .map(|source| clone::begin(catalogue, &mut cluster, source, (size_bytes, places), planned))
        .transpose()?
        .unzip();
    let mut changes: Vec<Change> = snapshot.flatten().map(Change::Snapshot).into_iter().collect();
    let replicas = planned_replicas(catalogue, &mut cluster, places)?;
    let group = cluster.next_group;
    encryption::check_planned(planned, group)?;
    cluster.next_group = group.next();
    let volume = VolumeRecord {
        group,
        name: name.to_owned(),
        size_bytes,
        created_bytes: size_bytes,
        limits,
        replicas,
        deleting: false,
        succession: Succession::default(),
        encryption: planned.map(|planned| planned.key.clone()),
        origin,
        hidden: false,
    };
    changes.extend([Change::Cluster(cluster), Change::Volume(volume)]);
    Ok((Outcome::Volume(group), changes))
}

fn report(catalogue: &Catalogue, group: GroupId, replica: ReplicaId, dropped: bool) -> Decision {
    if dropped && let Some(decision) = replace::report_retired(catalogue, group, replica) {
        return decision;
    }
    let Some(volume) = catalogue.volumes.get(&group) else {
        // Once all replicas are dropped the volume is forgotten, and a repeated report finds nothing.
        return if dropped {
            Ok((Outcome::Done, Vec::new()))
        } else {
            Err(Refusal::NotFound(format!("there is no volume {group}")))
        };
    };
    let mut volume = volume.clone();
    let deleting = volume.deleting;
    let Some(record) = volume.replicas.iter_mut().find(|record| record.id == replica) else {
        return Err(Refusal::NotFound(format!("volume {group} has no replica {replica}")));
    };
    if dropped && !deleting {
        return Err(Refusal::Precondition(format!("volume {group} is not being deleted")));
    }
    let before = (record.created, record.dropped);
    if dropped {
        record.dropped = true;
    } else {
        record.created = true;
    }
    if before == (record.created, record.dropped) {
        return Ok((Outcome::Done, Vec::new()));
    }
    let change = replace::kept_or_forgotten(catalogue, volume, None);
    Ok((Outcome::Done, vec![change]))
}
