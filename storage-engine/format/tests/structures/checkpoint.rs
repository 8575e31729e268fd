//! What checkpoints and collection write comes back as it was; what a checksum covers may not change by a bit; and where
//! none does, what decodes is what stands there.

use super::disk::flipped;
use super::strategies;
use bytes::{Bytes, BytesMut};
use cairn_api::ids::{DiskId, GroupId};
use cairn_api::units::BLOCK_SIZE;
use cairn_format::anchor::{ANCHOR_BYTES, ANCHOR_OFFSETS, Anchor};
use cairn_format::checksum::{crc32c, crc32c_append};
use cairn_format::chunk::{self, CHUNK_BLOCKS_MAX, CHUNK_BODY_BYTES_MAX, ChunkInfo, ChunkKind};
use cairn_format::error::FormatError;
use cairn_format::frame::{self, FIXED_BYTES, FrameInfo, FrameRecord, MOVED_RUNS_MAX, MovedRun};
use cairn_format::member::MEMBERS_MAX;
use cairn_format::moved::{self, MovedBlocks};
use cairn_format::page::{LeafPage, PageSlots};
use cairn_format::table::Table;
use proptest::prelude::*;

fn page_bytes(page: &LeafPage) -> BytesMut {
    let mut bytes = BytesMut::new();
    let (length, crc) = page.encode_into(&mut bytes);
    assert_eq!((length, Some(crc)), (bytes.len(), LeafPage::checksum_in(&bytes)));
    bytes
}

