//! Keys of encrypted volumes, as far as they are shown: who wraps them, never what they are.

use cairn_api::control;
use serde::Serialize;

use super::table::{Column, layout, properties};
use super::{View, non_empty, or_nothing};

/// How a volume is encrypted.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct EncryptionView {
    /// `aes-256-xts`.
    pub cipher: String,
    /// `file` or `vault`: what wrapped its data key.
    pub service: String,
    /// The master key.
    pub key_name: String,
    /// And its version.
    pub key_version: u32,
    /// The volume is being deleted, and its key is gone.
    pub erased: bool,
}

impl EncryptionView {
    /// From the API's answer.
    pub fn new(encryption: &control::VolumeEncryption) -> Self {
        Self {
            cipher: encryption.cipher.clone(),
            service: encryption.service.clone(),
            key_name: encryption.key_name.clone(),
            key_version: encryption.key_version,
            erased: encryption.erased,
        }
    }

    /// The master key in a few words.
    pub(super) fn master(&self) -> String {
        match self.erased {
            true => "erased".to_owned(),
            false => format!("{} version {} ({})", self.key_name, self.key_version, self.service),
        }
    }
}

/// A volume whose key was to be rewrapped.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct RewrappedView {
    /// The volume.
    pub name: String,
    /// Whether its key was wrapped anew; if not, it was under the current version already.
    pub changed: bool,
    /// How it is encrypted now.
    pub encryption: Option<EncryptionView>,
}

impl RewrappedView {
    /// From the API's answer.
    pub fn new(name: &str, reply: &control::RewrapVolumeReply) -> Self {
        Self {
            name: name.to_owned(),
            changed: reply.changed,
            encryption: reply.encryption.as_ref().map(EncryptionView::new),
        }
    }
}

/// What a rewrapping did.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct RewrappedListView {
    /// In the order in which they were done.
    pub volumes: Vec<RewrappedView>,
}

impl View for RewrappedListView {
    fn table(&self) -> String {
        if self.volumes.is_empty() {
            return "No volume is encrypted.".to_owned();
        }
        let columns = [
            Column::Words("VOLUME"),
            Column::Words("MASTER KEY"),
            Column::Words("REWRAPPED"),
        ];
        let row = |volume: &RewrappedView| {
            let master = volume.encryption.as_ref().map(EncryptionView::master);
            let word = if volume.changed { "now" } else { "was already" };
            vec![volume.name.clone(), or_nothing(master.as_deref()), word.to_owned()]
        };
        layout(&columns, self.volumes.iter().map(row).collect())
    }
}

/// The key services of an engine, and what volumes depend on.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct KeyStatusView {
    /// Who says this.
    pub engine: String,
    /// The master key of volumes that name none; nothing if the engine has no key service.
    pub default_key: Option<String>,
    /// The one that wraps first.
    pub services: Vec<KeyServiceView>,
    /// Versions of master keys.
    pub keys: Vec<MasterKeyView>,
}

/// A key service.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct KeyServiceView {
    /// `file` or `vault`.
    pub kind: String,
    /// Where it is.
    pub description: String,
    /// It wraps; others only unwrap.
    pub wraps: bool,
}

/// A version of a master key that is current, or that volumes are wrapped under.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct MasterKeyView {
    /// `file` or `vault`.
    pub service: String,
    /// Its name.
    pub key_name: String,
    /// Its version; nothing if the service does not tell.
    pub version: Option<u32>,
    /// Volumes that cannot be opened without it.
    pub volumes: u32,
    /// What is wrapped now is wrapped under it.
    pub current: bool,
    /// Why the engine cannot use the key now, if so.
    pub problem: Option<String>,
}

impl KeyStatusView {
    /// From the API's answer.
    pub fn new(status: &control::KeyStatus) -> Self {
        Self {
            engine: status.engine.clone(),
            default_key: non_empty(&status.default_key),
            services: status
                .services
                .iter()
                .map(|service| KeyServiceView {
                    kind: service.kind.clone(),
                    description: service.description.clone(),
                    wraps: service.wraps,
                })
                .collect(),
            keys: status
                .keys
                .iter()
                .map(|key| MasterKeyView {
                    service: key.service.clone(),
                    key_name: key.key_name.clone(),
                    version: (key.version > 0).then_some(key.version),
                    volumes: key.volumes,
                    current: key.current,
                    problem: non_empty(&key.problem),
                })
                .collect(),
        }
    }
}

impl MasterKeyView {
    fn state(&self) -> String {
        match (&self.problem, self.current, self.volumes) {
            (Some(problem), ..) => problem.clone(),
            (None, true, _) => "current".to_owned(),
            (None, false, _) => "old: `cairn volume rewrap --all`".to_owned(),
        }
    }
}

impl View for KeyStatusView {
    fn table(&self) -> String {
        let services: Vec<&str> = self
            .services
            .iter()
            .map(|service| service.description.as_str())
            .collect();
        let services = match services.is_empty() {
            true => "none: the configuration has no [encryption]".to_owned(),
            false => services.join(", then "),
        };
        let head = properties(&[
            ("Engine", self.engine.clone()),
            ("Key service", services),
            ("Usual key", or_nothing(self.default_key.as_deref())),
        ]);
        if self.keys.is_empty() {
            return head;
        }
        let columns = [
            Column::Words("MASTER KEY"),
            Column::Words("SERVICE"),
            Column::Number("VERSION"),
            Column::Number("VOLUMES"),
            Column::Words("STATE"),
        ];
        let row = |key: &MasterKeyView| {
            vec![
                key.key_name.clone(),
                key.service.clone(),
                or_nothing(key.version.map(|version| version.to_string()).as_deref()),
                key.volumes.to_string(),
                key.state(),
            ]
        };
        format!("{head}\n\n{}", layout(&columns, self.keys.iter().map(row).collect()))
    }
}
