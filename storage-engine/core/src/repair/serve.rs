//! Answering a peer that has lost blocks.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_api::ids::{DiskId, GroupId, LogIndex, Term};
use cairn_api::units::{BLOCK_BYTES, BLOCK_SIZE};
use cairn_format::checksum::crc32c;
use cairn_format::entry::BlockCrcs;
use cairn_format::peer::{FoundBlock, PeerMessage, RepairRefusal, RepairReply, RepairRequest, WantedBlock};

use crate::event::DiskFault;
use crate::log::{HeaderRead, parse_frame_entries};
use crate::mutation::mutated;
use crate::shared::{Purpose, Shared};

/// Answers under way at once, each of at most 1 MiB.
const UNDER_WAY_MAX: usize = 16;

/// Where a block that a peer has asked for is.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// Nowhere, as far as is known here.
    Absent,
    /// At this block of the disk.
    Disk(u64),
    /// In memory: its frame may still be on its way to the disk.
    Memory(Bytes),
}

enum State {
    Absent,
    Reading(u64),
    Found(Bytes),
    Damaged,
}

struct Served {
    wanted: WantedBlock,
    state: State,
}

struct Answer {
    to: DiskId,
    group: GroupId,
    request: u64,
    blocks: Vec<Served>,
    reads: usize,
}

/// A question about an entry whose header must be read back first.
struct Search {
    to: DiskId,
    request: RepairRequest,
    index: LogIndex,
    term: Term,
}

#[derive(Default)]
pub(crate) struct Serving {
    answers: BTreeMap<u64, Answer>,
    searches: BTreeMap<u64, Search>,
    last: u64,
}

impl Serving {
    pub(super) fn forget(&mut self, group: GroupId) {
        self.answers.retain(|_, answer| answer.group != group);
        self.searches.retain(|_, search| search.request.group != group);
    }

    fn is_full(&self) -> bool {
        self.answers.len() + self.searches.len() >= UNDER_WAY_MAX
    }
}

impl Shared {
    /// Answers without a block.
    pub(crate) fn refuse_repair(&mut self, to: DiskId, request: &RepairRequest, why: RepairRefusal) {
        let reply = RepairReply {
            group: request.group,
            request: request.request,
            blocks: Vec::new(),
            missing: Some(why),
        };
        self.send(to, PeerMessage::RepairReply(reply));
    }

    /// Answers a peer with the blocks at `places`, one for each that it has asked for.
    pub(crate) fn serve_repair(&mut self, to: DiskId, request: &RepairRequest, places: Vec<Place>) {
        if self.repairs.serving.is_full() {
            return self.refuse_repair(to, request, RepairRefusal::Busy);
        }
        let served = |(wanted, place): (&WantedBlock, Place)| Served {
            wanted: *wanted,
            state: match place {
                Place::Absent => State::Absent,
                Place::Disk(block) => State::Reading(block),
                Place::Memory(data) if crc32c(&data) == wanted.crc => State::Found(data),
                Place::Memory(_) => State::Damaged,
            },
        };
        let blocks: Vec<Served> = request.blocks.iter().zip(places).map(served).collect();
        let runs = runs_of(&blocks);
        self.repairs.serving.last += 1;
        let number = self.repairs.serving.last;
        let answer = Answer {
            to,
            group: request.group,
            request: request.request,
            blocks,
            reads: runs.len(),
        };
        self.repairs.serving.answers.insert(number, answer);
        for (first, block, count) in runs {
            self.read_for_peer(request.group, number, (first, count), block);
        }
        self.finish_answer(number);
    }

    fn read_for_peer(&mut self, group: GroupId, answer: u64, (first, count): (usize, usize), block: u64) {
        let purpose = Purpose::RepairServe {
            group,
            answer,
            first,
            count,
        };
        #[allow(clippy::cast_possible_truncation, reason = "at most 1 MiB")]
        let length = count as u32 * BLOCK_SIZE;
        self.read(block * BLOCK_BYTES, length, purpose);
    }

    /// Blocks for a peer were read.
    pub(crate) fn served(&mut self, number: u64, (first, count): (usize, usize), result: &Result<Bytes, DiskFault>) {
        let is_trusting = mutated!(self.seeded, RepairUnchecked);
        let Some(answer) = self.repairs.serving.answers.get_mut(&number) else {
            return;
        };
        answer.reads -= 1;
        let group = answer.group;
        let (mut again, mut damaged) = (Vec::new(), Vec::new());
        let fault = result.as_ref().err().cloned();
        for (place, served) in (first..).zip(&mut answer.blocks[first..first + count]) {
            let State::Reading(block) = served.state else { continue };
            match result {
                Ok(data) => {
                    let start = (place - first) * BLOCK_SIZE as usize;
                    let piece = data.slice(start..start + BLOCK_SIZE as usize);
                    if crc32c(&piece) == served.wanted.crc || is_trusting {
                        served.state = State::Found(piece);
                        continue;
                    }
                }
                // One bad sector fails them all: each by itself.
                Err(_) if count > 1 => {
                    again.push((place, block));
                    continue;
                }
                Err(_) => {}
            }
            served.state = State::Damaged;
            damaged.push(block);
        }
        answer.reads += again.len();
        for block in damaged {
            self.note_damage(group, block, fault.as_ref());
        }
        for (place, block) in again {
            self.read_for_peer(group, number, (place, 1), block);
        }
        self.finish_answer(number);
    }

