//! Clusters whose every core has the same seeded fault: what the checks are tested with. Without the feature `mutations`
//! there is only the sound one.

use bytes::Bytes;
use cairn_core::Core;
use cairn_core::config::CoreConfig;
#[cfg(feature = "mutations")]
use cairn_core::mutation::Mutation;
use cairn_format::error::FormatError;
use cairn_format::peer::{FrameHeader, PeerMessage, decode_body};

/// The fault of all cores of a cluster, if they have one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mutant {
    #[cfg(feature = "mutations")]
    pub mutation: Option<Mutation>,
}

impl Mutant {
    #[cfg(feature = "mutations")]
    pub const fn of(mutation: Mutation) -> Self {
        Self {
            mutation: Some(mutation),
        }
    }

    pub(crate) fn core(self, config: CoreConfig) -> Core {
        #[cfg(feature = "mutations")]
        return Core::with_mutation(config, self.mutation);
        #[cfg(not(feature = "mutations"))]
        Core::new(config)
    }

    /// Decodes a frame as the cores' drivers do.
    pub(crate) fn decode(
        self,
        header: &FrameHeader,
        body: &Bytes,
        payload: &Bytes,
    ) -> Result<Vec<PeerMessage>, FormatError> {
        #[cfg(feature = "mutations")]
        if self.mutation == Some(Mutation::ReceivedPayloadUnchecked) {
            return cairn_format::peer::decode_body_trusting(header, body, payload);
        }
        decode_body(header, body, payload)
    }
}
