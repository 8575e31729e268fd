//! Appends on their way to a follower: payload that is no longer in memory is read back from the log first.
//!
//! A follower that keeps up is sent payload straight from memory. One that is behind gets entries whose payload was
//! released when it became durable here; those messages wait in order, each for its reads.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use cairn_api::ids::{DiskId, ReplicaId};
use cairn_api::units::BLOCK_BYTES;
use cairn_format::entry::BlockCrcs;
use cairn_format::peer::{RaftMessage, RepairSource};

use super::Group;
use super::storage::FetchedEntry;
use crate::event::DiskFault;
use crate::log::{HeaderRead, parse_frame_entries};
use crate::repair::ask::Loss;
use crate::repair::{Consumer, Outcome};
use crate::shared::{Purpose, Shared};

/// Messages that wait for reads, for one follower: more than Raft has under way to it, even cut to size. Beyond it Raft
/// finds the gap and sends again.
const HELD_MAX: usize = 256;
/// Payload that is being read back for one follower or queued on its link before more is read: enough to keep both busy.
const CATCH_UP_BYTES_MAX: usize = 4 << 20;
/// Payload of one append message, unless a single entry has more: half of what a peer frame may hold.
const MESSAGE_BLOCKS_MAX: u32 = 512;
/// Frames read ahead when old headers are wanted.
const FETCH_FRAMES: usize = 32;
/// Old headers kept parked for one group.
const FETCHED_MAX: usize = 4096;

struct Held {
    serial: u64,
    message: RaftMessage,
    /// Reads to be started: the entry's place in the message, the disk's block, blocks.
    wanted: Vec<(usize, u64, u32)>,
    /// Reads under way, and repairs.
    missing: usize,
    /// The disk's block of each payload that was asked for, by the entry's place.
    reading: BTreeMap<usize, u64>,
    is_void: bool,
}

impl Held {
    fn is_complete(&self) -> bool {
        self.wanted.is_empty() && self.missing == 0
    }

    fn bytes_read(&self) -> usize {
        self.message.entries.iter().map(|entry| entry.payload.len()).sum()
    }
}

#[derive(Default)]
pub(super) struct Outbox {
    held: VecDeque<Held>,
    serial_last: u64,
}

impl Outbox {
    /// Entries up to `index` are gone: a message with one of them that is not read yet never will be complete.
    pub(super) fn void_to(&mut self, index: u64) {
        for held in &mut self.held {
            let first = held.message.entries.first();
            if first.is_some_and(|entry| entry.index.get() <= index) {
                held.is_void = true;
                held.wanted.clear();
            }
        }
    }

    /// Messages that wait.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }
}

/// A read-back of old headers.
pub(super) struct Fetch {
    request: super::storage::FetchRequest,
    missing: usize,
}

impl Group {
    /// Sends an append, in as many messages as its payload needs.
    ///
    /// raft-rs merges what is proposed in one turn into one message, and counts only headers: several long writes would
    /// pass what a peer frame may hold.
    pub(super) fn send_append(&mut self, shared: &mut Shared, mut wire: RaftMessage) {
        let mut blocks = 0;
        let mut cut = wire.entries.len();
        for (place, entry) in wire.entries.iter().enumerate() {
            blocks += payload_blocks(&entry.header).unwrap_or(0);
            if blocks > MESSAGE_BLOCKS_MAX && place > 0 {
                cut = place;
                break;
            }
        }
        let rest = wire.entries.split_off(cut);
        if rest.is_empty() {
            return self.send_append_part(shared, wire);
        }
        let before = wire
            .entries
            .last()
            .map_or((wire.index, wire.log_term), |entry| (entry.index, entry.term));
        let following = RaftMessage {
            index: before.0,
            log_term: before.1,
            entries: rest,
            ..wire.clone()
        };
        self.send_append_part(shared, wire);
        self.send_append(shared, following);
    }

