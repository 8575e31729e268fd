//! Asking a peer for blocks that one's own disk has lost: the messages and their encoding.
//!
//! A block is asked for by where it belongs *and* by its checksum, and every block of an answer travels with its own, so
//! that nobody takes an older version, or a copy that is bad as well, for the one that is missing.

use bytes::{BufMut, Bytes};
use cairn_api::ids::{GroupId, LogIndex, Term};
use cairn_api::units::BLOCK_SIZE;

use super::decode::{Decoder, damaged};
use super::encode::{Encoder, GATEWAY_FIXED_BYTES, MESSAGE_REPAIR_REPLY, MESSAGE_REPAIR_REQUEST};
use crate::checksum::{crc32c, verify};
use crate::entry::{ENTRY_BLOCKS_MAX, LBA_END_MAX};
use crate::error::FormatError;

/// Bytes of an address and a checksum.
const BLOCK_BYTES: usize = 12;

/// Where the blocks of a request belong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RepairSource {
    /// The volume as it is: addresses are those of its blocks.
    Volume,
    /// The payload of an entry of the Raft log, whether or not the volume still shows it: addresses count from the
    /// payload's first block.
    Entry {
        /// The entry's index.
        index: LogIndex,
        /// Its term.
        term: Term,
    },
}

impl RepairSource {
    const fn end(self) -> u64 {
        match self {
            Self::Volume => LBA_END_MAX,
            Self::Entry { .. } => ENTRY_BLOCKS_MAX as u64,
        }
    }
}

/// A block that is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WantedBlock {
    /// Its address, see [`RepairSource`].
    pub at: u64,
    /// CRC32C of what it should hold.
    pub crc: u32,
}

/// A replica asks another one for blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RepairRequest {
    /// The group.
    pub group: GroupId,
    /// Names the request to its sender; echoed.
    pub request: u64,
    /// Where they belong.
    pub source: RepairSource,
    /// 1 to `ENTRY_BLOCKS_MAX` blocks, their addresses rising.
    pub blocks: Vec<WantedBlock>,
}

/// A block that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundBlock {
    /// As in the request.
    pub at: u64,
    /// Its 4 KiB.
    pub data: Bytes,
}

/// Why blocks are missing in an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RepairRefusal {
    /// The peer knows no block with that checksum there, now: it may be behind, or the asker may be.
    Absent,
    /// The peer should have all of them, and its copies are bad too.
    Damaged,
    /// Too much to do.
    Busy,
}

/// The answer to a [`RepairRequest`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RepairReply {
    /// The group.
    pub group: GroupId,
    /// As in the request.
    pub request: u64,
    /// What was found, addresses rising.
    pub blocks: Vec<FoundBlock>,
    /// Why the others are not there; `None` if there are no others.
    pub missing: Option<RepairRefusal>,
}

impl RepairRequest {
    pub(super) fn body_bytes(&self) -> usize {
        GATEWAY_FIXED_BYTES + 18 + BLOCK_BYTES * self.blocks.len()
    }
}

