//! Frontend connections: payload lands aligned, replies come back, buffers return, and a slow client is held back.
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

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn_api::block::{BlockOp, BlockReply, ReadPiece};
use cairn_api::ids::GroupId;
use cairn_core::event::{Command, DeviceId, Effect, Event, IoId};
use cairn_reactor::{Machine, NoObserver, Opening, ReactorHandle};
use common::{Bench, Fake, HEAD, TinySession, info, request, spec};

/// Keeps what was written in memory, by offset, and tells of what it was asked.
fn memory(events: mpsc::Sender<String>) -> impl Machine {
    let mut blocks: BTreeMap<u64, Bytes> = BTreeMap::new();
    Fake(move |_, event: Event, effects: &mut Vec<Effect>| match event {
        Event::Device {
            device,
            tag,
            op: BlockOp::Write { offset, data },
        } => {
            let _ = events.send(format!(
                "write {} aligned {}",
                data.len(),
                (data.as_ptr() as usize).is_multiple_of(4096)
            ));
            blocks.insert(offset, data);
            effects.push(Effect::DeviceReply {
                device,
                tag,
                result: Ok(BlockReply::Done),
            });
        }
        Event::Device {
            device,
            tag,
            op: BlockOp::Read { offset, length },
        } => {
            let data = blocks.get(&offset).map(|data| data.slice(..length as usize)).unwrap();
            let _ = events.send(format!("read {length}"));
            effects.push(Effect::DeviceReply {
                device,
                tag,
                result: Ok(BlockReply::Read(vec![ReadPiece::Data(data)])),
            });
        }
        Event::OpenDevice { device, .. } => drop(events.send(format!("open {}", device.0))),
        Event::CloseDevice(device) => {
            blocks.clear();
            drop(events.send(format!("close {}", device.0)));
        }
        Event::Command { id, .. } => {
            effects.push(Effect::CommandReply {
                id,
                result: Ok(cairn_core::event::CommandReply::Done),
            });
        }
        _ => {}
    })
}

fn opening() -> Opening {
    Opening {
        info: info(),
        spec: spec(),
        cipher: None,
    }
}

fn connect(reactor: &ReactorHandle) -> UnixStream {
    let (near, far) = UnixStream::pair().unwrap();
    // As tokio hands sockets over.
    far.set_nonblocking(true).unwrap();
    near.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    reactor
        .adopt_stream(far.into(), Box::<TinySession>::default(), opening())
        .unwrap();
    near
}

fn reply(stream: &mut UnixStream) -> (u32, u64, Vec<u8>) {
    let mut head = [0; HEAD];
    stream.read_exact(&mut head).unwrap();
    let status = u32::from_le_bytes(head[..4].try_into().unwrap());
    let length = u32::from_le_bytes(head[4..8].try_into().unwrap());
    let mut data = vec![0; length as usize];
    stream.read_exact(&mut data).unwrap();
    (status, u64::from_le_bytes(head[8..].try_into().unwrap()), data)
}

fn wait_for(events: &mpsc::Receiver<String>, wanted: &str) {
    while events.recv_timeout(Duration::from_secs(10)).unwrap() != wanted {}
}

#[test]
fn writes_land_aligned_reads_return_them_and_every_buffer_comes_back() {
    let bench = Bench::new();
    let (tell, events) = mpsc::channel();
    let (reactor, _) = bench.start("disk", memory(tell));
    let mut stream = connect(&reactor);
    wait_for(&events, "open 1");
    for (number, length) in [4096_usize, 1, 300_000, 4 << 20].into_iter().enumerate() {
        let data: Vec<u8> = (0..length).map(|at| (at * 3 + number) as u8).collect();
        stream.write_all(&request(1, number as u64, length)).unwrap();
        stream.write_all(&data).unwrap();
        assert_eq!(reply(&mut stream), (0, number as u64, Vec::new()));
        wait_for(&events, &format!("write {length} aligned true"));
        stream.write_all(&request(2, number as u64, length)).unwrap();
        let (status, tag, read) = reply(&mut stream);
        assert_eq!((status, tag), (0, number as u64));
        assert!(read == data);
    }
    // Many at once, in one piece.
    let mut batch = Vec::new();
    for tag in 100..200 {
        batch.extend(request(1, tag, 512));
        batch.extend([tag as u8; 512]);
    }
    stream.write_all(&batch).unwrap();
    for tag in 100..200 {
        assert_eq!(reply(&mut stream).1, tag);
    }
    stream.write_all(&request(3, 0, 0)).unwrap();
    assert_eq!(
        stream.read(&mut [0; 1]).unwrap(),
        0,
        "a session that is over ends its connection"
    );
    wait_for(&events, "close 1");
    reactor.stop();
    reactor.join().unwrap();
    let counters = reactor.counters();
    assert_eq!(counters.streams_open.load(Ordering::Relaxed), 0);
    assert_eq!(
        counters.arena_bytes_used.load(Ordering::Relaxed),
        0,
        "every buffer came back"
    );
    assert_eq!(counters.heap_bytes_used.load(Ordering::Relaxed), 0);
}

#[test]
fn a_client_that_vanishes_and_a_volume_that_is_closed_end_their_devices() {
    let bench = Bench::new();
    let (tell, events) = mpsc::channel();
    let (reactor, _) = bench.start("disk", memory(tell));
    drop(connect(&reactor));
    wait_for(&events, "close 1");
    let mut stream = connect(&reactor);
    wait_for(&events, "open 2");
    reactor.close_streams_of(GroupId(8)).unwrap();
    stream.write_all(&request(1, 0, 10)).unwrap();
    stream.write_all(&[1; 10]).unwrap();
    reply(&mut stream);
    reactor.close_streams_of(spec().group).unwrap();
    wait_for(&events, "close 2");
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    reactor.stop();
    reactor.join().unwrap();
}

