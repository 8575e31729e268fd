//! Joins what the leaves hold into runs.

use std::borrow::Cow;
use std::iter::Peekable;
use std::ops::Range;

use cairn_api::units::Lba;
use cairn_format::entry::ENTRY_BLOCKS_MAX;

use super::Run;
use super::leaf::Piece;

/// A piece of a leaf, with its place in the volume.
pub(super) struct Span<'a> {
    pub(super) lba: u64,
    pub(super) piece: Piece<'a>,
}

/// A data run is joined across a leaf's border only up to this length, because joining copies checksums. It is the
/// longest read that a gateway makes, so no read is cut in two by a border.
const JOINED_BLOCKS_MAX: u64 = ENTRY_BLOCKS_MAX as u64;

/// Iterates over the runs of a range: maximal, but for data across leaves (see [`JOINED_BLOCKS_MAX`]).
pub(super) struct Runs<'a, S: Iterator<Item = Span<'a>>> {
    /// What is still to come.
    range: Range<u64>,
    /// The spans of the leaves that are there.
    spans: Peekable<S>,
}

impl<'a, S: Iterator<Item = Span<'a>>> Runs<'a, S> {
    pub(super) fn new(range: Range<u64>, spans: S) -> Self {
        Self {
            range,
            spans: spans.peekable(),
        }
    }

    /// The length of the span at `lba` if it is of the kind that `like` accepts; then it is consumed. A gap between
    /// spans is a hole and handled by the caller.
    fn take_like(&mut self, lba: u64, like: fn(&Piece<'_>) -> Option<u64>) -> Option<u64> {
        let span = self.spans.peek()?;
        let blocks = like(&span.piece).filter(|_| span.lba == lba)?;
        self.spans.next();
        Some(blocks)
    }

    /// The end of the hole that reaches at least to `end`, over gaps and spans of holes.
    fn hole_end(&mut self, mut end: u64) -> u64 {
        loop {
            match self.spans.peek() {
                None => return self.range.end,
                Some(span) if span.lba > end => end = span.lba,
                Some(_) => match self.take_like(end, as_hole) {
                    Some(blocks) => end += blocks,
                    None => return end,
                },
            }
        }
    }

    fn join_data(&mut self, start: u64, block: u64, first: &'a [u32]) -> Cow<'a, [u32]> {
        let mut crcs = Cow::Borrowed(first);
        while let Some(Span {
            lba,
            piece: Piece::Data {
                block: next,
                crcs: more,
            },
        }) = self.spans.peek()
        {
            let length = crcs.len() as u64;
            let joins = *lba == start + length && next.0 == block + length;
            if !joins || length + more.len() as u64 > JOINED_BLOCKS_MAX {
                break;
            }
            crcs.to_mut().extend_from_slice(more);
            self.spans.next();
        }
        crcs
    }
}

fn as_hole(piece: &Piece<'_>) -> Option<u64> {
    if let Piece::Hole(blocks) = piece {
        Some(*blocks)
    } else {
        None
    }
}

fn as_zero(piece: &Piece<'_>) -> Option<u64> {
    if let Piece::Zero(blocks) = piece {
        Some(*blocks)
    } else {
        None
    }
}

impl<'a, S: Iterator<Item = Span<'a>>> Iterator for Runs<'a, S> {
    type Item = Run<'a>;

    fn next(&mut self) -> Option<Run<'a>> {
        let start = self.range.start;
        if self.range.is_empty() {
            return None;
        }
        let lba = Lba(start);
        let hole_end = self.hole_end(start);
        let run = if hole_end > start {
            Run::Hole {
                lba,
                blocks: hole_end - start,
            }
        } else {
            match self.spans.next()?.piece {
                Piece::Data { block, crcs } => {
                    let crcs = self.join_data(start, block.0, crcs);
                    let blocks = crcs.len() as u64;
                    Run::Data {
                        lba,
                        block,
                        crcs,
                        blocks,
                    }
                }
                Piece::Zero(first) => {
                    let mut blocks = first;
                    while let Some(more) = self.take_like(start + blocks, as_zero) {
                        blocks += more;
                    }
                    Run::Zeros { lba, blocks }
                }
                Piece::Hole(blocks) => Run::Hole { lba, blocks },
            }
        };
        self.range.start += run.blocks();
        Some(run)
    }
}
