//! What a key service does.

use std::fmt;

use zeroize::Zeroizing;

use crate::meta::{ServiceKind, WrappedKey};

/// Why a key service did not do what it was asked. Every message names the service and never contains a key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be reached, or does not answer in time: later it may.
    #[error("the key service ({service}) cannot be used now: {reason}")]
    Unavailable {
        /// Which.
        service: String,
        /// What happened.
        reason: String,
    },
    /// It refuses, or what it says makes no sense: asking again changes nothing.
    #[error("the key service ({service}) refuses: {reason}")]
    Refused {
        /// Which.
        service: String,
        /// Why.
        reason: String,
    },
    /// The engine's configuration names no such service.
    #[error("{0}")]
    NotConfigured(String),
    /// A key is not what it must be.
    #[error("{0}")]
    Invalid(String),
}

/// Wraps and unwraps short secrets under named master keys, which have versions and never leave it unless it is a file.
#[tonic::async_trait]
pub trait KeyService: Send + Sync + fmt::Debug {
    /// Which kind it is.
    fn kind(&self) -> ServiceKind;

    /// What and where it is, for messages.
    fn describe(&self) -> String;

    /// The version of a master key that wraps now.
    async fn current_version(&self, key_name: &str) -> Result<u32, KeyError>;

    /// Wraps a secret under the current version of a master key.
    async fn wrap(&self, key_name: &str, secret: &[u8]) -> Result<WrappedKey, KeyError>;

    /// Unwraps what [`Self::wrap`] or [`Self::rewrap`] made, under whatever version, while that version is there.
    async fn unwrap(&self, wrapped: &WrappedKey) -> Result<Zeroizing<Vec<u8>>, KeyError>;

    /// Wraps the same secret under the current version of the same master key.
    async fn rewrap(&self, wrapped: &WrappedKey) -> Result<WrappedKey, KeyError> {
        let secret = self.unwrap(wrapped).await?;
        self.wrap(&wrapped.key_name, &secret).await
    }
}
