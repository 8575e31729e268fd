//! One replica of one group: raft-rs, the headers of its log, its map, and whoever waits for it.
//!
//! A group is driven in two steps. Events (messages, requests, ticks) change raft-rs's state and mark the group dirty;
//! [`Group::drive`], once a turn, takes what became ready: entries go to the disk's log together with those of all other
//! groups, a leader's messages leave at once, a follower's when its log is durable, and committed entries are applied.

mod apply;
mod catch_up;
mod changes;
mod external;
mod flatten;
mod hold;
mod lease;
mod members;
mod message;
mod moving;
mod outbox;
mod read;
mod repair;
mod request;
mod room;
mod snapshot;
mod storage;
mod table;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use cairn_api::ids::{DiskId, Epoch, LogIndex, NodeId, ReplicaId, Term};
use cairn_format::peer::{PeerMessage, RaftKind, RaftMessage};
use raft::eraftpb::{HardState, Message, MessageType};
use raft::{Config, RawNode, StateRole};

use crate::event::{CommandError, Effect, GroupSpec, GroupStatus, Member, Role, Stage};
use crate::load::Load;
use crate::log::{Record, Ticket};
use crate::map::BlockMap;
use crate::membership::Membership;
use crate::mutation::mutated;
use crate::repair::Repairs;
use crate::shared::{Origin, Room, Shared};
use crate::time::Timestamp;

pub(crate) use apply::{Verdict, apply_header};
pub(crate) use catch_up::{REPLY_ROOM_BLOCKS, Staging, membership_of};
pub use changes::{ChangesPart, ChangesRequest};
pub use hold::{HOLD_TIME_MAX, HoldRequest, HoldStep};
pub(crate) use read::Query;
pub(crate) use request::STATUS_BLOCKS_MAX;
pub use snapshot::SNAPSHOTS_MAX;
pub(crate) use storage::{BASE, GroupLog, Location, LogEntry};

/// Headers and overhead of one append message, in bytes as raft-rs counts them: at four bytes a block this is at most
/// about 3 MiB of payload, which fits a peer frame.
const MESSAGE_HEADER_BYTES_MAX: u64 = 3 << 10;
/// Appends under way to one follower, beyond which Raft waits for its answers: many turns' worth for one that keeps up, and
/// a bound on what is read ahead for one that does not.
const MESSAGES_IN_FLIGHT_MAX: usize = 64;
/// Ticks after which the first member of a fresh group campaigns again if nobody leads: its peers may not have made
/// their replicas yet.
const FRESH_CAMPAIGN_TICKS: u32 = 4;

/// A proposal that has not been applied yet.
struct Proposal {
    term: u64,
    origin: Origin,
    since: Timestamp,
    bytes: u64,
}

/// A ready whose records are on their way to the disk.
struct Persist {
    ticket: Ticket,
    number: u64,
    /// First and last index of its entries.
    entries: Option<(u64, u64)>,
    messages: Vec<Message>,
}

