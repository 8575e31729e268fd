//! A group's Raft log as raft-rs sees it: recent entry headers in memory, older ones in the segment log.
//!
//! Raft asks for headers only. The window holds at least every entry that is not applied yet, so that the requests which
//! raft-rs makes synchronously (applying, campaigning) are always answered from memory. What is older is found through
//! one position a frame, read back, and parked in `fetched` while raft-rs sends it.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use cairn_api::ids::{LogIndex, ReplicaId, Term};
use cairn_format::member::Member;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::catch_up::snapshot;
use super::members::raft_entry;
use crate::membership::Membership;

/// The index and term that every group starts from. Not zero: raft-rs treats an empty log at index 0 as a replica that
/// was never initialised, and such a replica could vote.
pub(crate) const BASE: u64 = 5;

/// Where an entry is in the segment log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Location {
    /// Byte offset of its frame.
    pub(crate) frame_offset: u64,
    /// Disk block of its first payload block; 0 if it has none.
    pub(crate) payload_block: u64,
}

/// An entry of the window.
#[derive(Clone, Debug)]
pub(crate) struct LogEntry {
    pub(crate) term: u64,
    pub(crate) header: Bytes,
    /// Held until the entry is durable here; read back from the log after that.
    pub(crate) payload: Bytes,
    /// Known once its frame is composed.
    pub(crate) location: Option<Location>,
}

/// An old entry that was read back.
#[derive(Clone, Debug)]
pub(crate) struct FetchedEntry {
    pub(crate) term: u64,
    pub(crate) header: Bytes,
    pub(crate) payload_block: u64,
}

/// A request for old entries that raft-rs waits for.
#[derive(Debug)]
pub(crate) struct FetchRequest {
    pub(crate) low: u64,
    pub(crate) context: GetEntriesContext,
}

/// Entry headers of one group.
pub(crate) struct GroupLog {
    hard_state: HardState,
    /// The members at the applied index when the replica started: what raft-rs starts from.
    conf_state: ConfState,
    /// Entries up to here are not held any more: the log begins behind it.
    truncated: u64,
    /// The state that is offered to those who need what is not held: index and term of the mark, and the members there.
    mark: Option<(LogIndex, Term, ConfState)>,
    /// Filled by `snapshot`, which raft-rs calls on a shared reference: who needs a state.
    snapshots_wanted: std::cell::RefCell<Vec<ReplicaId>>,
    /// Index of `window[0]`.
    window_first: u64,
    window: VecDeque<LogEntry>,
    /// Starts of runs of equal term, from `truncated` on.
    terms: Vec<(u64, u64)>,
    /// First index of each frame that holds entries of the group, and the frame's offset.
    frames: Vec<(u64, u64)>,
    fetched: BTreeMap<u64, FetchedEntry>,
    /// Filled by `entries`, which raft-rs calls on a shared reference.
    wanted: std::cell::RefCell<Vec<FetchRequest>>,
}

impl GroupLog {
    pub(crate) fn new() -> Self {
        let mut hard_state = HardState::default();
        hard_state.set_term(BASE);
        hard_state.set_commit(BASE);
        Self {
            hard_state,
            conf_state: ConfState::default(),
            truncated: BASE,
            mark: None,
            snapshots_wanted: std::cell::RefCell::default(),
            window_first: BASE + 1,
            window: VecDeque::new(),
            terms: vec![(BASE, BASE)],
            frames: Vec::new(),
            fetched: BTreeMap::new(),
            wanted: std::cell::RefCell::default(),
        }
    }

    /// A log that begins behind this entry.
    pub(crate) fn beginning_behind((index, term): (u64, u64), hard_state: HardState) -> Self {
        Self {
            hard_state,
            truncated: index,
            window_first: index + 1,
            terms: vec![(index, term)],
            ..Self::new()
        }
    }

