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

/// Whom a fault hits; who that is, is seen when it comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Target {
    Node(usize),
    /// Whoever leads this volume.
    Leader(usize),
    /// Where the first client of this volume is.
    User(usize),
}

/// Which way nothing passes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Direction {
    Both,
    /// What the others send does not arrive.
    In,
    /// What is sent does not arrive at the others.
    Out,
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
    Crash { node: Target, down_us: u64 },
    /// The process is killed and started again: what it had given to the disk gets there.
    Kill { node: Target, down_us: u64 },
    /// All nodes lose power at once, and come back one after the other.
    PowerCut { down_us: u64, spread_us: u64 },
    /// The node does nothing for a while; its disk and the network go on.
    Pause { node: Target, for_us: u64 },
    /// Nothing passes between these nodes and all others.
    Partition {
        nodes: Vec<Target>,
        direction: Direction,
        for_us: u64,
    },
    /// Nothing passes in one direction.
    OneWay { from: Target, to: Target, for_us: u64 },
    /// Everything in one direction takes long.
    Clog {
        from: Target,
        to: Target,
        delay_us: u64,
        for_us: u64,
    },
    /// A connection breaks; what its socket held may come late, behind what a newer connection carries.
    BreakLink { from: Target, to: Target },
    /// The next frame between two nodes loses a bit; or the next one with payload, in that.
    Garble { from: Target, to: Target, payload: bool },
    /// Each write takes long.
    SlowDisk { node: Target, latency_us: u64, for_us: u64 },
    /// No write ends for a while.
    Stall { node: Target, for_us: u64 },
    /// The next write fails.
    WriteError { node: Target, down_us: u64 },
    /// Reads fail.
    ReadErrors { node: Target, percent: u64, for_us: u64 },
    /// Reads return what is not on the disk, as far as the node serves.
    Misreads {
        node: Target,
        everywhere: bool,
        percent: u64,
        for_us: u64,
    },
    /// Bits of old writes change: of the frames' headers, or of what they hold.
    Rot {
        node: Target,
        headers: bool,
        places: Vec<u64>,
    },
    /// Sectors of old writes cannot be read any more, until they are written again.
    BadSectors {
        node: Target,
        headers: bool,
        places: Vec<u64>,
    },
    /// The next write is acknowledged and is nowhere.
    Phantom { node: Target },
    /// The next write is acknowledged and is so many blocks away from where it should be.
    Misdirected { node: Target, by: i64 },
    /// The disk is gone with all that is on it, and its node with it.
    Wipe { node: Target },
    /// The node loses power, and its disk is shorter when it comes back.
    Shrink { node: Target, down_us: u64 },
    /// A replica moves: from a member, of those that are damaged if any is, to `to`, or the next node that has none.
    Replace { volume: usize, node: Target, to: usize },
    /// The node's clock jumps ahead, as it does over a machine's suspension.
    ClockJump { node: Target, by_us: u64 },
    /// The node's clock runs at another rate.
    ClockRate { node: Target, ppm: i64, for_us: u64 },
    /// The leader is asked to hand over.
    Transfer { volume: usize, to: usize },
    /// The node hands over all it leads, and is restarted.
    HandOver { node: Target, down_us: u64 },
    /// A client asks for as much as it may, for a while.
    Burst { volume: usize, for_us: u64 },
    /// Trims and zeroes instead of writes, for a while.
    TrimStorm { volume: usize, for_us: u64 },
    /// A volume grows by so many blocks.
    Grow { volume: usize, blocks: u64 },
    /// A client goes on elsewhere.
    Move {
        volume: usize,
        client: usize,
        to: usize,
        how: Move,
    },
    /// As soon as a node grants a vote it loses power, and whom it voted for is cut off from all others.
    VoteAmbush { for_us: u64, down_us: u64, cut_us: u64 },
    /// The leader is asked to hand over; as soon as it has told its successor, nothing reaches it any more.
    TransferTrap { volume: usize, to: usize, for_us: u64 },
    /// The leader loses sight of all but one follower, and that one is restarted: what it had promised the leader it must
    /// still keep.
    RestartTrap {
        volume: usize,
        apart_us: u64,
        for_us: u64,
        down_us: u64,
    },
    /// Answers to the leader take longer and longer, until it is not heard any more: it goes on getting answers to what it
    /// sent long ago, while others elect a successor.
    LeaseTrap { volume: usize, for_us: u64 },
    /// The connection from a busy user to the leader breaks with writes on their way, which are sent again over a new one: the
    /// first copies may come after them.
    ResendTrap { volume: usize, delay_us: u64 },
    /// The node loses power when it has just begun a segment. What was in flight reaches the disk only when the node serves
    /// again, unless something else was written there meanwhile; then it loses power once more.
    LateAmbush { node: Target, for_us: u64, down_us: u64 },
    /// The node loses power while it writes a frame whose header is longer than a sector, and only the first sector of it gets
    /// to the media.
    TornAmbush { node: Target, for_us: u64, down_us: u64 },
    /// The node is asked for a checkpoint, and loses power when it has begun so many writes of that, or of moved blocks.
    CheckpointAmbush { node: Target, writes: u64, down_us: u64 },
    /// The node loses power. When it comes back the headers of its last frames cannot be read; when it tries again they can.
    HiddenTail { node: Target, frames: usize, down_us: u64 },
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
    Garble,
    SlowDisk,
    Stall,
    WriteError,
    ReadErrors,
    Misreads,
    Rot,
    BadSectors,
    Phantom,
    Misdirected,
    Wipe,
    Shrink,
    Replace,
    ClockJump,
    ClockRate,
    Transfer,
    HandOver,
    Burst,
    TrimStorm,
    Move,
    VoteAmbush,
    LeaderAmbush,
    TransferTrap,
    RestartTrap,
    LeaseTrap,
    ResendTrap,
    LateAmbush,
    TornAmbush,
    Grow,
    CheckpointAmbush,
    HiddenTail,
}

