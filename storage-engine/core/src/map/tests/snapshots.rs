//! Snapshots: any history against the model, and what they cost.

use std::time::{Duration, Instant};

use cairn_api::ids::{LogIndex, SnapshotId};
use proptest::prelude::*;

use super::model::{Pair, step};
use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, ..ProptestConfig::default() })]

    #[test]
    fn the_map_equals_a_vec_of_slots_for_each_time(
        steps in prop::collection::vec(step(), 1..90),
        has_base in any::<bool>(),
    ) {
        let mut pair = Pair::new(has_base);
        for (i, step) in steps.iter().enumerate() {
            pair.apply(step);
            if i % 8 == 0 {
                pair.check();
            }
        }
        pair.check();
        pair.check_changes();
        pair.merge_all();
        pair.check();
        pair.check_changes();
    }
}

fn two_snapshots() -> BlockMap {
    let mut map = BlockMap::new(2048);
    map.write(Lba(0), DiskBlock(10), &[1, 2, 3, 4], LogIndex(1));
    map.create_snapshot(SnapshotId(1), LogIndex(2));
    map.write(Lba(1), DiskBlock(20), &[5], LogIndex(3));
    map.create_snapshot(SnapshotId(2), LogIndex(4));
    map.write(Lba(1), DiskBlock(30), &[6, 7], LogIndex(5));
    map
}

fn crc(view: Option<View<'_>>, lba: u64) -> Option<u32> {
    match view?.slot(Lba(lba)) {
        Slot::Data { crc, .. } => Some(crc),
        _ => None,
    }
}

#[test]
fn each_snapshot_shows_its_time() {
    let map = two_snapshots();
    let of = |view: Option<View<'_>>| [0, 1, 2, 3, 4].map(|lba| crc(view, lba));
    assert_eq!(
        of(map.snapshot(SnapshotId(1))),
        [Some(1), Some(2), Some(3), Some(4), None]
    );
    assert_eq!(
        of(map.snapshot(SnapshotId(2))),
        [Some(1), Some(5), Some(3), Some(4), None]
    );
    assert_eq!(of(Some(map.now())), [Some(1), Some(6), Some(7), Some(4), None]);
    assert!(map.snapshot(SnapshotId(3)).is_none());
}

#[test]
fn space_is_told_apart() {
    let map = two_snapshots();
    let space = map.space();
    assert_eq!((space.allocated, space.shared, space.exclusive()), (4, 2, 2));
    let kept: Vec<(u64, u64)> = map.snapshots().map(|one| (one.kept, one.exclusive)).collect();
    // The first keeps its block 1; the second that of entry 3, and block 2, which the first shows, too.
    assert_eq!(kept, [(1, 1), (2, 1)]);
}

#[test]
fn what_an_older_snapshot_shows_survives_a_deletion_and_nothing_else_does() {
    let mut map = two_snapshots();
    assert!(map.delete_snapshot(SnapshotId(2)));
    assert!(map.snapshot(SnapshotId(2)).is_none());
    assert_eq!(crc(map.snapshot(SnapshotId(1)), 2), Some(3), "before a step");
    assert!(!map.merge_step(1 << 20));
    assert_eq!(crc(map.snapshot(SnapshotId(1)), 2), Some(3), "after it");
    assert_eq!(map.snapshots().map(|one| one.kept).collect::<Vec<_>>(), [2]);
    assert!(map.delete_snapshot(SnapshotId(1)));
    assert!(!map.merge_step(1 << 20));
    assert_eq!(map.leaves().count(), 1);
    assert_eq!(map.space().snapshots + map.space().merging, 0);
}

#[test]
fn a_snapshot_keeps_the_size_of_its_time() {
    let map = two_snapshots();
    assert_eq!(map.snapshot(SnapshotId(1)).unwrap().size_blocks(), 2048);
    assert_eq!(map.snapshot(SnapshotId(1)).unwrap().at(), Some(LogIndex(2)));
    assert_eq!(map.now().at(), None);
}

#[test]
fn a_trim_of_a_whole_volume_hands_its_leaves_on() {
    let mut map = BlockMap::new(1 << 20);
    for leaf in 0..1 << 11 {
        map.write(Lba(leaf * 512), DiskBlock(leaf * 512), &[7; 256], LogIndex(1));
    }
    let before = map.memory_bytes();
    map.create_snapshot(SnapshotId(1), LogIndex(2));
    map.zero(Lba(0), 1 << 20, false, LogIndex(3));
    assert_eq!(map.allocated_blocks(), 0);
    assert_eq!(map.space().snapshots, 256 << 11);
    assert!(map.memory_bytes() < before + before / 10, "leaves were copied");
    let view = map.snapshot(SnapshotId(1)).unwrap();
    assert_eq!(view.runs(Lba(0), 1 << 20).count(), 1 << 12);
}

/// Making one costs the same whatever there is: this would take minutes if it did not.
#[test]
fn thousands_of_snapshots_are_made_at_once_and_the_oldest_still_reads() {
    let mut map = BlockMap::new(1 << 28);
    map.write(Lba(5), DiskBlock(1), &[1], LogIndex(1));
    let began = Instant::now();
    for i in 0..4096 {
        map.create_snapshot(SnapshotId(i + 1), LogIndex(10 + 2 * i));
        map.write(Lba(600), DiskBlock(100 + i), &[2], LogIndex(11 + 2 * i));
    }
    for _ in 0..1000 {
        assert_eq!(crc(map.snapshot(SnapshotId(1)), 5), Some(1));
        assert_eq!(crc(map.snapshot(SnapshotId(1)), 600), None);
    }
    for i in 0..4096 {
        map.delete_snapshot(SnapshotId(i + 1));
    }
    while map.merge_step(64 * LEAF_SLOTS) {}
    assert_eq!(map.leaves().count(), 2);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn a_snapshot_keeps_its_size_when_the_volume_grows() {
    let mut map = two_snapshots();
    map.grow(5000);
    map.write(Lba(2046), DiskBlock(40), &[8, 9, 10, 11], LogIndex(6));
    map.create_snapshot(SnapshotId(3), LogIndex(7));
    map.grow(9000);
    map.zero(Lba(2040), 5000, false, LogIndex(8));
    let sizes = [1, 2, 3].map(|id| map.snapshot(SnapshotId(id)).unwrap().size_blocks());
    assert_eq!((map.size_blocks(), sizes), (9000, [2048, 2048, 5000]));
    assert_eq!(crc(Some(map.now()), 2048), None);
    assert_eq!(crc(map.snapshot(SnapshotId(3)), 2049), Some(11));
    let older = map.snapshot(SnapshotId(2)).unwrap();
    let last: Vec<Run<'_>> = older.runs(Lba(2040), 8).collect();
    assert!(matches!(last[..], [Run::Hole { blocks: 8, .. }]), "{last:?}");
    // What is new since is behind the older one's end, too.
    let newer = map.snapshot(SnapshotId(3)).unwrap();
    let changed: Vec<(u64, u64)> = newer
        .changed_since(Some(older), Lba(4), 4996)
        .map(|change| (change.lba.0, change.blocks))
        .collect();
    assert_eq!(changed, [(2046, 4)]);
    let (digest, stored) = (map.digest(), map.space().stored());
    map.delete_snapshot(SnapshotId(3));
    while map.merge_step(512) {}
    assert_ne!(map.digest(), digest);
    assert_eq!(map.space().stored(), stored - 4);
}
