//! Writing checkpoints: the state of all replicas at one moment, while they go on.
//!
//! # What is written is the state at one moment T
//! At T the groups' own state is copied, the list of all leaves is taken, and the leaves that have changed since their last page
//! are marked. A marked leaf that is about to change, or to go, is encoded first (`map::paging`). So the pages show the maps at T, as
//! the table shows the groups at T: as if everything had been written at once.
//!
//! # What recovery needs is behind the beginning
//! The log's new beginning is the start of a segment. Everything in front of it is contained in the state at T: each group's next
//! entry to be applied stands behind it or is not written yet, and hard states, creations and droppings are part of the state as
//! soon as they are pushed. Hard states in the state may be ahead of the records behind the beginning: replay only raises them. A term or a vote
//! that is not durable in the log yet binds nobody, so that having it early is harmless. A commit is not: what is committed may
//! be in frames that are still to be written. The state says that only what is applied is committed.
//!
//! # Nothing is given up before the anchor is durable
//! Pages, table and anchor are written one after the other, each durable before the next. Until the anchor is, the checkpoint
//! before is whole, and the log from its beginning on. Only then are Raft logs cut, and segments given up that had nothing alive
//! at T: what died later may be named by the pages at T.
//!
//! # How often
//! Where writes are spread over the volumes, a checkpoint writes nearly all pages again, however little of the log is behind it.
//! So each is put off until it frees more segments than writers still have: at least half of what collection keeps free, and
//! the fewer the closer they are to waiting.
//!
//! # A replica that is dropped meanwhile, or given another's state,
//! takes its leaves with it. The checkpoint is given up, and begun anew.
//!
//! # A state that is being received
//! is not part of a checkpoint: the log from the record on that began it is kept, and recovery reads it again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use cairn_api::ids::{GroupId, ReplicaId};
use cairn_api::units::BLOCK_BYTES;
use cairn_format::anchor::{Anchor, CheckpointPlace, LogBeginning, TablePlace};
use cairn_format::chunk::{self, CHUNK_HEAD_BYTES, ChunkInfo, ChunkKind, chunk_blocks};
use cairn_format::page::LeafKey;
use cairn_format::segment::HeadKind;
use cairn_format::table::{LeafPlace, PagePlace, Table};

use super::head::Head;
use super::segments::Role;
use crate::config::{needed_segments, reserve_segments};
use crate::event::{Effect, IoId};
use crate::group::Group;
use crate::map::Owner;
use crate::mutation::mutated;
use crate::shared::Shared;

/// The longest body of a chunk: a write of a quarter of a MiB is not felt by who writes beside it.
const BODY_BYTES_MAX: usize = (256 << 10) - CHUNK_HEAD_BYTES;
/// An index segment of whose bytes less than one in so many is used is emptied by the next checkpoint.
const SPARSE_PART: u64 = 4;
/// The shortest time between checkpoints that free nothing, in segments of the log.
const PAUSE_SEGMENTS: u64 = 1;

/// What is being written.
enum Stage {
    Pages,
    Table { body: Bytes, at: usize },
    Anchor,
}

/// A checkpoint under way.
struct Under {
    generation: u64,
    begins: LogBeginning,
    table: Table,
    /// Places in the table's leaves whose pages are not written yet.
    pending: VecDeque<usize>,
    /// Segments that had nothing alive at T; with those of the index that only older checkpoints use, once all pages are written.
    unused: BTreeSet<u32>,
    /// Segments that were free at T.
    free: BTreeSet<u32>,
    stage: Stage,
    /// The last chunk of the table: its block and length.
    previous: (u64, u32),
    /// All chunks of the table.
    chunks: Vec<(u64, u32)>,
    /// The write under way.
    io: Option<IoId>,
    /// Pages and bytes that it wrote.
    pages: u64,
    bytes: u64,
}

/// What a checkpoint came to, for those who count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CheckpointReport {
    /// Its generation: how many there were.
    pub generation: u64,
    /// Leaf pages that it wrote.
    pub pages: u64,
    /// Bytes of pages and table that it wrote.
    pub bytes: u64,
    /// Segments that it freed.
    pub segments_freed: u64,
}

