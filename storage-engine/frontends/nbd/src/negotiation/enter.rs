//! Answers about one export: information, its metadata contexts, and the step into transmission.

use cairn_api::block::DeviceInfo;
use cairn_api::units::BLOCK_SIZE;

use super::{Entry, LookupRefusal, Negotiation, Purpose, Question, Stage, Step};
use crate::CloseReason;
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::output::Output;
use crate::wire::{
    Dialect, InfoRequests, encode_block_size, encode_export_name_reply, encode_info_export, encode_info_text, info,
    reply_code, transmission_flag,
};

/// "Size constraints": these are the document's defaults, so a client that does not ask for them is served as well.
const BLOCK_SIZE_CONSTRAINTS: [u32; 3] = [1, BLOCK_SIZE, PAYLOAD_BYTES_MAX];

/// "Transmission flags" of an export in a dialect; `allocation` says whether block status can be asked for.
pub(super) fn transmission_flags(export: &DeviceInfo, dialect: Dialect, allocation: bool) -> u16 {
    use transmission_flag as flag;
    // Every acknowledged write is durable and seen by every connection, which is what CAN_MULTI_CONN promises.
    let mut flags = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::CAN_MULTI_CONN | flag::SEND_CACHE;
    flags |= if export.read_only {
        flag::READ_ONLY
    } else {
        flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO
    };
    if dialect != Dialect::Simple {
        flags |= flag::SEND_DF;
    }
    if dialect == Dialect::Extended && allocation {
        flags |= flag::BLOCK_STATUS_PAYLOAD;
    }
    flags
}

impl Negotiation {
    /// The driver's answer to [`Question::Lookup`].
    pub(crate) fn answer_lookup(&mut self, answer: Result<DeviceInfo, LookupRefusal>, output: &mut Output) -> Step {
        let wrong = Step::Close(CloseReason::Driver { what: "an export" });
        let (option, name, purpose) = match std::mem::replace(&mut self.stage, Stage::Header) {
            Stage::Asking {
                purpose: Purpose::List, ..
            } => return wrong,
            Stage::Asking {
                option,
                question: Question::Lookup(name),
                purpose,
            } => (option, name, purpose),
            _ => return wrong,
        };
        let export = match answer {
            Ok(export) => export,
            Err(refusal) => return self.refuse_lookup(option, &purpose, &refusal, output),
        };
        let allocation = self.allocation_for.as_deref() == Some(name.as_str());
        let entry = Entry {
            export,
            dialect: self.dialect(),
            allocation,
        };
        match purpose {
            Purpose::Info { info } => {
                encode_info(output, option, info, &entry);
                self.reply(output, option, reply_code::ACK, "")
            }
            Purpose::Go { info } => {
                encode_info(output, option, info, &entry);
                self.reply(output, option, reply_code::ACK, "");
                Step::Enter(entry)
            }
            Purpose::ExportName => {
                let flags = transmission_flags(&entry.export, entry.dialect, allocation);
                let no_zeroes = self.client.no_zeroes;
                output.encode(|buffer| encode_export_name_reply(buffer, entry.export.size_bytes, flags, no_zeroes));
                Step::Enter(entry)
            }
            Purpose::ListContexts { queries } => self.list_contexts(option, queries, output),
            Purpose::SetContexts { queries } => self.set_contexts(option, name, queries, output),
            Purpose::List => wrong,
        }
    }

    fn refuse_lookup(&self, option: u32, purpose: &Purpose, refusal: &LookupRefusal, output: &mut Output) -> Step {
        let text = refusal.to_string();
        if let Purpose::ExportName = purpose {
            return self.close_export_name(&text);
        }
        let kind = match refusal {
            LookupRefusal::Unknown => reply_code::ERR_UNKNOWN,
            LookupRefusal::Refused(_) => reply_code::ERR_POLICY,
            LookupRefusal::ShuttingDown => reply_code::ERR_SHUTDOWN,
        };
        self.reply(output, option, kind, &text)
    }
}

/// The `NBD_REP_INFO` replies to `NBD_OPT_INFO` and `NBD_OPT_GO`.
fn encode_info(output: &mut Output, option: u32, wanted: InfoRequests, entry: &Entry) {
    let export = &entry.export;
    let flags = transmission_flags(export, entry.dialect, entry.allocation);
    output.encode(|buffer| {
        encode_info_export(buffer, option, export.size_bytes, flags);
        if wanted.name {
            encode_info_text(buffer, option, info::NAME, &export.name);
        }
        if wanted.description {
            encode_info_text(buffer, option, info::DESCRIPTION, &export.description);
        }
        if wanted.block_size {
            encode_block_size(buffer, option, BLOCK_SIZE_CONSTRAINTS);
        }
    });
}
