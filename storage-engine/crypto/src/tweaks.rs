//! The tweaks of a data unit: each the one before it, multiplied by alpha in GF(2^128) (IEEE 1619-2018, 5.2).

use aes::cipher::Array;
use aes::cipher::consts::U16;

/// A block of AES, 16 bytes. Not a volume's block.
pub(crate) type AesBlock = Array<u8, U16>;

/// What x^128 is in the field: x^7 + x^2 + x + 1.
const REDUCTION: u128 = 0x87;

/// The sequence that begins with an encrypted data unit's number.
pub(crate) struct Tweaks(u128);

impl Tweaks {
    pub(crate) fn starting_with(first: &AesBlock) -> Self {
        Self(u128::from_le_bytes(first.0))
    }

    /// The next tweak, as a number whose little-endian bytes it is.
    #[inline]
    pub(crate) fn next(&mut self) -> u128 {
        let tweak = self.0;
        // No branch on the carry: which bits of a tweak are set is a secret.
        self.0 = (tweak << 1) ^ ((tweak >> 127) * REDUCTION);
        tweak
    }
}

/// Exclusive or with a tweak.
#[inline]
pub(crate) fn mix(block: &AesBlock, tweak: u128) -> AesBlock {
    Array((u128::from_le_bytes(block.0) ^ tweak).to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiplying_by_alpha_reduces_what_leaves_the_field() {
        let mut tweaks = Tweaks::starting_with(&Array((1_u128 << 126 | 5).to_le_bytes()));
        assert_eq!(tweaks.next(), 1 << 126 | 5);
        assert_eq!(tweaks.next(), 1 << 127 | 10);
        assert_eq!(tweaks.next(), 20 ^ 0x87);
    }
}
