//! Finding the leader, sending parts to it, and noticing that it does not answer.

use std::collections::BTreeSet;
use std::time::Duration;

use cairn_api::ids::{DiskId, Epoch, LogIndex, ReplicaId};
use cairn_format::peer::{AttachMode, GatewayOp, GatewayRequest, GatewayResult, PeerMessage};

use super::plan::Piece;
use super::{Gateway, PartKind, Sent, local_voter};
use crate::event::Member;
use crate::mutation::mutated;
use crate::shared::Shared;
use crate::time::Timestamp;
use cairn_api::ids::NodeId;

/// How long a member that is only guessed to lead may take to answer before the next one is asked; also how long the
/// parts sent to a member may stay unanswered once another one is known to lead.
const GUESS_TIMEOUT: Duration = Duration::from_millis(300);
/// The pause after a reply that says «not now».
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// The pause between guesses when no member can be reached or knows a leader.
const GUESS_PAUSE: Duration = Duration::from_millis(50);
/// The time between attempts to move leadership to this node.
const PREFER_PAUSE: Duration = Duration::from_secs(3);
/// A request that wants no reply.
const NO_REPLY: u64 = 0;

/// Where the leader is thought to be.
#[derive(Debug, Default)]
pub(super) struct Route {
    leader: Option<ReplicaId>,
    /// The member to guess next, while no leader is known.
    guess: usize,
    /// Nothing is sent before.
    not_before: Timestamp,
    preferred_at: Option<Timestamp>,
    kept_alive_at: Timestamp,
}

impl Gateway {
    /// Sends whatever can be sent.
    pub(super) fn pump(&mut self, shared: &mut Shared) {
        if self.unsent.is_empty() || shared.now < self.route.not_before {
            return;
        }
        let wants_attachment = self.unsent.iter().any(|part| {
            self.parts
                .get(part)
                .is_some_and(|part| part.needs_attachment(shared.seeded))
        });
        if wants_attachment && self.attachment.epoch().is_none() {
            self.attach(shared);
        }
        let epoch = self.attachment.epoch();
        let ready: Vec<u64> = self
            .unsent
            .iter()
            .copied()
            .filter(|part| {
                self.parts
                    .get(part)
                    .is_some_and(|part| epoch.is_some() || !part.needs_attachment(shared.seeded))
            })
            .collect();
        for part in ready {
            let Some(state) = self.parts.get(&part) else { continue };
            let op = operation_for(&state.piece, epoch.unwrap_or_default());
            let Some((request, to, disk)) = self.send(shared, op) else {
                break;
            };
            self.unsent.remove(&part);
            self.requests.insert(request, part);
            if let Some(state) = self.parts.get_mut(&part) {
                state.sent = Some(Sent {
                    request,
                    to,
                    disk,
                    at: shared.now,
                    epoch: epoch.unwrap_or_default(),
                });
            }
        }
    }

    /// Sends a request to the leader, or to the member that is guessed to be; `None` if none can be reached now.
    pub(super) fn send(&mut self, shared: &mut Shared, op: GatewayOp) -> Option<(u64, ReplicaId, DiskId)> {
        let (to, disk) = self.target(shared)?;
        self.request_last += 1;
        let request = GatewayRequest {
            group: self.spec.group,
            request: self.request_last,
            revision: self.revision,
            op,
        };
        if disk == shared.config.disk {
            shared.local_requests.push_back(request);
        } else if !shared.send(disk, PeerMessage::Request(request)) {
            return None;
        }
        Some((self.request_last, to, disk))
    }

    /// The member to ask: the leader if known and reachable, else the next guess.
    fn target(&mut self, shared: &Shared) -> Option<(ReplicaId, DiskId)> {
        let is_reachable = |disk: DiskId| disk == shared.config.disk || shared.links.is_up(disk);
        let members = &self.voters;
        if let Some(leader) = self.route.leader {
            let place = members
                .iter()
                .position(|member| member.replica == leader && is_reachable(member.disk));
            if let Some(place) = place {
                return Some((members[place].replica, members[place].disk));
            }
            self.route.leader = None;
        }
        for step in 0..members.len() {
            let place = (self.route.guess + step) % members.len();
            if is_reachable(members[place].disk) {
                self.route.guess = place;
                return Some((members[place].replica, members[place].disk));
            }
        }
        self.route.not_before = shared.now.after(GUESS_PAUSE);
        None
    }