/// The checkpoints of one disk.
pub(crate) struct Checkpoints {
    /// Of the last one.
    generation: u64,
    /// Where the table of the last one is.
    chunks: Vec<(u64, u32)>,
    head: Head,
    under: Option<Under>,
    /// The anchor of a checkpoint that was given up while it was being written.
    stray_anchor: Option<IoId>,
    /// The log's window was so long when the last one was begun, in segments ever begun.
    begun_at: u64,
    is_wanted: bool,
}

/// The groups of the disk, and the numbers under which others were dropped.
pub(crate) struct Replicas<'a> {
    pub(crate) groups: &'a mut BTreeMap<GroupId, Group>,
    pub(crate) dropped: &'a BTreeMap<GroupId, ReplicaId>,
}

impl Checkpoints {
    /// Checkpoints that go on behind the one that recovery began at.
    pub(crate) const fn new(generation: u64, chunks: Vec<(u64, u32)>) -> Self {
        Self {
            generation,
            chunks,
            head: Head::new(HeadKind::Index),
            under: None,
            stray_anchor: None,
            begun_at: 0,
            is_wanted: false,
        }
    }

    /// The index goes on behind what recovery knows to be used.
    pub(crate) fn go_on_in(&mut self, segment: u32, epoch: u64, next_block: u64) {
        self.head.go_on_in(segment, epoch, next_block);
    }

    /// Somebody asks for one.
    pub(crate) const fn ask(&mut self) {
        self.is_wanted = true;
    }

    /// A replica is dropped: what is under way would name its leaves.
    pub(crate) fn abandon(&mut self, shared: &mut Shared, groups: &mut BTreeMap<GroupId, Group>) {
        if let Some(under) = self.under.take() {
            shared.stray_writes.extend(under.io);
            if matches!(under.stage, Stage::Anchor) {
                // It may become durable all the same, and is whole then. The next one takes the other place, and waits.
                self.generation = under.generation;
                self.stray_anchor = under.io;
            }
            for group in groups.values_mut() {
                group.map_mut().abandon_checkpoint();
            }
            self.is_wanted = true;
        }
    }

    /// Begins what is due, and goes on with what is under way.
    pub(crate) fn step(&mut self, shared: &mut Shared, replicas: &mut Replicas<'_>) {
        if std::mem::take(&mut shared.is_checkpoint_void) {
            self.abandon(shared, replicas.groups);
        }
        if self.under.is_none() && self.is_due(shared) {
            self.begin(shared, replicas);
        }
        if self.under.as_ref().is_some_and(|under| under.io.is_none()) {
            self.write(shared, replicas.groups);
        }
    }

    fn is_due(&self, shared: &Shared) -> bool {
        let is_blocked = self.stray_anchor.is_some_and(|io| shared.stray_writes.contains(&io));
        if !shared.log.is_open() || is_blocked {
            return false;
        }
        let window_max = shared.config.limits.space.window_segments_max(&shared.config.geometry);
        let window = shared.log.window_len();
        let is_pausing = shared.log.segments_begun() < self.begun_at + PAUSE_SEGMENTS;
        if self.is_wanted || shared.wants_checkpoint || (window > window_max && !is_pausing) {
            return true;
        }
        let geometry = &shared.config.geometry;
        let free = shared.log.free_segments_count();
        if free > shared.config.limits.space.free_segments_low(geometry) {
            return false;
        }
        let beyond = free.saturating_sub(needed_segments(geometry));
        if shared.segments.without_life_count() > beyond && self.lifeless(shared).len() > beyond {
            return true;
        }
        // Cutting the log frees nothing at once: it makes more segments that may be emptied.
        beyond == 0 && window > 2 && !is_pausing
    }

