//! The second phase: frame after frame, until one is missing or bad.

use bytes::Bytes;
use cairn_api::ids::DiskId;
use cairn_api::units::{BLOCK_BYTES, BLOCK_SIZE};
use cairn_format::error::FormatError;
use cairn_format::frame::{self, FRAME_HEADER_BYTES_MAX, Frame};
use cairn_format::segment::SegmentHeader;
use cairn_format::superblock::Geometry;

use super::tail::TailCheck;
use super::trail::{Trail, Unreadable};
use super::{Context, Input, LogStart, Outcome, Phase, READ_BYTES_MAX, RecoverySink, Row, Step};
use crate::log::OpenSegment;

/// Frames at least so long are not worth reading through: only their headers are.
const LONG_FRAME_BYTES: u64 = 256 << 10;

/// What is wrong at the place where the log ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// Nothing of the log: it simply ends here.
    Nothing,
    /// A whole frame that is not the next one, by this row of the table.
    NotNext(Row),
    /// Something of the log, but not whole: which row of the table that is, and a sentence about it.
    Torn(Row, String),
    /// The disk cannot read it.
    Unreadable(Unreadable),
}

impl End {
    /// A frame's header that is not whole.
    fn torn(reason: impl Into<String>) -> Self {
        Self::Torn(Row::TornHeader, reason.into())
    }
}

/// What was found at a place.
enum Found {
    Frame(Frame),
    /// So many bytes from the place on must be read first.
    NotRead(usize),
    End(End),
    Unsupported(FormatError),
}

enum Look {
    Frame(Frame),
    /// The same, against a segment that was given up.
    LaterFrame(Frame),
    Segment(SegmentHeader),
    Read {
        offset: u64,
        length: u32,
    },
    End(End),
    Unsupported {
        offset: u64,
        error: FormatError,
    },
}

pub(super) struct Walk {
    trail: Trail,
    buffer: Bytes,
    buffer_offset: u64,
    last_frame_bytes: u64,
    /// A long read has failed: read only what is needed, to find out what cannot be read.
    is_careful: bool,
    /// A read of only what was needed has failed.
    failed: Option<Unreadable>,
}

impl Walk {
    pub(super) fn new(disk: DiskId, start: &LogStart, geometry: &Geometry) -> Self {
        Self {
            trail: Trail::new(disk, start, geometry),
            buffer: Bytes::new(),
            buffer_offset: 0,
            last_frame_bytes: 0,
            is_careful: false,
            failed: None,
        }
    }

    pub(super) fn step(
        mut self: Box<Self>,
        context: &Context<'_>,
        input: Option<Input>,
        sink: &mut impl RecoverySink,
    ) -> Step {
        if let Some(input) = input {
            self.take(input);
        }
        loop {
            match self.look(context) {
                Look::Frame(frame) => self.accept(frame, sink),
                Look::LaterFrame(frame) => {
                    self.trail.rows.insert(Row::LaterOpening);
                    self.accept(frame, sink);
                }
                Look::Segment(header) => {
                    if self.trail.at.open.is_some() {
                        self.trail.rows.insert(Row::Continued);
                    }
                    let cursor = context.geometry.segment_offset(header.segment) + BLOCK_BYTES;
                    self.trail.enter(&header, cursor);
                    self.is_careful = false;
                }
                Look::Read { offset, length } => {
                    return Step::Read {
                        offset,
                        length,
                        then: Phase::Walk(self),
                    };
                }
                Look::End(end) => return Step::Next(Phase::Tail(Box::new(TailCheck::new(self.trail, end)))),
                Look::Unsupported { offset, error } => {
                    return Step::end(Outcome::Unsupported { offset, error }, self.trail.rows);
                }
            }
        }
    }

    fn take(&mut self, input: Input) {
        match input.result {
            Ok(bytes) => (self.buffer, self.buffer_offset) = (bytes, input.offset),
            Err(words) if self.is_careful => {
                let offset = input.offset;
                self.failed = Some(Unreadable { offset, words });
            }
            Err(_) => self.is_careful = true,
        }
    }

    fn accept(&mut self, frame: Frame, sink: &mut impl RecoverySink) {
        self.last_frame_bytes = (u64::from(frame.header_blocks) + u64::from(frame.info.payload_blocks)) * BLOCK_BYTES;
        self.is_careful = false;
        self.trail.accept(frame, sink);
    }

