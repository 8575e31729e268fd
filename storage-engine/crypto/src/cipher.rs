//! AES-256-XTS over whole blocks (IEEE 1619-2018).
//!
//! A data unit is one block of a volume, and its number is the block's number in the volume: a block that is found
//! elsewhere does not decrypt to what it was. Every block of 4 KiB is 256 blocks of AES, so that ciphertext stealing,
//! which is for data units that are not, is not needed.
//!
//! All AES blocks of a data unit are handed to the cipher at once, because the processor works on as many of them at a
//! time as its instructions allow: one by one takes more than twice as long.

use std::fmt;

use aes::Aes256;
use aes::cipher::{Array, BlockCipherDecrypt as _, BlockCipherEncrypt as _, KeyInit as _};
use cairn_api::units::{BLOCK_SIZE, Lba};

use crate::data_key::{DATA_KEY_BYTES, DataKey};
use crate::tweaks::{AesBlock, Tweaks, mix};

const UNIT_BYTES: usize = BLOCK_SIZE as usize;
const AES_BYTES: usize = 16;

/// A volume's expanded data key: encrypts and decrypts its blocks. Zeroed when dropped; shown by nothing.
pub struct VolumeCipher {
    data: Box<Aes256>,
    tweak: Box<Aes256>,
}

impl VolumeCipher {
    /// Expands a key.
    pub fn new(key: &DataKey) -> Self {
        let (data, tweak) = key.expose().split_at(DATA_KEY_BYTES / 2);
        let expand = |half: &[u8]| {
            let mut key = Array::default();
            key.copy_from_slice(half);
            let cipher = Box::new(Aes256::new(&key));
            zeroize::Zeroize::zeroize(&mut key.0);
            cipher
        };
        Self {
            data: expand(data),
            tweak: expand(tweak),
        }
    }

    /// Encrypts whole blocks, of which the first is block `first` of the volume, from `plain` to `out`.
    ///
    /// # Panics
    /// If `plain` is not whole blocks or `out` is of another length.
    pub fn encrypt(&self, first: Lba, plain: &[u8], out: &mut [u8]) {
        self.each_block(first, plain, out, Self::encrypt_unit);
    }

    /// Decrypts whole blocks, of which the first is block `first` of the volume, from `secret` to `out`.
    ///
    /// # Panics
    /// If `secret` is not whole blocks or `out` is of another length.
    pub fn decrypt(&self, first: Lba, secret: &[u8], out: &mut [u8]) {
        self.each_block(first, secret, out, Self::decrypt_unit);
    }

    fn each_block(&self, first: Lba, from: &[u8], to: &mut [u8], one: impl Fn(&Self, u128, &[u8], &mut [u8])) {
        assert!(
            from.len().is_multiple_of(UNIT_BYTES) && from.len() == to.len(),
            "whole blocks: {} bytes to {}",
            from.len(),
            to.len()
        );
        let blocks = from.chunks_exact(UNIT_BYTES).zip(to.chunks_exact_mut(UNIT_BYTES));
        for (number, (from, to)) in (u128::from(first.0)..).zip(blocks) {
            one(self, number, from, to);
        }
    }

    fn encrypt_unit(&self, number: u128, from: &[u8], to: &mut [u8]) {
        self.masked(number, from, to, |blocks| self.data.encrypt_blocks(blocks));
    }

    fn decrypt_unit(&self, number: u128, from: &[u8], to: &mut [u8]) {
        self.masked(number, from, to, |blocks| self.data.decrypt_blocks(blocks));
    }

    /// Masks each AES block with its tweak, applies the cipher to all of them, and masks them again.
    #[inline]
    fn masked(&self, number: u128, from: &[u8], to: &mut [u8], apply: impl FnOnce(&mut [AesBlock])) {
        let mut first: AesBlock = Array(number.to_le_bytes());
        self.tweak.encrypt_block(&mut first);
        let (from, rest) = AesBlock::slice_as_chunks(from);
        assert!(rest.is_empty(), "whole AES blocks of {AES_BYTES} bytes");
        let (to, _) = AesBlock::slice_as_chunks_mut(to);
        let mut tweaks = Tweaks::starting_with(&first);
        for (from, to) in from.iter().zip(to.iter_mut()) {
            *to = mix(from, tweaks.next());
        }
        apply(to);
        let mut tweaks = Tweaks::starting_with(&first);
        for block in to {
            *block = mix(block, tweaks.next());
        }
    }
}

impl fmt::Debug for VolumeCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VolumeCipher(aes-256-xts)")
    }
}

#[cfg(test)]
mod tests;
