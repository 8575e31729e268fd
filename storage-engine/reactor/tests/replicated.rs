//! Three real cores on three reactors: what a frontend writes is on three disks, and is read back after a restart.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "test data and a printed figure"
)]

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use cairn_api::block::DeviceInfo;
use cairn_api::ids::{ClusterId, GroupId, NodeId, ReplicaId};
use cairn_api::units::ByteSize;
use cairn_core::Core;
use cairn_core::config::{CoreConfig, Limits, Timing};
use cairn_core::event::{Command, CommandReply, GroupSpec, Member};
use cairn_crypto::{DataKey, VolumeCipher};
use cairn_reactor::disk::{self, FormatOptions};
use cairn_reactor::{Config, NoObserver, Opening, Reactor, ReactorHandle};
use common::{Bench, HEAD, TinySession, accept_links, request};

const DISK_BYTES: u64 = 256 << 20;
const VOLUME_BYTES: u64 = 32 << 20;

/// One test at a time, so that the processor time that is printed is that of one.
static ALONE: Mutex<()> = Mutex::new(());

/// Three reactors that know one another.
struct Trio {
    reactors: Vec<ReactorHandle>,
    spec: GroupSpec,
    /// What the volume is encrypted with, if it is.
    cipher: Option<Arc<VolumeCipher>>,
}

fn start(paths: &[PathBuf]) -> Trio {
    let disks: Vec<_> = paths.iter().map(|path| disk::open(path, None).unwrap()).collect();
    let members: Vec<Member> = disks
        .iter()
        .enumerate()
        .map(|(number, disk)| Member {
            replica: ReplicaId(number as u64 + 1),
            node: NodeId::from_bytes([number as u8 + 1; 16]),
            disk: disk.superblock().disk,
        })
        .collect();
    let spec = GroupSpec {
        base: None,
        group: GroupId(5),
        size_blocks: VOLUME_BYTES / 4096,
        members: members.clone(),
    };
    let cluster = ClusterId::from_bytes([9; 16]);
    let reactors: Vec<ReactorHandle> = disks
        .into_iter()
        .zip(&members)
        .map(|(disk, member)| {
            let core = Core::new(CoreConfig {
                cluster,
                node: member.node,
                disk: member.disk,
                geometry: disk.superblock().geometry,
                seed: member.replica.get(),
                timing: Timing::default(),
                limits: Limits::default(),
            });
            let observer = Box::new(NoObserver);
            let config = Config {
                disk,
                cluster,
                node: member.node,
                memory: ByteSize(64 << 20),
                observer,
            };
            Reactor::start(config, core).unwrap()
        })
        .collect();
    let addresses: Vec<_> = reactors
        .iter()
        .map(|reactor| {
            let reactor = reactor.clone();
            accept_links(move |socket, from| {
                let _ = reactor.adopt_peer(socket, from);
            })
        })
        .collect();
    for (reactor, own) in reactors.iter().zip(&members) {
        for (member, address) in members
            .iter()
            .zip(&addresses)
            .filter(|(member, _)| member.disk != own.disk)
        {
            reactor.set_peer(member.disk, *address).unwrap();
        }
    }
    let cipher = None;
    Trio { reactors, spec, cipher }
}

impl Trio {
    fn create_group(&self) {
        for (reactor, member) in self.reactors.iter().zip(&self.spec.members) {
            let (answer, answered) = mpsc::channel();
            let create = Command::CreateGroup {
                spec: self.spec.clone(),
                replica: member.replica,
            };
            reactor.command(create, Box::new(move |result| answer.send(result).unwrap()));
            assert_eq!(
                answered.recv_timeout(Duration::from_secs(10)).unwrap(),
                Ok(CommandReply::Done)
            );
        }
    }