/// See the module.
pub(crate) struct Group {
    /// As it was created.
    pub(crate) spec: GroupSpec,
    pub(crate) replica: ReplicaId,
    /// As far as the log is applied.
    membership: Membership,
    members_changed: bool,
    /// The last change of members that a restart would find to be committed, by what is durable here alone.
    settled: LogIndex,
    /// A later one, and the record that says so.
    settling: Option<(Ticket, LogIndex)>,
    /// Where messages came from whose senders became members in a part of the log that is not applied here.
    strangers: BTreeMap<ReplicaId, DiskId>,
    node: RawNode<GroupLog>,
    map: BlockMap,
    /// The state that is kept for replicas that are behind the log.
    mark: Option<catch_up::Mark>,
    /// The state that this replica receives, being behind the leader's log.
    receiver: Option<catch_up::Receiver>,
    /// The sequence of the next frame when the first of the states was begun that were received since the last one was installed.
    staging_since: Option<u64>,
    serving: catch_up::Serving,
    leading: catch_up::Leading,
    /// A state that was received and that raft-rs has taken, until its next ready.
    restoring: Option<catch_up::Receiver>,
    /// The ready in which a state was installed that is not durable yet.
    installing: Option<u64>,
    epoch: Epoch,
    holder: NodeId,
    holder_heard: Timestamp,
    applied: u64,
    applied_term: u64,
    /// Payloads of entries that raft-rs has taken and that no ready has shown yet, by index and term.
    staged: BTreeMap<(u64, u64), Bytes>,
    proposals: BTreeMap<u64, Proposal>,
    proposal_bytes: u64,
    measured_to: u64,
    persists: VecDeque<Persist>,
    lease: lease::Lease,
    reads: read::Reads,
    outboxes: BTreeMap<ReplicaId, outbox::Outbox>,
    fetches: BTreeMap<u64, outbox::Fetch>,
    fetch_last: u64,
    external: external::External,
    /// Writes are held back for a snapshot of several volumes.
    hold: Option<hold::Hold>,
    flattening: flatten::Flattening,
    /// What followers last said their disks can take.
    rooms: room::Rooms,
    /// Since when writes are refused for want of room, nothing having been freed since.
    full_since: Option<Timestamp>,
    /// The highest stamp handled from the leader of this term.
    heard: (u64, u64),
    started: Timestamp,
    /// The sequence of the frame that created it; above all others until that frame is composed.
    pub(crate) created_sequence: u64,
    /// Payload of entries kept for good is counted with the segments up to here.
    counted_to: u64,
    /// A first member, made by a command in this run: nobody can have counted on its vote before.
    fresh: bool,
    ticks: u32,
    election: (u64, StateRole, usize),
    known: (u64, bool),
    leader_changed: bool,
}

/// What recovery found of a group.
pub(crate) struct Recovered {
    pub(crate) spec: GroupSpec,
    pub(crate) replica: ReplicaId,
    pub(crate) membership: Membership,
    pub(crate) log: GroupLog,
    pub(crate) map: BlockMap,
    /// A state that was being received: dropped with the run that received it.
    pub(crate) staging: Option<Staging>,
    pub(crate) epoch: Epoch,
    pub(crate) holder: NodeId,
    pub(crate) applied: u64,
    pub(crate) applied_term: u64,
    /// The last index that the checkpoint at which recovery began had applied; the base without one.
    pub(crate) checkpointed: u64,
    /// The entry that the log behind that checkpoint begins behind; `None` without one.
    pub(crate) begins: Option<(u64, u64)>,
    /// The sequence of the frame that created it.
    pub(crate) created_sequence: u64,
}

impl Recovered {
    /// A replica that has nothing yet.
    pub(crate) fn empty(spec: GroupSpec, replica: ReplicaId) -> Self {
        Self {
            log: GroupLog::new(),
            map: {
                let mut map = BlockMap::new(spec.size_blocks);
                map.set_base(spec.base, 0);
                map
            },
            staging: None,
            membership: Membership::of(&spec),
            spec,
            replica,
            epoch: Epoch(0),
            holder: NodeId::NIL,
            applied: BASE,
            applied_term: BASE,
            checkpointed: BASE,
            begins: None,
            created_sequence: 0,
        }
    }
}

fn raft_config(replica: ReplicaId, applied: u64, shared: &Shared) -> Config {
    let timing = &shared.config.timing;
    let election = timing.election_ticks as usize;
    Config {
        id: replica.get(),
        election_tick: election,
        heartbeat_tick: timing.heartbeat_ticks as usize,
        min_election_tick: election,
        max_election_tick: election + election / 2 + 1,
        applied,
        max_size_per_msg: MESSAGE_HEADER_BYTES_MAX,
        max_inflight_msgs: MESSAGES_IN_FLIGHT_MAX,
        check_quorum: true,
        pre_vote: true,
        // What a turn proposes is joined in `message::join_appends`; raft-rs's own way loses entries.
        batch_append: mutated!(shared.seeded, EmptyAppendJoined),
        skip_bcast_commit: !mutated!(shared.seeded, EmptyAppendJoined),
        ..Config::default()
    }
}

