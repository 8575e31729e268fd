//! Wrapping by a master key that is at hand: AES-256-GCM, with a random nonce in front (NIST SP 800-38D).
//!
//! A nonce of 96 random bits is safe for 2^32 wrappings under one key (8.3 there): a wrapping a second for a century.

use aes_gcm::aead::{Aead as _, Payload};
use aes_gcm::{Aes256Gcm, KeyInit as _, Nonce};
use zeroize::{Zeroize as _, Zeroizing};

/// Bytes of a master key.
pub const MASTER_KEY_BYTES: usize = 32;
/// Bytes of the nonce in front of what is sealed.
pub const NONCE_BYTES: usize = 12;
/// Bytes that sealing adds: the nonce and the tag.
pub const SEAL_BYTES: usize = NONCE_BYTES + 16;

/// Why something was not sealed or opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SealError {
    /// Not what this key has sealed under this label, or changed since.
    #[error("it was wrapped by another key, or changed since")]
    Refused,
    /// More than the cipher takes.
    #[error("too long to be wrapped")]
    TooLong,
}

/// A master key. Zeroed when dropped; shown by nothing.
pub struct MasterKey(Box<Zeroizing<[u8; MASTER_KEY_BYTES]>>);

impl MasterKey {
    /// The key of these bytes.
    pub fn new(bytes: &[u8; MASTER_KEY_BYTES]) -> Self {
        let mut key = Self(Box::new(Zeroizing::new([0; MASTER_KEY_BYTES])));
        key.0.copy_from_slice(bytes);
        key
    }

    fn cipher(&self) -> Aes256Gcm {
        let mut key = aes_gcm::Key::<Aes256Gcm>::default();
        key.copy_from_slice(&self.0[..]);
        let cipher = Aes256Gcm::new(&key);
        key.0.zeroize();
        cipher
    }

    /// Wraps `secret`; whoever opens it must name the same `label`. The nonce is random and used once.
    pub fn seal(&self, nonce: [u8; NONCE_BYTES], label: &[u8], secret: &[u8]) -> Result<Vec<u8>, SealError> {
        let payload = Payload {
            msg: secret,
            aad: label,
        };
        let sealed = self.cipher().encrypt(&Nonce::from(nonce), payload);
        let sealed = sealed.map_err(|_| SealError::TooLong)?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// Opens what was sealed under `label`.
    pub fn open(&self, label: &[u8], wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (nonce, sealed) = wrapped.split_first_chunk::<NONCE_BYTES>().ok_or(SealError::Refused)?;
        let payload = Payload {
            msg: sealed,
            aad: label,
        };
        let secret = self.cipher().decrypt(&Nonce::from(*nonce), payload);
        secret.map(Zeroizing::new).map_err(|_| SealError::Refused)
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_under_the_same_key_and_label_only() {
        let key = MasterKey::new(&[1; MASTER_KEY_BYTES]);
        let wrapped = key.seal([9; NONCE_BYTES], b"main 1", b"secret").unwrap();
        assert_eq!(wrapped.len(), 6 + SEAL_BYTES);
        assert_eq!(&key.open(b"main 1", &wrapped).unwrap()[..], b"secret");
        assert_eq!(key.open(b"main 2", &wrapped).err(), Some(SealError::Refused));
        let other = MasterKey::new(&[2; MASTER_KEY_BYTES]);
        assert_eq!(other.open(b"main 1", &wrapped).err(), Some(SealError::Refused));
        assert_eq!(format!("{key:?}"), "MasterKey(..)");
    }

    #[test]
    fn every_bit_of_what_is_sealed_counts() {
        let key = MasterKey::new(&[1; MASTER_KEY_BYTES]);
        let wrapped = key.seal([9; NONCE_BYTES], b"", b"secret").unwrap();
        for bit in 0..wrapped.len() * 8 {
            let mut changed = wrapped.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open(b"", &changed).err(), Some(SealError::Refused), "bit {bit}");
        }
        for length in 0..wrapped.len() {
            assert!(key.open(b"", &wrapped[..length]).is_err(), "{length} bytes");
        }
    }

    /// Test case 14 of the GCM specification (McGrew, Viega: The Galois/Counter Mode of Operation): a zero key, a zero
    /// nonce, 16 zero bytes.
    #[test]
    fn the_published_vector_comes_out() {
        let key = MasterKey::new(&[0; MASTER_KEY_BYTES]);
        let wrapped = key.seal([0; NONCE_BYTES], b"", &[0; 16]).unwrap();
        let hex: String = wrapped[NONCE_BYTES..]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919");
    }
}
