//! The third phase: the payload of the last frames, which nothing vouches for.

use std::collections::VecDeque;

use cairn_api::units::{BLOCK_BYTES, BLOCK_SIZE};
use cairn_format::checksum::crc32c;

use super::evidence::Evidence;
use super::trail::{Trail, Unreadable};
use super::walk::End;
use super::{Context, Input, Phase, READ_BYTES_MAX, Row, Step};
use crate::mutation::{Seeded, mutated};

pub(super) struct TailCheck {
    trail: Trail,
    end: End,
    /// The unvouched frame that is being checked.
    place: usize,
    /// What is left to be checked of it.
    blocks: VecDeque<(u64, u32)>,
}

impl TailCheck {
    pub(super) fn new(mut trail: Trail, end: End) -> Self {
        trail.ends(&end);
        let blocks = trail.unvouched.front().map(|frame| frame.payload()).unwrap_or_default();
        Self {
            trail,
            end,
            place: 0,
            blocks,
        }
    }

    pub(super) fn step(mut self: Box<Self>, context: &Context<'_>, input: Option<Input>) -> Step {
        if let Some(input) = input
            && let Err(end) = self.check(input, context.seeded)
        {
            self.trail.ends(&end);
            self.trail.cut(self.place);
            self.end = end;
            return self.finish(context);
        }
        while self.blocks.is_empty() {
            self.place += 1;
            match self.trail.unvouched.get(self.place) {
                Some(frame) => self.blocks = frame.payload(),
                None => return self.finish(context),
            }
        }
        let (offset, length) = self.next_piece();
        Step::Read {
            offset,
            length,
            then: Phase::Tail(self),
        }
    }

    fn finish(self: Box<Self>, context: &Context<'_>) -> Step {
        Step::Next(Phase::Evidence(Box::new(Evidence::new(self.trail, self.end, context))))
    }

    /// The next blocks, as far as they stand side by side.
    fn next_piece(&self) -> (u64, u32) {
        let first = self.blocks.front().map_or(0, |(block, _)| *block);
        let side_by_side = self
            .blocks
            .iter()
            .zip(first..)
            .take_while(|((block, _), next)| block == next)
            .count();
        let length = u32::try_from(side_by_side)
            .unwrap_or(u32::MAX)
            .saturating_mul(BLOCK_SIZE)
            .min(READ_BYTES_MAX);
        (first * BLOCK_BYTES, length)
    }

    fn check(&mut self, input: Input, seeded: Seeded) -> Result<(), End> {
        let offset = input.offset;
        let bytes = input
            .result
            .map_err(|words| End::Unreadable(Unreadable { offset, words }))?;
        for content in bytes.chunks_exact(BLOCK_SIZE as usize) {
            let Some((block, expected)) = self.blocks.pop_front() else {
                return Ok(());
            };
            let computed = crc32c(content);
            if computed != expected && !mutated!(seeded, TailPayloadUnchecked) {
                let reason = format!(
                    "its payload at disk block {block} has the checksum {computed:#010x} instead of {expected:#010x}"
                );
                return Err(End::Torn(Row::TornPayload, reason));
            }
        }
        Ok(())
    }
}
