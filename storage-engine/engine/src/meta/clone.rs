//! Clones in the catalogue: what they were made of, what must stay for them, and when it goes.
//!
//! A clone is a volume on its source's disks whose record names a snapshot of the source, its *origin* (`cairn_core` reads through
//! it until the clone is whole). A clone of a volume as it is comes with a hidden snapshot of it, made by the same command. The
//! engines report each replica of a clone that has dropped its base.
//!
//! # What must stay
//! A clone is *whole* when one of its replicas is: the entry that filled the last of it is committed then, and every later leader has
//! applied it before it reads. But a replica that is behind has a base still, and another clone may look through it, if it is made
//! of a snapshot that this replica has. So the clone's origin is *needed* until every replica has told that it is whole; one
//! that is away is waited for, or replaced, which is possible as soon as the clone is whole.
//!
//! What is deleted while it is needed is hidden: its name is free at once and nobody can open it, but replicas keep it. Every
//! command that may end a need looks for what is hidden and not needed any more, and begins to drop it. So nothing has to be
//! remembered by anybody, and what is dropped follows from the records.
//!
//! A volume that is not whole, or that one reads from which is not, stays on its disks: a replacement that concerns it is refused
//! until then.

use cairn_api::ids::{DiskId, GroupId, LogIndex, NodeId, ReplicaId, SnapshotId};
use cairn_api::units::{BLOCK_BYTES, ByteSize};
use cairn_core::BASES_MAX;
use cairn_core::event::Base;

use super::catalogue::{Catalogue, Cluster, VolumeRecord};
use super::decide::{Change, Decision, Outcome, Refusal, carry_out, invalid};
use super::encryption::PlannedEncryption;
use super::replace;
use super::snapshot::{self, SnapshotPhase, SnapshotRecord};

/// What a clone was made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The source.
    pub group: GroupId,
    /// Its snapshot.
    pub snapshot: SnapshotId,
    /// So much of the clone the snapshot may show through.
    pub size_bytes: u64,
    /// What it was called: `VOLUME` or `VOLUME@SNAPSHOT`.
    pub name: String,
    /// The replicas that have dropped their base.
    pub whole: Vec<ReplicaId>,
    /// All had: the snapshot is not needed any more, whoever takes a replica's place.
    pub is_released: bool,
}

impl Origin {
    /// As the core has it.
    pub fn base(&self) -> Base {
        Base {
            group: self.group,
            snapshot: self.snapshot,
            blocks: self.size_bytes / BLOCK_BYTES,
        }
    }

    /// Whether it is known to be whole.
    pub const fn is_whole(&self) -> bool {
        self.is_released || !self.whole.is_empty()
    }
}

/// What a clone is asked to be made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// The volume.
    pub group: GroupId,
    /// A snapshot of it; none for the volume as it is.
    pub snapshot: Option<SnapshotId>,
    /// When it is asked for, in seconds since 1970.
    pub created_unix_s: u64,
}

/// Checks that a volume of the wanted name which is there is the same clone.
pub fn check_same(volume: &VolumeRecord, source: Option<&Source>) -> Result<(), Refusal> {
    let is_same = match (&volume.origin, source) {
        (None, None) => true,
        (Some(origin), Some(source)) => {
            let is_of_snapshot = origin.name.contains('@');
            let same_kind = source
                .snapshot
                .map_or(!is_of_snapshot, |id| is_of_snapshot && id == origin.snapshot);
            origin.group == source.group && same_kind
        }
        _ => false,
    };
    if is_same {
        return Ok(());
    }
    let found = match &volume.origin {
        Some(origin) => format!("it is a clone of '{}'", origin.name),
        None => "it is no clone".to_owned(),
    };
    Err(Refusal::Exists(format!(
        "volume '{}' exists and differs: {found}",
        volume.name
    )))
}

fn source_volume<'a>(catalogue: &'a Catalogue, source: &Source) -> Result<&'a VolumeRecord, Refusal> {
    let volume = catalogue.volumes.get(&source.group);
    let volume = volume.filter(|volume| !volume.deleting && !volume.hidden);
    volume.ok_or_else(|| Refusal::NotFound(format!("there is no volume {} to clone", source.group)))
}

