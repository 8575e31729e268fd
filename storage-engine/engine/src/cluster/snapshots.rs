//! Makes and deletes the snapshots that the catalogue asks for: the part of the engine whose replica leads the volume.
//!
//! What the catalogue shows as creating or deleting is asked of the core, in the order of the numbers, and what the core has
//! done is reported. Each step may be done twice (`cairn_core`'s entries have effect once), so that whoever leads next goes on
//! after any crash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cairn_api::control as api;
use cairn_api::ids::{DiskId, GroupId, LogIndex, SnapshotId};
use cairn_api::units::BLOCK_BYTES;
use cairn_core::event::{Command, CommandReply, Role};
use tonic::Request;

use super::watch::Task;
use crate::control::snapshots::report;
use crate::control::{survey, together};
use crate::disks::ask;
use crate::engine::Engine;
use crate::meta::{Catalogue, SnapshotPhase, SnapshotRecord};

/// How long an entry may take.
const ENTRY_PATIENCE: Duration = Duration::from_secs(5);

/// The background task's memory: what it said of each volume last.
#[derive(Default)]
pub(super) struct Driver {
    problems: BTreeMap<GroupId, String>,
}

/// The volumes that have something to do, of which a replica is here.
fn wanted(view: &Catalogue) -> BTreeSet<GroupId> {
    let pending = view.snapshots.values().filter(|one| one.phase != SnapshotPhase::Ready);
    let is_there = |group: &GroupId| view.volumes.get(group).is_some_and(|volume| !volume.deleting);
    pending.map(|snapshot| snapshot.group).filter(is_there).collect()
}

impl Task for Driver {
    /// The pause between two looks while there is something to do.
    const BUSY_PAUSE: Duration = Duration::from_millis(100);
    /// The pause between two looks otherwise: the catalogue tells of new ones by itself.
    const IDLE_PAUSE: Duration = Duration::from_secs(1);

    /// Does what is to be done for every volume that is led here; whether there is anything anywhere.
    async fn pass(&mut self, engine: &Arc<Engine>) -> bool {
        let view = engine.meta.view();
        let wanted = wanted(&view);
        self.problems.retain(|group, _| wanted.contains(group));
        if wanted.is_empty() {
            return false;
        }
        if engine.meta.is_leader() {
            together::give_up_strangers(engine).await;
        }
        for (disk, status) in survey::local_groups(engine).await {
            let group = status.spec.group;
            if status.role != Role::Leader || !wanted.contains(&group) {
                continue;
            }
            if let Err(problem) = volume(engine, &view, disk, group).await
                && self.problems.get(&group) != Some(&problem)
            {
                tracing::info!(volume = view.group_name(group), problem, "snapshots have to wait");
                self.problems.insert(group, problem);
            }
        }
        true
    }
}

/// What is to be done for one volume, in the order of the numbers: a later one spends those before it.
async fn volume(engine: &Arc<Engine>, view: &Catalogue, disk: DiskId, group: GroupId) -> Result<(), String> {
    for snapshot in view.snapshots_of(group) {
        match snapshot.phase {
            // Whoever coordinates those that are made together makes it, and it comes before those with higher numbers.
            SnapshotPhase::Creating if snapshot.together.is_some() => return Ok(()),
            SnapshotPhase::Creating => make(engine, disk, snapshot).await?,
            SnapshotPhase::Deleting => delete(engine, disk, snapshot).await?,
            SnapshotPhase::Ready => {}
        }
    }
    Ok(())
}

async fn ask_core(engine: &Arc<Engine>, disk: DiskId, command: Command) -> Result<CommandReply, String> {
    let thread = engine.disks.thread_of(disk).ok_or("its disk does not serve")?;
    ask(&thread, command, ENTRY_PATIENCE)
        .await
        .map_err(|error| error.to_string())
}

async fn make(engine: &Arc<Engine>, disk: DiskId, record: &SnapshotRecord) -> Result<(), String> {
    let (group, snapshot) = (record.group, record.id);
    let reply = ask_core(engine, disk, Command::CreateSnapshot { group, snapshot }).await?;
    let CommandReply::Committed(index) = reply else {
        return Err(format!("the core answered a snapshot with {reply:?}"));
    };
    let size_bytes = match ask_core(engine, disk, Command::Snapshots(group)).await? {
        CommandReply::Snapshots(found) => found.iter().find(|one| one.id == snapshot).map(|one| one.size_blocks),
        _ => None,
    };
    let size_bytes = size_bytes.ok_or("the snapshot is not there any more")? * BLOCK_BYTES;
    tell(engine, (group, snapshot), Some((index, size_bytes))).await?;
    tracing::info!(%group, %snapshot, name = record.name, %index, "made a snapshot");
    Ok(())
}

async fn delete(engine: &Arc<Engine>, disk: DiskId, record: &SnapshotRecord) -> Result<(), String> {
    let (group, snapshot) = (record.group, record.id);
    ask_core(engine, disk, Command::DeleteSnapshot { group, snapshot }).await?;
    tell(engine, (group, snapshot), None).await?;
    tracing::info!(%group, %snapshot, name = record.name, "deleted a snapshot");
    Ok(())
}

async fn tell(
    engine: &Arc<Engine>,
    (group, snapshot): (GroupId, SnapshotId),
    made: Option<(LogIndex, u64)>,
) -> Result<(), String> {
    let (index, size_bytes) = made.unwrap_or_default();
    let request = api::ReportSnapshotRequest {
        volume_id: group.get(),
        snapshot_id: snapshot.get(),
        deleted: made.is_none(),
        index: index.get(),
        size_bytes,
    };
    match report(engine, Request::new(request)).await {
        Ok(_) => Ok(()),
        Err(status) => Err(format!("not reported: {}", status.message())),
    }
}