    /// A member does not lead, or does not answer: the next one is guessed, unless it has been moved on from already. Several
    /// replies of one member must not add up to a step that leads back to it.
    fn move_on_from(&mut self, asked: ReplicaId) {
        let count = self.voters.len().max(1);
        let guessed = self.voters.get(self.route.guess % count);
        if guessed.is_some_and(|member| member.replica == asked) {
            self.route.guess += 1;
        }
    }

    /// Only a leader does what it is asked: a guess that was right is known to be.
    pub(super) fn note_answer(&mut self, asked: ReplicaId, result: &GatewayResult) {
        let is_done = matches!(
            result,
            GatewayResult::Done | GatewayResult::Read(_) | GatewayResult::Status(_) | GatewayResult::Attached { .. }
        );
        if is_done && self.route.leader.is_none() {
            self.route.leader = Some(asked);
        }
    }

    /// The member that was asked said who leads, or that it does not.
    pub(super) fn note_hint(&mut self, shared: &Shared, asked: ReplicaId, hint: Option<ReplicaId>) {
        // Until a new leader is elected the others still name the dead one: asking again at once would only spin.
        let reachable = hint.filter(|leader| {
            let member = self.voters.iter().find(|member| member.replica == *leader);
            member.is_some_and(|member| member.disk == shared.config.disk || shared.links.is_up(member.disk))
        });
        self.route.leader = reachable;
        if reachable.is_none() {
            self.move_on_from(asked);
            self.route.not_before = shared.now.after(GUESS_PAUSE);
        }
    }

    /// The local replica has learnt who leads.
    pub(crate) fn leader_changed(&mut self, shared: &mut Shared, leader: Option<ReplicaId>) {
        if leader.is_some() {
            self.route.leader = leader;
            self.route.not_before = shared.now;
            self.pump(shared);
        }
    }

    /// A link broke: what was sent over it is in doubt.
    pub(crate) fn link_lost(&mut self, shared: &mut Shared, disk: DiskId) {
        if self
            .parts
            .values()
            .any(|part| part.sent.is_some_and(|sent| sent.disk == disk))
        {
            self.fail_over(shared);
        }
        self.attachment.link_lost(disk);
        self.pump(shared);
    }

    /// A link is up: a guess may get through now.
    pub(crate) fn link_up(&mut self, shared: &mut Shared) {
        self.route.not_before = shared.now;
        self.pump(shared);
    }

    /// The volume's voters are others by now. What was sent to one that is none any more is answered, or times out.
    pub(crate) fn update_members(&mut self, shared: &Shared, revision: LogIndex, voters: &[Member]) {
        if revision <= self.revision || voters.is_empty() {
            return;
        }
        self.revision = revision;
        self.voters = voters.to_vec();
        self.local = local_voter(voters, shared);
        self.route.not_before = shared.now;
    }

    pub(super) fn pause(&mut self, shared: &Shared) {
        self.route.not_before = shared.now.after(RETRY_PAUSE);
    }

    /// What was sent is in doubt: everything is sent again, writes under a new epoch.
    pub(super) fn fail_over(&mut self, shared: &Shared) {
        let mut has_doubtful_write = false;
        let mut asked = BTreeSet::new();
        for (number, part) in &mut self.parts {
            if let Some(sent) = part.sent.take() {
                self.requests.remove(&sent.request);
                asked.insert(sent.to);
                self.unsent.insert(*number);
                self.seal.send_again(&mut part.piece);
                has_doubtful_write |= part.is_write();
            }
        }
        if has_doubtful_write && !mutated!(shared.seeded, ResendsUnderSameEpoch) {
            self.attachment.doubt();
        }
        self.route.leader = None;
        for member in asked {
            self.move_on_from(member);
        }
        tracing::info!(group = %self.spec.group, node = %shared.config.node, unsent = self.unsent.len(), "failing over");
    }