/// What a new clone stands on, and the snapshot that has to be made for it.
pub(super) fn begin(
    catalogue: &Catalogue,
    cluster: &mut Cluster,
    source: &Source,
    (size_bytes, places): (u64, &[(NodeId, DiskId)]),
    planned: Option<&PlannedEncryption>,
) -> Result<(Origin, Option<SnapshotRecord>), Refusal> {
    let volume = source_volume(catalogue, source)?;
    let name = &volume.name;
    let present: Vec<(NodeId, DiskId)> = volume.replicas.iter().map(|one| (one.node, one.disk)).collect();
    if present != places || !volume.succession.swaps.is_empty() {
        return Err(Refusal::Precondition(format!(
            "a replica of volume '{name}' is taking another's place, and its clones are made where its replicas are: ask \
             again when that is done"
        )));
    }
    if volume.encryption.is_some() != planned.is_some() {
        let (is, must) = match volume.encryption {
            Some(_) => ("encrypted", "must be, too, with the same data key"),
            None => ("not encrypted", "cannot be: create an encrypted volume and copy to it"),
        };
        let reason = format!("volume '{name}' is {is}, and a clone shares its blocks: it {must}");
        return Err(Refusal::Precondition(reason));
    }
    let depth = depth(catalogue, volume) + 1;
    if depth > BASES_MAX {
        return Err(Refusal::Precondition(format!(
            "volume '{name}' is a clone of a clone, {BASES_MAX} deep, none of which is whole yet: ask again when it is"
        )));
    }
    let (snapshot, shown_bytes, name, made) = match source.snapshot {
        Some(id) => {
            let record = ready_snapshot(catalogue, volume, id)?;
            let name = format!("{name}@{}", record.name);
            (id, record.size_bytes, name, None)
        }
        None => {
            snapshot::check_new(catalogue, source.group)?;
            let id = cluster.next_snapshot;
            cluster.next_snapshot = id.next();
            let record = SnapshotRecord {
                group: source.group,
                id,
                name: String::new(),
                created_unix_s: source.created_unix_s,
                phase: SnapshotPhase::Creating,
                index: LogIndex(0),
                size_bytes: 0,
                together: None,
                hidden: true,
            };
            // The volume may grow before it is made: the clone is of what there is now.
            (id, volume.size_bytes, name.clone(), Some(record))
        }
    };
    if size_bytes < shown_bytes {
        let rule = format!("a clone of '{name}' has at least its size, {}", ByteSize(shown_bytes));
        return Err(invalid("size_bytes", size_bytes, rule));
    }
    let origin = Origin {
        group: source.group,
        snapshot,
        size_bytes: shown_bytes,
        name,
        whole: Vec::new(),
        is_released: false,
    };
    Ok((origin, made))
}

fn ready_snapshot<'a>(
    catalogue: &'a Catalogue,
    volume: &VolumeRecord,
    id: SnapshotId,
) -> Result<&'a SnapshotRecord, Refusal> {
    let name = &volume.name;
    let record = catalogue.snapshots.get(&(volume.group, id));
    let Some(record) = record.filter(|record| !record.hidden) else {
        return Err(Refusal::NotFound(format!("volume '{name}' has no snapshot {id}")));
    };
    match record.phase {
        SnapshotPhase::Ready => Ok(record),
        SnapshotPhase::Creating => Err(Refusal::Precondition(format!(
            "snapshot '{}' of volume '{name}' is not made yet: ask again",
            record.name
        ))),
        SnapshotPhase::Deleting => Err(Refusal::Precondition(format!(
            "snapshot '{}' of volume '{name}' is being deleted",
            record.name
        ))),
    }
}

/// How many bases a look into a volume may go through.
fn depth(catalogue: &Catalogue, volume: &VolumeRecord) -> usize {
    let mut depth = 0;
    let mut next = volume.origin.as_ref();
    // Each was made of what was there before, so that this ends; the bound is for what cannot be.
    while let Some(origin) = next.filter(|origin| !origin.is_whole() && depth <= BASES_MAX) {
        depth += 1;
        let source = catalogue.volumes.get(&origin.group);
        next = source.and_then(|source| source.origin.as_ref());
    }
    depth
}

/// The clones of a volume that are not being dropped.
fn clones_of(catalogue: &Catalogue, group: GroupId) -> impl Iterator<Item = (&VolumeRecord, &Origin)> {
    let volumes = catalogue.volumes.values().filter(|volume| !volume.deleting);
    let clones = volumes.filter_map(|volume| Some((volume, volume.origin.as_ref()?)));
    clones.filter(move |(_, origin)| origin.group == group)
}

/// Whether a snapshot must stay for a clone.
pub(super) fn is_needed(catalogue: &Catalogue, group: GroupId, snapshot: SnapshotId) -> bool {
    clones_of(catalogue, group).any(|(_, origin)| origin.snapshot == snapshot && !origin.is_released)
}

/// Whether any snapshot of a volume must stay.
fn is_volume_needed(catalogue: &Catalogue, group: GroupId) -> bool {
    clones_of(catalogue, group).any(|(_, origin)| !origin.is_released)
}

