//! The writer: queue ([`crate::fair`]: groups take turns), batches, the window of frames under way, the order of durability.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use bytes::Bytes;
use cairn_api::ids::{DiskId, GroupId};
use cairn_api::units::BLOCK_BYTES;
use cairn_format::anchor::LogBeginning;
use cairn_format::entry::BlockCrcs;
use cairn_format::frame::{
    self, FrameInfo, FrameRecord, HEADER_BLOCKS_MAX, PAYLOAD_BLOCKS_MAX, WINDOW_FRAMES_MAX, header_blocks_for,
};
use cairn_format::portion::Portion;
use cairn_format::segment::{HeadKind, SegmentHeader};
use cairn_format::superblock::Geometry;

use super::{
    FRAME_PIECES_MAX, FreeSegments, LogSettings, LogTail, LogWrite, OpenSegment, Placed, PlacedPortion, Record, Ticket,
};
use crate::config::{RECORD_BLOCKS_MAX, promised_blocks, reserve_segments};
use crate::event::IoId;
use crate::fair::FairQueue;
use crate::mutation::{Seeded, mutated};

/// Blocks at the very end of the disk that no record may take: each restart of a full disk needs one for the frame that
/// opens the log, and without it could not even be read.
const OPENING_BLOCKS: u64 = 256;

/// Free segments that only the log itself may take.
const HOT_SEGMENTS_MIN: usize = 1;

/// A record that waits, ready to be encoded.
#[derive(Debug)]
struct Queued {
    ticket: Ticket,
    record: FrameRecord,
    payload: Bytes,
}

impl Queued {
    fn payload_blocks(&self) -> u32 {
        u32::try_from(self.payload.len() as u64 / BLOCK_BYTES).unwrap_or(u32::MAX)
    }

    fn bytes(&self) -> u64 {
        (self.record.encoded_len() + self.payload.len()) as u64
    }

    const fn group(&self) -> GroupId {
        match &self.record {
            FrameRecord::Entry { group, .. }
            | FrameRecord::HardState { group, .. }
            | FrameRecord::GroupCreated { group, .. }
            | FrameRecord::GroupDropped { group }
            | FrameRecord::Moved { group, .. }
            | FrameRecord::StageBegin { group, .. }
            | FrameRecord::StageBlocks { group, .. }
            | FrameRecord::StageDone { group, .. } => *group,
        }
    }
}

/// A frame under way.
#[derive(Debug)]
struct InFlight {
    io: IoId,
    sequence: u64,
    /// What it vouches for.
    durable_upto: u64,
    /// Of each group with a record in it, the last one.
    records: Vec<(GroupId, Ticket)>,
    is_done: bool,
}

/// A frame that no durable frame vouches for yet: its sequence, and the disk's blocks that it takes.
#[derive(Debug)]
struct Unvouched {
    sequence: u64,
    blocks: Range<u64>,
}

/// Appends records to a disk's log; see the module.
#[derive(Debug)]
pub struct LogWriter {
    disk: DiskId,
    geometry: Geometry,
    settings: LogSettings,
    /// The segments that the log is in, from its beginning on; the last is the open one.
    window: VecDeque<LogBeginning>,
    segments_begun: u64,
    open: Option<OpenSegment>,
    free: FreeSegments,
    reserve_segments: usize,
    next_sequence: u64,
    chain: u64,
    incarnation: u64,
    /// Every frame up to here is durable.
    durable_sequence: u64,
    /// The last frame that holds a record: one that a later frame should vouch for.
    vouch_for: u64,
    next_ticket: Ticket,
    queue: FairQueue<Queued>,
    queued_bytes: u64,
    /// Blocks that the queue takes at most: each record's payload and a frame header of its own.
    queued_blocks: u64,
    in_flight: VecDeque<InFlight>,
    /// In order. What recovery found is not here: the frame that opens the log vouches for all of it.
    unvouched: VecDeque<Unvouched>,
    wants_frame: bool,
    is_open: bool,
    seeded: Seeded,
}