    /// The payload of an entry was copied. Says whether it was at the old place.
    pub(crate) fn relocate(&mut self, index: u64, old: u64, new: u64) -> bool {
        let entry = self.get_mut(index);
        let location = entry.and_then(|entry| entry.location.as_mut());
        let Some(location) = location.filter(|location| location.payload_block == old) else {
            return false;
        };
        location.payload_block = new;
        true
    }

    /// The frame of the first entry behind `index`; `None` if it is not on its way to the disk yet.
    pub(crate) fn frame_behind(&self, index: u64) -> Option<u64> {
        let entry = self.get(index + 1);
        if entry.is_some_and(|entry| entry.location.is_none()) {
            return None;
        }
        (index < self.last())
            .then(|| self.frames_from(index + 1, 1).first().copied())
            .flatten()
    }

    /// The last entry that is in a frame for which `is_before` holds; frames are asked in the order of the log.
    pub(crate) fn last_in(&self, is_before: impl Fn(u64) -> bool) -> u64 {
        let place = self.frames.partition_point(|(_, offset)| is_before(*offset));
        match self.frames.get(place) {
            Some((first, _)) => first - 1,
            // What is in no frame yet comes behind all of them.
            None => self.first_unplaced() - 1,
        }
    }

    /// Entries up to here stand before the beginning of the disk's log and are kept all the same: where their frames were means
    /// nothing any more, for the log may come to use that place again.
    pub(crate) fn leave_frames(&mut self, upto: u64) {
        for (first, offset) in &mut self.frames {
            if *first <= upto {
                *offset = 0;
            }
        }
    }

    fn first_unplaced(&self) -> u64 {
        let place = self.window.partition_point(|entry| entry.location.is_some());
        self.window_first + place as u64
    }

    /// The members as of what is applied.
    pub(crate) fn set_members(&mut self, members: &Membership) {
        self.conf_state = conf_state(members);
    }

    /// Entries up to here are not held any more.
    pub(crate) const fn truncated(&self) -> u64 {
        self.truncated
    }

    /// Forgets entries up to `upto`, which are applied. The terms and places of the others stay known.
    pub(crate) fn truncate_front(&mut self, upto: u64) {
        let Some(term) = self.term_at(upto).filter(|_| upto > self.truncated) else {
            return;
        };
        self.terms.retain(|(start, _)| *start > upto);
        self.terms.insert(0, (upto, term));
        let first_kept = self
            .frames
            .partition_point(|(first, _)| *first <= upto + 1)
            .saturating_sub(1);
        self.frames.drain(..first_kept);
        while self.window_first <= upto && self.window.pop_front().is_some() {
            self.window_first += 1;
        }
        self.fetched = self.fetched.split_off(&(upto + 1));
        self.truncated = upto;
    }

    /// The log begins anew behind this entry: all that it held is gone.
    pub(crate) fn restore(&mut self, index: u64, term: u64) {
        self.truncated = index;
        (self.window_first, self.window) = (index + 1, VecDeque::new());
        self.terms = vec![(index, term)];
        self.frames.clear();
        self.fetched.clear();
        self.wanted.get_mut().clear();
    }

    /// What is offered to those who need entries that are not held.
    pub(crate) fn set_mark(&mut self, mark: Option<(LogIndex, Term, ConfState)>) {
        self.mark = mark;
    }

    /// Who has needed a state since this was last asked.
    pub(crate) fn take_snapshots_wanted(&mut self) -> Vec<ReplicaId> {
        std::mem::take(self.snapshots_wanted.get_mut())
    }

    pub(crate) fn last(&self) -> u64 {
        self.window_first + self.window.len() as u64 - 1
    }

    pub(crate) fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    pub(crate) fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// Appends an entry, dropping what stood at its index and after.
    pub(crate) fn append(&mut self, index: u64, entry: LogEntry) {
        assert!(
            index <= self.last() + 1,
            "entry {index} leaves a gap after {}",
            self.last()
        );
        assert!(
            index >= self.window_first,
            "entry {index} replaces one that was applied"
        );
        if index <= self.last() {
            self.truncate(index);
        }
        if self.term_at(index - 1) != Some(entry.term) {
            self.terms.push((index, entry.term));
        }
        if let Some(location) = entry.location {
            self.note_frame(index, location.frame_offset);
        }
        self.window.push_back(entry);
    }