    fn connect(&self, to: usize) -> UnixStream {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let info = DeviceInfo {
            name: "volume".to_owned(),
            description: String::new(),
            size_bytes: VOLUME_BYTES,
            read_only: false,
            snapshot: None,
        };
        let session = Box::<TinySession>::default();
        let spec = self.spec.clone();
        let cipher = self.cipher.clone();
        let opening = Opening { info, spec, cipher };
        self.reactors[to].adopt_stream(far.into(), session, opening).unwrap();
        near
    }

    fn stop(self) {
        self.reactors.iter().for_each(ReactorHandle::stop);
        for reactor in &self.reactors {
            reactor.join().unwrap();
            let counters = reactor.counters();
            assert_eq!(
                counters.arena_bytes_used.load(Ordering::Relaxed),
                0,
                "every buffer came back"
            );
            assert_eq!(counters.heap_bytes_used.load(Ordering::Relaxed), 0);
        }
    }
}

fn reply(stream: &mut UnixStream) -> Vec<u8> {
    let mut head = [0; HEAD];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(
        u32::from_le_bytes(head[..4].try_into().unwrap()),
        0,
        "the request succeeded"
    );
    let mut data = vec![0; u32::from_le_bytes(head[4..8].try_into().unwrap()) as usize];
    stream.read_exact(&mut data).unwrap();
    data
}

/// Sends `count` requests with `depth` of them in flight, and returns operations a second.
fn run(stream: &mut UnixStream, kind: u32, depth: usize, count: u64, length: usize) -> f64 {
    let mut writer = stream.try_clone().unwrap();
    let (permits, taken) = mpsc::sync_channel(depth);
    let started = Instant::now();
    let asking = std::thread::spawn(move || {
        for number in 0..count {
            permits.send(()).unwrap();
            let blocks = VOLUME_BYTES / length as u64;
            let offset = (number * 7919 % blocks) * length as u64;
            let mut message = request(kind, number << 32 | offset, length);
            if kind == 1 {
                message.resize(HEAD + length, number as u8);
            }
            writer.write_all(&message).unwrap();
        }
    });
    for _ in 0..count {
        reply(stream);
        taken.recv().unwrap();
    }
    asking.join().unwrap();
    count as f64 / started.elapsed().as_secs_f64()
}

#[test]
fn writes_are_on_three_disks_and_survive_a_restart_of_all() {
    let _alone = ALONE.lock();
    let bench = Bench::new();
    let paths = three_disks(&bench);
    let trio = start(&paths);
    trio.create_group();
    let mut stream = trio.connect(0);
    const LENGTH: usize = 64 << 10;
    for number in 0..32_u64 {
        stream
            .write_all(&request(1, number << 32 | (number * LENGTH as u64), LENGTH))
            .unwrap();
        stream.write_all(&vec![number as u8 + 1; LENGTH]).unwrap();
    }
    for _ in 0..32 {
        reply(&mut stream);
    }
    drop(stream);
    trio.stop();

    let trio = start(&paths);
    let mut stream = trio.connect(1);
    for number in 0..32_u64 {
        stream
            .write_all(&request(2, number << 32 | (number * LENGTH as u64), LENGTH))
            .unwrap();
        assert!(reply(&mut stream) == vec![number as u8 + 1; LENGTH], "piece {number}");
    }
    trio.stop();
}

/// Processor time of all reactor threads of this process, in microseconds.
fn reactors_cpu_us() -> u64 {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let of_thread = |path: PathBuf| {
        let name = std::fs::read_to_string(path.join("comm")).ok()?;
        let times = std::fs::read_to_string(path.join("schedstat")).ok()?;
        let nanos: u64 = times.split_whitespace().next()?.parse().ok()?;
        (name.trim() == "cairn-disk").then_some(nanos / 1000)
    };
    threads.filter_map(|thread| of_thread(thread.ok()?.path())).sum()
}

fn a_cipher() -> Arc<VolumeCipher> {
    let bytes: Vec<u8> = (0..64).collect();
    let key = DataKey::from_bytes(&bytes.try_into().unwrap()).unwrap();
    Arc::new(VolumeCipher::new(&key))
}

