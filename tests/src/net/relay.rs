//! A relay between engines on loopback that keeps a copy of every byte: what somebody sees who listens on the network.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Result;

/// Bytes that are passed on at once.
const BUFFER_BYTES: usize = 64 << 10;

/// Listens, and passes what comes on to one engine. Ends with the process.
#[derive(Debug, Clone)]
pub struct Relay {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Relay {
    /// A relay to `engine`, which need not listen yet.
    pub fn start(engine: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), 0))?;
        let relay = Self {
            address: listener.local_addr()?,
            heard: Arc::default(),
        };
        let own = relay.clone();
        thread::spawn(move || {
            for incoming in listener.incoming().flatten() {
                // Who cannot reach the engine is hung up on, as the engine itself would do.
                if let Ok(outgoing) = TcpStream::connect(engine) {
                    own.join(&incoming, &outgoing);
                }
            }
        });
        Ok(relay)
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    fn join(&self, one: &TcpStream, other: &TcpStream) {
        for (from, to) in [(one, other), (other, one)] {
            if let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) {
                let own = self.clone();
                thread::spawn(move || own.pass(from, to));
            }
        }
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream) {
        let place = {
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            heard.push(Vec::new());
            heard.len() - 1
        };
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let bytes = &buffer[..count];
            self.heard.lock().unwrap_or_else(PoisonError::into_inner)[place].extend_from_slice(bytes);
            if to.write_all(bytes).is_err() {
                break;
            }
        }
        // Either may be closed already.
        let _ = to.shutdown(Shutdown::Write);
        let _ = from.shutdown(Shutdown::Read);
    }

    /// All that was heard so far, each direction of each connection by itself and in order.
    pub fn heard(&self) -> Vec<Vec<u8>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
