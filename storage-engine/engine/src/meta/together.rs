//! Snapshots of several volumes at one instant, in the catalogue: all are there, or none is.
//!
//! One command creates the records of all of them, for one *attempt* with a token of its own, and only whoever proposed it may
//! make them (`crate::control::together`): the volumes' leaders make plain snapshots by themselves, but not these. One command
//! completes them, all at once, and only if none was given up or deleted meanwhile. One gives the attempt up: its records are
//! marked for deletion, and what was made of them goes the way of every deleted snapshot. The log of the meta group says which
//! of the two came first. So nobody ever sees some of them ready, whoever dies, and the numbers of an attempt are used for no
//! other.

use std::collections::BTreeSet;

use cairn_api::ids::{GroupId, LogIndex, SnapshotId};

use super::catalogue::Catalogue;
use super::decide::{Change, Decision, Outcome, Refusal, invalid};
use super::snapshot::{SnapshotPhase, SnapshotRecord, check_new, check_snapshot_name};

/// Volumes of one such snapshot: their writes are held for as long as it takes to reach all of their leaders.
pub const TOGETHER_MAX: usize = 64;

/// What a snapshot belongs to that is made together with others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Together {
    /// The number of the first one.
    pub first: SnapshotId,
    /// How many there are.
    pub parts: u32,
    /// The attempt that makes them.
    pub token: u64,
}

/// A snapshot that was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Made {
    /// The volume.
    pub group: GroupId,
    /// Its number.
    pub snapshot: SnapshotId,
    /// The entry of the volume's log that made it.
    pub index: LogIndex,
    /// The volume's size then.
    pub size_bytes: u64,
}

impl Catalogue {
    /// The snapshots of an attempt, on the volumes that it was for.
    pub fn snapshots_of_attempt(&self, groups: &[GroupId], token: u64) -> Vec<&SnapshotRecord> {
        let all = groups.iter().flat_map(|group| self.snapshots_of(*group));
        all.filter(|snapshot| snapshot.together.is_some_and(|together| together.token == token))
            .collect()
    }
}

/// Checks what does not depend on the catalogue.
fn check_volumes(groups: &[GroupId]) -> Result<(), Refusal> {
    let distinct: BTreeSet<&GroupId> = groups.iter().collect();
    if distinct.len() == groups.len() && (1..=TOGETHER_MAX).contains(&groups.len()) {
        return Ok(());
    }
    let rule = format!("name 1 to {TOGETHER_MAX} volumes, each once");
    Err(invalid("the number of volumes", groups.len(), rule))
}

pub(super) fn create(
    catalogue: &Catalogue,
    groups: &[GroupId],
    name: &str,
    created_unix_s: u64,
    token: u64,
) -> Decision {
    check_snapshot_name(name)?;
    check_volumes(groups)?;
    if let Some(first) = existing(catalogue, groups, name)? {
        return Ok((Outcome::Snapshot(first), Vec::new()));
    }
    for group in groups {
        check_new(catalogue, *group)?;
    }
    let Some(cluster) = &catalogue.cluster else {
        return Err(Refusal::Precondition("the cluster is not founded yet".to_owned()));
    };
    let mut cluster = cluster.clone();
    let first = cluster.next_snapshot;
    let together = Together {
        first,
        parts: u32::try_from(groups.len()).unwrap_or(u32::MAX),
        token,
    };
    let mut changes = Vec::new();
    for group in groups {
        changes.push(Change::Snapshot(SnapshotRecord {
            group: *group,
            id: cluster.next_snapshot,
            name: name.to_owned(),
            created_unix_s,
            phase: SnapshotPhase::Creating,
            index: LogIndex(0),
            size_bytes: 0,
            together: Some(together),
            hidden: false,
        }));
        cluster.next_snapshot = cluster.next_snapshot.next();
    }
    changes.push(Change::Cluster(cluster));
    Ok((Outcome::Snapshot(first), changes))
}

/// The first one's number if all of them are there under this name already, and no others with them.
fn existing(catalogue: &Catalogue, groups: &[GroupId], name: &str) -> Result<Option<SnapshotId>, Refusal> {
    let known: Vec<&SnapshotRecord> = groups
        .iter()
        .filter_map(|group| catalogue.snapshot_by_name(*group, name))
        .collect();
    let Some(one) = known.first() else {
        return Ok(None);
    };
    let volume = |of: &SnapshotRecord| catalogue.group_name(of.group);
    if let Some(going) = known.iter().find(|record| record.phase == SnapshotPhase::Deleting) {
        return Err(Refusal::Precondition(format!(
            "snapshot '{name}' of {} is still being deleted; ask again when it is gone",
            volume(going)
        )));
    }
    let is_whole = |together: Together| {
        let parts = u32::try_from(groups.len()).is_ok_and(|count| count == together.parts);
        parts && known.len() == groups.len() && known.iter().all(|record| record.together == Some(together))
    };
    match one.together {
        Some(together) if is_whole(together) => Ok(Some(together.first)),
        _ => Err(Refusal::Exists(format!(
            "{} has a snapshot '{name}' already, which was not made together with one of each of these volumes: \
             choose another name, or delete it",
            volume(one)
        ))),
    }
}

pub(super) fn complete(catalogue: &Catalogue, token: u64, made: &[Made]) -> Decision {
    if made.is_empty() {
        return Err(given_up());
    }
    let (mut changes, mut is_done) = (Vec::new(), true);
    for one in made {
        let known = catalogue.snapshots.get(&(one.group, one.snapshot));
        let together = known.and_then(|known| known.together);
        let whole = together.filter(|together| together.token == token && together.parts as usize == made.len());
        let (Some(known), Some(_)) = (known, whole) else {
            return Err(given_up());
        };
        match known.phase {
            SnapshotPhase::Creating => is_done = false,
            SnapshotPhase::Ready => continue,
            SnapshotPhase::Deleting => return Err(given_up()),
        }
        changes.push(Change::Snapshot(SnapshotRecord {
            phase: SnapshotPhase::Ready,
            index: one.index,
            size_bytes: one.size_bytes,
            ..known.clone()
        }));
    }
    if is_done || changes.len() == made.len() {
        return Ok((Outcome::Done, changes));
    }
    Err(given_up())
}

fn given_up() -> Refusal {
    Refusal::Precondition(
        "the attempt was given up, or one of the volumes or snapshots was deleted meanwhile".to_owned(),
    )
}

/// Gives up what is not complete.
pub(super) fn abort(catalogue: &Catalogue, groups: &[GroupId], token: u64) -> Decision {
    let parts = catalogue.snapshots_of_attempt(groups, token).into_iter();
    let unmade = parts.filter(|snapshot| snapshot.phase == SnapshotPhase::Creating);
    let changes = unmade.map(|snapshot| {
        Change::Snapshot(SnapshotRecord {
            phase: SnapshotPhase::Deleting,
            ..snapshot.clone()
        })
    });
    Ok((Outcome::Done, changes.collect()))
}