    #[allow(clippy::cast_possible_truncation, reason = "an offset within the window")]
    fn truncate(&mut self, index: u64) {
        self.window.truncate((index - self.window_first) as usize);
        pop_from(&mut self.terms, index);
        pop_from(&mut self.frames, index);
        self.fetched.split_off(&index);
    }

    fn note_frame(&mut self, index: u64, frame_offset: u64) {
        if self.frames.last().is_none_or(|(_, offset)| *offset != frame_offset) {
            self.frames.push((index, frame_offset));
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "an offset within the window")]
    pub(crate) fn get(&self, index: u64) -> Option<&LogEntry> {
        index
            .checked_sub(self.window_first)
            .and_then(|offset| self.window.get(offset as usize))
    }

    #[allow(clippy::cast_possible_truncation, reason = "an offset within the window")]
    fn get_mut(&mut self, index: u64) -> Option<&mut LogEntry> {
        index
            .checked_sub(self.window_first)
            .and_then(|offset| self.window.get_mut(offset as usize))
    }

    /// Payload that is held, in bytes.
    pub(crate) fn payload_bytes(&self) -> u64 {
        self.window.iter().map(|entry| entry.payload.len() as u64).sum()
    }

    pub(crate) fn fetched(&self, index: u64) -> Option<&FetchedEntry> {
        self.fetched.get(&index)
    }

    /// An entry's place is known: its frame was composed. Ignored if another entry has taken its index since.
    pub(crate) fn place(&mut self, index: u64, term: u64, location: Location) {
        let Some(entry) = self.get_mut(index).filter(|entry| entry.term == term) else {
            return;
        };
        entry.location = Some(location);
        // Frames are composed in order, but an entry may have been replaced while its predecessors were queued.
        pop_from(&mut self.frames, index);
        self.note_frame(index, location.frame_offset);
    }

    /// The entries up to `index` are durable: their payload need not be held any longer.
    pub(crate) fn release_payload(&mut self, from: u64, to: u64) {
        for index in from..=to {
            if let Some(entry) = self.get_mut(index).filter(|entry| entry.location.is_some()) {
                entry.payload = Bytes::new();
            }
        }
    }

    /// Forgets headers of applied entries beyond `kept_max`.
    pub(crate) fn evict(&mut self, applied: u64, kept_max: usize) {
        while self.window.len() > kept_max
            && self.window_first <= applied
            && self.window.front().is_some_and(|entry| entry.location.is_some())
        {
            self.window.pop_front();
            self.window_first += 1;
        }
    }

    /// The offset of the frame that holds `index`, and the offsets of up to `count - 1` that follow.
    pub(crate) fn frames_from(&self, index: u64, count: usize) -> Vec<u64> {
        let start = self
            .frames
            .partition_point(|(first, _)| *first <= index)
            .saturating_sub(1);
        self.frames[start..]
            .iter()
            .take(count)
            .map(|(_, offset)| *offset)
            .collect()
    }

    /// Parks an entry that was read back; false if it is not what stands at its index.
    pub(crate) fn park(&mut self, index: u64, entry: FetchedEntry) -> bool {
        if index >= self.window_first || self.term_at(index) != Some(entry.term) {
            return false;
        }
        self.fetched.insert(index, entry);
        true
    }

    /// Forgets parked entries outside of `keep`.
    pub(crate) fn unpark_before(&mut self, index: u64) {
        self.fetched = self.fetched.split_off(&index);
    }

    pub(crate) fn fetched_count(&self) -> usize {
        self.fetched.len()
    }

    pub(crate) fn take_wanted(&mut self) -> Vec<FetchRequest> {
        std::mem::take(self.wanted.get_mut())
    }

    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        if index < self.truncated || index > self.last() {
            return None;
        }
        let run = self.terms.partition_point(|(start, _)| *start <= index);
        self.terms.get(run.checked_sub(1)?).map(|(_, term)| *term)
    }
}

