//! Reports clones that are whole: the part of the engine whose replica leads them.
//!
//! A replica that has no base any more has applied the entry that filled the last of it, which is never undone. It may be reported
//! by anybody, any number of times; whoever leads does it, so that it is once as a rule.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cairn_api::control as api;
use cairn_api::ids::GroupId;
use cairn_core::event::{GroupStatus, Role};
use tonic::Request;

use super::watch::Task;
use crate::control::{clones, survey};
use crate::engine::Engine;
use crate::meta::Catalogue;

/// The background task; it remembers nothing.
#[derive(Default)]
pub(super) struct Driver;

/// The clones that are not known to be whole.
fn pending(view: &Catalogue) -> BTreeSet<GroupId> {
    let volumes = view.volumes.values().filter(|volume| !volume.deleting);
    let clones = volumes.filter(|volume| volume.origin.as_ref().is_some_and(|origin| !origin.is_whole()));
    clones.map(|volume| volume.group).collect()
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
            if pending.contains(&status.spec.group) && status.role == Role::Leader && status.base.is_none() {
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
        index: status.applied.get(),
    };
    match clones::report(engine, Request::new(request)).await {
        Ok(_) => tracing::info!(volume = engine.meta.view().group_name(group), "a clone is whole"),
        Err(status) => tracing::debug!(%group, reason = status.message(), "a clone that is whole is not reported yet"),
    }
}
