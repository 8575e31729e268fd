//! The keys of encrypted volumes: drawing them, and having them wrapped and unwrapped by a key service. See
//! `docs/rfcs/0003-encryption.md`.
//!
//! [`service`] is what a key service does, [`file`] and [`vault`] are the two there are, [`ring`] is what the engine asks.
//!
//! A data key is in this process in three moments: when it is drawn, until it is wrapped; when a volume is opened, until it
//! is expanded into the cipher that goes to the gateway; and when a rewrapping is compared. Each time it is zeroed
//! afterwards. What a key service sends is zeroed as soon as it is decoded; buffers of the HTTP library below are not.

mod file;
mod http;
mod ring;
mod service;
mod vault;

pub use file::KeyFile;
pub(crate) use file::is_key_name;
pub(crate) use http::Endpoint;
pub use ring::{Keyring, Rewrapped};
pub use service::{KeyError, KeyService};
pub use vault::{Vault, VaultConfig};

#[cfg(test)]
mod fake_vault;
#[cfg(test)]
mod tests;
