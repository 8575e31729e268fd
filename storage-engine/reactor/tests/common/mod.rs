//! What the suites of this crate share: disks on temporary files, a machine made of a closure, an acceptor of links and
//! a frontend protocol that is as small as can be.
#![allow(
    unreachable_pub,
    reason = "shared by several test binaries, none of which uses everything"
)]
#![allow(dead_code, reason = "shared by several test binaries, none of which uses everything")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use cairn_api::block::{BlockError, BlockOp, BlockReply, DeviceInfo, FrontendSession, ReadPiece, Tag, Want};
use cairn_api::ids::{ClusterId, DiskId, GroupId, NodeId};
use cairn_api::units::ByteSize;
use cairn_core::event::{Effect, Event, GroupSpec, RecoverySummary};
use cairn_core::time::Timestamp;
use cairn_format::peer::{HELLO_BYTES, Hello, HelloCode, HelloReply};
use cairn_reactor::disk::{self, Disk, FormatOptions};
use cairn_reactor::{Config, Machine, NoObserver, Observer, Reactor, ReactorHandle};
use tempfile::TempDir;

pub const DISK_SIZE: u64 = 40 << 20;

/// A directory with disks in it.
pub struct Bench {
    pub directory: TempDir,
}

impl Bench {
    pub fn new() -> Self {
        Self {
            directory: TempDir::new_in("/tmp").unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn format(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        let options = FormatOptions {
            size: Some(ByteSize(size)),
            segment_size: Some(2 << 20),
            ..FormatOptions::default()
        };
        disk::format(&path, options, |_, _| ()).unwrap();
        path
    }

    pub fn disk(&self, name: &str) -> Disk {
        disk::open(&self.format(name, DISK_SIZE), None).unwrap()
    }

    pub fn start<M: Machine>(&self, name: &str, machine: M) -> (ReactorHandle, DiskId) {
        self.start_observed(name, machine, Box::new(NoObserver))
    }

    pub fn start_observed<M: Machine>(
        &self,
        name: &str,
        machine: M,
        observer: Box<dyn Observer>,
    ) -> (ReactorHandle, DiskId) {
        let disk = self.disk(name);
        let id = disk.superblock().disk;
        let (cluster, node) = (ClusterId::NIL, NodeId::random());
        let config = Config {
            disk,
            cluster,
            node,
            memory: ByteSize(8 << 20),
            observer,
        };
        (Reactor::start(config, machine).unwrap(), id)
    }
}

/// A machine that does what a closure says.
pub struct Fake<F>(pub F);

impl<F: FnMut(Timestamp, Event, &mut Vec<Effect>) + Send + 'static> Machine for Fake<F> {
    fn start(&mut self, _: Timestamp, effects: &mut Vec<Effect>) {
        effects.push(Effect::Recovered(RecoverySummary::default()));
    }

    fn handle(&mut self, now: Timestamp, event: Event, effects: &mut Vec<Effect>) {
        (self.0)(now, event, effects);
    }

    fn poll(&mut self, _: Timestamp, _: &mut Vec<Effect>) {}

    fn next_deadline(&self) -> Timestamp {
        Timestamp::from_nanos(u64::MAX)
    }
}

/// Accepts links, answers their greeting, and hands each socket over with the disk that dialled.
pub fn accept_links(mut take: impl FnMut(OwnedFd, DiskId) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let Ok(mut socket) = socket else { return };
            let mut bytes = [0; HELLO_BYTES];
            if socket.read_exact(&mut bytes).is_err() {
                continue;
            }
            let hello = Hello::decode(&bytes).unwrap();
            socket
                .write_all(&HelloReply::new(HelloCode::Accepted).encode())
                .unwrap();
            take(socket.into(), hello.from_disk);
        }
    });
    address
}

/// Waits until something holds, which must be within ten seconds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < limit, "not within ten seconds: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn spec() -> GroupSpec {
    GroupSpec {
        base: None,
        group: GroupId(7),
        size_blocks: 1024,
        members: Vec::new(),
    }
}

