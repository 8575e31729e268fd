//! Drives a session with bytes that may be anything, and holds it to its bounds. Shared with the fuzz target.

use bytes::Bytes;
use cairn_api::block::{BlockDevice, BlockOp, FrontendSession, Want};
use cairn_nbd::limits::{DISCARD_PIECE_BYTES, PAYLOAD_BYTES_MAX, TLS_RECEIVE_BYTES};
use cairn_nbd::{Limits, ListedExport, LookupRefusal, Question, Session, TlsPolicy};

use super::device::MemoryDevice;

pub const LIMITS: Limits = Limits {
    requests_max: 8,
    bytes_max: PAYLOAD_BYTES_MAX as u64,
};

/// How the driver behaves.
#[derive(Clone, Copy, Debug)]
pub struct Driver {
    /// Sizes of the pieces that bytes are moved in, over and over.
    pub pieces: [u8; 4],
    /// Completions are held back until so many are waiting.
    pub hold: usize,
    /// Completions come last first.
    pub reverse: bool,
}

pub struct Chaos {
    pub session: Session,
    pub device: MemoryDevice,
    driver: Driver,
    moves: usize,
    in_flight: Vec<u64>,
    pub output: Vec<u8>,
}

fn cost(op: &BlockOp) -> u64 {
    match op {
        BlockOp::Read { length, .. } => u64::from(*length),
        BlockOp::Write { data, .. } => data.len() as u64,
        _ => 0,
    }
}

impl Chaos {
    pub fn new(tls: TlsPolicy, driver: Driver) -> Self {
        let mut device = MemoryDevice::new("disk", 256 << 10);
        device.reverse = driver.reverse;
        let session = Session::with_limits(tls, LIMITS);
        Self {
            session,
            device,
            driver,
            moves: 0,
            in_flight: Vec::new(),
            output: Vec::new(),
        }
    }

    fn answer(&mut self) {
        match self.session.question().cloned() {
            Some(Question::List) => {
                let export = ListedExport {
                    name: "disk".to_owned(),
                    description: "one".to_owned(),
                };
                self.session.answer_list(&[export.clone(), export]);
            }
            Some(Question::Lookup(name)) => {
                let answer = if name.len() < 8 {
                    Ok(self.device.info())
                } else {
                    Err(LookupRefusal::Unknown)
                };
                self.session.answer_lookup(answer);
            }
            None => {}
        }
    }

    /// Everything that can happen without new bytes; completions are held back unless `all`.
    fn turn(&mut self, all: bool) {
        loop {
            self.answer();
            let mut requests = Vec::new();
            self.session.take_requests(&mut requests);
            for (tag, op) in requests {
                self.in_flight.push(cost(&op));
                assert!(
                    self.in_flight.len() <= usize::from(LIMITS.requests_max),
                    "too many requests in flight"
                );
                assert!(
                    self.in_flight.iter().sum::<u64>() <= LIMITS.bytes_max,
                    "too many bytes in flight"
                );
                self.device.submit(tag, op);
            }
            let mut output = Vec::new();
            self.session.take_output(&mut output);
            for piece in output {
                assert!(!piece.is_empty(), "an empty piece of output");
                self.output.extend_from_slice(&piece);
            }
            let due = all || self.session.want() == Want::Nothing || self.in_flight.len() > self.driver.hold;
            if self.session.question().is_some() {
                continue;
            }
            if !due {
                return;
            }
            let Some((tag, result)) = self.device.poll() else {
                return;
            };
            // The device gives completions out from one end, so `in_flight` loses the same request.
            if self.driver.reverse {
                self.in_flight.pop()
            } else {
                Some(self.in_flight.remove(0))
            };
            self.session.complete(tag, result);
        }
    }

    /// Feeds `input` and then the end of the stream. Payloads that the input is too short for end it as well.
    pub fn run(&mut self, mut input: &[u8]) {
        self.turn(false);
        while !input.is_empty() {
            let piece = usize::from(self.driver.pieces[self.moves % 4]) + 1;
            self.moves += 1;
            match self.session.want() {
                Want::Nothing => break,
                Want::Bytes(count) => {
                    assert!(
                        count > 0 && count <= TLS_RECEIVE_BYTES.max(DISCARD_PIECE_BYTES),
                        "{count} bytes wanted"
                    );
                    let (head, rest) = input.split_at(count.min(piece).min(input.len()));
                    self.session.received(head);
                    input = rest;
                }
                Want::Payload { length, then } => {
                    assert!(
                        length > 0 && length <= PAYLOAD_BYTES_MAX as usize,
                        "a payload of {length} wanted"
                    );
                    let Some((payload, rest)) = input.split_at_checked(length) else {
                        break;
                    };
                    self.session.received_payload(Bytes::copy_from_slice(payload));
                    let (head, rest) = rest.split_at(then.min(piece).min(rest.len()));
                    if !head.is_empty() {
                        self.session.received(head);
                    }
                    input = rest;
                }
            }
            self.turn(false);
        }
        self.session.received_end();
        self.turn(true);
        assert!(
            self.session.is_finished(),
            "the connection has ended, but the session has not"
        );
        assert!(self.in_flight.is_empty(), "requests were left");
        assert_eq!(self.session.want(), Want::Nothing);
        assert!(self.session.close_reason().is_some());
    }
}
