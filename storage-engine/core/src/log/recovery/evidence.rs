//! The last phase: does anything on the disk prove that what is missing was once acknowledged?

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use cairn_api::units::{BLOCK_BYTES, BLOCK_SIZE};
use cairn_format::error::FormatError;
use cairn_format::frame::{self, Frame};

use super::trail::{Trail, Unreadable};
use super::walk::End;
use super::{Context, Input, Outcome, Phase, READ_BYTES_MAX, RecoverySink, Row, Step};
use crate::log::LogTail;
use crate::mutation::mutated;

/// A torn frame is believed to be of an opening at most so many after the last one that is known for sure: so many
/// openings may have come to nothing one after the other. Beyond it the number itself is damaged.
const INCARNATIONS_TORN_MAX: u64 = 1 << 20;

/// A stretch of one segment to be searched, in bytes from the start of the disk.
struct Stretch {
    segment: u32,
    from: u64,
    to: u64,
    /// Before this place a long read has failed: go block by block around what cannot be read.
    careful_to: u64,
    /// The length of the next read, if a frame header there is known to be so long.
    header_bytes: u64,
}

impl Stretch {
    const fn new(segment: u32, from: u64, to: u64) -> Self {
        Self {
            segment,
            from,
            to,
            careful_to: 0,
            header_bytes: 0,
        }
    }

    /// The next read.
    fn next_piece(&self) -> Option<(u64, u32)> {
        let wanted = match (self.from < self.careful_to, self.header_bytes) {
            (true, 0) => BLOCK_BYTES,
            (true, header_bytes) => header_bytes,
            (false, _) => u64::from(READ_BYTES_MAX),
        };
        let length = wanted.min(self.to.saturating_sub(self.from));
        u32::try_from(length)
            .ok()
            .filter(|length| *length > 0)
            .map(|length| (self.from, length))
    }

    /// The next read has failed. Gives the place that cannot be read, if the read was of no more than was needed there.
    fn failed(&mut self) -> Option<u64> {
        let place = self.from;
        self.header_bytes = 0;
        if place < self.careful_to {
            self.from += BLOCK_BYTES;
            return Some(place);
        }
        self.careful_to = place + u64::from(READ_BYTES_MAX);
        None
    }
}

pub(super) struct Evidence {
    trail: Trail,
    end: End,
    /// The segment that the first missing frame was, or would have been, in.
    segment: u32,
    stretch: Option<Stretch>,
    /// Segments to be searched after this stretch, while frames are found.
    candidates: VecDeque<u32>,
    /// Whether the stretch decides if the next candidate is searched, and has found a frame.
    is_last_if_empty: bool,
    has_found: bool,
    /// The log was being written beyond its end when it stopped.
    was_writing: bool,
    epochs_seen: BTreeMap<u32, u64>,
}

/// What a piece of a stretch says.
enum Verdict {
    /// Go on at this offset, with a frame header of so many bytes (0: not known).
    GoOn {
        offset: u64,
        header_bytes: u64,
    },
    Proof(Row, String),
    Unsupported {
        offset: u64,
        error: FormatError,
    },
}

impl Evidence {
    pub(super) fn new(mut trail: Trail, end: End, context: &Context<'_>) -> Self {
        if let Some((segment, words)) = context.headers.unreadable() {
            let offset = context.geometry.segment_offset(*segment);
            let words = words.clone();
            trail.cannot_read(&Unreadable { offset, words });
        }
        trail.saw(context.headers.incarnation_max());
        if let End::NotNext(row) = end {
            trail.rows.insert(row);
        }
        let stretch = trail
            .at
            .open
            .map(|open| Stretch::new(open.segment, open.cursor, context.geometry.segment_end(open.segment)));
        let candidates: VecDeque<u32> = context.headers.beyond(&trail.path).into();
        let segment = trail
            .at
            .open
            .map_or(candidates.front().copied().unwrap_or(0), |open| open.segment);
        Self {
            trail,
            end,
            segment,
            stretch,
            candidates,
            is_last_if_empty: false,
            has_found: false,
            was_writing: false,
            epochs_seen: BTreeMap::new(),
        }
    }

