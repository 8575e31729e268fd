//! An authority, a server and a client certificate, as files under the names that libnbd looks for.

use std::path::PathBuf;

use cairn_nbd::{TlsFiles, TlsServer};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

pub struct Certificates {
    pub directory: tempfile::TempDir,
}

impl Certificates {
    pub fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| std::fs::write(directory.path().join(name), text).unwrap();

        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let key = KeyPair::generate().unwrap();
        write("ca-cert.pem", params.self_signed(&key).unwrap().pem());
        let issuer = Issuer::new(params, key);

        for (name, usage) in [
            ("server", ExtendedKeyUsagePurpose::ServerAuth),
            ("client", ExtendedKeyUsagePurpose::ClientAuth),
        ] {
            let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
            let mut params = CertificateParams::new(names).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate().unwrap();
            write(
                &format!("{name}-cert.pem"),
                params.signed_by(&key, &issuer).unwrap().pem(),
            );
            write(&format!("{name}-key.pem"), key.serialize_pem());
        }
        Self { directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn files(&self, mutual: bool) -> TlsFiles {
        TlsFiles {
            certificate: self.path("server-cert.pem"),
            key: self.path("server-key.pem"),
            client_ca: mutual.then(|| self.path("ca-cert.pem")),
        }
    }

    pub fn server(&self, mutual: bool) -> TlsServer {
        TlsServer::load(&self.files(mutual)).unwrap()
    }
}