impl Group {
    /// Starts a replica from what its log holds.
    pub(crate) fn start(mut found: Recovered, is_new: bool, shared: &Shared) -> Result<Self, CommandError> {
        let replica = found.replica;
        let counted_to = found.kept_to();
        found.log.set_members(&found.membership);
        found.map.set_seeded(shared.seeded);
        let config = raft_config(replica, found.applied, shared);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, found.log, &logger)
            .map_err(|error| CommandError::Refused(format!("group {}: {error}", found.spec.group)))?;
        Ok(Self {
            replica,
            fresh: is_new && found.spec.members.iter().any(|member| member.replica == replica),
            membership: found.membership.clone(),
            members_changed: false,
            settled: found.membership.revision,
            settling: None,
            strangers: BTreeMap::new(),
            node,
            map: found.map,
            mark: None,
            receiver: None,
            staging_since: None,
            serving: catch_up::Serving::default(),
            leading: catch_up::Leading::default(),
            restoring: None,
            installing: None,
            epoch: found.epoch,
            holder: found.holder,
            holder_heard: shared.now,
            applied: found.applied,
            applied_term: found.applied_term,
            staged: BTreeMap::new(),
            proposals: BTreeMap::new(),
            proposal_bytes: 0,
            measured_to: 0,
            persists: VecDeque::new(),
            lease: lease::Lease::default(),
            reads: read::Reads::default(),
            outboxes: BTreeMap::new(),
            fetches: BTreeMap::new(),
            fetch_last: 0,
            external: external::External::default(),
            hold: None,
            flattening: flatten::Flattening::default(),
            rooms: room::Rooms::default(),
            full_since: None,
            heard: (0, 0),
            started: shared.now,
            counted_to,
            created_sequence: if is_new { u64::MAX } else { found.created_sequence },
            ticks: 0,
            election: (0, StateRole::Follower, 0),
            known: (0, false),
            leader_changed: false,
            spec: found.spec,
        })
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    pub(crate) fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// Who leads as far as is known here.
    pub(crate) fn leader(&self) -> Option<ReplicaId> {
        (self.node.raft.leader_id != 0).then_some(ReplicaId(self.node.raft.leader_id))
    }

    pub(crate) fn leader_member(&self) -> Option<&Member> {
        self.leader().and_then(|leader| self.member(leader))
    }

    /// Whether the group is the meta group's kind: commands for a state machine outside.
    fn is_external(&self) -> bool {
        self.spec.size_blocks == 0
    }

    /// A leader that has applied an entry of its own term knows all that was committed before it.
    fn leads_with_all_applied(&self) -> bool {
        self.is_leader() && self.applied_term == self.term()
    }

    fn is_transferring(&self) -> bool {
        self.node.raft.lead_transferee.is_some()
    }

    /// A replica that has just been recovered may have told a leader before that it would vote for nobody else: see the
    /// `lease` module.
    fn may_vote(&self, shared: &Shared) -> bool {
        self.fresh
            || shared.now.since(self.started) >= shared.config.timing.election_timeout()
            || mutated!(shared.seeded, VotesAfterRestart)
    }

    /// Time passes for the group.
    pub(crate) fn tick(&mut self, shared: &mut Shared) {
        self.ticks = self.ticks.wrapping_add(1);
        self.expire_reads(shared);
        self.tick_receiver(shared);
        self.tick_leading(shared);
        // What raft-rs would look for in its log is not there before the record of a new state is durable.
        if self.is_installing() {
            return;
        }
        if shared.draining && !self.is_leader() {
            return;
        }
        self.draw_election_timeout(shared);
        self.node.tick();
        let is_first = self
            .spec
            .members
            .first()
            .is_some_and(|member| member.replica == self.replica);
        let nobody_leads = self.node.raft.leader_id == 0;
        if self.fresh && is_first && nobody_leads && self.ticks.is_multiple_of(FRESH_CAMPAIGN_TICKS) {
            self.campaign();
        }
        if !nobody_leads && self.may_vote(shared) {
            self.fresh = false;
        }
    }

