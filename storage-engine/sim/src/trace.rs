//! A hash of everything that a run's cores asked for, in order: two runs of one seed must have the same.

use std::fmt::Write;

use cairn_api::block::{BlockReply, ReadPiece};
use cairn_core::event::Effect;
use cairn_format::peer::PeerMessage;

use super::wire;

#[derive(Default)]
pub struct Trace {
    hash: u32,
    count: u64,
    text: String,
}

impl Trace {
    /// Adds an effect of a core at a time.
    pub fn add(&mut self, now: u64, node: usize, effect: &Effect) {
        self.text.clear();
        write!(self.text, "{now} {node} {}", brief(effect)).unwrap();
        self.count += 1;
        self.hash = crc32c::crc32c_append(self.hash, self.text.as_bytes());
    }

    /// The hash, and how many effects it is of.
    pub fn digest(&self) -> (u32, u64) {
        (self.hash, self.count)
    }
}

/// An effect in a line, payload as its checksum.
pub fn brief(effect: &Effect) -> String {
    match effect {
        Effect::Send { to, message } => {
            let bytes = wire::encode(message);
            format!(
                "Send to {to}: {} ({} bytes, {:08x})",
                brief_message(message),
                bytes.len(),
                crc32c::crc32c(&bytes)
            )
        }
        Effect::Write { io, offset, buffers } => {
            let crc = buffers.iter().fold(0, |crc, buffer| crc32c::crc32c_append(crc, buffer));
            let length: usize = buffers.iter().map(|buffer| buffer.len()).sum();
            format!("Write {io:?} at {offset}: {length} bytes, {crc:08x}")
        }
        Effect::DeviceReply {
            device,
            tag,
            result: Ok(BlockReply::Read(pieces)),
        } => {
            let mut crc = 0;
            for piece in pieces {
                match piece {
                    ReadPiece::Data(data) => crc = crc32c::crc32c_append(crc, data),
                    ReadPiece::Zeros(count) => crc = crc32c::crc32c_append(crc, &count.to_le_bytes()),
                }
            }
            format!("Read done {device:?} {tag:?} {crc:08x}")
        }
        other => format!("{other:?}"),
    }
}

fn brief_message(message: &PeerMessage) -> String {
    match message {
        PeerMessage::Raft(raft) => format!(
            "{:?} group {} {}->{} term {} log term {} index {} commit {} reject {} hint {} entries {:?}",
            raft.kind,
            raft.group,
            raft.from,
            raft.to,
            raft.term,
            raft.log_term,
            raft.index,
            raft.commit,
            raft.reject,
            raft.reject_hint,
            raft.entries
                .iter()
                .map(|entry| (entry.index.get(), entry.term.get()))
                .collect::<Vec<_>>(),
        ),
        PeerMessage::Request(request) => format!("Request {} of group {}", request.request, request.group),
        PeerMessage::Reply(reply) => format!("Reply {} of group {}", reply.request, reply.group),
    }
}
