//! The receiving side: asks for the state at a mark, address after address, and stages it.

use std::collections::BTreeMap;

use cairn_api::ids::{DiskId, LogIndex};
use cairn_api::units::Lba;
use cairn_format::peer::{CatchUpOffer, CatchUpOutcome, CatchUpReply, CatchUpRequest, PeerMessage};
use cairn_format::portion::{Portion, Row};
use cairn_format::volume_state::VolumeState;
use raft::eraftpb::{Message, MessageType};

use super::super::Group;
use super::install::snapshot;
use super::staging::{Staging, membership_of};
use crate::event::{CatchUpStatus, Effect};
use crate::log::{Record, Ticket};
use crate::mutation::mutated;
use crate::shared::Shared;
use crate::time::Timestamp;

/// Blocks of portions that may wait for a frame before more is asked for: enough to keep the disk busy.
pub(crate) const UNPLACED_BLOCKS_MAX: u64 = 1024;
/// What an answer takes on the disk as a rule: its data, and headers.
pub(crate) const REPLY_ROOM_BLOCKS: u64 = 256 + 64;

/// A request that is under way.
struct Asked {
    have: LogIndex,
    at: Lba,
    since: Timestamp,
}

/// See the module.
pub(crate) struct Receiver {
    /// The last offer of this state, and the disk that it came from.
    pub(super) offer: CatchUpOffer,
    source: DiskId,
    pub(super) staging: Staging,
    /// Where to ask next; `None` when all has come.
    next: Option<Lba>,
    /// Up to this block all that was born up to this index is here from a state that was received before.
    resumed: Option<(Lba, LogIndex)>,
    /// The sender has it no more: the next offer will be of another one.
    is_gone: bool,
    /// Ask there for all data: something that the sender took for known is not here.
    in_full: bool,
    /// Up to which block the replica's own map was filled from a base when this began.
    filled_blocks: u64,
    asked: Option<Asked>,
    /// Portions that wait for a frame.
    unplaced: BTreeMap<Ticket, Portion>,
    unplaced_blocks: u64,
    /// The last record of what was received, and up to where all are durable.
    last: Ticket,
    durable: Ticket,
    /// Bytes of data that came.
    bytes: u64,
}

impl Receiver {
    /// Whether all has come, and is durable.
    pub(super) fn is_complete(&self) -> bool {
        self.next.is_none() && self.unplaced.is_empty() && self.durable >= self.last
    }

    /// What a receiver of a later state need not be sent: up to which block, all that was born up to which index.
    fn resumable(&self) -> Option<(Lba, LogIndex)> {
        let own = (self.next.unwrap_or(Lba(u64::MAX)), self.staging.mark);
        self.resumed.into_iter().chain([own]).max_by_key(|(upto, _)| *upto)
    }

    /// Up to which index it has what there was at this block.
    fn have_at(&self, at: Lba) -> LogIndex {
        match self.resumed {
            _ if self.in_full => LogIndex(0),
            Some((upto, mark)) if at < upto => mark.max(self.staging.have),
            _ => self.staging.have,
        }
    }

    /// Up to which block it has what was filled from a base.
    const fn filled_at(&self) -> u64 {
        if self.in_full { 0 } else { self.filled_blocks }
    }

    /// For people.
    pub(crate) fn status(&self) -> CatchUpStatus {
        let state = &self.offer.state;
        let at = self
            .next
            .map_or(state.size_blocks, |next| next.0.min(state.size_blocks));
        CatchUpStatus {
            mark: state.index,
            bytes: self.bytes,
            staged_blocks: self.staging.blocks(),
            blocks: self.offer.blocks,
            permille: u16::try_from(u128::from(at) * 1000 / u128::from(state.size_blocks.max(1))).unwrap_or(1000),
        }
    }
}