/// A page whose checksum is right, whatever it says.
fn sealed_page(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32c(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// A block or a chunk whose checksum is right: both have it behind the magic number.
fn sealed(mut bytes: Vec<u8>) -> Bytes {
    let crc = crc32c(&bytes[12..]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    bytes.into()
}

/// A frame header whose chain value is right.
fn sealed_frame(mut bytes: Vec<u8>) -> Bytes {
    let crc = crc32c(&bytes[16..]);
    let linked = crc32c_append(crc32c(&bytes[72..80]), &crc.to_le_bytes());
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    bytes[12..16].copy_from_slice(&linked.to_le_bytes());
    bytes.into()
}

fn replaced(bytes: &[u8], place: usize, with: &[u8]) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    changed[place..place + with.len()].copy_from_slice(with);
    changed
}

/// The encoder takes no more members than a group may have; the decoder takes as many as there are bytes for.
fn is_encodable(table: &Table) -> bool {
    let lists = |group: &cairn_format::table::TableGroup| {
        let lists = [&group.created_members, &group.voters, &group.learners];
        lists.iter().all(|members| members.len() <= MEMBERS_MAX)
    };
    table.groups.iter().all(lists)
}

proptest! {
    #[test]
    fn an_anchor_comes_back(anchor in strategies::anchor()) {
        let bytes = anchor.encode();
        prop_assert_eq!(bytes.len(), ANCHOR_BYTES);
        prop_assert!(ANCHOR_OFFSETS.contains(&anchor.offset()));
        prop_assert_eq!(Anchor::decode(&bytes), Ok(anchor));
    }

    #[test]
    fn a_changed_byte_of_an_anchor_is_noticed(
        anchor in strategies::anchor(),
        place in any::<usize>(),
        mask in 1_u8..,
    ) {
        prop_assert!(Anchor::decode(&flipped(&anchor.encode(), place, mask)).is_err());
    }

    #[test]
    fn an_anchor_under_a_right_checksum_is_what_stands_there(
        anchor in strategies::anchor(),
        place in 12..256_usize,
        mask in 1_u8..,
    ) {
        let bytes = sealed(flipped(&anchor.encode(), place, mask).to_vec());
        if let Ok(decoded) = Anchor::decode(&bytes) {
            prop_assert_eq!(decoded.encode(), bytes);
        }
    }

    #[test]
    fn a_chunk_comes_back((info, body) in strategies::chunk()) {
        let bytes = chunk::encode(&info, &body);
        prop_assert_eq!(bytes.len(), chunk::chunk_blocks(body.len()) as usize * BLOCK_SIZE as usize);
        prop_assert!(chunk::is_chunk(&bytes));
        prop_assert_eq!(chunk::decode(&bytes), Ok((info, body.into())));
    }

    #[test]
    fn a_changed_byte_of_a_chunk_is_noticed(
        (info, body) in strategies::chunk(),
        place in any::<usize>(),
        mask in 1_u8..,
    ) {
        prop_assert!(chunk::decode(&flipped(&chunk::encode(&info, &body), place, mask)).is_err());
    }

    #[test]
    fn a_chunk_under_a_right_checksum_is_what_stands_there(
        (info, body) in strategies::chunk(),
        place in 12..96_usize,
        mask in 1_u8..,
    ) {
        let bytes = sealed(flipped(&chunk::encode(&info, &body), place, mask).to_vec());
        if let Ok((info, body)) = chunk::decode(&bytes) {
            prop_assert_eq!(chunk::encode(&info, &body), bytes);
        }
    }

    #[test]
    fn a_chunk_of_other_blocks_is_refused((info, body) in strategies::chunk(), cut in any::<usize>()) {
        let bytes = chunk::encode(&info, &body);
        prop_assert!(chunk::decode(&bytes.slice(..cut % bytes.len())).is_err());
        let longer = [&bytes[..], &[0; BLOCK_SIZE as usize]].concat();
        prop_assert!(chunk::decode(&sealed(longer)).is_err());
    }

    #[test]
    fn a_page_comes_back(page in strategies::leaf_page()) {
        let bytes = page_bytes(&page);
        prop_assert!(u16::try_from(bytes.len()).is_ok(), "a table names its length with 16 bits");
        prop_assert_eq!(LeafPage::decode(&bytes), Ok(page));
    }

    #[test]
    fn a_changed_byte_of_a_page_is_noticed(
        page in strategies::leaf_page(),
        place in any::<usize>(),
        mask in 1_u8..,
    ) {
        prop_assert!(LeafPage::decode(&flipped(&page_bytes(&page), place, mask)).is_err());
    }

    #[test]
    fn a_page_under_a_right_checksum_is_what_stands_there(
        page in strategies::leaf_page(),
        place in any::<usize>(),
        mask in 1_u8..,
    ) {
        let bytes = page_bytes(&page);
        let bent = sealed_page(flipped(&bytes, 4 + place % (bytes.len() - 4), mask).to_vec());
        if let Ok(decoded) = LeafPage::decode(&bent) {
            prop_assert_eq!(&page_bytes(&decoded)[..], &bent[..]);
        }
    }

    #[test]
    fn a_page_that_is_cut_or_goes_on_is_refused(page in strategies::leaf_page(), cut in any::<usize>()) {
        let bytes = page_bytes(&page);
        let cut = bytes[..cut % bytes.len()].to_vec();
        prop_assert!(LeafPage::decode(&cut).is_err());
        if cut.len() >= 4 {
            prop_assert!(LeafPage::decode(&sealed_page(cut)).is_err());
        }
        let longer = [&bytes[..], &[0]].concat();
        prop_assert!(LeafPage::decode(&sealed_page(longer)).is_err());
    }

    #[test]
    fn a_table_comes_back(table in strategies::table()) {
        prop_assert_eq!(Table::decode(&table.encode()), Ok(table));
    }

    #[test]
    fn a_table_bent_by_a_byte_is_refused_or_what_stands_there(
        table in strategies::table(),
        place in any::<usize>(),
        mask in 1_u8..,
    ) {
        // The chunks around it have the checksum.
        let bytes = flipped(&table.encode(), place, mask);
        if let Ok(decoded) = Table::decode(&bytes)
            && is_encodable(&decoded)
        {
            prop_assert_eq!(decoded.encode(), bytes);
        }
    }

    #[test]
    fn a_table_that_is_cut_or_goes_on_is_refused(table in strategies::table(), cut in any::<usize>()) {
        let bytes = table.encode();
        prop_assert!(Table::decode(&bytes.slice(..cut % bytes.len())).is_err());
        let longer = [&bytes[..], &[0]].concat();
        prop_assert!(Table::decode(&longer.into()).is_err());
    }

    #[test]
    fn a_table_with_an_absurd_number_anywhere_does_no_harm(table in strategies::table(), place in any::<usize>()) {
        let bytes = table.encode();
        let place = place % (bytes.len() - 3);
        let _ = Table::decode(&replaced(&bytes, place, &u32::MAX.to_le_bytes()).into());
    }

    #[test]
    fn names_of_moved_blocks_come_back(runs in strategies::moved_blocks()) {
        let bytes = moved::encode(&runs);
        prop_assert_eq!(bytes.len(), 20 * runs.len());
        prop_assert_eq!(moved::decode(&bytes), Ok(runs));
    }

    #[test]
    fn names_of_moved_blocks_bent_by_a_byte_are_refused_or_what_stands_there(
        runs in strategies::moved_blocks().prop_filter("some", |runs| !runs.is_empty()),
        place in any::<usize>(),
        mask in 1_u8..,
    ) {
        let bytes = flipped(&moved::encode(&runs), place, mask);
        if let Ok(decoded) = moved::decode(&bytes) {
            prop_assert_eq!(&moved::encode(&decoded)[..], &bytes[..]);
        }
    }

    #[test]
    fn names_of_moved_blocks_are_whole_runs(runs in strategies::moved_blocks(), cut in any::<usize>()) {
        let bytes = moved::encode(&runs);
        let cut = cut % (bytes.len() + 1);
        let expected = cut.is_multiple_of(20).then(|| runs[..cut / 20].to_vec());
        prop_assert_eq!(moved::decode(&bytes[..cut]).ok(), expected);
    }

    #[test]
    fn a_full_record_of_moved_blocks_comes_back(
        info in frame_info(),
        group in any::<u64>(),
        runs in proptest::collection::vec(strategies::moved_run(), MOVED_RUNS_MAX),
    ) {
        let records = vec![FrameRecord::Moved { group: GroupId(group), runs }];
        let (bytes, _) = frame::encode(&info, &records);
        prop_assert_eq!(frame::decode(&bytes).map(|frame| frame.records), Ok(records));
    }

    #[test]
    fn a_record_of_moved_blocks_under_a_right_chain_value_is_what_stands_there(
        info in frame_info(),
        runs in proptest::collection::vec(strategies::moved_run(), 1..=4),
        place in any::<usize>(),
        mask in 1_u8..,
    ) {
        let record = FrameRecord::Moved { group: GroupId(7), runs };
        let length = record.encoded_len();
        let (bytes, _) = frame::encode(&info, &[record]);
        // Kind and length of the record are left as they are.
        let place = FIXED_BYTES + 4 + place % (length - 4);
        let bent = sealed_frame(flipped(&bytes, place, mask).to_vec());
        if let Ok(decoded) = frame::decode(&bent) {
            prop_assert_eq!(frame::encode(&decoded.info, &decoded.records).0, bent);
        }
    }

    #[test]
    fn garbage_is_refused_as_a_part_of_a_checkpoint(garbage in proptest::collection::vec(any::<u8>(), 0..9000)) {
        let bytes = Bytes::from(garbage);
        prop_assert!(Anchor::decode(&bytes).is_err());
        prop_assert!(chunk::decode(&bytes).is_err());
        prop_assert!(LeafPage::decode(&bytes).is_err());
        // These have no checksum of their own; garbage must only not hurt.
        let _ = Table::decode(&bytes);
        let _ = moved::decode(&bytes);
        if bytes.len() >= 4 {
            let _ = LeafPage::decode(&sealed_page(bytes.to_vec()));
        }
    }
}

fn frame_info() -> impl Strategy<Value = FrameInfo> {
    strategies::frame().prop_map(|(info, _)| info)
}

fn some_frame(record: FrameRecord) -> Vec<u8> {
    let info = FrameInfo {
        disk: DiskId::from_bytes([7; 16]),
        block: 300,
        segment_epoch: 1,
        incarnation: 1,
        sequence: 9,
        previous_chain: 5,
        durable_upto: 8,
        payload_blocks: 0,
    };
    frame::encode(&info, &[record]).0.to_vec()
}

fn words<T: std::fmt::Debug>(result: Result<T, FormatError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn every_bit_of_a_small_page_counts() {
    let page = LeafPage {
        key: cairn_format::page::LeafKey {
            group: GroupId(3),
            owner: 0,
            leaf: 9,
        },
        runs: vec![
            cairn_format::page::PageRun {
                first: 4,
                birth: 70,
                slots: PageSlots::Data {
                    block: 1000,
                    crcs: vec![1, 2],
                },
            },
            cairn_format::page::PageRun {
                first: 6,
                birth: 60,
                slots: PageSlots::Trimmed(506),
            },
        ],
    };
    let bytes = page_bytes(&page);
    for bit in 0..8 * bytes.len() {
        let bent = flipped(&bytes, bit / 8, 1 << (bit % 8));
        assert!(LeafPage::decode(&bent).is_err(), "bit {bit}");
    }
    for length in 0..bytes.len() {
        assert!(LeafPage::decode(&bytes[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn the_longest_page_fits_what_a_table_says_of_it() {
    let slot = |first: u16| cairn_format::page::PageRun {
        first,
        birth: 1,
        slots: PageSlots::Data {
            block: 2 * u64::from(first),
            crcs: vec![3],
        },
    };
    let page = LeafPage {
        key: cairn_format::page::LeafKey {
            group: GroupId(3),
            owner: 5,
            leaf: 9,
        },
        runs: (0..512).map(slot).collect(),
    };
    let bytes = page_bytes(&page);
    assert_eq!(bytes.len(), 32 + 512 * 20);
    assert_eq!(LeafPage::decode(&bytes), Ok(page));
}

#[test]
fn absurd_counts_are_refused_by_name() {
    let many = u32::MAX.to_le_bytes();
    let empty = Table::default().encode();
    for (place, field) in [
        (12, "group count"),
        (16, "count of dropped groups"),
        (20, "count of free ranges"),
        (24, "leaf count"),
    ] {
        let found = words(Table::decode(&replaced(&empty, place, &many).into()));
        assert_eq!(
            found,
            format!("checkpoint table: {field} is 4294967295, expected no more than fit")
        );
    }
    let page = LeafPage {
        key: cairn_format::page::LeafKey {
            group: GroupId(3),
            owner: 0,
            leaf: 9,
        },
        runs: Vec::new(),
    };
    let bytes = sealed_page(replaced(&page_bytes(&page), 4, &[255, 255]));
    assert_eq!(
        words(LeafPage::decode(&bytes)),
        "leaf page: run count is 65535, expected no more than fit"
    );
}

#[test]
fn more_members_than_a_group_has_are_refused() {
    let with_members = |count: u8| {
        let mut bytes = Table::default().encode().to_vec();
        bytes[12..16].copy_from_slice(&1_u32.to_le_bytes());
        let mut group = vec![0; 17 * 8 + 16 + 2 * 24];
        group.extend([count, 0, 0, 0]);
        group.resize(group.len() + usize::from(count) * 40 + 4 * 4, 0);
        bytes.splice(16..16, group);
        Table::decode(&bytes.into()).map(|table| table.groups[0].created_members.len())
    };
    assert_eq!(with_members(16), Ok(16));
    assert_eq!(
        words(with_members(17)),
        "checkpoint table: member count is 17, expected at most 16"
    );
}

#[test]
fn absurd_counts_within_a_group_are_refused_by_name() {
    // The numbers, the holder and two bases, then five counts with nothing behind them.
    let group_bytes = 17 * 8 + 16 + 2 * 24;
    let mut bytes = Table::default().encode().to_vec();
    bytes[12..16].copy_from_slice(&1_u32.to_le_bytes());
    bytes.splice(16..16, vec![0; group_bytes + 5 * 4]);
    assert_eq!(
        Table::decode(&bytes.clone().into()).map(|table| table.groups.len()),
        Ok(1)
    );
    let counts = [
        "member count",
        "member count",
        "member count",
        "count of snapshots",
        "count of kept entries",
    ];
    for (number, field) in counts.into_iter().enumerate() {
        let place = 16 + group_bytes + 4 * number;
        let found = words(Table::decode(&replaced(&bytes, place, &u32::MAX.to_le_bytes()).into()));
        assert_eq!(
            found,
            format!("checkpoint table: {field} is 4294967295, expected no more than fit")
        );
    }
}

#[test]
fn half_a_base_is_refused_by_name() {
    let base_at = 16 + 17 * 8 + 16;
    let mut bytes = Table::default().encode().to_vec();
    bytes[12..16].copy_from_slice(&1_u32.to_le_bytes());
    bytes.splice(16..16, vec![0; base_at - 16 + 2 * 24 + 5 * 4]);
    let refusal = |fields: [u64; 3]| {
        let base: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
        words(Table::decode(&replaced(&bytes, base_at, &base).into()))
    };
    let expected = "checkpoint table: size of the base is 0, expected 1 to 2^51 blocks";
    assert_eq!(refusal([7, 1, 0]), expected);
    let expected = "checkpoint table: size of the base is 2251799813685249, expected 1 to 2^51 blocks";
    assert_eq!(refusal([7, 1, (1 << 51) + 1]), expected);
    let expected = "checkpoint table: snapshot of the base is 0, expected at least 1";
    assert_eq!(refusal([7, 0, 9]), expected);
}

#[test]
fn the_longest_chunk_comes_back_and_no_longer_body_is_believed() {
    let info = ChunkInfo {
        disk: DiskId::from_bytes([7; 16]),
        block: 600,
        epoch: 2,
        kind: ChunkKind::Table,
        generation: 5,
        previous_block: 0,
        previous_blocks: 0,
    };
    let body = vec![9; CHUNK_BODY_BYTES_MAX];
    let bytes = chunk::encode(&info, &body);
    assert_eq!(bytes.len(), (CHUNK_BLOCKS_MAX * BLOCK_SIZE) as usize);
    assert_eq!(chunk::decode(&bytes), Ok((info, body.into())));
    let short = chunk::encode(&info, &[1; 10]);
    for length in [4017_u32, 4096, u32::MAX] {
        let bent = sealed(replaced(&short, 68, &length.to_le_bytes()));
        let expected = format!("chunk: length of the body is {length}, expected what its blocks hold");
        assert_eq!(words(chunk::decode(&bent)), expected);
    }
}

#[test]
fn a_run_of_moved_blocks_without_blocks_or_with_too_many_is_refused() {
    let run = MovedRun {
        lba: 1,
        from: 2,
        to: 3,
        blocks: 4,
    };
    let moved = |blocks| {
        let run = |blocks| MovedBlocks {
            group: GroupId(1),
            lba: 8,
            blocks,
        };
        moved::decode(&moved::encode(&[run(1), run(blocks)]))
    };
    assert!(moved(255).is_ok());
    for blocks in [0, 256, u32::MAX] {
        assert_eq!(
            words(moved(blocks)),
            format!("names of moved blocks: blocks is {blocks}, expected 1 to 256 in all")
        );
    }
    let frame = some_frame(FrameRecord::Moved {
        group: GroupId(1),
        runs: vec![run],
    });
    let blocks_at = FIXED_BYTES + 4 + 8 + 20;
    assert_eq!(
        words(frame::decode(&sealed_frame(replaced(&frame, blocks_at, &[0])))),
        "frame record: blocks is 0, expected at least 1"
    );
    // A record without any run: that of a dropped group, under the kind of moved blocks.
    let frame = some_frame(FrameRecord::GroupDropped { group: GroupId(1) });
    assert_eq!(
        words(frame::decode(&sealed_frame(replaced(&frame, FIXED_BYTES, &[20])))),
        "frame record: runs of moved blocks is 0, expected 1 to 256"
    );
}