impl LogWriter {
    /// A writer with the default settings. Its first frame opens the log: see [`Self::is_open`].
    pub fn new(disk: DiskId, geometry: Geometry, tail: LogTail) -> Self {
        Self::with_settings(disk, geometry, tail, LogSettings::default())
    }

    /// A writer with settings of one's own.
    ///
    /// # Panics
    /// If a setting is outside its bounds.
    pub fn with_settings(disk: DiskId, geometry: Geometry, tail: LogTail, settings: LogSettings) -> Self {
        assert!(
            (1..=WINDOW_FRAMES_MAX).contains(&(settings.frames_in_flight_max as u64)),
            "1 to 64 frames in flight"
        );
        assert!(
            (1..=PAYLOAD_BLOCKS_MAX).contains(&settings.frame_payload_blocks_max),
            "1 to 1,024 blocks a frame"
        );
        Self {
            disk,
            geometry,
            settings,
            window: tail.window.into(),
            segments_begun: 0,
            open: tail.open,
            free: tail.free,
            reserve_segments: reserve_segments(&geometry),
            next_sequence: tail.next_sequence,
            chain: tail.chain,
            incarnation: tail.incarnation,
            durable_sequence: tail.next_sequence - 1,
            vouch_for: tail.next_sequence - 1,
            next_ticket: Ticket(1),
            queue: FairQueue::new(!settings.is_fair),
            queued_bytes: 0,
            queued_blocks: 0,
            in_flight: VecDeque::new(),
            unvouched: VecDeque::new(),
            wants_frame: true,
            is_open: false,
            seeded: Seeded::default(),
        }
    }

    /// The same with a seeded fault, if there is one.
    pub(crate) const fn seeded(mut self, seeded: Seeded) -> Self {
        self.seeded = seeded;
        self
    }

    /// Queues a record; it goes out with one of the next frames.
    ///
    /// # Panics
    /// If the payload is not as long as the header says: such an entry could never be read back.
    pub fn push(&mut self, record: Record) -> Ticket {
        let (record, payload) = to_frame_record(record);
        let ticket = self.next_ticket;
        self.next_ticket = Ticket(ticket.0 + 1);
        let queued = Queued {
            ticket,
            record,
            payload,
        };
        self.queued_bytes += queued.bytes();
        self.queued_blocks += u64::from(queued.payload_blocks()) + 1;
        let (group, bytes, has_payload) = (queued.group(), queued.bytes(), !queued.payload.is_empty());
        self.queue.push(group, queued, bytes, has_payload);
        ticket
    }

    /// Whether there is something that [`Self::compose`] would write once the window allows.
    pub fn has_queued(&self) -> bool {
        !self.queue.is_empty() || self.wants_frame
    }

    /// Bytes of headers and payload that wait for a frame.
    pub const fn queued_bytes(&self) -> u64 {
        self.queued_bytes
    }

    /// The same, of one group.
    pub fn queued_bytes_of(&self, group: GroupId) -> u64 {
        self.queue.bytes_of(group)
    }

    /// Frames under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether the frame that opens the log is durable. Until then nothing that recovery found may be relied on by
    /// others: it was read, but a power failure could still take it away.
    pub const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Composes frames as far as the window and the disk's space allow.
    pub fn compose(&mut self, io_ids: &mut impl FnMut() -> IoId, out: &mut Vec<LogWrite>) {
        while self.has_queued() && self.in_flight.len() < self.settings.frames_in_flight_max {
            let Some(write) = self.compose_frame(io_ids) else {
                return;
            };
            out.push(write);
        }
    }