    /// Asks to lead; the vote decides.
    pub(crate) fn campaign(&mut self) {
        if let Err(error) = self.node.campaign() {
            tracing::debug!(group = %self.spec.group, %error, "could not campaign");
        }
    }

    /// raft-rs draws its time-outs from the thread's generator; the core is deterministic, so it draws its own.
    fn draw_election_timeout(&mut self, shared: &mut Shared) {
        let state = (self.term(), self.node.raft.state);
        if (self.election.0, self.election.1) != state || self.election.2 == 0 {
            let base = u64::from(shared.config.timing.election_ticks);
            #[allow(clippy::cast_possible_truncation, reason = "a few dozen ticks")]
            let timeout = (base + shared.random_below(base / 2 + 1)) as usize;
            self.election = (state.0, state.1, timeout);
        }
        self.node.raft.set_randomized_election_timeout(self.election.2);
    }

    /// A Raft message has arrived from a disk.
    pub(crate) fn step(&mut self, shared: &mut Shared, disk: DiskId, mut wire: RaftMessage) {
        if wire.to != self.replica || !self.hears(wire.from, disk) {
            tracing::debug!(group = %self.spec.group, from = %wire.from, to = %wire.to, "message for another replica");
            return;
        }
        if !self.accepts(shared, &wire) {
            return;
        }
        self.cut_to_what_fits(shared, &mut wire);
        self.note_response(shared, &wire);
        let (kind, term, stamp_ns) = (wire.kind, wire.term.get(), wire.stamp_ns);
        if kind == RaftKind::Append && mutated!(shared.seeded, CommitOneTooFar) {
            wire.commit = LogIndex(wire.commit.get() + 1);
        }
        let message = message::from_wire(&wire);
        for entry in &mut wire.entries {
            if !entry.payload.is_empty() {
                let payload = std::mem::take(&mut entry.payload);
                self.staged.insert((entry.index.get(), entry.term.get()), payload);
            }
        }
        if let Err(error) = self.node.step(message) {
            tracing::debug!(group = %self.spec.group, ?kind, %error, "message not taken");
        }
        let is_leaders = matches!(kind, RaftKind::Append | RaftKind::Heartbeat);
        if is_leaders && self.term() == term && !self.is_leader() {
            let latest = if self.heard.0 == term {
                self.heard.1.max(stamp_ns)
            } else {
                stamp_ns
            };
            self.heard = (term, latest);
        }
    }

    fn accepts(&self, shared: &Shared, wire: &RaftMessage) -> bool {
        match wire.kind {
            RaftKind::RequestVote | RaftKind::RequestPreVote => self.may_vote(shared),
            RaftKind::TimeoutNow => !shared.draining && !self.is_installing(),
            RaftKind::Append => !shared.log.is_exhausted(),
            _ => true,
        }
    }

    /// What a follower's message says beside Raft: its stamp and its room.
    fn note_response(&mut self, shared: &mut Shared, wire: &RaftMessage) {
        if !matches!(wire.kind, RaftKind::AppendResponse | RaftKind::HeartbeatResponse) {
            return;
        }
        let room = Room {
            free_blocks: wire.free_blocks,
            room_blocks: wire.room_blocks,
        };
        let matched = self.matched(wire.from);
        self.rooms.heard(
            wire.from,
            room,
            (matched, self.node.raft.raft_log.committed),
            shared.now,
        );
        if wire.stamp_ns != 0 {
            let stamp = if mutated!(shared.seeded, LeaseFromArrival) {
                shared.now
            } else {
                Timestamp::from_nanos(wire.stamp_ns)
            };
            self.lease.answered(wire.term.get(), wire.from, stamp);
        }
        if wire.kind == RaftKind::AppendResponse && !wire.reject && self.is_leader() {
            self.measure_replication(shared, wire.from, wire.index.get());
        }
    }

