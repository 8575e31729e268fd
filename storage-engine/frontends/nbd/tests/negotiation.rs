//! Each option of the handshake, good and bad, through a client of our own.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

mod common;

use cairn_api::block::FrontendSession;
use cairn_nbd::wire::{Dialect, OPTION_MAGIC, allocation, info, option_code as code, reply_code as reply};
use cairn_nbd::{CloseReason, LookupRefusal};
use common::client::{OptionReply, Pair, SIZE, context_data, export_data, option_bytes, string};

/// Flags of a writable export without structured replies: all but READ_ONLY, ROTATIONAL, DF, RESIZE, PAYLOAD.
const FLAGS_SIMPLE: u16 = 0b1101_0110_1101;
const FLAG_DF: u16 = 1 << 7;

fn flags_of(replies: &[OptionReply]) -> u16 {
    let export = replies
        .iter()
        .find(|r| r.kind == reply::INFO && r.data[..2] == [0, 0])
        .unwrap();
    assert_eq!(export.data.len(), 12);
    assert_eq!(export.data[2..10], SIZE.to_be_bytes());
    u16::from_be_bytes([export.data[10], export.data[11]])
}

fn closed(pair: &Pair) -> &CloseReason {
    assert!(pair.session.is_finished());
    pair.session.close_reason().unwrap()
}

#[test]
fn unknown_client_flags_drop_the_connection() {
    let mut pair = Pair::new();
    pair.send(&7_u32.to_be_bytes());
    assert!(matches!(closed(&pair), CloseReason::ClientFlags { word: 7 }));
}

#[test]
fn an_option_without_its_magic_drops_the_connection() {
    let mut pair = Pair::greeted();
    pair.send(b"GET / HTTP/1.1\r\n");
    assert!(matches!(closed(&pair), CloseReason::OptionMagic(_)));
}

#[test]
fn unknown_options_are_refused_and_negotiation_goes_on() {
    let mut pair = Pair::greeted();
    assert_eq!(pair.option_kind(4, &[]), reply::ERR_UNSUP);
    assert_eq!(pair.option_kind(0x1234_5678, &vec![9; 200_000]), reply::ERR_UNSUP);
    pair.enter(Dialect::Simple);
}

#[test]
fn too_much_data_is_skipped_up_to_a_bound() {
    let mut pair = Pair::greeted();
    assert_eq!(pair.option_kind(code::GO, &vec![0; 65 << 10]), reply::ERR_TOO_BIG);
    assert_eq!(pair.option_kind(code::LIST, &vec![0; 1 << 20]), reply::ERR_TOO_BIG);
    let header = option_bytes(code::GO, &vec![0; (1 << 20) + 1]);
    pair.send(&header[..16]);
    assert!(matches!(
        closed(&pair),
        CloseReason::OptionTooLong { option: code::GO, .. }
    ));
}

#[test]
fn endless_negotiations_are_cut_off() {
    let mut pair = Pair::greeted();
    for _ in 0..cairn_nbd::limits::OPTIONS_MAX {
        assert_eq!(pair.option_kind(99, &[]), reply::ERR_UNSUP);
    }
    pair.send(&option_bytes(99, &[]));
    assert!(matches!(closed(&pair), CloseReason::TooManyOptions { .. }));
}

#[test]
fn list_names_the_exports() {
    let mut pair = Pair::greeted();
    let replies = pair.option(code::LIST, &[]);
    let expected = [string("disk"), b"1048576 bytes of memory".to_vec()].concat();
    assert_eq!(
        replies[0],
        OptionReply {
            option: code::LIST,
            kind: reply::SERVER,
            data: expected
        }
    );
    assert_eq!(replies[1].kind, reply::ACK);
    assert_eq!(replies.len(), 2);
    assert_eq!(pair.option_kind(code::LIST, b"x"), reply::ERR_INVALID);
}

#[test]
fn abort_is_acknowledged_whatever_it_carries() {
    for data in [&b""[..], b"so long", &[0; 100_000]] {
        let mut pair = Pair::greeted();
        assert_eq!(pair.option_kind(code::ABORT, data), reply::ACK);
        assert!(matches!(closed(&pair), CloseReason::Aborted));
        assert!(!closed(&pair).is_fault());
    }
}

