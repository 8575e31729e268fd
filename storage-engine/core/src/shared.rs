//! What the groups and gateways of a core have in common: the log, the links, the operations under way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use cairn_api::ids::{DiskId, GroupId, ReplicaId};
use cairn_api::units::BLOCK_BYTES;
use cairn_format::peer::{GatewayReply, GatewayRequest, GatewayResult, PeerMessage, body_bytes_estimate};

use crate::base::ThroughBase;
use crate::config::{CoreConfig, capacity_blocks};
use crate::event::{CommandError, CommandId, CommandReply, Effect, IoId, Stage};
use crate::log::{HeaderRead, LogWriter};
use crate::memory::{Heap, Memory};
use crate::mutation::Seeded;
use crate::pace::Pace;
use crate::reading::Reading;
use crate::repair::Repairs;
use crate::space::segments::Segments;
use crate::time::Timestamp;

/// The part of what may wait for the disk that a group may have waiting while there is too much, as a divisor: a request or two.
const LOG_SHARE: u64 = 32;

/// Who waits for the end of something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// A gateway of this core, by the number of its request.
    Local(u64),
    /// A gateway of another core.
    Peer(DiskId, u64),
    /// The control plane.
    Command(CommandId),
}

impl Origin {
    /// The same gateway, for what answers none of its requests.
    pub(crate) fn unasked(self) -> Self {
        match self {
            Self::Local(_) => Self::Local(0),
            Self::Peer(disk, _) => Self::Peer(disk, 0),
            Self::Command(_) => self,
        }
    }
}

/// What a read from the disk is for.
#[derive(Debug)]
pub(crate) enum Purpose {
    /// A piece of a read of a group's blocks.
    BlockRead { group: GroupId, read: u64, piece: usize },
    /// Headers of old entries, for raft-rs.
    Fetch {
        group: GroupId,
        fetch: u64,
        offset: u64,
        header: HeaderRead,
    },
    /// The payload of an old entry, for a follower.
    Outbox {
        group: GroupId,
        to: ReplicaId,
        serial: u64,
        entry: usize,
    },
    /// Data for a replica that is given the state at a mark.
    CatchUp { group: GroupId, serial: u64, place: usize },
    /// The payload of a command, for the external state machine.
    External { group: GroupId, index: u64 },
    /// A block that may be damaged, once more and by itself.
    RepairProbe { group: GroupId, job: u64, place: usize },
    /// Blocks that are read to find damage, by the number of the read.
    Scrub { group: GroupId, serial: u64 },
    /// A stretch of a segment that is being emptied, from this block of the disk on.
    Collect { serial: u64, block: u64 },
    /// Blocks for a peer that has lost them.
    RepairServe {
        group: GroupId,
        answer: u64,
        first: usize,
        count: usize,
    },
    /// The header of an old entry whose payload a peer has lost.
    RepairSearch {
        group: GroupId,
        search: u64,
        offset: u64,
        header: HeaderRead,
    },
}

/// What a disk can still take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Room {
    /// Blocks of payload, now.
    pub(crate) free_blocks: u64,
    /// Blocks of payload, once all garbage is collected.
    pub(crate) room_blocks: u64,
}

/// Gives each disk operation its number.
#[derive(Debug, Default)]
pub(crate) struct IoNumbers {
    last: u64,
}

impl IoNumbers {
    /// The last one that was given.
    pub(crate) const fn last(&self) -> IoId {
        IoId(self.last)
    }

    pub(crate) fn next(&mut self) -> IoId {
        self.last += 1;
        IoId(self.last)
    }
}

/// The links to other cores.
#[derive(Debug, Default)]
pub(crate) struct Links {
    /// Peers that are up, with the bytes queued to each.
    up: BTreeMap<DiskId, usize>,
}

impl Purpose {
    /// Whose blocks it is about; `None` for those of all groups.
    pub(crate) fn group(&self) -> Option<GroupId> {
        Some(match self {
            Self::Collect { .. } => return None,
            Self::BlockRead { group, .. }
            | Self::Fetch { group, .. }
            | Self::Outbox { group, .. }
            | Self::CatchUp { group, .. }
            | Self::External { group, .. }
            | Self::RepairProbe { group, .. }
            | Self::Scrub { group, .. }
            | Self::RepairServe { group, .. }
            | Self::RepairSearch { group, .. } => *group,
        })
    }
}

impl Links {
    pub(crate) fn is_up(&self, disk: DiskId) -> bool {
        self.up.contains_key(&disk)
    }

    pub(crate) fn queued_bytes(&self, disk: DiskId) -> usize {
        self.up.get(&disk).copied().unwrap_or(0)
    }

