//! Each command in each dialect, good and bad, through a client of our own.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

mod common;

use bytes::{Bytes, BytesMut};
use cairn_api::block::{BlockError, BlockOp, BlockReply, FrontendSession, ReadPiece, StatusExtent, Want};
use cairn_nbd::wire::{Dialect, Request, allocation, command, command_flag as flag};
use cairn_nbd::{CloseReason, Limits};
use common::client::{Pair, SIZE};
use common::device::MemoryDevice;

const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EOVERFLOW: u32 = 75;
const ESHUTDOWN: u32 = 108;

const DIALECTS: [Dialect; 3] = [Dialect::Simple, Dialect::Structured, Dialect::Extended];
const MAX: u64 = 32 << 20;

fn pair(dialect: Dialect) -> Pair {
    Pair::in_transmission(dialect, MemoryDevice::new("disk", SIZE))
}

/// The flag that announces a payload, where the dialect has it.
fn payload_flag(dialect: Dialect) -> u16 {
    if dialect == Dialect::Extended {
        flag::PAYLOAD_LEN
    } else {
        0
    }
}

fn write(pair: &mut Pair, flags: u16, offset: u64, data: &[u8]) -> u32 {
    let flags = flags | payload_flag(pair.dialect);
    pair.request(flags, command::WRITE, offset, data.len() as u64, data)
        .error
}

fn error(pair: &mut Pair, flags: u16, command: u16, offset: u64, length: u64) -> u32 {
    let reply = pair.request(flags, command, offset, length, &[]);
    assert_eq!(
        reply.error != 0 && pair.dialect != Dialect::Simple,
        !reply.message.is_empty()
    );
    reply.error
}

#[test]
fn what_was_written_is_read() {
    for dialect in DIALECTS {
        let mut pair = pair(dialect);
        for (offset, length) in [(0, 4096), (1, 1), (4095, 2), (12_345, 54_321), (SIZE - 1, 1)] {
            let data: Vec<u8> = (0..length).map(|i| u8::try_from(i % 255 + 1).unwrap()).collect();
            assert_eq!(write(&mut pair, flag::FUA, offset, &data), 0);
            let reply = pair.request(flag::FUA, command::READ, offset, length, &[]);
            assert_eq!((reply.error, reply.data()), (0, data));
        }
        assert_eq!(error(&mut pair, 0, command::FLUSH, 0, 0), 0);
    }
}

#[test]
fn holes_are_their_own_chunks_unless_fragments_are_refused() {
    for dialect in [Dialect::Structured, Dialect::Extended] {
        let mut pair = pair(dialect);
        write(&mut pair, 0, 8192, &[7; 8192]);
        write(&mut pair, 0, 32_768, &[7; 4096]);
        let shape = |pair: &mut Pair, flags| -> Vec<(u64, usize, bool)> {
            let reply = pair.request(flags, command::READ, 4000, 40_000, &[]);
            reply
                .content
                .iter()
                .map(|(offset, data, hole)| (*offset, data.len(), *hole))
                .collect()
        };
        let pieces = [
            (4000, 4192, true),
            (8192, 8192, false),
            (16_384, 16_384, true),
            (32_768, 4096, false),
            (36_864, 7136, true),
        ];
        assert_eq!(shape(&mut pair, 0), pieces);
        assert_eq!(shape(&mut pair, flag::DF), [(4000, 40_000, false)]);
        let reply = pair.request(flag::DF, command::READ, 65_536, 4096, &[]);
        assert_eq!(reply.content, [(65_536, vec![0; 4096], true)]);
    }
}

#[test]
fn zeroing_and_trimming_reach_the_device() {
    for dialect in DIALECTS {
        let mut pair = pair(dialect);
        write(&mut pair, 0, 0, &[9; 65_536]);
        pair.device.seen.clear();
        assert_eq!(
            error(&mut pair, flag::FUA | flag::NO_HOLE, command::WRITE_ZEROES, 100, 5000),
            0
        );
        assert_eq!(error(&mut pair, flag::FAST_ZERO, command::WRITE_ZEROES, 8192, 4096), 0);
        assert_eq!(error(&mut pair, flag::FUA, command::TRIM, 16_384, 8192), 0);
        assert_eq!(error(&mut pair, 0, command::CACHE, 0, SIZE), 0);
        assert_eq!(
            pair.device.seen,
            [
                BlockOp::WriteZeroes {
                    offset: 100,
                    length: 5000,
                    no_hole: true
                },
                BlockOp::WriteZeroes {
                    offset: 8192,
                    length: 4096,
                    no_hole: false
                },
                BlockOp::Trim {
                    offset: 16_384,
                    length: 8192
                },
            ]
        );
        let data = pair.request(0, command::READ, 0, 32_768, &[]).data();
        assert!(data[100..5100].iter().all(|byte| *byte == 0) && data[5100] == 9 && data[99] == 9);
    }
}

