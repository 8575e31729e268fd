//! Frontend connections: moves bytes between sockets and protocol sessions, and requests between sessions and the core.
//!
//! A payload is received straight into a page-aligned buffer of its own. All replies of a turn leave in one send. A
//! client that does not read its replies, or has too much in flight, is not received from until that is better.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cairn_api::block::{BlockError, BlockOp, BlockReply, DeviceInfo, FrontendSession, Tag as RequestTag, Want};
use cairn_api::ids::GroupId;
use cairn_core::event::{DeviceId, Event};

use crate::buffers::Purpose;
use crate::context::{Context, Tag};
use crate::files::RingFile;
use crate::observer::Observer;
use crate::opening::Opening;
use crate::operation::{Landing, Operation, Receiving, Sending};
use crate::socket;

/// Bytes of replies that may wait for a client before nothing more is received from it: a few of the longest reads.
const OUTPUT_BYTES_MAX: usize = 8 << 20;
/// Bytes of requests in flight on one connection beyond which nothing more is received. A single request may be larger.
const IN_FLIGHT_BYTES_MAX: u64 = 16 << 20;
/// The most protocol bytes one receive takes: enough for hundreds of requests without payload.
const PROTOCOL_BYTES_MAX: usize = 16 << 10;
/// Receives that one connection may do at once in one turn when its socket holds more, so that pipelined requests share
/// a turn (and with it a frame of the log) without one connection keeping others waiting.
const RECEIVES_PER_TURN_MAX: usize = 64;

/// All frontend connections of a reactor.
pub(crate) struct Streams {
    streams: HashMap<DeviceId, Stream>,
    /// Those whose session may have something to send or receive since the last turn.
    dirty: BTreeSet<DeviceId>,
    /// Those that wait for memory.
    starved: BTreeSet<DeviceId>,
    next_device: u64,
    /// No more requests are taken.
    draining: bool,
    scratch_requests: Vec<(RequestTag, BlockOp)>,
}

struct Stream {
    file: Rc<RingFile>,
    session: Box<dyn FrontendSession>,
    info: DeviceInfo,
    group: GroupId,
    receiver: Receiver,
    output: Vec<Bytes>,
    /// Bytes in `output` and in the send under way.
    output_bytes: usize,
    sending: bool,
    /// Bytes of each request that the core has not answered.
    in_flight: BTreeMap<RequestTag, u64>,
    in_flight_bytes: u64,
    /// Kept for the next receive of protocol bytes.
    spare: Vec<u8>,
    /// The client has closed its side: it still gets what it is owed.
    ended: bool,
    broken: bool,
}

/// The receiving half: idle with its operation at hand, or under way.
enum Receiver {
    Idle(Box<Receiving>),
    UnderWay,
}

/// What the landings of a receive are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plan {
    Protocol,
    Payload,
}

impl Streams {
    pub(crate) fn new() -> Self {
        Self {
            streams: HashMap::new(),
            dirty: BTreeSet::new(),
            starved: BTreeSet::new(),
            next_device: 1,
            draining: false,
            scratch_requests: Vec::new(),
        }
    }

    /// Takes a connection over.
    pub(crate) fn adopt(
        &mut self,
        context: &mut Context,
        observer: &mut dyn Observer,
        descriptor: OwnedFd,
        session: Box<dyn FrontendSession>,
        opening: Opening,
    ) {
        let Opening { info, spec, cipher } = opening;
        if let Err(error) = socket::prepare_adopted(&descriptor) {
            tracing::warn!(volume = info.name, %error, "a frontend's connection could not be taken over");
            return;
        }
        let device = DeviceId(self.next_device);
        self.next_device += 1;
        let file = context.ring.adopt(descriptor);
        let stream = Stream {
            receiver: Receiver::Idle(Box::new(Receiving::new(Rc::clone(&file)))),
            file,
            session,
            group: spec.group,
            info: info.clone(),
            output: Vec::new(),
            output_bytes: 0,
            sending: false,
            in_flight: BTreeMap::new(),
            in_flight_bytes: 0,
            spare: Vec::new(),
            ended: false,
            broken: false,
        };
        context.counters.streams_open.fetch_add(1, Ordering::Relaxed);
        observer.on_stream_opened(stream.group, &info.name);
        self.streams.insert(device, stream);
        self.dirty.insert(device);
        context.events.push(Event::OpenDevice {
            device,
            spec,
            info,
            cipher,
        });
    }

    /// A receive or send on a connection has ended.
    pub(crate) fn completed(
        &mut self,
        context: &mut Context,
        device: DeviceId,
        operation: Operation,
        result: io::Result<u32>,
    ) {
        let Some(stream) = self.streams.get_mut(&device) else {
            return;
        };
        self.dirty.insert(device);
        match operation {
            Operation::Receive(receiving) => {
                stream.received(context, device, receiving, result, &mut self.scratch_requests);
            }
            Operation::Send(send) => stream.sent(context, device, send, result),
            _ => {}
        }
    }

