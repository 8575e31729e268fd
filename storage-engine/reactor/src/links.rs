//! Outgoing links: this core dials every core it talks to and uses that connection for sending only.
//!
//! Messages queue as they are, and are encoded when the socket is free: what piled up during one send becomes the next
//! frame. A link is `Waiting -> Connecting -> Greeting -> Up`, and falls back to `Waiting` from everywhere; what was
//! queued is dropped then, because Raft and the gateways send again what matters.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use cairn_api::ids::{ClusterId, DiskId, NodeId};
use cairn_core::event::Event;
use cairn_core::message_bytes;
use cairn_core::time::Timestamp;
use cairn_format::peer::{
    BODY_BYTES_MAX, HELLO_REPLY_BYTES, Hello, HelloCode, HelloReply, MESSAGES_MAX, PAYLOAD_BYTES_MAX, PeerMessage,
    body_bytes_estimate, encode,
};
use nix::sys::socket::SockaddrStorage;

use crate::context::{Context, Serial, Tag};
use crate::counters::LinkCounters;
use crate::files::RingFile;
use crate::operation::{Connecting, Landing, Operation, Receiving, Sending};
use crate::socket;

/// The first pause before dialling again: a restarted engine is found at once.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest: a dead node costs its peers one connection attempt a second.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Connecting and greeting must be over by then; a stopped process accepts connections and never answers.
const GREETING_TIME_MAX: Duration = Duration::from_secs(3);
/// A link that stood for so long starts again with the shortest pause.
const STEADY_TIME: Duration = Duration::from_secs(5);
/// Bytes that may wait for one peer. The core stops appending to a slow follower long before; what still comes (votes,
/// replies to its gateways) is little, so a queue of this size means a peer that is gone, and the link is dropped.
const QUEUE_BYTES_MAX: usize = 64 << 20;

/// Who this core is, for the greeting.
#[derive(Clone, Copy)]
pub(crate) struct Identity {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) disk: DiskId,
}

/// All outgoing links of a reactor.
pub(crate) struct Links {
    identity: Identity,
    links: BTreeMap<DiskId, Link>,
    /// Links with messages to send and none being sent.
    dirty: BTreeSet<DiskId>,
}

struct Link {
    peer: DiskId,
    address: SocketAddr,
    state: State,
    backoff: Duration,
    /// The failure has been logged since the link last stood.
    is_reported: bool,
    queue: VecDeque<PeerMessage>,
    /// Bytes as the core counts them: of all in the queue, and of the frame being sent.
    queued_bytes: usize,
    counters: Arc<LinkCounters>,
}

enum State {
    Waiting {
        until: Timestamp,
    },
    Connecting {
        serial: Serial,
        file: Rc<RingFile>,
        deadline: Timestamp,
    },
    Greeting {
        serial: Serial,
        file: Rc<RingFile>,
        deadline: Timestamp,
    },
    Up {
        serial: Serial,
        file: Rc<RingFile>,
        since: Timestamp,
        sending: Option<usize>,
    },
}

impl Links {
    pub(crate) fn new(identity: Identity) -> Self {
        Self {
            identity,
            links: BTreeMap::new(),
            dirty: BTreeSet::new(),
        }
    }

    /// Dials a peer from now on, or at another address than before.
    pub(crate) fn set_peer(&mut self, context: &mut Context, peer: DiskId, address: SocketAddr) {
        if peer == self.identity.disk {
            tracing::warn!(%peer, "a disk's core does not dial itself");
            return;
        }
        if let Some(link) = self.links.get_mut(&peer) {
            if link.address == address {
                return;
            }
            link.address = address;
            link.fail(context, "its address has changed");
            link.state = State::Waiting { until: context.now };
            return;
        }
        let link = Link {
            peer,
            address,
            state: State::Waiting { until: context.now },
            backoff: BACKOFF_MIN,
            is_reported: false,
            queue: VecDeque::new(),
            queued_bytes: 0,
            counters: context.counters.link(peer),
        };
        self.links.insert(peer, link);
    }

    /// Dials a peer no more.
    pub(crate) fn remove_peer(&mut self, context: &mut Context, peer: DiskId) {
        if let Some(mut link) = self.links.remove(&peer) {
            link.fail(context, "the peer was removed");
        }
    }

    /// Queues a message; dropped if the link is down.
    pub(crate) fn send(&mut self, context: &mut Context, to: DiskId, message: PeerMessage) {
        let Some(link) = self.links.get_mut(&to) else { return };
        let State::Up { sending, .. } = &link.state else { return };
        if sending.is_none() {
            self.dirty.insert(to);
        }
        link.queued_bytes += message_bytes(&message);
        link.queue.push_back(message);
        link.counters
            .bytes_queued
            .store(link.queued_bytes as u64, Ordering::Relaxed);
        if link.queued_bytes > QUEUE_BYTES_MAX {
            link.fail(context, "it does not take what it is sent");
        }
    }

