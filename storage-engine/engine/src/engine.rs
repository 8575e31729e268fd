//! The engine's shared state: what its listeners, its control API and its background tasks work on together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cairn_api::ids::{ClusterId, DiskId, GroupId, NodeId};
use tokio::sync::{Notify, mpsc};

use crate::config::Config;
use crate::control::channels::Channels;
use crate::control::together::Coordinators;
use crate::disks::{DiskEvent, DiskReporter, DiskSet, DiskState};
use crate::identity::{self, Identity, IdentityError};
use crate::keys::Keyring;
use crate::meta::group::Meta;
use crate::meta::{DiskRecord, NodeRecord};
use crate::metrics::Metrics;

/// Engines remembered for having asked this one: one that knows the leader is enough.
const ASKERS_MAX: usize = 8;

/// What others dial, as advertised.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Addresses {
    /// The control API.
    pub control: String,
    /// The peers' listener.
    pub data: String,
    /// NBD over TCP; empty if off.
    pub nbd: String,
    /// NBD's unix socket; empty if off.
    pub nbd_socket: String,
}

/// Where the engine is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// No cluster yet.
    Uninitialised,
    /// Some disk reads its log.
    Recovering,
    /// It serves.
    Ready,
    /// It hands over before it stops.
    Draining,
}

/// Everything that the engine's tasks share.
pub struct Engine {
    /// What it runs on.
    pub config: Config,
    /// What others dial.
    pub addresses: Addresses,
    /// Its disks.
    pub disks: DiskSet,
    /// The meta group as seen from here.
    pub meta: Meta,
    /// What it measures.
    pub metrics: Arc<Metrics>,
    /// Connections to other engines' control APIs.
    pub channels: Channels,
    /// The keys of encrypted volumes.
    pub keys: Keyring,
    /// One encrypted volume is created at a time: each names the number that the next one gets.
    pub(crate) encrypting: tokio::sync::Mutex<()>,
    /// Snapshots of several volumes that are made from here.
    pub(crate) coordinators: Coordinators,
    /// Wakes the background task that brings this engine in line with the catalogue.
    pub wake: Notify,
    /// The catalogue's revision that the gateways here were told of.
    pub heard: AtomicU64,
    /// One initialisation at a time.
    pub(crate) initialising: tokio::sync::Mutex<()>,
    /// The meta group's replica is made and attached once.
    pub(crate) attaching: tokio::sync::Mutex<()>,
    /// The disk whose thread serves each volume that was used through this engine.
    gateways: Mutex<BTreeMap<GroupId, DiskId>>,
    /// Control addresses of engines that have asked this one, the latest last.
    askers: Mutex<Vec<SocketAddr>>,
    identity: Mutex<Identity>,
    draining: AtomicBool,
    events: mpsc::UnboundedSender<DiskEvent>,
}

impl Engine {
    /// Puts the parts together.
    pub fn new(
        config: Config,
        addresses: Addresses,
        identity: Identity,
        disks: DiskSet,
        meta: Meta,
        events: mpsc::UnboundedSender<DiskEvent>,
    ) -> Self {
        Self {
            keys: Keyring::new(config.encryption.as_ref()),
            encrypting: tokio::sync::Mutex::new(()),
            coordinators: Coordinators::default(),
            config,
            addresses,
            disks,
            meta,
            metrics: Arc::default(),
            channels: Channels::default(),
            wake: Notify::new(),
            heard: AtomicU64::new(0),
            initialising: tokio::sync::Mutex::new(()),
            attaching: tokio::sync::Mutex::new(()),
            gateways: Mutex::default(),
            askers: Mutex::default(),
            identity: Mutex::new(identity),
            draining: AtomicBool::new(false),
            events,
        }
    }

    /// Who this engine is.
    pub fn identity(&self) -> Identity {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.identity().node
    }

