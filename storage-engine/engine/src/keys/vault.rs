//! The Transit secrets engine of Vault (its HTTP API, `/v1/transit`), or of whatever speaks as it does.
//!
//! Used of it: `GET keys/NAME` for the current version, and `POST encrypt/NAME`, `decrypt/NAME`, `rewrap/NAME`. The token
//! needs `read` on `keys/NAME` and `update` on the other three. A master key is asked for before it is used, because `encrypt`
//! makes one that is missing if the token may.
//!
//! Which volume a wrapped key is of stands inside it (`cairn_crypto::Envelope`), so that nothing depends on what a version of
//! Vault authenticates beside it.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::http::{Call, Endpoint, HttpError, ask};
use super::service::{KeyError, KeyService};
use crate::meta::{ServiceKind, WrappedKey};

/// How often something is asked in all, while asking again may help.
const ATTEMPTS_MAX: u32 = 3;
/// The pause before the second attempt; it doubles.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest token in bytes.
const TOKEN_BYTES_MAX: u64 = 8 << 10;

/// Where Vault is and how it is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VaultConfig {
    pub(crate) endpoint: Endpoint,
    /// Where the Transit engine is mounted.
    pub(crate) mount: String,
    /// The namespace, if any.
    pub(crate) namespace: Option<String>,
    /// The file with the token, read at each use: whoever renews it writes it there.
    pub(crate) token_file: PathBuf,
    /// PEM file of the authority of Vault's certificate.
    pub(crate) ca: Option<PathBuf>,
    /// How long one request may take.
    pub(crate) timeout: Duration,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Vault {
    config: VaultConfig,
}

#[derive(Deserialize)]
struct Answer<T> {
    data: T,
}

#[derive(Deserialize)]
struct Key {
    latest_version: u32,
}

#[derive(Deserialize)]
struct Ciphertext {
    ciphertext: String,
}

#[derive(Deserialize)]
struct Plaintext {
    plaintext: Zeroizing<String>,
}

#[derive(Deserialize, Default)]
struct Refusals {
    #[serde(default)]
    errors: Vec<String>,
}

impl Vault {
    /// Of a configuration; nothing is asked yet.
    pub const fn new(config: VaultConfig) -> Self {
        Self { config }
    }

    fn refused(&self, reason: impl Into<String>) -> KeyError {
        KeyError::Refused {
            service: self.describe(),
            reason: reason.into(),
        }
    }

    fn unavailable(&self, reason: impl Into<String>) -> KeyError {
        KeyError::Unavailable {
            service: self.describe(),
            reason: reason.into(),
        }
    }

