//! The transmission phase: requests in, replies out ("Transmission").
//!
//! A request is judged as soon as its header is whole ([`judge`]), waits for room if too much is in flight, receives
//! its payload if it has one, goes to the device under a tag of ours, and is answered ([`reply`]) when the device
//! completes it, in whatever order that happens. The client's cookie is only carried along, so that a client which uses
//! one twice confuses nobody but itself.

mod error;
mod in_flight;
mod judge;
mod reply;

use bytes::Bytes;
use cairn_api::block::{BlockError, BlockOp, BlockReply, DeviceInfo, Tag, Want};

use self::in_flight::{InFlight, Slots};
use self::judge::{Refusal, Terms, Verdict};
use crate::CloseReason;
use crate::align::AlignedBuffer;
use crate::limits::{DISCARD_PIECE_BYTES, HEADER_BATCH_RUN, HEADERS_PER_RECEIVE_MAX, Limits};
use crate::negotiation::Entry;
use crate::output::Output;
use crate::wire::{Dialect, REQUEST_HEADER_BYTES_MAX, Request, command};

/// Length of a block status filter with one context: an effect length and an id. This server has one context, so
/// that a longer filter always names an unknown one or the same twice.
const STATUS_FILTER_BYTES: usize = 12;

/// What is being received.
#[derive(Debug)]
enum Receiving {
    /// A request header.
    Header,
    /// Nothing: this request waits until less is in flight.
    Held(InFlight),
    /// The payload of this write; `head` is set if its first part came together with the header.
    Payload {
        write: InFlight,
        head: Option<AlignedBuffer>,
    },
    /// A payload that is thrown away; the refusal is sent after it.
    Discard {
        request: Request,
        refusal: Refusal,
        remaining: u64,
    },
    /// The payload of a block status request.
    StatusFilter { request: Request },
    /// Nothing, for good.
    Ended,
}

#[derive(Debug)]
pub(crate) struct Transmission {
    export: DeviceInfo,
    terms: Terms,
    limits: Limits,
    receiving: Receiving,
    /// The part of a header or of a status filter that has arrived.
    partial: [u8; REQUEST_HEADER_BYTES_MAX],
    partial_bytes: usize,
    /// Headers that arrived behind a request which is held.
    backlog: Vec<u8>,
    /// Requests without payload since the last one with payload.
    run_without_payload: u32,
    in_flight: Slots,
    /// For the device, not taken yet.
    requests: Vec<(Tag, BlockOp)>,
}

impl Transmission {
    pub(crate) fn new(entry: Entry, limits: Limits) -> Self {
        let terms = Terms {
            size_bytes: entry.export.size_bytes,
            read_only: entry.export.read_only,
            dialect: entry.dialect,
            allocation: entry.allocation,
        };
        Self {
            export: entry.export,
            terms,
            limits,
            receiving: Receiving::Header,
            partial: [0; REQUEST_HEADER_BYTES_MAX],
            partial_bytes: 0,
            backlog: Vec::new(),
            run_without_payload: 0,
            in_flight: Slots::default(),
            requests: Vec::new(),
        }
    }

    pub(crate) fn resized(&mut self, size_bytes: u64) {
        self.terms.size_bytes = self.terms.size_bytes.max(size_bytes);
    }

    pub(crate) const fn export(&self) -> &DeviceInfo {
        &self.export
    }

    const fn dialect(&self) -> Dialect {
        self.terms.dialect
    }

    pub(crate) fn want(&self) -> Want {
        let header_bytes = self.dialect().request_header_bytes();
        match &self.receiving {
            Receiving::Header if !self.in_flight.has_room(&self.limits, 0) => Want::Nothing,
            Receiving::Header => {
                let headers = if self.run_without_payload < HEADER_BATCH_RUN {
                    1
                } else {
                    HEADERS_PER_RECEIVE_MAX
                };
                Want::Bytes(headers * header_bytes - self.partial_bytes)
            }
            Receiving::Payload { write, head } => {
                let length = head
                    .as_ref()
                    .map_or_else(|| write.payload_length(), AlignedBuffer::missing);
                let last = self.in_flight.len() + 1 >= self.limits.requests_max.into();
                Want::Payload {
                    length,
                    then: if last { 0 } else { header_bytes },
                }
            }
            Receiving::Discard { remaining, .. } => Want::Bytes(
                usize::try_from(*remaining)
                    .unwrap_or(usize::MAX)
                    .min(DISCARD_PIECE_BYTES),
            ),
            Receiving::StatusFilter { .. } => Want::Bytes(STATUS_FILTER_BYTES - self.partial_bytes),
            Receiving::Held(_) | Receiving::Ended => Want::Nothing,
        }
    }

    /// Takes all of `bytes`.
    ///
    /// # Errors
    /// Why the connection must be closed.
    pub(crate) fn received(&mut self, mut bytes: &[u8], output: &mut Output) -> Result<(), CloseReason> {
        while !bytes.is_empty() {
            match &mut self.receiving {
                Receiving::Header => {
                    let whole = self.dialect().request_header_bytes();
                    if self.take_partial(&mut bytes, whole) {
                        self.header(output)?;
                    }
                }
                Receiving::Held(_) => {
                    self.backlog.extend_from_slice(bytes);
                    return Ok(());
                }
                Receiving::Payload { write, head } => {
                    let length = write.payload_length();
                    let buffer = head.get_or_insert_with(|| AlignedBuffer::new(length));
                    let count = buffer.fill(bytes);
                    bytes = &bytes[count..];
                    if buffer.missing() == 0 {
                        self.received_payload(Bytes::new())?;
                    }
                }
                Receiving::Discard {
                    request,
                    refusal,
                    remaining,
                } => {
                    let count = usize::try_from(*remaining).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &bytes[count..];
                    *remaining -= count as u64;
                    if *remaining == 0 {
                        reply::refused(output, self.terms.dialect, request, refusal);
                        self.receiving = Receiving::Header;
                    }
                }
                Receiving::StatusFilter { .. } => {
                    if self.take_partial(&mut bytes, STATUS_FILTER_BYTES) {
                        self.status_filter(output);
                    }
                }
                Receiving::Ended => return Ok(()),
            }
        }
        Ok(())
    }

