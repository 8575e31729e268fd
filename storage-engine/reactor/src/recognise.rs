//! What a disk holds, told by the signatures that file systems, volume managers and partition tables leave on it.
//!
//! Offsets and magic numbers are those of each format's own on-disk description.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use cairn_format::superblock::{self, SUPERBLOCK_BYTES, Superblock};

use crate::aligned::AlignedBuffer;

/// How much of the start is looked at.
const START_BYTES: usize = 1 << 20;

/// A signature at a fixed place.
struct Signature {
    offset: usize,
    magic: &'static [u8],
    name: &'static str,
}

const fn signature(offset: usize, magic: &'static [u8], name: &'static str) -> Signature {
    Signature { offset, magic, name }
}

/// Signatures near the start, the more telling first: a partition table may coexist with a boot sector's mark.
const SIGNATURES: [Signature; 18] = [
    signature(0, b"LUKS\xba\xbe", "a LUKS encrypted volume"),
    signature(0, b"XFSB", "an xfs file system"),
    signature(65_600, b"_BHRfS_M", "a btrfs file system"),
    signature(4096 - 10, b"SWAPSPACE2", "swap space"),
    signature(4096 - 10, b"SWAP-SPACE", "swap space"),
    signature(0, &0xa92b_4efc_u32.to_le_bytes(), "a member of an md RAID array"),
    signature(4096, &0xa92b_4efc_u32.to_le_bytes(), "a member of an md RAID array"),
    signature(1024, &0xf2f5_2010_u32.to_le_bytes(), "an f2fs file system"),
    signature(0, b"bluestore block device", "a Ceph BlueStore disk"),
    signature(
        4096 + 24,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
        "a bcache device",
    ),
    signature(32_769, b"CD001", "an ISO 9660 image"),
    signature(512, b"EFI PART", "a GPT partition table"),
    signature(4096, b"EFI PART", "a GPT partition table"),
    signature(3, b"NTFS    ", "an NTFS file system"),
    signature(3, b"EXFAT   ", "an exFAT file system"),
    signature(54, b"FAT1", "a FAT file system"),
    signature(82, b"FAT32", "a FAT file system"),
    signature(0, b"QFI\xfb", "a qcow2 image"),
];

/// What the disk holds, or `None` if its start is zeros and its end shows nothing known.
pub(crate) fn recognise(file: &File, size_bytes: u64) -> io::Result<Option<String>> {
    let start = read_at(file, 0, START_BYTES, size_bytes)?;
    let start = start.as_slice();
    let second = read_at(
        file,
        superblock::second_copy_offset(size_bytes),
        SUPERBLOCK_BYTES,
        size_bytes,
    )?;
    if let Some(found) = cairn(start).or_else(|| cairn(second.as_slice())) {
        return Ok(Some(found));
    }
    let near_start = lvm(start)
        .or_else(|| ext(start))
        .or_else(|| fixed(start))
        .or_else(|| zfs(start))
        .or_else(|| mbr(start));
    if let Some(name) = near_start {
        return Ok(Some(name.to_owned()));
    }
    if let Some(name) = at_end(file, size_bytes)? {
        return Ok(Some(name.to_owned()));
    }
    let first_byte = start.iter().position(|byte| *byte != 0);
    Ok(first_byte.map(|offset| format!("unknown data (the first byte that is not zero is at offset {offset})")))
}

/// Up to `length` bytes at `offset`, zeros behind the end.
fn read_at(file: &File, offset: u64, length: usize, size_bytes: u64) -> io::Result<AlignedBuffer> {
    let mut buffer = AlignedBuffer::zeroed(length);
    let available = usize::try_from(size_bytes.saturating_sub(offset))
        .unwrap_or(length)
        .min(length);
    file.read_exact_at(&mut buffer.as_mut_slice()[..available], offset)?;
    Ok(buffer)
}

fn has(bytes: &[u8], offset: usize, magic: &[u8]) -> bool {
    bytes.get(offset..offset + magic.len()) == Some(magic)
}

fn cairn(bytes: &[u8]) -> Option<String> {
    if !has(bytes, 0, &superblock::MAGIC.to_le_bytes()) {
        return None;
    }
    Some(match Superblock::decode(&bytes[..SUPERBLOCK_BYTES]) {
        Ok(superblock) if superblock.is_unclaimed() => format!("Cairn disk {}, of no cluster yet", superblock.disk),
        Ok(superblock) => format!("Cairn disk {} of cluster {}", superblock.disk, superblock.cluster),
        Err(error) => format!("a Cairn disk with a damaged superblock ({error})"),
    })
}

fn fixed(start: &[u8]) -> Option<&'static str> {
    SIGNATURES
        .iter()
        .find(|signature| has(start, signature.offset, signature.magic))
        .map(|signature| signature.name)
}