    /// The moment T.
    fn begin(&mut self, shared: &mut Shared, replicas: &mut Replicas<'_>) {
        let Some((ordinal, begins)) = choose_beginning(shared, replicas.groups) else {
            return;
        };
        (self.is_wanted, shared.wants_checkpoint) = (false, false);
        self.begun_at = shared.log.segments_begun();
        let log = &shared.log;
        let is_before = |offset: u64| log.ordinal(offset).is_none_or(|found| found < ordinal);
        let mut table = Table {
            next_sequence: log.next_sequence(),
            dropped: replicas
                .dropped
                .iter()
                .map(|(group, replica)| (*group, *replica))
                .collect(),
            ..Table::default()
        };
        let mut pending = VecDeque::new();
        let sparse = self.sparse(shared, replicas.groups);
        let geometry = shared.config.geometry;
        let is_sparse = |page: PagePlace| {
            let segment = geometry.segment_of(page.block * BLOCK_BYTES);
            segment.is_some_and(|segment| sparse.contains(&segment))
        };
        for (number, group) in replicas.groups.iter_mut() {
            table.groups.push(group.to_table(is_before));
            for (owner, leaf, page) in group.map_mut().begin_checkpoint(is_sparse) {
                let key = LeafKey {
                    group: *number,
                    owner: owner_number(owner),
                    leaf,
                };
                if page.is_none() {
                    pending.push_back(table.leaves.len());
                }
                let page = page.unwrap_or(PagePlace {
                    block: 0,
                    at: 0,
                    bytes: 0,
                    crc: 0,
                });
                table.leaves.push(LeafPlace { key, page });
            }
        }
        let mut unused: BTreeSet<u32> = self.lifeless(shared).into_iter().collect();
        let pages = pending.len() as u64;
        let mut free: BTreeSet<u32> = shared.log.free_segments().collect();
        // What waits for its last readers has been given up before.
        free.extend(shared.segments.of_role(|role| matches!(role, Role::Dead(_))));
        if mutated!(shared.seeded, FreedBeforeDurable) {
            free.extend(&unused);
            std::mem::take(&mut unused)
                .into_iter()
                .for_each(|segment| shared.bury(segment));
        }
        self.under = Some(Under {
            generation: self.generation + 1,
            begins,
            table,
            pending,
            unused,
            free,
            stage: Stage::Pages,
            previous: (0, 0),
            chunks: Vec::new(),
            io: None,
            pages,
            bytes: 0,
        });
    }

    /// The index segments of which so little is still used that the pages in them are written anew.
    fn sparse(&self, shared: &Shared, groups: &BTreeMap<GroupId, Group>) -> BTreeSet<u32> {
        let geometry = shared.config.geometry;
        let mut used: BTreeMap<u32, u64> = BTreeMap::new();
        for page in groups.values().flat_map(|group| group.map().pages()) {
            if let Some(segment) = geometry.segment_of(page.block * BLOCK_BYTES) {
                *used.entry(segment).or_default() += u64::from(page.bytes);
            }
        }
        let is_sparse = |(segment, bytes): (u32, u64)| {
            let is_head = self.head.segment() == Some(segment);
            (!is_head && bytes < geometry.segment_size / SPARSE_PART).then_some(segment)
        };
        used.into_iter().filter_map(is_sparse).collect()
    }

    /// The segments that nothing durable will name when this checkpoint is durable, those of the index aside: they hold the
    /// checkpoint before.
    fn lifeless(&self, shared: &Shared) -> Vec<u32> {
        let cold = shared.cold_segment;
        let lifeless = shared.segments.without_life().into_iter();
        lifeless.filter(|segment| Some(*segment) != cold).collect()
    }

    fn write(&mut self, shared: &mut Shared, groups: &mut BTreeMap<GroupId, Group>) {
        let Some(under) = &mut self.under else { return };
        if matches!(under.stage, Stage::Pages) {
            if under.pending.is_empty() {
                under
                    .unused
                    .extend(unused_index(shared, &under.table, self.head.segment()));
                under.table.free = ranges(under.free.union(&under.unused).copied());
                let body = under.table.encode();
                under.stage = Stage::Table { body, at: 0 };
            } else {
                return self.write_pages(shared, groups);
            }
        }
        if let Stage::Table { body, at } = &under.stage {
            if *at < body.len() {
                let end = body.len().min(at + BODY_BYTES_MAX);
                let piece = body.slice(*at..end);
                return self.write_table(shared, &piece, end);
            }
            under.stage = Stage::Anchor;
            self.write_anchor(shared);
        }
    }

