//! A client of our own that talks to a session in memory and checks every byte of its replies.

use bytes::{Bytes, BytesMut};
use cairn_api::block::{BlockDevice, DeviceInfo, FrontendSession, Want};
use cairn_nbd::wire::{self, Dialect, Request, chunk_type, option_code, reply_code};
use cairn_nbd::{Limits, ListedExport, LookupRefusal, Question, Session, TlsPolicy};

use super::device::MemoryDevice;

pub const SIZE: u64 = 1 << 20;

/// A client at one end, a session and its device at the other.
pub struct Pair {
    pub session: Session,
    pub device: MemoryDevice,
    /// Sent by the server and not looked at.
    pub inbox: BytesMut,
    pub dialect: Dialect,
    /// How many bytes the driver moves at once at most.
    pub piece: usize,
    /// The device is given its requests, and its completions are taken, only when the session wants nothing more or all
    /// bytes are sent: many requests are then in flight together.
    pub lazy: bool,
    /// What every lookup is answered with, instead of the device.
    pub refusal: Option<LookupRefusal>,
}

/// An option reply.
#[derive(Debug, PartialEq, Eq)]
pub struct OptionReply {
    pub option: u32,
    pub kind: u32,
    pub data: Vec<u8>,
}

/// A reply of the transmission phase, put together.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reply {
    pub cookie: u64,
    pub error: u32,
    pub message: String,
    /// Content chunks: offset, data, and whether it came as a hole.
    pub content: Vec<(u64, Vec<u8>, bool)>,
    /// Block status: context id, then (length, flags).
    pub status: Option<(u32, Vec<(u64, u64)>)>,
}

impl Reply {
    pub fn data(&self) -> Vec<u8> {
        let mut content = self.content.clone();
        content.sort();
        content.into_iter().flat_map(|(_, data, _)| data).collect()
    }
}