    /// A write has ended well. Gives, if more is durable than before, of each group with a record in that the last one: all
    /// records of the group up to it are durable. None at all in the frame that opens the log, or in one that only vouches.
    pub fn completed(&mut self, io: IoId) -> Option<Vec<(GroupId, Ticket)>> {
        let frame = self.in_flight.iter_mut().find(|frame| frame.io == io)?;
        frame.is_done = true;
        let mut durable = mutated!(self.seeded, FramesOutOfOrder).then(|| frame.records.clone());
        while self.in_flight.front().is_some_and(|frame| frame.is_done) {
            let Some(frame) = self.in_flight.pop_front() else { break };
            assert_eq!(
                frame.sequence,
                self.durable_sequence + 1,
                "frames become durable in order"
            );
            self.durable_sequence = frame.sequence;
            self.is_open = true;
            while self
                .unvouched
                .front()
                .is_some_and(|unvouched| unvouched.sequence <= frame.durable_upto)
            {
                self.unvouched.pop_front();
            }
            durable.get_or_insert_default().extend(frame.records);
        }
        durable
    }

    /// Asks for a frame without records, if the last records are durable but no later frame says so.
    ///
    /// Damage to a frame that nothing vouches for looks like a torn write. A core that has been idle for a moment calls
    /// this, so that only damage during that moment can be mistaken.
    pub fn vouch(&mut self) {
        let is_idle = self.queue.is_empty() && self.in_flight.is_empty() && !self.is_exhausted();
        self.wants_frame |= is_idle && self.vouch_for == self.durable_sequence;
    }

    /// Whether a durable frame vouches for the one that the disk's block belongs to, so that recovery does not read its
    /// payload. True of no block before the log is open.
    pub fn is_vouched(&self, block: u64) -> bool {
        self.is_open && !self.unvouched.iter().any(|frame| frame.blocks.contains(&block))
    }

    /// Blocks of payload that can still be pushed, whatever frames they end up in; queued ones are already subtracted.
    ///
    /// It is a promise, so it assumes the worst: every block in a frame of its own, every segment left when its last
    /// 1 MiB is not used, and the reserve kept for records without payload.
    pub fn free_blocks(&self) -> u64 {
        self.free_blocks_beyond(self.reserve_segments)
    }

    /// The same for what may take half of the reserve.
    pub fn free_blocks_in_reserve(&self) -> u64 {
        self.free_blocks_beyond(self.reserve_segments / 2)
    }

    fn free_blocks_beyond(&self, reserve: usize) -> u64 {
        let Some(segments) = self.free.len().checked_sub(reserve) else {
            return 0;
        };
        let in_open = self.room_blocks().saturating_sub(RECORD_BLOCKS_MAX);
        let sure = segments as u64 * promised_blocks(&self.geometry) + in_open / 2;
        sure.saturating_sub(self.queued_blocks / 2)
    }

    /// Whether not even the queued records and one more without payload are sure to find room. What is left is kept for
    /// the frames that open the log; if there is nothing left even for them, [`Self::is_open`] never becomes true.
    pub fn is_exhausted(&self) -> bool {
        self.free.is_empty() && self.room_blocks() <= self.queued_blocks + OPENING_BLOCKS
    }

    /// How many segments the log is in, from its beginning on.
    pub fn window_len(&self) -> usize {
        self.window.len()
    }

    /// The place of the frame at `offset` among the segments that the log is in, counted from its beginning; `None` if the
    /// frame stands before it.
    pub fn ordinal(&self, offset: u64) -> Option<usize> {
        let segment = self.geometry.segment_of(offset)?;
        self.window.iter().position(|begins| begins.segment == segment)
    }

    /// The place of the frame of this sequence, or of a later one if it was not composed yet, among the segments that the log
    /// is in.
    pub fn ordinal_of(&self, sequence: u64) -> usize {
        let behind = self.window.partition_point(|begins| begins.sequence <= sequence);
        behind.saturating_sub(1)
    }

    /// The beginning that the log would have if the segments before this place in the window were cut off; `None` if not all
    /// of them are durable, or nothing of this one is.
    pub fn beginning(&self, ordinal: usize) -> Option<LogBeginning> {
        let begins = *self.window.get(ordinal)?;
        (begins.sequence <= self.durable_sequence).then_some(begins)
    }

