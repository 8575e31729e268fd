//! One connection's plaintext: negotiation, then transmission, then the end.

use bytes::Bytes;
use cairn_api::block::{BlockError, BlockOp, BlockReply, DeviceInfo, Tag, Want};

use crate::CloseReason;
use crate::limits::Limits;
use crate::negotiation::{ListedExport, LookupRefusal, Negotiation, Question, Step, TlsState};
use crate::output::Output;
use crate::transmission::Transmission;

#[derive(Debug)]
enum Phase {
    Negotiation(Negotiation),
    Transmission(Box<Transmission>),
}

#[derive(Debug)]
pub(crate) struct Protocol {
    phase: Phase,
    limits: Limits,
    output: Output,
    close: Option<CloseReason>,
    encrypted: bool,
    /// The negotiation has said that TLS begins here; nothing more is taken until the session has seen to it.
    start_tls: bool,
}

impl Protocol {
    pub(crate) fn new(tls: TlsState, limits: Limits) -> Self {
        let mut output = Output::default();
        let phase = Phase::Negotiation(Negotiation::new(tls, &mut output));
        Self {
            phase,
            limits,
            output,
            close: None,
            encrypted: false,
            start_tls: false,
        }
    }

    /// What to receive next, whatever output is waiting.
    pub(crate) fn want(&self) -> Want {
        if self.close.is_some() || self.start_tls {
            return Want::Nothing;
        }
        match &self.phase {
            Phase::Negotiation(negotiation) => negotiation.want(),
            Phase::Transmission(transmission) => transmission.want(),
        }
    }

    /// Whether so much output is waiting that nothing more should be received.
    pub(crate) fn is_clogged(&self) -> bool {
        self.output.len() as u64 >= self.limits.bytes_max
    }

    /// Takes bytes from the front of `bytes`: all of them, unless TLS begins behind them.
    pub(crate) fn received(&mut self, bytes: &mut &[u8]) {
        while !bytes.is_empty() && self.close.is_none() && !self.start_tls {
            match &mut self.phase {
                Phase::Negotiation(negotiation) => {
                    if negotiation.question().is_some() {
                        self.close = Some(CloseReason::Driver { what: "protocol bytes" });
                        return;
                    }
                    let step = negotiation.received(bytes, &mut self.output);
                    self.step(step);
                }
                Phase::Transmission(transmission) => {
                    let result = transmission.received(bytes, &mut self.output);
                    *bytes = &[];
                    self.settle(result);
                }
            }
        }
    }

    pub(crate) fn received_payload(&mut self, payload: Bytes) {
        if self.close.is_some() {
            return;
        }
        let result = match &mut self.phase {
            Phase::Negotiation(_) => Err(CloseReason::Driver { what: "a payload" }),
            Phase::Transmission(transmission) => transmission.received_payload(payload),
        };
        self.settle(result);
    }

    pub(crate) fn received_end(&mut self) {
        let inside = match &self.phase {
            Phase::Negotiation(negotiation) => negotiation.is_inside_message(),
            Phase::Transmission(transmission) => transmission.is_inside_message(),
        };
        self.fail(if inside {
            CloseReason::PeerClosedInsideMessage
        } else {
            CloseReason::PeerClosed
        });
    }

    /// Receives nothing more; what is in flight is still answered.
    pub(crate) fn fail(&mut self, reason: CloseReason) {
        if let Phase::Transmission(transmission) = &mut self.phase {
            transmission.end();
        }
        self.close_for(reason);
    }

    /// Keeps the first reason. Whoever serves the transmission knows the session only as a `FrontendSession`, which has
    /// no reasons, so it is logged here; that of a negotiation is its driver's to log.
    fn close_for(&mut self, reason: CloseReason) {
        if self.close.is_some() {
            return;
        }
        if let Phase::Transmission(transmission) = &self.phase {
            let export = transmission.export().name.as_str();
            if reason.is_fault() {
                tracing::warn!(export, %reason, "an NBD connection is closed");
            } else {
                tracing::debug!(export, %reason, "an NBD connection ends");
            }
        }
        self.close = Some(reason);
    }

    fn settle(&mut self, result: Result<(), CloseReason>) {
        if let Err(reason) = result {
            self.fail(reason);
        }
        if let Phase::Transmission(transmission) = &self.phase
            && transmission.is_ended()
        {
            self.close_for(CloseReason::Disconnected);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Continue => {}
            Step::StartTls => self.start_tls = true,
            Step::Enter(entry) => self.phase = Phase::Transmission(Box::new(Transmission::new(entry, self.limits))),
            Step::Close(reason) => self.fail(reason),
        }
    }

    /// Whether TLS begins behind the output so far; says so once.
    pub(crate) fn take_start_tls(&mut self) -> bool {
        let start = std::mem::take(&mut self.start_tls);
        self.encrypted |= start;
        start
    }

    pub(crate) const fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    pub(crate) fn question(&self) -> Option<&Question> {
        match &self.phase {
            Phase::Negotiation(negotiation) if self.close.is_none() => negotiation.question(),
            _ => None,
        }
    }

    pub(crate) fn answer_list(&mut self, exports: &[ListedExport]) {
        if let Phase::Negotiation(negotiation) = &mut self.phase {
            let step = negotiation.answer_list(exports, &mut self.output);
            self.step(step);
        }
    }

    pub(crate) fn answer_lookup(&mut self, answer: Result<DeviceInfo, LookupRefusal>) {
        if let Phase::Negotiation(negotiation) = &mut self.phase {
            let step = negotiation.answer_lookup(answer, &mut self.output);
            self.step(step);
        }
    }

    pub(crate) fn export(&self) -> Option<&DeviceInfo> {
        match &self.phase {
            Phase::Negotiation(_) => None,
            Phase::Transmission(transmission) => Some(transmission.export()),
        }
    }

    /// The document has no message that tells a connected client of a new size: it sees it when it asks anew.
    pub(crate) fn resized(&mut self, size_bytes: u64) {
        if let Phase::Transmission(transmission) = &mut self.phase {
            transmission.resized(size_bytes);
        }
    }

    pub(crate) fn take_requests(&mut self, requests: &mut Vec<(Tag, BlockOp)>) {
        if let Phase::Transmission(transmission) = &mut self.phase {
            transmission.take_requests(requests);
        }
    }

    pub(crate) fn complete(&mut self, tag: Tag, result: Result<BlockReply, BlockError>) {
        if let Phase::Transmission(transmission) = &mut self.phase {
            let outcome = transmission.complete(tag, result, &mut self.output);
            self.settle(outcome);
        }
    }

    pub(crate) fn take_output(&mut self, output: &mut Vec<Bytes>) {
        self.output.take(output);
    }

    pub(crate) const fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    pub(crate) const fn close_reason(&self) -> Option<&CloseReason> {
        self.close.as_ref()
    }

    /// Whether no request will come and no reply is owed.
    pub(crate) fn is_finished(&self) -> bool {
        self.close.is_some()
            && match &self.phase {
                Phase::Negotiation(_) => true,
                Phase::Transmission(transmission) => transmission.is_idle(),
            }
    }
}
