//! Snapshots in the catalogue: their records, and what the commands of snapshots do.
//!
//! A snapshot is asked for here by name and gets its number. The engine whose replica leads the volume makes it by an entry of
//! the volume's log (`crate::cluster::snapshots`) and reports that; deleting goes the same way. Numbers rise over the whole
//! cluster, so that those of one volume do, which the volume's log relies on.

use cairn_api::ids::{GroupId, LogIndex, SnapshotId};
use cairn_core::SNAPSHOTS_MAX;

use super::catalogue::{Catalogue, VolumeRecord};
use super::clone;
use super::decide::{Change, Decision, Outcome, Refusal, VOLUME_NAME_BYTES_MAX, invalid};
use super::together::{self, Made, Together};

/// Where a snapshot is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SnapshotPhase {
    /// Asked for, and not made yet.
    Creating,
    /// It can be read.
    Ready,
    /// To be deleted, and not gone yet.
    Deleting,
}

impl SnapshotPhase {
    /// Its number in records.
    pub const fn code(self) -> u32 {
        match self {
            Self::Creating => 1,
            Self::Ready => 2,
            Self::Deleting => 3,
        }
    }

    /// The phase of this number.
    pub const fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::Creating),
            2 => Some(Self::Ready),
            3 => Some(Self::Deleting),
            _ => None,
        }
    }
}

/// A snapshot of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotRecord {
    /// The volume.
    pub group: GroupId,
    /// Its number.
    pub id: SnapshotId,
    /// Its name, unique among the volume's snapshots.
    pub name: String,
    /// When it was asked for, in seconds since 1970 by the clock of the meta leader.
    pub created_unix_s: u64,
    /// Where it is in its life.
    pub phase: SnapshotPhase,
    /// The entry of the volume's log that made it; 0 while it is not made.
    pub index: LogIndex,
    /// The volume's size when it was made; 0 while it is not.
    pub size_bytes: u64,
    /// What it belongs to, if it is made together with snapshots of other volumes.
    pub together: Option<Together>,
    /// Nobody sees it: it was made for a clone, or deleted while clones still read from it. It goes when they are whole.
    pub hidden: bool,
}

/// A change of the catalogue's snapshots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SnapshotCommand {
    /// Asks for a snapshot; its number is given when it is applied.
    Create {
        /// The volume.
        group: GroupId,
        /// Its name.
        name: String,
        /// When it is asked for, in seconds since 1970.
        created_unix_s: u64,
    },
    /// A snapshot was made, or deleted.
    Report {
        /// The volume.
        group: GroupId,
        /// Its number.
        snapshot: SnapshotId,
        /// The entry of the volume's log that made it, and the volume's size then in bytes; none if it was deleted.
        made: Option<(LogIndex, u64)>,
    },
    /// Begins to delete a snapshot.
    Delete {
        /// The volume.
        group: GroupId,
        /// Its number.
        snapshot: SnapshotId,
    },
    /// Asks for snapshots of several volumes at one instant; whoever proposes it makes them.
    CreateTogether {
        /// The volumes.
        groups: Vec<GroupId>,
        /// The name of each snapshot.
        name: String,
        /// When they are asked for, in seconds since 1970.
        created_unix_s: u64,
        /// The attempt: no other is called the same.
        token: u64,
    },
    /// All snapshots of an attempt were made.
    CompleteTogether {
        /// The attempt.
        token: u64,
        /// Its snapshots.
        made: Vec<Made>,
    },
    /// Gives an attempt up; what is complete stays.
    AbortTogether {
        /// The attempt.
        token: u64,
        /// The volumes that it was for.
        groups: Vec<GroupId>,
    },
}

impl Catalogue {
    /// The snapshots of a volume, oldest first.
    pub fn snapshots_of(&self, group: GroupId) -> impl Iterator<Item = &SnapshotRecord> {
        let numbers = (group, SnapshotId(0))..=(group, SnapshotId(u64::MAX));
        self.snapshots.range(numbers).map(|(_, snapshot)| snapshot)
    }

    /// How many snapshots a volume has that nobody is shown.
    pub fn hidden_snapshots(&self, group: GroupId) -> u64 {
        let made = self
            .snapshots_of(group)
            .filter(|snapshot| snapshot.phase == SnapshotPhase::Ready);
        made.filter(|snapshot| snapshot.hidden).count() as u64
    }

    /// The snapshot of a volume of that name.
    pub fn snapshot_by_name(&self, group: GroupId, name: &str) -> Option<&SnapshotRecord> {
        self.snapshots_of(group)
            .find(|snapshot| snapshot.name == name && !snapshot.hidden)
    }
}

/// Checks what does not depend on the catalogue.
pub fn check_snapshot_name(name: &str) -> Result<(), Refusal> {
    let is_name_byte =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_');
    if (1..=VOLUME_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_name_byte) {
        return Ok(());
    }
    let rule = format!("a snapshot's name is 1 to {VOLUME_NAME_BYTES_MAX} of a-z, 0-9, '-', '.' and '_'");
    Err(invalid("snapshot name", name, rule))
}

fn volume(catalogue: &Catalogue, group: GroupId) -> Result<&VolumeRecord, Refusal> {
    let volume = catalogue.volumes.get(&group);
    volume.ok_or_else(|| Refusal::NotFound(format!("there is no volume {group}")))
}

