//! Taking, renewing and giving back the attachment of a volume.

use std::time::Duration;

use cairn_api::block::BlockError;
use cairn_api::ids::{DiskId, Epoch, ReplicaId};
use cairn_format::peer::{AttachMode, GatewayOp, GatewayResult};

use super::{Gateway, Part, PartKind};
use crate::mutation::{Seeded, mutated};
use crate::shared::Shared;
use crate::time::Timestamp;

/// How long a first write waits for a holder that may be gone, beyond the time after which it counts as gone.
const BUSY_GRACE: Duration = Duration::from_secs(1);
/// The pause between attempts to take a volume that another node holds.
const BUSY_PAUSE: Duration = Duration::from_millis(500);
/// How long giving back is tried: then the others wait until this holder counts as gone.
const DETACH_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause between attempts to give back. A member may refuse in the same turn, if it is of this core: without a pause the two
/// would go on for ever.
const DETACH_PAUSE: Duration = Duration::from_millis(20);

/// A request of the attachment under way.
#[derive(Clone, Copy, Debug)]
struct Asked {
    request: u64,
    to: ReplicaId,
    disk: DiskId,
    at: Timestamp,
}

/// An attachment that nobody needs any more.
#[derive(Clone, Copy, Debug)]
struct GivingBack {
    epoch: Epoch,
    since: Timestamp,
    asked: Option<Asked>,
    /// Nobody is asked before.
    not_before: Timestamp,
}

/// The gateway's hold on the volume.
#[derive(Debug, Default)]
pub(super) struct Attachment {
    epoch: Option<Epoch>,
    /// It was held and nobody is known to have taken it: taking it again is a renewal.
    is_renewal: bool,
    asked: Option<Asked>,
    giving_back: Option<GivingBack>,
    /// Since when another node's hold has been in the way.
    busy_since: Option<Timestamp>,
    not_before: Timestamp,
}

impl Attachment {
    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    pub(super) fn is_settled(&self) -> bool {
        self.epoch.is_none() && self.giving_back.is_none()
    }

    pub(super) fn is_reply(&self, request: u64) -> bool {
        let giving_back = self.giving_back.and_then(|giving_back| giving_back.asked);
        [self.asked, giving_back]
            .iter()
            .flatten()
            .any(|asked| asked.request == request)
    }

    /// A write under the present epoch is in doubt, or a request for the attachment is: take it anew.
    pub(super) fn doubt(&mut self) {
        self.is_renewal |= self.epoch.take().is_some();
        self.asked = None;
    }

    pub(super) fn link_lost(&mut self, lost: DiskId) {
        if self.asked.is_some_and(|asked| asked.disk == lost) {
            self.asked = None;
        }
        if let Some(giving_back) = &mut self.giving_back {
            giving_back.asked.take_if(|asked| asked.disk == lost);
        }
    }

    /// When to go on with giving it back.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        let waits = self.giving_back.filter(|giving_back| giving_back.asked.is_none());
        waits.map(|giving_back| giving_back.not_before)
    }

    /// The member that was asked and does not answer in time.
    pub(super) fn late(
        &self,
        now: Timestamp,
        timeout: Duration,
        guess_timeout: Duration,
        leader: Option<ReplicaId>,
    ) -> Option<ReplicaId> {
        let asked = self.asked?;
        let age = now.since(asked.at);
        let is_late = age > timeout || (age > guess_timeout && leader != Some(asked.to));
        is_late.then_some(asked.to)
    }
}

impl Part {
    pub(super) fn is_write(&self) -> bool {
        matches!(&self.piece, PartKind::Blocks(piece) if piece.is_write())
    }

    /// Whether it may be sent only while this node holds the volume.
    pub(super) fn needs_attachment(&self, seeded: Seeded) -> bool {
        let is_edge = self.is_edge && !mutated!(seeded, EdgesBeforeAttachment);
        is_edge || self.is_write()
    }
}

impl Gateway {
    /// Asks for the attachment unless that is under way.
    pub(super) fn attach(&mut self, shared: &mut Shared) {
        if self.attachment.asked.is_some() || shared.now < self.attachment.not_before {
            return;
        }
        let node = shared.config.node;
        let mode = if self.attachment.is_renewal {
            AttachMode::Resume
        } else {
            AttachMode::Take
        };
        let op = GatewayOp::Attach {
            holder: node,
            mode,
            requester: node,
        };
        self.attachment.asked = self.ask(shared, op);
    }

