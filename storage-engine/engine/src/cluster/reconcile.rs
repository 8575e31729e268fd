//! Brings this engine in line with the catalogue: makes the replicas that belong here, drops those of deleted volumes, and
//! tells the meta leader. What the replacement of disks asks of it is in [`super::succeed`].
//!
//! A replica is made only on the word of the current leader. A copy of the catalogue may be old, and a replica that was made,
//! lost with its disk's contents and made again from an old word would vote with an empty log.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cairn_api::control as api;
use cairn_api::ids::{DiskId, GroupId, LogIndex, ReplicaId};
use cairn_core::event::Command as CoreCommand;
use tonic::Request;

use super::peers::PeerBook;
use super::succeed::{self, Present};
use super::{clones, expand, init, replace, snapshots, tell, watch};
use crate::control::{self, convert, route, survey};
use crate::disks::ask;
use crate::engine::Engine;
use crate::meta::{Catalogue, DiskRecord, NodeRecord, ReplicaRecord, VolumePhase, VolumeRecord};

/// How often to look although nothing was heard: what failed is tried again, and an engine outside the meta group asks for
/// news.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a core may take for a control command.
const COMMAND_PATIENCE: Duration = Duration::from_secs(10);
/// How long another engine may take to send its catalogue.
const FETCH_PATIENCE: Duration = Duration::from_secs(2);
/// Passes without a meta leader before other engines are asked where they listen.
const LEADERLESS_PASSES: u32 = 3;

/// Passes after which an engine that is in line looks at all its replicas again.
const SETTLED_PASSES: u32 = 15;
/// Passes between two greetings of the meta leader to every engine.
const GREETING_PASSES: u32 = 5;

/// The background task's memory.
#[derive(Default)]
struct Task {
    book: PeerBook,
    leaderless: u32,
    last_problem: String,
    damaged: BTreeSet<ReplicaId>,
    dropped: BTreeSet<ReplicaId>,
    /// The revision at which everything was in line, and the passes since.
    settled: Option<(LogIndex, u32)>,
    disks: Vec<DiskId>,
    /// The disks here that were replaced, as they were complained of.
    removed: BTreeSet<DiskId>,
    passes: u32,
}

/// Runs until the engine drains.
pub async fn run(engine: Arc<Engine>) {
    tokio::join!(
        bring_in_line(&engine),
        watch::run::<replace::Driver>(Arc::clone(&engine)),
        watch::run::<expand::Driver>(Arc::clone(&engine)),
        watch::run::<snapshots::Driver>(Arc::clone(&engine)),
        watch::run::<clones::Driver>(Arc::clone(&engine)),
        watch::run::<tell::Teller>(Arc::clone(&engine))
    );
}