    pub(crate) fn queued_bytes_in_all(&self) -> usize {
        self.up.values().sum()
    }

    pub(crate) fn connected(&mut self, disk: DiskId) {
        self.up.insert(disk, 0);
    }

    pub(crate) fn lost(&mut self, disk: DiskId) {
        self.up.remove(&disk);
    }

    pub(crate) fn drained(&mut self, disk: DiskId, bytes: usize) {
        if let Some(queued) = self.up.get_mut(&disk) {
            *queued = queued.saturating_sub(bytes);
        }
    }
}

/// Shared state; see the module.
pub(crate) struct Shared {
    pub(crate) config: CoreConfig,
    pub(crate) seeded: Seeded,
    pub(crate) now: Timestamp,
    pub(crate) effects: Vec<Effect>,
    pub(crate) log: LogWriter,
    pub(crate) segments: Segments,
    /// Writes whose end concerns nobody any more.
    pub(crate) stray_writes: BTreeSet<IoId>,
    /// Somebody needs what a checkpoint would free.
    pub(crate) wants_checkpoint: bool,
    /// A replica's map was replaced by another: a checkpoint under way names leaves that are gone.
    pub(crate) is_checkpoint_void: bool,
    /// The cold segment that is being filled.
    pub(crate) cold_segment: Option<u32>,
    pub(crate) links: Links,
    /// Bytes that are being read for each peer's gateways: they are queued to it next.
    reading_for: BTreeMap<DiskId, usize>,
    pub(crate) reads: BTreeMap<IoId, Purpose>,
    /// Of those, the ones for clients, and those that wait for their turn.
    pub(crate) reading: Reading,
    pub(crate) local_requests: VecDeque<GatewayRequest>,
    pub(crate) local_replies: VecDeque<GatewayReply>,
    /// Reads of clones, for which the maps of several groups are needed.
    pub(crate) through_bases: VecDeque<ThroughBase>,
    /// When the oldest record that waits for a frame came.
    pub(crate) queued_since: Option<Timestamp>,
    /// Leaderships are being handed over: no campaigning.
    pub(crate) draining: bool,
    pub(crate) io: IoNumbers,
    pub(crate) repairs: Repairs,
    pub(crate) catch_up: Pace,
    /// For payloads that are made here.
    pub(crate) memory: Arc<dyn Memory>,
    random: u64,
}

/// What [`Effect::Send`] counts for in the bound of a link: the same sum in the core and in its driver.
pub fn message_bytes(message: &PeerMessage) -> usize {
    message.payload_bytes() + body_bytes_estimate(message)
}

impl Shared {
    pub(crate) fn new(
        config: CoreConfig,
        seeded: Seeded,
        (log, segments): (LogWriter, Segments),
        now: Timestamp,
        io: IoNumbers,
    ) -> Self {
        let is_fair = config.limits.is_fair;
        let random = config.seed ^ 0x9E37_79B9_7F4A_7C15;
        Self {
            config,
            seeded,
            now,
            effects: Vec::new(),
            log,
            segments,
            stray_writes: BTreeSet::new(),
            wants_checkpoint: false,
            is_checkpoint_void: false,
            cold_segment: None,
            links: Links::default(),
            reading_for: BTreeMap::new(),
            reads: BTreeMap::new(),
            reading: Reading::new(is_fair),
            local_requests: VecDeque::new(),
            local_replies: VecDeque::new(),
            through_bases: VecDeque::new(),
            queued_since: None,
            draining: false,
            io,
            repairs: Repairs::new(now),
            catch_up: Pace::default(),
            memory: Arc::new(Heap),
            random,
        }
    }

    /// What the disk can still take. The meta group may take half of the reserve: who deletes something to make room needs it.
    pub(crate) fn room(&self, is_meta: bool) -> Room {
        let capacity = capacity_blocks(&self.config.geometry);
        Room {
            free_blocks: if is_meta {
                self.log.free_blocks_in_reserve()
            } else {
                self.log.free_blocks()
            },
            room_blocks: capacity.saturating_sub(self.segments.live_blocks() + self.log.queued_bytes() / BLOCK_BYTES),
        }
    }

    /// Nothing durable names the segment any more: it may be begun anew when nobody reads or writes there any more.
    pub(crate) fn bury(&mut self, segment: u32) {
        self.segments.died(segment, self.io.last());
    }

