//! Handing committed commands to a state machine outside the core (the meta group's, in `sled`), in order, once each
//! from where that state machine says it stands.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_api::ids::{LogIndex, Term};
use cairn_api::units::BLOCK_BYTES;
use cairn_format::entry::EntryHeader;
use cairn_format::peer::RepairSource;

use super::{Group, LogEntry};
use crate::event::{CommandReply, DiskFault, Effect};
use crate::repair::ask::Loss;
use crate::repair::{Consumer, Outcome};
use crate::shared::{Origin, Purpose, Shared, blocks_match};

/// A payload that is damaged wherever it is read is looked for so many times more before the disk counts as failed.
const LOST_TRIES: u32 = 8;

#[derive(Debug, Default)]
pub(super) struct External {
    /// The last index handed over; `None` until the state machine has said where it stands.
    delivered: Option<u64>,
    /// A payload is being read for the index after `delivered`.
    is_reading: bool,
    /// How often that payload was damaged on every replica that answered.
    lost: u32,
    replies: BTreeMap<u64, Origin>,
    /// Who waits for everything up to an index to be handed over.
    barriers: Vec<(u64, Origin)>,
}

impl External {
    pub(super) fn expect_reply(&mut self, index: u64, origin: Origin) {
        self.replies.insert(index, origin);
    }
}

impl Group {
    /// The state machine outside holds everything up to `applied`.
    pub(crate) fn start_apply(&mut self, shared: &mut Shared, applied: LogIndex) {
        self.external.delivered = Some(applied.get().max(super::BASE));
        self.deliver_external(shared);
    }

    /// Replies to `origin` when everything up to `index` has been handed over.
    pub(super) fn external_barrier(&mut self, shared: &mut Shared, index: u64, origin: Origin) {
        self.external.barriers.push((index, origin));
        self.release_barriers(shared);
    }

    pub(super) fn deliver_external(&mut self, shared: &mut Shared) {
        if !self.is_external() {
            return;
        }
        while let Some(delivered) = self.external.delivered {
            if self.external.is_reading || delivered >= self.applied {
                break;
            }
            let index = delivered + 1;
            // An external group's headers are never evicted, so that what is applied is in memory.
            let Some(entry) = self.node.store().get(index) else {
                break;
            };
            let header = if entry.header.is_empty() {
                None
            } else {
                EntryHeader::decode(&entry.header).ok()
            };
            let payload_block = entry.location.map_or(0, |location| location.payload_block);
            match header {
                Some(header @ EntryHeader::Command { .. }) => {
                    self.external.is_reading = true;
                    let purpose = Purpose::External {
                        group: self.spec.group,
                        index,
                    };
                    #[allow(clippy::cast_possible_truncation, reason = "a command has at most 1 MiB")]
                    let length = (u64::from(header.payload_blocks()) * BLOCK_BYTES) as u32;
                    shared.read(payload_block * BLOCK_BYTES, length, purpose);
                }
                _ => self.external.delivered = Some(index),
            }
        }
        self.release_barriers(shared);
    }

    /// A command's payload was read back.
    pub(crate) fn external_read(&mut self, shared: &mut Shared, index: u64, result: Result<Bytes, DiskFault>) {
        let Some((entry, length, block_crcs)) = self.external_command(index) else {
            self.external.is_reading = false;
            return;
        };
        let data = match result {
            Ok(payload) if blocks_match(&payload, &block_crcs) => {
                return self.hand_over_command(shared, index, payload.slice(..length as usize));
            }
            result => result.ok(),
        };
        let (index, term) = (LogIndex(index), Term(entry.term));
        let loss = Loss {
            group: self.spec.group,
            source: RepairSource::Entry { index, term },
            at: 0,
            block: entry.location.map_or(0, |location| location.payload_block),
            crcs: block_crcs,
            data,
        };
        self.find_lost(shared, &loss, Consumer::External { index: index.get() });
    }

    /// What was lost of a command's payload is found, or will not be.
    pub(super) fn external_repaired(&mut self, shared: &mut Shared, index: u64, outcome: Outcome) {
        let Some((_, length, _)) = self.external_command(index) else {
            self.external.is_reading = false;
            return;
        };
        match outcome {
            Outcome::Found(blocks) => {
                let payload = Bytes::from(blocks.concat());
                self.hand_over_command(shared, index, payload.slice(..length as usize));
            }
            // The next turn reads it again.
            Outcome::Unanswered => self.external.is_reading = false,
            // What was read wrongly, here and there, may be read well the next time.
            Outcome::Lost { .. } if self.external.lost < LOST_TRIES => {
                self.external.lost += 1;
                self.external.is_reading = false;
            }
            // A meta replica that cannot read its own log must not answer from a stale catalogue: its disk has failed.
            Outcome::Lost { .. } => shared.effects.push(Effect::DiskFailed(format!(
                "the payload of command {index} of group {} is damaged on every replica that answers",
                self.spec.group
            ))),
        }
    }

    /// The entry of a command, the command's length, and its payload's checksums.
    fn external_command(&self, index: u64) -> Option<(LogEntry, u32, Vec<u32>)> {
        let entry = self.node.store().get(index)?;
        match EntryHeader::decode(&entry.header) {
            Ok(EntryHeader::Command { length, block_crcs }) => Some((entry.clone(), length, block_crcs)),
            _ => None,
        }
    }

    fn hand_over_command(&mut self, shared: &mut Shared, index: u64, data: Bytes) {
        (self.external.is_reading, self.external.lost) = (false, 0);
        self.external.delivered = Some(index);
        shared.effects.push(Effect::Apply {
            group: self.spec.group,
            index: LogIndex(index),
            data,
        });
        if let Some(Origin::Command(id)) = self.external.replies.remove(&index) {
            shared.end_command(id, Ok(CommandReply::Committed(LogIndex(index))));
        }
    }

    fn release_barriers(&mut self, shared: &mut Shared) {
        let Some(delivered) = self.external.delivered else {
            return;
        };
        let (due, waiting) = std::mem::take(&mut self.external.barriers)
            .into_iter()
            .partition(|(at, _)| *at <= delivered);
        self.external.barriers = waiting;
        let due: Vec<(u64, Origin)> = due;
        for (_, origin) in due {
            if let Origin::Command(id) = origin {
                shared.end_command(id, Ok(CommandReply::Done));
            }
        }
    }
}
