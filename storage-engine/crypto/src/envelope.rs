//! What a master key wraps: a data key, and whose it is.
//!
//! The wrapping is authenticated, and so is what it contains. A wrapped key that was put into another volume's record
//! unwraps, and is then seen to be somebody else's: an engine would otherwise write one volume under a key that whoever
//! swapped them may know.
//!
//! # Layout
//! | bytes | |
//! |---|---|
//! | 0..8 | [`MAGIC`] |
//! | 8..24 | the cluster's id |
//! | 24..32 | the volume's number, little-endian |
//! | 32..96 | the data key |

use cairn_api::ids::{ClusterId, GroupId};
use zeroize::Zeroizing;

use crate::data_key::{DATA_KEY_BYTES, DataKey, WeakKey};

/// Marks an envelope and its version.
const MAGIC: [u8; 8] = *b"CAIRNDK1";
const CLUSTER_AT: usize = 8;
const VOLUME_AT: usize = 24;
const KEY_AT: usize = 32;

/// Bytes of an envelope.
pub const ENVELOPE_BYTES: usize = KEY_AT + DATA_KEY_BYTES;

/// Whose a data key is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The cluster.
    pub cluster: ClusterId,
    /// The volume: its number, which no other volume of the cluster ever gets.
    pub volume: GroupId,
}

/// Why an envelope is not opened.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Not an envelope.
    #[error("what the key service unwrapped is no data key of Cairn")]
    Malformed,
    /// Of another volume or cluster.
    #[error("the wrapped key is that of volume {} of cluster {}, not of volume {} of cluster {}",
        found.volume, found.cluster, wanted.volume, wanted.cluster)]
    Stranger {
        /// Whose it is.
        found: Owner,
        /// Whose it should be.
        wanted: Owner,
    },
    /// No key to encrypt with.
    #[error(transparent)]
    Weak(#[from] WeakKey),
}

/// An envelope's bytes. Zeroed when dropped; shown by nothing.
pub struct Envelope(Zeroizing<Vec<u8>>);

impl Envelope {
    /// Puts a key into an envelope.
    pub fn new(owner: Owner, key: &DataKey) -> Self {
        let mut bytes = Zeroizing::new(vec![0; ENVELOPE_BYTES]);
        bytes[..CLUSTER_AT].copy_from_slice(&MAGIC);
        bytes[CLUSTER_AT..VOLUME_AT].copy_from_slice(&owner.cluster.to_bytes());
        bytes[VOLUME_AT..KEY_AT].copy_from_slice(&owner.volume.get().to_le_bytes());
        bytes[KEY_AT..].copy_from_slice(key.expose());
        Self(bytes)
    }

    /// What a key service has unwrapped.
    pub const fn from_bytes(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// Its bytes, to be wrapped.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Takes the key out, if it is this owner's.
    pub fn open(&self, wanted: Owner) -> Result<DataKey, EnvelopeError> {
        let bytes: &[u8; ENVELOPE_BYTES] = self.0[..].try_into().map_err(|_| EnvelopeError::Malformed)?;
        let (head, key) = bytes.split_at(KEY_AT);
        if head[..CLUSTER_AT] != MAGIC {
            return Err(EnvelopeError::Malformed);
        }
        let cluster: [u8; 16] = head[CLUSTER_AT..VOLUME_AT]
            .try_into()
            .map_err(|_| EnvelopeError::Malformed)?;
        let volume: [u8; 8] = head[VOLUME_AT..].try_into().map_err(|_| EnvelopeError::Malformed)?;
        let found = Owner {
            cluster: ClusterId::from_bytes(cluster),
            volume: GroupId(u64::from_le_bytes(volume)),
        };
        if found != wanted {
            return Err(EnvelopeError::Stranger { found, wanted });
        }
        let key: &[u8; DATA_KEY_BYTES] = key.try_into().map_err(|_| EnvelopeError::Malformed)?;
        Ok(DataKey::from_bytes(key)?)
    }
}

impl std::fmt::Debug for Envelope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Envelope(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> DataKey {
        let bytes: Vec<u8> = (0..64).collect();
        DataKey::from_bytes(&bytes.try_into().unwrap()).unwrap()
    }

    const OWNER: Owner = Owner {
        cluster: ClusterId::from_bytes([3; 16]),
        volume: GroupId(9),
    };

    #[test]
    fn a_key_comes_out_for_its_owner_only() {
        let envelope = Envelope::new(OWNER, &key());
        assert!(envelope.open(OWNER).unwrap().is_same(&key()));
        let others = [
            Owner {
                volume: GroupId(10),
                ..OWNER
            },
            Owner {
                cluster: ClusterId::from_bytes([4; 16]),
                ..OWNER
            },
        ];
        for wanted in others {
            let found = OWNER;
            assert_eq!(
                envelope.open(wanted).err(),
                Some(EnvelopeError::Stranger { found, wanted })
            );
        }
        assert_eq!(format!("{envelope:?}"), "Envelope(..)");
    }

    #[test]
    fn what_is_no_envelope_is_refused() {
        let good = Envelope::new(OWNER, &key()).expose().to_vec();
        for length in [0, 31, 32, ENVELOPE_BYTES - 1] {
            let cut = Envelope::from_bytes(Zeroizing::new(good[..length].to_vec()));
            assert_eq!(cut.open(OWNER).err(), Some(EnvelopeError::Malformed), "{length} bytes");
        }
        let longer = Envelope::from_bytes(Zeroizing::new([&good[..], &[0]].concat()));
        assert_eq!(longer.open(OWNER).err(), Some(EnvelopeError::Malformed));
        let mut other_version = good.clone();
        other_version[7] = b'2';
        let other_version = Envelope::from_bytes(Zeroizing::new(other_version));
        assert_eq!(other_version.open(OWNER).err(), Some(EnvelopeError::Malformed));
        let mut weak = good;
        weak[KEY_AT..].fill(1);
        let weak = Envelope::from_bytes(Zeroizing::new(weak));
        assert_eq!(weak.open(OWNER).err(), Some(EnvelopeError::Weak(WeakKey)));
    }
}
