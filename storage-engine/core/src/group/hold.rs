//! Holding writes back for a moment, so that the snapshots of several volumes are of one instant.
//!
//! Whoever wants such snapshots (a *coordinator*) asks the leader of every volume to hold its writes, waits until **all** of
//! them have said that they do, and only then asks each for its snapshot. A hold has a token that nobody else uses.
//!
//! # What is promised
//! If a client writes A to one volume, is told that it is done, and only then begins to write B to another (or the same), then
//! the snapshots never show B without A. Nor if somebody reads B, and only then begins to write.
//!
//! # Why it holds
//! Let T be any moment after the last leader has said that it holds, and before the first was asked for its snapshot. For each
//! volume let L be the leader that held, t its term, and p the place of the snapshot's entry in the log.
//!
//! 1. *Nothing that began after T is in front of p.* The entry is proposed by L in term t, while L holds under the token
//!    without interruption since before T. What is in front of it in L's log was either there when the term began, or proposed
//!    by L in the term before the hold: all of that began before T. If the entry is committed, every replica's log is L's up
//!    to p.
//! 2. *Everything that was acknowledged before T is in front of p.* It was committed then. If it was in a term up to t, it is in
//!    L's log when L proposes. If another leader committed it in a higher term, a majority had voted in that term before T; the
//!    entry at p needs a majority's answer in term t after T, and the two majorities share a replica which gives none. So p is
//!    never committed, and there is no snapshot.
//! 3. If B is shown, it began before T by 1. A was acknowledged before B began, so before T, and is shown by 2. Whoever reads B
//!    reads what is applied: B is in front of p if it is shown, or it was proposed after p, and what begins later still is in
//!    front of no volume's place.
//!
//! # What may go wrong
//! A hold is in nobody's log. It ends with the leader's term, with its process, and when its time is over by the leader's own
//! clock, whatever became of the coordinator: so a write never waits for longer than [`HOLD_TIME_MAX`], and the coordinator's
//! clock does not matter. A request for a snapshot under a hold that has ended is refused, and then the coordinator deletes all
//! snapshots of that attempt and begins again with other numbers. What was made late, of an attempt that was given up, is
//! deleted by its number, or finds its number spent ([`super::snapshot`]).
//!
//! The hold ends as soon as the entry is proposed: what comes then has a later place in the log, and that is all that 1 needs.
//! Held writes are answered as by a leader that is busy: their gateway sends them again. Reads and attachments go on.

use std::time::Duration;

use cairn_api::ids::{GroupId, SnapshotId};
use cairn_format::entry::EntryHeader;

use super::Group;
use crate::event::{CommandError, CommandId, CommandReply};
use crate::shared::{Origin, Shared};
use crate::time::Timestamp;

/// How long a hold lasts at most. A coordinator needs a few round trips; what clients notice is a pause.
pub const HOLD_TIME_MAX: Duration = Duration::from_secs(2);

/// A request of a coordinator, to the leader of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HoldRequest {
    /// The volume.
    pub group: GroupId,
    /// What the coordinator's attempt is called: no other is ever called the same.
    pub token: u64,
    /// What to do.
    pub step: HoldStep,
}

/// What a coordinator asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HoldStep {
    /// Begin to hold; refused while another attempt does.
    Begin,
    /// Make this snapshot, which nobody else ever asks for, if the hold has lasted since; replies as
    /// [`crate::event::Command::CreateSnapshot`]. The hold is over then.
    Take(SnapshotId),
    /// Let the writes go on; over already is over.
    End,
}

/// Writes are held back.
pub(super) struct Hold {
    token: u64,
    term: u64,
    until: Timestamp,
}

impl Group {
    /// Whether writes are held back now.
    pub(super) fn is_held(&self, shared: &Shared) -> bool {
        let is_in_force = |hold: &Hold| hold.term == self.term() && shared.now < hold.until;
        self.hold.as_ref().is_some_and(is_in_force)
    }

    fn is_held_by(&self, shared: &Shared, token: u64) -> bool {
        self.is_held(shared) && self.hold.as_ref().is_some_and(|hold| hold.token == token)
    }

    /// Serves a coordinator's request.
    pub(crate) fn hold(&mut self, shared: &mut Shared, id: CommandId, request: HoldRequest) {
        let HoldRequest { token, step, .. } = request;
        if step == HoldStep::End {
            if self.is_held_by(shared, token) {
                self.hold = None;
            }
            return shared.end_command(id, Ok(CommandReply::Done));
        }
        let origin = Origin::Command(id);
        if !self.may_propose(shared, origin) {
            return;
        }
        let reply = match step {
            HoldStep::Take(snapshot) if self.is_held_by(shared, token) => {
                self.hold = None;
                match self.refuse_snapshot(snapshot) {
                    Some(problem) => Err(problem),
                    None if self.map.snapshot(snapshot).is_some() => {
                        Err(format!("snapshot {snapshot} was made before, by another attempt"))
                    }
                    None => {
                        let header = EntryHeader::SnapshotCreate { snapshot };
                        return self.propose(shared, origin, &header, bytes::Bytes::new());
                    }
                }
            }
            HoldStep::Take(_) => Err("the writes are not held any more: begin again".to_owned()),
            _ if self.is_external() => Err("the meta group holds no writes back".to_owned()),
            _ if self.is_held(shared) && !self.is_held_by(shared, token) => {
                Err("the writes are held for another snapshot: ask again".to_owned())
            }
            _ => {
                self.hold = Some(Hold {
                    token,
                    term: self.term(),
                    until: shared.now.after(HOLD_TIME_MAX),
                });
                Ok(CommandReply::Done)
            }
        };
        shared.end_command(id, reply.map_err(CommandError::Refused));
    }
}
