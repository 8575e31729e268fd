//! Recovery: reads the log back, hands every record that stands to a sink, and says where the log goes on, or that the
//! disk has lost what it had acknowledged.
//!
//! # What a frame proves
//! A frame carries `durable_upto`: every frame up to that sequence was durable when it was composed. So a valid frame
//! proves more than itself. Frames are composed at most a window ahead of what is durable, so a crash can damage only
//! the last few; anything else that is missing was lost by the disk. **Torn is not corrupt**, and this is how the two
//! are told apart.
//!
//! # The walk
//! Segment headers are read first. Then frames are read in the order of their sequence, each at the place where the one
//! before it ends, or in the segment whose header says that it continues at this sequence and behind this chain value.
//! Payload is skipped where a later frame vouches for it, and read and checked in the last frames, where none does.
//! The walk ends at the first frame `n` that is missing or bad.
//!
//! # The decision
//! In short; `docs/recovery-table.md` has every row by name, and so has [`Row`], by which each recovery says what decided it.
//!
//! | at frame `n` | found elsewhere | decision |
//! |---|---|---|
//! | a valid frame, right disk, place, epoch, sequence and chain | - | it stands; go on |
//! | anything, valid frame or not | a segment header that continues at `n` with the right chain, of the same or a later opening of the log | the segment ended here; go on there |
//! | nothing of ours | nothing | clean end |
//! | bad checksum, cut short, or payload that nobody vouches for and that does not match | nothing, or valid frames beyond `n` that vouch only for frames before `n` | torn tail: cut at `n` |
//! | a valid frame that follows another one (an older use of the place) | as above | clean end: what stands there is of the past |
//! | anything, and it or a place that is searched cannot be read | anything | refused: what cannot be read may be there, so try again |
//! | anything | a valid frame that vouches for `n` | the disk lost acknowledged data: stop |
//! | anything | a segment header that vouches for `n` | the disk lost acknowledged data: stop |
//! | whole, but of a version or kind this build does not know | - | refused by name: never taken for torn |
//! | beyond the end of the device | - | the disk is shorter than its superblock says: stop |
//!
//! A frame `n + window` or later vouches for `n` by construction: the decoder refuses a frame that is further ahead of
//! its own `durable_upto` than [`cairn_format::frame::WINDOW_FRAMES_MAX`], and the writer keeps to its smaller window.
//!
//! "Elsewhere" is: every segment header of the disk; the rest of the segment that the walk ended in, block by block;
//! and the segments where the log would have gone on, should their headers be damaged, as long as frames are found.
//!
//! # Going on
//! Each opening of the log has a number, its **incarnation**, higher than any that recovery saw. The log goes on where
//! it was cut, in the same segment. What an earlier opening left behind the cut cannot come back: it follows a chain
//! value that the log no longer has, and vouches only for frames before the cut; at worst it makes a clean end look torn
//! once more.
//!
//! # What cannot be read
//! A read that fails proves nothing, either way: the next one may bring up a frame that was acknowledged. So an end is
//! believed only if everything was read that might hold `n` or vouch for it: the place behind `n - 1`, the payload of
//! the frames before it that nothing vouches for, every segment header, and whatever else is searched. Otherwise the
//! disk is refused as unreadable, **not** as one that lost something, and recovery may be tried again. That what was
//! read holds a proof that `n` was acknowledged is said, as it tells whether a block may be given up. Payload that a
//! later frame vouches for is not needed here, nor is a place beyond the reads of the decision.
//!
//! # What is not told apart
//! The last frame before a crash, if it was acknowledged, nothing vouches for it yet, and the disk damaged it, looks
//! torn. [`super::LogWriter::vouch`] keeps that time short.

mod evidence;
mod headers;
mod row;
mod tail;
mod trail;
mod walk;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cairn_api::ids::{DiskId, GroupId, LogIndex, ReplicaId, Term};
use cairn_format::anchor::LogBeginning;
use cairn_format::error::FormatError;
use cairn_format::frame::MovedRun;
use cairn_format::portion::Portion;
use cairn_format::segment::SegmentHeader;
use cairn_format::superblock::Geometry;
use cairn_format::volume_state::VolumeState;

