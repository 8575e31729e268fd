//! Finding lost blocks: the disk once more, then one peer after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use cairn_api::ids::{DiskId, GroupId};
use cairn_api::units::{BLOCK_BYTES, BLOCK_SIZE};
use cairn_format::checksum::crc32c;
use cairn_format::peer::{PeerMessage, RepairRefusal, RepairReply, RepairRequest, RepairSource, WantedBlock};

use super::{Consumer, Ended, Outcome};
use crate::event::{Damage, DiskFault};
use crate::mutation::mutated;
use crate::shared::{Purpose, Shared};
use crate::time::Timestamp;

/// Repairs of one disk under way at once, each of at most 1 MiB.
const UNDER_WAY_MAX: usize = 16;
/// Repairs that wait for one of them to end; who comes when it is full is told to try again.
const WAITING_MAX: usize = 256;
/// How long a peer may take before the next one is asked: many times what its disk needs.
const PEER_TIMEOUT: Duration = Duration::from_millis(300);
/// The pause when every peer has been asked.
const ROUND_PAUSE: Duration = Duration::from_millis(100);
/// After so long the reader is told to ask again: before its gateway would look for another leader.
const READER_TIMEOUT: Duration = Duration::from_secs(1);
/// A block that was asked for during so long, and not all members have answered, counts as lost: longer than the restart
/// of a node takes, shorter than most initiators' patience with a device.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Blocks that lie together, of which some were not read as they should be.
#[derive(Debug)]
pub(crate) struct Loss {
    pub(crate) group: GroupId,
    /// Where they belong.
    pub(crate) source: RepairSource,
    /// The address of the first one there.
    pub(crate) at: u64,
    /// The disk's block of the first one.
    pub(crate) block: u64,
    pub(crate) crcs: Vec<u32>,
    /// What the disk gave, if it gave anything.
    pub(crate) data: Option<Bytes>,
}

struct Block {
    at: u64,
    crc: u32,
    /// The disk's.
    block: u64,
    data: Option<Bytes>,
    /// Read by itself and found bad.
    is_damaged: bool,
}

enum Step {
    /// For another repair to end.
    Waiting,
    /// For so many reads of single blocks.
    Probing(usize),
    /// For this peer.
    Asking(DiskId, Timestamp),
    /// For the next round.
    Pausing(Timestamp),
}

struct Job {
    group: GroupId,
    source: RepairSource,
    consumer: Consumer,
    blocks: Vec<Block>,
    peers: Vec<DiskId>,
    /// The place in `peers` of the one to ask next.
    next: usize,
    /// Peers whose copies of all that is still missing are bad too.
    refused: BTreeSet<DiskId>,
    deadline: Timestamp,
    step: Step,
}

impl Job {
    fn missing(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(|block| block.data.is_none())
    }
}

pub(super) struct Asking {
    jobs: BTreeMap<u64, Job>,
    last: u64,
}

impl Asking {
    pub(super) fn new(first: u64) -> Self {
        Self {
            jobs: BTreeMap::new(),
            last: first,
        }
    }

    pub(super) fn forget(&mut self, group: GroupId) {
        self.jobs.retain(|_, job| job.group != group);
    }

    pub(super) fn is_about(&self, blocks: &Range<u64>) -> bool {
        let mut all = self.jobs.values().flat_map(|job| &job.blocks);
        all.any(|block| blocks.contains(&block.block))
    }

    fn under_way(&self) -> usize {
        let is_waiting = |job: &&Job| matches!(job.step, Step::Waiting);
        self.jobs.len() - self.jobs.values().filter(is_waiting).count()
    }

    /// The repair to begin next, if another one may begin.
    fn next_waiting(&self) -> Option<u64> {
        let is_waiting = |job: &Job| matches!(job.step, Step::Waiting);
        let waiting = self.jobs.iter().find(|(_, job)| is_waiting(job));
        waiting
            .map(|(number, _)| *number)
            .filter(|_| self.under_way() < UNDER_WAY_MAX)
    }
}

