//! Random input: noise of every kind leaves a session within its bounds, and valid requests agree with a `Vec`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

mod common;

use bytes::BytesMut;
use cairn_api::block::FrontendSession;
use cairn_nbd::wire::{Dialect, Request, command, command_flag as flag, option_code as code};
use cairn_nbd::{Limits, TlsPolicy};
use common::certificates::Certificates;
use common::chaos::{Chaos, Driver};
use common::client::{Pair, context_data, export_data, option_bytes};
use common::device::MemoryDevice;
use proptest::collection::vec;
use proptest::prelude::*;

const SIZE: u64 = 64 << 10;

fn driver() -> impl Strategy<Value = Driver> {
    (any::<[u8; 4]>(), 0..10_usize, any::<bool>()).prop_map(|(pieces, hold, reverse)| Driver { pieces, hold, reverse })
}

/// Option codes near the known ones, and data that is sometimes right.
fn option() -> impl Strategy<Value = Vec<u8>> {
    let data = prop_oneof![
        Just(Vec::new()),
        Just(export_data("disk", &[1, 2, 3])),
        Just(context_data("disk", &["base:allocation"])),
        vec(any::<u8>(), 0..40),
        (0..200_000_usize).prop_map(|length| vec![0; length]),
    ];
    (0..14_u32, data).prop_map(|(option, data)| option_bytes(option, &data))
}

/// The step into transmission, in each dialect.
fn entry() -> impl Strategy<Value = Vec<u8>> {
    let style = prop_oneof![
        Just(None),
        Just(Some(code::STRUCTURED_REPLY)),
        Just(Some(code::EXTENDED_HEADERS))
    ];
    style.prop_map(|style| {
        let mut bytes = style.map_or_else(Vec::new, |option| option_bytes(option, &[]));
        bytes.extend(option_bytes(
            code::SET_META_CONTEXT,
            &context_data("disk", &["base:allocation"]),
        ));
        bytes.extend(option_bytes(code::GO, &export_data("disk", &[])));
        bytes
    })
}

/// A request whose every field may be anything, small numbers preferred, with a payload that may not fit it.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![0..10_u64, 0..300_000_u64, any::<u64>()];
    let flags = prop_oneof![Just(0_u16), 0..64_u16, any::<u16>()];
    let length = prop_oneof![0..5000_u64, 0..200_000_u64, any::<u64>()];
    (flags, 0..10_u16, any::<u64>(), number, length, 0..3_u8, any::<bool>()).prop_map(
        |(flags, command, cookie, offset, length, payload, extended)| {
            let dialect = if extended {
                Dialect::Extended
            } else {
                Dialect::Structured
            };
            let mut bytes = BytesMut::new();
            Request {
                flags,
                command,
                cookie,
                offset,
                length,
            }
            .encode(dialect, &mut bytes);
            if payload > 0 {
                bytes.resize(bytes.len() + usize::try_from(length % 300_000).unwrap(), payload);
            }
            bytes.to_vec()
        },
    )
}

