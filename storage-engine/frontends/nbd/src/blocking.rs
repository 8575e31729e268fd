//! A driver over blocking streams, one connection at a time: for tests and small tools. The daemon has its own.

use std::io::{self, Read, Write};

use bytes::Bytes;
use cairn_api::block::{BlockDevice, DeviceInfo, FrontendSession, Want};

use crate::align::AlignedBuffer;
use crate::{ListedExport, LookupRefusal, Question, Session};

/// Bytes received at once at most.
const RECEIVE_BYTES: usize = 64 << 10;

/// The catalogue that a server answers negotiations from.
pub trait Exports {
    /// Every export that a client may see.
    fn list(&mut self) -> Vec<ListedExport>;

    /// The export of this name (empty: the default one).
    ///
    /// # Errors
    /// Why the client cannot have it.
    fn lookup(&mut self, name: &str) -> Result<DeviceInfo, LookupRefusal>;
}

/// Serves one connection to its end.
///
/// # Errors
/// If the stream fails, or the device keeps a request to itself so that the session can make no progress.
pub fn serve_connection<S: Read + Write>(
    stream: &mut S,
    session: &mut Session,
    device: &mut dyn BlockDevice,
    exports: &mut dyn Exports,
) -> io::Result<()> {
    negotiate(stream, session, exports)?;
    transmit(stream, session, device)
}

/// Drives the negotiation until an export was entered or the connection is to be closed, and all output is sent.
///
/// # Errors
/// If the stream fails.
pub fn negotiate<S: Read + Write>(stream: &mut S, session: &mut Session, exports: &mut dyn Exports) -> io::Result<()> {
    loop {
        match session.question().cloned() {
            Some(Question::List) => session.answer_list(&exports.list()),
            Some(Question::Lookup(name)) => session.answer_lookup(exports.lookup(&name)),
            None => {}
        }
        send(stream, session)?;
        if session.is_finished() || !session.is_negotiating() {
            return Ok(());
        }
        if session.question().is_none() {
            receive(stream, session)?;
        }
    }
}

/// Drives the transmission to the connection's end.
///
/// # Errors
/// If the stream fails, or the device keeps a request to itself so that the session can make no progress.
pub fn transmit<S: Read + Write>(
    stream: &mut S,
    session: &mut Session,
    device: &mut dyn BlockDevice,
) -> io::Result<()> {
    let mut requests = Vec::new();
    loop {
        loop {
            session.take_requests(&mut requests);
            for (tag, op) in requests.drain(..) {
                device.submit(tag, op);
            }
            let Some((tag, result)) = device.poll() else { break };
            session.complete(tag, result);
        }
        send(stream, session)?;
        if session.is_finished() {
            return Ok(());
        }
        receive(stream, session)?;
    }
}

fn send<S: Read + Write>(stream: &mut S, session: &mut Session) -> io::Result<()> {
    let mut output = Vec::new();
    session.take_output(&mut output);
    for piece in output {
        stream.write_all(&piece)?;
    }
    stream.flush()
}

fn receive<S: Read + Write>(stream: &mut S, session: &mut Session) -> io::Result<()> {
    match session.want() {
        Want::Bytes(count) => {
            let mut buffer = vec![0; count.min(RECEIVE_BYTES)];
            match stream.read(&mut buffer)? {
                0 => session.received_end(),
                count => session.received(&buffer[..count]),
            }
        }
        Want::Payload { length, .. } => match payload(stream, length)? {
            Some(payload) => session.received_payload(payload),
            None => session.received_end(),
        },
        Want::Nothing => {
            return Err(io::Error::other(
                "the device has completed nothing, and the session waits for it",
            ));
        }
    }
    Ok(())
}

fn payload<S: Read>(stream: &mut S, length: usize) -> io::Result<Option<Bytes>> {
    let mut payload = AlignedBuffer::new(length);
    let mut buffer = vec![0; length.min(RECEIVE_BYTES)];
    while payload.missing() > 0 {
        let wanted = payload.missing().min(buffer.len());
        let count = stream.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Ok(None);
        }
        payload.fill(&buffer[..count]);
    }
    Ok(Some(payload.into_bytes()))
}
