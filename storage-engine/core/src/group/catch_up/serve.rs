//! The serving side: reads the state at the mark from the map and the disk, for any member that asks.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use cairn_api::ids::{DiskId, LogIndex};
use cairn_api::units::{BLOCK_SIZE, Lba};
use cairn_format::peer::{
    CatchUpOutcome, CatchUpReply, CatchUpRequest, PeerMessage, REPLY_PORTIONS_BYTES_MAX, RepairSource,
};
use cairn_format::portion::{PORTION_BLOCKS_MAX, PORTION_BYTES_MAX, Portion, Row, RowContent};

use super::super::Group;
use crate::event::DiskFault;
use crate::map::{BlockMap, Content, LEAF_SLOTS, Owner, Piece};
use crate::mutation::{Seeded, mutated};
use crate::repair::ask::Loss;
use crate::repair::{Consumer, Outcome};
use crate::shared::{Purpose, Shared, blocks_match};

/// Data of one answer in blocks, unless more snapshots than this have a block at one address.
const ANSWER_BLOCKS_MAX: u64 = 256;
/// Bytes of rows after which an answer ends: a leaf more still fits what a message may have.
const ANSWER_ROWS_BYTES_MAX: usize = REPLY_PORTIONS_BYTES_MAX / 4;

/// Leaves that are looked at for one answer: many of them may have nothing that was there at the mark.
const ANSWER_LEAVES_MAX: u32 = 4096;

/// A row of an answer; where its data is on the disk, and what was read of it.
struct Planned {
    owner: LogIndex,
    row: Row,
    block: u64,
    data: Option<Bytes>,
}

/// An answer whose data is being read.
struct Answer {
    to: DiskId,
    request: CatchUpRequest,
    next: Option<Lba>,
    rows: Vec<Planned>,
    missing: usize,
}

/// Answers under way, one for each peer.
#[derive(Default)]
pub(crate) struct Serving {
    answers: BTreeMap<u64, Answer>,
    last: u64,
}

impl Group {
    /// A member asks for a portion of the state at the mark.
    pub(crate) fn catch_up_request(&mut self, shared: &mut Shared, from: DiskId, request: CatchUpRequest) {
        let Some(replica) = self.replica_on(from) else {
            tracing::debug!(group = %self.spec.group, %from, "a stranger asks for the state");
            return;
        };
        let mark = self.marked_state().map(|state| (state.index, state.term));
        if mark != Some((request.mark, request.mark_term)) {
            return reply(shared, from, &request, CatchUpOutcome::Gone);
        }
        self.leading.heard(replica, shared.now);
        let is_open = |answer: &&Answer| answer.to == from && answer.request == request;
        if shared.is_link_full(from) || self.serving.answers.values().any(|answer| is_open(&answer)) {
            return;
        }
        self.serving.answers.retain(|_, answer| answer.to != from);
        let (rows, next) = plan(&self.map, &request, shared.seeded);
        self.serving.last += 1;
        let serial = self.serving.last;
        let mut missing = 0;
        for (place, planned) in rows.iter().enumerate() {
            if planned.row.data_blocks() > 0 {
                missing += 1;
                let group = self.spec.group;
                let purpose = Purpose::CatchUp { group, serial, place };
                let offset = planned.block * u64::from(BLOCK_SIZE);
                shared.read(offset, planned.row.data_blocks() * BLOCK_SIZE, purpose);
            }
        }
        let answer = Answer {
            to: from,
            request,
            next,
            rows,
            missing,
        };
        self.serving.answers.insert(serial, answer);
        self.finish_answer(shared, serial);
    }

    /// Data for an answer was read.
    pub(crate) fn catch_up_read(
        &mut self,
        shared: &mut Shared,
        (serial, place): (u64, usize),
        result: Result<Bytes, DiskFault>,
    ) {
        let group = self.spec.group;
        let Some(planned) = self.planned(serial, place) else {
            return;
        };
        let RowContent::Data(crcs) = &planned.row.content else {
            return;
        };
        let data = match result {
            Ok(data) if blocks_match(&data, crcs) => {
                planned.data = Some(data);
                return self.read_ended(shared, serial);
            }
            result => result.ok(),
        };
        let loss = Loss {
            group,
            source: RepairSource::Volume,
            at: planned.row.lba.0,
            block: planned.block,
            crcs: crcs.clone(),
            data,
        };
        self.find_lost(shared, &loss, Consumer::CatchUp { serial, place });
    }

    /// What was lost of the data is found, or will not be: then there is no answer, and the peer asks again.
    pub(in crate::group) fn catch_up_repaired(
        &mut self,
        shared: &mut Shared,
        (serial, place): (u64, usize),
        outcome: Outcome,
    ) {
        let Some(planned) = self.planned(serial, place) else {
            return;
        };
        match outcome {
            Outcome::Found(blocks) => {
                planned.data = Some(blocks.concat().into());
                self.read_ended(shared, serial);
            }
            Outcome::Unanswered | Outcome::Lost { .. } => {
                self.serving.answers.remove(&serial);
            }
        }
    }

    fn planned(&mut self, serial: u64, place: usize) -> Option<&mut Planned> {
        self.serving.answers.get_mut(&serial)?.rows.get_mut(place)
    }

    fn read_ended(&mut self, shared: &mut Shared, serial: u64) {
        if let Some(answer) = self.serving.answers.get_mut(&serial) {
            answer.missing -= 1;
        }
        self.finish_answer(shared, serial);
    }

