//! The NBD protocol, server side, as a state machine over bytes: negotiation, TLS and transmission, without any I/O.
//!
//! Section names in comments are those of the protocol document, `doc/proto.md` of the NetworkBlockDevice project; those
//! of extended headers are in its `extension-ext-header` branch.
#![forbid(unsafe_code)]

mod align;
pub mod blocking;
mod close;
pub mod limits;
mod negotiation;
mod output;
mod protocol;
mod session;
pub mod tls;
mod transmission;
pub mod wire;

pub use close::CloseReason;
pub use limits::Limits;
pub use negotiation::{ListedExport, LookupRefusal, Question};
pub use session::Session;
pub use tls::{TlsConfigError, TlsFiles, TlsPolicy, TlsServer};
