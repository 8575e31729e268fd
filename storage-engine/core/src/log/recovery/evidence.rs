//! The last phase: does anything on the disk prove that what is missing was once acknowledged?

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use cairn_api::units::{BLOCK_BYTES, BLOCK_SIZE};
use cairn_format::error::FormatError;
use cairn_format::frame::{self, Frame};

use super::trail::Trail;
use super::walk::End;
use super::{Context, Input, Outcome, Phase, READ_BYTES_MAX, RecoverySink, Step};
use crate::log::LogTail;

/// A stretch of one segment to be searched, in bytes from the start of the disk.
struct Stretch {
    segment: u32,
    from: u64,
    to: u64,
}

pub(super) struct Evidence {
    trail: Trail,
    end: End,
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
    /// Go on at this offset.
    GoOn(u64),
    Proof(String),
    Unsupported {
        offset: u64,
        error: FormatError,
    },
}

impl Evidence {
    pub(super) fn new(mut trail: Trail, end: End, context: &Context<'_>) -> Self {
        trail.is_unreadable |= matches!(end, End::Unreadable(_)) || context.headers.has_unreadable();
        trail.saw(context.headers.incarnation_max());
        let stretch = trail.at.open.map(|open| Stretch {
            segment: open.segment,
            from: open.cursor,
            to: context.geometry.segment_end(open.segment),
        });
        let candidates = context.headers.beyond(&trail.path).into();
        Self {
            trail,
            end,
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
                    return Step::End(Box::new(outcome));
                }
            }
            None => {
                if let Some(outcome) = self.vouched_by_header(context) {
                    return Step::End(Box::new(outcome));
                }
            }
        }
        loop {
            if let Some((offset, length)) = self.next_piece() {
                return Step::Read {
                    offset,
                    length,
                    then: Phase::Evidence(self),
                };
            }
            if (self.is_last_if_empty && !self.has_found) || !self.begin_candidate(context) {
                return Step::End(Box::new(self.conclude(context, sink)));
            }
        }
    }

    fn next_piece(&self) -> Option<(u64, u32)> {
        let stretch = self.stretch.as_ref().filter(|stretch| stretch.from < stretch.to)?;
        let length = u32::try_from(stretch.to - stretch.from)
            .unwrap_or(u32::MAX)
            .min(READ_BYTES_MAX);
        Some((stretch.from, length))
    }

    fn begin_candidate(&mut self, context: &Context<'_>) -> bool {
        let Some(segment) = self.candidates.pop_front() else {
            return false;
        };
        let from = context.geometry.segment_offset(segment) + BLOCK_BYTES;
        self.stretch = Some(Stretch {
            segment,
            from,
            to: context.geometry.segment_end(segment),
        });
        self.is_last_if_empty = true;
        self.has_found = false;
        true
    }

    fn vouched_by_header(&self, context: &Context<'_>) -> Option<Outcome> {
        let sequence = self.trail.at.sequence;
        let header = context.headers.vouching(sequence, &self.trail.path)?;
        Some(self.lost(format!(
            "the header of segment {} says that all frames up to {} were durable before its first, {}",
            header.segment, header.durable_upto, header.first_sequence
        )))
    }

    fn take(&mut self, context: &Context<'_>, input: Input) -> Option<Outcome> {
        let mut stretch = self.stretch.take()?;
        let outcome = match input.result {
            Ok(bytes) => match self.search(context, &stretch, &bytes) {
                Verdict::GoOn(offset) => {
                    stretch.from = offset;
                    None
                }
                Verdict::Proof(evidence) => Some(self.lost(evidence)),
                Verdict::Unsupported { offset, error } => Some(Outcome::Unsupported { offset, error }),
            },
            Err(_) => {
                // What cannot be read proves nothing, either way: but the log must not go on here.
                self.trail.is_unreadable = true;
                stretch.from += u64::from(READ_BYTES_MAX);
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
                if place > 0 && offset + header_bytes as u64 <= stretch.to {
                    return Verdict::GoOn(offset);
                }
                continue;
            }
            match frame::decode(&bytes.slice(place..place + header_bytes)) {
                Ok(frame) if frame.info.disk == context.disk && frame.info.block == offset / BLOCK_BYTES => {
                    if let Some(evidence) = self.saw(stretch.segment, offset, &frame) {
                        return Verdict::Proof(evidence);
                    }
                }
                Err(error) if error.is_newer() => return Verdict::Unsupported { offset, error },
                Ok(_) | Err(_) => {}
            }
        }
        Verdict::GoOn(stretch.from + bytes.len() as u64)
    }

    /// A valid frame of this disk stands beyond the end of the log.
    fn saw(&mut self, segment: u32, offset: u64, frame: &Frame) -> Option<String> {
        let (sequence, info) = (self.trail.at.sequence, &frame.info);
        self.has_found = true;
        self.was_writing |= info.sequence > sequence && info.incarnation >= self.trail.at.incarnation;
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

    fn lost(&self, evidence: String) -> Outcome {
        let at = &self.trail.at;
        let first_free = self.candidates.front().copied().unwrap_or(0);
        let segment = at.open.map_or(first_free, |open| open.segment);
        let missing = match &self.end {
            End::Nothing => "nothing is there".to_owned(),
            End::Torn(reason) => reason.clone(),
            End::Unreadable(words) => format!("it cannot be read: {words}"),
        };
        let evidence = format!("{evidence}; of frame {} the disk says: {missing}", at.sequence);
        Outcome::LostAcknowledged {
            segment,
            sequence: at.sequence,
            evidence,
        }
    }

    fn conclude(mut self: Box<Self>, context: &Context<'_>, sink: &mut impl RecoverySink) -> Outcome {
        self.trail.deliver_all(sink);
        let (at, summary) = (self.trail.at, self.trail.summary);
        let tail = LogTail {
            next_sequence: at.sequence,
            chain: at.chain,
            incarnation: self.trail.incarnation_max + 1,
            open: at.open.filter(|_| !self.trail.is_unreadable),
            free: context.headers.free(&self.trail.path, &self.epochs_seen),
        };
        let reason = match self.end {
            End::Nothing if !self.was_writing => return Outcome::Clean { tail, summary },
            End::Nothing => "it never reached the disk, though a later one did".to_owned(),
            End::Torn(reason) => reason,
            End::Unreadable(words) => format!("it cannot be read: {words}"),
        };
        Outcome::TornTail {
            tail,
            summary,
            sequence: at.sequence,
            reason,
        }
    }
}