    fn write_pages(&mut self, shared: &mut Shared, groups: &mut BTreeMap<GroupId, Group>) {
        let Some(under) = &mut self.under else { return };
        // The place is taken before the pages are: what was taken from a map must be written.
        let Some(mut place) = self
            .head
            .place(chunk_blocks(BODY_BYTES_MAX), &mut shared.log, &mut shared.segments)
        else {
            return;
        };
        let mut body = BytesMut::with_capacity(BODY_BYTES_MAX);
        let mut page = BytesMut::new();
        while let Some(leaf) = under.pending.front().copied() {
            let key = under.table.leaves[leaf].key;
            page.clear();
            let Some(group) = groups.get_mut(&key.group) else { break };
            let crc = group.map_mut().encode_page(key, &mut page);
            if body.len() + page.len() > BODY_BYTES_MAX {
                break;
            }
            under.pending.pop_front();
            group.map_mut().page_encoded(key);
            let at = (CHUNK_HEAD_BYTES + body.len()) as u64;
            #[allow(
                clippy::cast_possible_truncation,
                reason = "below 4,096, and pages of at most 12 KiB"
            )]
            let page_place = PagePlace {
                block: place.block + at / BLOCK_BYTES,
                at: (at % BLOCK_BYTES) as u16,
                bytes: page.len() as u16,
                crc,
            };
            under.table.leaves[leaf].page = page_place;
            body.extend_from_slice(&page);
        }
        let blocks = chunk_blocks(body.len());
        under.bytes += u64::from(blocks) * BLOCK_BYTES;
        self.head.give_back(place.block + u64::from(blocks));
        let header = place.header.take();
        let info = ChunkInfo {
            disk: shared.config.disk,
            block: place.block,
            epoch: place.epoch,
            kind: ChunkKind::Pages,
            generation: under.generation,
            previous_block: 0,
            previous_blocks: 0,
        };
        let chunk = chunk::encode(&info, &body);
        under.io = Some(write(shared, place.block, header, chunk));
    }

    fn write_table(&mut self, shared: &mut Shared, piece: &Bytes, end: usize) {
        let Some(under) = &mut self.under else { return };
        let blocks = chunk_blocks(piece.len());
        let Some(place) = self.head.place(blocks, &mut shared.log, &mut shared.segments) else {
            return;
        };
        let info = ChunkInfo {
            disk: shared.config.disk,
            block: place.block,
            epoch: place.epoch,
            kind: ChunkKind::Table,
            generation: under.generation,
            previous_block: under.previous.0,
            previous_blocks: under.previous.1,
        };
        under.bytes += u64::from(blocks) * BLOCK_BYTES;
        under.previous = (place.block, blocks);
        under.chunks.push(under.previous);
        if let Stage::Table { at, .. } = &mut under.stage {
            *at = end;
        }
        let chunk = chunk::encode(&info, piece);
        under.io = Some(write(shared, place.block, place.header, chunk));
    }

    #[allow(clippy::cast_possible_truncation, reason = "a table of fewer than 2^32 chunks")]
    fn write_anchor(&mut self, shared: &mut Shared) {
        let Some(under) = &mut self.under else { return };
        let anchor = Anchor {
            disk: shared.config.disk,
            generation: under.generation,
            checkpoint: Some(CheckpointPlace {
                begins: under.begins,
                table: TablePlace {
                    block: under.previous.0,
                    blocks: under.previous.1,
                    chunks: under.chunks.len() as u32,
                },
            }),
        };
        let io = shared.io.next();
        shared.effects.push(Effect::Write {
            io,
            offset: anchor.offset(),
            buffers: vec![anchor.encode()],
        });
        under.io = Some(io);
    }

    /// A write has ended well. Says whether it was one of a checkpoint.
    pub(crate) fn written(&mut self, shared: &mut Shared, replicas: &mut Replicas<'_>, io: IoId) -> bool {
        if shared.stray_writes.remove(&io) {
            return true;
        }
        let Some(under) = self.under.as_mut().filter(|under| under.io == Some(io)) else {
            return false;
        };
        under.io = None;
        if matches!(under.stage, Stage::Anchor)
            && let Some(under) = self.under.take()
        {
            self.install(shared, replicas, under);
        }
        true
    }

    /// The checkpoint is durable: what only the one before named may go.
    fn install(&mut self, shared: &mut Shared, replicas: &mut Replicas<'_>, under: Under) {
        self.generation = under.generation;
        let cut = shared.log.begin_at(under.begins);
        let sequence = shared.log.next_sequence();
        shared.segments.cut_off(&cut, sequence);
        for group in &under.table.groups {
            if let Some(present) = replicas.groups.get_mut(&group.group) {
                present.count_kept(shared, group.begins_behind.0.get());
                present.cut_log(group.begins_behind.0.get());
            }
        }
        for leaf in &under.table.leaves {
            if let Some(group) = replicas.groups.get_mut(&leaf.key.group) {
                group.map_mut().set_page(leaf.key, leaf.page);
            }
        }
        self.chunks = under.chunks;
        for segment in &under.unused {
            shared.bury(*segment);
        }
        let report = CheckpointReport {
            generation: self.generation,
            pages: under.pages,
            bytes: under.bytes,
            segments_freed: under.unused.len() as u64,
        };
        shared.effects.push(Effect::Checkpointed(report));
    }
}

