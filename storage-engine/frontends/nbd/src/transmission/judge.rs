//! What becomes of a request, decided from its header alone ("Request types", "Command flags", "Error values").

use std::borrow::Cow;

use super::STATUS_FILTER_BYTES;
use super::in_flight::InFlight;
use crate::CloseReason;
use crate::limits::{DISCARD_BYTES_MAX, PAYLOAD_BYTES_MAX};
use crate::wire::{Dialect, ErrorCode, Request, allocation, command, command_flag as flag};

/// What was agreed on when the export was entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Terms {
    pub(super) size_bytes: u64,
    pub(super) read_only: bool,
    pub(super) dialect: Dialect,
    /// Whether `base:allocation` was selected.
    pub(super) allocation: bool,
}

/// An error reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    pub(super) error: ErrorCode,
    pub(super) text: Cow<'static, str>,
}

impl Refusal {
    pub(super) fn new(error: ErrorCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            error,
            text: text.into(),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// The device carries it out, after its payload has arrived if it is a write.
    Start(InFlight),
    /// A block status request's payload says what it is about.
    ReceiveFilter,
    /// There is nothing to do.
    Done,
    /// An error reply, after so many bytes of payload were thrown away.
    Refuse { refusal: Refusal, discard: u64 },
    /// The client leaves.
    Disconnect,
}

/// Judges a request by its header.
pub(super) fn judge(request: &Request, terms: &Terms) -> Result<Verdict, CloseReason> {
    let payload = payload_bytes(request, terms.dialect);
    // With extended headers the document asks for the connection to be dropped at once ("Request message").
    let limit = if terms.dialect == Dialect::Extended {
        PAYLOAD_BYTES_MAX.into()
    } else {
        DISCARD_BYTES_MAX
    };
    if payload > limit {
        return Err(CloseReason::PayloadTooLong {
            command: request.command,
            length: payload,
            limit,
        });
    }
    Ok(match request.command {
        command::DISC => Verdict::Disconnect,
        command::BLOCK_STATUS if payload > 0 => judge_filtered_status(request, terms, payload),
        _ => match check(request, terms) {
            Ok(None) => Verdict::Done,
            Ok(Some(work)) => Verdict::Start(work),
            Err(refusal) => Verdict::Refuse {
                refusal,
                discard: payload,
            },
        },
    })
}

/// Bytes that follow the header.
const fn payload_bytes(request: &Request, dialect: Dialect) -> u64 {
    let has_payload = match dialect {
        Dialect::Extended => request.flags & flag::PAYLOAD_LEN != 0,
        Dialect::Simple | Dialect::Structured => request.command == command::WRITE,
    };
    if has_payload { request.length } else { 0 }
}

/// The flags that each command may carry; nothing for unknown commands.
const fn allowed_flags(request: &Request, terms: &Terms) -> Option<u16> {
    // FUA is accepted with every command, as the document demands once it is advertised.
    Some(match (request.command, terms.dialect) {
        (command::READ, Dialect::Simple) => flag::FUA,
        (command::READ, _) => flag::FUA | flag::DF,
        (command::WRITE, Dialect::Extended) => flag::FUA | flag::PAYLOAD_LEN,
        (command::WRITE | command::FLUSH | command::TRIM | command::CACHE, _) => flag::FUA,
        (command::WRITE_ZEROES, _) => flag::FUA | flag::NO_HOLE | flag::FAST_ZERO,
        (command::BLOCK_STATUS, Dialect::Extended) => flag::FUA | flag::REQ_ONE | flag::PAYLOAD_LEN,
        (command::BLOCK_STATUS, _) => flag::FUA | flag::REQ_ONE,
        _ => return None,
    })
}

fn check_flags(request: &Request, terms: &Terms) -> Result<(), Refusal> {
    let Some(allowed) = allowed_flags(request, terms) else {
        return Err(Refusal::new(
            ErrorCode::Invalid,
            format!("unknown command {}", request.command),
        ));
    };
    let wrong = request.flags & !allowed;
    if wrong != 0 {
        let text = format!("command {} does not take the flags {wrong:#x}", request.command);
        return Err(Refusal::new(ErrorCode::Invalid, text));
    }
    Ok(())
}

/// Whether a range reaches beyond the export's end.
const fn is_beyond_end(offset: u64, length: u64, terms: &Terms) -> bool {
    match offset.checked_add(length) {
        Some(end) => end > terms.size_bytes,
        None => true,
    }
}

fn check_range(request: &Request, length: u64, terms: &Terms) -> Result<(), Refusal> {
    if !is_beyond_end(request.offset, length, terms) {
        return Ok(());
    }
    let error = match request.command {
        command::WRITE | command::WRITE_ZEROES => ErrorCode::NoSpace,
        _ => ErrorCode::Invalid,
    };
    let text = format!(
        "the range {}+{length} reaches beyond the export of {} bytes",
        request.offset, terms.size_bytes
    );
    Err(Refusal::new(error, text))
}

/// Work for the device, or nothing if there is nothing to do.
fn check(request: &Request, terms: &Terms) -> Result<Option<InFlight>, Refusal> {
    check_flags(request, terms)?;
    let length = request.length;
    let work = Some(InFlight {
        request: *request,
        effect_bytes: length,
    });
    match request.command {
        command::FLUSH if request.offset != 0 || length != 0 => {
            return Err(Refusal::new(
                ErrorCode::Invalid,
                "a flush has neither offset nor length",
            ));
        }
        command::FLUSH => return Ok(work),
        command::WRITE if terms.dialect == Dialect::Extended && request.flags & flag::PAYLOAD_LEN == 0 => {
            return Err(Refusal::new(
                ErrorCode::Invalid,
                "with extended headers a write announces its payload",
            ));
        }
        command::WRITE | command::TRIM | command::WRITE_ZEROES if terms.read_only => {
            return Err(Refusal::new(ErrorCode::NotPermitted, "the export is read-only"));
        }
        command::BLOCK_STATUS if !terms.allocation => {
            return Err(Refusal::new(
                ErrorCode::Invalid,
                "no metadata context was selected for this export",
            ));
        }
        _ => {}
    }
    check_range(request, length, terms)?;
    match request.command {
        command::WRITE if length > PAYLOAD_BYTES_MAX.into() => Err(Refusal::new(ErrorCode::Invalid, too_long(length))),
        command::READ if length > PAYLOAD_BYTES_MAX.into() => Err(Refusal::new(ErrorCode::Overflow, too_long(length))),
        command::BLOCK_STATUS if length == 0 => {
            Err(Refusal::new(ErrorCode::Invalid, "the status of no bytes was asked for"))
        }
        command::CACHE => Ok(None),
        // A read of nothing has a reply of its own form, but no work either.
        _ if length == 0 => Ok(None),
        _ => Ok(work),
    }
}

fn too_long(length: u64) -> String {
    format!("{length} bytes were asked for; the maximum payload is {PAYLOAD_BYTES_MAX}")
}

/// A block status request with a payload, which only extended headers allow.
fn judge_filtered_status(request: &Request, terms: &Terms, payload: u64) -> Verdict {
    let refuse = |refusal| Verdict::Refuse {
        refusal,
        discard: payload,
    };
    if let Err(refusal) = check_flags(request, terms) {
        return refuse(refusal);
    }
    if !terms.allocation {
        return refuse(Refusal::new(
            ErrorCode::Invalid,
            "no metadata context was selected for this export",
        ));
    }
    if payload != STATUS_FILTER_BYTES as u64 {
        let text = "the payload must be a length and the id of the one context that was selected";
        return refuse(Refusal::new(ErrorCode::Invalid, text));
    }
    Verdict::ReceiveFilter
}

/// Judges a block status request by its payload of [`STATUS_FILTER_BYTES`].
pub(super) fn judge_status_filter(request: &Request, terms: &Terms, filter: &[u8]) -> Result<InFlight, Refusal> {
    let (length, id) = match filter.split_first_chunk::<8>() {
        Some((length, id)) => (u64::from_be_bytes(*length), id),
        None => (0, filter),
    };
    if id != allocation::ID.to_be_bytes() {
        return Err(Refusal::new(
            ErrorCode::Invalid,
            "the payload names a metadata context that was not selected",
        ));
    }
    if length == 0 {
        return Err(Refusal::new(ErrorCode::Invalid, "the status of no bytes was asked for"));
    }
    check_range(request, length, terms)?;
    Ok(InFlight {
        request: *request,
        effect_bytes: length,
    })
}
