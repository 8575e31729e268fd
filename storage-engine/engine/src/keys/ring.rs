//! What the engine does with keys: draws and wraps them for new volumes, unwraps them for gateways, rewraps them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cairn_api::ids::GroupId;
use cairn_crypto::{DataKey, Envelope, Owner, VolumeCipher, WeakKey};

use super::service::{KeyError, KeyService};
use super::{KeyFile, Vault};
use crate::config::EncryptionConfig;
use crate::meta::{ServiceKind, WrappedKey};

/// Fills with the operating system's randomness.
pub(super) fn fill_random(bytes: &mut [u8]) -> Result<(), KeyError> {
    getrandom::fill(bytes).map_err(|error| KeyError::Invalid(format!("the system gives no randomness: {error}")))
}

impl From<WeakKey> for KeyError {
    fn from(weak: WeakKey) -> Self {
        Self::Invalid(weak.to_string())
    }
}

fn refuse_erased(wrapped: &WrappedKey) -> Result<(), KeyError> {
    if wrapped.is_erased() {
        let text = "the volume is being deleted: its key is erased";
        return Err(KeyError::Invalid(text.to_owned()));
    }
    Ok(())
}

/// What became of a wrapping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rewrapped {
    /// It is as asked for already.
    AsItIs,
    /// This is to take its place.
    Anew(WrappedKey),
}

/// The key services of an engine, and the master key of volumes that name none.
#[derive(Debug, Default)]
pub struct Keyring {
    services: Vec<Arc<dyn KeyService>>,
    /// Which of them wraps.
    preferred: Option<ServiceKind>,
    key_name: String,
    /// The ciphers of volumes that are open: a client that comes back needs no key service while another one, or its own old
    /// connection, still holds the volume's.
    opened: Mutex<BTreeMap<GroupId, Weak<VolumeCipher>>>,
    done: AtomicU64,
    failed: AtomicU64,
}

impl Keyring {
    /// Of a configuration. Nothing is asked yet.
    pub fn new(config: Option<&EncryptionConfig>) -> Self {
        let Some(config) = config else { return Self::default() };
        let mut services: Vec<Arc<dyn KeyService>> = Vec::new();
        if let Some(path) = &config.file {
            services.push(Arc::new(KeyFile::new(path.clone())));
        }
        if let Some(vault) = &config.vault {
            services.push(Arc::new(Vault::new(vault.clone())));
        }
        Self::with(services, config.service, config.key_name.clone())
    }

    /// Of these services.
    pub fn with(services: Vec<Arc<dyn KeyService>>, preferred: ServiceKind, key_name: String) -> Self {
        Self {
            services,
            preferred: Some(preferred),
            key_name,
            ..Self::default()
        }
    }

    /// The master key of volumes that name none.
    pub fn default_key(&self) -> &str {
        &self.key_name
    }

    /// The services, the one that wraps first.
    pub fn services(&self) -> Vec<Arc<dyn KeyService>> {
        let mut services = self.services.clone();
        services.sort_by_key(|service| Some(service.kind()) != self.preferred);
        services
    }

    /// Requests that key services have done and failed.
    pub fn requests(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }

    fn counted<T>(&self, result: Result<T, KeyError>) -> Result<T, KeyError> {
        let counter = if result.is_ok() { &self.done } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        result
    }

    fn of_kind(&self, kind: ServiceKind) -> Result<&Arc<dyn KeyService>, KeyError> {
        let found = self.services.iter().find(|service| service.kind() == kind);
        found.ok_or_else(|| {
            KeyError::NotConfigured(format!(
                "this engine's configuration has no [encryption.{}], and that service wrapped the volume's key: every \
                 engine that uses encrypted volumes needs it",
                kind.name()
            ))
        })
    }

    fn preferred(&self) -> Result<&Arc<dyn KeyService>, KeyError> {
        let kind = self.preferred.ok_or_else(|| {
            let text = "this engine's configuration has no [encryption] section: give every engine one, with the same \
                        key service, to use encrypted volumes";
            KeyError::NotConfigured(text.to_owned())
        })?;
        self.of_kind(kind)
    }

