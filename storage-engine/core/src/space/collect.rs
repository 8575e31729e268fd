//! Collection: live blocks are moved out of segments that are mostly garbage, so that these can be used again.
//!
//! # One victim at a time
//! Candidates are filled segments before the log's beginning, as the last durable checkpoint says. The best has the highest
//! (1 - u) age / (1 + u), where u is its live part: "cost-benefit" of Rosenblum and Ousterhout, "The Design and Implementation of
//! a Log-Structured File System" (1991), section 3.6. Age is counted in frames of the log since the segment was filled.
//!
//! A victim is read from start to end. Its frames, or the chunks of a cold one, name what is in it; what a map still names
//! there is alive. If its own words do not account for everything that is counted as alive, because some of them are damaged,
//! the maps are searched for the rest.
//!
//! # A block is moved in this order
//! 1. It is read, and matches the checksum in the map. Else it is repaired first, and its segment is left for later.
//! 2. It is written to the cold head, durably.
//! 3. If the map still names the old place: a *moved* record enters the log, and the map names the new one.
//!
//! A crash before the record is durable leaves the old place in the map, and the old place is untouched: it is used again only
//! when a checkpoint is durable that was begun when nothing in the segment was alive. A crash after it finds the record.
//!
//! **Replaying a moved record before or after the entries around it comes to the same.** The old place lies before the
//! beginning of a checkpoint that was durable when the block was moved. So the entry that wrote it is contained in that checkpoint, and
//! in every later one, and is not replayed: no entry that is replayed can put the old place into the map. If the slot still names it
//! when the record is replayed, it is changed; if an entry has replaced the slot, before or after, the record finds nothing.
//!
//! # States that are being received
//! A replica that is given a leader's state keeps blocks that it has, where they are. So nothing is moved meanwhile. If the disk has
//! no room to complete the state, it is given up, and collection goes on: the leader offers it again.
//!
//! # Its pace
//! One read or write at a time. After each it pauses for a multiple of what that took: nothing when writers are about to wait for
//! space, eight times as long when collection has just begun. So a disk that is busy with its clients, and slow for that
//! reason, is left alone the more.
//!
//! Reads are long, because one after the other takes a disk's whole latency each time: live blocks are taken out of the stretch in
//! which they were found, and those that lie near each other are read together. What is kept until it is written is copied out,
//! so that a few live blocks do not hold on to whole stretches.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use cairn_api::ids::GroupId;
use cairn_api::units::{BLOCK_BYTES, BLOCK_SIZE};
use cairn_format::chunk::{self, ChunkInfo, ChunkKind, chunk_blocks};
use cairn_format::entry::EntryHeader;
use cairn_format::frame::{self, FrameRecord, MovedRun};
use cairn_format::moved::{self, MOVED_BLOCKS_MAX, MovedBlocks};
use cairn_format::peer::RepairSource;
use cairn_format::portion::RowContent;
use cairn_format::segment::HeadKind;

use super::head::Head;
use super::segments::Role;
use crate::config::{needed_segments, reserve_segments};
use crate::event::{DiskFault, Effect, IoId};
use crate::group::{Group, REPLY_ROOM_BLOCKS};
use crate::log::Record;
use crate::repair::Consumer;
use crate::repair::ask::Loss;
use crate::shared::{Purpose, Shared, blocks_match};
use crate::time::Timestamp;

