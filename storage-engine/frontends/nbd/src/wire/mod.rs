//! The bytes of the protocol: constants, and each message as a type with its decoding or encoding. All numbers are
//! big-endian.

mod constants;
mod option;
mod option_reply;
mod reader;
mod reply;
mod request;

pub use constants::*;
pub(crate) use option::string as option_string;
pub use option::{
    ClientFlags, ContextQueries, ContextRequest, ExportRequest, InfoRequests, OptionDataError, OptionHeader,
};
pub use option_reply::{
    encode_block_size, encode_context, encode_export_name_reply, encode_greeting, encode_info_export, encode_info_text,
    encode_option_reply, encode_server,
};
pub use reply::{
    Chunk, encode_chunk_header, encode_error_chunk, encode_extent, encode_hole_chunk, encode_offset_data_header,
    encode_simple_reply, encode_status_header, extent_bytes,
};
pub use request::{Dialect, REQUEST_HEADER_BYTES_MAX, Request};

/// A message began with a number that is none of the protocol's: the two sides no longer agree where messages begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected magic {expected:#x}, found {found:#x}")]
pub struct BadMagic {
    /// The number that begins this kind of message.
    pub expected: u64,
    /// The number that came.
    pub found: u64,
}