pub fn info() -> DeviceInfo {
    DeviceInfo {
        name: "test".to_owned(),
        description: String::new(),
        size_bytes: 4 << 20,
        read_only: false,
        snapshot: None,
    }
}

/// Length of a request's header and of a reply's.
pub const HEAD: usize = 16;

/// A request is `[kind u32, length u32, tag u64]` and, for kind 1 (write), the payload; kind 2 reads; the offset is the
/// tag's low 32 bits; kind 3 ends the session. A reply is `[status u32, length u32, tag u64]` and the data.
#[derive(Default)]
pub struct TinySession {
    head: Vec<u8>,
    pending: Option<(Tag, usize)>,
    requests: Vec<(Tag, BlockOp)>,
    output: Vec<Bytes>,
    in_flight: usize,
    ended: bool,
}

pub fn request(kind: u32, tag: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD);
    bytes.put_u32_le(kind);
    bytes.put_u32_le(u32::try_from(length).unwrap());
    bytes.put_u64_le(tag);
    bytes
}

impl FrontendSession for TinySession {
    fn want(&self) -> Want {
        match self.pending {
            _ if self.ended => Want::Nothing,
            Some((_, length)) => Want::Payload { length, then: HEAD },
            None => Want::Bytes(HEAD - self.head.len()),
        }
    }

    fn received(&mut self, bytes: &[u8]) {
        assert!(
            !bytes.is_empty() && self.head.len() + bytes.len() <= HEAD,
            "no more than was wanted"
        );
        self.head.extend_from_slice(bytes);
        if self.head.len() < HEAD {
            return;
        }
        let field = |at: usize| u32::from_le_bytes(self.head[at..at + 4].try_into().unwrap());
        let (kind, length) = (field(0), field(4));
        let tag = Tag(u64::from_le_bytes(self.head[8..16].try_into().unwrap()));
        let offset = tag.0 & 0xffff_ffff;
        self.head.clear();
        match kind {
            1 => self.pending = Some((tag, length as usize)),
            2 => {
                self.in_flight += 1;
                self.requests.push((tag, BlockOp::Read { offset, length }));
            }
            _ => self.ended = true,
        }
    }

    fn received_payload(&mut self, payload: Bytes) {
        let (tag, length) = self.pending.take().unwrap();
        assert_eq!(payload.len(), length);
        self.in_flight += 1;
        self.requests.push((
            tag,
            BlockOp::Write {
                offset: tag.0 & 0xffff_ffff,
                data: payload,
            },
        ));
    }

    fn received_end(&mut self) {
        self.ended = true;
    }

    fn take_requests(&mut self, requests: &mut Vec<(Tag, BlockOp)>) {
        requests.append(&mut self.requests);
    }

    fn resized(&mut self, _size_bytes: u64) {}

    fn complete(&mut self, tag: Tag, result: Result<BlockReply, BlockError>) {
        self.in_flight -= 1;
        let pieces = match &result {
            Ok(BlockReply::Read(pieces)) => pieces.as_slice(),
            _ => &[],
        };
        let mut head = BytesMut::with_capacity(HEAD);
        head.put_u32_le(u32::from(result.is_err()));
        head.put_u32_le(u32::try_from(pieces.iter().map(ReadPiece::len).sum::<u64>()).unwrap());
        head.put_u64_le(tag.0);
        self.output.push(head.freeze());
        for piece in pieces {
            self.output.push(match piece {
                ReadPiece::Data(data) => data.clone(),
                ReadPiece::Zeros(length) => vec![0; usize::try_from(*length).unwrap()].into(),
            });
        }
    }

    fn take_output(&mut self, output: &mut Vec<Bytes>) {
        output.append(&mut self.output);
    }

    fn is_finished(&self) -> bool {
        self.ended && self.in_flight == 0
    }
}