    /// Takes bytes until `whole` have arrived, and says whether they have.
    fn take_partial(&mut self, bytes: &mut &[u8], whole: usize) -> bool {
        let (head, rest) = bytes.split_at((whole - self.partial_bytes).min(bytes.len()));
        self.partial[self.partial_bytes..][..head.len()].copy_from_slice(head);
        self.partial_bytes += head.len();
        *bytes = rest;
        self.partial_bytes == whole
    }

    fn header(&mut self, output: &mut Output) -> Result<(), CloseReason> {
        let header = &self.partial[..self.partial_bytes];
        let request = Request::decode(header, self.dialect()).map_err(CloseReason::RequestMagic)?;
        self.partial_bytes = 0;
        self.run_without_payload = self.run_without_payload.saturating_add(1);
        match judge::judge(&request, &self.terms)? {
            Verdict::Start(work) => self.admit(work),
            Verdict::ReceiveFilter => self.receiving = Receiving::StatusFilter { request },
            Verdict::Done => reply::done(output, self.dialect(), &request),
            Verdict::Refuse { refusal, discard: 0 } => {
                reply::refused(output, self.dialect(), &request, &refusal);
            }
            Verdict::Refuse { refusal, discard } => {
                self.receiving = Receiving::Discard {
                    request,
                    refusal,
                    remaining: discard,
                };
            }
            Verdict::Disconnect => self.receiving = Receiving::Ended,
        }
        Ok(())
    }

    fn status_filter(&mut self, output: &mut Output) {
        let Receiving::StatusFilter { request } = &self.receiving else {
            return;
        };
        let request = *request;
        let filter = &self.partial[..self.partial_bytes];
        let verdict = judge::judge_status_filter(&request, &self.terms, filter);
        self.partial_bytes = 0;
        self.receiving = Receiving::Header;
        match verdict {
            Ok(work) => self.admit(work),
            Err(refusal) => reply::refused(output, self.dialect(), &request, &refusal),
        }
    }

    /// Lets a request go on to its payload or to the device, or holds it until there is room.
    fn admit(&mut self, work: InFlight) {
        if !self.in_flight.has_room(&self.limits, work.cost()) {
            self.receiving = Receiving::Held(work);
        } else if work.request.command == command::WRITE {
            self.run_without_payload = 0;
            self.receiving = Receiving::Payload {
                write: work,
                head: None,
            };
        } else {
            self.receiving = Receiving::Header;
            self.start(work, Bytes::new());
        }
    }

    fn start(&mut self, work: InFlight, payload: Bytes) {
        let op = work.operation(payload);
        let tag = self.in_flight.insert(work);
        self.requests.push((tag, op));
    }

    /// The rest of a write's payload has arrived; empty if all of it came behind the header.
    ///
    /// # Errors
    /// If no payload of this length was wanted.
    pub(crate) fn received_payload(&mut self, payload: Bytes) -> Result<(), CloseReason> {
        let driver = Err(CloseReason::Driver { what: "a payload" });
        let (write, payload) = match std::mem::replace(&mut self.receiving, Receiving::Header) {
            Receiving::Payload { write, head: None } => (write, payload),
            Receiving::Payload {
                write,
                head: Some(mut head),
            } => {
                let taken = head.fill(&payload);
                if taken < payload.len() || head.missing() > 0 {
                    return driver;
                }
                (write, head.into_bytes())
            }
            _ => return driver,
        };
        if payload.len() != write.payload_length() {
            return driver;
        }
        self.start(write, payload);
        Ok(())
    }

    pub(crate) fn take_requests(&mut self, requests: &mut Vec<(Tag, BlockOp)>) {
        requests.append(&mut self.requests);
    }

    /// The device has completed a request. Answers it, and lets a request that was held go on.
    ///
    /// # Errors
    /// Why the connection must be closed, if what was received behind the held request says so.
    pub(crate) fn complete(
        &mut self,
        tag: Tag,
        result: Result<BlockReply, BlockError>,
        output: &mut Output,
    ) -> Result<(), CloseReason> {
        let Some(work) = self.in_flight.remove(tag) else {
            tracing::error!(
                tag = tag.0,
                "a completion came for a request that is not in flight; it is ignored"
            );
            return Ok(());
        };
        reply::completed(output, self.dialect(), &work, result);
        match std::mem::replace(&mut self.receiving, Receiving::Header) {
            Receiving::Held(held) if self.in_flight.has_room(&self.limits, held.cost()) => {
                self.admit(held);
                let backlog = std::mem::take(&mut self.backlog);
                self.received(&backlog, output)
            }
            other => {
                self.receiving = other;
                Ok(())
            }
        }
    }

    /// Whether a message has begun and not ended.
    pub(crate) const fn is_inside_message(&self) -> bool {
        self.partial_bytes > 0 || !matches!(self.receiving, Receiving::Header | Receiving::Ended)
    }

    /// Whether the client has said that nothing more will come.
    pub(crate) const fn is_ended(&self) -> bool {
        matches!(self.receiving, Receiving::Ended)
    }

    /// Receives nothing more; what is in flight is still answered.
    pub(crate) fn end(&mut self) {
        self.receiving = Receiving::Ended;
        self.backlog = Vec::new();
    }

    /// Whether nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.len() == 0
    }
}