    /// Emits the replication time of proposals that a majority of followers' answers has just covered.
    fn measure_replication(&mut self, shared: &mut Shared, from: ReplicaId, index: u64) {
        let mut matched: Vec<u64> = self
            .other_voters()
            .map(|voter| self.matched(voter).max(if voter == from { index } else { 0 }))
            .collect();
        matched.sort_unstable_by(|a, b| b.cmp(a));
        let others_needed = matched.len().div_ceil(2);
        let Some(covered) = others_needed
            .checked_sub(1)
            .and_then(|place| matched.get(place))
            .copied()
        else {
            return;
        };
        if covered > self.measured_to {
            for (_, proposal) in self.proposals.range(self.measured_to + 1..=covered) {
                shared.measured(Stage::Replication, proposal.since);
            }
            self.measured_to = covered;
        }
    }

    /// Takes what has become ready.
    pub(crate) fn drive(&mut self, shared: &mut Shared) {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            let number = ready.number();
            self.note_leader(shared);
            let restored = ready.snapshot().get_metadata().index;
            let installed = (restored != 0).then(|| self.install(shared, restored, number));
            let (entries, ticket) = self.append_entries(shared, ready.take_entries());
            let mut ticket = ticket.or(installed);
            if let Some(hard_state) = ready.hs() {
                self.node.mut_store().set_hard_state(hard_state.clone());
            }
            if ready.must_sync() {
                ticket = Some(self.push_hard_state(shared));
            }
            let leader_messages = ready.take_messages();
            let mut messages = ready.take_persisted_messages();
            let read_states = ready.take_read_states();
            let committed = ready.take_committed_entries();
            self.node.advance_append_async(ready);
            // A leader's appends leave before its own frame is even composed (Raft thesis, section 10.2.1).
            for message in message::join_appends(leader_messages) {
                self.send(shared, message);
            }
            if mutated!(shared.seeded, AcksBeforeDurable) {
                let is_confirmation = |message: &mut Message| message.get_msg_type() == MessageType::MsgAppendResponse;
                let early: Vec<Message> = messages.extract_if(.., is_confirmation).collect();
                for message in early {
                    self.send(shared, message);
                }
            }
            self.apply(shared, committed);
            self.settle_members(shared);
            self.note_read_states(shared, read_states);
            self.await_persist(
                shared,
                Persist {
                    ticket: ticket.unwrap_or(Ticket(0)),
                    number,
                    entries,
                    messages,
                },
            );
        }
        self.staged.clear();
        self.truncate_log(shared);
        self.serve_lagging(shared);
        self.start_fetches(shared);
        self.deliver_external(shared);
    }

    fn append_entries(
        &mut self,
        shared: &mut Shared,
        entries: Vec<raft::eraftpb::Entry>,
    ) -> (Option<(u64, u64)>, Option<Ticket>) {
        let range = entries
            .first()
            .zip(entries.last())
            .map(|(first, last)| (first.index, last.index));
        let mut ticket = None;
        for entry in entries {
            let payload = self.staged.remove(&(entry.index, entry.term)).unwrap_or_default();
            let header = members::header_of(&entry).clone();
            ticket = Some(shared.log.push(Record::Entry {
                group: self.spec.group,
                term: Term(entry.term),
                index: LogIndex(entry.index),
                header: header.clone(),
                payload: payload.clone(),
            }));
            let kept = LogEntry {
                term: entry.term,
                header,
                payload,
                location: None,
            };
            self.node.mut_store().append(entry.index, kept);
        }
        (range, ticket)
    }

    fn push_hard_state(&self, shared: &mut Shared) -> Ticket {
        let hard_state: &HardState = self.node.store().hard_state();
        shared.log.push(Record::HardState {
            group: self.spec.group,
            term: Term(hard_state.term),
            vote: ReplicaId(hard_state.vote),
            commit: LogIndex(hard_state.commit),
        })
    }

    /// Queues a ready until its records are durable; at once if it and all before it have none.
    fn await_persist(&mut self, shared: &mut Shared, mut persist: Persist) {
        if persist.ticket == Ticket(0) {
            match self.persists.back() {
                Some(before) => persist.ticket = before.ticket,
                None => return self.persisted(shared, persist),
            }
        }
        self.persists.push_back(persist);
    }

    fn persisted(&mut self, shared: &mut Shared, persist: Persist) {
        self.node.on_persist_ready(persist.number);
        self.installed(persist.number);
        if let Some((first, last)) = persist.entries {
            self.node.mut_store().release_payload(first, last);
            if mutated!(shared.seeded, AcksBeforeMajority) {
                self.acknowledge_unsafely(shared, first, last);
            }
        }
        for message in persist.messages {
            self.send(shared, message);
        }
    }

    /// Records up to `ticket` are durable.
    pub(crate) fn durable(&mut self, shared: &mut Shared, ticket: Ticket) {
        self.members_settled(ticket);
        while self.persists.front().is_some_and(|persist| persist.ticket <= ticket) {
            if let Some(persist) = self.persists.pop_front() {
                self.persisted(shared, persist);
            }
        }
        self.portions_durable(shared, ticket);
        self.try_install();
    }

    /// An entry's frame was composed.
    pub(crate) fn place(&mut self, index: LogIndex, term: Term, location: Location) {
        self.node.mut_store().place(index.get(), term.get(), location);
    }

    fn note_leader(&mut self, shared: &mut Shared) {
        let known = (self.node.raft.leader_id, self.is_leader());
        if known == self.known {
            return;
        }
        if known.1 && !self.known.1 {
            self.lease.begin(self.term());
            self.leading.begin(shared.now);
            self.receiver = None;
            self.holder_heard = shared.now;
            self.measured_to = self.node.store().last();
            self.rooms.clear();
        }
        if !known.1 && self.known.1 {
            self.abandon_reads(shared);
            self.abandon_proposals(shared);
            self.outboxes.clear();
            self.drop_mark();
        }
        self.known = known;
        self.leader_changed = true;
        let leader = self.leader();
        let is_local = leader == Some(self.replica);
        tracing::info!(group = %self.spec.group, term = self.term(), ?leader, is_local, "leader");
        shared.effects.push(Effect::LeaderChanged {
            group: self.spec.group,
            leader,
            is_local,
        });
    }

    /// The replica is about to be dropped: nobody waits for it any longer.
    pub(crate) fn abandon(&mut self, shared: &mut Shared) {
        self.abandon_reads(shared);
        self.forget_gathering(shared);
        self.abandon_proposals(shared);
    }

    /// Whether the leader, as known here, has changed since this was last asked.
    pub(crate) fn take_leader_changed(&mut self) -> bool {
        std::mem::take(&mut self.leader_changed)
    }

    /// The link to a peer broke or its queue is full: Raft probes it until it answers.
    pub(crate) fn unreachable(&mut self, replica: ReplicaId) {
        self.node.report_unreachable(replica.get());
    }

    /// Sends a message of raft-rs: a leader's with its stamp, a follower's with the stamp it answers and its room.
    fn send(&mut self, shared: &mut Shared, mut message: Message) {
        if message.get_msg_type() == MessageType::MsgSnapshot {
            return self.send_offer(shared, &message);
        }
        let Some(mut wire) = message::to_wire(self.spec.group, &mut message) else {
            return;
        };
        match wire.kind {
            RaftKind::Append | RaftKind::Heartbeat => wire.stamp_ns = shared.now.as_nanos(),
            RaftKind::AppendResponse | RaftKind::HeartbeatResponse => {
                let room = shared.room(self.is_external());
                (wire.free_blocks, wire.room_blocks) = (room.free_blocks, room.room_blocks);
                if self.heard.0 == wire.term.get() {
                    wire.stamp_ns = self.heard.1;
                }
            }
            RaftKind::TimeoutNow => self.lease.revoke(shared.seeded),
            _ => {}
        }
        if wire.kind == RaftKind::Append && !wire.entries.is_empty() {
            self.send_append(shared, wire);
        } else {
            self.send_wire(shared, wire);
        }
    }

    fn send_wire(&mut self, shared: &mut Shared, wire: RaftMessage) -> bool {
        let to = wire.to;
        let Some(disk) = self.address(to) else {
            return false;
        };
        let is_full = !wire.entries.is_empty() && shared.is_link_full(disk);
        let sent = !is_full && shared.send(disk, PeerMessage::Raft(wire));
        if !sent {
            self.unreachable(to);
        }
        sent
    }

    /// Hands leadership to `to`; true if the attempt was started.
    pub(crate) fn transfer(&mut self, shared: &mut Shared, to: ReplicaId) -> bool {
        let leads = self.leads_with_all_applied() && !self.is_transferring() && to != self.replica;
        let reachable = self.membership.is_voter(to) && self.address(to).is_some_and(|disk| shared.links.is_up(disk));
        let close = self.node.raft.prs().get(to.get()).is_some_and(|progress| {
            progress.recent_active && progress.matched + MESSAGES_IN_FLIGHT_MAX as u64 >= self.node.store().last()
        });
        if !(leads && reachable && close) {
            return false;
        }
        self.lease.revoke(shared.seeded);
        self.node.transfer_leader(to.get());
        true
    }

    /// The best voter to lead next: the one whose log is furthest.
    pub(crate) fn successor(&self, shared: &Shared) -> Option<ReplicaId> {
        self.other_voters()
            .filter(|voter| self.address(*voter).is_some_and(|disk| shared.links.is_up(disk)))
            .max_by_key(|voter| self.matched(*voter))
    }

    /// The state of the replica, for people.
    pub(crate) fn status(&self, repairs: &Repairs) -> GroupStatus {
        let others = self.membership.all().filter(|member| member.replica != self.replica);
        let matched = |member: &Member| (member.replica, LogIndex(self.matched(member.replica)));
        GroupStatus {
            spec: self.spec.clone(),
            membership: self.membership.clone(),
            settled: self.settled,
            replica: self.replica,
            role: match self.node.raft.state {
                StateRole::Leader => Role::Leader,
                StateRole::Follower => Role::Follower,
                StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            },
            leader: self.leader(),
            term: Term(self.term()),
            committed: LogIndex(self.node.raft.raft_log.committed),
            applied: LogIndex(self.applied),
            last: LogIndex(self.node.raft.raft_log.last_index()),
            epoch: self.epoch,
            holder: self.holder,
            size_blocks: self.map.size_blocks(),
            base: self.map.base(),
            filled_blocks: self.map.filled_blocks(),
            space: self.map.space(),
            snapshots: self.map.snapshot_count(),
            damage: repairs.counts(self.spec.group),
            first: LogIndex(self.node.store().truncated() + 1),
            mark: self.mark_state().map(|state| state.index),
            catch_up: self.receiver.as_ref().map(catch_up::Receiver::status),
            matched: if self.is_leader() {
                others.map(matched).collect()
            } else {
                Vec::new()
            },
        }
    }

    /// Adds what is under way here.
    pub(crate) fn add_load(&self, load: &mut Load) {
        load.proposals += self.proposals.len();
        load.held_messages += self.outboxes.values().map(outbox::Outbox::held).sum::<usize>();
        load.payload_bytes += self.node.store().payload_bytes();
    }

    /// Where the volume's blocks are.
    pub(crate) fn map(&self) -> &BlockMap {
        &self.map
    }
}
