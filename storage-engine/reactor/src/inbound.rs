//! Incoming links: connections that other cores have dialled, on which this core only receives.
//!
//! A frame's body, its payload and the header of the next frame are received in one operation, the payload into a
//! page-aligned buffer from which it is written to disk. What cannot be decoded ends the connection: the peer dials
//! again, and Raft sends again what was lost.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cairn_api::ids::DiskId;
use cairn_core::event::Event;
use cairn_format::error::FormatError;
use cairn_format::peer::{self, FrameHeader, HEADER_BYTES};

use crate::buffers::Purpose;
use crate::context::{Context, Serial, Tag};
use crate::counters::LinkCounters;
use crate::files::RingFile;
use crate::operation::{Landing, Operation, Receiving};
use crate::socket;

/// Receives that one link may do at once in one turn, so that a busy peer does not keep others waiting.
const RECEIVES_PER_TURN_MAX: usize = 32;

/// All incoming links of a reactor.
#[derive(Default)]
pub(crate) struct Inbounds {
    links: BTreeMap<Serial, Inbound>,
    by_peer: BTreeMap<DiskId, Serial>,
    /// Those that wait for memory.
    starved: BTreeSet<Serial>,
}

struct Inbound {
    from: DiskId,
    file: Rc<RingFile>,
    counters: Arc<LinkCounters>,
    /// The header of the frame whose body and payload are being received; `None` while a header is.
    header: Option<FrameHeader>,
    /// Held while no receive is under way: while memory is missing.
    idle: Option<Box<Receiving>>,
}

/// Why a link ends.
enum End {
    /// The peer closed it, or it broke.
    Closed(String),
    /// The peer sent what is no frame.
    Garbage(FormatError),
}

impl Inbounds {
    /// Takes a connection over. It replaces an older one of the same peer, which has dialled again for a reason.
    pub(crate) fn adopt(&mut self, context: &mut Context, descriptor: OwnedFd, from: DiskId) {
        if let Err(error) = socket::prepare_adopted(&descriptor) {
            tracing::warn!(peer = %from, %error, "a peer's connection could not be taken over");
            return;
        }
        if let Some(older) = self.by_peer.get(&from).copied() {
            self.close(older);
        }
        let serial = context.next_serial();
        let file = context.ring.adopt(descriptor);
        let mut receiving = Box::new(Receiving::new(Rc::clone(&file)));
        receiving.landings.push(header_landing());
        let link = Inbound {
            from,
            file,
            counters: context.counters.link(from),
            header: None,
            idle: None,
        };
        self.links.insert(serial, link);
        self.by_peer.insert(from, serial);
        context.ring.submit(Tag::Inbound(serial), Operation::Receive(receiving));
    }

