//! Between raft-rs's messages and the peer wire's.

use bytes::Bytes;
use cairn_api::ids::{GroupId, LogIndex, ReplicaId, Term};
use cairn_format::peer::{PeerEntry, RaftKind, RaftMessage};
use raft::eraftpb::{Entry, Message, MessageType};

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
            header: entry.data,
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
        .map(|peer| {
            let mut entry = Entry::default();
            entry.set_term(peer.term.get());
            entry.set_index(peer.index.get());
            entry.data = peer.header.clone();
            entry
        })
        .collect();
    message.set_entries(entries.into());
    message
}
