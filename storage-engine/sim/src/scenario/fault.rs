//! The faults, each with what it needs to be injected again.

use serde::{Deserialize, Serialize};

/// A fault and when it comes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    /// From the moment on at which the clients start.
    pub at_us: u64,
    pub fault: Fault,
}

/// How the user of a volume moves to another node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Move {
    /// Closes here, opens there.
    Orderly,
    /// Opens there while it is still open here.
    Contending,
    /// The control plane takes the attachment away while it is still open here, if its holder seems to be gone.
    Detached,
    /// The control plane takes it away in any case.
    Forced,
}

/// What can go wrong, or is asked for at a bad moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Fault {
    /// The node loses power, and comes back.
    Crash { node: usize, down_us: u64 },
    /// The process is killed and started again: what it had given to the disk gets there.
    Kill { node: usize, down_us: u64 },
    /// All nodes lose power at once, and come back one after the other.
    PowerCut { down_us: u64, spread_us: u64 },
    /// The node does nothing for a while; its disk and the network go on.
    Pause { node: usize, for_us: u64 },
    /// Nothing passes between these nodes and all others.
    Partition { nodes: Vec<usize>, for_us: u64 },
    /// Nothing passes in one direction.
    OneWay { from: usize, to: usize, for_us: u64 },
    /// Everything in one direction takes long.
    Clog {
        from: usize,
        to: usize,
        delay_us: u64,
        for_us: u64,
    },
    /// A connection breaks; what its socket held may come late, behind what a newer connection carries.
    BreakLink { from: usize, to: usize },
    /// Each write takes long.
    SlowDisk { node: usize, latency_us: u64, for_us: u64 },
    /// No write ends for a while.
    Stall { node: usize, for_us: u64 },
    /// The next write fails.
    WriteError { node: usize, down_us: u64 },
    /// Reads fail.
    ReadErrors { node: usize, percent: u64, for_us: u64 },
    /// The node's clock jumps ahead, as it does over a machine's suspension.
    ClockJump { node: usize, by_us: u64 },
    /// The node's clock runs at another rate.
    ClockRate { node: usize, ppm: i64, for_us: u64 },
    /// The leader is asked to hand over.
    Transfer { volume: usize, to: usize },
    /// The node hands over all it leads, and is restarted.
    HandOver { node: usize, down_us: u64 },
    /// A client asks for as much as it may, for a while.
    Burst { volume: usize, for_us: u64 },
    /// Trims and zeroes instead of writes, for a while.
    TrimStorm { volume: usize, for_us: u64 },
    /// A client goes on elsewhere.
    Move {
        volume: usize,
        client: usize,
        to: usize,
        how: Move,
    },
    /// As soon as a node grants a vote it loses power, and whom it voted for is cut off from all others.
    VoteAmbush { for_us: u64, down_us: u64, cut_us: u64 },
    /// The leader of the volume loses power as soon as it has sent an append.
    LeaderAmbush { volume: usize, for_us: u64, down_us: u64 },
}

/// A fault without its particulars.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Kind {
    Crash,
    Kill,
    PowerCut,
    Pause,
    Partition,
    OneWay,
    Clog,
    BreakLink,
    SlowDisk,
    Stall,
    WriteError,
    ReadErrors,
    ClockJump,
    ClockRate,
    Transfer,
    HandOver,
    Burst,
    TrimStorm,
    Move,
    VoteAmbush,
    LeaderAmbush,
}

impl Kind {
    pub const ALL: [Self; 21] = [
        Self::Crash,
        Self::Kill,
        Self::PowerCut,
        Self::Pause,
        Self::Partition,
        Self::OneWay,
        Self::Clog,
        Self::BreakLink,
        Self::SlowDisk,
        Self::Stall,
        Self::WriteError,
        Self::ReadErrors,
        Self::ClockJump,
        Self::ClockRate,
        Self::Transfer,
        Self::HandOver,
        Self::Burst,
        Self::TrimStorm,
        Self::Move,
        Self::VoteAmbush,
        Self::LeaderAmbush,
    ];
}

impl Fault {
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Crash { .. } => Kind::Crash,
            Self::Kill { .. } => Kind::Kill,
            Self::PowerCut { .. } => Kind::PowerCut,
            Self::Pause { .. } => Kind::Pause,
            Self::Partition { .. } => Kind::Partition,
            Self::OneWay { .. } => Kind::OneWay,
            Self::Clog { .. } => Kind::Clog,
            Self::BreakLink { .. } => Kind::BreakLink,
            Self::SlowDisk { .. } => Kind::SlowDisk,
            Self::Stall { .. } => Kind::Stall,
            Self::WriteError { .. } => Kind::WriteError,
            Self::ReadErrors { .. } => Kind::ReadErrors,
            Self::ClockJump { .. } => Kind::ClockJump,
            Self::ClockRate { .. } => Kind::ClockRate,
            Self::Transfer { .. } => Kind::Transfer,
            Self::HandOver { .. } => Kind::HandOver,
            Self::Burst { .. } => Kind::Burst,
            Self::TrimStorm { .. } => Kind::TrimStorm,
            Self::Move { .. } => Kind::Move,
            Self::VoteAmbush { .. } => Kind::VoteAmbush,
            Self::LeaderAmbush { .. } => Kind::LeaderAmbush,
        }
    }
}
