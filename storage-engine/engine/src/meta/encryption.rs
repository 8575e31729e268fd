//! How a volume is encrypted, as the catalogue has it: the wrapped data key and the name of what wrapped it. See
//! `docs/rfcs/0003-encryption.md`.

use std::fmt;

use cairn_api::ids::GroupId;

use super::catalogue::{Catalogue, VolumeRecord};
use super::decide::{Change, Decision, Outcome, Refusal};

/// The longest wrapped key in bytes: several times what any key service makes of the 96 bytes of an envelope.
pub const WRAPPED_BYTES_MAX: usize = 4096;

/// Who wraps keys.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ServiceKind {
    /// Master keys in a file.
    File,
    /// The Transit engine of Vault.
    Vault,
}

impl ServiceKind {
    /// Its name, for people and configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Vault => "vault",
        }
    }

    /// Its number in the catalogue's records.
    pub const fn code(self) -> u32 {
        match self {
            Self::File => 1,
            Self::Vault => 2,
        }
    }

    /// The one of that number.
    pub const fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::File),
            2 => Some(Self::Vault),
            _ => None,
        }
    }
}

/// A data key that a master key has wrapped.
#[derive(Clone, PartialEq, Eq)]
pub struct WrappedKey {
    /// Who wrapped it.
    pub service: ServiceKind,
    /// The master key's name.
    pub key_name: String,
    /// Its version.
    pub version: u32,
    /// The wrapped envelope, as the service made it. Empty once the volume is being deleted: erased.
    pub bytes: Vec<u8>,
}

impl WrappedKey {
    /// Whether it was erased.
    pub const fn is_erased(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What wrapped it, in words.
    pub fn master(&self) -> String {
        format!(
            "version {} of {} key '{}'",
            self.version,
            self.service.name(),
            self.key_name
        )
    }
}

impl fmt::Debug for WrappedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrappedKey({}, {} bytes)", self.master(), self.bytes.len())
    }
}

/// The encryption of a volume that is to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlannedEncryption {
    /// The number that the volume must get: it is inside the wrapping, where no other can be put.
    pub volume: GroupId,
    /// Its key.
    pub key: WrappedKey,
}

/// What a volume's encryption must be for a request to name an existing one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted<'a> {
    /// None.
    Plain,
    /// Any; under a master key of this name, if one is given.
    Encrypted(Option<&'a str>),
}

/// Refuses a volume that stands and is encrypted otherwise than asked for.
pub fn check_wanted(volume: &VolumeRecord, wanted: Wanted<'_>) -> Result<(), Refusal> {
    let difference = match (&volume.encryption, wanted) {
        (None, Wanted::Plain) => return Ok(()),
        (Some(key), Wanted::Encrypted(name)) => match name.filter(|name| *name != key.key_name) {
            None => return Ok(()),
            Some(name) => format!("its master key is '{}', not '{name}'", key.key_name),
        },
        (None, Wanted::Encrypted(_)) => "it is not encrypted".to_owned(),
        (Some(_), Wanted::Plain) => "it is encrypted".to_owned(),
    };
    Err(Refusal::Exists(format!(
        "volume '{}' exists and differs: {difference}",
        volume.name
    )))
}

/// Whether a volume may be made with that key: `number` is the one that it gets.
pub(super) fn check_planned(planned: Option<&PlannedEncryption>, number: GroupId) -> Result<(), Refusal> {
    let Some(planned) = planned else { return Ok(()) };
    check_key(&planned.key)?;
    if planned.volume != number {
        return Err(Refusal::Precondition(format!(
            "the data key was wrapped for volume number {}, and the next one is {number}: another volume was created at \
             the same time, ask again",
            planned.volume
        )));
    }
    Ok(())
}

fn check_key(key: &WrappedKey) -> Result<(), Refusal> {
    let length = key.bytes.len();
    if !(1..=WRAPPED_BYTES_MAX).contains(&length) {
        let rule = format!("a wrapped key has 1 to {WRAPPED_BYTES_MAX}");
        return Err(super::decide::invalid("bytes of the wrapped key", length, rule));
    }
    Ok(())
}

/// Decides on putting another wrapping in the place of one. Done already is done; whoever read an older one is refused, or
/// two that rewrap at once could bring back a wrapping that was already replaced.
pub(super) fn rewrap(catalogue: &Catalogue, group: GroupId, replaces: &[u8], key: &WrappedKey) -> Decision {
    let Some(volume) = catalogue.volumes.get(&group) else {
        return Err(Refusal::NotFound(format!("there is no volume {group}")));
    };
    let refuse = |reason: &str| Err(Refusal::Precondition(format!("volume '{}' {reason}", volume.name)));
    let Some(present) = &volume.encryption else {
        return refuse("is not encrypted");
    };
    if volume.deleting || present.is_erased() {
        return refuse("is being deleted: its key is erased");
    }
    check_key(key)?;
    if present == key {
        return Ok((Outcome::Done, Vec::new()));
    }
    if present.bytes != replaces {
        return refuse("was rewrapped meanwhile: ask again");
    }
    let mut volume = volume.clone();
    volume.encryption = Some(key.clone());
    Ok((Outcome::Done, vec![Change::Volume(volume)]))
}

/// Erases the key of a volume that is being deleted: from here on nobody can open it again.
pub(super) fn erase(volume: &mut VolumeRecord) {
    if let Some(key) = &mut volume.encryption {
        key.bytes.clear();
    }
}