    /// The core has answered a request.
    pub(crate) fn reply(&mut self, device: DeviceId, tag: RequestTag, result: Result<BlockReply, BlockError>) {
        let Some(stream) = self.streams.get_mut(&device) else {
            return;
        };
        if let Some(bytes) = stream.in_flight.remove(&tag) {
            stream.in_flight_bytes -= bytes;
        }
        stream.session.complete(tag, result);
        self.dirty.insert(device);
    }

    /// At the end of a turn: sends what is to be sent, starts the receives that may go on, closes what is finished.
    pub(crate) fn flush(&mut self, context: &mut Context, observer: &mut dyn Observer) {
        let mut due = std::mem::take(&mut self.dirty);
        due.append(&mut self.starved);
        for device in due {
            let Some(stream) = self.streams.get_mut(&device) else {
                continue;
            };
            stream.take_requests(context, device, &mut self.scratch_requests);
            stream.send(context, device);
            if stream.is_over() {
                self.close(context, observer, device);
            } else if !self.draining && !stream.receive(context, device) {
                self.starved.insert(device);
            }
        }
    }

    /// A volume is larger: its clients may ask for what is new at once.
    pub(crate) fn resized(&mut self, group: GroupId, size_bytes: u64) {
        let is_of_volume = |stream: &&mut Stream| stream.group == group && stream.info.snapshot.is_none();
        for stream in self.streams.values_mut().filter(is_of_volume) {
            stream.session.resized(size_bytes);
        }
    }

    /// Closes the connections to a volume.
    pub(crate) fn close_group(&mut self, context: &mut Context, observer: &mut dyn Observer, group: GroupId) {
        let devices: BTreeSet<DeviceId> = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.group == group)
            .map(|(device, _)| *device)
            .collect();
        for device in devices {
            self.close(context, observer, device);
        }
    }

    /// Takes no more requests.
    pub(crate) fn start_draining(&mut self) {
        self.draining = true;
    }

    /// Whether every request has been answered and every answer sent.
    pub(crate) fn is_drained(&self) -> bool {
        self.streams
            .values()
            .all(|stream| stream.in_flight.is_empty() && stream.output_bytes == 0)
    }

    /// Closes everything.
    pub(crate) fn close_all(&mut self, context: &mut Context, observer: &mut dyn Observer) {
        let devices: BTreeSet<DeviceId> = self.streams.keys().copied().collect();
        for device in devices {
            self.close(context, observer, device);
        }
    }

    fn close(&mut self, context: &mut Context, observer: &mut dyn Observer, device: DeviceId) {
        let Some(stream) = self.streams.remove(&device) else {
            return;
        };
        stream.file.shutdown();
        context.counters.streams_open.fetch_sub(1, Ordering::Relaxed);
        context.events.push(Event::CloseDevice(device));
        observer.on_stream_closed(stream.group, &stream.info.name);
    }
}

impl Stream {
    fn is_over(&self) -> bool {
        let owes_nothing = self.session.is_finished() || (self.ended && self.in_flight.is_empty());
        self.broken || (owes_nothing && self.output_bytes == 0)
    }

    /// Whether the client must be waited for, or the core.
    fn is_held_back(&self) -> bool {
        self.output_bytes > OUTPUT_BYTES_MAX || self.in_flight_bytes >= IN_FLIGHT_BYTES_MAX
    }

    /// A receive has ended: hands over what it brought, and takes more at once while receives come back full.
    fn received(
        &mut self,
        context: &mut Context,
        device: DeviceId,
        mut receiving: Box<Receiving>,
        mut result: io::Result<u32>,
        requests: &mut Vec<(RequestTag, BlockOp)>,
    ) {
        let mut receives = 0;
        loop {
            let was_full = result.as_ref().is_ok_and(|bytes| receiving.is_filled_by(*bytes));
            let goes_on = self.take_in(context, &mut receiving, result);
            self.take_requests(context, device, requests);
            receives += 1;
            // A receive that came back short has emptied the socket.
            receiving.poll_first = !was_full;
            if !goes_on || !was_full || receives == RECEIVES_PER_TURN_MAX || self.is_held_back() {
                break;
            }
            if !self.plan(context, &mut receiving) {
                break;
            }
            result = match receiving.receive_now() {
                Ok(None) => {
                    receiving.poll_first = true;
                    break;
                }
                Ok(Some(bytes)) => Ok(u32::try_from(bytes).unwrap_or(u32::MAX)),
                Err(error) => Err(error),
            };
        }
        self.receiver = Receiver::Idle(receiving);
    }

