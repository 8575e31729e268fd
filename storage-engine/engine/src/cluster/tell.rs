//! Tells the gateways here what the catalogue has of their volumes: who their members are, and how large they are.
//!
//! Gateways hear of changes of members from members, but one that was idle while all of them changed knows nobody any more. Of
//! everything else they hear from here alone. A connection that is handed to a disk's thread is told once more by whoever
//! hands it over, so that nothing is missed in between. How far this engine is shows in what it says of itself, so that who
//! changes a volume can wait until every engine that answers has heard of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn_api::ids::{GroupId, LogIndex};
use cairn_core::event::Command as CoreCommand;

use super::watch::Task;
use crate::disks::{AskError, ask};
use crate::engine::Engine;
use crate::meta::VolumeRecord;

/// How long a core may take for a command.
const PATIENCE: Duration = Duration::from_secs(2);

/// The background task's memory: what was told of each volume last.
#[derive(Default)]
pub(super) struct Teller {
    told: BTreeMap<GroupId, Told>,
}

#[derive(Clone, PartialEq, Debug)]
struct Told {
    /// The change of members.
    revision: LogIndex,
    update: CoreCommand,
}

impl Told {
    fn of(volume: &VolumeRecord) -> Self {
        Self {
            revision: volume.succession.revision,
            update: volume.update(),
        }
    }
}

impl Task for Teller {
    const BUSY_PAUSE: Duration = Self::IDLE_PAUSE;
    const IDLE_PAUSE: Duration = Duration::from_secs(2);

    async fn pass(&mut self, engine: &Arc<Engine>) -> bool {
        let view = engine.meta.view();
        for volume in view.volumes.values() {
            let Some(news) = self.news(volume) else { continue };
            match tell(engine, volume, &news).await {
                Ok(()) => {
                    self.told.insert(volume.group, news);
                }
                Err(error) => {
                    tracing::warn!(volume = volume.name, %error, "a disk's thread was not told of a volume's change yet");
                    return false;
                }
            }
        }
        self.told.retain(|group, _| view.volumes.contains_key(group));
        engine.heard.store(view.applied.get(), Ordering::Relaxed);
        false
    }
}

impl Teller {
    /// What is to be told of a volume; nothing if the gateways know it, or could not know anything else.
    fn news(&self, volume: &VolumeRecord) -> Option<Told> {
        let now = Told::of(volume);
        match self.told.get(&volume.group) {
            Some(told) => (*told != now).then_some(now),
            None => (now.revision > LogIndex(0) || volume.was_changed()).then_some(now),
        }
    }
}

async fn tell(engine: &Arc<Engine>, volume: &VolumeRecord, news: &Told) -> Result<(), AskError> {
    // A core that has no gateway of the volume ignores it.
    for (_, thread) in engine.disks.serving() {
        ask(&thread, news.update.clone(), PATIENCE).await?;
        if news.revision > LogIndex(0) {
            let update = CoreCommand::UpdateMembers {
                group: volume.group,
                revision: news.revision,
                voters: volume.members(),
            };
            ask(&thread, update, PATIENCE).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::tests::{add_volume, sample};

    #[test]
    fn what_changed_is_told_once_and_what_never_changed_not_at_all() {
        let mut catalogue = sample(3);
        let group = add_volume(&mut catalogue, "v", 8192, &[1, 2, 3]);
        let mut volume = catalogue.volumes[&group].clone();
        let mut teller = Teller::default();
        assert_eq!(teller.news(&volume), None);
        volume.size_bytes = 16384;
        let news = teller.news(&volume).unwrap();
        teller.told.insert(group, news);
        assert_eq!(teller.news(&volume), None);
        volume.succession.revision = LogIndex(7);
        assert_eq!(teller.news(&volume).unwrap().revision, LogIndex(7));
    }
}