use self::evidence::Evidence;
use self::headers::Headers;
pub use self::row::{Row, Rows};
use self::tail::TailCheck;
use self::walk::Walk;
use super::{LogTail, Placed};
use crate::event::{DiskFault, GroupSpec, IoId};
use crate::mutation::Seeded;

/// The longest read of recovery in bytes.
pub const READ_BYTES_MAX: u32 = 1 << 20;
/// A read that fails is tried so many times before it counts as failed.
const READ_TRIES: u32 = 3;

/// A read that recovery wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogRead {
    /// Its name.
    pub io: IoId,
    /// Bytes from the start of the disk.
    pub offset: u64,
    /// Bytes: whole blocks, at most [`READ_BYTES_MAX`].
    pub length: u32,
}

/// A record that stands in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecoveredRecord {
    /// A Raft entry. Its payload is where it was written.
    Entry {
        /// Which, and where.
        placed: Placed,
        /// Its encoded header: a slice of its frame's header (4 KiB or little more), which it keeps in memory.
        header: Bytes,
    },
    /// What a replica must not forget.
    HardState {
        /// Its group.
        group: GroupId,
        /// The current term.
        term: Term,
        /// Whom it voted for; 0 for nobody.
        vote: ReplicaId,
        /// The highest index it knew to be committed.
        commit: LogIndex,
    },
    /// The disk holds a replica of this group from here on.
    GroupCreated {
        /// What the group was created with.
        spec: GroupSpec,
        /// The replica's number.
        replica: ReplicaId,
        /// The index that its log starts behind.
        index: LogIndex,
        /// The term of that index.
        term: Term,
        /// The sequence of the frame.
        sequence: u64,
    },
    /// The disk holds no replica of this group from here on.
    GroupDropped(GroupId),
    /// A replica began to receive a state.
    StageBegin {
        /// Its group.
        group: GroupId,
        /// The index of the mark whose state it is.
        mark: LogIndex,
        /// The mark's term.
        term: Term,
        /// Entries up to here were committed, and applied to the map that the replica had.
        have: LogIndex,
    },
    /// A portion of that state.
    StageBlocks {
        /// The group.
        group: GroupId,
        /// The portion.
        portion: Portion,
        /// The disk's block that its data starts at; 0 if it has none.
        payload_block: u64,
    },
    /// The state was complete.
    StageDone {
        /// The group.
        group: GroupId,
        /// All of it but the blocks.
        state: VolumeState,
    },
    /// Collection had copied blocks to another place.
    Moved {
        /// Their group.
        group: GroupId,
        /// From where to where.
        runs: Vec<MovedRun>,
        /// The sequence of the frame.
        sequence: u64,
    },
}

/// Where recovery begins to read the log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogStart {
    /// The beginning that the last checkpoint names; `None` for the genesis of the log.
    pub begins: Option<LogBeginning>,
    /// The segments that were free at that checkpoint; `None` for all.
    pub free: Option<BTreeSet<u32>>,
}

/// Takes the records in the order in which they were pushed.
pub trait RecoverySink {
    /// The next record.
    fn record(&mut self, record: RecoveredRecord);
}

/// What recovery read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogSummary {
    /// Frames that stand.
    pub frames: u64,
    /// Entries in them.
    pub entries: u64,
    /// Segments they are in.
    pub segments: u32,
    /// Bytes read to find out.
    pub bytes_read: u64,
}