#[test]
fn nothing_is_a_length() {
    for dialect in DIALECTS {
        let mut pair = pair(dialect);
        let reply = pair.request(0, command::READ, SIZE, 0, &[]);
        assert_eq!((reply.error, reply.data()), (0, vec![]));
        assert_eq!(write(&mut pair, 0, 5, &[]), 0);
        for command in [command::TRIM, command::WRITE_ZEROES, command::CACHE] {
            assert_eq!(error(&mut pair, 0, command, 5, 0), 0);
        }
        assert_eq!(error(&mut pair, 0, command::BLOCK_STATUS, 0, 0), EINVAL);
        assert!(pair.device.seen.is_empty());
    }
}

#[test]
fn ranges_beyond_the_end_are_refused_and_the_connection_goes_on() {
    for dialect in DIALECTS {
        let mut pair = pair(dialect);
        for (offset, length) in [(SIZE, 1), (SIZE - 1, 2), (u64::MAX, 1), (u64::MAX - 1, 4096)] {
            for command in [command::READ, command::TRIM, command::CACHE, command::BLOCK_STATUS] {
                assert_eq!(error(&mut pair, 0, command, offset, length), EINVAL);
            }
            assert_eq!(error(&mut pair, 0, command::WRITE_ZEROES, offset, length), ENOSPC);
            assert_eq!(
                write(&mut pair, 0, offset, &vec![1; usize::try_from(length).unwrap()]),
                ENOSPC
            );
        }
        assert!(pair.device.seen.is_empty());
        assert_eq!(write(&mut pair, 0, 0, b"still here"), 0);
    }
}

#[test]
fn unknown_commands_and_flags_are_invalid() {
    for dialect in DIALECTS {
        let mut pair = pair(dialect);
        for command in [8, 9, 0x7fff, 0xffff] {
            assert_eq!(error(&mut pair, 0, command, 0, 4096), EINVAL);
        }
        for command in [
            command::READ,
            command::TRIM,
            command::FLUSH,
            command::CACHE,
            command::WRITE_ZEROES,
        ] {
            assert_eq!(error(&mut pair, 1 << 9, command, 0, 0), EINVAL);
            assert_eq!(error(&mut pair, flag::REQ_ONE, command, 0, 0), EINVAL);
        }
        for flags in [1 << 9, flag::DF, flag::NO_HOLE, flag::FAST_ZERO] {
            assert_eq!(write(&mut pair, flags, 0, b"payload is consumed"), EINVAL);
        }
        assert_eq!(error(&mut pair, flag::NO_HOLE, command::TRIM, 0, 1), EINVAL);
        assert_eq!(error(&mut pair, 0, command::FLUSH, 1, 0), EINVAL);
        assert_eq!(error(&mut pair, 0, command::FLUSH, 0, 1), EINVAL);
        assert!(pair.device.seen.is_empty());
    }
    assert_eq!(error(&mut pair(Dialect::Simple), flag::DF, command::READ, 0, 1), EINVAL);
}

#[test]
fn long_requests_are_refused_and_the_connection_goes_on() {
    for dialect in DIALECTS {
        let mut device = MemoryDevice::new("disk", 4096);
        device.info.size_bytes = 1 << 40;
        let mut pair = Pair::in_transmission(dialect, device);
        assert_eq!(error(&mut pair, 0, command::READ, 0, MAX + 1), EOVERFLOW);
        assert_eq!(error(&mut pair, 0, command::READ, 1 << 40, MAX + 1), EINVAL);
        if dialect != Dialect::Extended {
            let long = vec![3; usize::try_from(MAX).unwrap() + 1];
            assert_eq!(write(&mut pair, 0, 0, &long), EINVAL);
            assert_eq!(write(&mut pair, 0, 1 << 40, &long), ENOSPC);
        }
        assert_eq!(error(&mut pair, 0, command::CACHE, 0, 1 << 30), 0);
    }
}

