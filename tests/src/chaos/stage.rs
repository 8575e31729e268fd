//! What the director and all clients of a round share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::recorder::Recorder;
use crate::nbd::Address;
use crate::net::Fabric;

/// How far a round has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Phase {
    /// Clients send.
    Load,
    /// They wait for what is in flight, then leave.
    Drain,
}

/// The engines as clients see them, and one clock for all that is recorded.
pub(super) struct Stage {
    pub(super) fabric: Arc<Fabric>,
    pub(super) gateways: Vec<Address>,
    pub(super) volumes: Vec<Volume>,
    /// How often each engine has been started: a connection belongs to one process, and so to one life.
    lives: Vec<AtomicU64>,
    phase: AtomicU8,
    /// Some payload on a disk was corrupted. It is repaired from a peer before anybody sees it; while no peer that has it can
    /// be reached, reads of it may fail, though never lie.
    pub(super) has_rot: AtomicBool,
    /// The monotonic clock of this process.
    clock: Instant,
}

/// A volume under load.
pub(super) struct Volume {
    pub(super) name: String,
    pub(super) blocks: u64,
    /// The engine through which it is written.
    site: AtomicUsize,
    /// The engine through which a write was last acknowledged.
    holder: AtomicUsize,
    /// How often its clients were told to drop their connections.
    drops: AtomicU64,
    pub(super) recorder: Recorder,
}

impl Stage {
    pub(super) fn new(fabric: Arc<Fabric>, gateways: Vec<Address>, volumes: Vec<Volume>) -> Self {
        Self {
            lives: gateways.iter().map(|_| AtomicU64::new(1)).collect(),
            fabric,
            gateways,
            volumes,
            phase: AtomicU8::new(Phase::Load as u8),
            has_rot: AtomicBool::new(false),
            clock: Instant::now(),
        }
    }

    /// Nanoseconds since the round's start.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Time since the round's start.
    pub(super) fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    /// Which process of the engine this is.
    pub(super) fn life(&self, engine: usize) -> u64 {
        self.lives[engine].load(Ordering::SeqCst)
    }

    /// The engine's process is about to end. Told before it does, so that nobody takes a dead process's connection for
    /// one of its successor.
    pub(super) fn end_life(&self, engine: usize) {
        self.lives[engine].fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.phase.load(Ordering::SeqCst) >= Phase::Drain as u8
    }

    pub(super) fn drain(&self) {
        self.phase.store(Phase::Drain as u8, Ordering::SeqCst);
    }

    /// The first thing that was found to be wrong.
    pub(super) fn violation(&self) -> Option<String> {
        self.volumes.iter().find_map(|volume| {
            let found = volume.recorder.violation()?;
            Some(format!("volume {}: {found}", volume.name))
        })
    }
}

impl Volume {
    pub(super) fn new(name: String, blocks: u64, site: usize) -> Self {
        Self {
            name,
            blocks,
            site: AtomicUsize::new(site),
            holder: AtomicUsize::new(site),
            drops: AtomicU64::new(0),
            recorder: Recorder::default(),
        }
    }

    pub(super) fn site(&self) -> usize {
        self.site.load(Ordering::SeqCst)
    }

    pub(super) fn holder(&self) -> usize {
        self.holder.load(Ordering::SeqCst)
    }

    pub(super) fn hold_by(&self, engine: usize) {
        self.holder.store(engine, Ordering::SeqCst);
    }

    pub(super) fn drops(&self) -> u64 {
        self.drops.load(Ordering::SeqCst)
    }

    /// Every client of the volume drops its connection, whatever is in flight.
    pub(super) fn drop_connections(&self) {
        self.drops.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn move_to(&self, engine: usize) {
        self.site.store(engine, Ordering::SeqCst);
    }
}
