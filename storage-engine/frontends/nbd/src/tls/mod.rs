//! TLS, started inside the negotiation by `NBD_OPT_STARTTLS` ("TLS support").

mod channel;
mod config;

pub(crate) use channel::TlsChannel;
pub use config::{TlsConfigError, TlsFiles, TlsServer};

/// Whether a listener's clients may, must or cannot use TLS.
#[derive(Clone, Debug, Default)]
pub enum TlsPolicy {
    /// `NBD_OPT_STARTTLS` is refused ("NOTLS mode").
    #[default]
    Off,
    /// A client may start TLS ("SELECTIVETLS mode", with no export that insists on it).
    Optional(TlsServer),
    /// Nothing but `NBD_OPT_STARTTLS` and `NBD_OPT_ABORT` is answered in plain text ("FORCEDTLS mode").
    Required(TlsServer),
}

impl TlsPolicy {
    pub(crate) const fn server(&self) -> Option<&TlsServer> {
        match self {
            Self::Off => None,
            Self::Optional(server) | Self::Required(server) => Some(server),
        }
    }
}