    /// A receive has ended.
    pub(crate) fn completed(
        &mut self,
        context: &mut Context,
        serial: Serial,
        mut receiving: Box<Receiving>,
        mut result: io::Result<u32>,
    ) {
        let Some(link) = self.links.get_mut(&serial) else {
            return;
        };
        let mut receives = 0;
        loop {
            let was_full = result.as_ref().is_ok_and(|bytes| receiving.is_filled_by(*bytes));
            if let Err(end) = link.take_in(context, &mut receiving, result) {
                return self.end(serial, &end);
            }
            if !link.plan(context, &mut receiving) {
                link.idle = Some(receiving);
                self.starved.insert(serial);
                return;
            }
            receives += 1;
            // A receive that came back short has emptied the socket.
            receiving.poll_first = !was_full;
            if !was_full || receives == RECEIVES_PER_TURN_MAX {
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
        context.ring.submit(Tag::Inbound(serial), Operation::Receive(receiving));
    }

    /// At the end of a turn: goes on with the links that waited for memory.
    pub(crate) fn flush(&mut self, context: &mut Context) {
        for serial in std::mem::take(&mut self.starved) {
            let Some(link) = self.links.get_mut(&serial) else {
                continue;
            };
            let Some(mut receiving) = link.idle.take() else {
                continue;
            };
            if link.plan(context, &mut receiving) {
                context.ring.submit(Tag::Inbound(serial), Operation::Receive(receiving));
            } else {
                link.idle = Some(receiving);
                self.starved.insert(serial);
            }
        }
    }

    /// Closes the connection from a peer.
    pub(crate) fn remove(&mut self, from: DiskId) {
        if let Some(serial) = self.by_peer.get(&from).copied() {
            self.close(serial);
        }
    }

    /// Closes everything.
    pub(crate) fn close_all(&mut self) {
        for serial in self.links.keys().copied().collect::<Vec<_>>() {
            self.close(serial);
        }
    }

    fn end(&mut self, serial: Serial, end: &End) {
        if let Some(link) = self.links.get(&serial) {
            match end {
                End::Closed(reason) => tracing::debug!(peer = %link.from, reason, "an incoming link ended"),
                End::Garbage(error) => tracing::warn!(
                    peer = %link.from, %error, "a peer sent what is no frame of this protocol; its connection is closed"
                ),
            }
        }
        self.close(serial);
    }

    fn close(&mut self, serial: Serial) {
        if let Some(link) = self.links.remove(&serial) {
            link.file.shutdown();
            if self.by_peer.get(&link.from) == Some(&serial) {
                self.by_peer.remove(&link.from);
            }
        }
    }
}

impl Inbound {
    /// Takes what a receive brought: a header that a body must follow, or a whole frame and what is there of the next
    /// header.
    fn take_in(
        &mut self,
        context: &mut Context,
        receiving: &mut Receiving,
        result: io::Result<u32>,
    ) -> Result<(), End> {
        let bytes = match result {
            Ok(0) => return Err(End::Closed("the peer closed it".to_owned())),
            Ok(bytes) => bytes as usize,
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => return Ok(()),
            Err(error) => return Err(End::Closed(error.to_string())),
        };
        self.counters.bytes_received.fetch_add(bytes as u64, Ordering::Relaxed);
        receiving.filled += bytes;
        if let Some(header) = &self.header {
            let frame_length = header.body_len as usize + header.payload_len as usize;
            if receiving.filled < frame_length {
                return Ok(());
            }
            let messages = take_frame(header, receiving).map_err(End::Garbage)?;
            receiving.filled -= frame_length;
            self.header = None;
            self.counters.frames_received.fetch_add(1, Ordering::Relaxed);
            context.events.push(Event::Peer {
                from: self.from,
                messages,
            });
        }
        if receiving.filled < HEADER_BYTES {
            return Ok(());
        }
        let Some(Landing::Heap(bytes)) = receiving.landings.pop() else {
            unreachable!("the last landing is always that of a header");
        };
        #[expect(clippy::expect_used, reason = "the landing of a header has the length of a header")]
        let bytes: &[u8; HEADER_BYTES] = bytes.as_slice().try_into().expect("a header's length");
        self.header = Some(peer::decode_header(bytes).map_err(End::Garbage)?);
        receiving.filled = 0;
        Ok(())
    }

    /// Makes room for what comes next. False if there is no memory for it.
    fn plan(&self, context: &Context, receiving: &mut Receiving) -> bool {
        let Some(header) = self.header.as_ref().filter(|_| receiving.landings.is_empty()) else {
            return true;
        };
        if header.payload_len > 0 {
            let Some(buffer) = context.pool.allocate(header.payload_len as usize, Purpose::Peer) else {
                return false;
            };
            receiving.landings.push(Landing::Pooled(buffer));
        }
        if header.body_len > 0 {
            receiving
                .landings
                .insert(0, Landing::Heap(vec![0; header.body_len as usize]));
        }
        receiving.landings.push(header_landing());
        true
    }
}

fn header_landing() -> Landing {
    Landing::Heap(vec![0; HEADER_BYTES])
}

/// Decodes the frame that has been received whole, and leaves the landing of the next header.
fn take_frame(header: &FrameHeader, receiving: &mut Receiving) -> Result<Vec<peer::PeerMessage>, FormatError> {
    let next_header = receiving.landings.pop();
    let mut parts = std::mem::take(&mut receiving.landings).into_iter();
    let mut part = |length: u32| match length {
        0 => Bytes::new(),
        _ => parts.next().map(Landing::into_bytes).unwrap_or_default(),
    };
    let body = part(header.body_len);
    let payload = part(header.payload_len);
    receiving.landings.extend(next_header);
    peer::decode_body(header, &body, &payload)
}
