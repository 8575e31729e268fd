//! Reports the replicas of clones here that have dropped their base.
//!
//! A replica that has no base any more has applied the entry that filled the last of it, which is never undone. So it may be reported
//! any number of times, and is until the catalogue shows that it was heard.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cairn_api::control as api;
use cairn_api::ids::{GroupId, ReplicaId};
use cairn_core::event::GroupStatus;
use tonic::Request;

use super::watch::Task;
use crate::control::{clones, survey};
use crate::engine::Engine;
use crate::meta::Catalogue;

/// The background task; it remembers nothing.
#[derive(Default)]
pub(super) struct Driver;

/// The replicas of clones that are not known to be whole.
fn pending(view: &Catalogue) -> BTreeSet<(GroupId, ReplicaId)> {
    let volumes = view.volumes.values().filter(|volume| !volume.deleting);
    let clones = volumes.filter_map(|volume| Some((volume, volume.origin.as_ref()?)));
    let needy = clones.filter(|(_, origin)| !origin.is_released);
    let replicas = needy.flat_map(|(volume, origin)| {
        let ids = volume.replicas.iter().map(|replica| replica.id);
        let silent = ids.filter(|id| !origin.whole.contains(id));
        silent.map(|id| (volume.group, id))
    });
    replicas.collect()
}

impl Task for Driver {
    /// The pause between two looks while a clone is not known to be whole.
    const BUSY_PAUSE: Duration = Duration::from_millis(500);
    /// The pause between two looks otherwise: whatever there is to do shows in the catalogue.
    const IDLE_PAUSE: Duration = Duration::from_secs(5);

    /// Reports the whole clones that are led here; whether any was not known to be whole.
    async fn pass(&mut self, engine: &Arc<Engine>) -> bool {
        let pending = pending(&engine.meta.view());
        if pending.is_empty() {
            return false;
        }
        for (_, status) in survey::local_groups(engine).await {
            if pending.contains(&(status.spec.group, status.replica)) && status.base.is_none() {
                report(engine, &status).await;
            }
        }
        true
    }
}

async fn report(engine: &Arc<Engine>, status: &GroupStatus) {
    let group = status.spec.group;
    let request = api::ReportWholeRequest {
        volume_id: group.get(),
        replica_id: status.replica.get(),
    };
    match clones::report(engine, Request::new(request)).await {
        Ok(_) => tracing::info!(
            volume = engine.meta.view().group_name(group),
            "a replica of a clone is whole"
        ),
        Err(status) => {
            let reason = status.message();
            tracing::debug!(%group, reason, "a replica of a clone that is whole is not reported yet");
        }
    }
}
