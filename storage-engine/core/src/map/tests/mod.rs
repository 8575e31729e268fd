//! The map against a `Vec` of slots for each time that can be read.

mod model;
mod snapshots;

use cairn_api::ids::LogIndex;

use super::*;

/// Where it does not matter which entry wrote something.
const BIRTH: LogIndex = LogIndex(1);

#[test]
fn a_read_across_a_leaf_border_is_one_run() {
    let mut map = BlockMap::new(2048);
    let crcs: Vec<u32> = (0..256).collect();
    map.write(Lba(400), DiskBlock(1000), &crcs, BIRTH);
    let runs: Vec<Run<'_>> = map.runs(Lba(400), 256).collect();
    let expected = Run::Data {
        lba: Lba(400),
        block: DiskBlock(1000),
        crcs: Cow::Borrowed(&crcs),
        blocks: 256,
    };
    assert_eq!(runs, [expected]);
}

#[test]
fn sequential_writes_cost_little_more_than_their_checksums() {
    let mut map = BlockMap::new(1 << 20);
    for i in 0..(1_u64 << 18) / 8 {
        map.write(Lba(i * 8), DiskBlock(100 + i * 9), &[1; 8], LogIndex(i + 1));
    }
    let per_block = map.memory_bytes() as f64 / f64::from(1 << 18);
    assert!(per_block < 10.0, "{per_block} bytes a block");
}

#[test]
fn random_writes_cost_at_most_20_bytes_a_block() {
    let mut map = BlockMap::new(1 << 18);
    for i in 0..1_u64 << 18 {
        // An odd multiplier permutes the addresses.
        map.write(
            Lba(i.wrapping_mul(0x9E37_79B1) % (1 << 18)),
            DiskBlock(i),
            &[1],
            LogIndex(i + 1),
        );
    }
    assert_eq!(map.allocated_blocks(), 1 << 18);
    let per_block = map.memory_bytes() as f64 / f64::from(1 << 18);
    assert!(per_block <= 20.0, "{per_block} bytes a block");
}

#[test]
fn huge_ranges_cost_what_is_there() {
    let size = 1_u64 << 42; // 16 PiB of volume, so that a visit to every leaf would not end.
    let mut map = BlockMap::new(size);
    map.write(Lba(5), DiskBlock(1), &[1, 2, 3], BIRTH);
    map.write(Lba(size - 2), DiskBlock(9), &[4, 5], BIRTH);
    let runs: Vec<u64> = map.runs(Lba(0), size).map(|run| run.blocks()).collect();
    assert_eq!(runs, [5, 3, size - 10, 2]);
    map.zero(Lba(1), size - 1, false, BIRTH);
    assert_eq!(map.allocated_blocks(), 0);
    assert_eq!(map.memory_bytes(), 0);
    assert_eq!(
        map.runs(Lba(0), size).collect::<Vec<_>>(),
        [Run::Hole {
            lba: Lba(0),
            blocks: size
        }]
    );
}

#[test]
fn allocated_zeros_cost_little_a_leaf() {
    let size = 1_u64 << 20; // 4 GiB, the longest request of a frontend.
    let mut map = BlockMap::new(size);
    map.write(Lba(700), DiskBlock(1), &[1; 100], BIRTH);
    map.zero(Lba(3), size - 3, true, BIRTH);
    map.write(Lba(800), DiskBlock(7), &[1], BIRTH);
    let runs: Vec<Run<'_>> = map.runs(Lba(0), size).collect();
    assert_eq!(runs.len(), 4);
    let rest = Run::Zeros {
        lba: Lba(801),
        blocks: size - 801,
    };
    assert_eq!(runs[3], rest);
    assert_eq!(map.allocated_blocks(), 1);
    assert!(map.memory_bytes() < 2048 * 100, "{} bytes", map.memory_bytes());
}

#[test]
fn the_digest_ignores_where_data_is() {
    let (first, second, third) = (LogIndex(1), LogIndex(2), LogIndex(3));
    let mut one = BlockMap::new(4096);
    let mut other = BlockMap::new(4096);
    one.write(Lba(10), DiskBlock(100), &[1, 2], first);
    one.write(Lba(12), DiskBlock(102), &[3], second);
    other.write(Lba(12), DiskBlock(9), &[3], second);
    other.write(Lba(10), DiskBlock(50), &[1, 2], first);
    assert_eq!(one.digest(), other.digest());
    other.write(Lba(10), DiskBlock(60), &[1], third);
    assert_ne!(one.digest(), other.digest(), "the birth differs");
    one.write(Lba(10), DiskBlock(60), &[7], third);
    assert_ne!(one.digest(), other.digest(), "the checksum differs");
    one.zero(Lba(10), 3, false, third);
    assert_eq!(one.digest(), BlockMap::new(4096).digest());
    one.zero(Lba(10), 3, true, third);
    assert_ne!(
        one.digest(),
        BlockMap::new(4096).digest(),
        "allocated zeros are no hole"
    );
}

#[test]
#[should_panic(expected = "is not in a volume")]
fn a_write_beyond_the_end_is_a_broken_invariant() {
    BlockMap::new(8).write(Lba(7), DiskBlock(0), &[0, 0], BIRTH);
}

#[test]
#[should_panic(expected = "is not a place on a disk")]
fn an_address_that_needs_more_than_48_bits_is_a_broken_invariant() {
    BlockMap::new(8).write(Lba(7), DiskBlock(DiskBlock::MAX.0), &[0], BIRTH);
}
