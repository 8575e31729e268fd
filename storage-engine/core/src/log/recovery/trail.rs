//! What the walk leaves behind: where it is, which segments it came through, and the last frames, which nothing vouches
//! for yet.

use std::collections::VecDeque;

use bytes::Bytes;
use cairn_api::ids::{DiskId, GroupId, LogIndex, ReplicaId, Term};
use cairn_api::units::BLOCK_BYTES;
use cairn_format::anchor::LogBeginning;
use cairn_format::entry::BlockCrcs;
use cairn_format::frame::{Frame, FrameRecord, genesis_chain};
use cairn_format::segment::SegmentHeader;
use cairn_format::superblock::Geometry;

use super::walk::End;
use super::{LogStart, LogSummary, RecoveredRecord, RecoverySink, Row, Rows};
use crate::event::{Base, GroupSpec, Member};
use crate::log::parse::PayloadPlace;
use crate::log::{OpenSegment, Placed};

/// Where the next frame is expected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    /// The segment and the place in it; `None` before the first segment.
    pub(super) open: Option<OpenSegment>,
    pub(super) sequence: u64,
    pub(super) chain: u64,
    /// The opening of the log that the frame before belongs to.
    pub(super) incarnation: u64,
    /// How many segments of the path lead here.
    pub(super) path_length: usize,
}

/// A frame that nothing vouches for yet.
pub(super) struct Unvouched {
    /// Where it is.
    pub(super) at: Position,
    records: Vec<RecoveredRecord>,
}

impl Unvouched {
    /// Every block of its payload on the disk, with its checksum, in order.
    pub(super) fn payload(&self) -> VecDeque<(u64, u32)> {
        let mut blocks = VecDeque::new();
        for record in &self.records {
            match record {
                RecoveredRecord::Entry { placed, header } => {
                    if let Ok(crcs) = BlockCrcs::of_header(header) {
                        blocks.extend((placed.payload_block..).zip(crcs.iter()));
                    }
                }
                RecoveredRecord::StageBlocks {
                    portion, payload_block, ..
                } => blocks.extend((*payload_block..).zip(portion.crcs())),
                _ => {}
            }
        }
        blocks
    }
}

/// A place that the disk cannot read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Unreadable {
    /// In bytes from the start of the disk.
    pub(super) offset: u64,
    /// The words of the disk's error.
    pub(super) words: String,
}

pub(super) struct Trail {
    pub(super) at: Position,
    /// The segments that hold the log, in order.
    pub(super) path: Vec<u32>,
    /// The same, as the log's writer and an anchor name them.
    pub(super) window: Vec<LogBeginning>,
    /// In the order of their sequences; all after `durable`.
    pub(super) unvouched: VecDeque<Unvouched>,
    /// Every frame up to here is vouched for.
    durable: u64,
    /// The latest opening of the log seen in any frame, those beyond the end included.
    pub(super) incarnation_max: u64,
    /// What could not be read, first of all, though the decision needs it.
    pub(super) unreadable: Option<Unreadable>,
    pub(super) summary: LogSummary,
    /// The rows of the decision table that were met.
    pub(super) rows: Rows,
}

impl Trail {
    /// In front of the first frame. What stands before the beginning that an anchor names was durable before the anchor
    /// was written.
    pub(super) fn new(disk: DiskId, start: &LogStart, geometry: &Geometry) -> Self {
        let window: Vec<LogBeginning> = start.begins.into_iter().collect();
        let path: Vec<u32> = window.iter().map(|begins| begins.segment).collect();
        let open = start.begins.map(|begins| OpenSegment {
            segment: begins.segment,
            epoch: begins.epoch,
            cursor: geometry.segment_offset(begins.segment) + BLOCK_BYTES,
        });
        let at = Position {
            open,
            sequence: start.begins.map_or(1, |begins| begins.sequence),
            chain: start
                .begins
                .map_or_else(|| genesis_chain(disk), |begins| begins.chain_before),
            incarnation: start.begins.map_or(0, |begins| begins.incarnation),
            path_length: path.len(),
        };
        Self {
            at,
            path,
            window,
            unvouched: VecDeque::new(),
            durable: at.sequence - 1,
            incarnation_max: at.incarnation,
            unreadable: None,
            summary: LogSummary::default(),
            rows: Rows::none(),
        }
    }

    /// The log goes on in this segment, whose first frame is at `cursor`.
    pub(super) fn enter(&mut self, header: &SegmentHeader, cursor: u64) {
        assert_eq!(
            (header.first_sequence, header.chain_before),
            (self.at.sequence, self.at.chain),
            "it continues here"
        );
        self.path.push(header.segment);
        self.window.push(LogBeginning {
            segment: header.segment,
            epoch: header.epoch,
            incarnation: header.incarnation,
            sequence: header.first_sequence,
            chain_before: header.chain_before,
        });
        self.at.open = Some(OpenSegment {
            segment: header.segment,
            epoch: header.epoch,
            cursor,
        });
        self.at.incarnation = self.at.incarnation.max(header.incarnation);
        self.at.path_length = self.path.len();
        self.saw(header.incarnation);
    }