/// Blocks that the names of a full batch take.
const NAMES_BLOCKS_MAX: u64 = 2;
/// What is left of the cold segment is not filled up for less than so many blocks.
const BATCH_BLOCKS_MIN: u64 = 8;
/// The longest read of a victim: clients' requests wait for no more than that.
const READ_BLOCKS: u64 = (256 << 10) / BLOCK_BYTES;
/// The longest read while writers are about to wait for space, and so for collection.
const READ_BLOCKS_MAX: u64 = (1 << 20) / BLOCK_BYTES;
/// Live blocks that lie so close together are read with one read: what lies between takes less time than another read.
const GAP_BLOCKS_MAX: u64 = 16;
/// The longest pause after an operation, as a multiple of what that took.
const PAUSE_MAX: u32 = 8;
/// It looks again for a victim where there was none after so long: the look takes time in proportion to the disk.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// Of the segments between those with which collection begins and those with which writers wait, the part, as a divisor, in
/// which collection pauses; and the part that is left when it reads as much at once as it may.
const PAUSE_PART: usize = 4;
/// A segment that could not be emptied because of damage is left alone for so long.
const LEAVE_ALONE: Duration = Duration::from_secs(10);
/// A victim of which more than this part is alive is not worth the writing: of 64 MiB, 4 would be gained.
const LIVE_PART_MAX: f64 = 15.0 / 16.0;

/// Live blocks on their way that must stay together: one of a volume, all of an entry's payload for the meta group.
pub(crate) struct Moving {
    pub(crate) group: GroupId,
    /// The volume's block, or the entry's index.
    pub(crate) lba: u64,
    /// The disk's block of the first.
    pub(crate) from: u64,
    pub(crate) crcs: Vec<u32>,
}

impl Moving {
    fn blocks(&self) -> u64 {
        self.crcs.len() as u64
    }
}

enum Step {
    /// For the next operation, at this time.
    Ready,
    /// For a stretch of the victim.
    Reading { since: Timestamp },
    /// For a chunk on its way to the cold head.
    Writing {
        io: IoId,
        since: Timestamp,
        /// The disk's block of the first.
        to: u64,
        blocks: Vec<Moving>,
    },
}

/// A segment that is being emptied.
struct Victim {
    segment: u32,
    role: Role,
    /// The disk's block that is looked at next.
    at: u64,
    end: u64,
    /// Everything that it says of itself was looked at, and the maps were searched for the rest.
    is_searched: bool,
    /// Live blocks whose data is not taken yet.
    wanted: VecDeque<Moving>,
    /// What was read last: the disk's block that it starts at, and its bytes.
    stretch: Option<(u64, Bytes)>,
    /// A read of several live blocks has failed: each is read by itself.
    reads_apart: bool,
    /// Live blocks with their data.
    batch: Vec<(Moving, Bytes)>,
    /// Blocks that the batch may have: what is left of the cold segment is filled up, or what was emptied of one segment would
    /// leave so much unused in another that nothing is gained.
    batch_max: u64,
    is_damaged: bool,
}

/// What collection has done since the core was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CollectionReport {
    /// Segments that were emptied.
    pub segments: u64,
    /// Blocks that were moved.
    pub blocks: u64,
}

/// The collection of one disk.
pub(crate) struct Collector {
    head: Head,
    victim: Option<Victim>,
    step: Step,
    next: Timestamp,
    /// No victim was found: not before then is there another look.
    look_again: Timestamp,
    /// Segments that damage keeps from being emptied, until then.
    left_alone: BTreeMap<u32, Timestamp>,
    serial: u64,
}

type Groups = BTreeMap<GroupId, Group>;

impl Collector {
    pub(crate) const fn new(now: Timestamp) -> Self {
        Self {
            head: Head::new(HeadKind::Cold),
            victim: None,
            step: Step::Ready,
            next: now,
            look_again: now,
            left_alone: BTreeMap::new(),
            serial: 0,
        }
    }