#[test]
fn payloads_beyond_the_hard_bound_drop_the_connection() {
    for (dialect, length) in [
        (Dialect::Simple, (256 << 20) + 1),
        (Dialect::Structured, u32::MAX.into()),
        (Dialect::Extended, MAX + 1),
    ] {
        let mut pair = pair(dialect);
        let flags = payload_flag(dialect);
        let request = Request {
            flags,
            command: command::WRITE,
            cookie: 1,
            offset: 0,
            length,
        };
        pair.send(&pair.request_bytes(request, &[]));
        assert!(pair.session.is_finished() && pair.inbox.is_empty());
        let reason = pair.session.close_reason().unwrap();
        assert!(reason.is_fault() && matches!(reason, CloseReason::PayloadTooLong { .. }));
    }
}

#[test]
fn extended_requests_reach_beyond_32_bits() {
    let mut device = MemoryDevice::new("disk", 4096);
    device.info.size_bytes = 1 << 40;
    let mut pair = Pair::in_transmission(Dialect::Extended, device);
    pair.device.failure = Some(BlockError::NoSpace);
    assert_eq!(error(&mut pair, 0, command::TRIM, 0, 1 << 39), ENOSPC);
    assert_eq!(error(&mut pair, 0, command::WRITE_ZEROES, 0, 1 << 40), ENOSPC);
    assert_eq!(
        pair.device.seen[0],
        BlockOp::Trim {
            offset: 0,
            length: 1 << 39
        }
    );
    assert_eq!(
        pair.device.seen[1],
        BlockOp::WriteZeroes {
            offset: 0,
            length: 1 << 40,
            no_hole: false
        }
    );
}

#[test]
fn payloads_where_none_belong_are_consumed_with_extended_headers() {
    let mut pair = pair(Dialect::Extended);
    for command in [command::READ, command::TRIM, command::FLUSH, command::CACHE, 77] {
        let reply = pair.request(flag::PAYLOAD_LEN, command, 0, 10_000, &[1; 10_000]);
        assert_eq!(reply.error, EINVAL);
    }
    // A write that does not announce its payload has none.
    assert_eq!(error(&mut pair, 0, command::WRITE, 0, 4096), EINVAL);
    assert_eq!(write(&mut pair, 0, 0, b"well announced"), 0);
}

#[test]
fn block_status_tells_data_zeros_and_holes_apart() {
    for dialect in [Dialect::Structured, Dialect::Extended] {
        let mut pair = pair(dialect);
        write(&mut pair, 0, 4096, &[1; 8192]);
        error(&mut pair, flag::NO_HOLE, command::WRITE_ZEROES, 8192, 8192);
        let reply = pair.request(flag::FUA, command::BLOCK_STATUS, 0, 65_536, &[]);
        let all = vec![(4096, 3), (4096, 0), (8192, 2), (49_152, 3)];
        assert_eq!(reply.status, Some((allocation::ID, all)));
        let reply = pair.request(flag::REQ_ONE, command::BLOCK_STATUS, 5000, 60_000, &[]);
        assert_eq!(reply.status, Some((allocation::ID, vec![(3192, 0)])));
        let last = pair.device.seen.last().unwrap();
        assert_eq!(
            *last,
            BlockOp::Status {
                offset: 5000,
                length: 60_000,
                extents_max: 1
            }
        );
    }
}

#[test]
fn block_status_needs_a_context() {
    assert_eq!(
        error(&mut pair(Dialect::Simple), 0, command::BLOCK_STATUS, 0, 4096),
        EINVAL
    );
    let mut pair = Pair::greeted();
    let structured = cairn_nbd::wire::option_code::STRUCTURED_REPLY;
    pair.option(structured, &[]);
    pair.option(
        cairn_nbd::wire::option_code::GO,
        &common::client::export_data("disk", &[]),
    );
    pair.dialect = Dialect::Structured;
    assert_eq!(error(&mut pair, 0, command::BLOCK_STATUS, 0, 4096), EINVAL);
}