    /// Sends an append, now if all its payload is in memory.
    fn send_append_part(&mut self, shared: &mut Shared, mut wire: RaftMessage) {
        let mut reads = Vec::new();
        for place in 0..wire.entries.len() {
            let (index, term) = (wire.entries[place].index.get(), wire.entries[place].term.get());
            let Ok(blocks) = payload_blocks(&wire.entries[place].header) else {
                return;
            };
            if blocks == 0 {
                continue;
            }
            let store = self.node.store();
            let payload_block = match (
                store.get(index).filter(|entry| entry.term == term),
                store.fetched(index),
            ) {
                (Some(entry), _) if !entry.payload.is_empty() => {
                    wire.entries[place].payload = entry.payload.clone();
                    continue;
                }
                (Some(entry), _) => entry.location.map(|location| location.payload_block),
                (None, Some(fetched)) if fetched.term == term => Some(fetched.payload_block),
                (None, _) => None,
            };
            // Neither in memory nor placed: replaced since. Raft sends what stands there now.
            let Some(payload_block) = payload_block else { return };
            reads.push((place, payload_block, blocks));
        }
        let to = wire.to;
        let outbox = self.outboxes.entry(to).or_default();
        if reads.is_empty() && outbox.held.is_empty() {
            self.send_wire(shared, wire);
            return;
        }
        if outbox.held.len() >= HELD_MAX {
            self.unreachable(to);
            return;
        }
        outbox.serial_last += 1;
        let serial = outbox.serial_last;
        outbox.held.push_back(Held {
            serial,
            message: wire,
            wanted: reads,
            missing: 0,
            reading: BTreeMap::new(),
            is_void: false,
        });
        self.advance_outbox(shared, to);
    }

    /// The queue to a follower's disk has shrunk: what is held for it may go on.
    pub(crate) fn drained(&mut self, shared: &mut Shared, disk: DiskId) {
        if self.outboxes.values().all(|outbox| outbox.held.is_empty()) {
            return;
        }
        if let Some(to) = self.replica_on(disk) {
            self.advance_outbox(shared, to);
        }
    }

    /// Sends what is complete at the front, and starts reads as far as the bound allows.
    fn advance_outbox(&mut self, shared: &mut Shared, to: ReplicaId) {
        while let Some(front) = self.outboxes.get_mut(&to).and_then(|outbox| {
            let is_complete = outbox.held.front().is_some_and(Held::is_complete);
            if is_complete { outbox.held.pop_front() } else { None }
        }) {
            if front.is_void {
                self.unreachable(to);
            } else {
                self.send_wire(shared, front.message);
            }
        }
        let disk = self.address(to);
        let mut bytes = disk.map_or(0, |disk| shared.links.queued_bytes(disk));
        let Some(outbox) = self.outboxes.get_mut(&to) else {
            return;
        };
        for held in &mut outbox.held {
            let serial = held.serial;
            if bytes < CATCH_UP_BYTES_MAX {
                for (entry, payload_block, blocks) in held.wanted.drain(..) {
                    held.missing += 1;
                    held.reading.insert(entry, payload_block);
                    let purpose = Purpose::Outbox {
                        group: self.spec.group,
                        to,
                        serial,
                        entry,
                    };
                    #[allow(clippy::cast_possible_truncation, reason = "an entry has at most 1 MiB of payload")]
                    let length = (u64::from(blocks) * BLOCK_BYTES) as u32;
                    bytes += length as usize;
                    shared.read(payload_block * BLOCK_BYTES, length, purpose);
                }
            }
            bytes += held.bytes_read();
        }
    }

    /// A payload was read back for a follower.
    pub(crate) fn outbox_read(
        &mut self,
        shared: &mut Shared,
        (to, serial, entry): (ReplicaId, u64, usize),
        result: Result<Bytes, DiskFault>,
    ) {
        let group = self.spec.group;
        let Some((held, block)) = self.held(to, serial, entry) else {
            return;
        };
        let target = &mut held.message.entries[entry];
        let crcs = match BlockCrcs::of_header(&target.header) {
            Ok(crcs) => crcs,
            Err(_) => return self.outbox_repaired(shared, (to, serial, entry), Outcome::Unanswered),
        };
        let data = match result {
            Ok(payload) if crcs.verify(&payload).is_ok() => {
                target.payload = payload;
                held.missing -= 1;
                return self.advance_outbox(shared, to);
            }
            result => result.ok(),
        };
        let (index, term) = (target.index, target.term);
        let loss = Loss {
            group,
            source: RepairSource::Entry { index, term },
            at: 0,
            block,
            crcs: crcs.iter().collect(),
            data,
        };
        self.find_lost(shared, &loss, Consumer::Outbox { to, serial, entry });
    }

