//! The decision table of recovery, row by row.

use bytes::Bytes;
use cairn_api::ids::DiskId;
use cairn_api::units::{BLOCK_BYTES, BLOCK_SIZE};
use cairn_format::frame::{self, FrameInfo};
use cairn_format::segment::{HeadKind, SegmentHeader};

use super::{DISK, Rig, recover_by_rows, recover_with, tail_of};
use crate::event::DiskFault;
use crate::log::LogTail;
use crate::log::recovery::{Outcome, Row, Rows};

/// A log whose `count` entries of one block are each in a durable frame of its own; gives the frames' offsets.
fn with_frames(count: usize) -> (Rig, Vec<u64>) {
    let mut rig = Rig::new(4);
    rig.settle();
    let offsets = (0..count)
        .map(|_| {
            let entry = rig.entry(1);
            rig.write_frame(entry)
        })
        .collect();
    (rig, offsets)
}

fn lost(outcome: &Outcome) -> (u64, &str) {
    match outcome {
        Outcome::LostAcknowledged { sequence, evidence, .. } => (*sequence, evidence),
        other => panic!("the loss was not noticed: {other:?}"),
    }
}

fn rows(rows: &[Row]) -> Rows {
    rows.iter().copied().collect()
}

#[test]
fn a_disk_that_was_never_written_is_clean() {
    let rig = Rig::new(4);
    let (outcome, records) = rig.recover();
    assert!(matches!(outcome, Outcome::Clean { .. }));
    assert!(records.is_empty());
    assert_eq!(tail_of(&outcome), LogTail::empty(DISK, &rig.geometry));
    assert_eq!(rig.rows(), rows(&[Row::Nothing]));
}

#[test]
fn a_log_that_stopped_in_order_is_clean() {
    let (mut rig, _) = with_frames(5);
    let outcome = rig.restart();
    let Outcome::Clean { summary, tail } = outcome else {
        panic!("not clean: {outcome:?}")
    };
    assert_eq!((summary.frames, summary.entries, summary.segments), (6, 5, 1));
    assert_eq!(tail.next_sequence, 7);
    assert_eq!(tail.incarnation, 2);
    assert_eq!(rig.rows(), rows(&[Row::Whole, Row::WholeUnvouched, Row::Nothing]));
}

#[test]
fn a_segment_that_continues_the_log_is_followed() {
    let mut rig = Rig::new(8);
    for _ in 0..5 {
        rig.push_entry(256);
        rig.settle();
    }
    let outcome = rig.restart();
    let Outcome::Clean { summary, .. } = outcome else {
        panic!("not clean: {outcome:?}")
    };
    assert_eq!((summary.entries, summary.segments), (5, 5));
    assert_eq!(
        rig.rows(),
        rows(&[Row::Whole, Row::WholeUnvouched, Row::Continued, Row::Nothing])
    );
}

#[test]
fn a_torn_header_is_cut() {
    let (mut rig, _) = with_frames(3);
    rig.push_entry(2);
    rig.compose();
    rig.crash(|_, sector| sector == 0);
    // The first sector alone is a whole header: the rest of its block is zeros anyway, and the payload is missing.
    let outcome = rig.restart();
    assert!(matches!(&outcome, Outcome::TornTail { sequence: 5, reason, .. } if reason.contains("payload")));
    assert_eq!(rig.pushed.len(), 3);
}

#[test]
fn a_header_whose_records_are_torn_is_cut() {
    let (mut rig, _) = with_frames(3);
    for _ in 0..12 {
        let record = rig.hard_state();
        rig.push(record);
    }
    rig.push_entry(0);
    rig.compose();
    rig.crash(|_, sector| sector == 0);
    let outcome = rig.restart();
    assert!(matches!(&outcome, Outcome::TornTail { sequence: 5, reason, .. } if reason.contains("checksum")));
    assert_eq!(rig.pushed.len(), 3);
    assert_eq!(rig.rows(), rows(&[Row::Whole, Row::WholeUnvouched, Row::TornHeader]));
}

#[test]
fn payload_that_nobody_vouches_for_is_checked() {
    let (mut rig, _) = with_frames(3);
    rig.push_entry(4);
    rig.compose();
    rig.crash(|_, sector| sector != 8 + 17);
    let outcome = rig.restart();
    assert!(matches!(&outcome, Outcome::TornTail { sequence: 5, reason, .. } if reason.contains("payload")));
    assert_eq!(rig.pushed.len(), 3);
    assert_eq!(rig.rows(), rows(&[Row::Whole, Row::TornPayload]));
}