    /// Hands received bytes to the session. False when the connection brings no more.
    fn take_in(&mut self, context: &Context, receiving: &mut Receiving, result: io::Result<u32>) -> bool {
        let bytes = match result {
            Ok(0) => {
                self.session.received_end();
                self.ended = true;
                return false;
            }
            Ok(bytes) => bytes as usize,
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => return true,
            Err(error) => {
                tracing::debug!(volume = self.info.name, %error, "a frontend's connection broke");
                self.broken = true;
                return false;
            }
        };
        context
            .counters
            .stream_bytes_received
            .fetch_add(bytes as u64, Ordering::Relaxed);
        receiving.filled += bytes;
        let payload_length = match plan_of(receiving) {
            Plan::Protocol => 0,
            Plan::Payload => receiving.landings[0].len(),
        };
        if receiving.filled < payload_length {
            return true;
        }
        let mut landings = std::mem::take(&mut receiving.landings).into_iter();
        let filled = std::mem::take(&mut receiving.filled);
        if payload_length > 0
            && let Some(payload) = landings.next()
        {
            self.session.received_payload(payload.into_bytes());
        }
        let protocol_length = filled - payload_length;
        if let Some(Landing::Heap(protocol)) = landings.next() {
            if protocol_length > 0 {
                self.session.received(&protocol[..protocol_length]);
            }
            self.spare = protocol;
        }
        true
    }

    /// Prepares the next receive as the session wants it, unless a payload is half-way. False if there is none to do,
    /// or no memory for it.
    fn plan(&mut self, context: &Context, receiving: &mut Receiving) -> bool {
        if !receiving.landings.is_empty() {
            return true;
        }
        match self.session.want() {
            Want::Nothing | Want::Bytes(0) => return false,
            Want::Bytes(length) => receiving.landings.push(self.protocol_landing(length)),
            Want::Payload { length, then } => {
                let Some(buffer) = context.pool.allocate(length, Purpose::Frontend) else {
                    return false;
                };
                receiving.landings.push(Landing::Pooled(buffer));
                if then > 0 {
                    receiving.landings.push(self.protocol_landing(then));
                }
            }
        }
        true
    }

    fn protocol_landing(&mut self, length: usize) -> Landing {
        let mut bytes = std::mem::take(&mut self.spare);
        bytes.resize(length.min(PROTOCOL_BYTES_MAX), 0);
        Landing::Heap(bytes)
    }

    /// Starts a receive if one may be. False if only memory is missing.
    fn receive(&mut self, context: &mut Context, device: DeviceId) -> bool {
        if self.ended || self.is_held_back() || self.session.is_finished() {
            return true;
        }
        let mut receiving = match std::mem::replace(&mut self.receiver, Receiver::UnderWay) {
            Receiver::Idle(receiving) => receiving,
            Receiver::UnderWay => return true,
        };
        if self.plan(context, &mut receiving) {
            context.ring.submit(Tag::Stream(device), Operation::Receive(receiving));
            return true;
        }
        self.receiver = Receiver::Idle(receiving);
        !matches!(self.session.want(), Want::Payload { .. })
    }

    fn take_requests(&mut self, context: &mut Context, device: DeviceId, requests: &mut Vec<(RequestTag, BlockOp)>) {
        self.session.take_requests(requests);
        for (tag, op) in requests.drain(..) {
            let bytes = match &op {
                BlockOp::Write { data, .. } => data.len() as u64,
                BlockOp::Read { length, .. } => u64::from(*length),
                BlockOp::Flush | BlockOp::Trim { .. } | BlockOp::WriteZeroes { .. } | BlockOp::Status { .. } => 0,
            };
            if self.in_flight.insert(tag, bytes).is_some() {
                // The replies could not be told apart; the session is defective, the other connections are not.
                tracing::error!(
                    volume = self.info.name,
                    ?tag,
                    "a frontend used one tag for two requests"
                );
                self.broken = true;
                continue;
            }
            self.in_flight_bytes += bytes;
            context.events.push(Event::Device { device, tag, op });
        }
    }

    /// Starts a send of all output, unless one is under way.
    fn send(&mut self, context: &mut Context, device: DeviceId) {
        let known = self.output.len();
        self.session.take_output(&mut self.output);
        self.output_bytes += self.output[known..].iter().map(Bytes::len).sum::<usize>();
        if self.sending || self.broken || self.output_bytes == 0 {
            return;
        }
        let buffers = std::mem::take(&mut self.output);
        self.sending = true;
        let send = Sending::new(Rc::clone(&self.file), buffers);
        context
            .ring
            .submit(Tag::Stream(device), Operation::Send(Box::new(send)));
    }

    /// A send has ended, or a piece of it.
    fn sent(&mut self, context: &mut Context, device: DeviceId, mut send: Box<Sending>, result: io::Result<u32>) {
        match result {
            Ok(bytes) => {
                send.gather.advance(u64::from(bytes));
                self.output_bytes -= bytes as usize;
                context
                    .counters
                    .stream_bytes_sent
                    .fetch_add(u64::from(bytes), Ordering::Relaxed);
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {}
            Err(error) => {
                tracing::debug!(volume = self.info.name, %error, "a frontend's connection broke");
                self.broken = true;
            }
        }
        if send.gather.left() > 0 && !self.broken {
            context.ring.submit(Tag::Stream(device), Operation::Send(send));
        } else {
            self.sending = false;
        }
    }
}

/// A payload is always the first landing.
fn plan_of(receiving: &Receiving) -> Plan {
    match receiving.landings.first() {
        Some(Landing::Pooled(_)) => Plan::Payload,
        Some(Landing::Heap(_)) | None => Plan::Protocol,
    }
}