/// How recovery ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Everything stands that was ever durable, and nothing was under way.
    Clean {
        /// Where to go on.
        tail: LogTail,
        /// What was read.
        summary: LogSummary,
    },
    /// As [`Outcome::Clean`], but writes were under way that did not complete; they are cut off.
    TornTail {
        /// Where to go on.
        tail: LogTail,
        /// What was read.
        summary: LogSummary,
        /// The first frame that was cut off.
        sequence: u64,
        /// What was wrong with it, as a sentence.
        reason: String,
    },
    /// The disk has lost data that it had acknowledged: nothing on it may be relied on any more.
    LostAcknowledged {
        /// The segment that the first lost frame is, or was, in.
        segment: u32,
        /// The first lost frame.
        sequence: u64,
        /// What proves that it was acknowledged, as a sentence.
        evidence: String,
    },
    /// What decides cannot be read: it may be there, so nothing is decided.
    Unreadable {
        /// The first place that could not be read, in bytes.
        offset: u64,
        /// The words of the disk's error.
        words: String,
        /// The first frame that was not found.
        sequence: u64,
        /// What proves that it was acknowledged, as a sentence; `None` if nothing that could be read does.
        evidence: Option<String>,
    },
    /// The log holds something that this build does not know.
    Unsupported {
        /// Where on the disk, in bytes.
        offset: u64,
        /// What.
        error: FormatError,
    },
    /// The device ends before its last segment.
    DiskTooShort {
        /// Where the read was, in bytes.
        offset: u64,
        /// Bytes asked for.
        asked: u64,
        /// Bytes that came.
        done: u64,
    },
}

/// What a step of recovery asks for.
enum Step {
    /// The result of this read, for this phase.
    Read { offset: u64, length: u32, then: Phase },
    /// Nothing: this phase begins.
    Next(Phase),
    /// Nothing: recovery is over, by these rows of the table.
    End(Box<Outcome>, Rows),
}

impl Step {
    fn end(outcome: Outcome, rows: Rows) -> Self {
        Self::End(Box::new(outcome), rows)
    }
}

/// The result of a read: the bytes, or why the disk could not read them.
struct Input {
    offset: u64,
    result: Result<Bytes, String>,
}

enum Phase {
    Walk(Box<Walk>),
    Tail(Box<TailCheck>),
    Evidence(Box<Evidence>),
}

/// Recovery of one disk's log; see the module. Feed it the results of the reads it asks for.
pub struct Recovery {
    disk: DiskId,
    geometry: Geometry,
    start: LogStart,
    headers: Headers,
    phase: Option<Phase>,
    /// The reads under way, and how often each was tried before.
    reads: BTreeMap<IoId, (LogRead, u32)>,
    bytes_read: u64,
    rows: Rows,
    seeded: Seeded,
}

/// What every phase knows of the disk.
struct Context<'a> {
    disk: DiskId,
    geometry: &'a Geometry,
    headers: &'a Headers,
    seeded: Seeded,
}

impl Recovery {
    /// Recovery of the log of `disk`.
    pub fn new(disk: DiskId, geometry: Geometry, start: LogStart) -> Self {
        let headers = Headers::new(geometry.segment_count, start.free.clone());
        Self {
            disk,
            geometry,
            start,
            headers,
            phase: None,
            reads: BTreeMap::new(),
            bytes_read: 0,
            rows: Rows::none(),
            seeded: Seeded::default(),
        }
    }

    /// The same with a seeded fault, if there is one.
    pub(crate) fn seeded(mut self, seeded: Seeded) -> Self {
        self.seeded = seeded;
        self
    }

    /// The first reads.
    pub fn start(&mut self, io_ids: &mut impl FnMut() -> IoId, out: &mut Vec<LogRead>) {
        while let Some(segment) = self.headers.next_wanted() {
            self.read_header(segment, io_ids, out);
        }
    }

