//! Bringing up a replica whose log ends before the leader's begins: the messages and their encoding.

use bytes::{BufMut, Bytes};
use cairn_api::ids::{GroupId, LogIndex, ReplicaId, Term};
use cairn_api::units::{BLOCK_SIZE, Lba};

use super::decode::{Decoder, damaged};
use super::encode::{Encoder, MESSAGE_CATCH_UP_OFFER, MESSAGE_CATCH_UP_REPLY, MESSAGE_CATCH_UP_REQUEST};
use crate::entry::LBA_END_MAX;
use crate::error::FormatError;
use crate::portion::Portion;
use crate::volume_state::{STATE_SNAPSHOTS_MAX, VolumeState};

/// The most portions in one reply: a block of each snapshot, should all of them have one at the same address.
pub const REPLY_PORTIONS_MAX: usize = STATE_SNAPSHOTS_MAX + 1;
/// The most bytes that the portions of one reply may take, their data aside.
pub const REPLY_PORTIONS_BYTES_MAX: usize = 512 << 10;

/// A leader tells a replica that it has to be brought up without the log, and to which state: Raft's `MsgSnapshot`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CatchUpOffer {
    /// The group.
    pub group: GroupId,
    /// The leader.
    pub from: ReplicaId,
    /// The replica that is behind.
    pub to: ReplicaId,
    /// The leader's term.
    pub term: Term,
    /// Blocks with data in that state, snapshots included: an estimate of what is to come.
    pub blocks: u64,
    /// The state.
    pub state: VolumeState,
}

/// A replica asks for the next portions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CatchUpRequest {
    /// The group.
    pub group: GroupId,
    /// The mark whose state it wants.
    pub mark: LogIndex,
    /// The mark's term.
    pub mark_term: Term,
    /// It has every slot that was born up to here; 0 to be sent all data.
    pub have: LogIndex,
    /// It has every slot that was filled from a base up to this block; 0 to be sent all data.
    pub filled_blocks: u64,
    /// From this block of the volume on.
    pub at: Lba,
}

/// What comes of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CatchUpOutcome {
    /// There is no such mark here (any more).
    Gone,
    /// What the state has from the block that was asked for up to `next`. What is not mentioned is not there.
    Portions {
        /// Where to go on; `None` if this was the last.
        next: Option<Lba>,
        /// The portions, each with its data.
        portions: Vec<(Portion, Bytes)>,
    },
}

/// The answer to a [`CatchUpRequest`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CatchUpReply {
    /// The group.
    pub group: GroupId,
    /// As in the request.
    pub mark: LogIndex,
    /// As in the request.
    pub have: LogIndex,
    /// As in the request.
    pub at: Lba,
    /// What comes of it.
    pub outcome: CatchUpOutcome,
}

impl CatchUpOffer {
    pub(super) const fn body_bytes(&self) -> usize {
        1 + 5 * 8 + self.state.encoded_len()
    }
}

impl CatchUpRequest {
    pub(super) const BODY_BYTES: usize = 1 + 6 * 8;
}

impl CatchUpReply {
    pub(super) fn body_bytes(&self) -> usize {
        let portions = match &self.outcome {
            CatchUpOutcome::Gone => 0,
            CatchUpOutcome::Portions { portions, .. } => {
                portions.iter().map(|(portion, _)| portion.encoded_len()).sum::<usize>()
            }
        };
        1 + 4 * 8 + 1 + 8 + 2 + portions
    }

    pub(super) fn payload_bytes(&self) -> usize {
        match &self.outcome {
            CatchUpOutcome::Gone => 0,
            CatchUpOutcome::Portions { portions, .. } => portions.iter().map(|(_, data)| data.len()).sum(),
        }
    }
}

impl Encoder {
    pub(super) fn catch_up_offer(&mut self, offer: &CatchUpOffer) {
        self.body.put_u8(MESSAGE_CATCH_UP_OFFER);
        for field in [offer.group.0, offer.from.0, offer.to.0, offer.term.0, offer.blocks] {
            self.body.put_u64_le(field);
        }
        offer.state.encode_into(&mut self.body);
    }

    pub(super) fn catch_up_request(&mut self, request: &CatchUpRequest) {
        assert!(request.at.0 < LBA_END_MAX, "a block within the largest volume");
        self.body.put_u8(MESSAGE_CATCH_UP_REQUEST);
        for field in [
            request.group.0,
            request.mark.0,
            request.mark_term.0,
            request.have.0,
            request.filled_blocks,
            request.at.0,
        ] {
            self.body.put_u64_le(field);
        }
    }

