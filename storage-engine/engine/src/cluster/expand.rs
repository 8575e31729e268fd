//! Gives every group that is led here the size that the catalogue has for its volume.
//!
//! The catalogue's size is raised first, by a command of the meta group; the volume has it when its own group has applied an
//! entry that says so. Whoever leads the group proposes that, on what it sees of its own replica, so that it is done once more
//! after whatever crash, by whoever leads then: the entry has no effect on a volume that is as large already.
//!
//! What a replica has applied is committed and never undone. A volume that was seen to have its size, led here or not, is not
//! looked at again, and volumes that never grew are not looked at at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn_api::ids::{DiskId, GroupId};
use cairn_api::units::BLOCK_BYTES;
use cairn_core::event::{Command as CoreCommand, GroupStatus, Role};

use super::watch::Task;
use crate::control::survey;
use crate::disks::ask;
use crate::engine::Engine;
use crate::meta::{Catalogue, VolumeRecord};

/// How long the entry may take: a few round trips, or the leader has lost its majority.
const PATIENCE: Duration = Duration::from_secs(5);

/// The background task's memory.
#[derive(Default)]
pub(super) struct Driver {
    /// The size that each volume was seen to have here.
    seen: BTreeMap<GroupId, u64>,
    problems: BTreeMap<GroupId, String>,
}

impl Task for Driver {
    /// The pause between two looks while a volume with a replica here has not got its size.
    const BUSY_PAUSE: Duration = Duration::from_millis(100);
    /// The pause between two looks otherwise: whatever there is to do shows in the catalogue.
    const IDLE_PAUSE: Duration = Duration::from_secs(5);

    /// Takes every volume that is led here to its size; whether any is left that was not seen to have it.
    async fn pass(&mut self, engine: &Arc<Engine>) -> bool {
        let view = engine.meta.view();
        let disks: Vec<DiskId> = engine.disks.serving().iter().map(|(disk, _)| *disk).collect();
        self.seen.retain(|group, _| view.volumes.contains_key(group));
        let pending = self.pending(&view, &disks);
        if pending.is_empty() {
            self.problems.clear();
            return false;
        }
        for (disk, status) in survey::local_groups(engine).await {
            let volume = pending.iter().find(|volume| volume.group == status.spec.group);
            if let Some(volume) = volume {
                self.look(engine, disk, volume, &status).await;
            }
        }
        !self.pending(&view, &disks).is_empty()
    }
}

impl Driver {
    /// The volumes with a replica on these disks that grew and were not seen to have their size.
    fn pending<'a>(&self, view: &'a Catalogue, disks: &[DiskId]) -> Vec<&'a VolumeRecord> {
        let is_here = |volume: &VolumeRecord| volume.replicas.iter().any(|replica| disks.contains(&replica.disk));
        let has_size = |volume: &VolumeRecord| {
            self.seen
                .get(&volume.group)
                .is_some_and(|seen| *seen >= volume.size_bytes)
        };
        let grown = view
            .volumes
            .values()
            .filter(|volume| volume.size_bytes != volume.created_bytes);
        grown
            .filter(|volume| !volume.deleting && is_here(volume) && !has_size(volume))
            .collect()
    }

    async fn look(&mut self, engine: &Arc<Engine>, disk: DiskId, volume: &VolumeRecord, status: &GroupStatus) {
        let group = volume.group;
        let wanted = volume.size_bytes / BLOCK_BYTES;
        if status.size_blocks >= wanted {
            self.note(volume);
        } else if status.role == Role::Leader {
            let Some(thread) = engine.disks.thread_of(disk) else {
                return;
            };
            let resize = CoreCommand::Resize {
                group,
                size_blocks: wanted,
            };
            match ask(&thread, resize, PATIENCE).await {
                Ok(_) => {
                    tracing::info!(volume = volume.name, %group, size_bytes = volume.size_bytes, "a volume has grown");
                    self.note(volume);
                }
                Err(error) => self.problem(volume, error.to_string()),
            }
        }
    }

    fn note(&mut self, volume: &VolumeRecord) {
        self.seen.insert(volume.group, volume.size_bytes);
        self.problems.remove(&volume.group);
    }

    /// Says what holds it up once, not ten times a second.
    fn problem(&mut self, volume: &VolumeRecord, problem: String) {
        if self.problems.get(&volume.group) != Some(&problem) {
            tracing::info!(volume = volume.name, problem, "a volume has not grown yet");
            self.problems.insert(volume.group, problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::tests::{add_volume, disk, sample};

    #[test]
    fn only_volumes_that_grew_and_are_here_are_looked_at_until_they_were_seen_to_have_their_size() {
        let mut catalogue = sample(4);
        add_volume(&mut catalogue, "never", 8192, &[1, 2, 3]);
        let grown = add_volume(&mut catalogue, "grown", 8192, &[1, 2, 3]);
        catalogue.volumes.get_mut(&grown).unwrap().size_bytes = 16384;
        let mut driver = Driver::default();
        let pending = |driver: &Driver, number| -> Vec<GroupId> {
            let pending = driver.pending(&catalogue, &[disk(number)]);
            pending.iter().map(|volume| volume.group).collect()
        };
        assert_eq!(pending(&driver, 1), [grown]);
        assert!(pending(&driver, 4).is_empty());
        driver.seen.insert(grown, 12288);
        assert_eq!(pending(&driver, 1), [grown], "it had an earlier size only");
        driver.seen.insert(grown, 16384);
        assert!(pending(&driver, 1).is_empty());
    }
}