    /// Sends an answer if nothing of it is missing any more.
    fn finish_answer(&mut self, number: u64) {
        let answers = &mut self.repairs.serving.answers;
        if answers.get(&number).is_none_or(|answer| answer.reads > 0) {
            return;
        }
        let Some(answer) = answers.remove(&number) else { return };
        let is_any = |is_it: fn(&State) -> bool| answer.blocks.iter().any(|served| is_it(&served.state));
        let mut missing = if is_any(|state| matches!(state, State::Absent | State::Reading(_))) {
            Some(RepairRefusal::Absent)
        } else if is_any(|state| matches!(state, State::Damaged)) {
            Some(RepairRefusal::Damaged)
        } else {
            None
        };
        let found = answer.blocks.into_iter().filter_map(|served| match served.state {
            State::Found(data) => Some(FoundBlock {
                at: served.wanted.at,
                data,
            }),
            _ => None,
        });
        let mut blocks: Vec<FoundBlock> = found.collect();
        if self.is_link_full(answer.to) {
            blocks.clear();
            missing = Some(RepairRefusal::Busy);
        }
        let reply = RepairReply {
            group: answer.group,
            request: answer.request,
            blocks,
            missing,
        };
        self.send(answer.to, PeerMessage::RepairReply(reply));
    }

    /// Looks an old entry up in the frame at `offset`, then answers.
    pub(crate) fn search_for_peer(
        &mut self,
        to: DiskId,
        request: RepairRequest,
        (index, term): (LogIndex, Term),
        offset: u64,
    ) {
        if self.repairs.serving.is_full() {
            return self.refuse_repair(to, &request, RepairRefusal::Busy);
        }
        self.repairs.serving.last += 1;
        let number = self.repairs.serving.last;
        let group = request.group;
        let search = Search {
            to,
            request,
            index,
            term,
        };
        self.repairs.serving.searches.insert(number, search);
        self.read_header(group, number, offset, HeaderRead::Guess);
    }

    fn read_header(&mut self, group: GroupId, search: u64, offset: u64, header: HeaderRead) {
        let purpose = Purpose::RepairSearch {
            group,
            search,
            offset,
            header,
        };
        self.read(offset, header.bytes(self.log.bytes_to_segment_end(offset)), purpose);
    }

    /// The frame of an old entry was read.
    pub(crate) fn searched(
        &mut self,
        number: u64,
        (offset, header): (u64, HeaderRead),
        result: Result<Bytes, DiskFault>,
    ) {
        let Some(search) = self.repairs.serving.searches.remove(&number) else {
            return;
        };
        if let Some(next) = header.next(&result, self.log.bytes_to_segment_end(offset)) {
            let group = search.request.group;
            self.repairs.serving.searches.insert(number, search);
            return self.read_header(group, number, offset, next);
        }
        let disk = self.config.disk;
        let (to, request) = (search.to, search.request);
        let entries = result
            .map_err(|fault| fault.to_string())
            .and_then(|bytes| parse_frame_entries(disk, &bytes, request.group));
        let entry = match entries {
            Ok(entries) => entries
                .into_iter()
                .find(|entry| (entry.index, entry.term) == (search.index, search.term)),
            Err(error) => {
                tracing::error!(group = %request.group, %error, "an old entry cannot be read back for a peer");
                None
            }
        };
        match entry {
            Some(entry) => {
                let places = entry_places(&request.blocks, &entry.header, entry.payload_block, &Bytes::new());
                self.serve_repair(to, &request, places);
            }
            None => self.refuse_repair(to, &request, RepairRefusal::Absent),
        }
    }
}

/// Where blocks of an entry's payload are: in memory if `payload` is, else from `payload_block` of the disk on. Those
/// that the entry does not have, or has with another checksum, are absent.
pub(crate) fn entry_places(wanted: &[WantedBlock], header: &[u8], payload_block: u64, payload: &Bytes) -> Vec<Place> {
    let crcs: Vec<u32> = BlockCrcs::of_header(header)
        .map(|crcs| crcs.iter().collect())
        .unwrap_or_default();
    let size = BLOCK_SIZE as usize;
    let place_of = |wanted: &WantedBlock| {
        let place = usize::try_from(wanted.at).unwrap_or(usize::MAX);
        match crcs.get(place) {
            Some(crc) if *crc == wanted.crc && !payload.is_empty() => {
                Place::Memory(payload.slice(place * size..(place + 1) * size))
            }
            Some(crc) if *crc == wanted.crc && payload_block != 0 => Place::Disk(payload_block + wanted.at),
            _ => Place::Absent,
        }
    };
    wanted.iter().map(place_of).collect()
}

/// The reads that an answer needs: place of the first block, the disk's block, blocks.
fn runs_of(blocks: &[Served]) -> Vec<(usize, u64, usize)> {
    let mut runs: Vec<(usize, u64, usize)> = Vec::new();
    for (place, served) in (0..).zip(blocks) {
        let State::Reading(block) = served.state else { continue };
        match runs.last_mut() {
            Some((first, start, count)) if *first + *count == place && *start + *count as u64 == block => *count += 1,
            _ => runs.push((place, block, 1)),
        }
    }
    runs
}