    /// The frame at the current position stands, as far as its header goes.
    pub(super) fn accept(&mut self, frame: Frame, sink: &mut impl RecoverySink) {
        let at = self.at;
        let length = (u64::from(frame.header_blocks) + u64::from(frame.info.payload_blocks)) * BLOCK_BYTES;
        if let Some(open) = &mut self.at.open {
            open.cursor += length;
        }
        self.at.sequence += 1;
        self.at.chain = frame.chain;
        self.at.incarnation = frame.info.incarnation;
        self.saw(frame.info.incarnation);
        self.durable = self.durable.max(frame.info.durable_upto);
        self.unvouched.push_back(Unvouched {
            at,
            records: recovered(frame),
        });
        while self
            .unvouched
            .front()
            .is_some_and(|frame| frame.at.sequence <= self.durable)
        {
            let Some(frame) = self.unvouched.pop_front() else { break };
            self.rows.insert(Row::Whole);
            self.deliver(frame, sink);
        }
    }

    /// Cuts the log in front of the unvouched frame `place`.
    pub(super) fn cut(&mut self, place: usize) {
        let Some(frame) = self.unvouched.get(place) else { return };
        self.at = frame.at;
        self.path.truncate(self.at.path_length);
        self.window.truncate(self.at.path_length);
        self.unvouched.truncate(place);
    }

    /// What is left stands: hands it over.
    pub(super) fn deliver_all(&mut self, sink: &mut impl RecoverySink) {
        while let Some(frame) = self.unvouched.pop_front() {
            self.rows.insert(Row::WholeUnvouched);
            self.deliver(frame, sink);
        }
        self.summary.segments = u32::try_from(self.path.len()).unwrap_or(u32::MAX);
    }

    /// The log ends so: if the disk cannot read what is there, the decision needs it all the same.
    pub(super) fn ends(&mut self, end: &End) {
        if let End::Unreadable(unreadable) = end {
            self.cannot_read(unreadable);
        }
    }

    /// The decision needs what is here, and the disk cannot read it.
    pub(super) fn cannot_read(&mut self, unreadable: &Unreadable) {
        self.unreadable.get_or_insert_with(|| unreadable.clone());
    }

    pub(super) fn saw(&mut self, incarnation: u64) {
        self.incarnation_max = self.incarnation_max.max(incarnation);
    }

    fn deliver(&mut self, frame: Unvouched, sink: &mut impl RecoverySink) {
        self.summary.frames += 1;
        for record in frame.records {
            self.summary.entries += u64::from(matches!(record, RecoveredRecord::Entry { .. }));
            sink.record(record);
        }
    }
}

fn recovered(frame: Frame) -> Vec<RecoveredRecord> {
    let place = PayloadPlace::of(&frame);
    let (frame_offset, sequence) = (frame.info.block * BLOCK_BYTES, frame.info.sequence);
    frame
        .records
        .into_iter()
        .map(|record| recovered_record(record, place, (frame_offset, sequence)))
        .collect()
}

fn recovered_entry(placed: Placed, header: Bytes) -> RecoveredRecord {
    // An empty slice would keep the frame's bytes.
    let header = if header.is_empty() { Bytes::new() } else { header };
    RecoveredRecord::Entry { placed, header }
}

fn recovered_group(
    (group, size_blocks, base): (GroupId, u64, Option<Base>),
    members: Vec<Member>,
    replica: ReplicaId,
    (index, term): (LogIndex, Term),
    sequence: u64,
) -> RecoveredRecord {
    let spec = GroupSpec {
        group,
        size_blocks,
        base,
        members,
    };
    RecoveredRecord::GroupCreated {
        spec,
        replica,
        index,
        term,
        sequence,
    }
}

fn recovered_record(record: FrameRecord, place: PayloadPlace, (frame_offset, sequence): (u64, u64)) -> RecoveredRecord {
    match record {
        FrameRecord::Entry {
            group,
            term,
            index,
            payload_offset,
            header,
        } => {
            let payload_block = place.block(&header, payload_offset);
            let placed = Placed {
                group,
                term,
                index,
                payload_block,
                frame_offset,
            };
            recovered_entry(placed, header)
        }
        FrameRecord::HardState {
            group,
            term,
            vote,
            commit,
        } => RecoveredRecord::HardState {
            group,
            term,
            vote,
            commit,
        },
        FrameRecord::GroupCreated {
            group,
            size_blocks,
            base,
            members,
            replica,
            index,
            term,
        } => recovered_group((group, size_blocks, base), members, replica, (index, term), sequence),
        FrameRecord::GroupDropped { group } => RecoveredRecord::GroupDropped(group),
        FrameRecord::StageBegin {
            group,
            mark,
            term,
            have,
        } => RecoveredRecord::StageBegin {
            group,
            mark,
            term,
            have,
        },
        FrameRecord::StageBlocks {
            group,
            payload_offset,
            portion,
        } => RecoveredRecord::StageBlocks {
            group,
            payload_block: place.block_of(portion.data_blocks(), payload_offset),
            portion,
        },
        FrameRecord::StageDone { group, state } => RecoveredRecord::StageDone { group, state },
        FrameRecord::Moved { group, runs } => RecoveredRecord::Moved { group, runs, sequence },
    }
}