    /// When there is something to do next.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        matches!(self.step, Step::Ready).then_some(self.next)
    }

    /// A group is dropped from the disk: nothing of it is alive any more.
    pub(crate) fn forget(&mut self, group: GroupId) {
        if let Some(victim) = &mut self.victim {
            victim.wanted.retain(|moving| moving.group != group);
            victim.batch.retain(|(moving, _)| moving.group != group);
        }
    }

    /// Begins what is due: goes on until something is under way, since nothing else might wake the core up.
    pub(crate) fn step(&mut self, shared: &mut Shared, groups: &mut Groups) {
        while matches!(self.step, Step::Ready) && shared.now >= self.next && self.step_on(shared, groups) {}
    }

    /// Does one thing; says whether there may be more to do at once.
    fn step_on(&mut self, shared: &mut Shared, groups: &mut Groups) -> bool {
        if !shared.log.is_open() {
            return false;
        }
        if groups.values().any(Group::is_staging) {
            // What was received may name blocks at their present places. Without room it cannot be completed either.
            let is_pressing = shared.log.free_segments_count() <= reserve_segments(&shared.config.geometry) + 1;
            if !is_pressing && shared.log.free_blocks() >= REPLY_ROOM_BLOCKS {
                return false;
            }
            groups.values_mut().for_each(Group::give_up_staging);
        }
        if self.victim.is_none() {
            self.choose(shared);
        }
        let batch_max = self.batch_max(shared);
        let Some(victim) = &mut self.victim else { return false };
        if victim.batch.is_empty() {
            victim.batch_max = batch_max;
        }
        victim.take_wanted(shared, groups);
        if victim.is_batch_full() || (victim.is_over() && !victim.batch.is_empty()) {
            self.write(shared);
        } else if victim.is_over() {
            self.end(shared);
        } else if let Some((block, blocks)) = victim.next_read(shared) {
            self.serial += 1;
            let serial = self.serial;
            shared.read(
                block * BLOCK_BYTES,
                blocks * BLOCK_SIZE,
                Purpose::Collect { serial, block },
            );
            self.step = Step::Reading { since: shared.now };
        } else {
            victim.search_maps(shared, groups);
        }
        true
    }

    /// So many blocks go on together.
    fn batch_max(&self, shared: &Shared) -> u64 {
        let left = self.head.left(&shared.segments).saturating_sub(NAMES_BLOCKS_MAX);
        let all = MOVED_BLOCKS_MAX as u64;
        if left < BATCH_BLOCKS_MIN { all } else { left.min(all) }
    }

    /// Chooses a victim, if free segments are few and there is one that is worth it.
    fn choose(&mut self, shared: &mut Shared) {
        let low = shared.config.limits.space.free_segments_low(&shared.config.geometry);
        let dying = shared.segments.without_life_count() + shared.segments.dead_count();
        let now = shared.now;
        if shared.log.free_segments_count() + dying >= low || now < self.look_again {
            return;
        }
        self.left_alone.retain(|_, until| *until > now);
        let segments = &shared.segments;
        let blocks = shared.config.geometry.segment_blocks() as f64;
        let newest = shared.log.next_sequence();
        let worth = |segment: u32| {
            let live = f64::from(segments.live_in(segment)) / blocks;
            let age = (newest - segments.filled(segment)) as f64;
            (1.0 - live) * age / (1.0 + live)
        };
        let is_candidate = |segment: &u32| {
            let live = segments.live_in(*segment);
            live > 0
                && f64::from(live) / blocks <= LIVE_PART_MAX
                && self.head.segment() != Some(*segment)
                && !self.left_alone.contains_key(segment)
        };
        let candidates = segments.of_role(|role| matches!(role, Role::Data | Role::Cold));
        let best = candidates
            .filter(is_candidate)
            .max_by(|a, b| worth(*a).total_cmp(&worth(*b)));
        let Some(segment) = best else {
            self.look_again = shared.now.after(LOOK_AGAIN);
            return;
        };
        let range = segments.blocks_of(segment);
        self.victim = Some(Victim {
            segment,
            role: segments.role(segment),
            at: range.start + 1,
            end: range.end,
            is_searched: false,
            wanted: VecDeque::new(),
            stretch: None,
            reads_apart: false,
            batch: Vec::new(),
            batch_max: MOVED_BLOCKS_MAX as u64,
            is_damaged: false,
        });
    }

    /// A stretch of the victim, or some blocks of it, has come from the disk.
    pub(crate) fn read(
        &mut self,
        shared: &mut Shared,
        groups: &mut Groups,
        (serial, block): (u64, u64),
        result: Result<Bytes, DiskFault>,
    ) {
        if serial != self.serial {
            return;
        }
        let Step::Reading { since } = std::mem::replace(&mut self.step, Step::Ready) else {
            return;
        };
        self.pause(shared, since);
        let Some(victim) = &mut self.victim else { return };
        let is_looking = victim.wanted.is_empty() && block == victim.at;
        match result {
            Ok(bytes) => {
                if is_looking {
                    victim.look_through(shared, groups, block, &bytes);
                }
                victim.stretch = Some((block, bytes));
            }
            // Its headers cannot be read: the maps know what is in it.
            Err(_) if is_looking => victim.at = victim.end,
            Err(_) if !victim.reads_apart => victim.reads_apart = true,
            Err(_) => {
                if let Some(moving) = victim.wanted.pop_front() {
                    victim.repair(shared, groups, moving, None);
                }
            }
        }
    }

    /// Writes what is gathered to the cold head.
    fn write(&mut self, shared: &mut Shared) {
        let Some(victim) = &mut self.victim else { return };
        let names = names_of(victim.batch.iter().map(|(moving, _)| moving));
        let body = moved::encode(&names);
        let header_blocks = chunk_blocks(body.len());
        #[allow(clippy::cast_possible_truncation, reason = "at most 256")]
        let blocks = header_blocks + victim.batch_blocks() as u32;
        let Some(place) = self.head.place(blocks, &mut shared.log, &mut shared.segments) else {
            // Nothing is free but what the log needs itself: a checkpoint may free what is dead.
            shared.wants_checkpoint = true;
            self.next = shared.now.after(shared.config.timing.tick);
            return;
        };
        shared.cold_segment = self.head.segment();
        let info = ChunkInfo {
            disk: shared.config.disk,
            block: place.block,
            epoch: place.epoch,
            kind: ChunkKind::Moved,
            generation: 0,
            previous_block: 0,
            previous_blocks: 0,
        };
        let mut offset = place.block * BLOCK_BYTES;
        let mut buffers = Vec::with_capacity(2 + victim.batch.len());
        if let Some(header) = place.header {
            offset -= BLOCK_BYTES;
            buffers.push(header);
        }
        buffers.push(chunk::encode(&info, &body));
        let mut moving = Vec::with_capacity(victim.batch.len());
        for (block, data) in victim.batch.drain(..) {
            moving.push(block);
            buffers.push(data);
        }
        let io = shared.io.next();
        shared.effects.push(Effect::Write { io, offset, buffers });
        self.step = Step::Writing {
            io,
            since: shared.now,
            to: place.block + u64::from(header_blocks),
            blocks: moving,
        };
    }

    /// A write has ended well. Says whether it was collection's.
    pub(crate) fn written(&mut self, shared: &mut Shared, groups: &mut Groups, io: IoId) -> bool {
        if !matches!(self.step, Step::Writing { io: ours, .. } if ours == io) {
            return false;
        }
        let Step::Writing { since, to, blocks, .. } = std::mem::replace(&mut self.step, Step::Ready) else {
            return false;
        };
        self.pause(shared, since);
        let mut runs: BTreeMap<GroupId, Vec<MovedRun>> = BTreeMap::new();
        let mut moved = 0;
        let mut next = to;
        for moving in blocks {
            let (new, count) = (next, moving.blocks());
            next += count;
            let Some(group) = groups.get_mut(&moving.group) else {
                continue;
            };
            if !group.relocate(moving.lba, moving.from, new) {
                continue;
            }
            shared.segments.gone(moving.from, count);
            shared.segments.born(new, count);
            moved += count;
            #[allow(clippy::cast_possible_truncation, reason = "at most 256")]
            let run = MovedRun {
                lba: moving.lba,
                from: moving.from,
                to: new,
                blocks: count as u32,
            };
            let runs = runs.entry(moving.group).or_default();
            match runs.last_mut() {
                Some(last) if is_followed(last, &run) => last.blocks += 1,
                _ => runs.push(run),
            }
        }
        for (group, runs) in runs {
            shared.log.push(Record::Moved { group, runs });
        }
        shared.effects.push(Effect::Collected(CollectionReport {
            segments: 0,
            blocks: moved,
        }));
        true
    }

    /// Nothing of the victim is left to be looked at.
    fn end(&mut self, shared: &mut Shared) {
        let Some(victim) = self.victim.take() else { return };
        if shared.segments.live_in(victim.segment) > 0 {
            let until = shared.now.after(LEAVE_ALONE);
            self.left_alone.insert(victim.segment, until);
            return;
        }
        shared
            .effects
            .push(Effect::Collected(CollectionReport { segments: 1, blocks: 0 }));
    }

    /// The next operation waits, the longer the more is free, or soon will be, and the slower the disk was.
    fn pause(&mut self, shared: &Shared, since: Timestamp) {
        let (span, beyond) = headroom(shared);
        let dying = shared.segments.without_life_count() + shared.segments.dead_count();
        let part = (span / PAUSE_PART).max(1);
        let above = (beyond + dying).saturating_sub(span - part) as f64 / part as f64;
        let took = shared.now.since(since);
        self.next = shared.now.after(took.mul_f64(f64::from(PAUSE_MAX) * above.min(1.0)));
    }
}

