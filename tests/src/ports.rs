//! Free TCP ports on loopback.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail};

/// Ports are taken from below the range that Linux gives to outgoing connections (32768 and up). An engine that is
/// killed and started again must find its port free, so no outgoing connection may have borrowed it meanwhile.
const FIRST: u16 = 12_000;
const LAST: u16 = 31_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port that nobody listens on now and that this process has not handed out before.
pub fn free() -> Result<u16> {
    let span = LAST - FIRST;
    // Test binaries that run one after another start at different places, so that a port in TIME_WAIT is not reused.
    let offset = u16::try_from(u32::from(span).min(std::process::id() * 37 % u32::from(span))).unwrap_or(0);
    for _ in 0..span {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % span;
        let port = FIRST + (offset + step) % span;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {FIRST} and {LAST} on 127.0.0.1")
}
