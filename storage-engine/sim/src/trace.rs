//! A digest of everything that a run's cores asked for, in order: two runs of one seed must have the same. And, when asked
//! for, a line of text for each.

use std::fmt::{Arguments, Write};

use cairn_api::block::{BlockReply, ReadPiece};
use cairn_core::event::Effect;
use cairn_format::peer::{CatchUpOutcome, GatewayOp, PeerMessage, RaftMessage};

pub struct Trace {
    digest: u64,
    count: u64,
    /// Effects and faults are printed as they happen.
    pub is_printing: bool,
    text: String,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            digest: 0,
            count: 0,
            is_printing: std::env::var_os("CAIRN_TRACE").is_some(),
            text: String::new(),
        }
    }
}

impl Trace {
    /// Adds an effect of a core at a time.
    pub fn add(&mut self, now: u64, node: usize, effect: &Effect) {
        self.count += 1;
        self.mix(now);
        self.mix(node as u64);
        self.mix_effect(effect);
        if self.is_printing && !matches!(effect, Effect::Measured { .. }) {
            self.say(now, format_args!("n{node} {}", brief(effect)));
        }
    }

    /// Prints a line, if lines are wanted.
    #[allow(clippy::print_stdout, reason = "a trace was asked for")]
    pub fn say(&self, now: u64, what: Arguments<'_>) {
        if self.is_printing {
            println!("{:>3}.{:06} {what}", now / 1_000_000_000, now / 1000 % 1_000_000);
        }
    }

    fn mix(&mut self, word: u64) {
        // A multiply and a rotation (FxHash): enough to tell two runs apart, and cheap enough to be always on.
        self.digest = (self.digest.rotate_left(5) ^ word).wrapping_mul(0x517C_C1B7_2722_0A95);
    }

    fn mix_effect(&mut self, effect: &Effect) {
        match effect {
            Effect::Send { to, message } => {
                self.mix(u64::from(to.to_bytes()[0]));
                self.mix(cairn_core::message_bytes(message) as u64);
                if let PeerMessage::Raft(raft) = message {
                    self.mix(raft.term.get());
                    self.mix(raft.index.get());
                    self.mix(raft.commit.get());
                    self.mix(raft.stamp_ns);
                }
            }
            Effect::Write { io, offset, buffers } => {
                self.mix(io.0);
                self.mix(*offset);
                for buffer in buffers.iter().take(2) {
                    // The first two hold the headers, and with them the checksums of all that follows.
                    self.mix(buffer.len() as u64);
                    self.mix(u64::from(crc32c::crc32c(buffer)));
                }
            }
            Effect::Read { io, offset, length } => {
                self.mix(io.0);
                self.mix(*offset);
                self.mix(u64::from(*length));
            }
            Effect::DeviceReply { device, tag, result } => {
                self.mix(device.0);
                self.mix(tag.0);
                self.mix(u64::from(result.is_ok()));
                if let Ok(BlockReply::Read(pieces)) = result {
                    pieces.iter().for_each(|piece| self.mix(piece.len()));
                }
            }
            Effect::Measured { nanos, .. } => self.mix(*nanos),
            other => {
                self.text.clear();
                write!(self.text, "{other:?}").unwrap();
                let crc = crc32c::crc32c(self.text.as_bytes());
                self.mix(u64::from(crc));
            }
        }
    }

    /// The digest, and how many effects it is of.
    pub fn digest(&self) -> (u64, u64) {
        (self.digest, self.count)
    }
}

/// An effect in a line, payload as its length.
pub fn brief(effect: &Effect) -> String {
    match effect {
        Effect::Send { to, message } => format!("sends to {to}: {}", brief_message(message)),
        Effect::Write { io, offset, buffers } => {
            let length: usize = buffers.iter().map(|buffer| buffer.len()).sum();
            format!("writes {io:?} at {offset}: {length} bytes")
        }
        Effect::DeviceReply {
            device,
            tag,
            result: Ok(BlockReply::Read(pieces)),
        } => {
            let bytes: u64 = pieces.iter().map(ReadPiece::len).sum();
            format!("read done {device:?} {tag:?}: {bytes} bytes")
        }
        other => format!("{other:?}"),
    }
}

fn brief_raft(raft: &RaftMessage) -> String {
    let entries = raft
        .entries
        .first()
        .zip(raft.entries.last())
        .map_or_else(String::new, |(first, last)| {
            format!(
                " entries {}@{} to {}@{}",
                first.index, first.term, last.index, last.term
            )
        });
    format!(
        "{:?} group {} {}->{} term {} at {}@{} commit {}{}{entries}",
        raft.kind,
        raft.group,
        raft.from,
        raft.to,
        raft.term,
        raft.index,
        raft.log_term,
        raft.commit,
        if raft.reject {
            format!(" reject, hint {}", raft.reject_hint)
        } else {
            String::new()
        },
    )
}

fn brief_message(message: &PeerMessage) -> String {
    match message {
        PeerMessage::Raft(raft) => brief_raft(raft),
        PeerMessage::Request(request) => {
            let what = match &request.op {
                GatewayOp::Write {
                    epoch, lba, block_crcs, ..
                } => format!("write of {lba}+{} under {epoch}", block_crcs.len()),
                GatewayOp::Read { lba, blocks, snapshot } => match snapshot {
                    Some(snapshot) => format!("read of {lba}+{blocks} of snapshot {snapshot}"),
                    None => format!("read of {lba}+{blocks}"),
                },
                other => format!("{other:?}"),
            };
            format!("request {} of group {}: {what}", request.request, request.group)
        }
        PeerMessage::Reply(reply) => format!("reply {} of group {}", reply.request, reply.group),
        PeerMessage::RepairRequest(request) => format!(
            "repair request {} of group {} for {} blocks",
            request.request,
            request.group,
            request.blocks.len()
        ),
        PeerMessage::RepairReply(reply) => format!(
            "repair reply {} of group {}: {} blocks, missing {:?}",
            reply.request,
            reply.group,
            reply.blocks.len(),
            reply.missing
        ),
        PeerMessage::CatchUpOffer(offer) => {
            format!("offer of the state of group {} at {}", offer.group, offer.state.index)
        }
        PeerMessage::CatchUpRequest(request) => format!(
            "request for the state of group {} at {} from block {} on, having {}",
            request.group, request.mark, request.at, request.have
        ),
        PeerMessage::CatchUpReply(reply) => format!(
            "state of group {} at {} from block {} on: {}",
            reply.group,
            reply.mark,
            reply.at,
            match &reply.outcome {
                CatchUpOutcome::Gone => "gone".to_owned(),
                CatchUpOutcome::Portions { next, portions } => {
                    format!("{} portions, next {next:?}", portions.len())
                }
            }
        ),
    }
}