    /// What was lost of a payload is found, or will not be: then the message is void, and Raft asks again.
    pub(super) fn outbox_repaired(
        &mut self,
        shared: &mut Shared,
        (to, serial, entry): (ReplicaId, u64, usize),
        outcome: Outcome,
    ) {
        let Some((held, _)) = self.held(to, serial, entry) else {
            return;
        };
        held.missing -= 1;
        match outcome {
            Outcome::Found(blocks) => held.message.entries[entry].payload = blocks.concat().into(),
            Outcome::Unanswered | Outcome::Lost { .. } => held.is_void = true,
        }
        self.advance_outbox(shared, to);
    }

    /// A message that waits for the payload of this entry, and the disk's block of that payload.
    fn held(&mut self, to: ReplicaId, serial: u64, entry: usize) -> Option<(&mut Held, u64)> {
        let outbox = self.outboxes.get_mut(&to)?;
        let held = outbox.held.iter_mut().find(|held| held.serial == serial)?;
        let block = *held.reading.get(&entry)?;
        Some((held, block))
    }

    /// Starts reading back the old headers that raft-rs has asked for.
    pub(super) fn start_fetches(&mut self, shared: &mut Shared) {
        for request in self.node.mut_store().take_wanted() {
            // raft-rs asks anew at every proposal while the entries are under way. The follower of a request that is
            // dropped here is served by its twin, or asks again after its next heartbeat.
            if self.fetches.values().any(|fetch| fetch.request.low == request.low) {
                continue;
            }
            if self.node.store().fetched_count() > FETCHED_MAX {
                self.node.mut_store().unpark_before(request.low);
            }
            let frames = self.node.store().frames_from(request.low, FETCH_FRAMES);
            self.fetch_last += 1;
            let fetch = self.fetch_last;
            self.fetches.insert(
                fetch,
                Fetch {
                    request,
                    missing: frames.len(),
                },
            );
            for offset in frames {
                self.fetch(shared, fetch, offset, HeaderRead::Guess);
            }
        }
    }

    fn fetch(&self, shared: &mut Shared, fetch: u64, offset: u64, header: HeaderRead) {
        let length = header.bytes(shared.log.bytes_to_segment_end(offset));
        let purpose = Purpose::Fetch {
            group: self.spec.group,
            fetch,
            offset,
            header,
        };
        shared.read(offset, length, purpose);
    }

    /// A frame's header was read back, or the beginning of one.
    pub(crate) fn fetch_read(
        &mut self,
        shared: &mut Shared,
        (fetch, offset, header): (u64, u64, HeaderRead),
        result: Result<Bytes, DiskFault>,
    ) {
        let group = self.spec.group;
        if let Some(next) = header.next(&result, shared.log.bytes_to_segment_end(offset)) {
            return self.fetch(shared, fetch, offset, next);
        }
        let disk = shared.config.disk;
        let entries = result
            .map_err(|fault| fault.to_string())
            .and_then(|bytes| parse_frame_entries(disk, &bytes, group));
        match entries {
            Ok(entries) => {
                for entry in entries {
                    let parked = FetchedEntry {
                        term: entry.term.get(),
                        header: entry.header,
                        payload_block: entry.payload_block,
                    };
                    self.node.mut_store().park(entry.index.get(), parked);
                }
            }
            Err(error) => tracing::error!(%group, %error, "old entries cannot be read back"),
        }
        let Some(waiting) = self.fetches.get_mut(&fetch) else {
            return;
        };
        waiting.missing -= 1;
        if waiting.missing == 0
            && let Some(done) = self.fetches.remove(&fetch)
        {
            let store = self.node.store();
            // What was truncated meanwhile is not lost: raft-rs finds that out, and asks for a state.
            if store.fetched(done.request.low).is_some() || done.request.low <= store.truncated() {
                self.node.on_entries_fetched(done.request.context);
            } else {
                self.give_way(shared);
            }
        }
    }

    /// What a follower lacks cannot be read back here. Payload is fetched from a peer, a frame's header is not: a replica
    /// that has the entries leads on, and sends them. If there is none raft-rs asks again after the next heartbeat.
    fn give_way(&mut self, shared: &mut Shared) {
        if !self.is_leader() {
            return;
        }
        if let Some(successor) = self.successor(shared)
            && self.transfer(shared, successor)
        {
            tracing::warn!(group = %self.spec.group, %successor, "old entries are lost here: another replica is to lead");
        }
    }
}

/// Blocks of payload that belong to an encoded header; none to Raft's own empty entry.
fn payload_blocks(header: &Bytes) -> Result<u32, ()> {
    if header.is_empty() {
        return Ok(0);
    }
    BlockCrcs::of_header(header).map(|crcs| crcs.count()).map_err(|_| ())
}