async fn bring_in_line(engine: &Arc<Engine>) {
    let mut view = engine.meta.watch_view();
    let mut leader = engine.meta.watch_leader();
    let mut task = Task::default();
    while !engine.is_draining() {
        if engine.cluster().is_some() {
            task.pass(engine).await;
        }
        tokio::select! {
            _ = view.changed() => {}
            _ = leader.changed() => {}
            () = engine.wake.notified() => {}
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

impl Task {
    async fn pass(&mut self, engine: &Arc<Engine>) {
        if let Err(status) = init::ensure_meta_group(engine).await {
            self.problem(status.message());
        }
        init::found(engine).await;
        if !engine.meta.counts() {
            self.fetch_catalogue(engine).await;
        }
        engine.meta.settle_leader();
        if engine.meta.has_leader() {
            self.leaderless = 0;
            self.book.trust_catalogue();
        } else {
            self.leaderless += 1;
            if self.leaderless >= LEADERLESS_PASSES {
                self.book.listen_around(engine).await;
                self.look_outside(engine).await;
            }
        }
        self.book.publish(engine);
        self.register(engine).await;
        self.replicas(engine).await;
        self.passes = self.passes.wrapping_add(1);
        if engine.meta.is_leader() && self.passes.is_multiple_of(GREETING_PASSES) {
            greet_everyone(engine);
        }
    }

    /// Whether nothing can have changed since everything was in line. Looking at every replica costs time in proportion
    /// to their number, so an idle engine does it rarely.
    fn is_settled(&mut self, revision: LogIndex) -> bool {
        match &mut self.settled {
            Some((at, passes)) if *at == revision && *passes < SETTLED_PASSES => {
                *passes += 1;
                true
            }
            _ => false,
        }
    }

    /// Says what is wrong once, not every second.
    fn problem(&mut self, text: &str) {
        if self.last_problem != text {
            tracing::info!(problem = text, "not in line with the catalogue yet");
            text.clone_into(&mut self.last_problem);
        }
    }

    async fn fetch_catalogue(&mut self, engine: &Arc<Engine>) {
        match route::current_catalogue(engine).await {
            Ok(catalogue) if catalogue.cluster.as_ref().map(|cluster| cluster.id) != engine.cluster() => {
                self.problem("the catalogue that was fetched is another cluster's");
            }
            Ok(catalogue) => {
                if catalogue.applied > engine.meta.view().applied {
                    engine.meta.keep_copy((*catalogue).clone());
                    engine.meta.fence().await;
                }
                engine.meta.hear_of_leader(true);
            }
            Err(status) => {
                engine.meta.hear_of_leader(false);
                self.problem(status.message());
            }
        }
    }

    /// A replica of the meta group that was removed while this engine was away hears from nobody any more. Without a leader
    /// for some time, this engine asks the others for the catalogue, which says if that is so.
    async fn look_outside(&mut self, engine: &Arc<Engine>) {
        let view = engine.meta.view();
        if !engine.meta.is_member() || view.applied == LogIndex(0) {
            return;
        }
        let others = view.nodes.values().filter(|node| node.id != engine.node());
        let addresses = others.map(|node| node.control_address.clone()).chain(engine.hints());
        for address in addresses {
            let fetched = tokio::time::timeout(FETCH_PATIENCE, route::fetch(engine, &address, 1)).await;
            let Ok(Ok(catalogue)) = fetched else { continue };
            let is_ours = catalogue.cluster.as_ref().map(|cluster| cluster.id) == engine.cluster();
            if is_ours && catalogue.applied > view.applied {
                engine.meta.keep_copy((*catalogue).clone());
                engine.meta.fence().await;
                return;
            }
        }
    }

    /// Tells the leader of this node's addresses and disks, where the catalogue has something else.
    async fn register(&mut self, engine: &Arc<Engine>) {
        let view = engine.meta.view();
        let own = engine.own_record();
        if view.applied == LogIndex(0) || view.nodes.get(&own.id).is_some_and(|known| covers(&view, known, &own)) {
            return;
        }
        let spec = convert::node_spec(&own, false);
        let request = Request::new(api::RegisterNodeRequest { spec: Some(spec) });
        if let Err(status) = control::register_node(engine, request).await {
            self.problem(&format!("this node is not registered: {}", status.message()));
        }
    }

    async fn replicas(&mut self, engine: &Arc<Engine>) {
        let view = engine.meta.view();
        let disks: Vec<DiskId> = engine.disks.serving().iter().map(|(disk, _)| *disk).collect();
        if disks != self.disks {
            self.settled = None;
            self.disks.clone_from(&disks);
        }
        if self.is_settled(view.applied) {
            return;
        }
        let mut is_settled = !view.volumes.values().any(|volume| volume.phase() != VolumePhase::Ready);
        is_settled &= !succeed::is_needed(&view, &disks);
        self.note_removed(&view, &disks);
        let told = survey::groups_by_disk(engine).await;
        is_settled &= disks.iter().all(|disk| told.contains_key(disk));
        let present: Present = told
            .iter()
            .flat_map(|(disk, groups)| groups.iter().map(|status| (*disk, status.spec.group, status.replica)))
            .collect();
        self.close_deleted(engine, &view);
        for disk in disks.into_iter().filter(|disk| told.contains_key(disk)) {
            for problem in succeed::bring_in_line(engine, &view, disk, &present).await {
                self.problem(&problem);
            }
            for (volume, replica) in view.replicas_on(disk) {
                let is_present = present.contains(&(disk, volume.group, replica.id));
                if let Err(problem) = self.replica(engine, disk, volume, replica, is_present).await {
                    is_settled = false;
                    self.problem(&format!(
                        "replica {} of volume '{}': {problem}",
                        replica.id, volume.name
                    ));
                }
            }
        }
        self.settled = is_settled.then_some((view.applied, 0));
    }

    /// Brings one replica in line.
    async fn replica(
        &mut self,
        engine: &Arc<Engine>,
        disk: DiskId,
        volume: &VolumeRecord,
        replica: &ReplicaRecord,
        is_present: bool,
    ) -> Result<(), String> {
        match (volume.phase(), replica.created, is_present) {
            // An engine outside the meta group does not see in its catalogue that its report was heard.
            (VolumePhase::Deleting, _, false) if replica.dropped || self.dropped.contains(&replica.id) => Ok(()),
            (VolumePhase::Deleting, _, _) => self.drop_replica(engine, disk, volume, replica).await,
            (_, false, true) => report(engine, volume.group, replica.id, false).await,
            (_, false, false) => make_replica(engine, disk, volume.group, replica.id).await,
            (_, true, true) => Ok(()),
            (_, true, false) => {
                self.note_damage(disk, volume, replica);
                Ok(())
            }
        }
    }

    /// A disk that was replaced has nothing to do here.
    fn note_removed(&mut self, view: &Catalogue, disks: &[DiskId]) {
        for disk in disks.iter().filter(|disk| view.is_removed(**disk)) {
            if let Some(replacement) = view.replacements.get(disk)
                && self.removed.insert(*disk)
            {
                tracing::warn!(
                    %disk, by = %replacement.new,
                    "this disk was replaced and holds nothing that counts: take it out of the configuration, or format it \
                     anew and it comes back as an empty one"
                );
            }
        }
    }

    /// No frontend keeps a volume that is being deleted, wherever its connection is.
    fn close_deleted(&self, engine: &Engine, view: &Catalogue) {
        for volume in view.volumes.values().filter(|volume| volume.deleting || volume.hidden) {
            engine.forget_gateway(volume.group);
            for (_, thread) in engine.disks.serving() {
                thread.close_streams_of(volume.group);
            }
        }
    }

    async fn drop_replica(
        &mut self,
        engine: &Arc<Engine>,
        disk: DiskId,
        volume: &VolumeRecord,
        replica: &ReplicaRecord,
    ) -> Result<(), String> {
        let thread = engine.disks.thread_of(disk).ok_or("its disk does not serve")?;
        ask(&thread, CoreCommand::DropGroup(volume.group), COMMAND_PATIENCE)
            .await
            .map_err(|error| format!("not dropped: {error}"))?;
        tracing::info!(volume = volume.name, group = %volume.group, replica = %replica.id, %disk, "dropped a replica");
        report(engine, volume.group, replica.id, true).await?;
        self.dropped.insert(replica.id);
        Ok(())
    }

    fn note_damage(&mut self, disk: DiskId, volume: &VolumeRecord, replica: &ReplicaRecord) {
        if self.damaged.insert(replica.id) {
            tracing::error!(
                volume = volume.name, group = %volume.group, replica = %replica.id, %disk,
                "the replica was made here once and is not on its disk any more; it is not made again, since it would \
                 vote with an empty log"
            );
        }
    }
}

/// Asks every engine who it is, without waiting for the answers. One that has lost its catalogue, and with it everybody's
/// address, learns from being asked whom it can ask.
fn greet_everyone(engine: &Arc<Engine>) {
    let view = engine.meta.view();
    for node in view.nodes.values().filter(|node| node.id != engine.node()) {
        tokio::spawn(route::probe(Arc::clone(engine), node.control_address.clone()));
    }
}

/// Whether the catalogue's record says all that the node itself says, and nothing of a disk that was replaced and is gone.
fn covers(view: &Catalogue, known: &NodeRecord, own: &NodeRecord) -> bool {
    let is_own = |disk: &DiskRecord| own.disks.iter().any(|other| other.id == disk.id);
    (
        &known.name,
        &known.control_address,
        &known.data_address,
        &known.nbd_address,
    ) == (&own.name, &own.control_address, &own.data_address, &own.nbd_address)
        && own.disks.iter().all(|disk| known.disks.contains(disk))
        && known.disks.iter().all(|disk| is_own(disk) || !view.is_removed(disk.id))
}

async fn make_replica(engine: &Arc<Engine>, disk: DiskId, group: GroupId, id: ReplicaId) -> Result<(), String> {
    let current = route::current_catalogue(engine)
        .await
        .map_err(|status| status.message().to_owned())?;
    let Some(volume) = current.volumes.get(&group).filter(|volume| !volume.deleting) else {
        return Ok(());
    };
    let Some(replica) = volume.replicas.iter().find(|replica| replica.id == id) else {
        return Ok(());
    };
    if replica.created || replica.disk != disk {
        return Ok(());
    }
    let thread = engine.disks.thread_of(disk).ok_or("its disk does not serve")?;
    let create = CoreCommand::CreateGroup {
        spec: volume.spec(),
        replica: id,
    };
    ask(&thread, create, COMMAND_PATIENCE)
        .await
        .map_err(|error| format!("not made: {error}"))?;
    tracing::info!(volume = volume.name, %group, replica = %id, %disk, "made a replica");
    report(engine, group, id, false).await
}

/// Tells the meta leader that a replica is made, or dropped.
pub(super) async fn report(
    engine: &Arc<Engine>,
    group: GroupId,
    replica: ReplicaId,
    dropped: bool,
) -> Result<(), String> {
    let request = api::ReportReplicaRequest {
        volume_id: group.get(),
        replica_id: replica.get(),
        dropped,
    };
    match control::report_replica(engine, Request::new(request)).await {
        Ok(_) => Ok(()),
        Err(status) => Err(format!("not reported: {}", status.message())),
    }
}