    /// The log begins here from now on. Gives the segments that are no longer part of it, with their epochs.
    ///
    /// # Panics
    /// If it is no place of the log.
    pub fn begin_at(&mut self, begins: LogBeginning) -> Vec<(u32, u64)> {
        assert!(self.window.contains(&begins), "{begins:?} is no place of the log");
        let count = self.window.iter().take_while(|place| **place != begins).count();
        let cut = self.window.drain(..count);
        cut.map(|place| (place.segment, place.epoch)).collect()
    }

    /// Takes a free segment for what is not part of the log, if one is left beside what the log itself needs. Gives its
    /// number and epoch, and the block of its header.
    pub fn take_segment(&mut self, head: HeadKind) -> Option<(u32, u64, Bytes)> {
        if self.free.len() <= HOT_SEGMENTS_MIN {
            return None;
        }
        let (segment, epoch) = self.free.take_last()?;
        let header = SegmentHeader {
            disk: self.disk,
            segment,
            head,
            epoch,
            incarnation: self.incarnation,
            first_sequence: self.next_sequence,
            chain_before: self.chain,
            durable_upto: self.durable_sequence,
        };
        Some((segment, epoch, header.encode()))
    }

    /// A segment may be begun anew, under this epoch.
    pub fn release(&mut self, segment: u32, epoch: u64) {
        self.free.add(segment, epoch);
    }

    /// How many segments may be begun.
    pub fn free_segments_count(&self) -> usize {
        self.free.len()
    }

    /// How many segments were begun for the log since it was opened.
    pub const fn segments_begun(&self) -> u64 {
        self.segments_begun
    }