fn noise() -> impl Strategy<Value = Vec<u8>> {
    let start = prop_oneof![Just(3_u32.to_be_bytes().to_vec()), vec(any::<u8>(), 0..8)];
    (
        start,
        vec(option(), 0..6),
        entry(),
        vec(request(), 0..40),
        vec(any::<u8>(), 0..100),
    )
        .prop_map(|(start, options, entry, requests, tail)| {
            [start, options.concat(), entry, requests.concat(), tail].concat()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn noise_leaves_a_session_within_its_bounds(driver in driver(), noise in noise()) {
        Chaos::new(TlsPolicy::Off, driver).run(&noise);
    }

    #[test]
    fn flipped_bits_leave_a_session_within_its_bounds(
        driver in driver(),
        noise in noise(),
        flips in vec((any::<prop::sample::Index>(), 0..8_u8), 1..10),
    ) {
        let mut noise = noise;
        for (index, bit) in flips {
            let at = index.index(noise.len());
            noise[at] ^= 1 << bit;
        }
        Chaos::new(TlsPolicy::Off, driver).run(&noise);
    }

    #[test]
    fn noise_inside_tls_leaves_a_session_within_its_bounds(
        driver in driver(),
        noise in vec(any::<u8>(), 0..2000),
        like_a_record in any::<bool>(),
    ) {
        let policy = TlsPolicy::Optional(certificates().server(false));
        let record: &[u8] = if like_a_record { &[22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3] } else { &[] };
        let start = [&3_u32.to_be_bytes()[..], &option_bytes(code::STARTTLS, &[]), record, &noise].concat();
        Chaos::new(policy, driver).run(&start);
    }
}

fn certificates() -> &'static Certificates {
    static CERTIFICATES: std::sync::LazyLock<Certificates> = std::sync::LazyLock::new(Certificates::make);
    &CERTIFICATES
}

#[derive(Clone, Debug)]
enum Action {
    Read { offset: u64, length: u64, whole: bool },
    Write { offset: u64, length: u64, value: u8 },
    Zero { offset: u64, length: u64, no_hole: bool },
    Trim { offset: u64, length: u64 },
    Status { offset: u64, length: u64, one: bool },
    Flush,
}

fn action() -> impl Strategy<Value = Action> {
    let range = || {
        let offset = prop_oneof![(0..SIZE / 4096).prop_map(|block| block * 4096), 0..SIZE];
        let length = prop_oneof![(0..4_u64).prop_map(|blocks| blocks * 4096), 0..9000_u64];
        // Sometimes beyond the end.
        (offset, length)
    };
    prop_oneof![
        4 => (range(), any::<bool>())
            .prop_map(|((offset, length), whole)| Action::Read { offset, length, whole }),
        4 => (range(), 1..=255_u8).prop_map(|((offset, length), value)| Action::Write { offset, length, value }),
        1 => (range(), any::<bool>())
            .prop_map(|((offset, length), no_hole)| Action::Zero { offset, length, no_hole }),
        1 => range().prop_map(|(offset, length)| Action::Trim { offset, length }),
        1 => (range(), any::<bool>()).prop_map(|((offset, length), one)| Action::Status { offset, length, one }),
        1 => Just(Action::Flush),
    ]
}

/// A request and what its reply must say, worked out on a `Vec`.
struct Expected {
    request: Request,
    error: u32,
    data: Vec<u8>,
}

/// The request that an action is, with the error that it gets if it reaches beyond the end.
fn request_of(action: &Action, cookie: u64, dialect: Dialect) -> (Request, u32) {
    let payload_flag = if dialect == Dialect::Extended {
        flag::PAYLOAD_LEN
    } else {
        0
    };
    let (command, flags, offset, length, beyond) = match *action {
        Action::Read { offset, length, whole } => {
            let flags = if whole && dialect != Dialect::Simple {
                flag::DF
            } else {
                0
            };
            (command::READ, flags, offset, length, 22)
        }
        Action::Write { offset, length, .. } => (command::WRITE, payload_flag | flag::FUA, offset, length, 28),
        Action::Zero {
            offset,
            length,
            no_hole,
        } => (
            command::WRITE_ZEROES,
            if no_hole { flag::NO_HOLE } else { flag::FAST_ZERO },
            offset,
            length,
            28,
        ),
        Action::Trim { offset, length } => (command::TRIM, 0, offset, length, 22),
        Action::Status { offset, length, one } => (
            command::BLOCK_STATUS,
            if one { flag::REQ_ONE } else { 0 },
            offset,
            length,
            22,
        ),
        Action::Flush => (command::FLUSH, 0, 0, 0, 0),
    };
    (
        Request {
            flags,
            command,
            cookie,
            offset,
            length,
        },
        beyond,
    )
}

/// What an action's reply must say, and the action's payload; carries it out on the model.
fn expect(action: &Action, cookie: u64, dialect: Dialect, model: &mut [u8]) -> (Expected, Vec<u8>) {
    let (request, beyond) = request_of(action, cookie, dialect);
    let Request { offset, length, .. } = request;
    let mut expected = Expected {
        request,
        error: 0,
        data: Vec::new(),
    };
    let mut payload = Vec::new();
    if let Action::Write { value, .. } = action {
        payload = (0..length)
            .map(|i| value.wrapping_add(u8::try_from(i % 7).unwrap()))
            .collect();
    }
    if offset + length > SIZE {
        expected.error = beyond;
        return (expected, payload);
    }
    let range = usize::try_from(offset).unwrap()..usize::try_from(offset + length).unwrap();
    match action {
        Action::Read { .. } => expected.data = model[range].to_vec(),
        Action::Write { .. } => model[range].copy_from_slice(&payload),
        Action::Zero { .. } => model[range].fill(0),
        Action::Trim { .. } => {
            let (first, last) = (range.start.next_multiple_of(4096), range.end / 4096 * 4096);
            if first < last {
                model[first..last].fill(0);
            }
        }
        Action::Status { .. } if dialect == Dialect::Simple || length == 0 => expected.error = 22,
        Action::Status { .. } | Action::Flush => {}
    }
    (expected, payload)
}

fn check(pair: &mut Pair, expected: &[Expected], model: &[u8]) {
    for _ in expected {
        // Every kind of reply has its cookie in the same place.
        let cookie = u64::from_be_bytes(pair.inbox[8..16].try_into().unwrap());
        let wanted = &expected[usize::try_from(cookie).unwrap() % expected.len()];
        assert_eq!(wanted.request.cookie, cookie);
        let reply = pair.reply(&wanted.request);
        assert_eq!(reply.error, wanted.error, "{:?}", wanted.request);
        if wanted.error == 0 && wanted.request.command == command::READ {
            assert_eq!(reply.data(), wanted.data);
            let whole = wanted.request.flags & flag::DF != 0;
            assert!(!whole || reply.content.len() <= 1);
        }
        if let Some((_, extents)) = reply.status {
            let sum: u64 = extents.iter().map(|(length, _)| length).sum();
            let one = wanted.request.flags & flag::REQ_ONE != 0;
            assert!(if one {
                extents.len() == 1 && sum <= wanted.request.length
            } else {
                sum == wanted.request.length
            });
            assert!(extents.iter().all(|(length, _)| *length > 0));
            assert!(
                extents.windows(2).all(|pair| pair[0].1 != pair[1].1),
                "neighbours alike: {extents:?}"
            );
        }
    }
    assert!(pair.inbox.is_empty());
    assert!(pair.device.data == model);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn valid_requests_agree_with_a_vec(
        dialect in prop_oneof![Just(Dialect::Simple), Just(Dialect::Structured), Just(Dialect::Extended)],
        piece in prop_oneof![1..60_usize, Just(usize::MAX)],
        (reverse, lazy) in any::<(bool, bool)>(),
        requests_max in 1..20_u16,
        batches in vec(vec(action(), 1..12), 1..8),
    ) {
        let limits = Limits { requests_max, ..Limits::default() };
        let mut pair = Pair::in_transmission_with(dialect, MemoryDevice::new("disk", SIZE), limits);
        pair.piece = piece;
        pair.device.reverse = reverse;
        pair.lazy = lazy;
        let mut model = vec![0; usize::try_from(SIZE).unwrap()];
        let mut cookie = 0_u64;
        for batch in batches {
            // Cookies of a batch are consecutive, and the first is a multiple of its length.
            cookie = cookie.next_multiple_of(batch.len() as u64);
            let mut bytes = Vec::new();
            let mut expected = Vec::new();
            for action in &batch {
                let (wanted, payload) = expect(action, cookie, dialect, &mut model);
                bytes.extend(pair.request_bytes(wanted.request, &payload));
                expected.push(wanted);
                cookie += 1;
            }
            pair.send(&bytes);
            check(&mut pair, &expected, &model);
        }
        let disconnect = Request { flags: 0, command: command::DISC, cookie, offset: 0, length: 0 };
        pair.send(&pair.request_bytes(disconnect, &[]));
        prop_assert!(pair.session.is_finished() && pair.inbox.is_empty());
    }
}