/// The segments between those with which collection begins and those with which writers wait; and how many of them are free.
fn headroom(shared: &Shared) -> (usize, usize) {
    let geometry = &shared.config.geometry;
    let needed = needed_segments(geometry);
    let low = shared.config.limits.space.free_segments_low(geometry);
    let free = shared.log.free_segments_count();
    (low.saturating_sub(needed).max(1), free.saturating_sub(needed))
}

impl Victim {
    fn is_over(&self) -> bool {
        self.is_searched && self.wanted.is_empty()
    }

    fn batch_blocks(&self) -> u64 {
        self.batch.iter().map(|(moving, _)| moving.blocks()).sum()
    }

    /// Whether what comes next does not fit any more.
    fn is_batch_full(&self) -> bool {
        let next = self.wanted.front().map_or(0, Moving::blocks);
        !self.batch.is_empty() && self.batch_blocks() + next > self.batch_max
    }

    /// What to read next: live blocks that lie near each other, or the next stretch.
    #[allow(clippy::cast_possible_truncation, reason = "at most 1 MiB")]
    fn next_read(&self, shared: &Shared) -> Option<(u64, u32)> {
        let (span, beyond) = headroom(shared);
        let blocks_max = if beyond <= span / PAUSE_PART {
            READ_BLOCKS_MAX
        } else {
            READ_BLOCKS
        };
        if let Some(first) = self.wanted.front() {
            let mut end = first.from + first.blocks();
            for moving in self.wanted.iter().skip(1).take_while(|_| !self.reads_apart) {
                let is_near = (end..=end + GAP_BLOCKS_MAX).contains(&moving.from);
                let next = moving.from + moving.blocks();
                if !is_near || next - first.from > blocks_max {
                    break;
                }
                end = next;
            }
            return Some((first.from, (end - first.from) as u32));
        }
        let is_empty = shared.segments.live_in(self.segment) == 0;
        let left = self.end.saturating_sub(self.at).min(blocks_max);
        (left > 0 && !is_empty).then_some((self.at, left as u32))
    }