#[test]
fn a_frame_that_reached_the_disk_whole_stands_though_nobody_heard_of_it() {
    let (mut rig, _) = with_frames(3);
    rig.push_entry(4);
    rig.compose();
    rig.crash(|_, _| true);
    let outcome = rig.restart();
    assert!(matches!(outcome, Outcome::Clean { .. }));
    assert_eq!(rig.pushed.len(), 4);
    assert_eq!(rig.rows(), rows(&[Row::Whole, Row::WholeUnvouched, Row::Nothing]));
}

#[test]
fn a_later_frame_that_vouches_only_for_those_before_proves_nothing() {
    let (mut rig, _) = with_frames(3);
    rig.push_entry(1);
    rig.compose();
    rig.push_entry(1);
    rig.compose();
    rig.crash(|write, _| write == 1);
    let outcome = rig.restart();
    assert!(matches!(outcome, Outcome::TornTail { sequence: 5, .. }), "{outcome:?}");
    assert_eq!(rig.pushed.len(), 3);
    assert_eq!(tail_of(&outcome).incarnation, 2);
    assert_eq!(rig.rows(), rows(&[Row::Whole, Row::WholeUnvouched, Row::Overtaken]));
}

#[test]
fn a_missing_frame_that_a_later_one_vouches_for_was_lost() {
    for (erased, length) in [(0, BLOCK_BYTES), (0, 2 * BLOCK_BYTES)] {
        let (mut rig, offsets) = with_frames(4);
        rig.disk.erase(offsets[1] + erased, length);
        let (outcome, _) = rig.recover();
        let (sequence, evidence) = lost(&outcome);
        assert_eq!(sequence, 3);
        assert!(evidence.contains("durable before it was written"), "{evidence}");
        assert!(rig.rows().contains(Row::LostByFrame), "{}", rig.rows());
    }
}

#[test]
fn a_damaged_header_that_a_later_frame_vouches_for_was_lost() {
    let (mut rig, offsets) = with_frames(4);
    rig.disk.flip(offsets[2] + 100, 4);
    let (outcome, _) = rig.recover();
    assert_eq!(lost(&outcome).0, 4);
    assert_eq!(rig.rows(), rows(&[Row::Whole, Row::LostByFrame]));
}

#[test]
fn damaged_payload_that_a_later_frame_vouches_for_is_left_to_its_readers() {
    let (mut rig, offsets) = with_frames(4);
    rig.disk.flip(offsets[1] + BLOCK_BYTES + 5, 4);
    let (outcome, records) = rig.recover();
    assert!(matches!(outcome, Outcome::Clean { .. }));
    assert_eq!(records.len(), 4);
    assert_eq!(rig.rows(), rows(&[Row::Whole, Row::WholeUnvouched, Row::Nothing]));
}

#[test]
fn a_segment_header_vouches_too() {
    let mut rig = Rig::new(8);
    for _ in 0..3 {
        rig.push_entry(256);
        rig.settle();
    }
    // The only frame of the third segment is gone, and so is the last of the second; the third header remains.
    let third = rig.geometry.segment_offset(2);
    rig.disk.erase(third + BLOCK_BYTES, 1 << 20);
    rig.disk.erase(rig.geometry.segment_offset(1) + BLOCK_BYTES, 1 << 20);
    let (outcome, _) = rig.recover();
    let (sequence, evidence) = lost(&outcome);
    assert_eq!(sequence, 2);
    assert!(evidence.contains("header of segment 2"), "{evidence}");
    assert_eq!(rig.rows(), rows(&[Row::Continued, Row::LostByHeader]));
}

#[test]
fn a_lost_segment_header_in_the_middle_is_noticed() {
    let mut rig = Rig::new(8);
    for _ in 0..4 {
        rig.push_entry(256);
        rig.settle();
    }
    rig.disk.flip(rig.geometry.segment_offset(1) + 50, 1);
    assert_eq!(lost(&rig.recover().0).0, 2);
}

