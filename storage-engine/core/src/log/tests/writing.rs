//! What the writer promises: batches, the window, the order of durability, the bounds of segments and of the disk.

use cairn_api::ids::GroupId;
use cairn_api::units::BLOCK_BYTES;

use super::{DISK, Rig, tail_of};
use crate::event::DiskFault;
use crate::log::{HeaderRead, LogSettings, Record, Ticket, parse_frame_entries};

#[test]
fn records_that_wait_share_a_frame() {
    let mut rig = Rig::new(4);
    rig.push_entry(1);
    assert_eq!(rig.compose(), 1);
    rig.push_entry(1);
    assert_eq!(rig.compose(), 1);
    for _ in 0..10 {
        rig.push_entry(1);
    }
    assert_eq!(rig.compose(), 0, "two frames are under way");
    rig.complete(0);
    assert_eq!(rig.compose(), 1);
    let batch = rig.under_way.last().unwrap();
    assert_eq!(batch.records, [(GroupId(2), Ticket(12))]);
    assert_eq!(batch.placed.len(), 10);
    // One block of header for ten of payload.
    assert_eq!(
        batch.buffers.iter().map(|buffer| buffer.len() as u64).sum::<u64>(),
        11 * BLOCK_BYTES
    );
}

#[test]
fn durable_is_what_is_durable_from_the_start_on() {
    let mut rig = Rig::new(4);
    rig.push_entry(1);
    rig.compose();
    rig.push_entry(1);
    rig.compose();
    let (first, second) = (rig.under_way[0].io, rig.under_way[1].io);
    assert_eq!(rig.writer.completed(second), None);
    assert!(!rig.writer.is_open());
    assert_eq!(
        rig.writer.completed(first),
        Some(vec![(GroupId(2), Ticket(1)), (GroupId(2), Ticket(2))])
    );
    assert!(rig.writer.is_open());
    assert_eq!(rig.writer.completed(first), None, "a completion counts once");
}

#[test]
fn the_log_is_opened_by_a_frame_even_if_nothing_is_pushed() {
    let mut rig = Rig::new(4);
    assert!(rig.writer.has_queued());
    assert_eq!(rig.compose(), 1);
    assert!(rig.under_way[0].records.is_empty());
    assert!(!rig.writer.has_queued());
    let io = rig.under_way[0].io;
    assert_eq!(rig.writer.completed(io), Some(Vec::new()));
}

#[test]
fn payload_is_written_from_the_buffer_that_was_pushed() {
    let mut rig = Rig::new(4);
    let entry = rig.entry(3);
    let Record::Entry { payload, .. } = &entry else {
        unreachable!()
    };
    let pushed = payload.as_ptr();
    rig.push(entry.clone());
    rig.compose();
    // Segment header, frame header, payload.
    assert_eq!(rig.under_way[0].buffers.len(), 3);
    assert_eq!(rig.under_way[0].buffers[2].as_ptr(), pushed);
    for header in &rig.under_way[0].buffers[..2] {
        assert!(
            (header.as_ptr() as usize).is_multiple_of(4096),
            "direct I/O needs aligned memory"
        );
    }
}

#[test]
fn a_frame_is_at_most_as_long_as_set() {
    let settings = LogSettings {
        frames_in_flight_max: 1,
        frame_payload_blocks_max: 8,
        ..LogSettings::default()
    };
    let mut rig = Rig::with_settings(4, settings);
    for blocks in [5, 3, 1, 20, 8] {
        rig.push_entry(blocks);
    }
    let mut frames = Vec::new();
    while rig.compose() == 1 {
        frames.push(rig.under_way[0].placed.len());
        rig.complete(0);
    }
    assert_eq!(
        frames,
        [2, 1, 1, 1],
        "a record longer than the bound has its frame to itself"
    );
    assert_eq!(rig.durable, 5);
}

#[test]
fn placed_entries_can_be_read_back_by_their_frame() {
    let mut rig = Rig::new(4);
    for blocks in [2, 0, 3] {
        rig.push_entry(blocks);
    }
    rig.compose();
    let placed = rig.under_way[0].placed.clone();
    rig.settle();
    let offset = placed[0].frame_offset;
    let length = HeaderRead::Guess.bytes(rig.writer.bytes_to_segment_end(offset));
    let bytes = rig.disk.read(offset, length).unwrap();
    let entries = parse_frame_entries(DISK, &bytes, GroupId(2)).unwrap();
    assert_eq!(entries.len(), 3);
    for (entry, placed) in entries.iter().zip(&placed) {
        assert_eq!((entry.term, entry.index), (placed.term, placed.index));
        assert_eq!(entry.payload_block, placed.payload_block);
    }
    assert_eq!(placed[1].payload_block, 0);
    assert_eq!(placed[2].payload_block, placed[0].payload_block + 2);
    assert_eq!(parse_frame_entries(DISK, &bytes, GroupId(3)), Ok(Vec::new()));
}