#[test]
fn info_gives_what_was_asked_for() {
    let mut pair = Pair::greeted();
    let asked = [info::NAME, info::DESCRIPTION, info::BLOCK_SIZE, 77, info::EXPORT];
    let replies = pair.option(code::INFO, &export_data("", &asked));
    assert_eq!(flags_of(&replies), FLAGS_SIMPLE);
    let data: Vec<_> = replies.iter().map(|r| (r.kind, &r.data[..])).collect();
    assert_eq!(data[1], (reply::INFO, &b"\0\x01disk"[..]));
    assert_eq!(data[2], (reply::INFO, &b"\0\x021048576 bytes of memory"[..]));
    assert_eq!(data[3], (reply::INFO, &[0, 3, 0, 0, 0, 1, 0, 0, 16, 0, 2, 0, 0, 0][..]));
    assert_eq!(data[4..], [(reply::ACK, &[][..])]);
    assert!(pair.session.is_negotiating());
    let replies = pair.option(code::INFO, &export_data("disk", &[]));
    assert_eq!(replies.len(), 2);
}

#[test]
fn go_enters_transmission_with_the_flags_of_its_dialect() {
    for (dialect, flags) in [
        (Dialect::Simple, FLAGS_SIMPLE),
        (Dialect::Structured, FLAGS_SIMPLE | FLAG_DF),
        (Dialect::Extended, FLAGS_SIMPLE | FLAG_DF),
    ] {
        let mut pair = Pair::greeted();
        let ack = match dialect {
            Dialect::Simple => reply::ACK,
            Dialect::Structured => pair.option_kind(code::STRUCTURED_REPLY, &[]),
            Dialect::Extended => pair.option_kind(code::EXTENDED_HEADERS, &[]),
        };
        assert_eq!(ack, reply::ACK);
        assert_eq!(flags_of(&pair.option(code::GO, &export_data("disk", &[]))), flags);
        assert!(!pair.session.is_negotiating());
    }
}

#[test]
fn a_read_only_export_offers_no_writes() {
    let mut pair = Pair::greeted();
    pair.device.info.read_only = true;
    let flags = flags_of(&pair.option(code::GO, &export_data("disk", &[])));
    assert_eq!(flags, FLAGS_SIMPLE & !0b1000_0110_0000 | 2);
}

#[test]
fn refused_lookups_are_told_and_negotiation_goes_on() {
    let mut pair = Pair::greeted();
    assert_eq!(
        pair.option_kind(code::GO, &export_data("nope", &[])),
        reply::ERR_UNKNOWN
    );
    assert_eq!(
        pair.option_kind(code::INFO, &export_data("nope", &[])),
        reply::ERR_UNKNOWN
    );
    pair.refusal = Some(LookupRefusal::Refused("the volume is being deleted".to_owned()));
    let replies = pair.option(code::GO, &export_data("disk", &[]));
    assert_eq!(
        (replies[0].kind, &replies[0].data[..]),
        (reply::ERR_POLICY, &b"the volume is being deleted"[..])
    );
    pair.refusal = Some(LookupRefusal::ShuttingDown);
    assert_eq!(
        pair.option_kind(code::GO, &export_data("disk", &[])),
        reply::ERR_SHUTDOWN
    );
    pair.refusal = None;
    pair.enter(Dialect::Simple);
}

#[test]
fn malformed_export_requests_are_invalid() {
    let mut pair = Pair::greeted();
    let whole = export_data("disk", &[info::NAME, info::BLOCK_SIZE]);
    for cut in 0..whole.len() {
        assert_eq!(
            pair.option_kind(code::GO, &whole[..cut]),
            reply::ERR_INVALID,
            "cut at {cut}"
        );
    }
    assert_eq!(
        pair.option_kind(code::GO, &[&whole[..], b"x"].concat()),
        reply::ERR_INVALID
    );
    assert_eq!(
        pair.option_kind(code::INFO, &export_data("di\0sk", &[])),
        reply::ERR_INVALID
    );
    let mut broken = export_data("disk", &[]);
    broken[4] = 0xff;
    assert_eq!(pair.option_kind(code::INFO, &broken), reply::ERR_INVALID);
    assert_eq!(
        pair.option_kind(code::INFO, &export_data(&"n".repeat(4097), &[])),
        reply::ERR_TOO_BIG
    );
    assert_eq!(
        pair.option_kind(code::INFO, &export_data(&"n".repeat(4096), &[])),
        reply::ERR_UNKNOWN
    );
    assert_eq!(pair.option_kind(code::GO, &[0xff; 10]), reply::ERR_INVALID);
}