    fn token(&self) -> Result<HeaderValue, KeyError> {
        let path = &self.config.token_file;
        let refuse = |reason: &str| self.refused(format!("token_file {}: {reason}", path.display()));
        let unreadable = |error: std::io::Error| refuse(&error.to_string());
        if std::fs::metadata(path).map_err(unreadable)?.len() > TOKEN_BYTES_MAX {
            return Err(refuse("longer than a token"));
        }
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(unreadable)?);
        let mut value = HeaderValue::from_str(text.trim()).map_err(|_| refuse("not a token"))?;
        if value.is_empty() {
            return Err(refuse("it is empty"));
        }
        value.set_sensitive(true);
        Ok(value)
    }

    /// Asks until there is an answer, or asking again makes no sense.
    async fn ask(
        &self,
        method: Method,
        operation: &str,
        key_name: &str,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let path = format!("/v1/{}/{operation}/{key_name}", self.config.mount);
        let mut pause = PAUSE;
        for attempt in 1.. {
            let problem = match self.ask_once(method.clone(), &path, body.clone()).await? {
                Ok(answer) => return Ok(answer),
                Err(problem) => problem,
            };
            if attempt >= ATTEMPTS_MAX {
                return Err(self.unavailable(format!("{problem} ({ATTEMPTS_MAX} attempts)")));
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(self.unavailable("it was not asked"))
    }

    /// One attempt: an error for good, or what happened if it may go better the next time.
    async fn ask_once(
        &self,
        method: Method,
        path: &str,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Result<Zeroizing<Vec<u8>>, String>, KeyError> {
        let mut headers = vec![
            ("x-vault-token", self.token()?),
            ("x-vault-request", HeaderValue::from_static("true")),
            ("content-type", HeaderValue::from_static("application/json")),
        ];
        if let Some(namespace) = &self.config.namespace {
            let namespace = HeaderValue::from_str(namespace).map_err(|_| self.refused("the namespace is no header"))?;
            headers.push(("x-vault-namespace", namespace));
        }
        let call = Call {
            endpoint: &self.config.endpoint,
            ca: self.config.ca.as_deref(),
            method,
            path,
            headers,
            body,
            timeout: self.config.timeout,
        };
        match ask(call).await {
            Ok((StatusCode::OK, answer)) => Ok(Ok(answer)),
            Ok((status, answer)) => {
                let refusals: Refusals = serde_json::from_slice(&answer).unwrap_or_default();
                let words = match refusals.errors.is_empty() {
                    true => status.to_string(),
                    false => format!("{status}: {}", refusals.errors.join("; ")),
                };
                if is_transient(status) {
                    return Ok(Err(words));
                }
                Err(self.refused(format!("{path}: {words}")))
            }
            Err(HttpError::Transient(problem)) => Ok(Err(problem)),
            Err(HttpError::Lasting(problem)) => Err(self.refused(problem)),
        }
    }

    fn decode<'a, T: Deserialize<'a>>(&self, answer: &'a [u8]) -> Result<T, KeyError> {
        // What does not decode is not repeated: it may be a secret.
        let decoded: Result<Answer<T>, _> = serde_json::from_slice(answer);
        let answer = decoded.map_err(|_| self.refused("its answer is not as documented for the Transit engine"))?;
        Ok(answer.data)
    }

    /// A ciphertext tells the version that it is under: `vault:v3:…`.
    fn wrapped(&self, key_name: &str, answer: &[u8]) -> Result<WrappedKey, KeyError> {
        let Ciphertext { ciphertext } = self.decode(answer)?;
        let version = ciphertext
            .strip_prefix("vault:v")
            .and_then(|rest| rest.split_once(':'))
            .and_then(|(version, _)| version.parse().ok());
        Ok(WrappedKey {
            service: ServiceKind::Vault,
            key_name: key_name.to_owned(),
            version: version.ok_or_else(|| self.refused("its ciphertext does not begin with vault:vN:"))?,
            bytes: ciphertext.into_bytes(),
        })
    }

    /// `{"ciphertext": …}` of a wrapped key.
    fn ciphertext_of(&self, wrapped: &WrappedKey) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let text = std::str::from_utf8(&wrapped.bytes).map_err(|_| self.refused("the wrapped key is no text"))?;
        Ok(Zeroizing::new(
            serde_json::json!({ "ciphertext": text }).to_string().into_bytes(),
        ))
    }
}

/// Whether the same request may be answered a moment later: Vault is a standby, has not caught up, is sealed, or has an error
/// that it calls internal.
fn is_transient(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::PRECONDITION_FAILED | StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
    ) || status.is_server_error()
}

#[tonic::async_trait]
impl KeyService for Vault {
    fn kind(&self) -> ServiceKind {
        ServiceKind::Vault
    }

    fn describe(&self) -> String {
        let Endpoint { host, port, .. } = &self.config.endpoint;
        format!("vault {host}:{port}")
    }

    async fn current_version(&self, key_name: &str) -> Result<u32, KeyError> {
        let answer = self.ask(Method::GET, "keys", key_name, Zeroizing::default()).await?;
        let Key { latest_version } = self.decode(&answer)?;
        Ok(latest_version)
    }

    async fn wrap(&self, key_name: &str, secret: &[u8]) -> Result<WrappedKey, KeyError> {
        self.current_version(key_name).await?;
        let encoded = Zeroizing::new(STANDARD.encode(secret));
        // The alphabet of base64 needs no escapes; building a JSON value would leave a copy behind.
        let body = Zeroizing::new([b"{\"plaintext\":\"", encoded.as_bytes(), b"\"}"].concat());
        let answer = self.ask(Method::POST, "encrypt", key_name, body).await?;
        self.wrapped(key_name, &answer)
    }

    async fn unwrap(&self, wrapped: &WrappedKey) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let body = self.ciphertext_of(wrapped)?;
        let answer = self.ask(Method::POST, "decrypt", &wrapped.key_name, body).await?;
        let Plaintext { plaintext } = self.decode(&answer)?;
        let secret = STANDARD.decode(plaintext.as_bytes());
        secret
            .map(Zeroizing::new)
            .map_err(|_| self.refused("its plaintext is no base64"))
    }

    async fn rewrap(&self, wrapped: &WrappedKey) -> Result<WrappedKey, KeyError> {
        let body = self.ciphertext_of(wrapped)?;
        let answer = self.ask(Method::POST, "rewrap", &wrapped.key_name, body).await?;
        self.wrapped(&wrapped.key_name, &answer)
    }
}
