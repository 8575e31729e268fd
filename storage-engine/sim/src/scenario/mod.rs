//! Everything about a run as plain data: what the cluster is made of, who uses it, and which faults come when.
//!
//! A scenario is drawn from a seed ([`Scenario::draw`]), written down when it fails, and made smaller by taking things
//! away ([`crate::shrink`]). Nothing else decides what is injected; what is left to the seed is what no shrinking needs to
//! see: latencies, and what the clients ask for.

mod draw;
mod fault;

use serde::{Deserialize, Serialize};

pub use fault::{Direction, Fault, Kind, Move, Planned, Target};

/// A run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Of latencies and requests.
    pub seed: u64,
    pub nodes: usize,
    pub disk_mib: u64,
    pub segment_mib: u64,
    /// Nanoseconds, from and to, in microseconds.
    pub write_latency_us: (u64, u64),
    pub read_latency_us: (u64, u64),
    pub link_latency_us: (u64, u64),
    /// What each node's clock gains, in parts per million.
    pub drift_ppm: Vec<i64>,
    pub link_bytes_max: usize,
    pub headers_kept_max: usize,
    pub move_leadership: bool,
    /// How fast disks are read through for damage; 0 for not at all.
    #[serde(default)]
    pub scrub_mib_per_s: u64,
    /// Entries that each replica keeps of its log, once they are applied; 0 for all.
    #[serde(default)]
    pub log_kept_max: u64,
    /// How fast replicas receive states, where the log is too short for them; 0 for as fast as they come.
    #[serde(default)]
    pub catch_up_mib_per_s: u64,
    /// How fast clones become whole; 0 for as fast as they can.
    #[serde(default)]
    pub flatten_kib_per_s: u64,
    /// Segments that the log may be in before a checkpoint is due; 0 for what follows from the size of the disk.
    #[serde(default)]
    pub window_segments_max: u32,
    /// Segments are collected as soon as eight of them are in use.
    #[serde(default)]
    pub collects_always: bool,
    pub volumes: Vec<VolumePlan>,
    /// In order of time.
    pub faults: Vec<Planned>,
    /// When a majority heals, and every other fault stays for good.
    pub heal_at_us: u64,
    /// Nodes in the order in which they are taken into that majority.
    pub heal_order: Vec<usize>,
}

/// A volume and its clients.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumePlan {
    pub blocks: u64,
    pub hot_blocks: u64,
    /// Blocks of the longest request.
    pub blocks_max: u64,
    /// The nodes that hold a replica.
    pub members: Vec<usize>,
    pub write_percent: u64,
    pub unaligned_percent: u64,
    pub trim_percent: u64,
    pub zero_percent: u64,
    pub clients: Vec<ClientPlan>,
    /// Snapshots of it are made, read and deleted.
    #[serde(default)]
    pub snapshots: bool,
    /// Clones of it are made and used.
    #[serde(default)]
    pub clones: bool,
    /// What its users write is ciphertext below their gateways.
    #[serde(default)]
    pub encrypted: bool,
}

/// A client of a volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientPlan {
    /// Where it starts.
    pub node: usize,
    pub writes: bool,
    /// Requests under way at most.
    pub depth: usize,
    /// Between requests, on average.
    pub gap_us: u64,
}

impl Scenario {
    /// How many faults it has of which kind.
    pub fn count(&self, kind: Kind) -> usize {
        self.faults
            .iter()
            .filter(|planned| planned.fault.kind() == kind)
            .count()
    }

    /// Clients of all volumes.
    pub fn clients(&self) -> usize {
        self.volumes.iter().map(|volume| volume.clients.len()).sum()
    }
}