    pub(super) fn catch_up_reply(&mut self, reply: &CatchUpReply) {
        self.body.put_u8(MESSAGE_CATCH_UP_REPLY);
        for field in [reply.group.0, reply.mark.0, reply.have.0, reply.at.0] {
            self.body.put_u64_le(field);
        }
        match &reply.outcome {
            CatchUpOutcome::Gone => self.body.put_u8(1),
            CatchUpOutcome::Portions { next, portions } => {
                assert!(
                    portions.len() <= REPLY_PORTIONS_MAX,
                    "at most 1,001 portions in a reply"
                );
                self.body.put_u8(2);
                let next = next.map_or(u64::MAX, |next| next.0);
                assert!(next > reply.at.0, "a reply that goes on");
                self.body.put_u64_le(next);
                #[allow(clippy::cast_possible_truncation, reason = "asserted above")]
                self.body.put_u16_le(portions.len() as u16);
                for (portion, data) in portions {
                    let blocks = data.len() / BLOCK_SIZE as usize;
                    assert_eq!(
                        blocks,
                        portion.data_blocks() as usize,
                        "a portion's data is as long as it says"
                    );
                    portion.encode_into(&mut self.body);
                    self.push_payload(data);
                }
            }
        }
    }
}

impl Decoder<'_> {
    pub(super) fn catch_up_offer(&mut self) -> Result<CatchUpOffer, FormatError> {
        Ok(CatchUpOffer {
            group: GroupId(self.reader.u64("group")?),
            from: ReplicaId(self.reader.u64("sender")?),
            to: ReplicaId(self.reader.u64("receiver")?),
            term: Term(self.reader.u64("term")?),
            blocks: self.reader.u64("blocks")?,
            state: VolumeState::take(&mut self.reader)?,
        })
    }

    pub(super) fn catch_up_request(&mut self) -> Result<CatchUpRequest, FormatError> {
        Ok(CatchUpRequest {
            group: GroupId(self.reader.u64("group")?),
            mark: LogIndex(self.reader.u64("mark")?),
            mark_term: Term(self.reader.u64("term of the mark")?),
            have: LogIndex(self.reader.u64("index at hand")?),
            filled_blocks: self.reader.u64("blocks filled")?,
            at: self.block()?,
        })
    }

    pub(super) fn catch_up_reply(&mut self) -> Result<CatchUpReply, FormatError> {
        let group = GroupId(self.reader.u64("group")?);
        let mark = LogIndex(self.reader.u64("mark")?);
        let have = LogIndex(self.reader.u64("index at hand")?);
        let at = self.block()?;
        let outcome = match self.reader.u8("outcome")? {
            1 => CatchUpOutcome::Gone,
            2 => self.portions(at)?,
            found => return Err(self.reader.unknown("outcome", u64::from(found), "1 gone, 2 portions")),
        };
        Ok(CatchUpReply {
            group,
            mark,
            have,
            at,
            outcome,
        })
    }

    fn portions(&mut self, at: Lba) -> Result<CatchUpOutcome, FormatError> {
        let next = match self.reader.u64("next block")? {
            u64::MAX => None,
            next if next > at.0 && next < LBA_END_MAX => Some(Lba(next)),
            next => {
                let expected = "above the block that was asked for, and within 2^51 blocks";
                return Err(self.reader.out_of_range("next block", next, expected));
            }
        };
        let count = usize::from(self.reader.u16("portion count")?);
        if count > REPLY_PORTIONS_MAX {
            return Err(self.reader.out_of_range("portion count", count as u64, "at most 1,001"));
        }
        let mut portions = Vec::with_capacity(count);
        for _ in 0..count {
            let portion = Portion::take(&mut self.reader)?;
            let data = self.blocks(portion.data_blocks())?;
            portion.verify(&data).map_err(damaged)?;
            portions.push((portion, data));
        }
        Ok(CatchUpOutcome::Portions { next, portions })
    }

    fn block(&mut self) -> Result<Lba, FormatError> {
        let at = self.reader.u64("first block")?;
        if at < LBA_END_MAX {
            Ok(Lba(at))
        } else {
            Err(self.reader.out_of_range("first block", at, "within 2^51 blocks"))
        }
    }
}

const _: () = assert!(REPLY_PORTIONS_BYTES_MAX <= super::BODY_BYTES_MAX / 2);
const _: () = assert!(REPLY_PORTIONS_MAX * BLOCK_SIZE as usize <= super::PAYLOAD_BYTES_MAX);
