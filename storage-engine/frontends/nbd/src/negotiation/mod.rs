//! The handshake phase: greeting, client flags and options, until an export is entered ("Protocol phases", "Handshake").
//!
//! It asks for exactly the bytes of one message at a time. Nothing is therefore ever read beyond the option that starts
//! TLS or enters transmission, so that no plaintext can be smuggled into a TLS session, and the connection can
//! change hands after any message.

mod context;
mod enter;
mod options;

use cairn_api::block::{DeviceInfo, Want};

use crate::CloseReason;
use crate::limits::{DISCARD_PIECE_BYTES, OPTION_DATA_BYTES_MAX, OPTION_SKIP_BYTES_MAX, OPTIONS_MAX};
use crate::output::Output;
use crate::wire::{
    ClientFlags, ContextQueries, Dialect, InfoRequests, OptionHeader, encode_greeting, encode_option_reply,
    option_code, reply_code,
};

/// What the negotiation must know to go on. The catalogue of volumes is the driver's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Question {
    /// Which exports there are; answered by [`crate::Session::answer_list`].
    List,
    /// What the export of this name is (empty: the default export); answered by [`crate::Session::answer_lookup`].
    Lookup(String),
}

/// One line of the answer to [`Question::List`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedExport {
    /// The name to ask for it by.
    pub name: String,
    /// A text for people.
    pub description: String,
}

/// Why [`Question::Lookup`] has no export for an answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LookupRefusal {
    /// There is no export of this name: `NBD_REP_ERR_UNKNOWN`.
    #[error("there is no export of this name")]
    Unknown,
    /// There is, but it cannot be had now, or not by this client: `NBD_REP_ERR_POLICY` with this text.
    #[error("{0}")]
    Refused(String),
    /// The server is going down: `NBD_REP_ERR_SHUTDOWN`.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// How TLS stands on this connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TlsState {
    /// Not offered.
    Off,
    /// Offered and not started.
    Offered {
        /// Whether nothing else is allowed before it is started ("FORCEDTLS mode").
        required: bool,
    },
    /// Started.
    Active,
}

/// What the transmission phase begins with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) export: DeviceInfo,
    pub(crate) dialect: Dialect,
    /// Whether `base:allocation` was selected for this export.
    pub(crate) allocation: bool,
}

/// What a message led to beyond its reply.
#[derive(Debug)]
pub(crate) enum Step {
    /// The negotiation goes on.
    Continue,
    /// Everything after the output so far is TLS.
    StartTls,
    /// The transmission phase begins.
    Enter(Entry),
    /// The connection is to be closed after the output.
    Close(CloseReason),
}

/// What an outstanding question is for.
#[derive(Debug)]
enum Purpose {
    List,
    Info { info: InfoRequests },
    Go { info: InfoRequests },
    ExportName,
    ListContexts { queries: ContextQueries },
    SetContexts { queries: ContextQueries },
}

#[derive(Debug)]
enum Stage {
    /// The client's answer to the greeting is wanted.
    Flags,
    /// An option's header is wanted.
    Header,
    /// An option's data is wanted.
    Data(OptionHeader),
    /// Data that nobody will look at is being read; the reply follows it.
    Skip {
        option: u32,
        remaining: u32,
        error: u32,
        message: &'static str,
    },
    /// The driver has been asked.
    Asking {
        option: u32,
        question: Question,
        purpose: Purpose,
    },
}

#[derive(Debug)]
pub(crate) struct Negotiation {
    stage: Stage,
    /// The part of the wanted message that has arrived.
    buffer: Vec<u8>,
    client: ClientFlags,
    tls: TlsState,
    options_seen: u32,
    structured: bool,
    extended: bool,
    /// The export for which `base:allocation` was selected last.
    allocation_for: Option<String>,
}

impl Negotiation {
    pub(crate) fn new(tls: TlsState, output: &mut Output) -> Self {
        output.encode(encode_greeting);
        Self {
            stage: Stage::Flags,
            buffer: Vec::new(),
            client: ClientFlags::default(),
            tls,
            options_seen: 0,
            structured: false,
            extended: false,
            allocation_for: None,
        }
    }

    pub(crate) fn want(&self) -> Want {
        match &self.stage {
            Stage::Skip { remaining, .. } => Want::Bytes((*remaining as usize).min(DISCARD_PIECE_BYTES)),
            Stage::Asking { .. } => Want::Nothing,
            _ => Want::Bytes(self.message_bytes() - self.buffer.len()),
        }
    }

    pub(crate) const fn question(&self) -> Option<&Question> {
        match &self.stage {
            Stage::Asking { question, .. } => Some(question),
            _ => None,
        }
    }

    /// Whether a message has begun and not ended.
    pub(crate) fn is_inside_message(&self) -> bool {
        !matches!(self.stage, Stage::Flags | Stage::Header) || !self.buffer.is_empty()
    }

    /// Takes bytes from the front of `bytes`, at most to the end of one message.
    pub(crate) fn received(&mut self, bytes: &mut &[u8], output: &mut Output) -> Step {
        if let Stage::Skip {
            option,
            remaining,
            error,
            message,
        } = &mut self.stage
        {
            let count = bytes.len().min(*remaining as usize);
            *bytes = &bytes[count..];
            // At most `remaining`, which is 32 bits.
            *remaining -= u32::try_from(count).unwrap_or(u32::MAX);
            if *remaining == 0 {
                let (option, error, message) = (*option, *error, *message);
                self.stage = Stage::Header;
                return self.reply(output, option, error, message);
            }
            return Step::Continue;
        }
        let missing = self.message_bytes() - self.buffer.len();
        let (head, rest) = bytes.split_at(missing.min(bytes.len()));
        self.buffer.extend_from_slice(head);
        *bytes = rest;
        if head.len() < missing {
            return Step::Continue;
        }
        let message = std::mem::take(&mut self.buffer);
        let step = self.message(&message, output);
        self.buffer = message;
        self.buffer.clear();
        step
    }

