//! Each option's own rules ("Option types").

use super::{ListedExport, Negotiation, Purpose, Question, Stage, Step, TlsState};
use crate::CloseReason;
use crate::output::Output;
use crate::wire::{
    ContextRequest, ExportRequest, OptionDataError, encode_option_reply, encode_server, option_code, option_string,
    reply_code,
};

/// Whether this server implements the option.
pub(super) const fn is_known(option: u32) -> bool {
    matches!(
        option,
        option_code::EXPORT_NAME
            | option_code::ABORT
            | option_code::LIST
            | option_code::STARTTLS
            | option_code::INFO
            | option_code::GO
            | option_code::STRUCTURED_REPLY
            | option_code::LIST_META_CONTEXT
            | option_code::SET_META_CONTEXT
            | option_code::EXTENDED_HEADERS
    )
}

/// The reply for data that was refused.
const fn reply_kind(error: OptionDataError) -> u32 {
    match error {
        OptionDataError::Invalid(_) => reply_code::ERR_INVALID,
        OptionDataError::TooBig(_) => reply_code::ERR_TOO_BIG,
    }
}

impl Negotiation {
    /// Carries out a known option whose data has arrived.
    pub(super) fn option(&mut self, option: u32, data: &[u8], output: &mut Output) -> Step {
        match option {
            option_code::EXPORT_NAME => self.export_name(data),
            option_code::ABORT => self.reply(output, option, reply_code::ACK, ""),
            option_code::INFO | option_code::GO => self.info_or_go(option, data, output),
            option_code::LIST_META_CONTEXT | option_code::SET_META_CONTEXT => self.contexts(option, data, output),
            _ if !data.is_empty() => self.reply(
                output,
                option,
                reply_code::ERR_INVALID,
                "the option has no data, but some was sent",
            ),
            option_code::LIST => self.ask(option, Question::List, Purpose::List),
            option_code::STARTTLS => self.start_tls(output),
            option_code::STRUCTURED_REPLY if self.extended => {
                let text = "extended headers are in use already and take precedence";
                self.reply(output, option, reply_code::ERR_EXT_HEADER_REQD, text)
            }
            option_code::STRUCTURED_REPLY => {
                self.structured = true;
                self.reply(output, option, reply_code::ACK, "")
            }
            option_code::EXTENDED_HEADERS => {
                self.extended = true;
                self.reply(output, option, reply_code::ACK, "")
            }
            _ => self.reply(
                output,
                option,
                reply_code::ERR_UNSUP,
                "this server does not know the option",
            ),
        }
    }

    /// `NBD_OPT_EXPORT_NAME` has no error reply: what cannot be granted closes the connection.
    fn export_name(&mut self, data: &[u8]) -> Step {
        if self.extended {
            return self.close_export_name("extended headers need NBD_OPT_GO");
        }
        match option_string(data) {
            Ok(name) => self.ask(
                option_code::EXPORT_NAME,
                Question::Lookup(name.to_owned()),
                Purpose::ExportName,
            ),
            Err(error) => self.close_export_name(&error.to_string()),
        }
    }

    fn info_or_go(&mut self, option: u32, data: &[u8], output: &mut Output) -> Step {
        match ExportRequest::decode(data) {
            Ok(ExportRequest { name, info }) if option == option_code::GO => {
                self.ask(option, Question::Lookup(name), Purpose::Go { info })
            }
            Ok(ExportRequest { name, info }) => self.ask(option, Question::Lookup(name), Purpose::Info { info }),
            Err(error) => self.reply(output, option, reply_kind(error), &error.to_string()),
        }
    }

    fn contexts(&mut self, option: u32, data: &[u8], output: &mut Output) -> Step {
        let set = option == option_code::SET_META_CONTEXT;
        if set {
            // "Issuing this command replaces all previously-set metadata contexts (including when this command fails)".
            self.allocation_for = None;
            if !self.structured && !self.extended {
                let text = "negotiate structured replies or extended headers first";
                return self.reply(output, option, reply_code::ERR_INVALID, text);
            }
        }
        match ContextRequest::decode(data) {
            Ok(ContextRequest { name, queries }) => {
                let purpose = if set {
                    Purpose::SetContexts { queries }
                } else {
                    Purpose::ListContexts { queries }
                };
                self.ask(option, Question::Lookup(name), purpose)
            }
            Err(error) => self.reply(output, option, reply_kind(error), &error.to_string()),
        }
    }

    fn start_tls(&mut self, output: &mut Output) -> Step {
        let option = option_code::STARTTLS;
        match self.tls {
            TlsState::Active => self.reply(output, option, reply_code::ERR_INVALID, "TLS is in use already"),
            TlsState::Off => self.reply(output, option, reply_code::ERR_POLICY, "this server has no TLS"),
            TlsState::Offered { .. } if !self.client.fixed_newstyle => self.reply(
                output,
                option,
                reply_code::ERR_POLICY,
                "TLS needs fixed newstyle negotiation",
            ),
            TlsState::Offered { .. } => {
                output.encode(|buffer| encode_option_reply(buffer, option, reply_code::ACK, &[]));
                self.tls = TlsState::Active;
                // "the server MUST NOT preserve any negotiation state": it may have been forged in plain text.
                self.structured = false;
                self.extended = false;
                self.allocation_for = None;
                Step::StartTls
            }
        }
    }

    /// The driver's answer to [`Question::List`].
    pub(crate) fn answer_list(&mut self, exports: &[ListedExport], output: &mut Output) -> Step {
        let Stage::Asking {
            option,
            purpose: Purpose::List,
            ..
        } = self.stage
        else {
            return Step::Close(CloseReason::Driver {
                what: "a list of exports",
            });
        };
        self.stage = Stage::Header;
        for export in exports {
            output.encode(|buffer| encode_server(buffer, option, &export.name, &export.description));
        }
        self.reply(output, option, reply_code::ACK, "")
    }
}