#[test]
fn a_client_that_does_not_read_its_replies_is_held_back() {
    let bench = Bench::new();
    let (tell, events) = mpsc::channel();
    let (reactor, _) = bench.start("disk", memory(tell));
    let mut stream = connect(&reactor);
    const LENGTH: usize = 1 << 20;
    stream.write_all(&request(1, 0, LENGTH)).unwrap();
    stream.write_all(&vec![7; LENGTH]).unwrap();
    reply(&mut stream);
    const READS: usize = 1000;
    let mut writer = stream.try_clone().unwrap();
    let asking = std::thread::spawn(move || {
        for number in 1..=READS {
            writer.write_all(&request(2, (number as u64) << 32, LENGTH)).unwrap();
        }
    });
    wait_for(&events, &format!("read {LENGTH}"));
    std::thread::sleep(Duration::from_millis(300));
    let taken = 1 + events.try_iter().count();
    assert!(
        taken <= 80,
        "{taken} reads of 1 MiB were taken from a client that reads nothing"
    );
    for _ in 0..READS {
        assert_eq!(reply(&mut stream).2.len(), LENGTH);
    }
    asking.join().unwrap();
    reactor.stop();
    reactor.join().unwrap();
}

#[test]
fn a_client_that_fills_the_memory_waits_until_some_comes_back() {
    let bench = Bench::new();
    let (hold, held) = mpsc::channel();
    let machine = Fake(move |_, event: Event, effects: &mut Vec<Effect>| {
        if let Event::Device {
            device,
            tag,
            op: BlockOp::Write { data, .. },
        } = event
        {
            hold.send(data).unwrap();
            effects.push(Effect::DeviceReply {
                device,
                tag,
                result: Ok(BlockReply::Done),
            });
        }
    });
    let (reactor, _) = bench.start("disk", machine);
    let mut stream = connect(&reactor);
    const LENGTH: usize = 1 << 20;
    const WRITES: u64 = 64;
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        for tag in 0..WRITES {
            writer.write_all(&request(1, tag, LENGTH)).unwrap();
            writer.write_all(&vec![tag as u8; LENGTH]).unwrap();
        }
    });
    let mut kept = vec![held.recv_timeout(Duration::from_secs(10)).unwrap()];
    std::thread::sleep(Duration::from_millis(300));
    kept.extend(held.try_iter());
    // Arena and heap are 8 MiB each, of which frontends get three quarters.
    assert_eq!(kept.len(), 12);
    drop(kept);
    for tag in 0..WRITES {
        assert_eq!(reply(&mut stream).1, tag);
        held.try_iter().for_each(drop);
    }
    writing.join().unwrap();
    reactor.stop();
    reactor.join().unwrap();
}

/// Writes each request's payload to the disk and replies when it is durable: the shortest real path.
fn write_through() -> impl Machine {
    let mut owners = BTreeMap::new();
    let mut next = 0_u64;
    Fake(move |_, event: Event, effects: &mut Vec<Effect>| match event {
        Event::Device {
            device,
            tag,
            op: BlockOp::Write { data, .. },
        } => {
            next += 1;
            owners.insert(IoId(next), (device, tag));
            let offset = (1 << 20) + (next * 4096) % (8 << 20);
            effects.push(Effect::Write {
                io: IoId(next),
                offset,
                buffers: vec![data],
            });
        }
        Event::Written { io, result } => {
            result.unwrap();
            let (device, tag): (DeviceId, _) = owners.remove(&io).unwrap();
            effects.push(Effect::DeviceReply {
                device,
                tag,
                result: Ok(BlockReply::Done),
            });
        }
        _ => {}
    })
}

#[test]
fn a_stop_answers_what_is_in_flight() {
    let bench = Bench::new();
    let (reactor, _) = bench.start_observed("disk", write_through(), Box::new(NoObserver));
    let mut stream = connect(&reactor);
    for tag in 0..32 {
        stream.write_all(&request(1, tag, 4096)).unwrap();
        stream.write_all(&[1; 4096]).unwrap();
    }
    reply(&mut stream);
    reactor.stop();
    reactor.join().unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len() % HEAD, 0, "no reply is cut in two");
    assert_eq!(reactor.counters().arena_bytes_used.load(Ordering::Relaxed), 0);
}

#[test]
fn throughput_is_printed() {
    let bench = Bench::new();
    let (reactor, _) = bench.start_observed("disk", write_through(), Box::new(NoObserver));
    for (depth, count) in [(1_u64, 2000_u64), (32, 20_000)] {
        let mut stream = connect(&reactor);
        let mut writer = stream.try_clone().unwrap();
        let started = Instant::now();
        let (permits, taken) = mpsc::sync_channel(depth as usize);
        let writing = std::thread::spawn(move || {
            let mut message = request(1, 0, 4096);
            message.resize(HEAD + 4096, 9);
            for tag in 0..count {
                permits.send(()).unwrap();
                message[8..16].copy_from_slice(&tag.to_le_bytes());
                writer.write_all(&message).unwrap();
            }
        });
        for _ in 0..count {
            reply(&mut stream);
            taken.recv().unwrap();
        }
        writing.join().unwrap();
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "durable 4 KiB writes over a unix socket, depth {depth}: {:.0} a second, {:.0} us each",
            count as f64 / seconds,
            seconds / count as f64 * depth as f64 * 1e6
        );
    }
    reactor.command(Command::Inspect, Box::new(|_| ()));
    reactor.stop();
    reactor.join().unwrap();
}