    /// Looks for live blocks in a stretch that begins with a frame or a chunk.
    fn look_through(&mut self, shared: &mut Shared, groups: &Groups, start: u64, bytes: &Bytes) {
        let blocks = bytes.len() as u64 / BLOCK_BYTES;
        let mut at = start;
        while at < start + blocks {
            #[allow(clippy::cast_possible_truncation, reason = "within a read of 1 MiB")]
            let rest = bytes.slice(((at - start) * BLOCK_BYTES) as usize..);
            let found = match self.role {
                Role::Cold => self.chunk_at(shared, groups, at, &rest),
                _ => self.frame_at(shared, groups, at, &rest),
            };
            match found {
                Found::Next(next) => at = next,
                Found::NotRead if at > start => break,
                Found::NotRead | Found::Nothing => {
                    self.at = self.end;
                    return;
                }
            }
        }
        self.at = at;
    }

    fn frame_at(&mut self, shared: &Shared, groups: &Groups, at: u64, rest: &Bytes) -> Found {
        let Ok(header_bytes) = frame::header_bytes_of(rest) else {
            return Found::Nothing;
        };
        if header_bytes > rest.len() {
            return Found::NotRead;
        }
        let frame = match frame::decode(&rest.slice(..header_bytes)) {
            Ok(frame) if frame.info.disk == shared.config.disk && frame.info.block == at => frame,
            _ => return Found::Nothing,
        };
        if frame.info.segment_epoch != shared.segments.epoch(self.segment) {
            return Found::Nothing;
        }
        let payload = at + u64::from(frame.header_blocks);
        for record in &frame.records {
            if let FrameRecord::StageBlocks {
                group,
                payload_offset,
                portion,
            } = record
            {
                let mut first = payload + u64::from(*payload_offset);
                for row in &portion.rows {
                    if let RowContent::Data(crcs) = &row.content {
                        let count = crcs.len() as u64;
                        self.want_live(groups, *group, row.lba.0, (first, count));
                        first += count;
                    }
                }
            }
            if let FrameRecord::Entry {
                group,
                index,
                payload_offset,
                header,
                ..
            } = record
                && let Ok(header) = EntryHeader::decode(header)
            {
                let lba = match &header {
                    EntryHeader::Write { lba, .. } => lba.0,
                    EntryHeader::Fill { lba, skip, .. } => lba.0 + skip,
                    _ => index.get(),
                };
                let first = payload + u64::from(*payload_offset);
                self.want_live(groups, *group, lba, (first, u64::from(header.payload_blocks())));
            }
        }
        Found::Next(payload + u64::from(frame.info.payload_blocks))
    }

