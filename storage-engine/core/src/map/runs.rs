//! Joins what the leaves hold into runs.

use std::borrow::Cow;
use std::iter::Peekable;
use std::ops::Range;

use cairn_api::units::Lba;
use cairn_format::entry::ENTRY_BLOCKS_MAX;

use super::Run;
use super::leaf::{Content, LEAF_SLOTS, Piece};

/// A piece of a leaf, with its place in the volume.
pub(super) struct Span<'a> {
    pub(super) lba: u64,
    pub(super) piece: Piece<'a>,
}

impl<'a> Span<'a> {
    pub(super) const fn new(leaf: u64, piece: Piece<'a>) -> Self {
        Self {
            lba: leaf * LEAF_SLOTS + piece.start as u64,
            piece,
        }
    }
}

/// A data run is joined across births and leaves only up to this length, because joining copies checksums. It is the
/// longest read that a gateway makes, so no read is cut in two by either.
const JOINED_BLOCKS_MAX: u64 = ENTRY_BLOCKS_MAX as u64;

/// Iterates over the runs of a range: maximal, but for long data (see [`JOINED_BLOCKS_MAX`]).
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

    /// The length of the span at `lba` if it is of this kind; then it is consumed. A gap between spans is a hole and
    /// handled by the caller.
    fn take_like(&mut self, lba: u64, kind: Content<'static>) -> Option<u64> {
        let span = self.spans.peek()?;
        if span.lba != lba || span.piece.content != kind {
            return None;
        }
        let blocks = span.piece.slots as u64;
        self.spans.next();
        Some(blocks)
    }

    /// The end of the row of this kind that begins at `lba`.
    fn row_end(&mut self, mut lba: u64, kind: Content<'static>) -> u64 {
        while let Some(blocks) = self.take_like(lba, kind) {
            lba += blocks;
        }
        lba
    }

    /// The end of the hole that reaches at least to `end`, over gaps and spans of holes.
    fn hole_end(&mut self, mut end: u64) -> u64 {
        loop {
            match self.spans.peek() {
                None => return self.range.end,
                Some(span) if span.lba > end => end = span.lba,
                Some(_) => match self.take_like(end, Content::Hole) {
                    Some(blocks) => end += blocks,
                    None => return end,
                },
            }
        }
    }

    fn join_data(&mut self, start: u64, block: u64, first: &'a [u32]) -> Cow<'a, [u32]> {
        let mut crcs = Cow::Borrowed(first);
        while let Some(Span { lba, piece }) = self.spans.peek() {
            let Content::Data {
                block: next,
                crcs: more,
            } = piece.content
            else {
                break;
            };
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
            let piece = self.spans.next()?.piece;
            let end = start + piece.slots as u64;
            match piece.content {
                Content::Data { block, crcs } => {
                    let crcs = self.join_data(start, block.0, crcs);
                    let blocks = crcs.len() as u64;
                    Run::Data {
                        lba,
                        block,
                        crcs,
                        blocks,
                    }
                }
                Content::Zero => Run::Zeros {
                    lba,
                    blocks: self.row_end(end, Content::Zero) - start,
                },
                Content::Trimmed => Run::Trimmed {
                    lba,
                    blocks: self.row_end(end, Content::Trimmed) - start,
                },
                Content::Hole => Run::Hole {
                    lba,
                    blocks: end - start,
                },
            }
        };
        self.range.start += run.blocks();
        Some(run)
    }
}