#[test]
fn block_status_takes_a_filter_with_extended_headers() {
    let mut pair = pair(Dialect::Extended);
    write(&mut pair, 0, 0, &[1; 4096]);
    let filter = |length: u64, ids: &[u32]| {
        let mut payload = length.to_be_bytes().to_vec();
        ids.iter().for_each(|id| payload.extend(id.to_be_bytes()));
        payload
    };
    let mut ask = |payload: &[u8]| {
        pair.request(
            flag::PAYLOAD_LEN,
            command::BLOCK_STATUS,
            0,
            payload.len() as u64,
            payload,
        )
    };
    let reply = ask(&filter(8192, &[allocation::ID]));
    assert_eq!(
        (reply.error, reply.status),
        (0, Some((allocation::ID, vec![(4096, 0), (4096, 3)])))
    );
    for wrong in [
        filter(8192, &[]),
        filter(8192, &[allocation::ID, allocation::ID]),
        filter(8192, &[allocation::ID + 1]),
        filter(0, &[allocation::ID]),
        filter(SIZE + 1, &[allocation::ID]),
        filter(8192, &[allocation::ID; 5000]),
        vec![1; 3],
    ] {
        assert_eq!(ask(&wrong).error, EINVAL);
    }
}

#[test]
fn the_devices_errors_become_the_protocols() {
    for (failure, expected) in [
        (BlockError::NoSpace, ENOSPC),
        (BlockError::Fenced { current: 9 }, ESHUTDOWN),
        (
            BlockError::Busy {
                holder: "node b".to_owned(),
            },
            EPERM,
        ),
        (BlockError::ReadOnly, EPERM),
        (BlockError::Io("the disk is gone".to_owned()), EIO),
        (BlockError::ShuttingDown, ESHUTDOWN),
        (BlockError::Invalid("too long"), EINVAL),
        (
            BlockError::OutOfRange {
                offset: 1,
                length: 2,
                size_bytes: 1,
            },
            EINVAL,
        ),
    ] {
        for dialect in DIALECTS {
            let mut pair = pair(dialect);
            pair.device.failure = Some(failure.clone());
            let reply = pair.request(0, command::READ, 0, 4096, &[]);
            assert_eq!(reply.error, expected);
            if dialect != Dialect::Simple {
                assert_eq!(reply.message, failure.to_string());
            }
        }
    }
    let mut pair = pair(Dialect::Structured);
    pair.device.failure = Some(BlockError::OutOfRange {
        offset: 1,
        length: 2,
        size_bytes: 1,
    });
    assert_eq!(write(&mut pair, 0, 0, &[1]), ENOSPC);
}

#[test]
fn a_read_only_export_refuses_to_change() {
    for dialect in DIALECTS {
        let mut device = MemoryDevice::new("disk", SIZE);
        device.info.read_only = true;
        let mut pair = Pair::in_transmission(dialect, device);
        assert_eq!(write(&mut pair, 0, 0, &[1; 5000]), EPERM);
        assert_eq!(error(&mut pair, 0, command::TRIM, 0, 1), EPERM);
        assert_eq!(error(&mut pair, 0, command::WRITE_ZEROES, 0, 1), EPERM);
        assert_eq!(error(&mut pair, 0, command::FLUSH, 0, 0), 0);
        assert_eq!(pair.request(0, command::READ, 0, 10, &[]).data(), vec![0; 10]);
    }
}

#[test]
fn a_request_without_its_magic_drops_the_connection_after_the_replies_owed() {
    let mut pair = pair(Dialect::Simple);
    let request = Request {
        flags: 0,
        command: command::READ,
        cookie: 5,
        offset: 0,
        length: 16,
    };
    let good = pair.request_bytes(request, &[]);
    pair.session.received(&good);
    pair.session.received(&[0x55; 28]);
    assert!(matches!(
        pair.session.close_reason(),
        Some(CloseReason::RequestMagic(_))
    ));
    assert!(!pair.session.is_finished());
    pair.turn();
    assert_eq!(pair.reply(&request).data(), vec![0; 16]);
    assert!(pair.session.is_finished());
}

#[test]
fn a_disconnect_waits_for_what_is_in_flight() {
    for dialect in DIALECTS {
        let mut pair = pair(dialect);
        let request = Request {
            flags: 0,
            command: command::READ,
            cookie: 5,
            offset: 0,
            length: 16,
        };
        let disc = Request {
            flags: 0,
            command: command::DISC,
            cookie: 6,
            offset: 0,
            length: 0,
        };
        pair.session.received(&pair.request_bytes(request, &[]));
        pair.session.received(&pair.request_bytes(disc, &[]));
        assert_eq!(pair.session.want(), Want::Nothing);
        assert!(!pair.session.is_finished());
        pair.turn();
        assert_eq!(pair.reply(&request).error, 0);
        assert!(pair.inbox.is_empty() && pair.session.is_finished());
        assert!(matches!(pair.session.close_reason(), Some(CloseReason::Disconnected)));
    }
}