    pub(super) fn step(
        mut self: Box<Self>,
        context: &Context<'_>,
        input: Option<Input>,
        sink: &mut impl RecoverySink,
    ) -> Step {
        match input {
            Some(input) => {
                if let Some(outcome) = self.take(context, input) {
                    return Step::end(outcome, self.trail.rows);
                }
            }
            None => {
                if let Some(outcome) = self.vouched_by_header(context) {
                    return Step::end(outcome, self.trail.rows);
                }
            }
        }
        loop {
            if let Some((offset, length)) = self.stretch.as_ref().and_then(Stretch::next_piece) {
                return Step::Read {
                    offset,
                    length,
                    then: Phase::Evidence(self),
                };
            }
            if (self.is_last_if_empty && !self.has_found) || !self.begin_candidate(context) {
                return self.conclude(context, sink);
            }
        }
    }

    fn begin_candidate(&mut self, context: &Context<'_>) -> bool {
        let Some(segment) = self.candidates.pop_front() else {
            return false;
        };
        let from = context.geometry.segment_offset(segment) + BLOCK_BYTES;
        self.stretch = Some(Stretch::new(segment, from, context.geometry.segment_end(segment)));
        self.is_last_if_empty = true;
        self.has_found = false;
        true
    }

    fn vouched_by_header(&mut self, context: &Context<'_>) -> Option<Outcome> {
        let sequence = self.trail.at.sequence;
        let header = context
            .headers
            .vouching(sequence, &self.trail.path)
            .filter(|_| !mutated!(context.seeded, DamageTakenForTorn))?;
        let evidence = format!(
            "the header of segment {} says that all frames up to {} were durable before its first, {}",
            header.segment, header.durable_upto, header.first_sequence
        );
        Some(self.lost(Row::LostByHeader, &evidence))
    }

    fn take(&mut self, context: &Context<'_>, input: Input) -> Option<Outcome> {
        let mut stretch = self.stretch.take()?;
        let outcome = match input.result {
            Ok(bytes) => match self.search(context, &stretch, &bytes) {
                Verdict::GoOn { offset, header_bytes } => {
                    (stretch.from, stretch.header_bytes) = (offset, header_bytes);
                    None
                }
                Verdict::Proof(row, evidence) => Some(self.lost(row, &evidence)),
                Verdict::Unsupported { offset, error } => Some(Outcome::Unsupported { offset, error }),
            },
            Err(words) => {
                if let Some(offset) = stretch.failed() {
                    self.trail.cannot_read(&Unreadable { offset, words });
                }
                None
            }
        };
        self.stretch = Some(stretch);
        outcome
    }

    /// Searches a piece that starts at `stretch.from`, block by block.
    fn search(&mut self, context: &Context<'_>, stretch: &Stretch, bytes: &Bytes) -> Verdict {
        let block_size = BLOCK_SIZE as usize;
        for place in (0..bytes.len()).step_by(block_size) {
            let offset = stretch.from + place as u64;
            let Ok(header_bytes) = frame::header_bytes_of(&bytes[place..]) else {
                continue;
            };
            if place + header_bytes > bytes.len() {
                if offset + header_bytes as u64 <= stretch.to {
                    return Verdict::GoOn {
                        offset,
                        header_bytes: header_bytes as u64,
                    };
                }
                continue;
            }
            match frame::decode(&bytes.slice(place..place + header_bytes)) {
                Ok(frame) if frame.info.disk == context.disk && frame.info.block == offset / BLOCK_BYTES => {
                    if let Some(evidence) = self.saw(stretch.segment, offset, &frame)
                        && !mutated!(context.seeded, DamageTakenForTorn)
                    {
                        // Without its header a segment's frames are all that is left to speak for it.
                        let has_header = context.headers.has(stretch.segment, frame.info.segment_epoch);
                        let row = if has_header {
                            Row::LostByFrame
                        } else {
                            Row::LostSegmentHeader
                        };
                        return Verdict::Proof(row, evidence);
                    }
                }
                Err(error) if error.is_newer() => return Verdict::Unsupported { offset, error },
                Ok(_) => self.trail.rows.insert(Row::Stranger),
                Err(_) => self.saw_torn(context, &bytes[place..]),
            }
        }
        Verdict::GoOn {
            offset: stretch.from + bytes.len() as u64,
            header_bytes: 0,
        }
    }

