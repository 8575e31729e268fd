//! TLS: the policies, the upgrade, the errors of its configuration, and clients that we did not write.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

mod common;

use std::io::{Read, Write};
use std::sync::Arc;

use cairn_api::block::{FrontendSession, Want};
use cairn_nbd::wire::{Dialect, Request, command, option_code as code, reply_code as reply};
use cairn_nbd::{CloseReason, Limits, TlsConfigError, TlsFiles, TlsPolicy, TlsServer};
use common::certificates::Certificates;
use common::client::{Pair, SIZE, context_data, export_data, option_bytes};
use common::device::MemoryDevice;
use common::server::{Server, is_installed, run, succeed};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

fn pair(tls: TlsPolicy) -> Pair {
    let mut pair = Pair::with(tls, Limits::default(), MemoryDevice::new("disk", SIZE));
    pair.send(&3_u32.to_be_bytes());
    pair
}

/// The client's end of TLS, over a pair whose own bytes are records.
struct Client {
    connection: ClientConnection,
    pair: Pair,
    /// Raw bytes that the session did not want yet.
    waiting: Vec<u8>,
    piece: usize,
}

impl Client {
    /// After `NBD_OPT_STARTTLS` was acknowledged.
    fn new(pair: Pair, certificates: &Certificates, with_certificate: bool) -> Self {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(certificates.path("ca-cert.pem")).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = builder.with_root_certificates(roots);
        let config = if with_certificate {
            let chain = vec![CertificateDer::from_pem_file(certificates.path("client-cert.pem")).unwrap()];
            let key = PrivateKeyDer::from_pem_file(certificates.path("client-key.pem")).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        } else {
            builder.with_no_client_auth()
        };
        let connection = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
        Self {
            connection,
            pair,
            waiting: Vec::new(),
            piece: usize::MAX,
        }
    }

