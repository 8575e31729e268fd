//! Whose disks have room for a write: what the leader asks before it proposes one.
//!
//! # Who is asked
//! Every voter that was heard lately and keeps up. A majority would do to acknowledge the write, but the entry goes to the
//! others too, and one whose disk cannot take it would stay behind, with blocks that it can no longer free, since the trims
//! and deletions that would free them stand behind the entry that it cannot take.
//!
//! Who is away, or stays behind for whatever reason, is left out: a volume does not wait for a minority.

use std::collections::BTreeMap;
use std::time::Duration;

use cairn_api::ids::ReplicaId;
use cairn_api::units::BLOCK_BYTES;
use cairn_format::peer::{PeerEntry, RaftMessage};

use super::Group;
use crate::shared::{Room, Shared};
use crate::time::Timestamp;

/// Who has not passed an index after so long that was committed then does not keep up.
const KEEPS_UP_WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Heard {
    room: Room,
    at: Timestamp,
    /// The index that the replica is still to reach, and since when.
    behind: Option<(u64, Timestamp)>,
}

/// What followers have said of their disks, since this replica leads.
#[derive(Debug, Default)]
pub(super) struct Rooms(BTreeMap<ReplicaId, Heard>);

impl Rooms {
    /// A follower has said what room it has. Its log is known to match up to `matched`.
    pub(super) fn heard(&mut self, from: ReplicaId, room: Room, (matched, committed): (u64, u64), now: Timestamp) {
        let behind = self.0.get(&from).and_then(|heard| heard.behind);
        let behind = match behind {
            Some((target, since)) if matched < target => Some((target, since)),
            _ => (matched < committed).then_some((committed, now)),
        };
        let at = now;
        self.0.insert(from, Heard { room, at, behind });
    }

    pub(super) fn forget(&mut self, replica: ReplicaId) {
        self.0.remove(&replica);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The room of a follower that counts; `None` for one that is away, stays behind, or has not said anything yet.
    fn of(&self, replica: ReplicaId, now: Timestamp, away_after: Duration) -> Option<Room> {
        let heard = self.0.get(&replica)?;
        let is_away = now.since(heard.at) > away_after;
        let is_behind = heard
            .behind
            .is_some_and(|(_, since)| now.since(since) > KEEPS_UP_WITHIN);
        (!is_away && !is_behind).then_some(heard.room)
    }
}

impl Group {
    /// Whether the disks of all members that count have room in this sense.
    pub(super) fn all_have(&self, shared: &Shared, has_room: impl Fn(Room) -> bool) -> bool {
        let away_after = shared.config.timing.election_timeout();
        self.membership.voters.iter().all(|member| {
            if member.replica == self.replica {
                has_room(shared.room(self.is_external()))
            } else {
                let room = self.rooms.of(member.replica, shared.now, away_after);
                room.is_none_or(&has_room)
            }
        })
    }

    /// Leaves away what the disk has no room for of the entries that a leader sends, and everything behind it. What the leader
    /// says of entries before them still counts: it is how a replica with a full disk learns that these are committed.
    pub(super) fn cut_to_what_fits(&self, shared: &Shared, wire: &mut RaftMessage) {
        let mut room = shared.room(self.is_external()).free_blocks;
        let log = &self.node.raft.raft_log;
        let mut fits = |entry: &PeerEntry| {
            let blocks = (entry.payload.len() as u64).div_ceil(BLOCK_BYTES);
            let is_new = blocks > 0 && !log.match_term(entry.index.get(), entry.term.get());
            let left = room.checked_sub(if is_new { blocks } else { 0 });
            room = left.unwrap_or(0);
            left.is_some()
        };
        let count = wire.entries.iter().take_while(|entry| fits(entry)).count();
        if count < wire.entries.len() {
            tracing::debug!(group = %self.spec.group, "entries refused: the disk is full");
            wire.entries.truncate(count);
        }
    }

    /// Whether what followers have said of their room is younger than the last thing that might have changed it: since the
    /// volume was first found to be full, or something was freed, each has been heard again.
    pub(super) fn is_full_for_sure(&mut self, shared: &Shared) -> bool {
        let timing = &shared.config.timing;
        let since = *self.full_since.get_or_insert(shared.now);
        shared.now.since(since) > timing.tick * timing.heartbeat_ticks * 3
    }
}
