//! Certificates and keys from PEM files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem};

/// The longest PEM file that is read: a chain and a bundle of authorities fit many times over.
const PEM_BYTES_MAX: u64 = 4 << 20;

/// Where the server's identity lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// PEM with the server's certificate first, then the authorities between it and the root.
    pub certificate: PathBuf,
    /// PEM with the certificate's private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
    /// PEM with the authorities whose clients are let in; without it a client needs no certificate.
    pub client_ca: Option<PathBuf>,
}

/// Why the server's identity could not be used. Each names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file is longer than any sensible PEM file.
    #[error("{} has {length} bytes; a PEM file of more than {limit} bytes is not read", file.display())]
    TooLong {
        /// The file.
        file: PathBuf,
        /// Its length in bytes.
        length: u64,
        /// The limit.
        limit: u64,
    },
    /// A file is not PEM.
    #[error("{} is damaged PEM: {reason}", file.display())]
    Pem {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file has no certificate.
    #[error("{} holds no certificate: it needs a section that begins with -----BEGIN CERTIFICATE-----", file.display())]
    NoCertificate {
        /// The file.
        file: PathBuf,
    },
    /// A file has no private key.
    #[error("{} holds no private key: it needs a section that begins with -----BEGIN PRIVATE KEY-----", file.display())]
    NoKey {
        /// The file.
        file: PathBuf,
    },
    /// Certificate and key do not work together.
    #[error("{} and {} cannot be used together: {source}", certificate.display(), key.display())]
    Identity {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// The client authorities cannot be used.
    #[error("{} cannot be used to check clients: {reason}", file.display())]
    ClientAuthorities {
        /// The file.
        file: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// The server's identity, ready for use and cheap to clone.
#[derive(Clone, Debug)]
pub struct TlsServer(Arc<ServerConfig>);

impl TlsServer {
    /// From a configuration made elsewhere.
    pub const fn new(config: Arc<ServerConfig>) -> Self {
        Self(config)
    }

    /// Reads and checks the files.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsConfigError> {
        let chain = certificates(&files.certificate)?;
        let key = private_key(&files.key)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let identity = |source| TlsConfigError::Identity {
            certificate: files.certificate.clone(),
            key: files.key.clone(),
            source,
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(identity)?;
        let builder = match &files.client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let refuse = |reason| TlsConfigError::ClientAuthorities {
                    file: file.clone(),
                    reason,
                };
                let mut roots = RootCertStore::empty();
                for authority in certificates(file)? {
                    roots.add(authority).map_err(|error| refuse(error.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|error| refuse(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        builder
            .with_single_cert(chain, key)
            .map(|config| Self(Arc::new(config)))
            .map_err(identity)
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0)
    }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsConfigError> {
    let failed = |source| TlsConfigError::Read {
        file: file.to_owned(),
        source,
    };
    let length = std::fs::metadata(file).map_err(failed)?.len();
    if length > PEM_BYTES_MAX {
        return Err(TlsConfigError::TooLong {
            file: file.to_owned(),
            length,
            limit: PEM_BYTES_MAX,
        });
    }
    std::fs::read(file).map_err(failed)
}

fn damaged(file: &Path, error: &pem::Error) -> TlsConfigError {
    TlsConfigError::Pem {
        file: file.to_owned(),
        reason: error.to_string(),
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let text = read(file)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| damaged(file, &error))?;
    if chain.is_empty() {
        return Err(TlsConfigError::NoCertificate { file: file.to_owned() });
    }
    Ok(chain)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsConfigError> {
    PrivateKeyDer::from_pem_slice(&read(file)?).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsConfigError::NoKey { file: file.to_owned() },
        other => damaged(file, &other),
    })
}
