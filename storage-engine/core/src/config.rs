//! What a core is told when it is made.

use std::time::Duration;

use cairn_api::ids::{ClusterId, DiskId, NodeId};
use cairn_format::entry::ENTRY_BLOCKS_MAX;
use cairn_format::superblock::Geometry;

/// A core's identity, place and bounds.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The node it runs on.
    pub node: NodeId,
    /// The disk it owns: its address.
    pub disk: DiskId,
    /// The disk's layout.
    pub geometry: Geometry,
    /// Seeds the election time-outs; everything else is deterministic by itself.
    pub seed: u64,
    /// Clocks.
    pub timing: Timing,
    /// Bounds.
    pub limits: Limits,
}

/// Periods, all on the driver's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Raft's tick.
    pub tick: Duration,
    /// Ticks between heartbeats of a leader.
    pub heartbeat_ticks: u32,
    /// Ticks without a leader before a follower may campaign; its own time-out is drawn from one to one and a half times
    /// this. A follower grants nobody else its vote before.
    pub election_ticks: u32,
    /// A gateway looks for another leader when a request has had no answer for so long.
    pub request_timeout: Duration,
    /// A holder that was not heard from for so long no longer keeps others from attaching.
    pub holder_timeout: Duration,
}

impl Default for Timing {
    /// A leader's death is noticed after 1 to 1.5 s, which leaves room for the vote and the gateway's reattachment
    /// below 3 s, and is ten times what a stalled disk flush usually takes.
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(50),
            heartbeat_ticks: 3,
            election_ticks: 20,
            request_timeout: Duration::from_secs(2),
            holder_timeout: Duration::from_secs(5),
        }
    }
}

impl Timing {
    /// How long after hearing from a leader a follower grants nobody else its vote, as counted by its own ticks.
    pub fn election_timeout(&self) -> Duration {
        self.tick * self.election_ticks
    }

    /// How long a leader may serve reads after the moment it sent what a majority has answered.
    ///
    /// A follower counts whole ticks, the first of which may come at once: hence one tick less; another tick and a
    /// tenth of the rest allow for clocks that run at different rates.
    pub fn lease(&self) -> Duration {
        let safe = self.tick * self.election_ticks.saturating_sub(2);
        safe - safe / 10
    }
}

/// Bounds on what a core holds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes queued to one peer beyond which appends to it are dropped: it is then probed and catches up from the log,
    /// so that a slow follower costs memory up to here and no write's time.
    pub link_bytes_max: usize,
    /// Bytes queued at the disk beyond which new writes are asked to come again.
    pub log_bytes_max: u64,
    /// Entry headers of one group kept in memory once they are applied; older ones are read back from the log.
    pub headers_kept_max: usize,
    /// Groups take turns at the disk. If not, what they write goes out in the order in which it came, and one with a deep
    /// queue keeps all others waiting: for measuring the difference.
    pub is_fair: bool,
    /// Move leadership to the node where the volume is used.
    pub move_leadership: bool,
    /// How the disk is read through for damage.
    pub scrub: ScrubSettings,
    /// Applied entries of one group that stay in its Raft log; who needs older ones is given the volume's state instead. 0 for
    /// all there ever were.
    pub log_kept_max: u64,
    /// Bytes a second that the replicas of this disk receive of such states; 0 for as many as come.
    pub catch_up_rate: u64,
    /// Bytes a second that clones led on this disk copy from their bases; 0 for as many as there are.
    pub flatten_rate: u64,
    /// When checkpoints are made and space is collected.
    pub space: SpaceSettings,
}

/// When checkpoints are made and space is collected. What is not set follows from the size of the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SpaceSettings {
    /// A checkpoint is made when the log is in more segments than this: what a start reads through, and what followers may lag
    /// behind before they are brought up from the map.
    pub window_segments_max: Option<u32>,
    /// Segments that are kept free: with fewer, collection begins.
    pub free_segments_low: Option<u32>,
}

impl SpaceSettings {
    /// A thirty-second of the disk, between 4 segments and 256 (16 GiB).
    pub(crate) fn window_segments_max(&self, geometry: &Geometry) -> usize {
        let set = self
            .window_segments_max
            .unwrap_or((geometry.segment_count / 32).clamp(4, 256));
        set.max(2) as usize
    }

    /// So much of the log stays behind a checkpoint: half of the longest, so that a follower that was away for a moment finds
    /// what it lacks.
    pub(crate) fn window_segments_kept(&self, geometry: &Geometry) -> usize {
        self.window_segments_max(geometry) / 2
    }

