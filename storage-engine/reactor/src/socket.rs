//! Sockets as the ring wants them.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};

/// How long sent bytes may stay unacknowledged, in milliseconds, before the kernel gives the connection up: longer than
/// a lost packet or two, shorter than the quarter of an hour it would try on its own.
const USER_TIMEOUT_MS: u32 = 10_000;

/// Makes a connection that tokio had usable here: blocking, because the ring waits for the socket itself and takes
/// `O_NONBLOCK` to mean that it should not; and without Nagle's delay.
pub(crate) fn prepare_adopted(descriptor: &OwnedFd) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(descriptor, FcntlArg::F_GETFL)?);
    fcntl(descriptor, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    // Sockets other than TCP have no such options, and need none.
    let _ = tune(&descriptor.as_fd());
    Ok(())
}

/// A TCP socket for an outgoing link.
pub(crate) fn for_link(address: &SocketAddr) -> nix::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let descriptor = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    tune(&descriptor.as_fd())?;
    Ok(descriptor)
}

fn tune(descriptor: &impl AsFd) -> nix::Result<()> {
    setsockopt(descriptor, sockopt::TcpNoDelay, &true)?;
    setsockopt(descriptor, sockopt::TcpUserTimeout, &USER_TIMEOUT_MS)
}