impl Group {
    /// A leader offers a state to this replica.
    pub(crate) fn offered(&mut self, shared: &mut Shared, disk: DiskId, offer: CatchUpOffer) {
        let is_own = offer.to == self.replica && !self.is_external() && self.hears(offer.from, disk);
        if !is_own || offer.term.get() < self.term() || self.is_leader() || self.is_installing() {
            return;
        }
        let state = &offer.state;
        if !state.has_member(self.replica) {
            tracing::debug!(group = %self.spec.group, mark = %state.index, "a state of before this replica was a member");
            return;
        }
        if self.needs_no(state) {
            return self.decline(&offer);
        }
        match &mut self.receiver {
            Some(receiver) if (receiver.staging.mark, receiver.staging.term) == (state.index, state.term) => {
                if offer.term >= receiver.offer.term {
                    (receiver.offer, receiver.source, receiver.is_gone) = (offer, disk, false);
                }
            }
            Some(receiver) if (receiver.offer.term, receiver.staging.mark) > (offer.term, state.index) => return,
            _ => self.begin_receiving(shared, disk, offer),
        }
        self.ask_next(shared);
    }

    /// Whether the log leads to the state by itself.
    fn needs_no(&self, state: &VolumeState) -> bool {
        let log = &self.node.raft.raft_log;
        state.index.get() <= log.committed || log.match_term(state.index.get(), state.term.get())
    }