    /// A read has ended. Gives the outcome when there is nothing more to read.
    ///
    /// A result for a read that was not asked for is ignored.
    pub fn completed(
        &mut self,
        io: IoId,
        result: Result<Bytes, DiskFault>,
        io_ids: &mut impl FnMut() -> IoId,
        out: &mut Vec<LogRead>,
        sink: &mut impl RecoverySink,
    ) -> Option<Outcome> {
        let (read, tried) = self.reads.remove(&io)?;
        if matches!(result, Err(DiskFault::Os(_))) && tried + 1 < READ_TRIES {
            self.read(read.offset, read.length, tried + 1, io_ids, out);
            return None;
        }
        self.bytes_read += u64::from(read.length);
        let result = match result {
            Err(DiskFault::Short { done, asked }) => {
                self.rows.insert(Row::DiskTooShort);
                return Some(Outcome::DiskTooShort {
                    offset: read.offset,
                    asked,
                    done,
                });
            }
            Ok(bytes) if bytes.len() != read.length as usize => {
                let (asked, done) = (u64::from(read.length), bytes.len() as u64);
                self.rows.insert(Row::DiskTooShort);
                return Some(Outcome::DiskTooShort {
                    offset: read.offset,
                    asked,
                    done,
                });
            }
            Ok(bytes) => Ok(bytes),
            Err(DiskFault::Os(words)) => Err(words),
        };
        if self.phase.is_none() {
            if let Some(outcome) = self.header_read(&read, &result) {
                return Some(outcome);
            }
            if let Some(segment) = self.headers.next_wanted() {
                self.read_header(segment, io_ids, out);
                return None;
            }
            if !self.headers.is_complete() {
                return None;
            }
            self.phase = Some(Phase::Walk(Box::new(Walk::new(self.disk, &self.start, &self.geometry))));
            return self.go_on(None, io_ids, out, sink);
        }
        self.go_on(
            Some(Input {
                offset: read.offset,
                result,
            }),
            io_ids,
            out,
            sink,
        )
    }

    /// The rows of the decision table that decided, once there is an outcome.
    pub fn rows(&self) -> Rows {
        let mut rows = self.rows;
        rows.extend(self.headers.rows);
        rows
    }

    /// The headers of this disk's segments, where they are whole.
    pub const fn headers(&self) -> &BTreeMap<u32, SegmentHeader> {
        self.headers.all()
    }

    fn read_header(&mut self, segment: u32, io_ids: &mut impl FnMut() -> IoId, out: &mut Vec<LogRead>) {
        self.read(
            self.geometry.segment_offset(segment),
            headers::READ_BYTES,
            0,
            io_ids,
            out,
        );
    }

    fn read(
        &mut self,
        offset: u64,
        length: u32,
        tried: u32,
        io_ids: &mut impl FnMut() -> IoId,
        out: &mut Vec<LogRead>,
    ) {
        let read = LogRead {
            io: io_ids(),
            offset,
            length,
        };
        self.reads.insert(read.io, (read, tried));
        out.push(read);
    }

    fn header_read(&mut self, read: &LogRead, result: &Result<Bytes, String>) -> Option<Outcome> {
        let segment = self.geometry.segment_of(read.offset)?;
        match self.headers.take(self.disk, segment, result.as_deref()) {
            Ok(()) => None,
            Err(error) => Some(self.finish(Outcome::Unsupported {
                offset: read.offset,
                error,
            })),
        }
    }

    /// Takes steps until one needs a read or ends it all.
    fn go_on(
        &mut self,
        mut input: Option<Input>,
        io_ids: &mut impl FnMut() -> IoId,
        out: &mut Vec<LogRead>,
        sink: &mut impl RecoverySink,
    ) -> Option<Outcome> {
        loop {
            let context = Context {
                disk: self.disk,
                geometry: &self.geometry,
                headers: &self.headers,
                seeded: self.seeded,
            };
            let step = match self.phase.take()? {
                Phase::Walk(walk) => walk.step(&context, input.take(), sink),
                Phase::Tail(tail) => tail.step(&context, input.take()),
                Phase::Evidence(evidence) => evidence.step(&context, input.take(), sink),
            };
            match step {
                Step::Read { offset, length, then } => {
                    self.phase = Some(then);
                    self.read(offset, length, 0, io_ids, out);
                    return None;
                }
                Step::Next(phase) => self.phase = Some(phase),
                Step::End(outcome, rows) => {
                    self.rows.extend(rows);
                    return Some(self.finish(*outcome));
                }
            }
        }
    }

    fn finish(&mut self, mut outcome: Outcome) -> Outcome {
        if matches!(outcome, Outcome::Unsupported { .. }) {
            self.rows.insert(Row::NewerBuild);
        }
        if let Outcome::Clean { summary, .. } | Outcome::TornTail { summary, .. } = &mut outcome {
            summary.bytes_read = self.bytes_read;
        }
        outcome
    }
}
