//! Why a connection ended.

use crate::wire::BadMagic;

/// Why a session wants its connection closed. The driver logs it once; [`Self::is_fault`] says how loudly.
#[derive(Debug, thiserror::Error)]
pub enum CloseReason {
    /// The client sent `NBD_CMD_DISC`.
    #[error("the client disconnected")]
    Disconnected,
    /// The client sent `NBD_OPT_ABORT`.
    #[error("the client ended the negotiation")]
    Aborted,
    /// The client closed the connection between two messages.
    #[error("the client closed the connection")]
    PeerClosed,
    /// The client closed the connection inside a message.
    #[error("the client closed the connection in the middle of a message")]
    PeerClosedInsideMessage,
    /// The driver asked the session to end.
    #[error("the server closes the connection")]
    Drained,
    /// The client's answer to the greeting has flags that were not offered.
    #[error("the client set flags that were not offered: {word:#x}")]
    ClientFlags {
        /// The word it sent.
        word: u32,
    },
    /// An option did not begin with its magic.
    #[error("an option begins wrong: {0}")]
    OptionMagic(BadMagic),
    /// A request did not begin with its magic.
    #[error("a request begins wrong: {0}")]
    RequestMagic(BadMagic),
    /// The client negotiates without end.
    #[error("the client sent more than {limit} options")]
    TooManyOptions {
        /// The limit.
        limit: u32,
    },
    /// An option's data is longer than what is read to be thrown away.
    #[error("option {option} has {length} bytes of data; more than {limit} are not read")]
    OptionTooLong {
        /// The option's number.
        option: u32,
        /// Bytes announced.
        length: u32,
        /// The limit.
        limit: u32,
    },
    /// A request's payload is longer than what is read to be thrown away.
    #[error("command {command} has {length} bytes of payload; more than {limit} are not read")]
    PayloadTooLong {
        /// The command's number.
        command: u16,
        /// Bytes announced.
        length: u64,
        /// The limit.
        limit: u64,
    },
    /// `NBD_OPT_EXPORT_NAME` could not be satisfied, and that option has no way to say so.
    #[error("the client asked for an export in the old way, which cannot be refused otherwise: {why}")]
    ExportName {
        /// Why not.
        why: String,
    },
    /// TLS is required, and the client cannot or did not start it.
    #[error("TLS is required, and the client did not start it")]
    TlsRequired,
    /// The TLS handshake or a record failed.
    #[error("TLS failed: {0}")]
    Tls(#[source] rustls::Error),
    /// The driver handed over what was not wanted.
    #[error("the session's driver handed over {what} that was not wanted")]
    Driver {
        /// What it was.
        what: &'static str,
    },
}

impl CloseReason {
    /// Whether the client (or the driver) did something wrong, rather than leave in one of the usual ways.
    pub const fn is_fault(&self) -> bool {
        !matches!(
            self,
            Self::Disconnected | Self::Aborted | Self::PeerClosed | Self::Drained
        )
    }
}