/// An LVM2 label is in one of the first four sectors.
fn lvm(start: &[u8]) -> Option<&'static str> {
    let labelled = |sector: usize| has(start, sector * 512, b"LABELONE") && has(start, sector * 512 + 24, b"LVM2 001");
    (0..4).any(labelled).then_some("an LVM2 physical volume")
}

/// The three generations of ext differ in their feature bits: a journal makes ext3, extents or later features ext4.
fn ext(start: &[u8]) -> Option<&'static str> {
    const SUPERBLOCK: usize = 1024;
    if !has(start, SUPERBLOCK + 56, &[0x53, 0xef]) {
        return None;
    }
    let word = |offset: usize| {
        let bytes = start
            .get(SUPERBLOCK + offset..SUPERBLOCK + offset + 4)
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes)
    };
    let (compatible, incompatible, read_only) = (word(92), word(96), word(100));
    Some(if incompatible & !0x1f != 0 || read_only & !0x7 != 0 {
        "an ext4 file system"
    } else if compatible & 0x4 != 0 {
        "an ext3 file system"
    } else {
        "an ext2 file system"
    })
}

/// A ZFS label is 256 KiB long, its second half a ring of uberblocks of at least 1 KiB, of either byte order.
fn zfs(start: &[u8]) -> Option<&'static str> {
    let magic = 0x00ba_b10c_u64;
    let is_uberblock = |at: usize| has(start, at, &magic.to_le_bytes()) || has(start, at, &magic.to_be_bytes());
    let mut places = (128 << 10..256 << 10)
        .step_by(1024)
        .chain((384 << 10..512 << 10).step_by(1024));
    places.any(is_uberblock).then_some("a member of a ZFS pool")
}

/// A boot record counts as a partition table if one of its four entries is in use.
fn mbr(start: &[u8]) -> Option<&'static str> {
    let in_use = |entry: usize| start.get(446 + entry * 16 + 4).is_some_and(|kind| *kind != 0);
    (has(start, 510, &[0x55, 0xaa]) && (0..4).any(in_use)).then_some("an MBR partition table")
}

/// Signatures that live at the end: the backup GPT, and md RAID metadata of versions 0.90 and 1.0.
fn at_end(file: &File, size_bytes: u64) -> io::Result<Option<&'static str>> {
    let raid = 0xa92b_4efc_u32.to_le_bytes();
    let sectors = size_bytes / 512;
    let candidates: [(Option<u64>, &[u8], &'static str); 3] = [
        (sectors.checked_sub(1), b"EFI PART", "a backup GPT partition table"),
        (
            sectors.checked_sub(16).map(|sector| sector & !7),
            &raid,
            "a member of an md RAID array",
        ),
        ((sectors & !127).checked_sub(128), &raid, "a member of an md RAID array"),
    ];
    for (sector, magic, name) in candidates {
        let Some(sector) = sector else { continue };
        let bytes = read_at(file, sector * 512, 512, size_bytes)?;
        if has(bytes.as_slice(), 0, magic) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Marks<'a> = &'a [(u64, &'a [u8])];

    fn image(marks: Marks<'_>) -> Option<String> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 << 20).unwrap();
        for (offset, bytes) in marks {
            file.write_all_at(bytes, *offset).unwrap();
        }
        recognise(&file, 8 << 20).unwrap()
    }

    #[test]
    fn zeros_are_nothing_and_anything_else_is_something() {
        assert_eq!(image(&[]), None);
        assert!(image(&[(1_000_000, b"x")]).unwrap().contains("offset 1000000"));
    }

    #[test]
    fn signatures_are_told_apart() {
        let cases: [(Marks<'_>, &str); 12] = [
            (&[(0, b"XFSB")], "xfs"),
            (&[(1080, &[0x53, 0xef])], "ext2"),
            (&[(1080, &[0x53, 0xef]), (1024 + 92, &[4])], "ext3"),
            (&[(1080, &[0x53, 0xef]), (1024 + 96, &[0x40])], "ext4"),
            (&[(65_600, b"_BHRfS_M")], "btrfs"),
            (&[(512, b"LABELONE"), (536, b"LVM2 001")], "LVM2"),
            (&[(0, b"LUKS\xba\xbe")], "LUKS"),
            (&[(510, &[0x55, 0xaa]), (450, &[0x83])], "MBR"),
            (&[(510, &[0x55, 0xaa]), (450, &[0xee]), (512, b"EFI PART")], "GPT"),
            (&[(4086, b"SWAPSPACE2")], "swap"),
            (&[((8 << 20) - 8192, &[0xfc, 0x4e, 0x2b, 0xa9])], "RAID"),
            (&[((128 << 10) + 4096, &0x00ba_b10c_u64.to_le_bytes())], "ZFS"),
        ];
        for (marks, expected) in cases {
            let found = image(marks).unwrap_or_default();
            assert!(found.contains(expected), "{found} should name {expected}");
        }
    }
}