#[test]
fn export_name_answers_in_the_old_way() {
    for (flags, length) in [(3_u32, 10), (1, 134)] {
        let mut pair = Pair::new();
        pair.send(&flags.to_be_bytes());
        pair.send(&option_bytes(code::EXPORT_NAME, b"disk"));
        assert_eq!(pair.inbox.len(), length);
        assert_eq!(pair.take_u64(), SIZE);
        assert_eq!(pair.take(2)[..], FLAGS_SIMPLE.to_be_bytes());
        assert!(pair.inbox.iter().all(|byte| *byte == 0));
        assert_eq!(pair.session.export(), Some(&pair.device.info));
    }
}

#[test]
fn export_name_that_cannot_be_granted_drops_the_connection() {
    let long = "n".repeat(4097);
    for name in ["nope", &long, &"n".repeat(100_000)] {
        let mut pair = Pair::greeted();
        pair.send(&option_bytes(code::EXPORT_NAME, name.as_bytes()));
        assert!(matches!(closed(&pair), CloseReason::ExportName { .. }));
        assert!(pair.inbox.is_empty());
    }
    let mut pair = Pair::greeted();
    assert_eq!(pair.option_kind(code::EXTENDED_HEADERS, &[]), reply::ACK);
    pair.send(&option_bytes(code::EXPORT_NAME, b"disk"));
    assert!(matches!(closed(&pair), CloseReason::ExportName { .. }));
}

#[test]
fn reply_styles_take_no_data_and_extended_ones_take_precedence() {
    let mut pair = Pair::greeted();
    assert_eq!(pair.option_kind(code::STRUCTURED_REPLY, b"1"), reply::ERR_INVALID);
    assert_eq!(pair.option_kind(code::EXTENDED_HEADERS, b"1"), reply::ERR_INVALID);
    assert_eq!(pair.option_kind(code::STRUCTURED_REPLY, &[]), reply::ACK);
    assert_eq!(pair.option_kind(code::STRUCTURED_REPLY, &[]), reply::ACK);
    assert_eq!(pair.option_kind(code::EXTENDED_HEADERS, &[]), reply::ACK);
    assert_eq!(
        pair.option_kind(code::STRUCTURED_REPLY, &[]),
        reply::ERR_EXT_HEADER_REQD
    );
}

#[test]
fn contexts_are_listed_by_query() {
    let mut pair = Pair::greeted();
    for (queries, listed) in [
        (&[][..], true),
        (&["base:"], true),
        (&["base:allocation"], true),
        (&["qemu:dirty-bitmap:x", "base:allocation"], true),
        (&["base:other"], false),
        (&["qemu:"], false),
    ] {
        let replies = pair.option(code::LIST_META_CONTEXT, &context_data("disk", queries));
        assert_eq!(replies.len(), 1 + usize::from(listed), "{queries:?}");
        if listed {
            assert_eq!(replies[0].kind, reply::META_CONTEXT);
            assert_eq!(replies[0].data, b"\0\0\0\0base:allocation");
        }
        assert_eq!(replies.last().unwrap().kind, reply::ACK);
    }
    assert_eq!(
        pair.option_kind(code::LIST_META_CONTEXT, &context_data("nope", &[])),
        reply::ERR_UNKNOWN
    );
}

/// Whether block status can be asked for after these steps, as the flag of extended headers says.
fn status_after(pair: &mut Pair) -> bool {
    flags_of(&pair.option(code::INFO, &export_data("disk", &[]))) & (1 << 12) != 0
}