/// The start of the segment at which the log may begin once the state as it is now is durable.
fn choose_beginning(shared: &Shared, groups: &BTreeMap<GroupId, Group>) -> Option<(usize, LogBeginning)> {
    let log = &shared.log;
    let geometry = &shared.config.geometry;
    let is_pressing = log.free_segments_count() <= reserve_segments(geometry) + 1;
    let kept = if is_pressing {
        1
    } else {
        shared.config.limits.space.window_segments_kept(geometry)
    };
    let latest = log.window_len().saturating_sub(1 + kept);
    let needed = groups
        .values()
        .filter_map(|group| group.oldest_frame_needed(!is_pressing));
    let oldest = needed
        .map(|offset| log.ordinal(offset).unwrap_or(0))
        .fold(latest, usize::min);
    let staging = groups.values().filter_map(Group::staging_since);
    let oldest = staging
        .map(|sequence| log.ordinal_of(sequence))
        .fold(oldest, usize::min);
    (0..=oldest)
        .rev()
        .find_map(|ordinal| Some((ordinal, log.beginning(ordinal)?)))
}

/// The segments of the index in which only older checkpoints have anything, once all pages of this one are written: its table
/// goes on in the head's segment, and in free ones.
fn unused_index(shared: &Shared, table: &Table, head: Option<u32>) -> BTreeSet<u32> {
    let geometry = shared.config.geometry;
    let leaves = table.leaves.iter();
    let used: BTreeSet<u32> = leaves
        .filter_map(|leaf| geometry.segment_of(leaf.page.block * BLOCK_BYTES))
        .chain(head)
        .collect();
    let index = shared.segments.of_role(|role| role == Role::Index);
    index.filter(|segment| !used.contains(segment)).collect()
}

fn write(shared: &mut Shared, block: u64, header: Option<Bytes>, chunk: Bytes) -> IoId {
    let io = shared.io.next();
    let (offset, buffers) = match header {
        Some(header) => ((block - 1) * BLOCK_BYTES, vec![header, chunk]),
        None => (block * BLOCK_BYTES, vec![chunk]),
    };
    shared.effects.push(Effect::Write { io, offset, buffers });
    io
}

pub(crate) const fn owner_number(owner: Owner) -> u64 {
    match owner {
        Owner::Head => 0,
        Owner::Delta(at) => at,
    }
}

/// Rising numbers as ranges: the first, and how many.
fn ranges(numbers: impl Iterator<Item = u32>) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((first, count)) if *first + *count == number => *count += 1,
            _ => ranges.push((number, 1)),
        }
    }
    ranges
}
