//! What one connection may ask of the server. Every length that a client chooses is held against one of these.

use cairn_api::block::REQUEST_BYTES_MAX;

/// The longest string of the protocol in bytes ("Conventions": names, queries and messages).
pub const STRING_BYTES_MAX: usize = 4096;

/// The longest option data that is looked at. An export name and some hundred metadata queries fit; a client that needs
/// more is told `NBD_REP_ERR_TOO_BIG`.
pub const OPTION_DATA_BYTES_MAX: u32 = 64 << 10;

/// The longest option data that is read and thrown away so that negotiation can go on. Beyond it the connection is
/// dropped: nothing legitimate is that long, and reading it would be work for an attacker.
pub const OPTION_SKIP_BYTES_MAX: u32 = 1 << 20;

/// Options in one negotiation. Clients use some ten; one that walks a long list of exports with `NBD_OPT_INFO` a
/// few hundred. Without the limit a connection could negotiate for ever.
pub const OPTIONS_MAX: u32 = 4096;

/// The longest payload of a request, advertised as maximum payload: what every client may assume ("Size constraints").
pub const PAYLOAD_BYTES_MAX: u32 = REQUEST_BYTES_MAX;

/// The longest payload of an oversized write that is read and thrown away so that the connection can go on. Beyond it
/// the connection is dropped.
pub const DISCARD_BYTES_MAX: u64 = 256 << 20;

/// Bytes thrown away per receive.
pub const DISCARD_PIECE_BYTES: usize = 64 << 10;

/// Raw bytes asked for per receive under TLS: four full records.
pub const TLS_RECEIVE_BYTES: usize = 64 << 10;

/// Descriptors in one block status reply. The document allows 2^20; this many keep the reply at 256 KiB, and clients
/// ask again from where the reply ended.
pub const STATUS_EXTENTS_MAX: u32 = 16 << 10;

/// Request headers asked for in one receive once a client has been sending requests without payload only.
pub const HEADERS_PER_RECEIVE_MAX: usize = 16;

/// Requests without payload in a row after which several headers are asked for at once. In a mix of reads and writes the
/// run is rarely reached, so that a write's payload practically always lands in its own buffer.
pub const HEADER_BATCH_RUN: u32 = 16;

/// How much of a connection's work may be in flight at once; at the limit the session wants nothing until a
/// request completes, and TCP's window holds the client back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Requests given to the device and not completed. The Linux client keeps up to 128 in flight by default.
    pub requests_max: u16,
    /// Bytes of those requests' payload, in either direction. At least [`PAYLOAD_BYTES_MAX`], or the longest request
    /// could never start; smaller values are taken as that.
    pub bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_max: 128,
            bytes_max: 64 << 20,
        }
    }
}