#[test]
fn contexts_are_set_for_one_export_until_the_next_try() {
    let mut pair = Pair::greeted();
    let set = code::SET_META_CONTEXT;
    assert_eq!(
        pair.option_kind(set, &context_data("disk", &[allocation::NAME])),
        reply::ERR_INVALID
    );
    assert_eq!(pair.option_kind(code::EXTENDED_HEADERS, &[]), reply::ACK);
    let select = |pair: &mut Pair| {
        let replies = pair.option(set, &context_data("disk", &["x-other:thing", allocation::NAME]));
        let id = allocation::ID.to_be_bytes();
        assert_eq!(replies[0].data, [&id[..], allocation::NAME.as_bytes()].concat());
        assert_eq!((replies.len(), replies[1].kind), (2, reply::ACK));
        assert!(status_after(pair));
    };
    for (data, kind) in [
        (context_data("disk", &[]), reply::ACK),
        (context_data("disk", &["base:"]), reply::ACK),
        (context_data("disk", &["base:unknown"]), reply::ACK),
        (context_data("nope", &[allocation::NAME]), reply::ERR_UNKNOWN),
        (context_data("disk", &["nonamespace"]), reply::ERR_INVALID),
        (
            context_data("disk", &[allocation::NAME])[..12].to_vec(),
            reply::ERR_INVALID,
        ),
        (vec![0; 70_000], reply::ERR_TOO_BIG),
    ] {
        select(&mut pair);
        assert_eq!(pair.option_kind(set, &data), kind);
        assert!(!status_after(&mut pair));
    }
    // Selected for the default export, entered by its name: not the same name.
    assert_eq!(pair.option(set, &context_data("", &[allocation::NAME])).len(), 2);
    assert!(!status_after(&mut pair));
}

#[test]
fn malformed_context_requests_are_invalid() {
    let mut pair = Pair::greeted();
    let whole = context_data("disk", &["base:allocation", "x:y"]);
    for cut in 0..whole.len() {
        assert_eq!(
            pair.option_kind(code::LIST_META_CONTEXT, &whole[..cut]),
            reply::ERR_INVALID,
            "cut at {cut}"
        );
    }
    assert_eq!(
        pair.option_kind(code::LIST_META_CONTEXT, &[&whole[..], b"x"].concat()),
        reply::ERR_INVALID
    );
    let mut many = string("disk");
    many.extend([0xff; 4]);
    assert_eq!(pair.option_kind(code::LIST_META_CONTEXT, &many), reply::ERR_INVALID);
}

#[test]
fn without_tls_its_option_is_refused_by_policy() {
    let mut pair = Pair::greeted();
    assert_eq!(pair.option_kind(code::STARTTLS, &[]), reply::ERR_POLICY);
    assert_eq!(pair.option_kind(code::STARTTLS, b"now"), reply::ERR_INVALID);
    pair.enter(Dialect::Structured);
}

#[test]
fn options_may_come_byte_by_byte_or_all_at_once() {
    let mut pair = Pair::new();
    pair.piece = 1;
    pair.send(&3_u32.to_be_bytes());
    assert_eq!(pair.option_kind(50, &[0; 300]), reply::ERR_UNSUP);
    pair.enter(Dialect::Extended);

    let mut pair = Pair::new();
    let all = [
        &3_u32.to_be_bytes()[..],
        &option_bytes(50, b"abc"),
        &option_bytes(code::STRUCTURED_REPLY, &[]),
        &option_bytes(code::GO, &export_data("disk", &[])),
    ]
    .concat();
    pair.send(&all);
    assert!(!pair.session.is_negotiating());
}

#[test]
fn a_client_that_leaves_is_told_apart_from_one_that_is_cut_off() {
    let mut pair = Pair::greeted();
    pair.session.received_end();
    assert!(matches!(closed(&pair), CloseReason::PeerClosed));
    let mut pair = Pair::greeted();
    pair.send(&OPTION_MAGIC.to_be_bytes());
    pair.session.received_end();
    assert!(matches!(closed(&pair), CloseReason::PeerClosedInsideMessage));
}
