//! Blocks that this disk has lost: asking the peers for them, answering peers that ask, and writing back what was found.
//!
//! A mapped block is lost when the disk returns something else than its checksum says, or an error. Every replica of a
//! volume holds the same blocks under the same checksums, so that a peer can help out. A reader waits meanwhile; it is
//! never given anything that does not match.
//!
//! # Asking ([`ask`])
//! Each lost block is first read once more by itself: a long read may have failed for the sake of one sector. What is
//! still lost is asked of one peer after the other. A peer answers only with blocks that it holds under the same checksum
//! and whose bytes match it; the answer's checksums are checked on arrival, and here again against the map's.
//! - All found: the reader goes on.
//! - *Every* other member has said that its copy is bad as well: nobody has the block any more, and the reader gets an
//!   error that names it. Never before: a member that is away may have it.
//! - Otherwise the reader is told within a second to ask again, so that a client sees a pause. After
//!   [`ask::PATIENCE`] of that it gets the error after all: better than to wait for a member that will never come back.
//!
//! A volume's block is asked for by its address, an old entry's payload by the entry's index and term: Raft's logs are the
//! same on all members, so that this also finds what the volume has overwritten since. If no member has that payload, the
//! follower that lacks it cannot be brought up from the log; it is probed again and again, each attempt counts as
//! unrepairable, and its status shows that it stays behind. It must then be replaced: a new replica takes over the map,
//! which knows nothing of superseded blocks, and not the log.
//!
//! # Writing back ([`heal`]), and why it can do no harm
//! The same bytes go to the same place, as a durable write of one block, beside the frames.
//! - *It never meets a frame under way.* A block is asked for when a map or the log names it, and its frame is durable
//!   then. Frames are written at the log's cursor, behind every durable one. No two write-backs of a block overlap.
//! - *It never looks like a torn tail, nor hides one.* Recovery reads the payload of frames that no later durable frame
//!   vouches for, and no other payload. A write-back waits until a durable frame vouches for the frame of its block
//!   ([`crate::log::LogWriter::is_vouched`]); frame headers it never touches. So whatever it leaves behind, recovery does
//!   not look at it.
//! - *A crash in the middle* leaves a mixture of the damaged bytes and the right ones: still a block that fails its checksum,
//!   as before, or the right one. The next reader repairs it again.
//! - *Nothing is written blindly.* Only blocks that were read by themselves and found bad are written, only with bytes that
//!   match, and the place holds that block for good: a segment is never used again while the log lives. Whoever comes to
//!   reuse segments must first end the write-backs into them.
//! - *A write-back that fails* is a durable write that failed: the disk's state is void, as after any other.
//!
//! # Answering ([`serve`])
//! The map or the log gives the place, the disk the bytes; a copy that is bad here too is said to be so, and
//! counted; it is repaired when somebody reads it here.
//!
//! # Bounds
//! So many repairs, answers and write-backs at once for a disk; what is beyond is asked to come again. One message asks
//! for at most the blocks of one entry.

pub(crate) mod ask;
mod heal;
mod known;
pub(crate) mod serve;

pub use heal::WRITE_BACKS_MAX;

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use cairn_api::ids::{GroupId, ReplicaId};

use crate::event::{Damage, DamageCounts, DiskFault, Effect, IoId};
use crate::shared::Shared;
use crate::time::Timestamp;

/// Who waits for lost blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Consumer {
    /// A piece of a read of a group, which may be a clone of the volume that the blocks are of.
    Read { reader: GroupId, read: u64, piece: usize },
    /// The payload of an old entry, for a follower.
    Outbox { to: ReplicaId, serial: u64, entry: usize },
    /// Data for a replica that is given the state at a mark.
    CatchUp { serial: u64, place: usize },
    /// The payload of a command, for the external state machine.
    External { index: u64 },
    /// The scrubbing of the disk, by the number of its read.
    Scrub { serial: u64 },
    /// Collection, which comes again.
    Collect,
}

/// How a repair ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// Every block, in order.
    Found(Vec<Bytes>),
    /// Not every member could be asked: try again.
    Unanswered,
    /// The block at this address is not to be had.
    Lost { at: u64 },
}

/// A repair that has ended, for the group that waits for it.
pub(crate) struct Ended {
    pub(crate) group: GroupId,
    pub(crate) consumer: Consumer,
    pub(crate) outcome: Outcome,
}

/// All repairs of a disk.
pub(crate) struct Repairs {
    asking: ask::Asking,
    serving: serve::Serving,
    healing: heal::Healing,
    known: known::Known,
    totals: DamageCounts,
    ended: VecDeque<Ended>,
}

impl Ended {
    /// The group that waits.
    pub(crate) const fn waiting(&self) -> GroupId {
        match self.consumer {
            Consumer::Read { reader, .. } => reader,
            _ => self.group,
        }
    }
}

impl Repairs {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            // An answer to a question of an earlier run of this core must not be taken for one of this run's.
            asking: ask::Asking::new(now.as_nanos()),
            serving: serve::Serving::default(),
            healing: heal::Healing::default(),
            known: known::Known::default(),
            totals: DamageCounts::default(),
            ended: VecDeque::new(),
        }
    }

    pub(crate) fn take_ended(&mut self) -> Option<Ended> {
        self.ended.pop_front()
    }

    /// Blocks that wait to be written back, or are being.
    pub(crate) fn write_backs(&self) -> usize {
        self.healing.count()
    }

    /// The write-back that was begun first of those under way.
    pub(crate) fn oldest_write_back(&self) -> Option<IoId> {
        self.healing.oldest()
    }

    /// Whether a repair or a write-back is about one of these blocks of the disk.
    pub(crate) fn is_about(&self, blocks: &Range<u64>) -> bool {
        self.asking.is_about(blocks) || self.healing.is_about(blocks)
    }

    /// These blocks of the disk are used for something else from now on.
    pub(crate) fn forget_blocks(&mut self, blocks: &Range<u64>) {
        self.known.forget_blocks(blocks);
    }

    /// What was noticed on the disk so far.
    pub(crate) fn totals(&self) -> DamageCounts {
        self.totals
    }

    /// What was noticed of a group so far.
    pub(crate) fn counts(&self, group: GroupId) -> DamageCounts {
        self.known.counts(group)
    }

    /// The group is gone from this disk, with all that it asked for.
    pub(crate) fn forget(&mut self, group: GroupId) {
        self.asking.forget(group);
        self.serving.forget(group);
        self.healing.forget(group);
        self.known.forget(group);
        self.ended.retain(|ended| ended.group != group);
    }
}

impl Shared {
    /// Time passes for repairs.
    pub(crate) fn tick_repairs(&mut self) {
        self.check_repairs();
        let now = self.now;
        self.repairs.known.tick(now);
    }

    /// The disk's block was read by itself and is damaged, or cannot be read at all: logged and counted once.
    fn note_damage(&mut self, group: GroupId, disk_block: u64, fault: Option<&DiskFault>) {
        if self.repairs.known.damaged(group, disk_block, self.now) {
            let disk = self.config.disk;
            let fault = fault.map_or_else(|| "its checksum fails".to_owned(), DiskFault::to_string);
            tracing::error!(%group, %disk, disk_block, fault, "a block is damaged");
            self.count_damage(group, Damage::Found, 1);
        }
    }

    fn count_damage(&mut self, group: GroupId, damage: Damage, blocks: u64) {
        if blocks > 0 {
            self.repairs.known.count(group, damage, blocks);
            self.repairs.totals.add(damage, blocks);
            self.effects.push(Effect::Damage { group, damage, blocks });
        }
    }
}