/// A volume that reads through its base, or through which clones read, stays where it is.
pub(super) fn refuse_to_move(catalogue: &Catalogue, volume: &VolumeRecord) -> Result<(), Refusal> {
    let name = &volume.name;
    if let Some(origin) = volume.origin.as_ref().filter(|origin| !origin.is_whole()) {
        return Err(Refusal::Precondition(format!(
            "volume '{name}' on that disk is a clone of '{}' that is not whole yet, and reads from it there: ask again when \
             `cairn volume show {name}` says that it is",
            origin.name
        )));
    }
    let clone = clones_of(catalogue, volume.group).find(|(_, origin)| !origin.is_whole());
    if let Some((clone, _)) = clone {
        let hidden = if volume.hidden { " (deleted)" } else { "" };
        return Err(Refusal::Precondition(format!(
            "volume '{}' reads from volume '{name}'{hidden} on that disk until it is whole: ask again when `cairn volume show \
             {0}` says that it is",
            clone.name
        )));
    }
    Ok(())
}

/// Decides on [`super::Command::ReportWhole`].
pub(super) fn report_whole(catalogue: &Catalogue, group: GroupId, replica: ReplicaId) -> Decision {
    let Some(volume) = catalogue.volumes.get(&group) else {
        // It was deleted since.
        return Ok((Outcome::Done, Vec::new()));
    };
    let Some(origin) = &volume.origin else {
        return Err(Refusal::Precondition(format!("volume {group} is no clone")));
    };
    if origin.is_released || origin.whole.contains(&replica) {
        return Ok((Outcome::Done, Vec::new()));
    }
    // A newcomer that is no member yet is told of again when it is.
    if volume.replicas.iter().all(|known| known.id != replica) {
        return Ok((Outcome::Done, Vec::new()));
    }
    let mut volume = volume.clone();
    if let Some(origin) = &mut volume.origin {
        origin.whole.push(replica);
        let is_known = |id| origin.whole.contains(&id);
        if volume.replicas.iter().all(|replica| is_known(replica.id)) {
            (origin.is_released, origin.whole) = (true, Vec::new());
        }
    }
    Ok((Outcome::Done, with_released(catalogue, vec![Change::Volume(volume)])))
}

/// Decides on [`super::Command::DeleteVolume`]: hides the volume if clones need it.
pub(super) fn delete(catalogue: &Catalogue, group: GroupId) -> Decision {
    let volume = catalogue.volumes.get(&group);
    let Some(volume) = volume.filter(|volume| !volume.hidden && is_volume_needed(catalogue, group)) else {
        if volume.is_some_and(|volume| volume.hidden) {
            return Ok((Outcome::Done, Vec::new()));
        }
        let (outcome, changes) = replace::delete(catalogue, group)?;
        return Ok((outcome, with_released(catalogue, changes)));
    };
    let mut hidden = VolumeRecord {
        hidden: true,
        ..volume.clone()
    };
    super::encryption::erase(&mut hidden);
    let mut changes = vec![Change::Volume(hidden)];
    let visible = catalogue.snapshots_of(group).filter(|snapshot| !snapshot.hidden);
    changes.extend(visible.map(|snapshot| {
        Change::Snapshot(SnapshotRecord {
            hidden: true,
            ..snapshot.clone()
        })
    }));
    Ok((Outcome::Done, with_released(catalogue, changes)))
}

/// The changes, and what becomes of what is hidden and not needed any more after them.
fn with_released(catalogue: &Catalogue, mut changes: Vec<Change>) -> Vec<Change> {
    if catalogue.volumes.values().all(|volume| volume.origin.is_none()) {
        return changes;
    }
    let mut after = catalogue.clone();
    carry_out(&mut after, catalogue.applied, &changes);
    // What goes may have needed something itself.
    loop {
        let released = released(&after);
        if released.is_empty() {
            return changes;
        }
        carry_out(&mut after, catalogue.applied, &released);
        changes.extend(released);
    }
}

fn released(catalogue: &Catalogue) -> Vec<Change> {
    let volumes = catalogue
        .volumes
        .values()
        .filter(|volume| volume.hidden && !volume.deleting);
    let free = volumes.filter(|volume| !is_volume_needed(catalogue, volume.group));
    let mut changes: Vec<Change> = free
        .filter_map(|volume| replace::delete(catalogue, volume.group).ok())
        .flat_map(|(_, changes)| changes)
        .collect();
    let is_standing = |group| catalogue.volumes.get(&group).is_some_and(|volume| !volume.deleting);
    let snapshots = catalogue.snapshots.values().filter(|snapshot| {
        let is_hidden = snapshot.hidden && snapshot.phase != SnapshotPhase::Deleting;
        is_hidden && is_standing(snapshot.group) && !is_needed(catalogue, snapshot.group, snapshot.id)
    });
    changes.extend(snapshots.map(|snapshot| {
        Change::Snapshot(SnapshotRecord {
            phase: SnapshotPhase::Deleting,
            ..snapshot.clone()
        })
    }));
    changes
}