    /// A sixteenth of the disk, at least 2 segments, beyond what writers must find free.
    pub(crate) fn free_segments_low(&self, geometry: &Geometry) -> usize {
        let needed = needed_segments(geometry);
        let set = self.free_segments_low.map(|set| set as usize);
        set.unwrap_or(needed + (geometry.segment_count as usize / 16).max(2))
    }
}

/// Segments that take no payload of clients: for what frees space or keeps groups alive when the disk is full, for
/// checkpoints, and for the collector. A thirty-second of the disk: the pages of all maps are at most a two-hundredth of what
/// they name, and there may be two of each. At least four: the log, the collector and a checkpoint each begin at most one
/// segment before the checkpoint is durable that frees what the collector has emptied, and one is the log's alone.
pub(crate) fn reserve_segments(geometry: &Geometry) -> usize {
    (geometry.segment_count as usize / 32).max(4)
}

/// With fewer free segments than this, writers wait.
pub(crate) fn needed_segments(geometry: &Geometry) -> usize {
    reserve_segments(geometry) + margin_segments(geometry)
}

/// Blocks of payload that a disk takes at most: of what is beyond the reserve, and beyond the log, cold and index heads, a
/// sixteenth is left to be garbage. Collection would have to write more than sixteen blocks for each one that it gains.
pub(crate) fn capacity_blocks(geometry: &Geometry) -> u64 {
    let kept = needed_segments(geometry) + HEADS;
    let segments = (geometry.segment_count as usize).saturating_sub(kept);
    let blocks = segments as u64 * (geometry.segment_blocks() - 1);
    blocks - blocks / 16
}

/// Room in blocks that a disk must have beyond a write for it to count as able to take it: for writes that are under way
/// elsewhere.
pub(crate) fn margin_blocks(geometry: &Geometry) -> u64 {
    let blocks = u64::from(geometry.segment_count) * geometry.segment_blocks();
    (blocks / 64).min(1024)
}

/// Free segments beyond the reserve in which that room, and a write, are sure to be found.
fn margin_segments(geometry: &Geometry) -> usize {
    let blocks = margin_blocks(geometry) + u64::from(ENTRY_BLOCKS_MAX);
    usize::try_from(blocks.div_ceil(promised_blocks(geometry).max(1))).unwrap_or(usize::MAX)
}

/// Blocks of payload that are sure to fit into a segment, whatever frames they end up in: every block in a frame of its own,
/// and what the longest record takes left over at the end.
pub(crate) fn promised_blocks(geometry: &Geometry) -> u64 {
    (geometry.segment_blocks() - 1).saturating_sub(RECORD_BLOCKS_MAX) / 2
}

/// What one record can at most take on the disk, its own frame header included: what may be left over at the end of a
/// segment because the next record does not fit.
pub(crate) const RECORD_BLOCKS_MAX: u64 = ENTRY_BLOCKS_MAX as u64 + 1;

/// Segments that are being written to at any time.
const HEADS: usize = 3;

/// How a disk is read through for damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubSettings {
    /// Bytes a second; 0 for only when it is asked for.
    pub bytes_per_s: u64,
    /// From the beginning of one pass to that of the next; a pass that takes longer is followed by the next at once.
    pub every: Duration,
}

impl Default for ScrubSettings {
    /// A disk of 4 TiB in six days, with a hundredth of what it can read.
    fn default() -> Self {
        Self {
            bytes_per_s: 8 << 20,
            every: Duration::from_secs(24 * 3600),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            link_bytes_max: 16 << 20,
            log_bytes_max: 64 << 20,
            headers_kept_max: 4096,
            is_fair: true,
            move_leadership: true,
            scrub: ScrubSettings::default(),
            log_kept_max: LOG_KEPT_MAX,
            catch_up_rate: CATCH_UP_RATE,
            flatten_rate: FLATTEN_RATE,
            space: SpaceSettings::default(),
        }
    }
}

/// Entries kept of a log, unless set otherwise: a follower that restarts finds what it missed in a minute of 1,000 writes a
/// second.
pub const LOG_KEPT_MAX: u64 = 65_536;
/// Bytes a second of received states, unless set otherwise: a tenth of what a network of ten gigabits carries.
pub const CATCH_UP_RATE: u64 = 128 << 20;
/// Bytes a second that clones copy, unless set otherwise: a terabyte in nine hours, with little of what a disk can do.
pub const FLATTEN_RATE: u64 = 32 << 20;
