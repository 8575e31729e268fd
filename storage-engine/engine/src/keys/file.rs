//! Master keys in a file.
//!
//! One key a line, `NAME VERSION KEY`: a name, a number from 1 on, and 64 hexadecimal digits (32 bytes of randomness). Empty lines
//! and those that begin with `#` are skipped. Of a name's versions the highest wraps, and every one that is there
//! unwraps. The file is read at each use, so that a version that is added counts at once and nothing is kept in memory.
//!
//! Nobody but its owner may read it: a file that others can read is refused, and a line that is not as it must be makes
//! all of it unusable, because a version that is overlooked would leave volumes that cannot be opened.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use cairn_crypto::{MASTER_KEY_BYTES, MasterKey, NONCE_BYTES};
use zeroize::Zeroizing;

use super::service::{KeyError, KeyService};
use crate::meta::{ServiceKind, WrappedKey};

/// The longest file in bytes: thousands of keys.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The longest name of a master key in bytes.
pub(crate) const KEY_NAME_BYTES_MAX: usize = 63;
/// Who may not read it: group and others.
const OTHERS: u32 = 0o077;

/// Whether `name` can be a master key's name.
pub(crate) fn is_key_name(name: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=KEY_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_fit)
}

/// See the module.
#[derive(Clone, Debug)]
pub struct KeyFile {
    path: PathBuf,
}

struct Line {
    name: String,
    version: u32,
    key: MasterKey,
}

impl KeyFile {
    /// The file at `path`, which is read when it is used.
    pub const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn refused(&self, reason: impl Into<String>) -> KeyError {
        KeyError::Refused {
            service: self.describe(),
            reason: reason.into(),
        }
    }

    fn read(&self) -> Result<Vec<Line>, KeyError> {
        let text = read_private(&self.path).map_err(|problem| match problem {
            Problem::Io(error) => KeyError::Unavailable {
                service: self.describe(),
                reason: error.to_string(),
            },
            Problem::Open(mode) => self.refused(format!(
                "its mode is {mode:04o}, so that others can read it: `chmod 600 {}`",
                self.path.display()
            )),
            Problem::Long => self.refused(format!("it is longer than {FILE_BYTES_MAX} bytes")),
            Problem::NoText => self.refused("it is not text"),
        })?;
        let mut lines: Vec<Line> = Vec::new();
        for (number, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let refuse = |reason: &str| self.refused(format!("line {number}: {reason}"));
            let line = parse(text).map_err(|reason| refuse(&reason))?;
            let is_known = |known: &Line| (&known.name, known.version) == (&line.name, line.version);
            if lines.iter().any(is_known) {
                return Err(refuse(&format!(
                    "version {} of '{}' is there twice",
                    line.version, line.name
                )));
            }
            lines.push(line);
        }
        Ok(lines)
    }

    fn current(&self, key_name: &str) -> Result<Line, KeyError> {
        let lines = self.read()?.into_iter();
        let named = lines.filter(|line| line.name == key_name);
        named.max_by_key(|line| line.version).ok_or_else(|| {
            self.refused(format!(
                "it has no key '{key_name}': add a line with `echo \"{key_name} 1 $(openssl rand -hex 32)\" >> {}`",
                self.path.display()
            ))
        })
    }
}

enum Problem {
    Io(std::io::Error),
    /// Others can read it; its mode.
    Open(u32),
    Long,
    NoText,
}

/// A file that only its owner can read. The mode is that of what was opened, not of what has the name by now.
fn read_private(path: &Path) -> Result<Zeroizing<String>, Problem> {
    let file = std::fs::File::open(path).map_err(Problem::Io)?;
    let metadata = file.metadata().map_err(Problem::Io)?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(Problem::Open(mode));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(Problem::Long);
    }
    // All of it at once: a buffer that grows leaves what it held behind.
    let length = usize::try_from(metadata.len()).unwrap_or(0);
    let mut text = Zeroizing::new(String::with_capacity(length + 1));
    file.take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => Problem::NoText,
            _ => Problem::Io(error),
        })?;
    Ok(text)
}

/// A line's key. The refusal says what is wrong, not what is there: it may be a part of a key.
fn parse(text: &str) -> Result<Line, String> {
    let mut words = text.split_whitespace();
    let (Some(name), Some(version), Some(digits), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("a key is three words, NAME VERSION KEY".to_owned());
    };
    if !is_key_name(name) {
        return Err(format!(
            "a key's name is 1 to {KEY_NAME_BYTES_MAX} of letters, digits, '-', '_' and '.'"
        ));
    }
    let version = version.parse().ok().filter(|version| *version > 0);
    let version = version.ok_or("the second word is the key's version, a number from 1 on")?;
    let wrong = || {
        format!(
            "the third word is the key, {} hexadecimal digits as from `openssl rand -hex {MASTER_KEY_BYTES}`",
            2 * MASTER_KEY_BYTES
        )
    };
    if digits.len() != 2 * MASTER_KEY_BYTES || !digits.is_ascii() {
        return Err(wrong());
    }
    let mut key = Zeroizing::new([0; MASTER_KEY_BYTES]);
    for (byte, place) in key.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&digits[place..place + 2], 16).map_err(|_| wrong())?;
    }
    Ok(Line {
        name: name.to_owned(),
        version,
        key: MasterKey::new(&key),
    })
}

