//! TLS records in, plaintext to the protocol; the protocol's output to TLS records.

use std::io::{BufRead, IoSlice, Write};

use bytes::Bytes;
use cairn_api::block::Want;
use rustls::ServerConnection;

use super::TlsServer;
use crate::CloseReason;
use crate::align::AlignedBuffer;
use crate::protocol::Protocol;

/// Output is encrypted in groups of at most this many pieces, which then share records.
const PIECES_PER_WRITE: usize = 64;

#[derive(Debug)]
pub(crate) struct TlsChannel {
    connection: ServerConnection,
    /// Raw bytes that wait until the protocol wants something; never more than one receive.
    raw: Vec<u8>,
    /// A write's payload of which a part has arrived.
    payload: Option<AlignedBuffer>,
    failed: bool,
    close_sent: bool,
}

impl TlsChannel {
    pub(crate) fn new(server: &TlsServer) -> Result<Self, rustls::Error> {
        let mut connection = ServerConnection::new(server.config())?;
        // What is written is encrypted and taken at once; the session bounds what there can be of it.
        connection.set_buffer_limit(None);
        Ok(Self {
            connection,
            raw: Vec::new(),
            payload: None,
            failed: false,
            close_sent: false,
        })
    }

    /// Whether raw bytes are left that the protocol must want first.
    pub(crate) const fn is_blocked(&self) -> bool {
        self.failed || !self.raw.is_empty()
    }

    /// Raw bytes have arrived.
    pub(crate) fn received(&mut self, bytes: &[u8], protocol: &mut Protocol) {
        self.raw.extend_from_slice(bytes);
        self.advance(protocol);
    }

    /// Decrypts and hands on as much as the protocol wants.
    pub(crate) fn advance(&mut self, protocol: &mut Protocol) {
        let mut consumed = 0;
        while !self.failed && self.pump(protocol) && consumed < self.raw.len() {
            match self.decrypt(consumed) {
                Ok((count, closed)) => {
                    consumed += count;
                    if closed && self.pump(protocol) {
                        protocol.received_end();
                    }
                }
                Err(reason) => {
                    self.failed = true;
                    protocol.fail(reason);
                }
            }
        }
        self.raw.drain(..consumed);
        if protocol.close_reason().is_some() {
            self.raw = Vec::new();
        }
    }

    /// Feeds raw bytes from `start` on to the connection: says how many, and whether the peer has closed its side.
    fn decrypt(&mut self, start: usize) -> Result<(usize, bool), CloseReason> {
        let mut raw = &self.raw[start..];
        let general = |error: std::io::Error| CloseReason::Tls(rustls::Error::General(error.to_string()));
        let count = self.connection.read_tls(&mut raw).map_err(general)?;
        let state = self.connection.process_new_packets().map_err(CloseReason::Tls)?;
        if count == 0 {
            return Err(CloseReason::Tls(rustls::Error::General(
                "the record layer takes no more bytes".to_owned(),
            )));
        }
        Ok((count, state.peer_has_closed()))
    }

    /// Hands decrypted bytes to the protocol. Says whether it has taken all there were and may want more.
    fn pump(&mut self, protocol: &mut Protocol) -> bool {
        loop {
            let want = protocol.want();
            let mut reader = self.connection.reader();
            // An error means that no plaintext is there: not yet, or not any more.
            let available = reader.fill_buf().unwrap_or(&[]);
            if available.is_empty() {
                return want != Want::Nothing;
            }
            let taken = match want {
                Want::Nothing => return false,
                Want::Bytes(count) => {
                    let mut bytes = &available[..count.min(available.len())];
                    let offered = bytes.len();
                    protocol.received(&mut bytes);
                    offered - bytes.len()
                }
                Want::Payload { length, .. } => {
                    let payload = self.payload.get_or_insert_with(|| AlignedBuffer::new(length));
                    payload.fill(available)
                }
            };
            reader.consume(taken);
            if let Some(payload) = self.payload.take_if(|payload| payload.missing() == 0) {
                protocol.received_payload(payload.into_bytes());
            }
        }
    }

    /// Encrypts the protocol's output and appends everything to send to `output`.
    pub(crate) fn take_output(&mut self, protocol: &mut Protocol, output: &mut Vec<Bytes>) {
        let mut pieces = Vec::new();
        protocol.take_output(&mut pieces);
        if !self.failed {
            for group in pieces.chunks(PIECES_PER_WRITE) {
                self.encrypt(group);
            }
        }
        if protocol.is_finished() && !self.close_sent {
            self.close_sent = true;
            if !self.failed {
                self.connection.send_close_notify();
            }
        }
        let mut sealed = Vec::new();
        while self.connection.wants_write() {
            // Writing to a `Vec` cannot fail.
            if self.connection.write_tls(&mut sealed).is_err() {
                break;
            }
        }
        if !sealed.is_empty() {
            output.push(Bytes::from(sealed));
        }
    }

    fn encrypt(&mut self, pieces: &[Bytes]) {
        let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let total: usize = pieces.iter().map(Bytes::len).sum();
        // Without a buffer limit everything is taken, so a short count is a connection that cannot go on.
        match self.connection.writer().write_vectored(&slices) {
            Ok(count) if count == total => {}
            _ => self.failed = true,
        }
    }

    /// Whether something is to be sent that was not taken.
    pub(crate) fn has_output(&self, protocol: &Protocol) -> bool {
        self.connection.wants_write() || (protocol.is_finished() && !self.close_sent)
    }
}