    fn chunk_at(&mut self, shared: &Shared, groups: &Groups, at: u64, rest: &Bytes) -> Found {
        // The names of at most 255 blocks take two blocks at most.
        let Some((info, body, header_blocks)) = (1..=2_u32).find_map(|blocks| {
            let bytes = rest
                .get(..(blocks * BLOCK_SIZE) as usize)
                .map(|bytes| rest.slice_ref(bytes))?;
            chunk::decode(&bytes).ok().map(|(info, body)| (info, body, blocks))
        }) else {
            return if rest.len() < 2 * BLOCK_SIZE as usize && self.end > at + 1 {
                Found::NotRead
            } else {
                Found::Nothing
            };
        };
        let is_ours = info.disk == shared.config.disk
            && info.block == at
            && info.kind == ChunkKind::Moved
            && info.epoch == shared.segments.epoch(self.segment);
        let Some(runs) = moved::decode(&body).ok().filter(|_| is_ours) else {
            return Found::Nothing;
        };
        let mut block = at + u64::from(header_blocks);
        for run in runs {
            self.want_live(groups, run.group, run.lba, (block, u64::from(run.blocks)));
            block += u64::from(run.blocks);
        }
        Found::Next(block)
    }

    /// Notes which of these blocks are alive.
    fn want_live(&mut self, groups: &Groups, group: GroupId, lba: u64, (first, count): (u64, u64)) {
        if let Some(state) = groups.get(&group) {
            state.live_among(lba, first, count, &mut |moving| self.wanted.push_back(moving));
        }
    }

