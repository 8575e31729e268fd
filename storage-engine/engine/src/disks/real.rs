//! Disks as reactor threads, each with a real core.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cairn_api::block::FrontendSession;
use cairn_api::ids::{ClusterId, DiskId, GroupId, LogIndex, NodeId, ReplicaId};
use cairn_core::Core;
use cairn_core::config::{CoreConfig, Limits, ScrubSettings, Timing};
use cairn_core::event::{
    CheckpointReport, CollectionReport, Command, Damage, Effect, Event, RecoverySummary, SpaceStatus, Stage,
};
use cairn_core::time::Timestamp;
use cairn_format::superblock::Superblock;
use cairn_reactor::Opening;
use cairn_reactor::disk::{self, Disk, Owner};
use cairn_reactor::{Config, Counters, HandleError, LinkCounters, Machine, Observer, Reactor, ReactorHandle};

use super::space::SpaceWatch;
use super::{CommandCallback, DiskBackend, DiskError, DiskLabel, DiskObserver, DiskStats, DiskThread};
use crate::config::DiskConfig;

/// Real disks. Each is opened, and with that locked, when it is first looked at, and stays so until its thread owns it: no
/// second engine can slip in between.
pub struct Reactors {
    held: Mutex<BTreeMap<PathBuf, Disk>>,
    move_leadership: bool,
}