    pub(super) fn check_timeouts(&mut self, shared: &mut Shared) {
        let now = shared.now;
        let timeout = shared.config.timing.request_timeout;
        let leader = self.route.leader;
        let is_late = |sent: &Sent| {
            let age = now.since(sent.at);
            age > timeout || (age > GUESS_TIMEOUT && leader != Some(sent.to))
        };
        if self.parts.values().any(|part| part.sent.as_ref().is_some_and(is_late)) {
            let known = self.route.leader.filter(|leader| {
                self.parts
                    .values()
                    .all(|part| part.sent.is_none_or(|sent| sent.to != *leader || !is_late(&sent)))
            });
            self.fail_over(shared);
            self.route.leader = known;
        }
        if let Some(asked) = self.attachment.late(now, timeout, GUESS_TIMEOUT, leader) {
            self.attachment.doubt();
            self.route.leader = None;
            self.move_on_from(asked);
        }
    }

    /// Tells the leader that the holder is alive, so that nobody takes the volume from an idle one.
    pub(super) fn keep_alive(&mut self, shared: &mut Shared) {
        let period = shared.config.timing.holder_timeout / 5;
        let Some(epoch) = self.attachment.epoch() else { return };
        if !self.serves_volume() || shared.now.since(self.route.kept_alive_at) < period {
            return;
        }
        self.route.kept_alive_at = shared.now;
        self.tell(shared, GatewayOp::KeepAlive { epoch });
    }

    /// Asks the leader to hand over to the local replica: reads then cross no network, and writes one hop less.
    pub(super) fn prefer_local_leader(&mut self, shared: &mut Shared) {
        let Some(local) = self.local else { return };
        let is_elsewhere = self.route.leader.is_some_and(|leader| leader != local);
        let is_due = self
            .route
            .preferred_at
            .is_none_or(|at| self.attachment.epoch().is_some() && shared.now.since(at) >= PREFER_PAUSE);
        if !(shared.config.limits.move_leadership && is_elsewhere && is_due && self.serves_volume()) {
            return;
        }
        self.route.preferred_at = Some(shared.now);
        self.tell(shared, GatewayOp::TransferLeader { to: local });
    }

    /// Sends what wants no reply.
    fn tell(&mut self, shared: &mut Shared, op: GatewayOp) {
        let Some((_, disk)) = self.target(shared) else { return };
        let request = GatewayRequest {
            group: self.spec.group,
            request: NO_REPLY,
            revision: self.revision,
            op,
        };
        if disk == shared.config.disk {
            shared.local_requests.push_back(request);
        } else {
            shared.send(disk, PeerMessage::Request(request));
        }
    }

    /// When the gateway wants to be ticked again at the latest, beyond the ordinary tick.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        let sends = (!self.unsent.is_empty()).then_some(self.route.not_before);
        sends.into_iter().chain(self.attachment.next_deadline()).min()
    }
}

fn operation_for(piece: &PartKind, epoch: Epoch) -> GatewayOp {
    match piece.clone() {
        PartKind::Blocks(Piece::Read { lba, blocks, snapshot }) => GatewayOp::Read { lba, blocks, snapshot },
        PartKind::Blocks(Piece::Write {
            lba,
            block_crcs,
            payload,
        }) => GatewayOp::Write {
            epoch,
            lba,
            block_crcs,
            payload,
        },
        PartKind::Blocks(Piece::Zero { lba, blocks, allocate }) => GatewayOp::Zero {
            epoch,
            lba,
            blocks,
            allocate,
        },
        PartKind::Blocks(Piece::Status {
            lba,
            blocks,
            extents_max,
            snapshot,
        }) => GatewayOp::Status {
            lba,
            blocks,
            extents_max,
            snapshot,
        },
        PartKind::Detach { force } => {
            let mode = if force { AttachMode::Force } else { AttachMode::Take };
            GatewayOp::Attach {
                holder: NodeId::NIL,
                mode,
                requester: NodeId::NIL,
            }
        }
    }
}