    /// A valid frame of this disk stands beyond the end of the log.
    fn saw(&mut self, segment: u32, offset: u64, frame: &Frame) -> Option<String> {
        let (sequence, info) = (self.trail.at.sequence, &frame.info);
        self.has_found = true;
        let is_past = info.incarnation < self.trail.at.incarnation;
        self.was_writing |= info.sequence > sequence && !is_past;
        if info.sequence < sequence || is_past {
            self.trail.rows.insert(Row::Leftover);
        }
        self.trail.saw(info.incarnation);
        let epoch = self.epochs_seen.entry(segment).or_insert(0);
        *epoch = info.segment_epoch.max(*epoch);
        (info.durable_upto >= sequence).then(|| {
            format!(
                "frame {} at byte {offset} says that all frames up to {} were durable before it was written",
                info.sequence, info.durable_upto
            )
        })
    }

    /// The beginning of a torn frame stands beyond the end of the log. It must not be of the opening that comes next:
    /// writes that are torn in their turn could complete it.
    fn saw_torn(&mut self, context: &Context<'_>, first_block: &[u8]) {
        let known = self.trail.incarnation_max;
        if let Some((disk, incarnation)) = frame::claims_of(first_block)
            && disk == context.disk
            && incarnation <= known + INCARNATIONS_TORN_MAX
        {
            self.has_found = true;
            self.trail.saw(incarnation);
        }
    }

    fn lost(&mut self, row: Row, evidence: &str) -> Outcome {
        let sequence = self.trail.at.sequence;
        if let Some(Unreadable { offset, words }) = self.trail.unreadable.take() {
            // It may all be there.
            self.trail.rows.insert(Row::UnreadableVouched);
            return Outcome::Unreadable {
                offset,
                words,
                sequence,
                evidence: Some(evidence.to_owned()),
            };
        }
        self.trail.rows.insert(row);
        let missing = match &self.end {
            End::Nothing | End::NotNext(_) => "nothing is there".to_owned(),
            End::Torn(_, reason) => reason.clone(),
            End::Unreadable(_) => "it cannot be read".to_owned(),
        };
        let evidence = format!("{evidence}; of frame {sequence} the disk says: {missing}");
        Outcome::LostAcknowledged {
            segment: self.segment,
            sequence,
            evidence,
        }
    }

    /// Notes the rows by which the log ends here.
    fn note_decision(&mut self) {
        let rows = &mut self.trail.rows;
        match self.end {
            End::Nothing if !self.was_writing => rows.insert(Row::Nothing),
            End::Nothing | End::NotNext(_) => {}
            End::Torn(row, _) => rows.insert(row),
            End::Unreadable(_) => {}
        }
        if self.was_writing {
            rows.insert(Row::Overtaken);
        }
    }

    fn conclude(mut self: Box<Self>, context: &Context<'_>, sink: &mut impl RecoverySink) -> Step {
        if let Some(Unreadable { offset, words }) = self.trail.unreadable.take()
            && !mutated!(context.seeded, UnreadableTakenForEnd)
        {
            self.trail.rows.insert(Row::Unreadable);
            let outcome = Outcome::Unreadable {
                offset,
                words,
                sequence: self.trail.at.sequence,
                evidence: None,
            };
            return Step::end(outcome, self.trail.rows);
        }
        self.note_decision();
        self.trail.deliver_all(sink);
        let rows = self.trail.rows;
        let (at, summary) = (self.trail.at, self.trail.summary);
        let last_incarnation = self.trail.incarnation_max;
        let incarnation = if last_incarnation > 0 && mutated!(context.seeded, TailUnsealed) {
            last_incarnation
        } else {
            last_incarnation + 1
        };
        let tail = LogTail {
            next_sequence: at.sequence,
            chain: at.chain,
            incarnation,
            window: std::mem::take(&mut self.trail.window),
            open: at.open,
            free: context.headers.free(&self.trail.path, &self.epochs_seen),
        };
        let reason = match self.end {
            End::Nothing | End::NotNext(_) if !self.was_writing => {
                return Step::end(Outcome::Clean { tail, summary }, rows);
            }
            End::Nothing | End::NotNext(_) => "it never reached the disk, though a later one did".to_owned(),
            End::Torn(_, reason) => reason,
            End::Unreadable(_) => "it cannot be read".to_owned(),
        };
        let outcome = Outcome::TornTail {
            tail,
            summary,
            sequence: at.sequence,
            reason,
        };
        Step::end(outcome, rows)
    }
}