    /// At the end of a turn: sends what has been queued.
    pub(crate) fn flush(&mut self, context: &mut Context) {
        for peer in std::mem::take(&mut self.dirty) {
            if let Some(link) = self.links.get_mut(&peer) {
                link.send_next(context);
            }
        }
    }

    /// Dials links whose pause is over and gives up on those that take too long.
    pub(crate) fn on_time(&mut self, context: &mut Context) {
        for link in self.links.values_mut() {
            match link.state {
                State::Waiting { until } if until <= context.now => link.dial(context),
                State::Connecting { deadline, .. } | State::Greeting { deadline, .. } if deadline <= context.now => {
                    link.fail(context, "it did not answer in time");
                }
                _ => {}
            }
        }
    }

    /// When [`Self::on_time`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        let deadline = |link: &Link| match link.state {
            State::Waiting { until } => Some(until),
            State::Connecting { deadline, .. } | State::Greeting { deadline, .. } => Some(deadline),
            State::Up { .. } => None,
        };
        self.links.values().filter_map(deadline).min()
    }

    /// An operation on a link has ended.
    pub(crate) fn completed(
        &mut self,
        context: &mut Context,
        peer: DiskId,
        serial: Serial,
        operation: Operation,
        result: io::Result<u32>,
    ) {
        let identity = self.identity;
        let Some(link) = self.links.get_mut(&peer).filter(|link| link.serial() == Some(serial)) else {
            return;
        };
        match (operation, result) {
            (_, Err(error)) => link.fail(context, &error.to_string()),
            (Operation::Connect(_), Ok(_)) => link.greet(context, identity),
            (Operation::Send(send), Ok(bytes)) => link.sent(context, send, bytes),
            (Operation::Receive(receiving), Ok(bytes)) => link.received(context, receiving, bytes),
            (Operation::Write(_) | Operation::Read(_) | Operation::Wake(_), Ok(_)) => {}
        }
    }

    /// Whether everything that was queued has been sent.
    pub(crate) fn is_drained(&self) -> bool {
        self.links.values().all(|link| link.queued_bytes == 0)
    }

    /// Closes everything.
    pub(crate) fn close_all(&mut self, context: &mut Context) {
        for link in self.links.values_mut() {
            link.fail(context, "this core stops");
        }
        self.links.clear();
    }
}

impl Link {
    fn serial(&self) -> Option<Serial> {
        match &self.state {
            State::Waiting { .. } => None,
            State::Connecting { serial, .. } | State::Greeting { serial, .. } | State::Up { serial, .. } => {
                Some(*serial)
            }
        }
    }

    fn dial(&mut self, context: &mut Context) {
        let descriptor = match socket::for_link(&self.address) {
            Ok(descriptor) => descriptor,
            Err(error) => return self.fail(context, &error.to_string()),
        };
        let file = context.ring.adopt(descriptor);
        let serial = context.next_serial();
        let connect = Connecting {
            file: Rc::clone(&file),
            address: SockaddrStorage::from(self.address),
        };
        context
            .ring
            .submit(Tag::Link(self.peer, serial), Operation::Connect(Box::new(connect)));
        self.state = State::Connecting {
            serial,
            file,
            deadline: context.now.after(GREETING_TIME_MAX),
        };
    }

    /// The connection stands: says who calls, and awaits the answer.
    fn greet(&mut self, context: &mut Context, identity: Identity) {
        let State::Connecting { serial, file, deadline } = &self.state else {
            return;
        };
        let (serial, file, deadline) = (*serial, Rc::clone(file), *deadline);
        let tag = Tag::Link(self.peer, serial);
        let hello = Hello::new(identity.cluster, identity.node, identity.disk, self.peer).encode();
        context.ring.submit(
            tag,
            Operation::Send(Box::new(Sending::new(Rc::clone(&file), vec![hello]))),
        );
        let mut receiving = Receiving::new(Rc::clone(&file));
        receiving.landings.push(Landing::Heap(vec![0; HELLO_REPLY_BYTES]));
        context.ring.submit(tag, Operation::Receive(Box::new(receiving)));
        self.state = State::Greeting { serial, file, deadline };
    }

    /// The answer to the greeting, a piece of it, or the end of the connection.
    fn received(&mut self, context: &mut Context, mut receiving: Box<Receiving>, bytes: u32) {
        if bytes == 0 {
            return self.fail(context, "the peer closed it");
        }
        let State::Greeting { serial, file, .. } = &self.state else {
            return self.fail(context, "the peer sent something on a link that it may only receive on");
        };
        let (serial, file) = (*serial, Rc::clone(file));
        self.counters
            .bytes_received
            .fetch_add(u64::from(bytes), Ordering::Relaxed);
        receiving.filled += bytes as usize;
        if receiving.filled == HELLO_REPLY_BYTES {
            let answer = receiving.landings.pop().map(Landing::into_bytes).unwrap_or_default();
            match HelloReply::decode(&answer) {
                Ok(HelloReply {
                    code: HelloCode::Accepted,
                    ..
                }) => self.rise(context, serial, Rc::clone(&file)),
                Ok(HelloReply { code, .. }) => return self.refused(context, code),
                Err(error) => return self.fail(context, &error.to_string()),
            }
            // Nothing comes on this connection any more; the receive is there to notice its end.
            receiving.filled = 0;
            receiving.poll_first = true;
            receiving.landings.push(Landing::Heap(vec![0; 1]));
        }
        context
            .ring
            .submit(Tag::Link(self.peer, serial), Operation::Receive(receiving));
    }