    /// The cluster, once there is one.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.identity().cluster
    }

    /// Changes who this engine is, on the media first.
    pub fn set_identity(&self, identity: Identity) -> Result<(), IdentityError> {
        identity::save(&self.config.data_dir, &identity)?;
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
        Ok(())
    }

    /// Notes an engine that asked this one.
    pub fn note_hint(&self, address: SocketAddr) {
        let mut askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        askers.retain(|known| *known != address);
        if askers.len() >= ASKERS_MAX {
            askers.remove(0);
        }
        askers.push(address);
    }

    /// Engines to ask for the catalogue if it is lost here: the configured seeds, and whoever has asked this engine.
    pub fn hints(&self) -> Vec<String> {
        let askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        let seeds = self.config.control.seeds.iter();
        seeds.chain(askers.iter().rev()).map(ToString::to_string).collect()
    }

    /// Stops taking on anything new.
    pub fn begin_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether it is about to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        if self.is_draining() {
            return Phase::Draining;
        }
        if self.cluster().is_none() {
            return Phase::Uninitialised;
        }
        let recovers =
            |state: &DiskState| matches!(state, DiskState::Recovering | DiskState::Claimed | DiskState::Unclaimed);
        if self.disks.views().iter().any(|view| recovers(&view.state)) {
            Phase::Recovering
        } else {
            Phase::Ready
        }
    }

    /// Whether it can serve, or why not yet.
    pub fn readiness(&self) -> Result<(), String> {
        match self.phase() {
            Phase::Uninitialised => return Err("in no cluster yet: run `cairn cluster init`".to_owned()),
            Phase::Recovering => return Err("reading its disks".to_owned()),
            Phase::Draining => return Err("stopping".to_owned()),
            Phase::Ready => {}
        }
        if self.disks.serving().is_empty() {
            return Err("no disk serves".to_owned());
        }
        if !self.meta.has_leader() {
            return Err("the meta group has no leader".to_owned());
        }
        Ok(())
    }

    /// The node that leads the meta group, as known here.
    pub fn meta_leader_name(&self) -> Option<String> {
        let leader = self.meta.leader();
        leader.member.map(|member| self.meta.view().node_name(member.node))
    }

    /// Claims what is unclaimed, if this engine is in a cluster, and starts every disk that is not started.
    pub fn start_disks(&self) -> Result<(), crate::disks::DiskError> {
        let Some(cluster) = self.cluster() else { return Ok(()) };
        let claimed = self.disks.claim(cluster, self.node());
        self.disks.start(|disk| {
            let reporter = DiskReporter::new(disk, self.events.clone(), self.meta.queue(), Arc::clone(&self.metrics));
            Arc::new(reporter)
        });
        claimed
    }

    /// This node as the catalogue should have it.
    pub fn own_record(&self) -> NodeRecord {
        let cluster = self.cluster();
        NodeRecord {
            id: self.node(),
            name: self.config.name.clone(),
            control_address: self.addresses.control.clone(),
            data_address: self.addresses.data.clone(),
            nbd_address: self.addresses.nbd.clone(),
            disks: self
                .disks
                .views()
                .iter()
                .filter_map(|view| {
                    let label = view.label.as_ref()?;
                    let own = Some(label.cluster) == cluster && label.node == self.node();
                    own.then(|| DiskRecord {
                        id: label.disk,
                        path: view.config.path.display().to_string(),
                        size_bytes: label.size_bytes,
                    })
                })
                .collect(),
        }
    }

    /// The disk that serves a frontend's connection to a volume: the one with the local replica, else a fixed one. Once
    /// chosen it stays for as long as it serves, wherever the replica moves to: two gateways of one node would share its
    /// attachment, and neither would know of the other's writes.
    pub fn disk_for(&self, volume: &crate::meta::VolumeRecord) -> Option<DiskId> {
        let serving: Vec<DiskId> = self.disks.serving().iter().map(|(disk, _)| *disk).collect();
        let mut gateways = self.gateways.lock().unwrap_or_else(PoisonError::into_inner);
        let before = gateways.get(&volume.group).filter(|disk| serving.contains(disk));
        if let Some(disk) = before {
            return Some(*disk);
        }
        let view = self.meta.view();
        let (given_up, staying): (Vec<DiskId>, Vec<DiskId>) =
            serving.into_iter().partition(|disk| view.is_given_up(*disk));
        let choice = if staying.is_empty() { given_up } else { staying };
        let local = volume.replicas.iter().find(|replica| choice.contains(&replica.disk));
        let disk = local
            .map(|replica| replica.disk)
            .or_else(|| fixed_choice(&choice, volume.group))?;
        gateways.insert(volume.group, disk);
        Some(disk)
    }

    /// The volume is being deleted: nobody uses it any more.
    pub fn forget_gateway(&self, group: GroupId) {
        let mut gateways = self.gateways.lock().unwrap_or_else(PoisonError::into_inner);
        gateways.remove(&group);
    }

    /// The path at which the catalogue lives.
    pub fn database_path(config: &Config) -> PathBuf {
        config.data_dir.join("catalogue")
    }
}

/// The disk with the highest score for this volume: adding or losing another disk moves no other volume.
fn fixed_choice(disks: &[DiskId], group: GroupId) -> Option<DiskId> {
    disks.iter().copied().max_by_key(|disk| {
        let (high, low) = uuid::Uuid::from_bytes(disk.to_bytes()).as_u64_pair();
        (mix(mix(high) ^ low ^ mix(group.get())), *disk)
    })
}

/// Spreads neighbouring numbers over all 64 bits: two rounds of multiplying by an odd constant and folding the upper half
/// into the lower.
fn mix(number: u64) -> u64 {
    let once = (number ^ (number >> 32))
        .wrapping_add(1)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let twice = (once ^ (once >> 29)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    twice ^ (twice >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_without_a_local_replica_spread_over_the_disks_and_stay() {
        let disks: Vec<DiskId> = (1..5).map(|number| DiskId::from_bytes([number * 37; 16])).collect();
        let choices: Vec<DiskId> = (2..200)
            .map(|group| fixed_choice(&disks, GroupId(group)).unwrap())
            .collect();
        for disk in &disks {
            let count = choices.iter().filter(|choice| *choice == disk).count();
            assert!(count > 10, "{count} of 198 volumes on {disk}");
        }
        let fewer = &disks[..3];
        for (choice, group) in choices.iter().zip(2..) {
            if fewer.contains(choice) {
                assert_eq!(fixed_choice(fewer, GroupId(group)), Some(*choice));
            }
        }
        assert_eq!(fixed_choice(&[], GroupId(2)), None);
    }
}