/// What a wrapping is bound to, besides the key itself.
fn label(name: &str, version: u32) -> String {
    format!("cairn master key {name} {version}")
}

#[tonic::async_trait]
impl KeyService for KeyFile {
    fn kind(&self) -> ServiceKind {
        ServiceKind::File
    }

    fn describe(&self) -> String {
        format!("file {}", self.path.display())
    }

    async fn current_version(&self, key_name: &str) -> Result<u32, KeyError> {
        self.current(key_name).map(|line| line.version)
    }

    async fn wrap(&self, key_name: &str, secret: &[u8]) -> Result<WrappedKey, KeyError> {
        let line = self.current(key_name)?;
        let mut nonce = [0; NONCE_BYTES];
        super::ring::fill_random(&mut nonce)?;
        let sealed = line.key.seal(nonce, label(key_name, line.version).as_bytes(), secret);
        Ok(WrappedKey {
            service: ServiceKind::File,
            key_name: key_name.to_owned(),
            version: line.version,
            bytes: sealed.map_err(|error| self.refused(error.to_string()))?,
        })
    }

    async fn unwrap(&self, wrapped: &WrappedKey) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let (name, version) = (&wrapped.key_name, wrapped.version);
        let mut lines = self.read()?.into_iter();
        let line = lines.find(|line| (&line.name, line.version) == (name, version));
        let line = line.ok_or_else(|| {
            self.refused(format!(
                "it has no version {version} of key '{name}', which wrapped the volume's key: put its line back"
            ))
        })?;
        let opened = line.key.open(label(name, version).as_bytes(), &wrapped.bytes);
        opened.map_err(|error| self.refused(format!("the wrapped key does not open: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "0101010101010101010101010101010101010101010101010101010101010101";
    const TWO: &str = "0202020202020202020202020202020202020202020202020202020202020202";

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, KeyFile) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let file = KeyFile::new(path);
        (directory, file)
    }

    #[tokio::test]
    async fn the_highest_version_wraps_and_every_one_unwraps() {
        let (_directory, keys) = file(&format!("# ours\n\nmain 1 {ONE}\nother 7 {TWO}\n"), 0o600);
        let old = keys.wrap("main", b"secret").await.unwrap();
        assert_eq!((old.version, old.bytes.len()), (1, 6 + cairn_crypto::SEAL_BYTES));
        std::fs::write(&keys.path, format!("main 2 {TWO}\nmain 1 {ONE}\n")).unwrap();
        assert_eq!(keys.current_version("main").await, Ok(2));
        let new = keys.rewrap(&old).await.unwrap();
        assert_eq!(new.version, 2);
        for wrapped in [&old, &new] {
            assert_eq!(&keys.unwrap(wrapped).await.unwrap()[..], b"secret");
        }
        assert_ne!(
            keys.wrap("main", b"secret").await.unwrap().bytes,
            new.bytes,
            "a nonce is used once"
        );
        std::fs::write(&keys.path, format!("main 2 {TWO}\n")).unwrap();
        let gone = keys.unwrap(&old).await.unwrap_err().to_string();
        assert!(gone.contains("no version 1 of key 'main'"), "{gone}");
        let relabelled = WrappedKey { version: 2, ..old };
        assert!(
            keys.unwrap(&relabelled)
                .await
                .unwrap_err()
                .to_string()
                .contains("does not open")
        );
        assert!(
            keys.wrap("none", b"")
                .await
                .unwrap_err()
                .to_string()
                .contains("openssl rand")
        );
    }

    #[tokio::test]
    async fn a_file_that_others_can_read_is_refused_with_the_remedy() {
        for mode in [0o640, 0o604, 0o610, 0o666] {
            let (_directory, keys) = file(&format!("main 1 {ONE}\n"), mode);
            let message = keys.current_version("main").await.unwrap_err().to_string();
            assert!(
                message.contains(&format!("{mode:04o}")) && message.contains("chmod 600"),
                "{message}"
            );
        }
        let (_directory, keys) = file(&format!("main 1 {ONE}\n"), 0o400);
        assert_eq!(keys.current_version("main").await, Ok(1));
    }

    #[tokio::test]
    async fn a_malformed_line_is_named_and_never_shown() {
        for (line, part) in [
            (format!("main {ONE}"), "three words"),
            (format!("main 1 {ONE} more"), "three words"),
            (format!("ma/in 1 {ONE}"), "a key's name"),
            (format!("main 0 {ONE}"), "a number from 1 on"),
            (format!("main one {ONE}"), "a number from 1 on"),
            (format!("main 1 {}", &ONE[1..]), "64 hexadecimal digits"),
            (format!("main 1 {}z", &ONE[1..]), "64 hexadecimal digits"),
            (format!("main 3 {TWO}"), "is there twice"),
        ] {
            let (_directory, keys) = file(&format!("main 3 {ONE}\n{line}\n"), 0o600);
            let message = keys.current_version("main").await.unwrap_err().to_string();
            assert!(
                message.contains("line 2: ") && message.contains(part),
                "{line}: {message}"
            );
            assert!(!message.contains("0101") && !message.contains("0202"), "{message}");
        }
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_may_be_later() {
        let keys = KeyFile::new("/nowhere/keys".into());
        let error = keys.current_version("main").await.unwrap_err();
        assert!(matches!(error, KeyError::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains("file /nowhere/keys"), "{error}");
    }
}
