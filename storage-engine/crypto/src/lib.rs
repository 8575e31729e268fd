//! The encryption of a volume: the cipher of its blocks, its data key, and how that key is wrapped by a master key.
//! Computation only: where keys come from and where they are kept is for others to say.
#![forbid(unsafe_code)]

mod cipher;
mod data_key;
mod envelope;
mod seal;
mod tweaks;

pub use cipher::VolumeCipher;
pub use data_key::{DATA_KEY_BYTES, DataKey, WeakKey};
pub use envelope::{ENVELOPE_BYTES, Envelope, EnvelopeError, Owner};
pub use seal::{MASTER_KEY_BYTES, MasterKey, NONCE_BYTES, SEAL_BYTES, SealError};