    fn rise(&mut self, context: &mut Context, serial: Serial, file: Rc<RingFile>) {
        tracing::info!(peer = %self.peer, address = %self.address, "the link to a peer stands");
        self.state = State::Up {
            serial,
            file,
            since: context.now,
            sending: None,
        };
        self.is_reported = false;
        self.counters.up.store(1, Ordering::Relaxed);
        context.events.push(Event::PeerUp(self.peer));
    }

    fn refused(&mut self, context: &mut Context, code: HelloCode) {
        self.backoff = BACKOFF_MAX;
        // A peer that is starting is no reason for a warning, and comes by itself.
        self.is_reported |= matches!(code, HelloCode::DiskNotReady | HelloCode::ShuttingDown);
        self.fail(context, code.reason());
    }

    /// Encodes and sends the next frame: as many messages as its bounds allow.
    fn send_next(&mut self, context: &mut Context) {
        let State::Up {
            serial, file, sending, ..
        } = &mut self.state
        else {
            return;
        };
        if sending.is_some() || self.queue.is_empty() {
            return;
        }
        let (mut body, mut payload, mut count) = (0, 0, 0);
        for message in &self.queue {
            body += body_bytes_estimate(message);
            payload += message.payload_bytes();
            if count > 0 && (body > BODY_BYTES_MAX || payload > PAYLOAD_BYTES_MAX || count == MESSAGES_MAX) {
                break;
            }
            count += 1;
        }
        let messages: Vec<PeerMessage> = self.queue.drain(..count).collect();
        let frame = encode(&messages);
        *sending = Some(messages.iter().map(message_bytes).sum());
        let mut buffers: Vec<Bytes> = Vec::with_capacity(1 + frame.payload.len());
        buffers.push(frame.head);
        buffers.extend(frame.payload);
        let send = Sending::new(Rc::clone(file), buffers);
        context
            .ring
            .submit(Tag::Link(self.peer, *serial), Operation::Send(Box::new(send)));
    }

    /// A send has ended, or a piece of it.
    fn sent(&mut self, context: &mut Context, mut send: Box<Sending>, bytes: u32) {
        send.gather.advance(u64::from(bytes));
        self.counters.bytes_sent.fetch_add(u64::from(bytes), Ordering::Relaxed);
        if send.gather.left() > 0 {
            if let Some(serial) = self.serial() {
                context.ring.submit(Tag::Link(self.peer, serial), Operation::Send(send));
            }
            return;
        }
        // The greeting is a send too, and nothing waits for its end.
        let State::Up { sending, .. } = &mut self.state else {
            return;
        };
        let Some(bytes) = sending.take() else { return };
        self.queued_bytes -= bytes;
        self.counters.frames_sent.fetch_add(1, Ordering::Relaxed);
        self.counters
            .bytes_queued
            .store(self.queued_bytes as u64, Ordering::Relaxed);
        context.events.push(Event::PeerDrained { to: self.peer, bytes });
        self.send_next(context);
    }

    /// Drops the connection and what was queued for it, and plans the next attempt.
    fn fail(&mut self, context: &mut Context, reason: &str) {
        let until = context.now.after(self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        match std::mem::replace(&mut self.state, State::Waiting { until }) {
            State::Waiting { .. } => {}
            State::Connecting { file, .. } | State::Greeting { file, .. } => {
                file.shutdown();
                if !self.is_reported {
                    tracing::info!(peer = %self.peer, address = %self.address, reason, "a peer cannot be reached");
                }
                self.is_reported = true;
            }
            State::Up { file, since, .. } => {
                file.shutdown();
                tracing::info!(peer = %self.peer, address = %self.address, reason, "the link to a peer broke");
                if context.now.since(since) >= STEADY_TIME {
                    self.backoff = BACKOFF_MIN;
                }
                self.counters.up.store(0, Ordering::Relaxed);
                self.counters.breaks.fetch_add(1, Ordering::Relaxed);
                self.drop_queue(context);
                context.events.push(Event::PeerDown(self.peer));
            }
        }
    }

    fn drop_queue(&mut self, context: &mut Context) {
        self.queue.clear();
        let bytes = std::mem::take(&mut self.queued_bytes);
        self.counters.bytes_queued.store(0, Ordering::Relaxed);
        if bytes > 0 {
            context.events.push(Event::PeerDrained { to: self.peer, bytes });
        }
    }
}