impl Shared {
    /// Finds what is lost for `consumer`, who hears of the end through [`super::Repairs::take_ended`].
    pub(crate) fn repair(&mut self, loss: &Loss, peers: Vec<DiskId>, consumer: Consumer) {
        let asking = &mut self.repairs.asking;
        if asking.jobs.len() >= UNDER_WAY_MAX + WAITING_MAX {
            self.repairs.ended.push_back(Ended {
                group: loss.group,
                consumer,
                outcome: Outcome::Unanswered,
            });
            return;
        }
        asking.last += 1;
        let number = asking.last;
        let job = Job {
            group: loss.group,
            source: loss.source,
            consumer,
            blocks: blocks_of(loss),
            peers,
            next: 0,
            refused: BTreeSet::new(),
            deadline: self.now.after(READER_TIMEOUT),
            step: Step::Waiting,
        };
        let may_begin = asking.under_way() < UNDER_WAY_MAX;
        asking.jobs.insert(number, job);
        if may_begin {
            self.probe(number);
        }
    }

    /// Reads each missing block by itself.
    fn probe(&mut self, number: u64) {
        let Some(job) = self.repairs.asking.jobs.get_mut(&number) else {
            return;
        };
        let group = job.group;
        let places = (0..).zip(&job.blocks).filter(|(_, block)| block.data.is_none());
        let wanted: Vec<(usize, u64)> = places.map(|(place, block)| (place, block.block)).collect();
        job.step = Step::Probing(wanted.len());
        if wanted.is_empty() {
            return self.ask_next(number);
        }
        for (place, block) in wanted {
            let purpose = Purpose::RepairProbe {
                group,
                job: number,
                place,
            };
            self.read(block * BLOCK_BYTES, BLOCK_SIZE, purpose);
        }
    }

    /// A missing block was read by itself.
    pub(crate) fn probed(&mut self, number: u64, place: usize, result: Result<Bytes, DiskFault>) {
        let Some(job) = self.repairs.asking.jobs.get_mut(&number) else {
            return;
        };
        let block = &mut job.blocks[place];
        match result {
            Ok(data) if crc32c(&data) == block.crc => block.data = Some(data),
            result => {
                block.is_damaged = true;
                let (group, block) = (job.group, block.block);
                self.note_damage(group, block, result.err().as_ref());
            }
        }
        if let Some(job) = self.repairs.asking.jobs.get_mut(&number)
            && let Step::Probing(missing) = &mut job.step
        {
            *missing -= 1;
            if *missing == 0 {
                self.ask_next(number);
            }
        }
    }

    /// Asks the next peer, ends the repair, or pauses before another round.
    fn ask_next(&mut self, number: u64) {
        loop {
            let Some(job) = self.repairs.asking.jobs.get_mut(&number) else {
                return;
            };
            if job.missing().next().is_none() {
                return self.end_repair(number, None);
            }
            if job.peers.iter().all(|peer| job.refused.contains(peer)) {
                return self.end_repair(number, Some(true));
            }
            let Some(peer) = job.peers.get(job.next).copied() else {
                job.next = 0;
                job.step = Step::Pausing(self.now.after(ROUND_PAUSE));
                return;
            };
            job.next += 1;
            if job.refused.contains(&peer) {
                continue;
            }
            let wanted = |block: &Block| WantedBlock {
                at: block.at,
                crc: block.crc,
            };
            let request = RepairRequest {
                group: job.group,
                request: number,
                source: job.source,
                blocks: job.missing().map(wanted).collect(),
            };
            job.step = Step::Asking(peer, self.now.after(PEER_TIMEOUT));
            if self.send(peer, PeerMessage::RepairRequest(request)) {
                return;
            }
        }
    }