#[test]
fn a_lost_header_of_the_last_segment_is_noticed_by_its_frames() {
    let mut rig = Rig::new(8);
    rig.push_entry(256);
    rig.settle();
    rig.push_entry(256);
    rig.settle();
    rig.push_entry(1);
    rig.settle();
    rig.disk.flip(rig.geometry.segment_offset(1) + 50, 1);
    let (outcome, _) = rig.recover();
    let (sequence, evidence) = lost(&outcome);
    assert_eq!(sequence, 2);
    assert!(evidence.contains("frame"), "{evidence}");
    assert_eq!(rig.rows(), rows(&[Row::LostSegmentHeader]));
}

#[test]
fn a_lost_header_of_the_very_first_segment_is_noticed() {
    let (mut rig, _) = with_frames(3);
    rig.disk.flip(rig.geometry.segment_offset(0) + 50, 1);
    let (outcome, _) = rig.recover();
    assert!(
        matches!(
            outcome,
            Outcome::LostAcknowledged {
                segment: 0,
                sequence: 1,
                ..
            }
        ),
        "{outcome:?}"
    );
}

#[test]
fn leftovers_of_an_earlier_opening_stay_buried() {
    let (mut rig, _) = with_frames(2);
    // Two frames under way; the first is lost, the second reaches the disk.
    rig.push_entry(1);
    rig.compose();
    rig.push_entry(1);
    rig.compose();
    rig.crash(|write, _| write == 1);
    rig.restart();
    // The new opening writes over the gap, so that the leftover stands right behind its first frames.
    rig.settle();
    for _ in 0..4 {
        let outcome = rig.restart();
        assert_eq!(rig.pushed.len(), 2, "{outcome:?}");
        rig.settle();
    }
    rig.push_entry(1);
    rig.settle();
    rig.restart();
    assert_eq!(rig.pushed.len(), 3);
}

#[test]
fn a_leftover_segment_of_an_earlier_opening_stays_buried() {
    let mut rig = Rig::new(8);
    rig.push_entry(256);
    rig.settle();
    rig.push_entry(100);
    rig.push_entry(200);
    // Both under way, the second in a segment of its own; the first is lost.
    let settings = super::LogSettings {
        frame_payload_blocks_max: 100,
        ..rig.settings
    };
    let _ = settings;
    rig.compose();
    assert_eq!(rig.under_way.len(), 2);
    rig.crash(|write, _| write == 1);
    let outcome = rig.restart();
    assert!(matches!(outcome, Outcome::TornTail { .. }), "{outcome:?}");
    assert_eq!(rig.pushed.len(), 1);
    for blocks in [50, 100, 200, 256, 256] {
        rig.push_entry(blocks);
        rig.settle();
        rig.restart();
    }
    assert_eq!(rig.pushed.len(), 6);
}

