//! The engine's listeners for data: peers' links ([`data`]) and NBD clients ([`nbd`]). Both greet on tokio and then hand the
//! connection over to a disk's thread.

pub mod data;
pub mod nbd;
mod rate;

use std::os::fd::OwnedFd;

use rate::RateLimit;

/// Takes a TCP connection out of tokio, for a disk's thread.
fn hand_over_tcp(stream: tokio::net::TcpStream) -> std::io::Result<OwnedFd> {
    stream.into_std().map(OwnedFd::from)
}

/// As [`hand_over_tcp`], of a unix socket's connection.
fn hand_over_unix(stream: tokio::net::UnixStream) -> std::io::Result<OwnedFd> {
    stream.into_std().map(OwnedFd::from)
}

/// Whether an error of `accept` is the connection's own, so that the next one may be better. Others (no descriptors, no
/// memory) pass too, but not at once.
fn is_connection_error(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
    )
}

/// The pause after a failure of `accept` that is the process's own.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(200);

async fn pause_after(error: &std::io::Error, listener: &str) {
    if !is_connection_error(error) {
        tracing::error!(%error, listener, "cannot accept connections now");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}
