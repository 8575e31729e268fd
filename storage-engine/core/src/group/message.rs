//! Between raft-rs's messages and the peer wire's.

use bytes::Bytes;
use cairn_api::ids::{GroupId, LogIndex, ReplicaId, Term};
use cairn_format::peer::{PeerEntry, RaftKind, RaftMessage};
use raft::eraftpb::{Entry, Message, MessageType};

use super::members::{header_of, raft_entry};

fn kind_of(kind: MessageType) -> Option<RaftKind> {
    Some(match kind {
        MessageType::MsgAppend => RaftKind::Append,
        MessageType::MsgAppendResponse => RaftKind::AppendResponse,
        MessageType::MsgRequestVote => RaftKind::RequestVote,
        MessageType::MsgRequestVoteResponse => RaftKind::RequestVoteResponse,
        MessageType::MsgRequestPreVote => RaftKind::RequestPreVote,
        MessageType::MsgRequestPreVoteResponse => RaftKind::RequestPreVoteResponse,
        MessageType::MsgHeartbeat => RaftKind::Heartbeat,
        MessageType::MsgHeartbeatResponse => RaftKind::HeartbeatResponse,
        MessageType::MsgTimeoutNow => RaftKind::TimeoutNow,
        MessageType::MsgTransferLeader => RaftKind::TransferLeader,
        MessageType::MsgReadIndex => RaftKind::ReadIndex,
        MessageType::MsgReadIndexResp => RaftKind::ReadIndexResponse,
        MessageType::MsgUnreachable => RaftKind::Unreachable,
        _ => return None,
    })
}

fn raft_type(kind: RaftKind) -> MessageType {
    match kind {
        RaftKind::Append => MessageType::MsgAppend,
        RaftKind::AppendResponse => MessageType::MsgAppendResponse,
        RaftKind::RequestVote => MessageType::MsgRequestVote,
        RaftKind::RequestVoteResponse => MessageType::MsgRequestVoteResponse,
        RaftKind::RequestPreVote => MessageType::MsgRequestPreVote,
        RaftKind::RequestPreVoteResponse => MessageType::MsgRequestPreVoteResponse,
        RaftKind::Heartbeat => MessageType::MsgHeartbeat,
        RaftKind::HeartbeatResponse => MessageType::MsgHeartbeatResponse,
        RaftKind::TimeoutNow => MessageType::MsgTimeoutNow,
        RaftKind::TransferLeader => MessageType::MsgTransferLeader,
        RaftKind::ReadIndex => MessageType::MsgReadIndex,
        RaftKind::ReadIndexResponse => MessageType::MsgReadIndexResp,
        RaftKind::Unreachable => MessageType::MsgUnreachable,
    }
}

/// The wire form of a message, its entries' payloads still to be filled in. `None` for kinds that never leave.
pub(crate) fn to_wire(group: GroupId, message: &mut Message) -> Option<RaftMessage> {
    let kind = kind_of(message.get_msg_type())?;
    let entries = message
        .take_entries()
        .into_iter()
        .map(|entry| PeerEntry {
            term: Term(entry.get_term()),
            index: LogIndex(entry.get_index()),
            header: header_of(&entry).clone(),
            payload: Bytes::new(),
        })
        .collect();
    Some(RaftMessage {
        group,
        kind,
        from: ReplicaId(message.from),
        to: ReplicaId(message.to),
        term: Term(message.term),
        log_term: Term(message.log_term),
        index: LogIndex(message.index),
        commit: LogIndex(message.commit),
        commit_term: Term(message.commit_term),
        reject: message.reject,
        reject_hint: LogIndex(message.reject_hint),
        context: std::mem::take(&mut message.context),
        stamp_ns: 0,
        free_blocks: 0,
        room_blocks: 0,
        entries,
    })
}

