//! A volume as a frontend's connection opens it.

use std::sync::Arc;

use cairn_api::block::DeviceInfo;
use cairn_core::event::GroupSpec;
use cairn_crypto::VolumeCipher;

/// See the module.
#[derive(Debug)]
pub struct Opening {
    /// What the client was told of it.
    pub info: DeviceInfo,
    /// The volume, with its present members.
    pub spec: GroupSpec,
    /// What it is encrypted with, if it is.
    pub cipher: Option<Arc<VolumeCipher>>,
}