impl Kind {
    pub const ALL: [Self; 39] = [
        Self::Crash,
        Self::Kill,
        Self::PowerCut,
        Self::Pause,
        Self::Partition,
        Self::OneWay,
        Self::Clog,
        Self::BreakLink,
        Self::Garble,
        Self::SlowDisk,
        Self::Stall,
        Self::WriteError,
        Self::ReadErrors,
        Self::Misreads,
        Self::Rot,
        Self::BadSectors,
        Self::Phantom,
        Self::Misdirected,
        Self::Wipe,
        Self::Shrink,
        Self::Replace,
        Self::ClockJump,
        Self::ClockRate,
        Self::Transfer,
        Self::HandOver,
        Self::Burst,
        Self::TrimStorm,
        Self::Move,
        Self::VoteAmbush,
        Self::LeaderAmbush,
        Self::TransferTrap,
        Self::RestartTrap,
        Self::LeaseTrap,
        Self::ResendTrap,
        Self::LateAmbush,
        Self::TornAmbush,
        Self::Grow,
        Self::CheckpointAmbush,
        Self::HiddenTail,
    ];
}

impl Kind {
    /// Whether what it does to a disk stays: the fault atlas says when it may.
    pub const fn is_damage(self) -> bool {
        matches!(
            self,
            Self::Rot | Self::BadSectors | Self::Phantom | Self::Misdirected | Self::Wipe | Self::Shrink
        )
    }
}

fn named(target: &mut Target) -> Option<&mut usize> {
    match target {
        Target::Node(_) => None,
        Target::Leader(volume) | Target::User(volume) => Some(volume),
    }
}