    /// Moves records both ways until nothing moves; gives the plaintext that has arrived.
    fn exchange(&mut self) -> Vec<u8> {
        let mut plaintext = Vec::new();
        loop {
            while self.connection.wants_write() {
                self.connection.write_tls(&mut self.waiting).unwrap();
            }
            while let Want::Bytes(count) = self.pair.session.want() {
                let count = count.min(self.piece).min(self.waiting.len());
                if count == 0 {
                    break;
                }
                let head: Vec<u8> = self.waiting.drain(..count).collect();
                self.pair.session.received(&head);
                self.pair.turn();
            }
            self.pair.turn();
            let records = self.pair.inbox.split();
            let mut records = &records[..];
            if records.is_empty() && !self.connection.wants_write() {
                return plaintext;
            }
            while !records.is_empty() {
                self.connection.read_tls(&mut records).unwrap();
                if self.connection.process_new_packets().is_err() {
                    return plaintext;
                }
                let _ = self.connection.reader().read_to_end(&mut plaintext);
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.connection.set_buffer_limit(None);
        self.connection.writer().write_all(bytes).unwrap();
        self.exchange()
    }

    /// Kinds of the replies to an option.
    fn option(&mut self, option: u32, data: &[u8]) -> Vec<u32> {
        let replies = self.send(&option_bytes(option, data));
        let mut replies = &replies[..];
        let mut kinds = Vec::new();
        while !replies.is_empty() {
            let word = |at: usize| u32::from_be_bytes(replies[at..at + 4].try_into().unwrap());
            assert_eq!(word(8), option);
            kinds.push(word(12));
            replies = &replies[20 + word(16) as usize..];
        }
        kinds
    }
}

#[test]
fn required_tls_answers_nothing_else_before() {
    let certificates = Certificates::make();
    let policy = TlsPolicy::Required(certificates.server(false));
    let mut plain = pair(policy.clone());
    for (option, data) in [
        (code::LIST, vec![]),
        (code::GO, export_data("disk", &[])),
        (code::INFO, vec![1]),
        (code::STRUCTURED_REPLY, vec![]),
        (code::SET_META_CONTEXT, vec![0; 70_000]),
        (12_345, vec![]),
    ] {
        assert_eq!(plain.option_kind(option, &data), reply::ERR_TLS_REQD);
    }
    assert_eq!(plain.option_kind(code::ABORT, &[]), reply::ACK);
    assert!(plain.session.is_finished());

    let mut old = pair(policy.clone());
    old.send(&option_bytes(code::EXPORT_NAME, b"disk"));
    assert!(matches!(old.session.close_reason(), Some(CloseReason::TlsRequired)));
    assert!(old.inbox.is_empty() && old.session.is_finished());

    let mut not_fixed = Pair::with(policy, Limits::default(), MemoryDevice::new("disk", SIZE));
    not_fixed.send(&2_u32.to_be_bytes());
    assert!(matches!(
        not_fixed.session.close_reason(),
        Some(CloseReason::TlsRequired)
    ));
}

#[test]
fn optional_tls_is_optional() {
    let certificates = Certificates::make();
    let mut plain = pair(TlsPolicy::Optional(certificates.server(false)));
    assert_eq!(plain.option_kind(code::STARTTLS, b"data"), reply::ERR_INVALID);
    plain.enter(Dialect::Structured);
    assert!(!plain.session.is_encrypted());
}

#[test]
fn the_upgrade_forgets_what_was_negotiated_in_plain_text() {
    let certificates = Certificates::make();
    let mut plain = pair(TlsPolicy::Optional(certificates.server(false)));
    assert_eq!(plain.option_kind(code::STRUCTURED_REPLY, &[]), reply::ACK);
    assert_eq!(plain.option_kind(code::STARTTLS, &[]), reply::ACK);
    let mut client = Client::new(plain, &certificates, false);
    client.exchange();
    assert!(!client.connection.is_handshaking() && client.pair.session.is_encrypted());
    let contexts = context_data("disk", &["base:allocation"]);
    assert_eq!(client.option(code::SET_META_CONTEXT, &contexts), [reply::ERR_INVALID]);
    assert_eq!(client.option(code::STARTTLS, &[]), [reply::ERR_INVALID]);
    assert_eq!(client.option(code::LIST, &[]), [reply::SERVER, reply::ACK]);
    assert_eq!(client.option(99, &[1; 100_000]), [reply::ERR_UNSUP]);
}

#[test]
fn everything_works_under_tls_in_pieces_of_any_size() {
    let certificates = Certificates::make();
    for piece in [1, 100, 5000, usize::MAX] {
        let mut plain = pair(TlsPolicy::Required(certificates.server(false)));
        assert_eq!(plain.option_kind(code::STARTTLS, &[]), reply::ACK);
        let mut client = Client::new(plain, &certificates, false);
        client.piece = piece;
        assert_eq!(
            client.option(code::GO, &export_data("disk", &[])),
            [reply::INFO, reply::ACK]
        );
        assert!(!client.pair.session.is_negotiating());

        // Three writes and a read of them all, sent at once.
        let request = |command, offset, length| Request {
            flags: 0,
            command,
            cookie: 3,
            offset,
            length,
        };
        let data: Vec<u8> = (0..90_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let mut bytes = Vec::new();
        for (index, payload) in data.chunks(30_000).enumerate() {
            let write = request(command::WRITE, index as u64 * 30_000, 30_000);
            bytes.extend(client.pair.request_bytes(write, payload));
        }
        bytes.extend(client.pair.request_bytes(request(command::READ, 0, 90_000), &[]));
        let replies = client.send(&bytes);
        assert_eq!(replies.len(), 4 * 16 + 90_000);
        assert!(replies[4 * 16..] == data);

        let disconnect = client.pair.request_bytes(request(command::DISC, 0, 0), &[]);
        assert!(client.send(&disconnect).is_empty());
        assert!(client.pair.session.is_finished());
        // The session said goodbye as TLS wants it, or the client would see an error here.
        assert_eq!(client.connection.reader().read(&mut [0; 1]).unwrap(), 0);
    }
}

#[test]
fn plain_text_behind_the_upgrade_never_reaches_the_negotiation() {
    let certificates = Certificates::make();
    let mut plain = pair(TlsPolicy::Optional(certificates.server(false)));
    let injected = [
        option_bytes(code::STARTTLS, &[]),
        option_bytes(code::STRUCTURED_REPLY, &[]),
    ]
    .concat();
    plain.send(&injected);
    assert!(matches!(plain.session.close_reason(), Some(CloseReason::Tls(_))));
    assert!(plain.session.is_finished());
}

#[test]
fn a_client_without_certificate_is_refused_where_one_is_asked_for() {
    let certificates = Certificates::make();
    for with_certificate in [false, true] {
        let mut plain = pair(TlsPolicy::Required(certificates.server(true)));
        assert_eq!(plain.option_kind(code::STARTTLS, &[]), reply::ACK);
        let mut client = Client::new(plain, &certificates, with_certificate);
        let kinds = client.option(code::LIST, &[]);
        if with_certificate {
            assert_eq!(kinds, [reply::SERVER, reply::ACK]);
        } else {
            assert!(kinds.is_empty());
            let reason = client.pair.session.close_reason().unwrap();
            assert!(
                matches!(reason, CloseReason::Tls(rustls::Error::NoCertificatesPresented)),
                "{reason}"
            );
            assert!(client.pair.session.is_finished());
        }
    }
}

#[test]
fn a_configuration_that_cannot_work_says_which_file_and_why() {
    let certificates = Certificates::make();
    let good = certificates.files(true);
    let error = |files: &TlsFiles| TlsServer::load(files).unwrap_err();
    let (cert, key) = (
        certificates.path("server-cert.pem"),
        certificates.path("server-key.pem"),
    );

    let missing = TlsFiles {
        key: certificates.path("nowhere.pem"),
        ..good.clone()
    };
    assert!(matches!(error(&missing), TlsConfigError::Read { .. }));
    assert!(error(&missing).to_string().contains("nowhere.pem"));
    let swapped = TlsFiles {
        certificate: key.clone(),
        key: cert.clone(),
        ..good.clone()
    };
    assert!(matches!(error(&swapped), TlsConfigError::NoCertificate { .. }));
    let no_key = TlsFiles {
        key: cert,
        ..good.clone()
    };
    assert!(matches!(error(&no_key), TlsConfigError::NoKey { .. }));
    let foreign = TlsFiles {
        key: certificates.path("client-key.pem"),
        ..good.clone()
    };
    assert!(matches!(error(&foreign), TlsConfigError::Identity { .. }));
    let empty_ca = TlsFiles {
        client_ca: Some(key),
        ..good
    };
    assert!(matches!(error(&empty_ca), TlsConfigError::NoCertificate { .. }));
}

#[test]
fn damaged_certificates_say_which_file_and_why() {
    let certificates = Certificates::make();
    let good = certificates.files(true);
    let error = |files: &TlsFiles| TlsServer::load(files).unwrap_err();
    let torn = certificates.path("torn.pem");
    std::fs::write(
        &torn,
        "-----BEGIN CERTIFICATE-----\nMIIB!!\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    assert!(matches!(
        error(&TlsFiles {
            certificate: torn.clone(),
            ..good.clone()
        }),
        TlsConfigError::Pem { .. }
    ));
    std::fs::write(&torn, "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n").unwrap();
    assert!(matches!(
        error(&TlsFiles {
            certificate: torn.clone(),
            ..good.clone()
        }),
        TlsConfigError::Identity { .. }
    ));
    let bad_ca = TlsFiles {
        client_ca: Some(torn.clone()),
        ..good.clone()
    };
    assert!(matches!(error(&bad_ca), TlsConfigError::ClientAuthorities { .. }));
    std::fs::File::create(&torn).unwrap().set_len(5 << 20).unwrap();
    assert!(matches!(
        error(&TlsFiles {
            certificate: torn,
            ..good
        }),
        TlsConfigError::TooLong { .. }
    ));
}

#[test]
fn libnbd_uses_tls_and_is_refused_without() {
    if !is_installed("nbdinfo") || !is_installed("nbdcopy") {
        return;
    }
    let certificates = Certificates::make();
    let directory = certificates.directory.path().display();
    for mutual in [false, true] {
        let policy = TlsPolicy::Required(certificates.server(mutual));
        let server = Server::start(MemoryDevice::new("disk", 8 << 20), policy);
        let uri = format!("nbds://localhost:{}/disk?tls-certificates={directory}", server.port);
        let json = succeed("nbdinfo", &["--json", &uri]);
        assert!(json.contains("\"TLS\": true") && json.contains("\"export-size\": 8388608"));
        assert!(succeed("nbdinfo", &["--list", &uri]).contains("export=\"disk\""));
        assert!(!run("nbdinfo", &[&server.uri()]).status.success());

        let (source, back) = (certificates.path("source.raw"), certificates.path("back.raw"));
        let data: Vec<u8> = (0..8_u32 << 20)
            .map(|i| u8::try_from((i ^ (i >> 9)) % 253).unwrap())
            .collect();
        std::fs::write(&source, &data).unwrap();
        succeed("nbdcopy", &["--flush", source.to_str().unwrap(), &uri]);
        assert!(server.shared.0.lock().unwrap().data == data);
        succeed("nbdcopy", &[&uri, back.to_str().unwrap()]);
        assert!(std::fs::read(&back).unwrap() == data);
    }
}

#[test]
fn qemu_uses_tls() {
    if !is_installed("qemu-img") {
        return;
    }
    let certificates = Certificates::make();
    let server = Server::start(
        MemoryDevice::new("disk", 8 << 20),
        TlsPolicy::Required(certificates.server(true)),
    );
    let object = format!(
        "tls-creds-x509,id=tls0,endpoint=client,dir={}",
        certificates.directory.path().display()
    );
    let image = format!(
        "driver=nbd,server.type=inet,server.host=localhost,server.port={},export=disk,tls-creds=tls0",
        server.port
    );
    assert!(succeed("qemu-img", &["info", "--object", &object, "--image-opts", &image]).contains("8 MiB"));
}
