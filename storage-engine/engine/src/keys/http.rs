//! One HTTP request on a connection of its own: keys are asked for seldom, and a connection that is kept is one more thing that
//! can have gone bad.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::HeaderValue;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

/// The longest answer in bytes.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// Where to ask.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Endpoint {
    /// `https://host[:port]`, or `http://` on this machine.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) is_tls: bool,
}

impl Endpoint {
    /// Reads an address, or says what it must be.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        const RULE: &str = "write https://HOST:PORT, or http://127.0.0.1:PORT for a service on this machine";
        let uri: Uri = text.parse().map_err(|_| RULE)?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(RULE),
        };
        let host = uri.host().ok_or(RULE)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let has_path = !matches!(uri.path(), "" | "/") || uri.query().is_some();
        let has_user = uri
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'));
        let is_local = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if has_path || has_user || !(is_tls || is_local) {
            return Err(RULE);
        }
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Ok(Self { host, port, is_tls })
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    /// Asking again may help.
    #[error("{0}")]
    Transient(String),
    /// It will not.
    #[error("{0}")]
    Lasting(String),
}

/// What to ask.
pub(super) struct Call<'a> {
    pub(super) endpoint: &'a Endpoint,
    /// The authority that a server's certificate must come from; for TLS.
    pub(super) ca: Option<&'a Path>,
    pub(super) method: Method,
    pub(super) path: &'a str,
    pub(super) headers: Vec<(&'static str, HeaderValue)>,
    pub(super) body: Zeroizing<Vec<u8>>,
    pub(super) timeout: Duration,
}

/// Asks once.
pub(super) async fn ask(call: Call<'_>) -> Result<(StatusCode, Zeroizing<Vec<u8>>), HttpError> {
    let timeout = call.timeout;
    let late = |_| HttpError::Transient(format!("no answer within {} ms", timeout.as_millis()));
    tokio::time::timeout(timeout, connect_and_ask(call))
        .await
        .map_err(late)?
}

async fn connect_and_ask(call: Call<'_>) -> Result<(StatusCode, Zeroizing<Vec<u8>>), HttpError> {
    let transient = |error: std::io::Error| HttpError::Transient(error.to_string());
    let Endpoint { host, port, is_tls } = call.endpoint;
    let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(transient)?;
    if !is_tls {
        return exchange(stream, call).await;
    }
    let name = ServerName::try_from(host.clone()).map_err(|error| HttpError::Lasting(error.to_string()))?;
    let config = tls_config(call.ca)?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.map_err(|error| {
        // A certificate that does not fit will not fit a moment later.
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(refusal) => HttpError::Lasting(format!("TLS: {refusal}")),
            None => transient(error),
        }
    })?;
    exchange(stream, call).await
}

fn tls_config(ca: Option<&Path>) -> Result<rustls::ClientConfig, HttpError> {
    let path = ca.ok_or_else(|| HttpError::Lasting("TLS needs the file of an authority".to_owned()))?;
    let refuse = |reason: String| HttpError::Lasting(format!("{}: {reason}", path.display()));
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| refuse(error.to_string()))? {
        let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
        roots.add(certificate).map_err(|error| refuse(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(refuse("there is no certificate in it".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refuse(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

async fn exchange<S>(stream: S, call: Call<'_>) -> Result<(StatusCode, Zeroizing<Vec<u8>>), HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let transient = |error: hyper::Error| HttpError::Transient(error.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(transient)?;
    let driving = tokio::spawn(connection);
    let Endpoint { host, port, .. } = call.endpoint;
    let mut request = Request::builder()
        .method(call.method)
        .uri(call.path)
        .header("host", format!("{host}:{port}"));
    for (name, value) in call.headers {
        request = request.header(name, value);
    }
    let body = Full::new(Bytes::from_owner(call.body));
    let request = request
        .body(body)
        .map_err(|error| HttpError::Lasting(error.to_string()))?;
    let result = async {
        let answer = sender.send_request(request).await.map_err(transient)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| HttpError::Transient(error.to_string()))?;
        Ok((status, Zeroizing::new(Vec::from(body.to_bytes()))))
    }
    .await;
    driving.abort();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_without_tls_are_of_this_machine_only() {
        let parsed = Endpoint::parse("https://vault.example:8200").unwrap();
        assert_eq!(
            (parsed.host.as_str(), parsed.port, parsed.is_tls),
            ("vault.example", 8200, true)
        );
        assert_eq!(Endpoint::parse("https://[::1]/").unwrap().host, "::1");
        assert_eq!(Endpoint::parse("http://127.0.0.1:8200").unwrap().port, 8200);
        for text in [
            "",
            "vault:8200",
            "http://vault.example:8200",
            "http://10.0.0.1",
            "ftp://127.0.0.1",
            "https://vault.example/v1",
            "https://user@vault.example",
        ] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }
}