#[test]
fn a_drained_session_answers_what_is_in_flight_and_ends() {
    let mut pair = pair(Dialect::Simple);
    let request = Request {
        flags: 0,
        command: command::READ,
        cookie: 5,
        offset: 0,
        length: 16,
    };
    pair.session.received(&pair.request_bytes(request, &[]));
    pair.session.drain();
    assert_eq!(pair.session.want(), Want::Nothing);
    assert!(!pair.session.is_finished());
    pair.turn();
    assert_eq!(pair.reply(&request).error, 0);
    assert!(pair.session.is_finished());
}

#[test]
fn replies_may_come_in_any_order_and_cookies_may_repeat() {
    let mut pair = pair(Dialect::Structured);
    write(&mut pair, 0, 0, &[1; 4096]);
    write(&mut pair, 0, 4096, &[2; 4096]);
    pair.device.reverse = true;
    let request = |offset| Request {
        flags: 0,
        command: command::READ,
        cookie: 7,
        offset,
        length: 4096,
    };
    for offset in [0, 4096] {
        pair.session.received(&pair.request_bytes(request(offset), &[]));
    }
    pair.turn();
    assert_eq!(pair.reply(&request(4096)).data(), vec![2; 4096]);
    assert_eq!(pair.reply(&request(0)).data(), vec![1; 4096]);
}

#[test]
fn requests_in_flight_are_bounded_by_number_and_bytes() {
    let limits = Limits {
        requests_max: 3,
        bytes_max: MAX,
    };
    let mut pair = Pair::in_transmission_with(Dialect::Simple, MemoryDevice::new("disk", 64 << 20), limits);
    let request = |length| Request {
        flags: 0,
        command: command::READ,
        cookie: 7,
        offset: 0,
        length,
    };
    for _ in 0..3 {
        assert_eq!(pair.session.want(), Want::Bytes(28));
        pair.session.received(&pair.request_bytes(request(1), &[]));
    }
    assert_eq!(pair.session.want(), Want::Nothing);
    pair.turn();
    pair.inbox.clear();

    // A request that does not fit is held, with what the same receive brought behind it.
    pair.session.received(&pair.request_bytes(request(20 << 20), &[]));
    let held = [
        pair.request_bytes(request(20 << 20), &[]),
        pair.request_bytes(request(2), &[]),
    ]
    .concat();
    pair.session.received(&held);
    assert_eq!(pair.session.want(), Want::Nothing);
    let mut requests = Vec::new();
    pair.session.take_requests(&mut requests);
    assert_eq!(requests.len(), 1);
    pair.session.complete(requests[0].0, Err(BlockError::NoSpace));
    requests.clear();
    pair.session.take_requests(&mut requests);
    let lengths: Vec<_> = requests.iter().map(|(_, op)| op.clone()).collect();
    assert_eq!(
        lengths,
        [
            BlockOp::Read {
                offset: 0,
                length: 20 << 20
            },
            BlockOp::Read { offset: 0, length: 2 }
        ]
    );
}

#[test]
fn untaken_output_stops_receiving() {
    let limits = Limits {
        requests_max: 3,
        bytes_max: MAX,
    };
    let mut pair = Pair::in_transmission_with(Dialect::Simple, MemoryDevice::new("disk", 64 << 20), limits);
    let request = Request {
        flags: 0,
        command: command::READ,
        cookie: 7,
        offset: 0,
        length: MAX,
    };
    pair.session.received(&pair.request_bytes(request, &[]));
    let mut requests = Vec::new();
    pair.session.take_requests(&mut requests);
    let (tag, op) = requests.remove(0);
    let reply = pair.device.carry_out(op);
    pair.session.complete(tag, reply);
    assert_eq!(pair.session.want(), Want::Nothing);
    pair.turn();
    assert_eq!(pair.session.want(), Want::Bytes(28));
}