/// raft-rs's form of a message: headers only.
pub(crate) fn from_wire(wire: &RaftMessage) -> Message {
    let mut message = Message::default();
    message.set_msg_type(raft_type(wire.kind));
    message.from = wire.from.get();
    message.to = wire.to.get();
    message.term = wire.term.get();
    message.log_term = wire.log_term.get();
    message.index = wire.index.get();
    message.commit = wire.commit.get();
    message.commit_term = wire.commit_term.get();
    message.reject = wire.reject;
    message.reject_hint = wire.reject_hint.get();
    message.context = wire.context.clone();
    let entries: Vec<Entry> = wire
        .entries
        .iter()
        .map(|peer| raft_entry(peer.index.get(), peer.term.get(), &peer.header))
        .collect();
    message.set_entries(entries.into());
    message
}

/// Entries of one message after joining: what a peer frame's body has room for many times over.
const JOINED_ENTRIES_MAX: usize = 256;

/// Joins appends to one follower that continue each other, so that what a turn proposed leaves in one message.
///
/// raft-rs 0.7.0 would do so itself (`batch_append`), but it also joins entries to an *empty* append without comparing
/// indices. After a follower's next index has gone back the message then names entries from further back than its
/// `index` says; the follower confirms `index` plus their number, which it does not hold, and the leader counts that
/// towards a majority.
pub(crate) fn join_appends(messages: Vec<Message>) -> Vec<Message> {
    let mut joined: Vec<Message> = Vec::with_capacity(messages.len());
    for mut message in messages {
        match joined.iter_mut().rfind(|before| before.to == message.to) {
            Some(before) if continues(before, &message) => {
                before.commit = before.commit.max(message.commit);
                for entry in message.take_entries() {
                    before.mut_entries().push(entry);
                }
            }
            _ => joined.push(message),
        }
    }
    joined
}

fn continues(before: &Message, message: &Message) -> bool {
    let appends = [before, message]
        .iter()
        .all(|message| message.get_msg_type() == MessageType::MsgAppend && !message.reject);
    let Some(last) = before.get_entries().last() else {
        return false;
    };
    let is_next = (message.index, message.log_term) == (last.index, last.term);
    let is_sound = message
        .get_entries()
        .first()
        .is_none_or(|first| first.index == message.index + 1);
    let fits = before.get_entries().len() + message.get_entries().len() <= JOINED_ENTRIES_MAX;
    appends && before.term == message.term && is_next && is_sound && fits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(to: u64, index: u64, entries: &[u64]) -> Message {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgAppend);
        (message.to, message.term, message.index, message.log_term) = (to, 8, index, 8);
        for index in entries {
            let mut entry = Entry::default();
            entry.set_index(*index);
            entry.set_term(8);
            message.mut_entries().push(entry);
        }
        message
    }

    fn shape(messages: &[Message]) -> Vec<(u64, u64, Vec<u64>)> {
        let indices = |message: &Message| message.get_entries().iter().map(|entry| entry.index).collect();
        messages
            .iter()
            .map(|message| (message.to, message.index, indices(message)))
            .collect()
    }

    #[test]
    fn appends_that_continue_each_other_become_one() {
        let joined = join_appends(vec![
            append(2, 5, &[6]),
            append(3, 5, &[6]),
            append(2, 6, &[7, 8]),
            append(3, 6, &[7]),
        ]);
        assert_eq!(shape(&joined), [(2, 5, vec![6, 7, 8]), (3, 5, vec![6, 7])]);
    }

    #[test]
    fn an_empty_append_takes_no_entries_from_further_back() {
        let messages = vec![append(2, 550, &[]), append(2, 369, &[370, 371])];
        assert_eq!(shape(&join_appends(messages.clone())), shape(&messages));
    }

    #[test]
    fn a_gap_or_a_step_back_is_not_joined() {
        for messages in [
            vec![append(2, 5, &[6]), append(2, 7, &[8])],
            vec![append(2, 5, &[6, 7]), append(2, 5, &[6])],
            vec![append(2, 5, &[6]), append(2, 4, &[5]), append(2, 6, &[7])],
        ] {
            assert_eq!(shape(&join_appends(messages.clone())), shape(&messages));
        }
    }
}