    /// raft-rs tells the leader how far the log goes: it restores nothing.
    fn decline(&mut self, offer: &CatchUpOffer) {
        self.receiver = None;
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgSnapshot);
        (message.from, message.to, message.term) = (offer.from.get(), offer.to.get(), offer.term.get());
        let members = super::super::storage::conf_state(&membership_of(&offer.state));
        message.set_snapshot(snapshot((offer.state.index, offer.state.term), &members));
        self.step_raft(message);
    }

    fn begin_receiving(&mut self, shared: &mut Shared, source: DiskId, offer: CatchUpOffer) {
        if shared.log.is_exhausted() {
            return;
        }
        let (mark, term) = (offer.state.index, offer.state.term);
        // What is applied is durable here, so that a recovery that meets this record can apply it, too.
        let have = LogIndex(self.applied);
        let group = self.spec.group;
        let last = shared.log.push(Record::StageBegin {
            group,
            mark,
            term,
            have,
        });
        tracing::info!(%group, %mark, %have, from = %offer.from, "the log is too far behind: receiving the leader's state");
        if !self.is_staging() || self.staging_since.is_none() {
            self.staging_since = Some(shared.log.next_sequence());
        }
        let before = self.receiver.take();
        let resumed = before.as_ref().and_then(Receiver::resumable);
        let before = before.map(|before| before.staging);
        self.receiver = Some(Receiver {
            offer,
            source,
            staging: Staging::new(mark, term, have, shared.seeded).following(before),
            resumed,
            is_gone: false,
            next: Some(Lba(0)),
            in_full: false,
            filled_blocks: self.map.filled_blocks(),
            asked: None,
            unplaced: BTreeMap::new(),
            unplaced_blocks: 0,
            last,
            durable: Ticket(0),
            bytes: 0,
        });
    }

    /// Asks for what comes next, if it may be asked for now.
    pub(crate) fn ask_next(&mut self, shared: &mut Shared) {
        if self
            .receiver
            .as_ref()
            .is_some_and(|receiver| self.needs_no(&receiver.offer.state))
        {
            self.receiver = None;
        }
        let Some(receiver) = &mut self.receiver else { return };
        let Some(at) = receiver.next.filter(|_| receiver.asked.is_none() && !receiver.is_gone) else {
            return;
        };
        if receiver.unplaced_blocks > UNPLACED_BLOCKS_MAX || shared.log.free_blocks() < REPLY_ROOM_BLOCKS {
            return;
        }
        if !shared.catch_up.may_go_on(shared.now) {
            shared.catch_up.wait(self.spec.group);
            return;
        }
        let too_much = u64::from(mutated!(shared.seeded, KeepsWhatItHasNot)) * 64;
        let have = LogIndex(receiver.have_at(at).get() + too_much);
        let request = CatchUpRequest {
            group: self.spec.group,
            mark: receiver.staging.mark,
            mark_term: receiver.staging.term,
            have,
            filled_blocks: receiver.filled_at(),
            at,
        };
        let since = shared.now;
        receiver.asked = Some(Asked { have, at, since });
        shared.send(receiver.source, PeerMessage::CatchUpRequest(request));
    }

    /// A portion of the state has come, or the word that there is no such state.
    pub(crate) fn catch_up_reply(&mut self, shared: &mut Shared, from: DiskId, reply: CatchUpReply) {
        let Some(receiver) = &mut self.receiver else { return };
        let answers = |asked: &Asked| (asked.at, asked.have) == (reply.at, reply.have);
        let is_awaited = receiver.asked.as_ref().is_some_and(answers);
        if reply.mark != receiver.staging.mark || !is_awaited {
            return;
        }
        let CatchUpOutcome::Portions { next, portions } = reply.outcome else {
            if from == receiver.source {
                tracing::info!(group = %self.spec.group, mark = %reply.mark, "the leader has given its mark up");
                (receiver.is_gone, receiver.asked) = (true, None);
            }
            return;
        };
        let end = next.unwrap_or(Lba(u64::MAX));
        if !portions
            .iter()
            .all(|(portion, _)| is_sound(portion, &receiver.offer.state, reply.at..end))
        {
            tracing::error!(group = %self.spec.group, %from, "a portion that does not fit the state it belongs to");
            return;
        }
        receiver.asked = None;
        if !portions
            .iter()
            .all(|(portion, _)| receiver.staging.is_kept(&self.map, portion))
        {
            // Asked for in full everything that is not here comes along, so that this happens once an address.
            receiver.in_full = true;
            return self.ask_next(shared);
        }
        let needed: u64 = portions
            .iter()
            .map(|(portion, _)| u64::from(portion.data_blocks()) + 1)
            .sum();
        if needed > shared.log.free_blocks() {
            return;
        }
        (receiver.next, receiver.in_full) = (next, false);
        let mut bytes = 0;
        for (portion, payload) in portions {
            bytes += payload.len() as u64;
            receiver.unplaced_blocks += u64::from(portion.data_blocks());
            receiver.last = shared.log.push(Record::StageBlocks {
                group: self.spec.group,
                portion: portion.clone(),
                payload,
            });
            receiver.unplaced.insert(receiver.last, portion);
        }
        receiver.bytes += bytes;
        shared
            .catch_up
            .came(shared.now, bytes, shared.config.limits.catch_up_rate);
        shared.effects.push(Effect::CaughtUp { bytes });
        self.ask_next(shared);
        // A last answer without portions adds no record whose durability would be told.
        self.try_install();
    }

    /// A portion's frame was composed.
    pub(crate) fn portion_placed(&mut self, ticket: Ticket, payload_block: u64) {
        let Some(receiver) = &mut self.receiver else { return };
        if let Some(portion) = receiver.unplaced.remove(&ticket) {
            receiver.unplaced_blocks -= u64::from(portion.data_blocks());
            receiver.staging.take(&portion, payload_block, &self.map);
        }
    }

    /// Records up to `ticket` are durable.
    pub(in crate::group) fn portions_durable(&mut self, shared: &mut Shared, ticket: Ticket) {
        if let Some(receiver) = &mut self.receiver {
            receiver.durable = ticket;
            self.ask_next(shared);
        }
    }

    /// Time passes: what was asked for and did not come is asked for again.
    pub(in crate::group) fn tick_receiver(&mut self, shared: &mut Shared) {
        let patience = shared.config.timing.election_timeout() / 4;
        if let Some(receiver) = &mut self.receiver {
            receiver
                .asked
                .take_if(|asked| shared.now.since(asked.since) >= patience);
            self.ask_next(shared);
        }
    }
}

/// Whether a portion can be one of the state, in the range that was asked for.
fn is_sound(portion: &Portion, state: &VolumeState, range: std::ops::Range<Lba>) -> bool {
    let size = match portion.owner {
        LogIndex(0) => Some(state.size_blocks),
        at => state
            .snapshots
            .iter()
            .find(|snapshot| snapshot.at == at)
            .map(|snapshot| snapshot.size_blocks),
    };
    let fits = |row: &Row| {
        let end = row.lba.0 + u64::from(row.slots);
        row.lba >= range.start && end <= range.end.0 && size.is_some_and(|size| end <= size) && row.birth <= state.index
    };
    portion.is_sound() && portion.rows.iter().all(fits)
}