#[test]
fn payloads_pass_through_without_a_copy() {
    let mut pair = pair(Dialect::Simple);
    let request = Request {
        flags: 0,
        command: command::WRITE,
        cookie: 1,
        offset: 0,
        length: 4096,
    };
    pair.session.received(&pair.request_bytes(request, &[]));
    assert_eq!(pair.session.want(), Want::Payload { length: 4096, then: 28 });
    let payload = Bytes::from(vec![5; 4096]);
    let address = payload.as_ptr();
    pair.session.received_payload(payload);
    let mut requests = Vec::new();
    pair.session.take_requests(&mut requests);
    let (tag, BlockOp::Write { data, .. }) = requests.remove(0) else {
        panic!("a write was sent")
    };
    assert_eq!(data.as_ptr(), address);
    pair.session.complete(tag, Ok(BlockReply::Done));

    let request = Request {
        flags: 0,
        command: command::READ,
        cookie: 2,
        offset: 0,
        length: 4096,
    };
    pair.session.received(&pair.request_bytes(request, &[]));
    pair.session.take_requests(&mut requests);
    let (tag, _) = requests.remove(0);
    pair.session
        .complete(tag, Ok(BlockReply::Read(vec![ReadPiece::Data(data)])));
    let mut output = Vec::new();
    pair.session.take_output(&mut output);
    assert_eq!(output.iter().map(Bytes::len).collect::<Vec<_>>(), [16, 16, 4096]);
    assert_eq!(output[2].as_ptr(), address);
}

#[test]
fn a_run_of_reads_is_received_several_at_a_time() {
    let mut pair = pair(Dialect::Simple);
    let read = Request {
        flags: 0,
        command: command::READ,
        cookie: 7,
        offset: 0,
        length: 16,
    };
    for _ in 0..16 {
        assert_eq!(pair.session.want(), Want::Bytes(28));
        pair.send(&pair.request_bytes(read, &[]));
    }
    assert_eq!(pair.session.want(), Want::Bytes(16 * 28));
    pair.inbox.clear();
    // A write in such a receive is put together, and those behind it are not lost.
    let write = Request {
        flags: 0,
        command: command::WRITE,
        cookie: 8,
        offset: 0,
        length: 40,
    };
    let long = Request {
        flags: 0,
        command: command::WRITE,
        cookie: 9,
        offset: 40,
        length: 5000,
    };
    let mut bytes = BytesMut::new();
    for (request, payload) in [
        (read, vec![]),
        (write, vec![1; 40]),
        (read, vec![]),
        (long, vec![2; 5000]),
    ] {
        bytes.extend_from_slice(&pair.request_bytes(request, &payload));
    }
    pair.session.received(&bytes.split_to(16 * 28));
    let arrived = 16 * 28 - (4 * 28 + 40);
    assert_eq!(
        pair.session.want(),
        Want::Payload {
            length: 5000 - arrived,
            then: 28
        }
    );
    pair.session.received_payload(bytes.freeze());
    pair.turn();
    assert_eq!(pair.device.data[..5040], [vec![1; 40], vec![2; 5000]].concat());
    assert_eq!(pair.session.want(), Want::Bytes(28));
}

#[test]
fn a_device_that_answers_nonsense_is_an_io_error() {
    for answer in [
        BlockReply::Done,
        BlockReply::Read(vec![ReadPiece::Zeros(15)]),
        BlockReply::Read(vec![ReadPiece::Zeros(16), ReadPiece::Data(Bytes::from_static(b"x"))]),
        BlockReply::Status(vec![StatusExtent {
            length: 16,
            allocation: cairn_api::block::Allocation::Data,
        }]),
    ] {
        let mut pair = pair(Dialect::Structured);
        let request = Request {
            flags: 0,
            command: command::READ,
            cookie: 7,
            offset: 0,
            length: 16,
        };
        pair.session.received(&pair.request_bytes(request, &[]));
        let mut requests = Vec::new();
        pair.session.take_requests(&mut requests);
        pair.session.complete(requests[0].0, Ok(answer));
        pair.turn();
        assert_eq!(pair.reply(&request).error, EIO);
        // A completion that comes twice is ignored.
        pair.session.complete(requests[0].0, Ok(BlockReply::Done));
        pair.turn();
        assert!(pair.inbox.is_empty());
    }
}

#[test]
fn a_driver_that_hands_over_what_was_not_wanted_ends_the_session() {
    let mut pair = pair(Dialect::Simple);
    pair.session.received_payload(Bytes::from_static(b"what"));
    assert!(matches!(pair.session.close_reason(), Some(CloseReason::Driver { .. })));
    assert!(pair.session.is_finished());
}