    fn ask(&mut self, shared: &mut Shared, op: GatewayOp) -> Option<Asked> {
        let (request, to, disk) = self.send(shared, op)?;
        let at = shared.now;
        Some(Asked { request, to, disk, at })
    }

    pub(super) fn attachment_reply(&mut self, shared: &mut Shared, request: u64, result: GatewayResult) {
        if let Some(giving_back) = &mut self.attachment.giving_back
            && let Some(asked) = giving_back.asked.take_if(|asked| asked.request == request)
        {
            return self.given_back(shared, asked.to, &result);
        }
        let Some(asked) = self.attachment.asked.take() else {
            return;
        };
        self.note_answer(asked.to, &result);
        match result {
            GatewayResult::Attached { epoch } => {
                self.attachment.epoch = Some(epoch);
                self.attachment.is_renewal = true;
                self.attachment.busy_since = None;
            }
            GatewayResult::NotLeader { leader } => self.note_hint(shared, asked.to, leader),
            GatewayResult::Failed(BlockError::Busy { holder }) => self.busy(shared, &holder),
            GatewayResult::Failed(BlockError::Fenced { current }) => self.fence(shared, Epoch(current)),
            GatewayResult::Failed(error) => self.fail_writes(shared, &error),
            GatewayResult::Retry
            | GatewayResult::Done
            | GatewayResult::Read(_)
            | GatewayResult::Status(_)
            | GatewayResult::Members { .. } => self.pause(shared),
        }
    }

    /// Another node holds the volume and is alive: wait as long as it could be gone, then give up.
    fn busy(&mut self, shared: &mut Shared, holder: &str) {
        let since = *self.attachment.busy_since.get_or_insert(shared.now);
        if shared.now.since(since) < shared.config.timing.holder_timeout + BUSY_GRACE {
            self.attachment.not_before = shared.now.after(BUSY_PAUSE);
            return;
        }
        self.attachment.busy_since = None;
        self.fail_writes(
            shared,
            &BlockError::Busy {
                holder: holder.to_owned(),
            },
        );
    }

    /// Another node has attached since: what this one holds may not be written any more, now or later.
    fn fence(&mut self, shared: &mut Shared, current: Epoch) {
        tracing::warn!(group = %self.spec.group, epoch = %current, "fenced: the volume was attached elsewhere");
        self.attachment.epoch = None;
        self.attachment.is_renewal = false;
        for device in self.devices.values_mut() {
            device.fenced = Some(current);
        }
        self.fail_writes(shared, &BlockError::Fenced { current: current.get() });
    }

    /// Whether the attachment was given back: what a member refuses that leads no more, or not yet, is offered again, or the
    /// next holder would wait until this one counts as dead.
    fn given_back(&mut self, shared: &Shared, asked: ReplicaId, result: &GatewayResult) {
        match result {
            GatewayResult::NotLeader { leader } => self.note_hint(shared, asked, *leader),
            GatewayResult::Retry => {}
            _ => self.attachment.giving_back = None,
        }
    }

    /// Gives the attachment back once no frontend is left. Whoever comes meanwhile takes it anew.
    pub(super) fn settle(&mut self, shared: &mut Shared) {
        let is_needed = self.serves_volume() || !self.operations.is_empty();
        if !is_needed && let Some(epoch) = self.attachment.epoch.take() {
            self.attachment.is_renewal = false;
            self.attachment.giving_back = Some(GivingBack {
                epoch,
                since: shared.now,
                asked: None,
                not_before: shared.now,
            });
        }
        let Some(mut giving_back) = self.attachment.giving_back.take() else {
            return;
        };
        let is_waiting = giving_back.asked.is_none();
        if shared.now.since(giving_back.since) > DETACH_TIMEOUT || (is_waiting && is_needed) {
            return;
        }
        if is_waiting && shared.now >= giving_back.not_before {
            let epoch = giving_back.epoch;
            giving_back.asked = self.ask(shared, GatewayOp::Detach { epoch });
            giving_back.not_before = shared.now.after(DETACH_PAUSE);
        }
        self.attachment.giving_back = Some(giving_back);
    }
}
