//! One connection, from the greeting to the end.

use bytes::Bytes;
use cairn_api::block::{BlockError, BlockOp, BlockReply, DeviceInfo, FrontendSession, Tag, Want};

use crate::limits::TLS_RECEIVE_BYTES;
use crate::negotiation::{ListedExport, LookupRefusal, Question, TlsState};
use crate::protocol::Protocol;
use crate::tls::{TlsChannel, TlsPolicy};
use crate::{CloseReason, Limits};

/// The server's side of one NBD connection, without its I/O.
///
/// While [`Self::is_negotiating`], the driver moves bytes by the [`FrontendSession`] methods and answers
/// [`Self::question`]. Once it is not, [`Self::export`] says which device the client chose; when the output so far has
/// been sent, connection and session can be handed to whoever serves that device. The new driver begins by taking
/// requests: under TLS some may have arrived already.
///
/// What the session holds is bounded by its [`Limits`]; what the driver has taken and not sent is the driver's to
/// bound, by not receiving while too much of it waits.
#[derive(Debug)]
pub struct Session {
    protocol: Protocol,
    policy: TlsPolicy,
    tls: Option<Box<TlsChannel>>,
    /// Output that precedes TLS.
    plain: Vec<Bytes>,
}

impl Session {
    /// A new connection's session, with the greeting to send.
    pub fn new(policy: TlsPolicy) -> Self {
        Self::with_limits(policy, Limits::default())
    }

    /// A session with other limits than the default ones.
    pub fn with_limits(policy: TlsPolicy, limits: Limits) -> Self {
        let state = match &policy {
            TlsPolicy::Off => TlsState::Off,
            TlsPolicy::Optional(_) => TlsState::Offered { required: false },
            TlsPolicy::Required(_) => TlsState::Offered { required: true },
        };
        Self {
            protocol: Protocol::new(state, limits),
            policy,
            tls: None,
            plain: Vec::new(),
        }
    }

    /// Whether no export has been entered. A session that [`FrontendSession::is_finished`] may still say so.
    pub fn is_negotiating(&self) -> bool {
        self.export().is_none()
    }

    /// The export that the client entered.
    pub fn export(&self) -> Option<&DeviceInfo> {
        self.protocol.export()
    }

    /// What the negotiation waits for the driver to answer. Nothing is wanted from the connection meanwhile.
    pub fn question(&self) -> Option<&Question> {
        self.protocol.question()
    }

    /// Answers [`Question::List`].
    pub fn answer_list(&mut self, exports: &[ListedExport]) {
        self.protocol.answer_list(exports);
        self.advance();
    }

    /// Answers [`Question::Lookup`]. The info's name is the export's canonical one.
    pub fn answer_lookup(&mut self, answer: Result<DeviceInfo, LookupRefusal>) {
        self.protocol.answer_lookup(answer);
        self.advance();
    }

    /// Whether the client has started TLS.
    pub fn is_encrypted(&self) -> bool {
        self.protocol.is_encrypted()
    }

    /// Receives no more requests and finishes once those in flight are answered. The client sees the connection close
    /// and may connect again; its unanswered requests are its own to repeat.
    pub fn drain(&mut self) {
        self.protocol.fail(CloseReason::Drained);
    }

    /// Why the session is ending or has ended.
    pub fn close_reason(&self) -> Option<&CloseReason> {
        self.protocol.close_reason()
    }

    /// Begins TLS if the negotiation has come to that, and hands on what was decrypted and not wanted before.
    fn advance(&mut self) {
        if self.protocol.take_start_tls() {
            self.protocol.take_output(&mut self.plain);
            match self.policy.server().map(TlsChannel::new) {
                Some(Ok(channel)) => self.tls = Some(Box::new(channel)),
                Some(Err(error)) => self.protocol.fail(CloseReason::Tls(error)),
                // TLS is started only where the policy offers it.
                None => self.protocol.fail(CloseReason::TlsRequired),
            }
        }
        if let Some(tls) = &mut self.tls {
            tls.advance(&mut self.protocol);
        }
    }
}

impl FrontendSession for Session {
    fn want(&self) -> Want {
        let want = self.protocol.want();
        if self.protocol.is_clogged() {
            return Want::Nothing;
        }
        match (&self.tls, want) {
            (Some(tls), _) if tls.is_blocked() => Want::Nothing,
            (_, Want::Nothing) => Want::Nothing,
            (Some(_), _) => Want::Bytes(TLS_RECEIVE_BYTES),
            (None, want) => want,
        }
    }

    fn received(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        if self.tls.is_none() {
            self.protocol.received(&mut bytes);
            self.advance();
        }
        // What follows the option that started TLS on the same receive is taken for TLS, never for plain text.
        if let Some(tls) = &mut self.tls
            && !bytes.is_empty()
        {
            tls.received(bytes, &mut self.protocol);
        }
    }

    fn received_payload(&mut self, payload: Bytes) {
        if self.tls.is_some() {
            self.protocol.fail(CloseReason::Driver { what: "a payload" });
        } else {
            self.protocol.received_payload(payload);
        }
    }

    fn received_end(&mut self) {
        self.protocol.received_end();
    }

    fn take_requests(&mut self, requests: &mut Vec<(Tag, BlockOp)>) {
        self.protocol.take_requests(requests);
    }

    fn resized(&mut self, size_bytes: u64) {
        self.protocol.resized(size_bytes);
    }

    fn complete(&mut self, tag: Tag, result: Result<BlockReply, BlockError>) {
        self.protocol.complete(tag, result);
        self.advance();
    }

    fn take_output(&mut self, output: &mut Vec<Bytes>) {
        output.append(&mut self.plain);
        match &mut self.tls {
            Some(tls) => tls.take_output(&mut self.protocol, output),
            None => self.protocol.take_output(output),
        }
    }

    fn is_finished(&self) -> bool {
        let sent = match &self.tls {
            Some(tls) => !tls.has_output(&self.protocol),
            None => true,
        };
        sent && self.protocol.is_finished() && !self.protocol.has_output() && self.plain.is_empty()
    }
}