#[test]
fn a_header_of_any_length_is_read_around_bad_sectors_in_a_few_steps() {
    let mut rig = Rig::new(4);
    for _ in 0..200 {
        rig.push_entry(1);
    }
    rig.compose();
    let fault = || Err(DiskFault::Os("bad sector".to_owned()));
    let left = rig.writer.bytes_to_segment_end(rig.under_way[0].placed[0].frame_offset);
    assert_eq!(HeaderRead::Guess.next(&fault(), left), Some(HeaderRead::FirstBlock));
    assert_eq!(HeaderRead::FirstBlock.next(&fault(), left), None);
    let mut buffers = rig.under_way[0].buffers.iter();
    let header = buffers.rfind(|buffer| buffer.starts_with(b"CAIRNFRM")).unwrap();
    let whole = header.len() as u32;
    assert!(whole > 2 * 4096, "{whole} bytes of header");
    for (read, bytes) in [(HeaderRead::Guess, 8192), (HeaderRead::FirstBlock, 4096)] {
        let result = Ok(header.slice(..bytes));
        assert_eq!(read.next(&result, left), Some(HeaderRead::Whole(whole)));
        assert_eq!(read.next(&result, whole - 1), None, "not beyond its segment");
    }
    assert_eq!(HeaderRead::Guess.next(&Ok(header.clone()), left), None);
    assert_eq!(HeaderRead::Whole(whole).next(&Ok(header.slice(..4096)), left), None);
    assert_eq!(HeaderRead::Whole(whole).next(&fault(), left), None);
}

#[test]
fn a_frame_is_vouched_for_by_a_durable_later_one_only() {
    let mut rig = Rig::new(4);
    rig.push_entry(2);
    rig.compose();
    let first = rig.under_way[0].placed[0].payload_block;
    assert!(!rig.writer.is_vouched(1000), "not open yet");
    rig.settle();
    assert!(!rig.writer.is_vouched(first) && !rig.writer.is_vouched(first + 1));
    assert!(rig.writer.is_vouched(first + 2), "no block of any frame");
    rig.push_entry(1);
    rig.compose();
    let second = rig.under_way[0].placed[0].payload_block;
    assert!(!rig.writer.is_vouched(first), "the frame that vouches is not durable");
    rig.settle();
    assert!(rig.writer.is_vouched(first) && !rig.writer.is_vouched(second));
    rig.writer.vouch();
    rig.compose();
    rig.settle();
    assert!(rig.writer.is_vouched(second));
}

#[test]
fn frames_do_not_straddle_segments() {
    let mut rig = Rig::new(6);
    for _ in 0..6 {
        rig.push_entry(256);
    }
    loop {
        rig.compose();
        for write in &rig.under_way {
            let length: usize = write.buffers.iter().map(bytes::Bytes::len).sum();
            let segment = rig.geometry.segment_of(write.offset).unwrap();
            assert!(write.offset + length as u64 <= rig.geometry.segment_end(segment));
        }
        if rig.under_way.is_empty() {
            break;
        }
        rig.complete(0);
    }
    assert_eq!(rig.durable, 6);
    let (outcome, records) = rig.recover();
    assert_eq!(records.len(), 6);
    assert_eq!(tail_of(&outcome).free.len(), 0);
}

#[test]
fn what_is_promised_to_be_free_is_free() {
    for blocks in [1, 2, 7, 100, 256] {
        let mut rig = Rig::new(8);
        let mut accepted = 0;
        while rig.writer.free_blocks() >= u64::from(blocks) {
            rig.push_entry(blocks);
            // The worst case: each record in a frame of its own.
            rig.settle();
            accepted += 1;
        }
        assert!(accepted > 0);
        assert_eq!(rig.durable, accepted, "with {blocks} blocks each");
        assert!(!rig.writer.is_exhausted(), "the reserve is left");
    }
}

#[test]
fn queued_records_are_subtracted_from_what_is_free() {
    let mut rig = Rig::new(8);
    let before = rig.writer.free_blocks();
    rig.push_entry(10);
    assert!(rig.writer.free_blocks() + 5 <= before);
    while rig.writer.free_blocks() >= 10 {
        rig.push_entry(10);
    }
    rig.settle();
    assert_eq!(rig.durable, rig.pushed.len());
}

#[test]
fn a_full_disk_still_takes_records_without_payload() {
    let mut rig = Rig::new(4);
    while rig.writer.free_blocks() >= 256 {
        rig.push_entry(256);
        rig.settle();
    }
    let mut small = 0;
    while !rig.writer.is_exhausted() {
        let record = rig.hard_state();
        rig.push(record);
        rig.settle();
        small += 1;
    }
    assert!(small > 400, "a reserve of a whole segment, but only {small} records");
    assert_eq!(rig.durable, rig.pushed.len());
    let durable = rig.durable;
    rig.restart();
    assert_eq!(rig.pushed.len(), durable);
}

#[test]
fn an_exhausted_disk_takes_nothing_and_loses_nothing() {
    let mut rig = Rig::new(2);
    while !rig.writer.is_exhausted() {
        let record = rig.hard_state();
        rig.push(record);
        rig.settle();
    }
    // Sooner or later there is no more room, but never too little for the log to be opened.
    for restarts in 0..200 {
        let record = rig.hard_state();
        rig.push(record);
        rig.settle();
        assert!(rig.writer.is_open(), "after {restarts} restarts");
        assert!(rig.writer.is_exhausted());
        rig.restart();
        assert_eq!(rig.writer.free_blocks(), 0);
    }
}

#[test]
fn an_idle_log_vouches_for_its_last_frame_once() {
    let mut rig = Rig::new(4);
    rig.settle();
    rig.writer.vouch();
    assert!(
        !rig.writer.has_queued(),
        "the opening frame holds nothing worth vouching for"
    );
    rig.push_entry(1);
    rig.settle();
    rig.writer.vouch();
    assert!(rig.writer.has_queued());
    rig.settle();
    rig.writer.vouch();
    assert!(!rig.writer.has_queued());
    assert_eq!(rig.durable, 1);
}