/// A recovery that was refused for what it could not read: where that is, the first frame that was not found, and
/// whether something vouches for that.
fn unreadable(rig: &Rig) -> (u64, u64, bool) {
    match rig.recover().0 {
        Outcome::Unreadable {
            offset,
            words,
            sequence,
            evidence,
        } => {
            assert!(words.contains("Input/output error"));
            (offset, sequence, evidence.is_some())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_read_is_not_the_end_of_the_log() {
    let (mut rig, offsets) = with_frames(3);
    rig.disk.make_unreadable(offsets[2]);
    assert_eq!(unreadable(&rig), (offsets[2], 4, false));
    assert_eq!(rig.rows(), rows(&[Row::Whole, Row::Unreadable]));
    // It becomes readable again.
    rig.disk.heal();
    rig.restart();
    assert_eq!(rig.pushed.len(), 3);
}

#[test]
fn an_unreadable_frame_that_a_later_one_vouches_for_is_not_lost() {
    let (mut rig, offsets) = with_frames(4);
    rig.disk.make_unreadable(offsets[1]);
    assert_eq!(unreadable(&rig), (offsets[1], 3, true));
    assert_eq!(rig.rows(), rows(&[Row::Whole, Row::UnreadableVouched]));
    rig.disk.heal();
    rig.restart();
    assert_eq!(rig.pushed.len(), 4);
}

#[test]
fn a_segment_header_that_cannot_be_read_may_be_the_next() {
    let mut rig = Rig::new(8);
    for _ in 0..4 {
        rig.push_entry(256);
        rig.settle();
    }
    let header = rig.geometry.segment_offset(2);
    rig.disk.make_unreadable(header);
    assert_eq!(unreadable(&rig), (header, 3, true));
    rig.disk.heal();
    // One that holds nothing as well: nobody can know.
    let header = rig.geometry.segment_offset(7);
    rig.disk.make_unreadable(header);
    assert_eq!(unreadable(&rig), (header, 5, false));
}

#[test]
fn unreadable_payload_matters_only_where_nobody_vouches_for_it() {
    let (mut rig, offsets) = with_frames(4);
    rig.disk.make_unreadable(offsets[1] + BLOCK_BYTES);
    let (outcome, records) = rig.recover();
    assert!(matches!(outcome, Outcome::Clean { .. }), "{outcome:?}");
    assert_eq!(records.len(), 4);
    rig.disk.make_unreadable(offsets[3] + BLOCK_BYTES);
    assert_eq!(unreadable(&rig), (offsets[3] + BLOCK_BYTES, 5, false));
}

#[test]
fn what_could_vouch_for_a_torn_frame_must_be_read() {
    let (mut rig, offsets) = with_frames(3);
    rig.disk.flip(offsets[2] + 100, 1);
    let beyond = offsets[2] + 40 * BLOCK_BYTES;
    rig.disk.make_unreadable(beyond);
    assert_eq!(unreadable(&rig), (beyond, 4, false));
    rig.disk.heal();
    assert!(matches!(rig.recover().0, Outcome::TornTail { sequence: 4, .. }));
}

#[test]
fn a_frame_that_cannot_be_read_may_be_of_a_later_opening_than_the_next_segment() {
    let mut rig = Rig::new(8);
    for _ in 0..4 {
        rig.push_entry(256);
        rig.settle();
    }
    // Behind the last frame of the first segment, where the second continues.
    let behind = rig.geometry.segment_end(0) - BLOCK_BYTES;
    let last = (rig.geometry.segment_offset(0)..behind).step_by(BLOCK_SIZE as usize);
    let empty = last
        .filter(|offset| {
            rig.disk
                .read(*offset, BLOCK_SIZE)
                .unwrap()
                .iter()
                .all(|byte| *byte == 0)
        })
        .min()
        .unwrap();
    rig.disk.make_unreadable(empty);
    assert_eq!(unreadable(&rig).0, empty);
    rig.disk.heal();
    rig.restart();
    assert_eq!(rig.pushed.len(), 4);
}

#[test]
fn a_read_that_fails_is_tried_again() {
    let (rig, _) = with_frames(3);
    let mut failures = 0;
    let (outcome, records, _) = recover_with(&rig.geometry, |read| {
        failures += 1;
        match failures % 3 {
            0 => rig.disk.read(read.offset, read.length),
            _ => Err(DiskFault::Os("Input/output error (os error 5)".to_owned())),
        }
    });
    assert!(matches!(outcome, Outcome::Clean { .. }), "{outcome:?}");
    assert_eq!(records.len(), 3);
}

#[test]
fn a_disk_shorter_than_its_superblock_says_is_refused_by_name() {
    let (mut rig, _) = with_frames(2);
    rig.disk.shorten(rig.geometry.segment_offset(3));
    let (outcome, _) = rig.recover();
    assert!(
        matches!(
            outcome,
            Outcome::DiskTooShort {
                asked: 4096,
                done: 0,
                ..
            }
        ),
        "{outcome:?}"
    );
    assert_eq!(rig.rows(), rows(&[Row::DiskTooShort]));
}

#[test]
fn what_another_disk_or_format_left_behind_means_nothing() {
    let mut rig = Rig::new(4);
    let stranger = DiskId::from_bytes([9; 16]);
    for segment in 0..4 {
        let offset = rig.geometry.segment_offset(segment);
        let header = SegmentHeader {
            disk: stranger,
            segment,
            head: HeadKind::Hot,
            epoch: 3,
            incarnation: 5,
            first_sequence: 100,
            chain_before: 7,
            durable_upto: 99,
        };
        rig.disk.write(offset, &header.encode(), |_| true);
        let info = FrameInfo {
            disk: stranger,
            block: offset / BLOCK_BYTES + 1,
            segment_epoch: 3,
            incarnation: 5,
            sequence: 100,
            previous_chain: 7,
            durable_upto: 99,
            payload_blocks: 0,
        };
        rig.disk
            .write(offset + BLOCK_BYTES, &frame::encode(&info, &[]).0, |_| true);
    }
    let (outcome, _) = rig.recover();
    assert!(matches!(outcome, Outcome::Clean { .. }), "{outcome:?}");
    assert_eq!(rig.rows(), rows(&[Row::Stranger, Row::Nothing]));
    rig.push_entry(3);
    rig.settle();
    rig.restart();
    assert_eq!(rig.pushed.len(), 1);
}

#[test]
fn an_image_of_a_frame_in_somebodys_payload_means_nothing() {
    let (mut rig, offsets) = with_frames(2);
    rig.push_entry(2);
    rig.compose();
    rig.crash(|_, sector| sector >= 16);
    // The second block of the torn frame's payload happens to be a copy of a frame that would prove a loss.
    let info = FrameInfo {
        disk: DISK,
        block: 1,
        segment_epoch: 1,
        incarnation: 1,
        sequence: 50,
        previous_chain: 7,
        durable_upto: 49,
        payload_blocks: 0,
    };
    let image = frame::encode(&info, &[]).0;
    rig.disk.write(offsets[1] + 4 * BLOCK_BYTES, &image, |_| true);
    let (outcome, _) = rig.recover();
    assert!(!matches!(outcome, Outcome::LostAcknowledged { .. }), "{outcome:?}");
    assert!(rig.rows().contains(Row::Stranger), "{}", rig.rows());
}

#[test]
fn a_record_of_a_newer_build_is_never_taken_for_torn() {
    let (rig, _) = with_frames(2);
    let tail = tail_of(&rig.recover().0);
    let open = tail.open.unwrap();
    let info = FrameInfo {
        disk: DISK,
        block: open.cursor / BLOCK_BYTES,
        segment_epoch: open.epoch,
        incarnation: 2,
        sequence: tail.next_sequence,
        previous_chain: tail.chain,
        durable_upto: tail.next_sequence - 1,
        payload_blocks: 0,
    };
    // The version is behind the chain value; the chain value's low half is the checksum of what follows it.
    let mut header = frame::encode(&info, &[]).0.to_vec();
    header[16] = 2;
    let crc = cairn_format::checksum::crc32c(&header[16..]);
    header[8..12].copy_from_slice(&crc.to_le_bytes());
    let mut disk = rig.disk.clone();
    disk.write(open.cursor, &Bytes::from(header), |_| true);
    let (outcome, _, rows) = recover_by_rows(&disk, &rig.geometry);
    assert!(rows.contains(Row::NewerBuild), "{rows}");
    assert!(
        matches!(outcome, Outcome::Unsupported { offset, .. } if offset == open.cursor),
        "{outcome:?}"
    );
}

#[test]
fn restarts_take_no_segment_each() {
    let mut rig = Rig::new(3);
    for _ in 0..50 {
        rig.push_entry(1);
        rig.settle();
        rig.restart();
    }
    assert_eq!(rig.pushed.len(), 50);
    assert_eq!(tail_of(&rig.recover().0).free.len(), 2);
}

/// What the next frame of the log would say.
fn next_frame(tail: &LogTail) -> FrameInfo {
    let open = tail.open.unwrap();
    FrameInfo {
        disk: DISK,
        block: open.cursor / BLOCK_BYTES,
        segment_epoch: open.epoch,
        incarnation: tail.incarnation,
        sequence: tail.next_sequence,
        previous_chain: tail.chain,
        durable_upto: tail.next_sequence - 1,
        payload_blocks: 0,
    }
}

#[test]
fn a_frame_that_differs_in_one_thing_is_not_the_next_one() {
    let (rig, _) = with_frames(3);
    let tail = tail_of(&rig.recover().0);
    let open = tail.open.unwrap();
    let next = next_frame(&tail);
    let recovered = |info: &FrameInfo| {
        let mut disk = rig.disk.clone();
        disk.write(open.cursor, &frame::encode(info, &[]).0, |_| true);
        let (outcome, _, rows) = recover_by_rows(&disk, &rig.geometry);
        (tail_of(&outcome).next_sequence, rows)
    };
    let sequence_of = |info| recovered(info).0;
    assert_eq!(sequence_of(&next), tail.next_sequence + 1, "the right one is accepted");
    let one_of_the_past = FrameInfo {
        incarnation: tail.incarnation - 1,
        ..next
    };
    assert_eq!(
        sequence_of(&one_of_the_past),
        tail.next_sequence + 1,
        "of the same opening as the frame before"
    );
    for wrong in [
        FrameInfo {
            disk: DiskId::from_bytes([9; 16]),
            ..next
        },
        FrameInfo {
            block: next.block + 1,
            ..next
        },
        FrameInfo {
            segment_epoch: next.segment_epoch + 1,
            ..next
        },
        FrameInfo {
            sequence: next.sequence - 1,
            durable_upto: next.sequence - 2,
            ..next
        },
        FrameInfo {
            previous_chain: next.previous_chain ^ 1,
            ..next
        },
    ] {
        let (sequence, rows) = recovered(&wrong);
        assert_eq!(sequence, tail.next_sequence, "{wrong:?}");
        let is_ours = wrong.disk == DISK && wrong.block == next.block;
        let row = if is_ours { Row::Leftover } else { Row::Stranger };
        assert!(rows.contains(row), "{wrong:?}: {rows}");
    }
}

#[test]
fn the_log_never_goes_back_to_an_earlier_opening() {
    let (mut rig, _) = with_frames(3);
    rig.restart();
    rig.settle();
    let tail = tail_of(&rig.recover().0);
    let earlier = FrameInfo {
        incarnation: 1,
        ..next_frame(&tail)
    };
    rig.disk
        .write(tail.open.unwrap().cursor, &frame::encode(&earlier, &[]).0, |_| true);
    assert_eq!(tail_of(&rig.recover().0).next_sequence, tail.next_sequence);
    assert_eq!(rig.rows(), rows(&[Row::Whole, Row::WholeUnvouched, Row::Leftover]));
}

#[test]
fn a_frame_of_a_later_opening_stands_against_a_segment_that_was_given_up() {
    let (mut rig, _) = with_frames(3);
    let tail = tail_of(&rig.recover().0);
    let header = SegmentHeader {
        disk: DISK,
        segment: 1,
        head: HeadKind::Hot,
        epoch: 1,
        incarnation: 1,
        first_sequence: tail.next_sequence,
        chain_before: tail.chain,
        durable_upto: tail.next_sequence - 1,
    };
    rig.disk
        .write(rig.geometry.segment_offset(1), &header.encode(), |_| true);
    assert_eq!(
        tail_of(&rig.recover().0).open.unwrap().segment,
        1,
        "the log goes on there"
    );
    let later = FrameInfo {
        incarnation: 2,
        ..next_frame(&tail)
    };
    rig.disk
        .write(tail.open.unwrap().cursor, &frame::encode(&later, &[]).0, |_| true);
    let found = tail_of(&rig.recover().0);
    assert_eq!(
        (found.open.unwrap().segment, found.next_sequence),
        (0, tail.next_sequence + 1)
    );
    assert_eq!(
        rig.rows(),
        rows(&[Row::Whole, Row::LaterOpening, Row::WholeUnvouched, Row::Nothing])
    );
}

#[test]
fn two_lost_segment_headers_are_noticed_by_the_frames_of_the_second() {
    let mut rig = Rig::new(8);
    for _ in 0..3 {
        rig.push_entry(256);
        rig.settle();
    }
    rig.disk.flip(rig.geometry.segment_offset(1) + 50, 1);
    rig.disk.flip(rig.geometry.segment_offset(2) + 50, 1);
    assert_eq!(lost(&rig.recover().0).0, 2);
    assert_eq!(rig.rows(), rows(&[Row::LostSegmentHeader]));
}

#[test]
fn even_a_torn_frame_gives_away_its_opening() {
    let (mut rig, _) = with_frames(3);
    rig.restart();
    rig.push_entry(100);
    rig.compose();
    // Of the second opening only the first sector of its first frame arrives, over what must not be there.
    let offset = rig.frame_offset(0);
    rig.crash(|_, sector| sector == 0);
    rig.disk.flip(offset + 600, 1);
    let (outcome, _) = rig.recover();
    assert!(matches!(outcome, Outcome::TornTail { .. }), "{outcome:?}");
    assert_eq!(tail_of(&outcome).incarnation, 3);
}

#[test]
fn a_segment_whose_header_is_lost_is_begun_under_a_new_epoch() {
    let mut rig = Rig::new(8);
    rig.push_entry(256);
    rig.settle();
    rig.push_entry(256);
    rig.compose();
    rig.crash(|_, sector| sector >= 8);
    let outcome = rig.restart();
    assert_eq!(rig.pushed.len(), 1);
    assert_eq!(tail_of(&outcome).incarnation, 2);
    rig.push_entry(256);
    rig.settle();
    let header = SegmentHeader::decode(&rig.disk.read(rig.geometry.segment_offset(1), 4096).unwrap()).unwrap();
    assert_eq!(header.epoch, 2);
}