    /// Length of the message that is wanted now.
    const fn message_bytes(&self) -> usize {
        match &self.stage {
            Stage::Flags => ClientFlags::BYTES,
            Stage::Header => OptionHeader::BYTES,
            Stage::Data(header) => header.length as usize,
            Stage::Skip { .. } | Stage::Asking { .. } => 0,
        }
    }

    /// A whole message has arrived.
    fn message(&mut self, message: &[u8], output: &mut Output) -> Step {
        match self.stage {
            Stage::Flags => self.client_flags(message),
            Stage::Header => self.header(message, output),
            Stage::Data(header) => {
                self.stage = Stage::Header;
                self.option(header.option, message, output)
            }
            Stage::Skip { .. } | Stage::Asking { .. } => Step::Close(CloseReason::Driver { what: "protocol bytes" }),
        }
    }

    fn client_flags(&mut self, message: &[u8]) -> Step {
        let Some(bytes) = message.first_chunk() else {
            return Step::Close(CloseReason::PeerClosedInsideMessage);
        };
        match ClientFlags::decode(*bytes) {
            Ok(client) => self.client = client,
            Err(word) => return Step::Close(CloseReason::ClientFlags { word }),
        }
        // "TLS support": without fixed newstyle the server is bound to plain text, which the policy may forbid.
        if self.tls == (TlsState::Offered { required: true }) && !self.client.fixed_newstyle {
            return Step::Close(CloseReason::TlsRequired);
        }
        self.stage = Stage::Header;
        Step::Continue
    }

    fn header(&mut self, message: &[u8], output: &mut Output) -> Step {
        let Some(bytes) = message.first_chunk() else {
            return Step::Close(CloseReason::PeerClosedInsideMessage);
        };
        let header = match OptionHeader::decode(bytes) {
            Ok(header) => header,
            Err(error) => return Step::Close(CloseReason::OptionMagic(error)),
        };
        let OptionHeader { option, length } = header;
        self.options_seen += 1;
        if self.options_seen > OPTIONS_MAX {
            return Step::Close(CloseReason::TooManyOptions { limit: OPTIONS_MAX });
        }
        if length > OPTION_SKIP_BYTES_MAX {
            return Step::Close(CloseReason::OptionTooLong {
                option,
                length,
                limit: OPTION_SKIP_BYTES_MAX,
            });
        }
        if let Some((error, text)) = self.refuse_unseen(header) {
            if option == option_code::SET_META_CONTEXT {
                // Even a failed request to change the contexts leaves none selected.
                self.allocation_for = None;
            }
            if option == option_code::EXPORT_NAME {
                return self.close_export_name(text);
            }
            if length == 0 {
                return self.reply(output, option, error, text);
            }
            self.stage = Stage::Skip {
                option,
                remaining: length,
                error,
                message: text,
            };
            return Step::Continue;
        }
        if length == 0 {
            return self.option(option, &[], output);
        }
        self.stage = Stage::Data(header);
        Step::Continue
    }

    /// Whether the option is answered with an error whatever its data is, so that the data need not be kept.
    fn refuse_unseen(&self, header: OptionHeader) -> Option<(u32, &'static str)> {
        let OptionHeader { option, length } = header;
        if let TlsState::Offered { required: true } = self.tls
            && !matches!(option, option_code::STARTTLS | option_code::ABORT)
        {
            return Some((reply_code::ERR_TLS_REQD, "this server requires TLS: start it first"));
        }
        if !options::is_known(option) {
            return Some((reply_code::ERR_UNSUP, "this server does not know the option"));
        }
        if option == option_code::ABORT {
            // "a server SHOULD ignore any data": it is no error, but it need not be kept either.
            return (length > 0).then_some((reply_code::ACK, ""));
        }
        (length > OPTION_DATA_BYTES_MAX).then_some((reply_code::ERR_TOO_BIG, "the option's data is longer than 64 KiB"))
    }

    fn close_export_name(&self, why: &str) -> Step {
        if let TlsState::Offered { required: true } = self.tls {
            return Step::Close(CloseReason::TlsRequired);
        }
        Step::Close(CloseReason::ExportName { why: why.to_owned() })
    }

    /// Sends a final reply, and ends the negotiation if it was the one to `NBD_OPT_ABORT`.
    fn reply(&self, output: &mut Output, option: u32, kind: u32, text: &str) -> Step {
        output.encode(|buffer| encode_option_reply(buffer, option, kind, text.as_bytes()));
        if option == option_code::ABORT {
            return Step::Close(CloseReason::Aborted);
        }
        Step::Continue
    }

    fn ask(&mut self, option: u32, question: Question, purpose: Purpose) -> Step {
        self.stage = Stage::Asking {
            option,
            question,
            purpose,
        };
        Step::Continue
    }

    /// The headers of the transmission phase as negotiated so far.
    const fn dialect(&self) -> Dialect {
        match (self.extended, self.structured) {
            (true, _) => Dialect::Extended,
            (false, true) => Dialect::Structured,
            (false, false) => Dialect::Simple,
        }
    }
}