    /// Gives dead segments that nobody uses any more to the log.
    pub(crate) fn release_dead(&mut self) {
        if self.segments.dead_count() == 0 {
            return;
        }
        let reading = self.reads.first_key_value().map(|(io, _)| *io);
        let stray = self.stray_writes.first().copied();
        let oldest = [reading, stray, self.repairs.oldest_write_back()]
            .into_iter()
            .flatten()
            .min();
        let (repairs, reading) = (&self.repairs, &self.reading);
        let is_used = |blocks: &_| repairs.is_about(blocks) || reading.is_about(blocks);
        for (segment, epoch) in self.segments.take_buried(oldest, is_used) {
            self.repairs.forget_blocks(&self.segments.blocks_of(segment));
            self.log.release(segment, epoch);
        }
    }

    /// Starts a read.
    pub(crate) fn read(&mut self, offset: u64, length: u32, purpose: Purpose) {
        let io = self.io.next();
        self.reads.insert(io, purpose);
        self.effects.push(Effect::Read { io, offset, length });
    }

    /// Whether so much is queued to another core that nothing with payload should be.
    pub(crate) fn is_link_full(&self, disk: DiskId) -> bool {
        let reading = self.reading_for.get(&disk).copied().unwrap_or(0);
        self.links.queued_bytes(disk) + reading > self.config.limits.link_bytes_max
    }

    /// Whether so much waits for the disk that a group should not add to it. One with little waiting may, for it is not to
    /// blame, until there is twice as much.
    pub(crate) fn is_log_full(&self, group: GroupId) -> bool {
        let (all, bound) = (self.log.queued_bytes(), self.config.limits.log_bytes_max);
        all > bound && (all > 2 * bound || self.log.queued_bytes_of(group) > bound / LOG_SHARE)
    }

    /// So many bytes are going to be read for a request.
    pub(crate) fn read_begun(&mut self, origin: Origin, bytes: usize) {
        if let Origin::Peer(disk, _) = origin {
            *self.reading_for.entry(disk).or_default() += bytes;
        }
    }

    /// They were, or never will be.
    pub(crate) fn read_ended(&mut self, origin: Origin, bytes: usize) {
        if let Origin::Peer(disk, _) = origin
            && let Some(reading) = self.reading_for.get_mut(&disk)
        {
            *reading = reading.saturating_sub(bytes);
            if *reading == 0 {
                self.reading_for.remove(&disk);
            }
        }
    }

    /// Queues a message to another core; false if its link is down.
    pub(crate) fn send(&mut self, to: DiskId, message: PeerMessage) -> bool {
        let Some(queued) = self.links.up.get_mut(&to) else {
            return false;
        };
        *queued += message_bytes(&message);
        self.effects.push(Effect::Send { to, message });
        true
    }

    /// Ends a request.
    pub(crate) fn reply(&mut self, group: GroupId, origin: Origin, result: GatewayResult) {
        match origin {
            Origin::Local(request) => self.local_replies.push_back(GatewayReply { group, request, result }),
            Origin::Peer(disk, request) => {
                // If the link is down the gateway asks again: it saw it break too.
                self.send(disk, PeerMessage::Reply(GatewayReply { group, request, result }));
            }
            Origin::Command(id) => self.end_command(id, command_result(result)),
        }
    }

    pub(crate) fn end_command(&mut self, id: CommandId, result: Result<CommandReply, CommandError>) {
        self.effects.push(Effect::CommandReply { id, result });
    }

    pub(crate) fn measured(&mut self, stage: Stage, since: Timestamp) {
        #[allow(clippy::cast_possible_truncation, reason = "584 years of nanoseconds fit in 64 bits")]
        let nanos = self.now.since(since).as_nanos() as u64;
        self.effects.push(Effect::Measured { stage, nanos });
    }

    /// A number below `bound`, from the core's seed (splitmix64: Steele, Lea, Flood, 2014).
    pub(crate) fn random_below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }
}

fn command_result(result: GatewayResult) -> Result<CommandReply, CommandError> {
    match result {
        GatewayResult::NotLeader { .. } => Err(CommandError::NotLeader { leader: None }),
        GatewayResult::Retry => Err(CommandError::Refused("leadership is moving: ask again".to_owned())),
        GatewayResult::Failed(cairn_api::block::BlockError::NoSpace) => Err(CommandError::NoSpace),
        GatewayResult::Failed(error) => Err(CommandError::Refused(error.to_string())),
        GatewayResult::Done
        | GatewayResult::Read(_)
        | GatewayResult::Status(_)
        | GatewayResult::Attached { .. }
        | GatewayResult::Members { .. } => Ok(CommandReply::Done),
    }
}

/// Whether every block of `data` has its checksum.
pub(crate) fn blocks_match(data: &Bytes, crcs: &[u32]) -> bool {
    cairn_format::checksum::verify(data, crcs).is_ok()
}
