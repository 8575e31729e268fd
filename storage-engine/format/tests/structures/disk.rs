//! What is written to a disk comes back as it was; any changed byte is noticed; garbage is refused without a fuss.

use super::strategies;
use bytes::Bytes;
use cairn_api::ids::{DiskId, NodeId};
use cairn_api::units::BLOCK_SIZE;
use cairn_format::checksum::block_crcs;
use cairn_format::entry::{BlockCrcs, EntryHeader, HEADER_BYTES_MAX};
use cairn_format::error::FormatError;
use cairn_format::frame::{self, FRAME_HEADER_BYTES_MAX, FrameRecord};
use cairn_format::segment::SegmentHeader;
use cairn_format::superblock::{ChooseError, Geometry, Superblock, choose, second_copy_offset, segment_size_for};
use proptest::prelude::*;

pub(crate) fn flipped(bytes: &[u8], place: usize, mask: u8) -> Bytes {
    let mut changed = bytes.to_vec();
    let place = place % changed.len();
    changed[place] ^= mask;
    changed.into()
}

proptest! {
    #[test]
    fn a_superblock_comes_back(superblock in strategies::superblock()) {
        let bytes = superblock.encode();
        prop_assert_eq!(bytes.len(), BLOCK_SIZE as usize);
        prop_assert_eq!(Superblock::decode(&bytes), Ok(superblock));
    }

    #[test]
    fn a_changed_byte_of_a_superblock_is_noticed(
        superblock in strategies::superblock(),
        place in any::<usize>(),
        mask in 1_u8..,
    ) {
        prop_assert!(Superblock::decode(&flipped(&superblock.encode(), place, mask)).is_err());
    }

    #[test]
    fn a_segment_header_comes_back(header in strategies::segment_header()) {
        prop_assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn a_changed_byte_of_a_segment_header_is_noticed(
        header in strategies::segment_header(),
        place in any::<usize>(),
        mask in 1_u8..,
    ) {
        prop_assert!(SegmentHeader::decode(&flipped(&header.encode(), place, mask)).is_err());
    }

    #[test]
    fn an_entry_header_comes_back(header in strategies::entry_header()) {
        let bytes = header.encode();
        prop_assert_eq!(bytes.len(), header.encoded_len());
        prop_assert!(bytes.len() <= HEADER_BYTES_MAX);
        let crcs = BlockCrcs::of_header(&bytes).unwrap();
        prop_assert_eq!(crcs.count(), header.payload_blocks());
        prop_assert_eq!(crcs.iter().collect::<Vec<_>>(), header.block_crcs());
        prop_assert_eq!(EntryHeader::decode(&bytes), Ok(header));
    }

    #[test]
    fn a_frame_comes_back((info, records) in strategies::frame()) {
        let (bytes, chain) = frame::encode(&info, &records);
        prop_assert!(bytes.len().is_multiple_of(BLOCK_SIZE as usize));
        prop_assert!(bytes.len() <= FRAME_HEADER_BYTES_MAX);
        let decoded = frame::decode(&bytes).unwrap();
        prop_assert_eq!(decoded.info, info);
        prop_assert_eq!(frame::claims_of(&bytes), Some((info.disk, info.incarnation)));
        prop_assert_eq!(decoded.chain, chain);
        prop_assert_eq!(decoded.header_blocks as usize * BLOCK_SIZE as usize, bytes.len());
        prop_assert_eq!(decoded.records, records);
    }

    #[test]
    fn a_changed_byte_of_a_frame_is_noticed(
        (info, records) in strategies::frame(),
        place in any::<usize>(),
        mask in 1_u8..,
    ) {
        let (bytes, _) = frame::encode(&info, &records);
        prop_assert!(frame::decode(&flipped(&bytes, place, mask)).is_err());
    }

    #[test]
    fn garbage_is_refused(garbage in proptest::collection::vec(any::<u8>(), 0..9000)) {
        prop_assert!(Superblock::decode(&garbage).is_err());
        prop_assert!(SegmentHeader::decode(&garbage).is_err());
        prop_assert!(frame::decode(&Bytes::from(garbage.clone())).is_err());
        // A header has no checksum of its own, so garbage may mean something; it must only not hurt.
        let _ = EntryHeader::decode(&garbage);
        let _ = BlockCrcs::of_header(&garbage);
    }

    #[test]
    fn entry_headers_bent_by_a_byte_decode_alike(
        header in strategies::entry_header(),
        place in any::<usize>(),
        mask in 1_u8..,
    ) {
        let bytes = flipped(&header.encode(), place, mask);
        let crcs = BlockCrcs::of_header(&bytes).map(|crcs| crcs.count());
        prop_assert_eq!(crcs, EntryHeader::decode(&bytes).map(|header| header.payload_blocks()));
        if let Ok(decoded) = EntryHeader::decode(&bytes) {
            prop_assert_eq!(decoded.encode(), bytes);
        }
    }
}

fn sample() -> Superblock {
    Superblock::unclaimed(DiskId::from_bytes([7; 16]), 2 << 30, 64 << 20, 1_700_000_000).unwrap()
}

#[test]
fn two_gibibytes_hold_31_segments() {
    // The first MiB and the second superblock take their share of the last.
    assert_eq!(sample().geometry.segment_count, 31);
    assert_eq!(sample().geometry.segment_of((1 << 20) + (64 << 20)), Some(1));
    assert_eq!(sample().geometry.segment_of(0), None);
    assert_eq!(sample().geometry.segment_of(sample().geometry.end()), None);
}

#[test]
fn small_disks_have_short_segments() {
    let sizes = [33_u64 << 20, 128 << 20, 256 << 20, 1 << 30, 4 << 30, 1 << 40];
    let found = sizes.map(|size| segment_size_for(size) >> 20);
    assert_eq!(found, [2, 2, 4, 16, 64, 64]);
    for size in sizes {
        let geometry = Geometry::for_device(size + (2 << 20), segment_size_for(size)).unwrap();
        assert!(geometry.segment_count >= 16, "{size}: {geometry:?}");
    }
}

#[test]
fn a_device_too_small_for_its_segments_is_refused_by_name() {
    let error = Geometry::for_device(64 << 20, 64 << 20).unwrap_err();
    assert_eq!(
        error.to_string(),
        "superblock: segment count is 0, expected at least 16: the device is too small"
    );
}

#[test]
fn the_second_copy_is_in_the_last_whole_block() {
    assert_eq!(second_copy_offset(10 * 4096), 9 * 4096);
    assert_eq!(second_copy_offset(10 * 4096 + 4095), 9 * 4096);
    assert_eq!(second_copy_offset(100), 0);
}

#[test]
fn the_newest_valid_superblock_rules() {
    let older = sample();
    let newer = Superblock { generation: 2, ..older };
    assert_eq!(choose(&older.encode(), &newer.encode()), Ok(newer));
    assert_eq!(choose(&newer.encode(), &older.encode()), Ok(newer));
    assert_eq!(choose(&flipped(&newer.encode(), 100, 1), &older.encode()), Ok(older));
    assert_eq!(choose(&older.encode(), &[0; 4096]), Ok(older));
}

#[test]
fn two_bad_superblocks_are_both_explained() {
    let error = choose(&flipped(&sample().encode(), 100, 1), &[0; 4096]).unwrap_err();
    let ChooseError::Neither { first, second } = &error else {
        panic!("{error:?}")
    };
    assert!(matches!(**first, FormatError::Checksum { .. }));
    assert!(matches!(**second, FormatError::Magic { .. }));
    assert!(
        error.to_string().contains("the first: superblock: the checksum"),
        "{error}"
    );
}

#[test]
fn superblocks_of_two_disks_are_not_chosen_from() {
    let stranger = Superblock {
        disk: DiskId::from_bytes([8; 16]),
        generation: 9,
        ..sample()
    };
    assert!(matches!(
        choose(&sample().encode(), &stranger.encode()),
        Err(ChooseError::Different { .. })
    ));
}

#[test]
fn an_unknown_operation_is_refused_by_name() {
    let mut bytes = EntryHeader::Attach {
        epoch: Default::default(),
        holder: NodeId::NIL,
    }
    .encode()
    .to_vec();
    bytes[1] = 99;
    let error = EntryHeader::decode(&bytes).unwrap_err();
    assert!(error.is_newer());
    assert_eq!(
        error.to_string(),
        "entry header: operation 99 is unknown, known are 1 write, 2 zero, 3 attach, 4 command, 5 members, 6 resize, 7 snapshot, \
         8 deletion of a snapshot, 9 fill"
    );
}

#[test]
fn a_full_write_fits_a_frame_header_of_one_block() {
    let payload = vec![1; 1 << 20];
    let header = EntryHeader::Write {
        epoch: Default::default(),
        lba: Default::default(),
        block_crcs: block_crcs(&payload),
    };
    let record = FrameRecord::Entry {
        group: Default::default(),
        term: Default::default(),
        index: Default::default(),
        payload_offset: 0,
        header: header.encode(),
    };
    assert_eq!(frame::header_blocks_for(record.encoded_len()), 1);
}
