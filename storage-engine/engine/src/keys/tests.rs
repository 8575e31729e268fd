//! The keyring against both services: what it draws comes back, only for its volume, and rewrapping loses nothing.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_api::ids::{ClusterId, GroupId};
use cairn_api::units::Lba;
use cairn_crypto::{Owner, VolumeCipher};

use super::fake_vault::{Shared, TOKEN, lock, serve};
use super::http::Endpoint;
use super::vault::VaultConfig;
use super::{KeyError, KeyFile, KeyService, Keyring, Rewrapped, Vault};
use crate::meta::{ServiceKind, WrappedKey};

fn owner(volume: u64) -> Owner {
    Owner {
        cluster: ClusterId::from_bytes([5; 16]),
        volume: GroupId(volume),
    }
}

fn key_file(directory: &Path, text: &str) -> KeyFile {
    let path = directory.join("keys");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    KeyFile::new(path)
}

fn line(version: u32, digit: char) -> String {
    format!("main {version} {}\n", String::from(digit).repeat(64))
}

async fn vault(directory: &Path) -> (Vault, Shared) {
    let (address, shared) = serve().await;
    lock(&shared).rotate("main");
    let token_file = directory.join("token");
    std::fs::write(&token_file, format!("{TOKEN}\n")).unwrap();
    let config = VaultConfig {
        endpoint: Endpoint::parse(&format!("http://{address}")).unwrap(),
        mount: "transit".to_owned(),
        namespace: None,
        token_file,
        ca: None,
        timeout: Duration::from_millis(300),
    };
    (Vault::new(config), shared)
}

fn ring(service: impl KeyService + 'static) -> Keyring {
    let kind = service.kind();
    Keyring::with(vec![Arc::new(service)], kind, "main".to_owned())
}

/// What a cipher makes of a block of zeros: equal for equal keys.
fn mark(cipher: &VolumeCipher) -> Vec<u8> {
    let mut out = vec![0; 4096];
    cipher.encrypt(Lba(1), &[0; 4096], &mut out);
    out
}

async fn mark_of(ring: &Keyring, volume: u64, wrapped: &WrappedKey) -> Vec<u8> {
    mark(&ring.open(owner(volume), wrapped).await.unwrap())
}

/// What must hold of any service; `rotate` adds a version of `main`.
async fn check_service(ring: &Keyring, rotate: impl FnOnce()) {
    let one = ring.create(owner(2), None).await.unwrap();
    let two = ring.create(owner(3), Some("main")).await.unwrap();
    let key = mark_of(ring, 2, &one).await;
    assert_ne!(key, mark_of(ring, 3, &two).await, "every volume has a key of its own");

    let swapped = ring.open(owner(4), &one).await.unwrap_err().to_string();
    assert!(swapped.contains("is that of volume 2 of cluster"), "{swapped}");
    let mut tampered = one.clone();
    let last = tampered.bytes.len() - 1;
    tampered.bytes[last] ^= 1;
    assert!(matches!(
        ring.open(owner(2), &tampered).await,
        Err(KeyError::Refused { .. })
    ));

    assert_eq!(
        ring.rewrap(owner(2), &one, None).await,
        Ok(Rewrapped::AsItIs),
        "nothing to do"
    );
    rotate();
    let Ok(Rewrapped::Anew(rewrapped)) = ring.rewrap(owner(2), &one, None).await else {
        panic!("there is a new version");
    };
    assert_eq!((one.version, rewrapped.version), (1, 2));
    assert_ne!(one.bytes, rewrapped.bytes);
    assert_eq!(mark_of(ring, 2, &rewrapped).await, key, "the same data key");
    assert_eq!(
        mark_of(ring, 2, &one).await,
        key,
        "the old wrapping opens, too, while its version is there"
    );
    assert_eq!(ring.rewrap(owner(2), &rewrapped, None).await, Ok(Rewrapped::AsItIs));
    let unknown = ring.create(owner(4), Some("unknown")).await.unwrap_err();
    assert!(matches!(unknown, KeyError::Refused { .. }), "{unknown}");
}

#[tokio::test]
async fn a_file_keeps_the_rules() {
    let directory = tempfile::tempdir().unwrap();
    let ring = ring(key_file(directory.path(), &line(1, 'a')));
    let path = directory.path().to_owned();
    check_service(&ring, || drop(key_file(&path, &(line(1, 'a') + &line(2, 'b'))))).await;
}

#[tokio::test]
async fn vault_keeps_the_rules() {
    let directory = tempfile::tempdir().unwrap();
    let (vault, shared) = vault(directory.path()).await;
    let ring = ring(vault);
    check_service(&ring, || lock(&shared).rotate("main")).await;
    let wrapped = ring.create(owner(9), None).await.unwrap();
    assert!(wrapped.bytes.starts_with(b"vault:v2:"));
    // A version that was taken out of use in Vault is gone for Cairn, too.
    lock(&shared).rotate("main");
    lock(&shared).keys.get_mut("main").unwrap().1 = 3;
    let gone = ring.open(owner(9), &wrapped).await.unwrap_err().to_string();
    assert!(gone.contains("too old") && gone.contains("vault 127.0.0.1:"), "{gone}");
}