    /// A fresh key for a volume, wrapped under `key_name`, or under the usual master key.
    pub async fn create(&self, owner: Owner, key_name: Option<&str>) -> Result<WrappedKey, KeyError> {
        let service = self.preferred()?;
        let key = DataKey::draw(fill_random)?;
        let envelope = Envelope::new(owner, &key);
        let wrapped = service
            .wrap(key_name.unwrap_or(&self.key_name), envelope.expose())
            .await;
        self.counted(wrapped)
    }

    async fn data_key(&self, owner: Owner, wrapped: &WrappedKey) -> Result<DataKey, KeyError> {
        let secret = self.of_kind(wrapped.service)?.unwrap(wrapped).await;
        let envelope = Envelope::from_bytes(self.counted(secret)?);
        envelope
            .open(owner)
            .map_err(|error| KeyError::Invalid(error.to_string()))
    }

    /// What a volume's gateway encrypts with.
    pub async fn open(&self, owner: Owner, wrapped: &WrappedKey) -> Result<Arc<VolumeCipher>, KeyError> {
        refuse_erased(wrapped)?;
        if let Some(cipher) = self.opened().get(&owner.volume).and_then(Weak::upgrade) {
            return Ok(cipher);
        }
        let key = self.data_key(owner, wrapped).await?;
        let cipher = Arc::new(VolumeCipher::new(&key));
        let mut opened = self.opened();
        opened.retain(|_, cipher| cipher.strong_count() > 0);
        opened.insert(owner.volume, Arc::downgrade(&cipher));
        Ok(cipher)
    }

    fn opened(&self) -> MutexGuard<'_, BTreeMap<GroupId, Weak<VolumeCipher>>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wraps a volume's key for another volume, a clone of it: they share blocks, so they share the data key. Under `key_name`, or
    /// the master key that it has. Each wrapping is of use in its own record only, and is rewrapped and erased by itself.
    pub async fn share(
        &self,
        (of, wrapped): (Owner, &WrappedKey),
        owner: Owner,
        key_name: Option<&str>,
    ) -> Result<WrappedKey, KeyError> {
        refuse_erased(wrapped)?;
        let service = self.preferred()?;
        let key = self.data_key(of, wrapped).await?;
        let envelope = Envelope::new(owner, &key);
        let shared = service
            .wrap(key_name.unwrap_or(&wrapped.key_name), envelope.expose())
            .await;
        self.counted(shared)
    }

    /// Wraps a volume's key under the current version of `key_name`, or of the master key that it has, by the service that
    /// wraps now. What comes out is unwrapped and compared first: once it is committed the old wrapping is gone.
    pub async fn rewrap(
        &self,
        owner: Owner,
        wrapped: &WrappedKey,
        key_name: Option<&str>,
    ) -> Result<Rewrapped, KeyError> {
        refuse_erased(wrapped)?;
        let service = self.preferred()?;
        let key_name = key_name.unwrap_or(&wrapped.key_name);
        let is_same_master = (wrapped.service, wrapped.key_name.as_str()) == (service.kind(), key_name);
        if is_same_master && self.counted(service.current_version(key_name).await)? == wrapped.version {
            return Ok(Rewrapped::AsItIs);
        }
        let key = self.data_key(owner, wrapped).await?;
        let anew = if is_same_master {
            service.rewrap(wrapped).await
        } else {
            service.wrap(key_name, Envelope::new(owner, &key).expose()).await
        };
        let anew = self.counted(anew)?;
        if !self.data_key(owner, &anew).await?.is_same(&key) {
            let text = format!(
                "what {} rewrapped is another key: nothing was changed",
                service.describe()
            );
            return Err(KeyError::Invalid(text));
        }
        Ok(Rewrapped::Anew(anew))
    }
}
