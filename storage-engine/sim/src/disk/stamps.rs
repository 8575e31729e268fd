//! Which stamps were ever made durable: a bit each, in chunks, because stamps of one volume rise.

use std::collections::BTreeMap;

const CHUNK_WORDS: usize = 64;
const CHUNK_STAMPS: u64 = CHUNK_WORDS as u64 * 64;

#[derive(Clone, Default)]
pub(super) struct Stamps(BTreeMap<u64, Box<[u64; CHUNK_WORDS]>>);

fn place_of(stamp: u64) -> (u64, usize, u64) {
    let within = stamp % CHUNK_STAMPS;
    let word = usize::try_from(within / 64).unwrap();
    (stamp / CHUNK_STAMPS, word, 1 << (within % 64))
}

impl Stamps {
    pub(super) fn insert(&mut self, stamp: u64) {
        let (chunk, word, bit) = place_of(stamp);
        let words = self.0.entry(chunk).or_insert_with(|| Box::new([0; CHUNK_WORDS]));
        words[word] |= bit;
    }

    pub(super) fn contains(&self, stamp: u64) -> bool {
        let (chunk, word, bit) = place_of(stamp);
        self.0.get(&chunk).is_some_and(|words| words[word] & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_in_and_nothing_else() {
        let mut stamps = Stamps::default();
        for stamp in [1, 63, 64, CHUNK_STAMPS, 1 << 40] {
            stamps.insert(stamp);
        }
        let found: Vec<u64> = (0..2 * CHUNK_STAMPS).filter(|stamp| stamps.contains(*stamp)).collect();
        assert_eq!(found, [1, 63, 64, CHUNK_STAMPS]);
        assert!(stamps.contains(1 << 40) && !stamps.contains((1 << 40) + 1));
    }
}
