//! Replies to parts, and the ends of operations.

use cairn_api::block::{BlockError, BlockOp, BlockReply, ReadPiece};
use cairn_api::units::{BLOCK_BYTES, Lba};
use cairn_format::peer::GatewayResult;

use super::cipher::Seal;
use super::plan;
use super::{Client, Gateway, Operation};
use crate::event::{CommandError, CommandReply, Effect, Stage};
use crate::mutation::mutated;
use crate::shared::Shared;

impl Gateway {
    pub(super) fn part_reply(&mut self, shared: &mut Shared, part: u64, result: GatewayResult) {
        let sent = self.parts.get(&part).and_then(|part| part.sent);
        match result {
            GatewayResult::NotLeader { leader } => {
                self.fail_over(shared);
                if let Some(sent) = sent {
                    self.note_hint(shared, sent.to, leader);
                }
            }
            GatewayResult::Retry => {
                self.send_again(part);
                self.pause(shared);
            }
            GatewayResult::Failed(BlockError::OutOfRange { .. })
                if !self.reads_snapshot(part) && !mutated!(shared.seeded, RangeRefusalTrusted) =>
            {
                // Within what the volume is known to have or to get: the leader has not heard of that yet.
                self.send_again(part);
                self.pause(shared);
            }
            GatewayResult::Failed(BlockError::Fenced { .. })
                if self.parts.get(&part).is_some_and(super::Part::is_write) =>
            {
                // Refused under the epoch it was sent with. If this node still holds the volume, a delayed request of
                // its own raised the epoch, and renewing succeeds; if not, renewing is what finds out.
                self.send_again(part);
                if sent.map(|sent| sent.epoch) == self.attachment.epoch() {
                    self.attachment.doubt();
                }
            }
            result => {
                if let Some(sent) = sent {
                    self.note_answer(sent.to, &result);
                }
                self.end_part(shared, part, result);
            }
        }
    }

    /// Whether a part asks for a snapshot, whose size is what it was when the snapshot was made.
    fn reads_snapshot(&self, part: u64) -> bool {
        let part = self.parts.get(&part);
        let operation = part.and_then(|part| self.operations.get(&part.operation));
        operation.is_some_and(|operation| operation.snapshot.is_some())
    }

    fn send_again(&mut self, part: u64) {
        if let Some(state) = self.parts.get_mut(&part) {
            state.sent = None;
            self.seal.send_again(&mut state.piece);
            self.unsent.insert(part);
        }
    }

    fn end_part(&mut self, shared: &mut Shared, number: u64, result: GatewayResult) {
        let Some(part) = self.parts.remove(&number) else { return };
        self.unsent.remove(&number);
        let Some(operation) = self.operations.get_mut(&part.operation) else {
            return;
        };
        operation.missing -= 1;
        match result {
            GatewayResult::Read(pieces) => {
                operation.pieces.insert(part.position, pieces);
            }
            GatewayResult::Status(extents) => operation.extents = extents,
            GatewayResult::Failed(error) => operation.error = Some(error),
            GatewayResult::Done
            | GatewayResult::Attached { .. }
            | GatewayResult::NotLeader { .. }
            | GatewayResult::Members { .. }
            | GatewayResult::Retry => {}
        }
        if operation.missing > 0 {
            return;
        }
        if operation.reads_edges && operation.error.is_none() {
            self.run_body(shared, part.operation);
        } else {
            self.finish(shared, part.operation);
        }
    }

    /// Ends an operation, and starts those that waited for its range.
    pub(super) fn finish(&mut self, shared: &mut Shared, number: u64) {
        let Some(operation) = self.operations.remove(&number) else {
            return;
        };
        self.answer(shared, operation);
        for next in self.locks.unlock(number) {
            self.run(shared, next);
        }
    }

    fn answer(&self, shared: &mut Shared, operation: Operation) {
        let since = operation.since;
        let (device, tag) = match operation.client {
            Client::Command(id) => {
                let result = match operation.error {
                    None => Ok(CommandReply::Done),
                    Some(error) => Err(CommandError::Refused(error.to_string())),
                };
                return shared.end_command(id, result);
            }
            Client::Device(device, tag) => (device, tag),
        };
        if !self.devices.contains_key(&device) {
            return;
        }
        match &operation.op {
            BlockOp::Write { .. } => shared.measured(Stage::Write, since),
            BlockOp::Read { .. } => shared.measured(Stage::Read, since),
            _ => {}
        }
        shared.effects.push(Effect::DeviceReply {
            device,
            tag,
            result: operation.result(&self.seal),
        });
    }

    /// Fails every write that is under way, sent or not.
    pub(super) fn fail_writes(&mut self, shared: &mut Shared, error: &BlockError) {
        let is_write = |operation: &Operation| {
            matches!(
                operation.op,
                BlockOp::Write { .. } | BlockOp::Trim { .. } | BlockOp::WriteZeroes { .. }
            )
        };
        let doomed: Vec<u64> = self
            .operations
            .iter()
            .filter(|(_, operation)| is_write(operation))
            .map(|(number, _)| *number)
            .collect();
        let parts: Vec<u64> = self
            .parts
            .iter()
            .filter(|(_, part)| doomed.contains(&part.operation))
            .map(|(number, _)| *number)
            .collect();
        for number in parts {
            self.unsent.remove(&number);
            if let Some(sent) = self.parts.remove(&number).and_then(|part| part.sent) {
                self.requests.remove(&sent.request);
            }
        }
        // Those that still wait for a range are granted it by `finish` of the one before, or fail here first: latest
        // first, so that none is started only to fail.
        for number in doomed.into_iter().rev() {
            if let Some(mut operation) = self.operations.remove(&number) {
                operation.error = Some(error.clone());
                self.answer(shared, operation);
            }
            for next in self.locks.unlock(number) {
                self.run(shared, next);
            }
        }
    }
}

impl Operation {
    fn result(self, seal: &Seal) -> Result<BlockReply, BlockError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        Ok(match self.op {
            BlockOp::Read { offset, length } => {
                let pieces = self.pieces.into_values().flatten().collect();
                let pieces = seal.open(Lba(offset / BLOCK_BYTES), pieces)?;
                let cut = plan::trim_read(pieces, offset, u64::from(length));
                let answered: u64 = cut.iter().map(ReadPiece::len).sum();
                if answered != u64::from(length) {
                    return Err(BlockError::Io(format!(
                        "the leader answered {answered} of {length} bytes"
                    )));
                }
                BlockReply::Read(cut)
            }
            BlockOp::Status { offset, length, .. } => {
                BlockReply::Status(plan::trim_extents(self.extents, offset, length))
            }
            BlockOp::Write { .. } | BlockOp::Flush | BlockOp::Trim { .. } | BlockOp::WriteZeroes { .. } => {
                BlockReply::Done
            }
        })
    }
}