/// What a command of snapshots does.
pub(super) fn decide(catalogue: &Catalogue, command: &SnapshotCommand) -> Decision {
    match command {
        SnapshotCommand::Create {
            group,
            name,
            created_unix_s,
        } => create(catalogue, *group, name, *created_unix_s),
        SnapshotCommand::Report { group, snapshot, made } => report(catalogue, *group, *snapshot, *made),
        SnapshotCommand::Delete { group, snapshot } => delete(catalogue, *group, *snapshot),
        SnapshotCommand::CreateTogether {
            groups,
            name,
            created_unix_s,
            token,
        } => together::create(catalogue, groups, name, *created_unix_s, *token),
        SnapshotCommand::CompleteTogether { token, made } => together::complete(catalogue, *token, made),
        SnapshotCommand::AbortTogether { token, groups } => together::abort(catalogue, groups, *token),
    }
}

/// Whether a volume may have one more.
pub(super) fn check_new(catalogue: &Catalogue, group: GroupId) -> Result<(), Refusal> {
    let volume = volume(catalogue, group)?;
    if volume.deleting || volume.hidden {
        return Err(Refusal::Precondition(format!(
            "volume '{}' is being deleted",
            volume.name
        )));
    }
    if catalogue.snapshots_of(group).count() >= SNAPSHOTS_MAX {
        return Err(Refusal::Precondition(format!(
            "volume '{}' has {SNAPSHOTS_MAX} snapshots, the most there can be: delete some first",
            volume.name
        )));
    }
    Ok(())
}

fn create(catalogue: &Catalogue, group: GroupId, name: &str, created_unix_s: u64) -> Decision {
    check_snapshot_name(name)?;
    if let Some(known) = catalogue.snapshot_by_name(group, name) {
        return asked_again(catalogue, known);
    }
    check_new(catalogue, group)?;
    let Some(cluster) = &catalogue.cluster else {
        return Err(Refusal::Precondition("the cluster is not founded yet".to_owned()));
    };
    let mut cluster = cluster.clone();
    let id = cluster.next_snapshot;
    cluster.next_snapshot = id.next();
    let snapshot = SnapshotRecord {
        group,
        id,
        name: name.to_owned(),
        created_unix_s,
        phase: SnapshotPhase::Creating,
        index: LogIndex(0),
        size_bytes: 0,
        together: None,
        hidden: false,
    };
    let changes = vec![Change::Cluster(cluster), Change::Snapshot(snapshot)];
    Ok((Outcome::Snapshot(id), changes))
}

/// The same name again is the same snapshot.
fn asked_again(catalogue: &Catalogue, known: &SnapshotRecord) -> Decision {
    let (name, volume) = (&known.name, catalogue.group_name(known.group));
    if known.phase == SnapshotPhase::Deleting {
        return Err(Refusal::Precondition(format!(
            "snapshot '{name}' of {volume} is still being deleted; ask again when it is gone"
        )));
    }
    if known.together.is_some() {
        return Err(Refusal::Exists(format!(
            "snapshot '{name}' of {volume} was made together with those of other volumes: choose another name"
        )));
    }
    Ok((Outcome::Snapshot(known.id), Vec::new()))
}

fn delete(catalogue: &Catalogue, group: GroupId, id: SnapshotId) -> Decision {
    let Some(known) = catalogue.snapshots.get(&(group, id)) else {
        return Ok((Outcome::Done, Vec::new()));
    };
    if known.phase == SnapshotPhase::Deleting {
        return Ok((Outcome::Done, Vec::new()));
    }
    let mut snapshot = known.clone();
    if clone::is_needed(catalogue, group, id) {
        snapshot.hidden = true;
    } else {
        snapshot.phase = SnapshotPhase::Deleting;
    }
    Ok((Outcome::Done, vec![Change::Snapshot(snapshot)]))
}

/// A leader's engine has made a snapshot, by the entry at `made.0` of a volume of `made.1` bytes, or deleted it.
fn report(catalogue: &Catalogue, group: GroupId, id: SnapshotId, made: Option<(LogIndex, u64)>) -> Decision {
    let Some(known) = catalogue.snapshots.get(&(group, id)) else {
        // Told twice.
        return Ok((Outcome::Done, Vec::new()));
    };
    let change = match made {
        None if known.phase == SnapshotPhase::Deleting => Change::ForgetSnapshot(group, id),
        None => {
            return Err(Refusal::Precondition(format!(
                "snapshot {id} of volume {group} is not being deleted"
            )));
        }
        // Those that are made with others are complete together, or not at all.
        Some((index, size_bytes)) if known.phase == SnapshotPhase::Creating && known.together.is_none() => {
            Change::Snapshot(SnapshotRecord {
                phase: SnapshotPhase::Ready,
                index,
                size_bytes,
                ..known.clone()
            })
        }
        Some(_) => return Ok((Outcome::Done, Vec::new())),
    };
    Ok((Outcome::Done, vec![change]))
}

/// A volume with snapshots is not deleted by accident.
pub(super) fn refuse_volume_with_snapshots(catalogue: &Catalogue, group: GroupId) -> Result<(), Refusal> {
    let left: Vec<&SnapshotRecord> = catalogue
        .snapshots_of(group)
        .filter(|snapshot| snapshot.phase != SnapshotPhase::Deleting && !snapshot.hidden)
        .collect();
    let Some(first) = left.first() else { return Ok(()) };
    let name = catalogue.volumes.get(&group).map_or("", |volume| volume.name.as_str());
    Err(Refusal::Precondition(format!(
        "volume '{name}' has {} snapshots ('{}' is the oldest): delete them first, or delete the volume with --snapshots",
        left.len(),
        first.name
    )))
}