impl Fault {
    /// The volumes that it names.
    pub fn volumes_mut(&mut self) -> Vec<&mut usize> {
        let targets: Vec<&mut Target> = match self {
            Self::Partition { nodes, .. } => nodes.iter_mut().collect(),
            Self::OneWay { from, to, .. }
            | Self::Clog { from, to, .. }
            | Self::BreakLink { from, to }
            | Self::Garble { from, to, .. } => vec![from, to],
            Self::Crash { node, .. }
            | Self::Kill { node, .. }
            | Self::Pause { node, .. }
            | Self::SlowDisk { node, .. }
            | Self::Stall { node, .. }
            | Self::WriteError { node, .. }
            | Self::ReadErrors { node, .. }
            | Self::Misreads { node, .. }
            | Self::Rot { node, .. }
            | Self::BadSectors { node, .. }
            | Self::Phantom { node }
            | Self::Misdirected { node, .. }
            | Self::Wipe { node }
            | Self::Shrink { node, .. }
            | Self::LateAmbush { node, .. }
            | Self::TornAmbush { node, .. }
            | Self::CheckpointAmbush { node, .. }
            | Self::HiddenTail { node, .. }
            | Self::ClockJump { node, .. }
            | Self::ClockRate { node, .. }
            | Self::HandOver { node, .. } => vec![node],
            Self::Transfer { volume, .. }
            | Self::Burst { volume, .. }
            | Self::TrimStorm { volume, .. }
            | Self::Grow { volume, .. }
            | Self::Move { volume, .. }
            | Self::TransferTrap { volume, .. }
            | Self::RestartTrap { volume, .. }
            | Self::LeaseTrap { volume, .. }
            | Self::ResendTrap { volume, .. }
            | Self::LeaderAmbush { volume, .. } => return vec![volume],
            Self::Replace { volume, node, .. } => {
                let named = named(node);
                return std::iter::once(volume).chain(named).collect();
            }
            Self::PowerCut { .. } | Self::VoteAmbush { .. } => return Vec::new(),
        };
        targets.into_iter().filter_map(named).collect()
    }

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
            Self::Garble { .. } => Kind::Garble,
            Self::SlowDisk { .. } => Kind::SlowDisk,
            Self::Stall { .. } => Kind::Stall,
            Self::WriteError { .. } => Kind::WriteError,
            Self::ReadErrors { .. } => Kind::ReadErrors,
            Self::Misreads { .. } => Kind::Misreads,
            Self::Rot { .. } => Kind::Rot,
            Self::BadSectors { .. } => Kind::BadSectors,
            Self::Phantom { .. } => Kind::Phantom,
            Self::Misdirected { .. } => Kind::Misdirected,
            Self::Wipe { .. } => Kind::Wipe,
            Self::Shrink { .. } => Kind::Shrink,
            Self::Replace { .. } => Kind::Replace,
            Self::ClockJump { .. } => Kind::ClockJump,
            Self::ClockRate { .. } => Kind::ClockRate,
            Self::Transfer { .. } => Kind::Transfer,
            Self::HandOver { .. } => Kind::HandOver,
            Self::Burst { .. } => Kind::Burst,
            Self::TrimStorm { .. } => Kind::TrimStorm,
            Self::Move { .. } => Kind::Move,
            Self::VoteAmbush { .. } => Kind::VoteAmbush,
            Self::LeaderAmbush { .. } => Kind::LeaderAmbush,
            Self::TransferTrap { .. } => Kind::TransferTrap,
            Self::RestartTrap { .. } => Kind::RestartTrap,
            Self::LeaseTrap { .. } => Kind::LeaseTrap,
            Self::ResendTrap { .. } => Kind::ResendTrap,
            Self::LateAmbush { .. } => Kind::LateAmbush,
            Self::TornAmbush { .. } => Kind::TornAmbush,
            Self::Grow { .. } => Kind::Grow,
            Self::CheckpointAmbush { .. } => Kind::CheckpointAmbush,
            Self::HiddenTail { .. } => Kind::HiddenTail,
        }
    }
}
