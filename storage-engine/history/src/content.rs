//! What test clients write: every 512-byte sector carries a stamp that no other write uses, repeated so that a mixture of
//! two writes, or a sector at the wrong place, shows.

/// Bytes of a sector: what a disk tears no further.
pub const SECTOR: usize = 512;

const MARK: u64 = 0x5EC7_0000_0000_0000;
const MARK_MASK: u64 = 0xFFFF_0000_0000_0000;

/// A sector's content: the stamp, then words made from it and the sector's own place in the volume.
pub fn sector(stamp: u64, place: u64) -> [u8; SECTOR] {
    assert!(stamp > 0 && stamp < 1 << 48);
    let mut bytes = [0; SECTOR];
    for (i, word) in bytes.chunks_mut(8).enumerate() {
        let value = if i == 0 {
            MARK | stamp
        } else {
            mixed(stamp, place, i as u64)
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

fn mixed(stamp: u64, place: u64, i: u64) -> u64 {
    (stamp.rotate_left(17) ^ place)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(i)
}

/// The stamp of what looks like a sector of [`sector`].
pub fn stamp_of(bytes: &[u8]) -> Option<u64> {
    let word = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    (word & MARK_MASK == MARK).then_some(word & !MARK_MASK)
}

/// The stamp of a sector that begins anywhere in `bytes`, if it is one of those that are looked for: its first word, and two more
/// that rise by one.
pub fn find(bytes: &[u8], is_wanted: &dyn Fn(u64) -> bool) -> Option<u64> {
    const WORDS: usize = 24;
    let word = |window: &[u8], place: usize| u64::from_le_bytes(*window[8 * place..].first_chunk().unwrap());
    let [.., last] = MARK.to_le_bytes();
    let sector = |window: &[u8]| {
        let stamp = stamp_of(window)?;
        let rises = word(window, 1).wrapping_add(1) == word(window, 2);
        (rises && is_wanted(stamp)).then_some(stamp)
    };
    // The last byte of the mark rules most places out.
    let windows = bytes.windows(WORDS).filter(|window| window[7] == last);
    windows.filter_map(sector).next()
}

/// The stamp of the sector at `place`, 0 for zeros.
///
/// Panics if it is neither: a torn mixture, another place's sector, or rubbish.
pub fn check(bytes: &[u8], place: u64) -> u64 {
    assert_eq!(bytes.len(), SECTOR);
    if bytes.iter().all(|byte| *byte == 0) {
        return 0;
    }
    let stamp = stamp_of(bytes).unwrap_or_else(|| panic!("sector {place} holds rubbish: {:?}", &bytes[..16]));
    assert!(
        bytes == sector(stamp, place),
        "sector {place} holds a mixture or another sector: stamp {stamp}"
    );
    stamp
}
