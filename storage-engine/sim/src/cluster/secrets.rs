//! Encrypted volumes: their keys, and the search for what their clients have written in everything that leaves a core.
//!
//! A client's sector begins with a stamp that tells whose it is, followed by words that rise by one
//! ([`cairn_history::content`]). No write to a disk and no message may contain the first three words of a sector of an
//! encrypted volume, at whatever byte they begin. That the search finds them where they are is shown by a seeded fault, and by
//! a test with a volume that is not encrypted.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cairn_api::ids::GroupId;
use cairn_api::units::{BLOCK_BYTES, BLOCK_SIZE, Lba};
use cairn_crypto::{DATA_KEY_BYTES, DataKey, VolumeCipher};
use cairn_history::content::{self, SECTOR};
use cairn_history::rng::Rng;

use super::Cluster;
use crate::wire::Packet;

const SECTORS_PER_BLOCK: u64 = BLOCK_BYTES / SECTOR as u64;

/// What is known of the encrypted volumes.
#[derive(Default)]
pub(super) struct Secrets {
    ciphers: BTreeMap<GroupId, Arc<VolumeCipher>>,
    /// The stamps of what their clients write.
    stamps: Vec<Range<u64>>,
}

impl Secrets {
    /// The stamp of a sector of an encrypted volume whose beginning is somewhere in `bytes`.
    fn find(&self, bytes: &[u8]) -> Option<u64> {
        content::find(bytes, &|stamp| self.stamps.iter().any(|range| range.contains(&stamp)))
    }
}

impl Cluster {
    /// A volume is encrypted, with a key of the seed; its clients write sectors of these stamps.
    pub fn encrypt(&mut self, group: GroupId, stamps: Range<u64>) {
        let mut rng = Rng::new(self.setup.seed ^ group.get().rotate_left(32) ^ 0x4B45_5953);
        let mut bytes = [0; DATA_KEY_BYTES];
        for word in bytes.chunks_mut(8) {
            word.copy_from_slice(&rng.draw().to_le_bytes());
        }
        let key = DataKey::from_bytes(&bytes).expect("halves that differ");
        self.secrets.ciphers.insert(group, Arc::new(VolumeCipher::new(&key)));
        self.secrets.stamps.push(stamps);
    }

    /// A clone is encrypted with the key of its source, if that is encrypted.
    pub fn share_key(&mut self, source: GroupId, clone: GroupId) {
        if let Some(cipher) = self.cipher_of(source) {
            self.secrets.ciphers.insert(clone, cipher);
        }
    }

    /// What a volume is encrypted with, if it is.
    pub fn cipher_of(&self, group: GroupId) -> Option<Arc<VolumeCipher>> {
        self.secrets.ciphers.get(&group).cloned()
    }

    /// What a block that is stored holds.
    pub fn plaintext(&self, group: GroupId, lba: Lba, stored: Bytes) -> Bytes {
        let Some(cipher) = self.secrets.ciphers.get(&group) else {
            return stored;
        };
        let mut plain = vec![0; stored.len()];
        cipher.decrypt(lba, &stored, &mut plain);
        plain.into()
    }

    /// A sector is going to be written: when a disk holds what it is stored as, it holds the stamp. What the other sectors of
    /// its block hold makes no difference to it.
    pub fn expect_sector(&mut self, group: GroupId, place: u64, stamp: u64) {
        let Some(cipher) = self.secrets.ciphers.get(&group) else {
            return;
        };
        let mut plain = vec![0; BLOCK_SIZE as usize];
        let mut stored = plain.clone();
        let at = usize::try_from(place % SECTORS_PER_BLOCK).unwrap() * SECTOR;
        plain[at..at + SECTOR].copy_from_slice(&content::sector(stamp, place));
        cipher.encrypt(Lba(place / SECTORS_PER_BLOCK), &plain, &mut stored);
        for node in &mut self.nodes {
            node.disk.expect_sealed(&stored[at..at + SECTOR], stamp);
        }
    }

    pub(super) fn check_written(&self, node: usize, buffers: &[Bytes]) {
        if self.secrets.stamps.is_empty() {
            return;
        }
        let found = buffers.iter().find_map(|buffer| self.secrets.find(buffer));
        assert!(
            found.is_none(),
            "[plaintext] node {node} writes sector {found:?} of an encrypted volume to its disk as it is"
        );
    }

    pub(super) fn check_sent(&self, from: usize, to: usize, packet: &Packet) {
        if self.secrets.stamps.is_empty() {
            return;
        }
        let found = packet.pieces().find_map(|piece| self.secrets.find(piece));
        assert!(
            found.is_none(),
            "[plaintext] node {from} sends sector {found:?} of an encrypted volume to node {to} as it is"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_is_found_wherever_it_begins_and_a_stranger_is_not() {
        let secrets = Secrets {
            ciphers: BTreeMap::new(),
            stamps: vec![100..200, 500..600],
        };
        for before in [0, 1, 7, 511, 4096] {
            for (stamp, expected) in [(99, None), (100, Some(100)), (599, Some(599)), (600, None)] {
                let mut bytes = vec![0x5E; before];
                bytes.extend_from_slice(&content::sector(stamp, 3));
                assert_eq!(secrets.find(&bytes), expected, "stamp {stamp} behind {before} bytes");
                assert_eq!(secrets.find(&bytes[..before + 23]), None, "less than is looked for");
            }
        }
    }
}
