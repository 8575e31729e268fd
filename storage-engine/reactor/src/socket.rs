//! Sockets as the ring wants them.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};

/// How long bytes sent to a peer may stay unacknowledged, in milliseconds, before the kernel gives the link up: longer
/// than a lost packet or two, shorter than the quarter of an hour it would try on its own.
const USER_TIMEOUT_MS: u32 = 10_000;
/// An adopted connection that has been silent for so many seconds is asked for a sign of life,
const KEEPALIVE_IDLE_S: u32 = 15;
/// and then at this interval, until the kernel's usual number of questions has gone unanswered.
const KEEPALIVE_INTERVAL_S: u32 = 5;

/// Makes a connection that tokio had usable here: blocking, because the ring waits for the socket itself and takes
/// `O_NONBLOCK` to mean that it should not; and without Nagle's delay.
pub(crate) fn prepare_adopted(descriptor: &OwnedFd) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(descriptor, FcntlArg::F_GETFL)?);
    fcntl(descriptor, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    // Sockets other than TCP have no such options, and need none.
    let _ = notice_the_dead(descriptor);
    Ok(())
}

/// A connection whose other end has lost power, and which owes us nothing, says nothing for ever. Unlike a limit on
/// unacknowledged bytes, keepalive lets a client that is merely suspended come back to its connection.
fn notice_the_dead(descriptor: &OwnedFd) -> nix::Result<()> {
    setsockopt(descriptor, sockopt::TcpNoDelay, &true)?;
    setsockopt(descriptor, sockopt::KeepAlive, &true)?;
    setsockopt(descriptor, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_S)?;
    setsockopt(descriptor, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_S)
}

/// A TCP socket for an outgoing link.
pub(crate) fn for_link(address: &SocketAddr) -> nix::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let descriptor = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&descriptor, sockopt::TcpNoDelay, &true)?;
    setsockopt(&descriptor, sockopt::TcpUserTimeout, &USER_TIMEOUT_MS)?;
    Ok(descriptor)
}