#[tokio::test]
async fn keys_move_from_one_service_to_another() {
    let directory = tempfile::tempdir().unwrap();
    let file = key_file(directory.path(), &line(1, 'a'));
    let before = ring(file.clone());
    let wrapped = before.create(owner(2), None).await.unwrap();
    let (vault, _shared) = vault(directory.path()).await;
    let services: Vec<Arc<dyn KeyService>> = vec![Arc::new(file), Arc::new(vault)];
    let both = Keyring::with(services, ServiceKind::Vault, "main".to_owned());
    let Ok(Rewrapped::Anew(moved)) = both.rewrap(owner(2), &wrapped, None).await else {
        panic!("another service wraps now");
    };
    assert_eq!(moved.service, ServiceKind::Vault);
    assert_eq!(mark_of(&both, 2, &moved).await, mark_of(&before, 2, &wrapped).await);
    let missing = before.open(owner(2), &moved).await.unwrap_err().to_string();
    assert!(missing.contains("[encryption.vault]"), "{missing}");
    assert!(
        Keyring::default()
            .create(owner(2), None)
            .await
            .unwrap_err()
            .to_string()
            .contains("[encryption] section")
    );
}

#[tokio::test]
async fn what_rewraps_to_another_key_is_not_taken() {
    let directory = tempfile::tempdir().unwrap();
    let (vault, shared) = vault(directory.path()).await;
    let ring = ring(vault);
    let wrapped = ring.create(owner(2), None).await.unwrap();
    lock(&shared).rotate("main");
    let stranger = cairn_crypto::DataKey::from_bytes(&std::array::from_fn(|i| u8::try_from(i).unwrap())).unwrap();
    let envelope = cairn_crypto::Envelope::new(owner(2), &stranger);
    lock(&shared).swaps = Some(envelope.expose().to_vec());
    let refused = ring.rewrap(owner(2), &wrapped, None).await.unwrap_err().to_string();
    assert!(refused.contains("another key: nothing was changed"), "{refused}");
}

#[tokio::test]
async fn vault_is_asked_again_while_that_may_help_and_no_longer() {
    let directory = tempfile::tempdir().unwrap();
    let (vault, shared) = vault(directory.path()).await;
    for status in [412, 429, 500, 502, 503] {
        lock(&shared).failures = vec![status, status];
        assert_eq!(vault.current_version("main").await, Ok(1), "after {status}");
    }
    lock(&shared).failures = vec![503; 3];
    let gone = vault.current_version("main").await.unwrap_err();
    assert!(
        matches!(gone, KeyError::Unavailable { .. }) && gone.to_string().contains("told to fail"),
        "{gone}"
    );
    for status in [400, 403, 404] {
        lock(&shared).failures = vec![status];
        lock(&shared).requests.clear();
        let refused = vault.current_version("main").await.unwrap_err();
        assert!(matches!(refused, KeyError::Refused { .. }), "{refused}");
        assert_eq!(lock(&shared).requests.len(), 1, "after {status}");
    }
    std::fs::write(directory.path().join("token"), "wrong").unwrap();
    let denied = vault.current_version("main").await.unwrap_err().to_string();
    assert!(
        denied.contains("permission denied") && !denied.contains("wrong"),
        "{denied}"
    );
    std::fs::remove_file(directory.path().join("token")).unwrap();
    assert!(
        vault
            .current_version("main")
            .await
            .unwrap_err()
            .to_string()
            .contains("token_file")
    );
}

#[tokio::test]
async fn a_vault_that_does_not_answer_costs_a_bounded_time() {
    let directory = tempfile::tempdir().unwrap();
    let (vault, shared) = vault(directory.path()).await;
    lock(&shared).delay = Duration::from_secs(60);
    let began = Instant::now();
    let late = vault.current_version("main").await.unwrap_err();
    assert!(late.to_string().contains("no answer within 300 ms"), "{late}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

/// A volume that is open stays so without its key service, and can be opened once more; one that is not cannot.
#[tokio::test]
async fn an_open_volume_does_not_need_its_key_service() {
    let directory = tempfile::tempdir().unwrap();
    let keys = key_file(directory.path(), &line(1, 'a'));
    let ring = ring(keys);
    let wrapped = ring.create(owner(2), None).await.unwrap();
    let held = ring.open(owner(2), &wrapped).await.unwrap();
    std::fs::remove_file(directory.path().join("keys")).unwrap();
    let again = ring.open(owner(2), &wrapped).await.unwrap();
    assert!(Arc::ptr_eq(&held, &again));
    drop((held, again));
    let refused = ring.open(owner(2), &wrapped).await.unwrap_err();
    assert!(matches!(refused, KeyError::Unavailable { .. }), "{refused}");
    let erased = WrappedKey {
        bytes: Vec::new(),
        ..wrapped
    };
    assert!(
        ring.open(owner(2), &erased)
            .await
            .unwrap_err()
            .to_string()
            .contains("erased")
    );
}

/// Whatever is printed of a keyring, no key is in it.
#[tokio::test]
async fn nothing_that_is_shown_contains_a_key() {
    let directory = tempfile::tempdir().unwrap();
    let ring = ring(key_file(directory.path(), &line(1, 'a')));
    let wrapped = ring.create(owner(2), None).await.unwrap();
    let cipher = ring.open(owner(2), &wrapped).await.unwrap();
    let shown = format!("{ring:?} {wrapped:?} {cipher:?}");
    assert!(!shown.contains("aaaa") && !shown.contains("170, 170"), "{shown}");
}