impl Reactors {
    /// None opened yet. `move_leadership`: whether leadership of a volume moves here when the volume is used here.
    pub fn new(move_leadership: bool) -> Self {
        Self {
            held: Mutex::default(),
            move_leadership,
        }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Disk>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn label(superblock: &Superblock) -> DiskLabel {
    DiskLabel {
        disk: superblock.disk,
        cluster: superblock.cluster,
        node: superblock.node,
        size_bytes: superblock.device_size,
    }
}

fn refuse(error: impl std::fmt::Display) -> DiskError {
    DiskError(error.to_string())
}

impl DiskBackend for Reactors {
    fn inspect(&self, path: &Path) -> Result<DiskLabel, DiskError> {
        let disk = disk::open(path, None).map_err(refuse)?;
        let label = label(disk.superblock());
        self.held().insert(path.to_owned(), disk);
        Ok(label)
    }

    fn claim(&self, path: &Path, cluster: ClusterId, node: NodeId) -> Result<DiskLabel, DiskError> {
        let mut held = self.held();
        let disk = held.get_mut(path).ok_or_else(|| refuse("it is not open"))?;
        disk.claim(Owner { cluster, node }).map_err(refuse)?;
        Ok(label(disk.superblock()))
    }

    fn start(
        &self,
        config: &DiskConfig,
        label: &DiskLabel,
        observer: Arc<dyn DiskObserver>,
    ) -> Result<Arc<dyn DiskThread>, DiskError> {
        let disk = self
            .held()
            .remove(&config.path)
            .ok_or_else(|| refuse("it is not open"))?;
        let geometry = disk.superblock().geometry;
        let space = Arc::new(SpaceWatch::new(label.disk, config.thresholds));
        let core = Core::new(CoreConfig {
            cluster: label.cluster,
            node: label.node,
            disk: label.disk,
            geometry,
            seed: uuid::Uuid::new_v4().as_u64_pair().0,
            timing: Timing::default(),
            limits: Limits {
                move_leadership: self.move_leadership,
                scrub: ScrubSettings {
                    bytes_per_s: config.scrub_rate.0,
                    ..ScrubSettings::default()
                },
                flatten_rate: config.flatten_rate.0,
                ..Limits::default()
            },
        });
        let config = Config {
            disk,
            cluster: label.cluster,
            node: label.node,
            memory: config.memory,
            observer: Box::new(Adapter {
                observer,
                space: Arc::clone(&space),
            }),
        };
        let handle = Reactor::start(config, CoreMachine(core)).map_err(refuse)?;
        Ok(Arc::new(ReactorThread {
            disk: label.disk,
            handle,
            space,
        }))
    }
}

/// The core as the reactor drives it.
struct CoreMachine(Core);

impl Machine for CoreMachine {
    fn start(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.0.start(now, effects);
    }

    fn handle(&mut self, now: Timestamp, event: Event, effects: &mut Vec<Effect>) {
        self.0.handle(now, event, effects);
    }

    fn poll(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.0.poll(now, effects);
    }

    fn next_deadline(&self) -> Timestamp {
        self.0.next_deadline()
    }
}

struct Adapter {
    observer: Arc<dyn DiskObserver>,
    space: Arc<SpaceWatch>,
}

impl Observer for Adapter {
    fn on_recovered(&mut self, summary: RecoverySummary) {
        self.observer.on_recovered(&summary);
    }

    fn on_apply(&mut self, group: GroupId, index: LogIndex, data: Bytes) {
        self.observer.on_apply(group, index, data);
    }

    fn on_leader_changed(&mut self, group: GroupId, leader: Option<ReplicaId>, is_local: bool) {
        self.observer.on_leader_changed(group, leader, is_local);
    }

    fn on_disk_failed(&mut self, reason: &str) {
        self.observer.on_disk_failed(reason.to_owned());
    }

    fn on_measured(&mut self, stage: Stage, nanos: u64) {
        self.observer.on_measured(stage, nanos);
    }

    fn on_throttled(&mut self, group: GroupId, nanos: u64) {
        self.observer.on_throttled(group, nanos);
    }

    fn on_space(&mut self, status: SpaceStatus) {
        self.space.told(status);
    }

    fn on_collected(&mut self, report: CollectionReport) {
        self.observer.on_collected(report);
    }

    fn on_checkpoint(&mut self, report: CheckpointReport) {
        self.observer.on_checkpoint(report);
    }

    fn on_damage(&mut self, damage: Damage, blocks: u64) {
        self.observer.on_damage(damage, blocks);
    }

    fn on_caught_up(&mut self, bytes: u64) {
        self.observer.on_caught_up(bytes);
    }

    fn on_filled(&mut self, blocks: u64) {
        self.observer.on_filled(blocks);
    }

    fn on_scrubbed(&mut self, blocks: u64, is_over: bool) {
        self.observer.on_scrubbed(blocks, is_over);
    }
}

struct ReactorThread {
    disk: DiskId,
    handle: ReactorHandle,
    space: Arc<SpaceWatch>,
}

impl ReactorThread {
    /// A request that is not taken is lost with the thread, or asked again at the next look.
    fn note(&self, what: &str, result: Result<(), HandleError>) {
        if let Err(error) = result {
            tracing::warn!(disk = %self.disk, %error, what, "the disk's thread did not take a request");
        }
    }
}

impl DiskThread for ReactorThread {
    fn set_peer(&self, disk: DiskId, address: SocketAddr) -> bool {
        self.handle.set_peer(disk, address).is_ok()
    }

    fn adopt_peer(&self, socket: OwnedFd, from: DiskId) {
        self.note("a peer's connection", self.handle.adopt_peer(socket, from));
    }

    fn adopt_stream(&self, socket: OwnedFd, session: Box<dyn FrontendSession>, opening: Opening) {
        self.note(
            "a frontend's connection",
            self.handle.adopt_stream(socket, session, opening),
        );
    }

    fn close_streams_of(&self, group: GroupId) {
        self.note(
            "the closing of a volume's connections",
            self.handle.close_streams_of(group),
        );
    }

    fn command(&self, command: Command, callback: CommandCallback) {
        self.handle.command(command, callback);
    }

    fn stats(&self) -> DiskStats {
        let counters: &Counters = self.handle.counters();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let links = counters.links();
        let sum = |of: fn(&LinkCounters) -> &AtomicU64| links.iter().map(|(_, link)| read(of(link))).sum();
        let (space, fullness) = self.space.last();
        DiskStats {
            written_bytes: read(&counters.disk_bytes_written),
            read_bytes: read(&counters.disk_bytes_read),
            accepted_bytes: read(&counters.stream_bytes_received),
            returned_bytes: read(&counters.stream_bytes_sent),
            link_sent_bytes: sum(|link| &link.bytes_sent),
            link_received_bytes: sum(|link| &link.bytes_received),
            arena_used_bytes: read(&counters.arena_bytes_used),
            arena_bytes: read(&counters.arena_bytes),
            free_bytes: space.capacity_bytes().saturating_sub(space.used_bytes()),
            used_bytes: space.used_bytes(),
            capacity_bytes: space.capacity_bytes(),
            segments_free: u64::from(space.free),
            fullness,
            streams: read(&counters.streams_open),
        }
    }

    fn stop(&self) {
        self.handle.stop();
    }

    fn join(&self) {
        // How it ended was reported when it did.
        let _ = self.handle.join();
    }
}