pub fn string(text: &str) -> Vec<u8> {
    [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
}

pub fn export_data(name: &str, info: &[u16]) -> Vec<u8> {
    let mut data = string(name);
    data.extend(u16::try_from(info.len()).unwrap().to_be_bytes());
    info.iter().for_each(|kind| data.extend(kind.to_be_bytes()));
    data
}

pub fn context_data(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = string(name);
    data.extend(u32::try_from(queries.len()).unwrap().to_be_bytes());
    queries.iter().for_each(|query| data.extend(string(query)));
    data
}

pub fn option_bytes(option: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap();
    [
        &wire::OPTION_MAGIC.to_be_bytes()[..],
        &option.to_be_bytes(),
        &length.to_be_bytes(),
        data,
    ]
    .concat()
}

impl Pair {
    pub fn new() -> Self {
        Self::with(TlsPolicy::Off, Limits::default(), MemoryDevice::new("disk", SIZE))
    }

    pub fn with(tls: TlsPolicy, limits: Limits, device: MemoryDevice) -> Self {
        let session = Session::with_limits(tls, limits);
        let mut pair = Self {
            session,
            device,
            inbox: BytesMut::new(),
            dialect: Dialect::Simple,
            piece: usize::MAX,
            lazy: false,
            refusal: None,
        };
        pair.turn();
        let greeting = pair.take(18);
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        assert_eq!(greeting[16..], [0, 3]);
        pair
    }

    /// A pair whose client has answered the greeting.
    pub fn greeted() -> Self {
        let mut pair = Self::new();
        pair.send(&3_u32.to_be_bytes());
        pair
    }

    /// A pair in transmission, with `base:allocation` selected where the dialect allows it.
    pub fn in_transmission(dialect: Dialect, device: MemoryDevice) -> Self {
        Self::in_transmission_with(dialect, device, Limits::default())
    }

    pub fn in_transmission_with(dialect: Dialect, device: MemoryDevice, limits: Limits) -> Self {
        let mut pair = Self::with(TlsPolicy::Off, limits, device);
        pair.send(&3_u32.to_be_bytes());
        pair.enter(dialect);
        pair
    }

    /// Negotiates the dialect and enters the device.
    pub fn enter(&mut self, dialect: Dialect) {
        let name = self.device.info.name.clone();
        let ack = |pair: &mut Self, option, data: &[u8]| {
            let replies = pair.option(option, data);
            assert_eq!(replies.last().unwrap().kind, reply_code::ACK, "{replies:?}");
        };
        match dialect {
            Dialect::Simple => {}
            Dialect::Structured => ack(self, option_code::STRUCTURED_REPLY, &[]),
            Dialect::Extended => ack(self, option_code::EXTENDED_HEADERS, &[]),
        }
        if dialect != Dialect::Simple {
            ack(
                self,
                option_code::SET_META_CONTEXT,
                &context_data(&name, &["base:allocation"]),
            );
        }
        ack(self, option_code::GO, &export_data(&name, &[]));
        assert!(!self.session.is_negotiating());
        assert_eq!(self.session.export(), Some(&self.device.info));
        self.dialect = dialect;
    }

    /// Everything that can happen without new bytes from the client.
    pub fn turn(&mut self) {
        loop {
            match self.session.question().cloned() {
                Some(Question::List) => {
                    let DeviceInfo { name, description, .. } = self.device.info();
                    self.session.answer_list(&[ListedExport { name, description }]);
                }
                Some(Question::Lookup(name)) => {
                    let answer = match &self.refusal {
                        Some(refusal) => Err(refusal.clone()),
                        None if name == self.device.info.name || name.is_empty() => Ok(self.device.info()),
                        None => Err(LookupRefusal::Unknown),
                    };
                    self.session.answer_lookup(answer);
                }
                None => {}
            }
            let mut requests = Vec::new();
            self.session.take_requests(&mut requests);
            requests.into_iter().for_each(|(tag, op)| self.device.submit(tag, op));
            let completion = self.device.poll();
            if let Some((tag, result)) = completion {
                self.session.complete(tag, result);
                continue;
            }
            let mut output = Vec::new();
            self.session.take_output(&mut output);
            if output.is_empty() && self.session.question().is_none() {
                return;
            }
            output.iter().for_each(|piece| self.inbox.extend_from_slice(piece));
        }
    }

    /// Moves bytes to the session as it wants them; what it does not want once it is closing is left.
    pub fn send(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        while !bytes.is_empty() {
            match self.session.want() {
                Want::Bytes(count) => {
                    let (head, rest) = bytes.split_at(count.min(self.piece).min(bytes.len()));
                    self.session.received(head);
                    bytes = rest;
                }
                Want::Payload { length, then } => {
                    assert!(bytes.len() >= length, "the client must send whole payloads");
                    let (payload, rest) = bytes.split_at(length);
                    self.session.received_payload(Bytes::copy_from_slice(payload));
                    let (head, rest) = rest.split_at(then.min(self.piece).min(rest.len()));
                    if !head.is_empty() {
                        self.session.received(head);
                    }
                    bytes = rest;
                }
                Want::Nothing => {
                    self.turn();
                    if self.session.want() == Want::Nothing {
                        assert!(
                            self.session.close_reason().is_some(),
                            "nothing is wanted, and the session goes on"
                        );
                        return;
                    }
                }
            }
            if !self.lazy {
                self.turn();
            }
        }
        self.turn();
    }

    pub fn take(&mut self, count: usize) -> BytesMut {
        assert!(
            self.inbox.len() >= count,
            "{count} bytes expected, {} there",
            self.inbox.len()
        );
        self.inbox.split_to(count)
    }

    fn take_u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2)[..].try_into().unwrap())
    }

    pub fn take_u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4)[..].try_into().unwrap())
    }

    pub fn take_u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take(8)[..].try_into().unwrap())
    }

    /// Sends an option and takes its replies.
    pub fn option(&mut self, option: u32, data: &[u8]) -> Vec<OptionReply> {
        self.send(&option_bytes(option, data));
        let mut replies = Vec::new();
        while !self.inbox.is_empty() {
            assert_eq!(self.take_u64(), wire::OPTION_REPLY_MAGIC);
            let (option, kind, length) = (self.take_u32(), self.take_u32(), self.take_u32());
            let data = self.take(length as usize).to_vec();
            replies.push(OptionReply { option, kind, data });
        }
        assert!(replies.iter().all(|reply| reply.option == option));
        replies
    }

    /// Sends an option and takes its only reply's kind.
    pub fn option_kind(&mut self, option: u32, data: &[u8]) -> u32 {
        let replies = self.option(option, data);
        assert_eq!(replies.len(), 1, "{replies:?}");
        replies[0].kind
    }

    pub fn request_bytes(&self, request: Request, payload: &[u8]) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        request.encode(self.dialect, &mut bytes);
        bytes.extend_from_slice(payload);
        bytes.to_vec()
    }

    /// Sends one request and takes its reply.
    pub fn request(&mut self, flags: u16, command: u16, offset: u64, length: u64, payload: &[u8]) -> Reply {
        let request = Request {
            flags,
            command,
            cookie: 0xc00c1e,
            offset,
            length,
        };
        let bytes = self.request_bytes(request, payload);
        self.send(&bytes);
        let reply = self.reply(&request);
        assert!(self.inbox.is_empty(), "something follows the reply");
        reply
    }

    /// Takes a reply to `request`, which must be the next.
    pub fn reply(&mut self, request: &Request) -> Reply {
        let mut reply = Reply {
            cookie: request.cookie,
            ..Reply::default()
        };
        loop {
            let magic = self.take_u32();
            if magic == wire::SIMPLE_REPLY_MAGIC {
                assert_ne!(self.dialect, Dialect::Extended);
                assert!(self.dialect == Dialect::Simple || request.command != wire::command::READ);
                reply.error = self.take_u32();
                assert_eq!(self.take_u64(), request.cookie);
                if request.command == wire::command::READ && reply.error == 0 {
                    let data = self.take(usize::try_from(request.length).unwrap());
                    reply.content.push((request.offset, data.to_vec(), false));
                }
                return reply;
            }
            let done = self.chunk(magic, request, &mut reply);
            if done {
                return reply;
            }
        }
    }

    fn chunk(&mut self, magic: u32, request: &Request, reply: &mut Reply) -> bool {
        let extended = self.dialect == Dialect::Extended;
        assert_eq!(
            magic,
            if extended {
                wire::EXTENDED_REPLY_MAGIC
            } else {
                wire::STRUCTURED_REPLY_MAGIC
            }
        );
        let (flags, kind, cookie) = (self.take_u16(), self.take_u16(), self.take_u64());
        assert_eq!(cookie, request.cookie);
        let length = if extended {
            assert_eq!(self.take_u64(), request.offset);
            usize::try_from(self.take_u64()).unwrap()
        } else {
            self.take_u32() as usize
        };
        let before = self.inbox.len();
        match kind {
            chunk_type::NONE => assert_eq!(length, 0),
            chunk_type::OFFSET_DATA => {
                assert!(length > 8);
                let offset = self.take_u64();
                let data = self.take(length - 8).to_vec();
                reply.content.push((offset, data, false));
            }
            chunk_type::OFFSET_HOLE => {
                let (offset, hole) = (self.take_u64(), self.take_u32());
                assert!(hole > 0);
                reply.content.push((offset, vec![0; hole as usize], true));
            }
            chunk_type::ERROR => {
                reply.error = self.take_u32();
                let length = self.take_u16();
                reply.message = String::from_utf8(self.take(length.into()).to_vec()).unwrap();
            }
            chunk_type::BLOCK_STATUS => {
                assert!(!extended);
                let id = self.take_u32();
                let extents = (0..(length - 4) / 8).map(|_| (self.take_u32().into(), self.take_u32().into()));
                reply.status = Some((id, extents.collect()));
            }
            chunk_type::BLOCK_STATUS_EXT => {
                assert!(extended);
                let (id, count) = (self.take_u32(), self.take_u32());
                reply.status = Some((id, (0..count).map(|_| (self.take_u64(), self.take_u64())).collect()));
            }
            other => panic!("unknown chunk type {other}"),
        }
        assert_eq!(before - self.inbox.len(), length, "the chunk's length is wrong");
        flags & wire::REPLY_FLAG_DONE != 0
    }
}
