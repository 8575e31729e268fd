//! Catch-up without the log: a replica whose log ends before the leader's begins is given the state itself, at
//! exactly one index.
//!
//! # The parts
//! - **Truncation** ([`truncate`]). Each replica forgets entries that it has applied, beyond a bound, but none behind
//!   a mark.
//! - **The mark** ([`mark`]). A leader that is asked for what it has forgotten makes a snapshot of its own at `s`,
//!   the last index that it has applied, and keeps beside it the rest of the state as of `s`: attachment, members,
//!   size, snapshots. Writes go on; what they replace moves into the mark's delta. One mark at a time. It is not an
//!   entry, because a leader whose only other living voter is the one that is behind could not commit one: it needs
//!   the follower to commit, and the follower needs the mark.
//! - **The offer** ([`lead`]). raft-rs asks its storage for a snapshot when a follower needs what was truncated. It
//!   is given index, term and members of the mark, and its `MsgSnapshot` leaves as an offer.
//! - **The pull** ([`receive`], [`serve`]). The follower asks for the state's slots from an address on, and says up
//!   to which index it has applied entries: `have`. It is sent all slots, and the data of those that were born after
//!   `have`; the others it has.
//! - **Staging** ([`staging`]). What comes goes to the follower's log as records, data beside them, and into a map
//!   aside.
//! - **Installing** ([`install`]). When all of it is durable, and not before, raft-rs is shown the offer. It decides,
//!   once more and by its own rules, whether its log is to begin at `s`; if so, a record `StageDone` says so, and the
//!   map aside takes the place of the old one.
//!
//! # Why the state is right
//! *All slots of `s`, and nothing else.* The leader has applied `s`, so that all up to there is committed, and a
//! snapshot shows what it showed whatever comes later (`map`'s third rule). Of each leaf the volume and all older
//! snapshots are read at once (`map::state`). What is not mentioned is not there, so trims between `have` and `s`
//! need no mention.
//!
//! *A slot that was born by `have` is found under its address and birth.* It is visible at `s`, in the volume or in a
//! snapshot, and was born by `have`; so it was visible at every index in between, `have` included, and the follower
//! has it in its head or a delta: a visible slot is never garbage. One entry writes an address at most once, so that
//! address and birth name one slot, and entries are the same on all replicas. The same holds of what was staged of an
//! earlier state: who begins with another one, since the leader has changed, says that it has, up to the block that
//! it had come to, everything that was born by that earlier mark. The follower may go on to apply what it learns to
//! be committed; as long as that is before `s` the same holds. When it has what is committed up to `s` by itself, it
//! needs no state and drops what it staged. A slot that is not found all the same is asked for anew, with its data
//! (`have` 0). Whether the disk still holds the bytes of what it has is for readers and scrubbing to find out, as
//! always.
//!
//! *In a clone* what was filled from its base was born at 0, before everything (`map::fill`). It is filled in the order of
//! the blocks, so that whoever was filled up to a block when it began has, by the same argument, all below it that is
//! visible at `s`; the rest is sent with its data. The state as of `s` says up to where the volume was filled then. What
//! the leader has filled since may be in a portion all the same: it shows what the base shows. The follower meets the
//! entries that filled it later, finds that those times show the base no more, and drops what they bring.
//!
//! *Snapshots.* One that was deleted after `s` may be half merged away where it is read. The follower then has it
//! incomplete from `s` to the entry that deletes it, and nobody can look at it in that time: reads are answered only
//! by a leader that has applied an entry of its own term, and the deletion was committed before the portion was read,
//! so that every later leader has it in front of that entry.
//!
//! # Why nothing acknowledged is lost, and nobody votes or leads on half a state
//! 1. *Until `StageDone` the replica is what it was.* Its log, term, vote, map stay, it votes and acknowledges by
//!    them. Staging only adds.
//! 2. *What `StageDone` throws away nobody counts on.* raft-rs restores only if its log has no entry `(s, term of
//!    s)`. Had the replica acknowledged an entry that is committed at or behind `s`, its log would agree with the
//!    committed one up to there, `s` included, and raft-rs would move its commit index instead. What is thrown away
//!    behind `s` was never committed, nor acknowledged to a leader that still counts on it: a leader that has `s`
//!    committed has another entry there.
//! 3. *`StageDone` is one record.* Recovery that finds it finds all before it, since frames stand in order; recovery
//!    that does not, finds the old state and drops what was staged. Then `s` is applied and committed: it is the
//!    index of a committed entry's effects. `StageBegin` says what was committed when `have` was chosen, since commit
//!    indices are not always durable, and kept slots must be looked up in a map that has applied `have`.
//! 4. *The acknowledgement of `s` follows `StageDone`'s frame*, as every message of a follower waits for its ready's
//!    records. So a majority that is counted up to `s` has `s` on its media.
//! 5. *Nobody campaigns in between.* While `StageDone` is on its way raft-rs has its log at `s` and its applied index
//!    before it; an election would look for entries in between. Ticks and `TimeoutNow` are held back
//!    ([`Group::is_installing`]). Votes may be given: they wait for the same record, and the log they are judged by
//!    is the one that it brings.
//! 6. *Leases.* Nothing of the pull is stamped, and a learner or a follower that pulls goes on answering heartbeats:
//!    what it promises by that it keeps.
//! 7. *Members.* The state has those as of `s`; later changes are entries behind it. A replica takes a state only if
//!    it is a member there: else it would not know itself. A learner that was added after the mark waits for a new
//!    one. A change in the log that was thrown away is no longer taken for a proof that the one before it is
//!    committed; by `s` all before it are.
//!
//! # What may happen on the way
//! - *Lost, late, repeated messages*: a request names its address, a reply is taken only if it answers the request
//!   that is open.
//! - *The leader dies*: the next one finds the follower behind and offers a state of its own. The follower begins
//!   anew, but nothing that it has staged comes a second time.
//! - *Two leaders*: an offer of an older term than the follower's own or than that of the offer at hand is dropped.
//!   Both states would be committed ones anyway.
//! - *The mark is gone* (its leader was restarted, leads no more, or a user deleted the snapshot that happened to be
//!   of the same index): the answer says so; the follower waits for the next offer.
//! - *The follower dies or is silent*: a leader takes it out of raft-rs's snapshot state after an election time-out
//!   without a request and probes it again, which brings a new offer; a mark that nobody needed for a while is
//!   dropped.
//! - *A full disk*: the follower asks for nothing while there is no room for the answer; what it has received is given up when
//!   collection needs the room. A disk that cannot hold the state beside the replica's own stays behind until there is room on
//!   it, or the replica is moved to another disk: a replica never gives its own away before it has the other.
//! - *The group is dropped*: with all that was staged; a recovery drops it at the same place.
//!
//! # Bounds
//! One request under way for a replica, at most 1 MiB of data in an answer (more only if more than 256 snapshots have
//! a block at one address), so many bytes a second for a disk (`Limits::catch_up_rate`), and not more waiting for the
//! disk than [`receive::UNPLACED_BLOCKS_MAX`].
//!
//! # What it costs
//! A mark keeps what writes replace, and the log behind it, for as long as a replica pulls. The slots themselves
//! travel all: 19 bytes for each row of blocks that were written by one entry. A block that no replica has any more
//! cannot be sent: the follower stays behind until it is overwritten or trimmed.

mod install;
mod lead;
mod mark;
mod receive;
mod serve;
mod staging;
mod truncate;

pub(in crate::group) use install::snapshot;
pub(crate) use lead::Leading;
pub(crate) use mark::Mark;
pub(crate) use receive::{REPLY_ROOM_BLOCKS, Receiver};
pub(crate) use serve::Serving;
pub(crate) use staging::{Staging, membership_of};

#[cfg(doc)]
use super::Group;