/// raft-rs's form of a group's members.
pub(super) fn conf_state(members: &Membership) -> ConfState {
    let numbers = |members: &[Member]| members.iter().map(|member| member.replica.get()).collect();
    let mut conf_state = ConfState::default();
    conf_state.set_voters(numbers(&members.voters));
    conf_state.set_learners(numbers(&members.learners));
    conf_state
}

/// Drops the pairs that start at `index` or after.
fn pop_from(pairs: &mut Vec<(u64, u64)>, index: u64) {
    while pairs.last().is_some_and(|(start, _)| *start >= index) {
        pairs.pop();
    }
}

/// What an entry costs in raft-rs's size bounds beside its header.
const ENTRY_OVERHEAD: u64 = 16;

impl Storage for GroupLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState {
            hard_state: self.hard_state.clone(),
            conf_state: self.conf_state.clone(),
        })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        assert!(
            high <= self.last() + 1,
            "entries up to {high} of a log that ends at {}",
            self.last()
        );
        if low <= self.truncated {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let size_max = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0;
        let mut entries = Vec::new();
        for index in low..high {
            let entry = if let Some(entry) = self.get(index) {
                raft_entry(index, entry.term, &entry.header)
            } else if let Some(entry) = self.fetched.get(&index) {
                raft_entry(index, entry.term, &entry.header)
            } else {
                break;
            };
            size += entry.data.len() as u64 + ENTRY_OVERHEAD;
            if !entries.is_empty() && size > size_max {
                return Ok(entries);
            }
            entries.push(entry);
        }
        if entries.is_empty() && low < high {
            if context.can_async() {
                self.wanted.borrow_mut().push(FetchRequest { low, context });
                return Err(raft::Error::Store(StorageError::LogTemporarilyUnavailable));
            }
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        self.term_at(index).ok_or(raft::Error::Store(if index < self.truncated {
            StorageError::Compacted
        } else {
            StorageError::Unavailable
        }))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.truncated + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, _request_index: u64, to: u64) -> raft::Result<Snapshot> {
        self.snapshots_wanted.borrow_mut().push(ReplicaId(to));
        match &self.mark {
            // raft-rs refuses one that does not name its receiver.
            Some((index, term, members)) if members.voters.contains(&to) || members.learners.contains(&to) => {
                Ok(snapshot((*index, *term), members))
            }
            _ => Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(term: u64, frame_offset: u64) -> LogEntry {
        LogEntry {
            term,
            header: Bytes::from_static(b"h"),
            payload: Bytes::from_static(b"p"),
            location: Some(Location {
                frame_offset,
                payload_block: 1,
            }),
        }
    }

    fn log_of(terms: &[u64]) -> GroupLog {
        let mut log = GroupLog::new();
        for (offset, term) in terms.iter().enumerate() {
            log.append(BASE + 1 + offset as u64, entry(*term, 100 * offset as u64));
        }
        log
    }

    #[test]
    fn a_conflicting_entry_replaces_the_tail() {
        let mut log = log_of(&[5, 5, 6, 6]);
        log.append(BASE + 3, entry(7, 900));
        assert_eq!(log.last(), BASE + 3);
        assert_eq!(log.term_at(BASE + 3), Some(7));
        assert_eq!(log.term_at(BASE + 2), Some(5));
        assert_eq!(log.term_at(BASE + 4), None);
        assert_eq!(log.frames_from(BASE + 3, 4), vec![900]);
    }

    #[test]
    fn evicted_entries_are_asked_for_and_served_once_parked() {
        let mut log = log_of(&[5, 5, 5, 5]);
        log.evict(BASE + 3, 1);
        assert!(log.get(BASE + 3).is_none());
        let context = GetEntriesContext::empty(true);
        assert!(log.entries(BASE + 1, BASE + 5, None, context).is_err());
        assert_eq!(log.take_wanted()[0].low, BASE + 1);
        assert_eq!(log.frames_from(BASE + 1, 2), vec![0, 100]);
        let parked = FetchedEntry {
            term: 5,
            header: Bytes::from_static(b"h"),
            payload_block: 1,
        };
        assert!(log.park(BASE + 1, parked.clone()));
        assert!(!log.park(BASE + 2, FetchedEntry { term: 9, ..parked }));
        let entries = log
            .entries(BASE + 1, BASE + 5, None, GetEntriesContext::empty(true))
            .unwrap();
        assert_eq!(entries.len(), 1, "what follows is still on the disk");
        assert_eq!(log.term(BASE + 1), Ok(5), "terms stay known");
    }

    #[test]
    fn what_is_truncated_is_asked_for_as_a_state() {
        let mut log = log_of(&[5, 5, 6, 6]);
        log.truncate_front(BASE + 2);
        assert_eq!((log.first_index(), log.last_index()), (Ok(BASE + 3), Ok(BASE + 4)));
        assert_eq!(log.term(BASE + 2), Ok(5), "what the first entry follows stays known");
        assert_eq!(log.term(BASE + 1), Err(raft::Error::Store(StorageError::Compacted)));
        let context = || GetEntriesContext::empty(true);
        assert!(log.entries(BASE + 2, BASE + 5, None, context()).is_err());
        assert_eq!(log.entries(BASE + 3, BASE + 5, None, context()).unwrap().len(), 2);
        assert_eq!(log.frames_from(BASE + 3, 2), vec![200, 300]);
        assert!(log.snapshot(0, 7).is_err(), "there is no mark");
        let members = |learner| {
            let mut members = ConfState::default();
            members.set_voters(vec![1, 2]);
            members.set_learners(vec![learner]);
            members
        };
        log.set_mark(Some((LogIndex(BASE + 4), Term(6), members(8))));
        assert!(
            log.snapshot(0, 7).is_err(),
            "raft-rs would refuse a state without its receiver"
        );
        log.set_mark(Some((LogIndex(BASE + 4), Term(6), members(7))));
        let metadata = log.snapshot(0, 7).unwrap().take_metadata();
        assert_eq!((metadata.index, metadata.term), (BASE + 4, 6));
        assert_eq!(log.take_snapshots_wanted(), [7; 3].map(ReplicaId));
    }

    #[test]
    fn a_state_begins_the_log_anew() {
        let mut log = log_of(&[5, 5, 6, 6]);
        log.restore(BASE + 9, 8);
        assert_eq!((log.first_index(), log.last_index()), (Ok(BASE + 10), Ok(BASE + 9)));
        assert_eq!(log.term(BASE + 9), Ok(8));
        assert_eq!(log.term_at(BASE + 4), None);
        log.append(BASE + 10, entry(8, 900));
        assert_eq!((log.last(), log.frames_from(BASE + 10, 1)), (BASE + 10, vec![900]));
    }

    #[test]
    fn entries_that_are_not_applied_are_never_evicted() {
        let mut log = log_of(&[5, 5, 5, 5]);
        log.evict(BASE + 1, 0);
        assert!(log.get(BASE + 1).is_none());
        assert!(log.get(BASE + 2).is_some());
    }

    #[test]
    fn a_stale_placement_is_ignored() {
        let mut log = log_of(&[5]);
        log.append(
            BASE + 2,
            LogEntry {
                location: None,
                ..entry(6, 0)
            },
        );
        log.place(
            BASE + 2,
            5,
            Location {
                frame_offset: 7,
                payload_block: 7,
            },
        );
        assert_eq!(log.get(BASE + 2).unwrap().location, None);
        log.place(
            BASE + 2,
            6,
            Location {
                frame_offset: 700,
                payload_block: 9,
            },
        );
        log.release_payload(BASE + 1, BASE + 2);
        let placed = log.get(BASE + 2).unwrap();
        assert_eq!((placed.location.unwrap().payload_block, placed.payload.len()), (9, 0));
    }
}