    fn finish_answer(&mut self, shared: &mut Shared, serial: u64) {
        if self
            .serving
            .answers
            .get(&serial)
            .is_none_or(|answer| answer.missing > 0)
        {
            return;
        }
        let Some(answer) = self.serving.answers.remove(&serial) else {
            return;
        };
        let outcome = CatchUpOutcome::Portions {
            next: answer.next,
            portions: portions_of(answer.rows),
        };
        reply(shared, answer.to, &answer.request, outcome);
    }
}

fn reply(shared: &mut Shared, to: DiskId, request: &CatchUpRequest, outcome: CatchUpOutcome) {
    let reply = CatchUpReply {
        group: request.group,
        mark: request.mark,
        have: request.have,
        at: request.at,
        outcome,
    };
    shared.send(to, PeerMessage::CatchUpReply(reply));
}

/// The rows of an answer, and where the next one begins. A leaf that would make it too long is left to the next, or, if it
/// is the first, cut.
fn plan(map: &BlockMap, request: &CatchUpRequest, seeded: Seeded) -> (Vec<Planned>, Option<Lba>) {
    let (mut rows, mut blocks, mut bytes) = (Vec::new(), 0, 0);
    let mut at = request.at.0;
    let mut leaves = 0;
    while let Some(number) = map.next_leaf(at / LEAF_SLOTS) {
        let origin = number * LEAF_SLOTS;
        let mut range = at.max(origin)..origin + LEAF_SLOTS;
        let mut found = rows_of(map, request, range.clone());
        while blocks + data_blocks(&found) > ANSWER_BLOCKS_MAX && range.end - range.start > 1 {
            if !rows.is_empty() {
                return (rows, Some(Lba(range.start)));
            }
            range.end = range.start + (range.end - range.start) / 2;
            found = rows_of(map, request, range.clone());
        }
        blocks += data_blocks(&found);
        bytes += found.iter().map(|planned| planned.row.encoded_len()).sum::<usize>();
        rows.extend(found);
        (at, leaves) = (range.end, leaves + 1);
        if blocks >= ANSWER_BLOCKS_MAX || bytes >= ANSWER_ROWS_BYTES_MAX || leaves == ANSWER_LEAVES_MAX {
            return (rows, Some(Lba(at)));
        }
        if mutated!(seeded, CatchUpEndsEarly) && blocks > 0 {
            break;
        }
    }
    (rows, None)
}

fn data_blocks(rows: &[Planned]) -> u64 {
    rows.iter().map(|planned| u64::from(planned.row.data_blocks())).sum()
}

/// What the state has in a range of one leaf.
fn rows_of(map: &BlockMap, request: &CatchUpRequest, range: Range<u64>) -> Vec<Planned> {
    let (number, first) = (range.start / LEAF_SLOTS, range.start % LEAF_SLOTS);
    let origin = number * LEAF_SLOTS;
    #[allow(clippy::cast_possible_truncation, reason = "slots of a leaf")]
    let slots = first as usize..(range.end - origin) as usize;
    let mut rows = Vec::new();
    for (owner, pieces) in map.state_at(request.mark, number, slots) {
        let owner = match owner {
            Owner::Head => LogIndex(0),
            Owner::Delta(at) => LogIndex(at),
        };
        rows.extend(pieces.iter().map(|piece| planned(owner, origin, piece, request)));
    }
    rows
}

fn planned(owner: LogIndex, origin: u64, piece: &Piece<'_>, request: &CatchUpRequest) -> Planned {
    let birth = LogIndex(piece.birth);
    let end = origin + piece.range().end as u64;
    let is_there = match birth {
        // Filled from a base, in the order of the blocks.
        LogIndex(0) => end <= request.filled_blocks,
        birth => birth <= request.have,
    };
    let (block, content) = match piece.content {
        Content::Data { .. } if is_there => (0, RowContent::Kept),
        Content::Data { block, crcs } => (block.0, RowContent::Data(crcs.to_vec())),
        Content::Trimmed => (0, RowContent::Trimmed),
        Content::Zero | Content::Hole => (0, RowContent::Zero),
    };
    let row = Row {
        lba: Lba(origin + piece.start as u64),
        #[allow(clippy::cast_possible_truncation, reason = "slots of a leaf")]
        slots: piece.slots as u32,
        birth,
        content,
    };
    Planned {
        owner,
        row,
        block,
        data: None,
    }
}

/// The portions of rows, each with its data in one piece: the receiver writes it as it comes.
fn portions_of(rows: Vec<Planned>) -> Vec<(Portion, Bytes)> {
    let mut owned: BTreeMap<LogIndex, Vec<Planned>> = BTreeMap::new();
    for planned in rows {
        owned.entry(planned.owner).or_default().push(planned);
    }
    let mut portions = Vec::new();
    for (owner, rows) in owned {
        let mut portion = Portion {
            owner,
            rows: Vec::new(),
        };
        let mut data: Vec<Bytes> = Vec::new();
        for planned in rows {
            let bytes = portion.encoded_len() + planned.row.encoded_len();
            let blocks = portion.data_blocks() + planned.row.data_blocks();
            if bytes > PORTION_BYTES_MAX || blocks > PORTION_BLOCKS_MAX {
                let full = std::mem::replace(
                    &mut portion,
                    Portion {
                        owner,
                        rows: Vec::new(),
                    },
                );
                portions.push((full, joined(&std::mem::take(&mut data))));
            }
            portion.rows.push(planned.row);
            data.extend(planned.data);
        }
        portions.push((portion, joined(&data)));
    }
    portions
}

fn joined(data: &[Bytes]) -> Bytes {
    match data {
        [] => Bytes::new(),
        [single] => single.clone(),
        many => many.concat().into(),
    }
}
