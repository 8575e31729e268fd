//! A volume's data key.

use std::fmt;

use zeroize::Zeroizing;

/// Bytes of a data key: two keys of AES-256, one for the data and one for the tweaks (IEEE 1619-2018, 5.1).
pub const DATA_KEY_BYTES: usize = 64;

/// The two halves of a key are equal: the tweaks would be encrypted as the data is, which XTS must never do (FIPS 140-2
/// implementation guidance, A.9).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the two halves of the data key are equal: it was not drawn at random")]
pub struct WeakKey;

/// What a volume is encrypted with. Zeroed when dropped; shown by nothing.
///
/// In a box, because what is moved leaves a copy where it was.
pub struct DataKey(Box<Zeroizing<[u8; DATA_KEY_BYTES]>>);

impl DataKey {
    /// Draws a key: `fill` fills what it is given with random bytes, or says why it cannot.
    pub fn draw<E: From<WeakKey>>(fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut bytes = Zeroizing::new([0; DATA_KEY_BYTES]);
        fill(&mut *bytes)?;
        Ok(Self::from_bytes(&bytes)?)
    }

    /// The key of these bytes.
    pub fn from_bytes(bytes: &[u8; DATA_KEY_BYTES]) -> Result<Self, WeakKey> {
        let (data, tweak) = bytes.split_at(DATA_KEY_BYTES / 2);
        if data == tweak {
            return Err(WeakKey);
        }
        let mut key = Self(Box::new(Zeroizing::new([0; DATA_KEY_BYTES])));
        key.0.copy_from_slice(bytes);
        Ok(key)
    }

    /// Its bytes, to be wrapped or expanded, and kept nowhere.
    pub fn expose(&self) -> &[u8; DATA_KEY_BYTES] {
        &self.0
    }

    /// Whether both are the same key, in a time that does not tell where they differ.
    pub fn is_same(&self, other: &Self) -> bool {
        let differences = self.0.iter().zip(other.0.iter()).map(|(one, two)| one ^ two);
        differences.fold(0, |all, difference| all | difference) == 0
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_halves_are_refused_however_the_key_comes() {
        assert_eq!(DataKey::from_bytes(&[7; DATA_KEY_BYTES]).err(), Some(WeakKey));
        let stuck = DataKey::draw::<WeakKey>(|bytes| {
            bytes.fill(0);
            Ok(())
        });
        assert!(stuck.is_err(), "a source of randomness that gives zeros");
    }

    #[test]
    fn a_key_is_never_shown() {
        let mut bytes = [0xA5; DATA_KEY_BYTES];
        bytes[0] = 0;
        let key = DataKey::from_bytes(&bytes).unwrap();
        assert_eq!(format!("{key:?}"), "DataKey(..)");
        assert!(key.is_same(&DataKey::from_bytes(&bytes).unwrap()));
        bytes[63] ^= 1;
        assert!(!key.is_same(&DataKey::from_bytes(&bytes).unwrap()));
    }

    /// That memory is zeroed cannot be looked at without reading what was freed; that everything that holds a key is of a
    /// type that does it is known when this compiles.
    #[test]
    fn whatever_holds_a_key_zeroes_it() {
        const fn zeroes<T: zeroize::ZeroizeOnDrop>() {}
        zeroes::<Zeroizing<[u8; DATA_KEY_BYTES]>>();
        zeroes::<Zeroizing<Vec<u8>>>();
        zeroes::<aes::Aes256>();
        zeroes::<aes_gcm::Aes256Gcm>();
    }
}