    /// The sequence of the next frame.
    pub const fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// The segments that may be begun.
    pub fn free_segments(&self) -> impl Iterator<Item = u32> + '_ {
        self.free.numbers()
    }

    /// Bytes from `offset` to the end of its segment: what a read of a frame's header must not pass.
    pub fn bytes_to_segment_end(&self, offset: u64) -> u32 {
        self.geometry.segment_of(offset).map_or(0, |segment| {
            u32::try_from(self.geometry.segment_end(segment) - offset).unwrap_or(u32::MAX)
        })
    }

    /// Blocks left in the open segment.
    fn room_blocks(&self) -> u64 {
        self.open.map_or(0, |open| {
            (self.geometry.segment_end(open.segment) - open.cursor) / BLOCK_BYTES
        })
    }

    fn compose_frame(&mut self, io_ids: &mut impl FnMut() -> IoId) -> Option<LogWrite> {
        let mut begun = None;
        let is_opening = !self.is_open && self.in_flight.is_empty();
        let needed = self.next_blocks();
        let batch = if self.free.is_empty() && self.room_blocks() < needed + OPENING_BLOCKS {
            if !is_opening || self.room_blocks() == 0 {
                return None;
            }
            Vec::new()
        } else {
            if self.room_blocks() < needed {
                begun = Some(self.begin_segment()?);
            }
            self.take_batch()
        };
        let frame_offset = self.open.map(|open| open.cursor)?;
        let offset = if begun.is_some() {
            frame_offset - BLOCK_BYTES
        } else {
            frame_offset
        };
        let mut last_of: BTreeMap<GroupId, Ticket> = BTreeMap::new();
        for queued in &batch {
            last_of.insert(queued.group(), queued.ticket);
        }
        let records: Vec<(GroupId, Ticket)> = last_of.into_iter().collect();
        let mut buffers: Vec<Bytes> = begun.into_iter().collect();
        let (placed, portions) = self.encode_frame(batch, &mut buffers);
        let io = io_ids();
        let sequence = self.next_sequence;
        if !records.is_empty() {
            self.vouch_for = sequence;
        }
        self.in_flight.push_back(InFlight {
            io,
            sequence,
            durable_upto: self.durable_sequence,
            records: records.clone(),
            is_done: false,
        });
        let end = self.open.map_or(0, |open| open.cursor);
        self.unvouched.push_back(Unvouched {
            sequence,
            blocks: frame_offset / BLOCK_BYTES..end / BLOCK_BYTES,
        });
        self.next_sequence += 1;
        self.wants_frame = false;
        Some(LogWrite {
            sequence,
            io,
            offset,
            buffers,
            placed,
            portions,
            records,
        })
    }

    /// Blocks of a frame with the next record, or with none.
    fn next_blocks(&mut self) -> u64 {
        self.queue.peek().map_or(1, |next| {
            u64::from(header_blocks_for(next.record.encoded_len())) + u64::from(next.payload_blocks())
        })
    }

    /// Begins the next free segment; gives the block of its header. `None` if there is no more.
    fn begin_segment(&mut self) -> Option<Bytes> {
        let (segment, epoch) = self.free.take()?;
        let header = SegmentHeader {
            disk: self.disk,
            segment,
            head: HeadKind::Hot,
            epoch,
            incarnation: self.incarnation,
            first_sequence: self.next_sequence,
            chain_before: self.chain,
            durable_upto: self.durable_sequence,
        };
        self.segments_begun += 1;
        self.window.push_back(LogBeginning {
            segment,
            epoch,
            incarnation: self.incarnation,
            sequence: self.next_sequence,
            chain_before: self.chain,
        });
        self.open = Some(OpenSegment {
            segment,
            epoch,
            cursor: self.geometry.segment_offset(segment) + BLOCK_BYTES,
        });
        Some(header.encode())
    }

    /// Takes what fits into one frame from the queue, at least its first record if there is one.
    fn take_batch(&mut self) -> Vec<Queued> {
        let room = self.room_blocks();
        let (mut records_bytes, mut payload_blocks, mut pieces) = (0, 0_u32, 0);
        let mut batch: Vec<Queued> = Vec::new();
        while let Some(queued) = self.queue.peek() {
            let bytes = records_bytes + queued.record.encoded_len();
            let blocks = payload_blocks + queued.payload_blocks();
            let header_blocks = header_blocks_for(bytes);
            let is_first_payload = payload_blocks == 0;
            if header_blocks > HEADER_BLOCKS_MAX
                || (blocks > self.settings.frame_payload_blocks_max && !is_first_payload)
                || pieces == FRAME_PIECES_MAX
                || u64::from(header_blocks) + u64::from(blocks) > room
            {
                break;
            }
            (records_bytes, payload_blocks) = (bytes, blocks);
            pieces += usize::from(!queued.payload.is_empty());
            batch.extend(self.queue.pop());
        }
        assert!(
            !batch.is_empty() || self.queue.is_empty(),
            "a segment has room for any record"
        );
        for queued in &batch {
            self.queued_bytes -= queued.bytes();
            self.queued_blocks -= u64::from(queued.payload_blocks()) + 1;
        }
        batch
    }

    /// Encodes the batch at the cursor of the open segment and moves the cursor behind it.
    fn encode_frame(&mut self, batch: Vec<Queued>, buffers: &mut Vec<Bytes>) -> (Vec<Placed>, Vec<PlacedPortion>) {
        let Some(open) = &mut self.open else {
            return (Vec::new(), Vec::new());
        };
        let header_blocks = header_blocks_for(batch.iter().map(|queued| queued.record.encoded_len()).sum());
        let payload_start = open.cursor / BLOCK_BYTES + u64::from(header_blocks);
        let mut records = Vec::with_capacity(batch.len());
        let mut placed = Vec::with_capacity(batch.len());
        let mut portions = Vec::new();
        let mut payloads = Vec::with_capacity(batch.len());
        let mut payload_blocks = 0;
        for mut queued in batch {
            let blocks = queued.payload_blocks();
            let place = payload_start + u64::from(payload_blocks);
            let (offset, payload_block) = if blocks == 0 { (0, 0) } else { (payload_blocks, place) };
            match &mut queued.record {
                FrameRecord::Entry {
                    group,
                    term,
                    index,
                    payload_offset,
                    ..
                } => {
                    *payload_offset = offset;
                    placed.push(Placed {
                        group: *group,
                        term: *term,
                        index: *index,
                        payload_block,
                        frame_offset: open.cursor,
                    });
                }
                FrameRecord::StageBlocks {
                    group, payload_offset, ..
                } => {
                    *payload_offset = offset;
                    portions.push(PlacedPortion {
                        group: *group,
                        ticket: queued.ticket,
                        payload_block,
                    });
                }
                _ => {}
            }
            payloads.extend((blocks > 0).then_some(queued.payload));
            payload_blocks += blocks;
            records.push(queued.record);
        }
        let info = FrameInfo {
            disk: self.disk,
            block: open.cursor / BLOCK_BYTES,
            segment_epoch: open.epoch,
            incarnation: self.incarnation,
            sequence: self.next_sequence,
            previous_chain: self.chain,
            durable_upto: self.durable_sequence,
            payload_blocks,
        };
        let (header, chain) = frame::encode(&info, &records);
        self.chain = chain;
        open.cursor += (u64::from(header_blocks) + u64::from(payload_blocks)) * BLOCK_BYTES;
        assert!(
            open.cursor <= self.geometry.segment_end(open.segment),
            "a frame never straddles segments"
        );
        buffers.push(header);
        buffers.append(&mut payloads);
        (placed, portions)
    }
}