    /// Takes live blocks out of what was read last, as many as it holds and the batch takes.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "places within a read of 1 MiB, or beyond it"
    )]
    fn take_wanted(&mut self, shared: &mut Shared, groups: &Groups) {
        let Some((start, bytes)) = self.stretch.take() else {
            return;
        };
        while let Some(moving) = self.wanted.front() {
            if self.is_batch_full() {
                self.stretch = Some((start, bytes));
                return;
            }
            let length = moving.crcs.len() * BLOCK_SIZE as usize;
            let at = moving
                .from
                .checked_sub(start)
                .map(|blocks| (blocks * BLOCK_BYTES) as usize);
            let Some(data) = at.and_then(|at| bytes.get(at..at.checked_add(length)?)) else {
                return;
            };
            let Some(moving) = self.wanted.pop_front() else { return };
            let data = bytes.slice_ref(data);
            if blocks_match(&data, &moving.crcs) {
                let copied = shared
                    .memory
                    .filled(length, &mut |buffer| buffer.copy_from_slice(&data));
                self.batch.push((moving, copied));
            } else {
                self.repair(shared, groups, moving, Some(data));
            }
        }
    }

    /// Live blocks are damaged, or cannot be read: they are repaired where they are, and their segment emptied another time.
    fn repair(&mut self, shared: &mut Shared, groups: &Groups, moving: Moving, data: Option<Bytes>) {
        self.is_damaged = true;
        let Some(group) = groups.get(&moving.group) else { return };
        let Some(source) = group.source_of(moving.lba) else {
            return;
        };
        let loss = Loss {
            group: moving.group,
            at: if matches!(source, RepairSource::Volume) {
                moving.lba
            } else {
                0
            },
            source,
            block: moving.from,
            crcs: moving.crcs,
            data,
        };
        group.find_lost(shared, &loss, Consumer::Collect);
    }

    /// What the segment says of itself was looked at: what is still counted as alive and not wanted, the maps know.
    fn search_maps(&mut self, shared: &Shared, groups: &Groups) {
        self.is_searched = true;
        let gathered = self.batch_blocks();
        if self.is_damaged || u64::from(shared.segments.live_in(self.segment)) <= gathered {
            return;
        }
        let range = shared.segments.blocks_of(self.segment);
        let known: BTreeSet<u64> = self.batch.iter().map(|(moving, _)| moving.from).collect();
        for state in groups.values() {
            state.live_in(&range, &mut |moving| {
                if !known.contains(&moving.from) {
                    self.wanted.push_back(moving);
                }
            });
        }
        self.wanted.make_contiguous().sort_unstable_by_key(|moving| moving.from);
    }
}

/// What stands at a place of a victim.
enum Found {
    /// Something whole; the next begins here.
    Next(u64),
    /// Something that was not read to its end.
    NotRead,
    /// Nothing of this segment.
    Nothing,
}

/// Whether blocks go on where a run ends, in the volume and at both places.
fn is_followed(run: &MovedRun, next: &MovedRun) -> bool {
    let blocks = u64::from(run.blocks);
    next.blocks == 1 && (run.lba + blocks, run.from + blocks, run.to + blocks) == (next.lba, next.from, next.to)
}

/// Names blocks in their order, as runs.
fn names_of<'a>(blocks: impl Iterator<Item = &'a Moving>) -> Vec<MovedBlocks> {
    let mut names: Vec<MovedBlocks> = Vec::new();
    for moving in blocks {
        let is_next = |last: &MovedBlocks| {
            moving.blocks() == 1 && last.group == moving.group && last.lba + u64::from(last.blocks) == moving.lba
        };
        match names.last_mut() {
            Some(last) if is_next(last) => last.blocks += 1,
            #[allow(clippy::cast_possible_truncation, reason = "at most 256")]
            _ => names.push(MovedBlocks {
                group: moving.group,
                lba: moving.lba,
                blocks: moving.blocks() as u32,
            }),
        }
    }
    names
}