fn three_disks(bench: &Bench) -> Vec<PathBuf> {
    let paths: Vec<PathBuf> = ["a", "b", "c"].iter().map(|name| bench.path(name)).collect();
    for path in &paths {
        let options = FormatOptions {
            size: Some(ByteSize(DISK_BYTES)),
            ..FormatOptions::default()
        };
        disk::format(path, options, |_, _| ()).unwrap();
    }
    paths
}

/// What is written to an encrypted volume comes back, is on no disk, and is encrypted into buffers that the disk takes as
/// they are.
#[test]
fn an_encrypted_volume_reads_as_written_and_is_on_no_disk() {
    const LENGTH: usize = 1 << 20;
    let _alone = ALONE.lock();
    let bench = Bench::new();
    let paths = three_disks(&bench);
    for (is_encrypted, expected) in [(true, 0), (false, 3)] {
        let mut trio = start(&paths);
        trio.cipher = is_encrypted.then(a_cipher);
        trio.create_group();
        let mut stream = trio.connect(0);
        let mark = if is_encrypted {
            *b"to be kept secret"
        } else {
            *b"for all to be see"
        };
        let data: Vec<u8> = mark.iter().copied().cycle().take(LENGTH).collect();
        stream.write_all(&request(1, 0, LENGTH)).unwrap();
        stream.write_all(&data).unwrap();
        reply(&mut stream);
        stream.write_all(&request(2, 0, LENGTH)).unwrap();
        assert!(reply(&mut stream) == data);
        let counters = |of: fn(&cairn_reactor::Counters) -> &std::sync::atomic::AtomicU64| -> u64 {
            let reactors = trio.reactors.iter();
            reactors
                .map(|reactor| of(reactor.counters()).load(Ordering::Relaxed))
                .sum()
        };
        assert_eq!(counters(|counters| &counters.disk_bytes_bounced), 0);
        let passes = if is_encrypted { 2 * LENGTH as u64 } else { 0 };
        assert_eq!(
            counters(|counters| &counters.core_bytes_filled),
            passes,
            "a pass each way"
        );
        drop(stream);
        trio.stop();
        let holds = |path: &PathBuf| {
            let bytes = std::fs::read(path).unwrap();
            bytes
                .chunks(4096)
                .any(|block| block.windows(mark.len()).any(|window| window == mark))
        };
        assert_eq!(paths.iter().filter(|path| holds(path)).count(), expected);
    }
}

#[test]
fn throughput_is_printed() {
    let _alone = ALONE.lock();
    let bench = Bench::new();
    let paths = three_disks(&bench);
    let trio = start(&paths);
    trio.create_group();
    let mut stream = trio.connect(0);
    run(&mut stream, 1, 1, 1, 4096);
    for (kind, depth, count, length) in [
        (1, 1, 500, 4096),
        (1, 32, 8000, 4096),
        (2, 1, 2000, 4096),
        (2, 32, 20_000, 4096),
        (1, 8, 64, 1 << 20),
        (2, 8, 64, 1 << 20),
    ] {
        let cpu_before = reactors_cpu_us();
        let per_second = run(&mut stream, kind, depth, count, length);
        let cpu_us = (reactors_cpu_us() - cpu_before) as f64 / count as f64;
        println!(
            "{} of {length} bytes, depth {depth}: {per_second:.0} a second, {:.0} us, {:.0} MB/s, {cpu_us:.1} us CPU each",
            if kind == 1 { "writes" } else { "reads" },
            depth as f64 / per_second * 1e6,
            per_second * length as f64 / 1e6
        );
    }
    for reactor in &trio.reactors {
        let counters = reactor.counters();
        println!(
            "disk: {} bytes in {} writes, {} bounced; {} turns",
            counters.disk_bytes_written.load(Ordering::Relaxed),
            counters.disk_writes.load(Ordering::Relaxed),
            counters.disk_bytes_bounced.load(Ordering::Relaxed),
            counters.turns.load(Ordering::Relaxed)
        );
    }
    trio.stop();
}