/// The record in the log's own terms, and its payload. The place of the payload is not known yet.
fn to_frame_record(record: Record) -> (FrameRecord, Bytes) {
    let bare = match record {
        Record::Entry {
            group,
            term,
            index,
            header,
            payload,
        } => {
            check_payload(&header, &payload);
            let payload_offset = 0;
            let entry = FrameRecord::Entry {
                group,
                term,
                index,
                payload_offset,
                header,
            };
            return (entry, payload);
        }
        Record::StageBlocks {
            group,
            portion,
            payload,
        } => return stage_blocks(group, portion, payload),
        Record::HardState {
            group,
            term,
            vote,
            commit,
        } => FrameRecord::HardState {
            group,
            term,
            vote,
            commit,
        },
        Record::GroupCreated {
            spec,
            replica,
            index,
            term,
        } => FrameRecord::GroupCreated {
            group: spec.group,
            size_blocks: spec.size_blocks,
            base: spec.base,
            members: spec.members,
            replica,
            index,
            term,
        },
        Record::GroupDropped(group) => FrameRecord::GroupDropped { group },
        Record::Moved { group, runs } => FrameRecord::Moved { group, runs },
        Record::StageBegin {
            group,
            mark,
            term,
            have,
        } => FrameRecord::StageBegin {
            group,
            mark,
            term,
            have,
        },
        Record::StageDone { group, state } => FrameRecord::StageDone { group, state },
    };
    (bare, Bytes::new())
}

fn check_payload(header: &[u8], payload: &Bytes) {
    let blocks = BlockCrcs::of_header(header).map(|crcs| u64::from(crcs.count()));
    assert_eq!(
        blocks,
        Ok(payload.len() as u64 / BLOCK_BYTES),
        "the payload is what the header says"
    );
    assert!(
        (payload.len() as u64).is_multiple_of(BLOCK_BYTES),
        "a payload of whole blocks"
    );
}

fn stage_blocks(group: GroupId, portion: Portion, payload: Bytes) -> (FrameRecord, Bytes) {
    assert_eq!(
        u64::from(portion.data_blocks()) * BLOCK_BYTES,
        payload.len() as u64,
        "the payload is what the portion says"
    );
    let payload_offset = 0;
    let record = FrameRecord::StageBlocks {
        group,
        payload_offset,
        portion,
    };
    (record, payload)
}
