//! This engine's own part in the replacement of disks: makes the replicas that are to take others' places here, and drops
//! those whose places were taken.
//!
//! A newcomer is made on the word of the current leader, like any replica: made again from an old word, on a disk that has
//! lost it, it could have voted before. One that was retired is dropped under its number only: the catalogue says that it
//! was retired when a majority of the group knew it, and that stays true for ever.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cairn_api::ids::{DiskId, GroupId, LogIndex, ReplicaId};
use cairn_core::event::{Command as CoreCommand, Member};

use super::{init, reconcile, replace};
use crate::control::route;
use crate::disks::ask;
use crate::engine::Engine;
use crate::meta::{Catalogue, Step, Swap};

/// How long a core may take for a control command.
const COMMAND_PATIENCE: Duration = Duration::from_secs(10);

/// The replicas that this engine's disks hold.
pub(super) type Present = BTreeSet<(DiskId, GroupId, ReplicaId)>;

/// Whether something on these disks is to be made or dropped.
pub(super) fn is_needed(view: &Catalogue, disks: &[DiskId]) -> bool {
    let mut comes = view.swaps().filter(|(_, swap)| swap.step == Step::Make);
    comes.any(|(_, swap)| disks.contains(&swap.joining.disk))
        || view.retired().any(|(_, member)| disks.contains(&member.disk))
}

/// Makes and drops on one disk; what did not work comes back.
pub(super) async fn bring_in_line(
    engine: &Arc<Engine>,
    view: &Catalogue,
    disk: DiskId,
    present: &Present,
) -> Vec<String> {
    let mut problems = Vec::new();
    for (group, member) in view.retired().filter(|(_, member)| member.disk == disk) {
        let is_present = present.contains(&(disk, group, member.replica));
        if let Err(problem) = retire(engine, view, (group, member), is_present).await {
            problems.push(format!(
                "{}: replica {}: {problem}",
                view.group_name(group),
                member.replica
            ));
        }
    }
    let comes = view.swaps().filter(|(_, swap)| swap.joining.disk == disk);
    for (group, swap) in comes.filter(|(_, swap)| swap.step == Step::Make) {
        if let Err(problem) = welcome(engine, group, swap).await {
            let replica = swap.joining.replica;
            problems.push(format!("{}: replica {replica}: {problem}", view.group_name(group)));
        }
    }
    problems
}

/// Makes a newcomer, and says so.
async fn welcome(engine: &Arc<Engine>, group: GroupId, swap: &Swap) -> Result<(), String> {
    let current = route::current_catalogue(engine)
        .await
        .map_err(|status| status.message().to_owned())?;
    let (replica, disk) = (swap.joining.replica, swap.joining.disk);
    let planned = current
        .succession(group)
        .and_then(|succession| succession.swap_by(replica));
    if planned.is_none_or(|swap| swap.step != Step::Make) {
        return Ok(());
    }
    let spec = match current.volumes.get(&group) {
        Some(volume) => volume.spec(),
        None => current.cluster.as_ref().ok_or("there is no cluster")?.meta_spec(),
    };
    let thread = engine.disks.thread_of(disk).ok_or("its disk does not serve")?;
    ask(&thread, CoreCommand::CreateGroup { spec, replica }, COMMAND_PATIENCE)
        .await
        .map_err(|error| format!("not made: {error}"))?;
    if group == GroupId::META {
        init::attach_meta_group(engine, disk, &thread)
            .await
            .map_err(|error| format!("not attached: {error}"))?;
    }
    tracing::info!(group = current.group_name(group), %replica, %disk, "made a replica that takes another's place");
    replace::report(engine, group, swap, Step::Join, LogIndex(0)).await
}

/// Drops a replica that is no member any more, and says so.
async fn retire(
    engine: &Arc<Engine>,
    view: &Catalogue,
    (group, member): (GroupId, &Member),
    is_present: bool,
) -> Result<(), String> {
    let (replica, disk) = (member.replica, member.disk);
    if is_present {
        let thread = engine.disks.thread_of(disk).ok_or("its disk does not serve")?;
        if group == GroupId::META {
            engine.meta.detach(disk);
        }
        ask(&thread, CoreCommand::DropGroup(group), COMMAND_PATIENCE)
            .await
            .map_err(|error| format!("not dropped: {error}"))?;
        tracing::info!(group = view.group_name(group), %replica, %disk, "dropped a replica whose place was taken");
    }
    reconcile::report(engine, group, replica, true).await
}
