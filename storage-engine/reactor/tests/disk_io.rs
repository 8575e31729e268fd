//! The disk on the ring: what a machine writes it reads back, whatever the buffers look like.
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

use std::sync::atomic::Ordering;
use std::sync::mpsc;

use bytes::Bytes;
use cairn_api::ids::GroupId;
use cairn_core::event::{Command, CommandError, CommandReply, DiskFault, Effect, Event, IoId};
use cairn_reactor::{Failure, ReactorHandle};
use common::{Bench, DISK_SIZE, Fake};

/// Writes the buffers given at the start, and then reads the given range back.
fn write_then_read(
    buffers: Vec<Bytes>,
    offset: u64,
    length: u32,
) -> (Result<(), DiskFault>, Result<Bytes, DiskFault>, ReactorHandle) {
    let bench = Bench::new();
    let (ends, results) = mpsc::channel();
    let mut buffers = Some(buffers);
    let mut written = None;
    let machine = Fake(move |_, event: Event, effects: &mut Vec<Effect>| match event {
        Event::Command { .. } => {
            let buffers = buffers.take().unwrap();
            effects.push(Effect::Write {
                io: IoId(1),
                offset,
                buffers,
            });
        }
        Event::Written { io: IoId(1), result } => {
            written = Some(result);
            effects.push(Effect::Read {
                io: IoId(2),
                offset,
                length,
            });
        }
        Event::Read { io: IoId(2), result } => ends.send((written.take().unwrap(), result)).unwrap(),
        _ => {}
    });
    let (reactor, _) = bench.start("disk", machine);
    reactor.command(Command::Inspect, Box::new(|_| ()));
    let (written, read) = results.recv_timeout(std::time::Duration::from_secs(10)).unwrap();
    reactor.stop();
    reactor.join().unwrap();
    (written, read, reactor)
}

fn pattern(length: usize) -> Bytes {
    (0..length).map(|at| (at / 7 + at) as u8).collect::<Vec<_>>().into()
}

#[test]
fn buffers_of_any_alignment_are_written_in_order() {
    let whole = pattern(64 << 10);
    let odd = Bytes::from([&[0_u8], &whole[4096..]].concat()).slice(1..);
    let (written, read, reactor) = write_then_read(vec![whole.slice(..4096), odd], 1 << 20, 64 << 10);
    written.unwrap();
    let read = read.unwrap();
    assert_eq!(read, whole);
    assert_eq!(read.as_ptr() as usize % 4096, 0, "reads land page-aligned");
    let counters = reactor.counters();
    assert!(
        counters.disk_bytes_bounced.load(Ordering::Relaxed) >= 60 << 10,
        "an unaligned buffer is counted"
    );
    assert_eq!(counters.disk_bytes_written.load(Ordering::Relaxed), 64 << 10);
    drop(read);
    assert_eq!(
        counters.arena_bytes_used.load(Ordering::Relaxed),
        0,
        "every buffer came back"
    );
}

#[test]
fn more_buffers_than_one_operation_takes_are_one_write() {
    let blocks: Vec<Bytes> = (0..1500_u32)
        .map(|number| Bytes::from(vec![number as u8; 4096]))
        .collect();
    let expected: Vec<u8> = blocks.iter().flatten().copied().collect();
    let (written, read, _) = write_then_read(blocks, 2 << 20, 1500 * 4096);
    written.unwrap();
    assert!(read.unwrap() == expected);
}

#[test]
fn a_read_behind_the_end_is_short() {
    let (written, read, _) = write_then_read(vec![pattern(4096)], DISK_SIZE - 4096, 8192);
    written.unwrap();
    assert_eq!(
        read.unwrap_err(),
        DiskFault::Short {
            done: 4096,
            asked: 8192
        }
    );
}

#[test]
fn a_panic_is_reported_and_answers_what_is_owed() {
    let bench = Bench::new();
    let machine = Fake(|_, event: Event, _: &mut Vec<Effect>| {
        if let Event::Command {
            command: Command::DropGroup(group),
            ..
        } = event
        {
            panic!("lost its mind over group {group}");
        }
    });
    let (reactor, _) = bench.start("disk", machine);
    let (answers, results) = mpsc::channel();
    for command in [Command::Inspect, Command::DropGroup(GroupId(3)), Command::Inspect] {
        let answers = answers.clone();
        reactor.command(
            command,
            Box::new(move |result: Result<CommandReply, CommandError>| answers.send(result).unwrap()),
        );
    }
    let failure = reactor.join().unwrap_err();
    assert_eq!(failure, Failure::Panic("lost its mind over group 3".to_owned()));
    for _ in 0..3 {
        assert!(matches!(results.recv().unwrap(), Err(CommandError::Refused(_))));
    }
    assert_eq!(reactor.join().unwrap_err(), failure, "and again to whoever asks");
    assert!(reactor.close_streams_of(GroupId(1)).is_err());
}

#[test]
fn a_failed_disk_stops_the_thread() {
    let bench = Bench::new();
    let machine = Fake(|_, event: Event, effects: &mut Vec<Effect>| {
        if let Event::Command { .. } = event {
            effects.push(Effect::DiskFailed("flush refused".to_owned()));
        }
    });
    let (reactor, _) = bench.start("disk", machine);
    reactor.command(Command::Inspect, Box::new(|_| ()));
    assert_eq!(reactor.join().unwrap_err(), Failure::Disk("flush refused".to_owned()));
    drop(cairn_reactor::disk::open(&bench.path("disk"), None).unwrap());
}
