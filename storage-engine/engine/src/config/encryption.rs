//! `[encryption]`: where the keys of encrypted volumes are wrapped.

use std::path::PathBuf;
use std::time::Duration;

use super::ConfigError;
use super::check::invalid;
use super::file::{FileEncryption, FileVault};
use crate::keys::{Endpoint, VaultConfig, is_key_name};
use crate::meta::ServiceKind;

const KEY_NAME: &str = "main";
const MOUNT: &str = "transit";
const TIMEOUT_MS: u64 = 3000;
/// What one request may take: an NBD client that waits for a volume to open gives up after half a minute, and there are
/// three attempts.
const TIMEOUT_MS_MAX: u64 = 8000;

/// The key services of an engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EncryptionConfig {
    /// The master key of volumes that name none.
    pub key_name: String,
    /// Which service wraps; the others only unwrap what they have wrapped.
    pub service: ServiceKind,
    /// Master keys in a file.
    pub file: Option<PathBuf>,
    /// The Transit engine of Vault.
    pub vault: Option<VaultConfig>,
}

pub(super) fn check(file: FileEncryption) -> Result<EncryptionConfig, ConfigError> {
    let key_name = file.key_name.unwrap_or_else(|| KEY_NAME.to_owned());
    if !is_key_name(&key_name) {
        let rule = "a key's name is 1 to 63 of letters, digits, '-', '_' and '.'";
        return Err(invalid("encryption.key_name", key_name, rule));
    }
    let service = match (file.service.as_deref(), &file.file, &file.vault) {
        (None | Some("file"), Some(_), None) | (Some("file"), Some(_), Some(_)) => ServiceKind::File,
        (None | Some("vault"), None, Some(_)) | (Some("vault"), Some(_), Some(_)) => ServiceKind::Vault,
        (None, None, None) => {
            return Err(ConfigError::Missing {
                key: "encryption.file",
                remedy: "write [encryption.file] with path = \"...\", or [encryption.vault]",
            });
        }
        (None, Some(_), Some(_)) => {
            return Err(ConfigError::Missing {
                key: "encryption.service",
                remedy: "two services are configured: write service = \"file\" or \"vault\" for the one that wraps",
            });
        }
        (Some(name), ..) => {
            let rule = "it is \"file\" or \"vault\", and [encryption.file] or [encryption.vault] says where";
            return Err(invalid("encryption.service", name, rule));
        }
    };
    Ok(EncryptionConfig {
        key_name,
        service,
        file: file.file.map(|file| file.path),
        vault: file.vault.map(vault).transpose()?,
    })
}

fn vault(file: FileVault) -> Result<VaultConfig, ConfigError> {
    let endpoint =
        Endpoint::parse(&file.address).map_err(|rule| invalid("encryption.vault.address", &file.address, rule))?;
    if endpoint.is_tls && file.ca.is_none() {
        return Err(ConfigError::Missing {
            key: "encryption.vault.ca",
            remedy: "write ca = \"...\" with the PEM file of the authority of Vault's certificate",
        });
    }
    let mount = file.mount.unwrap_or_else(|| MOUNT.to_owned());
    let is_path_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    if mount.is_empty() || mount.starts_with('/') || mount.ends_with('/') || !mount.bytes().all(is_path_byte) {
        let rule = "it is a path of letters, digits, '-', '_' and '.', without a slash at its ends";
        return Err(invalid("encryption.vault.mount", mount, rule));
    }
    let timeout_ms = file.timeout_ms.unwrap_or(TIMEOUT_MS);
    if !(1..=TIMEOUT_MS_MAX).contains(&timeout_ms) {
        let rule = format!("it must be 1 to {TIMEOUT_MS_MAX}");
        return Err(invalid("encryption.vault.timeout_ms", timeout_ms, rule));
    }
    Ok(VaultConfig {
        endpoint,
        mount,
        namespace: file.namespace,
        token_file: file.token_file,
        ca: file.ca,
        timeout: Duration::from_millis(timeout_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<EncryptionConfig, String> {
        let file: FileEncryption = toml::from_str(text).map_err(|error| error.to_string())?;
        check(file).map_err(|error| error.to_string())
    }

    const FILE: &str = "[file]\npath = \"/k\"\n";
    const VAULT: &str = "[vault]\naddress = \"https://v:8200\"\ntoken_file = \"/t\"\nca = \"/ca.pem\"\n";

    #[test]
    fn the_service_that_is_configured_wraps_and_of_two_the_one_that_is_named() {
        assert_eq!(parse(FILE).map(|config| config.service), Ok(ServiceKind::File));
        let vault = parse(VAULT).unwrap();
        assert_eq!((vault.service, vault.key_name.as_str()), (ServiceKind::Vault, "main"));
        let both = parse(&format!("service = \"vault\"\nkey_name = \"k\"\n{FILE}{VAULT}")).unwrap();
        assert_eq!((both.service, both.key_name.as_str()), (ServiceKind::Vault, "k"));
        assert!(both.file.is_some());
    }

    #[test]
    fn what_breaks_a_rule_is_named() {
        for (text, part) in [
            (String::new(), "`encryption.file`"),
            (format!("{FILE}{VAULT}"), "`encryption.service`"),
            (
                format!("service = \"vault\"\n{FILE}"),
                "`encryption.service` is 'vault'",
            ),
            (format!("service = \"kms\"\n{FILE}"), "`encryption.service` is 'kms'"),
            (format!("key_name = \"a b\"\n{FILE}"), "`encryption.key_name`"),
            (format!("{FILE}mode = 1\n"), "unknown field `mode`"),
            (VAULT.replace("https", "http"), "`encryption.vault.address`"),
            (VAULT.replace("ca = \"/ca.pem\"\n", ""), "`encryption.vault.ca`"),
            (format!("{VAULT}mount = \"/transit\"\n"), "`encryption.vault.mount`"),
            (format!("{VAULT}timeout_ms = 0\n"), "`encryption.vault.timeout_ms`"),
            (format!("{VAULT}timeout_ms = 9000\n"), "`encryption.vault.timeout_ms`"),
        ] {
            let message = parse(&text).unwrap_err();
            assert!(message.contains(part), "{part} not in: {message}");
        }
    }
}