impl RepairReply {
    pub(super) fn body_bytes(&self) -> usize {
        GATEWAY_FIXED_BYTES + 2 + BLOCK_BYTES * self.blocks.len()
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the counts are asserted first")]
impl Encoder {
    pub(super) fn repair_request(&mut self, request: &RepairRequest) {
        let addresses = request.blocks.iter().map(|block| block.at);
        let is_sound = !request.blocks.is_empty() && are_sound(addresses, request.source.end());
        assert!(is_sound, "1 to 256 blocks, their addresses rising and within bounds");
        self.body.put_u8(MESSAGE_REPAIR_REQUEST);
        self.body.put_u64_le(request.group.0);
        self.body.put_u64_le(request.request);
        match request.source {
            RepairSource::Volume => self.body.put_u8(1),
            RepairSource::Entry { index, term } => {
                self.body.put_u8(2);
                self.body.put_u64_le(index.0);
                self.body.put_u64_le(term.0);
            }
        }
        self.body.put_u16_le(request.blocks.len() as u16);
        for block in &request.blocks {
            self.body.put_u64_le(block.at);
            self.body.put_u32_le(block.crc);
        }
    }

    pub(super) fn repair_reply(&mut self, reply: &RepairReply) {
        let addresses = reply.blocks.iter().map(|block| block.at);
        assert!(
            are_sound(addresses, LBA_END_MAX),
            "at most 256 blocks, their addresses rising"
        );
        self.body.put_u8(MESSAGE_REPAIR_REPLY);
        self.body.put_u64_le(reply.group.0);
        self.body.put_u64_le(reply.request);
        self.body.put_u8(match reply.missing {
            None => 0,
            Some(RepairRefusal::Absent) => 1,
            Some(RepairRefusal::Damaged) => 2,
            Some(RepairRefusal::Busy) => 3,
        });
        self.body.put_u16_le(reply.blocks.len() as u16);
        for block in &reply.blocks {
            assert_eq!(block.data.len(), BLOCK_SIZE as usize, "a block is a block");
            self.body.put_u64_le(block.at);
            self.body.put_u32_le(crc32c(&block.data));
            self.push_payload(&block.data);
        }
    }
}

impl Decoder<'_> {
    pub(super) fn repair_request(&mut self) -> Result<RepairRequest, FormatError> {
        let group = GroupId(self.reader.u64("group")?);
        let request = self.reader.u64("request number")?;
        let source = match self.reader.u8("source of blocks")? {
            1 => RepairSource::Volume,
            2 => RepairSource::Entry {
                index: LogIndex(self.reader.u64("index")?),
                term: Term(self.reader.u64("term")?),
            },
            found => {
                let known = "1 volume, 2 log entry";
                return Err(self.reader.unknown("source of blocks", u64::from(found), known));
            }
        };
        let count = self.count(1)?;
        let mut blocks: Vec<WantedBlock> = Vec::with_capacity(count);
        for _ in 0..count {
            let at = self.address(blocks.last().map(|block| block.at), source.end())?;
            let crc = self.reader.u32("checksum")?;
            blocks.push(WantedBlock { at, crc });
        }
        Ok(RepairRequest {
            group,
            request,
            source,
            blocks,
        })
    }

    pub(super) fn repair_reply(&mut self) -> Result<RepairReply, FormatError> {
        let group = GroupId(self.reader.u64("group")?);
        let request = self.reader.u64("request number")?;
        let missing = match self.reader.u8("refusal")? {
            0 => None,
            1 => Some(RepairRefusal::Absent),
            2 => Some(RepairRefusal::Damaged),
            3 => Some(RepairRefusal::Busy),
            found => {
                let known = "0 none, 1 absent, 2 damaged, 3 busy";
                return Err(self.reader.unknown("refusal", u64::from(found), known));
            }
        };
        let count = self.count(0)?;
        let mut blocks: Vec<FoundBlock> = Vec::with_capacity(count);
        for _ in 0..count {
            let at = self.address(blocks.last().map(|block| block.at), LBA_END_MAX)?;
            let crc = self.reader.u32("checksum")?;
            let data = self.blocks(1)?;
            verify(&data, &[crc]).map_err(damaged)?;
            blocks.push(FoundBlock { at, data });
        }
        Ok(RepairReply {
            group,
            request,
            blocks,
            missing,
        })
    }

    fn count(&mut self, least: usize) -> Result<usize, FormatError> {
        let count = usize::from(self.reader.u16("block count")?);
        if count < least || count > ENTRY_BLOCKS_MAX as usize || count > self.reader.remaining() / BLOCK_BYTES {
            let expected = "at most 256, all in the body, and in a request at least 1";
            return Err(self.reader.out_of_range("block count", count as u64, expected));
        }
        Ok(count)
    }

    fn address(&mut self, before: Option<u64>, end: u64) -> Result<u64, FormatError> {
        let at = self.reader.u64("address")?;
        if at >= end || before.is_some_and(|before| at <= before) {
            let expected = "above the one before it, and within what is asked of";
            return Err(self.reader.out_of_range("address", at, expected));
        }
        Ok(at)
    }
}

/// Whether there are at most as many addresses as a message may have, rising and below `end`.
fn are_sound(addresses: impl ExactSizeIterator<Item = u64> + Clone, end: u64) -> bool {
    let few = addresses.len() <= ENTRY_BLOCKS_MAX as usize;
    let rising = addresses.clone().zip(addresses.clone().skip(1)).all(|(a, b)| a < b);
    few && rising && addresses.last().is_none_or(|last| last < end)
}
