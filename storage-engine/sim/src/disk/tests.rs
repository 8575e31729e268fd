//! What the disk does when it is told to, alone.

use super::*;

const PAGE_BYTES: u32 = 4096;
const SIZE: u64 = 64 * PAGE as u64;

fn page_of(byte: u8) -> Bytes {
    Bytes::from(vec![byte; PAGE])
}

fn disk_with(writes: &[(u64, u64, u8)]) -> SimDisk {
    let mut disk = SimDisk::new(SIZE);
    for (io, page, byte) in writes {
        disk.submit(IoId(*io), page * PAGE as u64, vec![page_of(*byte)]);
    }
    disk
}

fn first_byte(disk: &SimDisk, page: u64) -> u8 {
    disk.read(page * PAGE as u64, PAGE_BYTES).unwrap()[0]
}

#[test]
fn what_was_held_back_lands_unless_its_place_was_written() {
    let rng = &mut Rng::new(1);
    let mut disk = disk_with(&[(1, 3, 0xAA), (2, 5, 0xBB)]);
    disk.hold_back();
    disk.crash(rng);
    assert_eq!((first_byte(&disk, 3), first_byte(&disk, 5)), (0, 0));
    disk.submit(IoId(1), 3 * PAGE as u64, vec![page_of(0xCC)]);
    disk.complete(IoId(1), rng);
    assert!(disk.land());
    assert_eq!((first_byte(&disk, 3), first_byte(&disk, 5)), (0xCC, 0xBB));
    assert!(!disk.land(), "only once");
}

#[test]
fn a_write_that_is_cut_short_ends_there() {
    let mut disk = SimDisk::new(SIZE);
    disk.submit(IoId(1), PAGE as u64, vec![page_of(1), page_of(2), page_of(3)]);
    disk.cut_short(IoId(1), 2 * PAGE as u64 + SECTOR as u64);
    disk.crash(&mut Rng::new(1));
    let data = disk.read(PAGE as u64, 3 * PAGE_BYTES).unwrap();
    let kept = PAGE + SECTOR;
    assert!(data[..PAGE].iter().all(|byte| *byte == 1) && data[PAGE..kept].iter().all(|byte| *byte == 2));
    assert!(data[kept..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_disk_that_shrank_ends_early() {
    let mut disk = disk_with(&[]);
    disk.shrink();
    assert!(disk.read(SIZE / 2 - PAGE as u64, PAGE_BYTES).is_ok());
    let short = disk.read(SIZE / 2, PAGE_BYTES);
    assert!(
        matches!(short, Err(DiskFault::Short { done: 0, asked: 4096 })),
        "{short:?}"
    );
}

#[test]
fn rot_in_what_recovery_does_not_read_is_a_row_of_its_own() {
    let rng = &mut Rng::new(1);
    let mut disk = disk_with(&[(1, 3, 0xAA)]);
    disk.complete_all(rng);
    let is_met = |disk: &SimDisk| disk.rows_of(&RecoverySummary::default()).contains(Row::VouchedPayload);
    assert!(!is_met(&disk));
    assert!(disk.rot(3 * PAGE as u64) && is_met(&disk));
    disk.submit(IoId(2), 3 * PAGE as u64, vec![page_of(0xAA)]);
    disk.complete_all(rng);
    assert!(!is_met(&disk), "it was written again");
}

#[test]
fn a_torn_block_may_be_unreadable_only_where_nothing_stood() {
    let mut disk = disk_with(&[(1, 3, 0xAA)]);
    disk.spoils_torn = true;
    disk.complete_all(&mut Rng::new(1));
    let mut unreadable = 0;
    for seed in 0..200 {
        let mut torn = disk.clone();
        torn.submit(IoId(2), 3 * PAGE as u64, vec![page_of(1), page_of(2)]);
        torn.crash(&mut Rng::new(seed));
        assert!(torn.read(3 * PAGE as u64, PAGE_BYTES).is_ok(), "seed {seed}");
        unreadable += u32::from(torn.read(4 * PAGE as u64, PAGE_BYTES).is_err());
    }
    assert!((5..50).contains(&unreadable), "{unreadable} of 200");
}