    /// What comes next in the log. A segment that continues here comes before a frame that stands here: the frame is
    /// then a leftover, unless it belongs to a later opening of the log.
    fn look(&self, context: &Context<'_>) -> Look {
        let at = &self.trail.at;
        let segment = context
            .headers
            .continuing(at.sequence, at.chain, &self.trail.path)
            .filter(|header| header.incarnation >= at.incarnation);
        let Some(open) = at.open else {
            return segment.map_or(Look::End(End::Nothing), Look::Segment);
        };
        match (self.frame_at(context, &open), segment) {
            (Found::NotRead(needed), _) => self.read(context, &open, needed),
            // What cannot be read may be a frame of a later opening than that segment.
            (Found::End(end @ End::Unreadable(_)), _) => Look::End(end),
            (Found::Unsupported(error), _) => Look::Unsupported {
                offset: open.cursor,
                error,
            },
            (Found::Frame(frame), Some(header)) if frame.info.incarnation > header.incarnation => {
                Look::LaterFrame(frame)
            }
            (_, Some(header)) => Look::Segment(header),
            (Found::Frame(frame), None) => Look::Frame(frame),
            (Found::End(end), None) => Look::End(end),
        }
    }

    #[allow(
        clippy::cast_possible_truncation,
        reason = "the lengths are bounded by READ_BYTES_MAX"
    )]
    fn read(&self, context: &Context<'_>, open: &OpenSegment, needed: usize) -> Look {
        let left = context.geometry.segment_end(open.segment) - open.cursor;
        let wanted = if self.is_careful {
            needed as u64
        } else if self.last_frame_bytes >= LONG_FRAME_BYTES {
            FRAME_HEADER_BYTES_MAX as u64
        } else {
            u64::from(READ_BYTES_MAX)
        };
        Look::Read {
            offset: open.cursor,
            length: wanted.min(left) as u32,
        }
    }

    fn frame_at(&self, context: &Context<'_>, open: &OpenSegment) -> Found {
        let left = context.geometry.segment_end(open.segment) - open.cursor;
        if left < BLOCK_BYTES {
            return Found::End(End::Nothing);
        }
        let Some(first_block) = self.buffered(open.cursor, BLOCK_SIZE as usize) else {
            return self.not_read(open.cursor, BLOCK_SIZE as usize);
        };
        let header_bytes = match frame::header_bytes_of(&first_block) {
            Ok(bytes) => bytes,
            Err(FormatError::Magic { .. }) => return Found::End(End::Nothing),
            Err(error) => return Found::End(End::torn(error.to_string())),
        };
        if header_bytes as u64 > left {
            return Found::End(End::torn("its header is longer than what is left of its segment"));
        }
        let Some(bytes) = self.buffered(open.cursor, header_bytes) else {
            return self.not_read(open.cursor, header_bytes);
        };
        // A copy of the header alone: its records must not keep the whole read in memory.
        match frame::decode(&Bytes::copy_from_slice(&bytes)) {
            Ok(frame) => self.judge(context, open, frame, left),
            Err(error) if error.is_newer() => Found::Unsupported(error),
            Err(error) => Found::End(End::torn(error.to_string())),
        }
    }

    /// A valid frame: is it the next one of this log?
    fn judge(&self, context: &Context<'_>, open: &OpenSegment, frame: Frame, left: u64) -> Found {
        let (at, info) = (&self.trail.at, &frame.info);
        if info.disk != context.disk || info.block != open.cursor / BLOCK_BYTES {
            return Found::End(End::NotNext(Row::Stranger));
        }
        let is_next = info.segment_epoch == open.epoch
            && info.sequence == at.sequence
            && info.previous_chain == at.chain
            && info.incarnation >= at.incarnation;
        if !is_next {
            return Found::End(End::NotNext(Row::Leftover));
        }
        let length = (u64::from(frame.header_blocks) + u64::from(info.payload_blocks)) * BLOCK_BYTES;
        if length > left {
            return Found::End(End::torn("it is longer than what is left of its segment"));
        }
        Found::Frame(frame)
    }

    fn buffered(&self, offset: u64, length: usize) -> Option<Bytes> {
        let start = usize::try_from(offset.checked_sub(self.buffer_offset)?).ok()?;
        let end = start.checked_add(length)?;
        (end <= self.buffer.len()).then(|| self.buffer.slice(start..end))
    }

    fn not_read(&self, offset: u64, length: usize) -> Found {
        match &self.failed {
            Some(failed) if failed.offset == offset => Found::End(End::Unreadable(failed.clone())),
            _ => Found::NotRead(length),
        }
    }
}