    /// A peer has answered. An answer that comes late is as good as another.
    pub(crate) fn repair_reply(&mut self, from: DiskId, reply: RepairReply) {
        let is_trusting = mutated!(self.seeded, RepairUnchecked);
        let Some(job) = self.repairs.asking.jobs.get_mut(&reply.request) else {
            return;
        };
        if job.group != reply.group || !job.peers.contains(&from) {
            return;
        }
        for found in reply.blocks {
            let block = job.blocks.iter_mut().find(|block| block.at == found.at);
            if let Some(block) = block.filter(|block| block.data.is_none())
                && (crc32c(&found.data) == block.crc || is_trusting)
            {
                block.data = Some(found.data);
            }
        }
        if reply.missing == Some(RepairRefusal::Damaged) {
            job.refused.insert(from);
        }
        let is_done = job.missing().next().is_none();
        if is_done || matches!(job.step, Step::Asking(peer, _) if peer == from) {
            self.ask_next(reply.request);
        }
    }

    /// Time has passed, or a link broke: goes on where an answer will not come.
    pub(crate) fn check_repairs(&mut self) {
        let now = self.now;
        let numbers: Vec<u64> = self.repairs.asking.jobs.keys().copied().collect();
        for number in numbers {
            let Some(job) = self.repairs.asking.jobs.get(&number) else {
                continue;
            };
            match job.step {
                // The disk answers in its time, and there is no taking back of a read.
                Step::Probing(_) => {}
                _ if now >= job.deadline => self.end_repair(number, Some(false)),
                Step::Asking(peer, until) if now >= until || !self.links.is_up(peer) => self.ask_next(number),
                Step::Pausing(until) if now >= until => self.ask_next(number),
                Step::Asking(..) | Step::Pausing(_) | Step::Waiting => {}
            }
        }
    }

    /// Ends a repair. `is_final` says of blocks that are missing whether every member has answered.
    fn end_repair(&mut self, number: u64, is_final: Option<bool>) {
        let Some(job) = self.repairs.asking.jobs.remove(&number) else {
            return;
        };
        let group = job.group;
        let outcome = match is_final {
            None => Outcome::Found(job.blocks.iter().filter_map(|block| block.data.clone()).collect()),
            Some(is_final) => self.judge_missing(&job, is_final),
        };
        for block in job.blocks.iter().filter(|block| block.is_damaged) {
            if let Some(data) = &block.data {
                self.heal(group, block.block, block.crc, data);
            }
        }
        self.repairs.ended.push_back(Ended {
            group,
            consumer: job.consumer,
            outcome,
        });
        if let Some(next) = self.repairs.asking.next_waiting() {
            self.probe(next);
        }
    }

    /// Whether blocks that were not found are lost for good.
    fn judge_missing(&mut self, job: &Job, is_final: bool) -> Outcome {
        let now = self.now;
        let known = &mut self.repairs.known;
        let is_lost = |since: Option<Timestamp>| is_final || since.is_some_and(|since| now.since(since) > PATIENCE);
        let lost: Vec<&Block> = job
            .missing()
            .filter(|block| is_lost(known.since(block.block)))
            .collect();
        let Some(at) = lost.first().map(|block| block.at) else {
            return Outcome::Unanswered;
        };
        let mut news = 0;
        for block in lost {
            if known.lost(block.block) {
                let (group, at) = (job.group, block.at);
                tracing::error!(%group, source = ?job.source, at, is_final, "no replica has a good copy of a block");
                news += 1;
            }
        }
        self.count_damage(job.group, Damage::Unrepairable, news);
        Outcome::Lost { at }
    }
}

/// The blocks of a loss; those that the disk gave as they should be are not missing.
fn blocks_of(loss: &Loss) -> Vec<Block> {
    let size = BLOCK_SIZE as usize;
    let given = |place: usize, crc: u32| {
        let data = loss.data.as_ref()?;
        let end = (place + 1) * size;
        let block = (end <= data.len()).then(|| data.slice(end - size..end))?;
        (crc32c(&block) == crc).then_some(block)
    };
    (0..)
        .zip(&loss.crcs)
        .map(|(place, crc)| Block {
            at: loss.at + place as u64,
            crc: *crc,
            block: loss.block + place as u64,
            data: given(place, *crc),
            is_damaged: false,
        })
        .collect()
}
