//! Replies of the transmission phase. Payload is never here: a header is encoded, and the payload follows it as it is.

use bytes::{BufMut, BytesMut};

use super::option_reply::cut;
use super::{
    Dialect, EXTENDED_REPLY_MAGIC, ErrorCode, REPLY_FLAG_DONE, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk_type,
};

/// "Simple reply message"; `error` is 0 for success.
pub fn encode_simple_reply(buffer: &mut BytesMut, error: u32, cookie: u64) {
    buffer.put_u32(SIMPLE_REPLY_MAGIC);
    buffer.put_u32(error);
    buffer.put_u64(cookie);
}

/// What the chunks of one reply have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// [`Dialect::Structured`] or [`Dialect::Extended`].
    pub dialect: Dialect,
    /// The request's cookie.
    pub cookie: u64,
    /// The request's offset, which extended replies repeat.
    pub offset: u64,
    /// Whether this is the reply's last chunk.
    pub done: bool,
}

/// "Structured reply chunk message" and "Extended reply chunk message".
pub fn encode_chunk_header(buffer: &mut BytesMut, chunk: Chunk, kind: u16, payload_bytes: u64) {
    let extended = chunk.dialect == Dialect::Extended;
    buffer.put_u32(if extended {
        EXTENDED_REPLY_MAGIC
    } else {
        STRUCTURED_REPLY_MAGIC
    });
    buffer.put_u16(if chunk.done { REPLY_FLAG_DONE } else { 0 });
    buffer.put_u16(kind);
    buffer.put_u64(chunk.cookie);
    if extended {
        buffer.put_u64(chunk.offset);
        buffer.put_u64(payload_bytes);
    } else {
        // Payloads are bounded by the 32 MiB of a request and the few MiB of an extent list, far below 32 bits.
        assert!(
            payload_bytes <= u64::from(u32::MAX),
            "a chunk of {payload_bytes} bytes does not fit its length field"
        );
        buffer.put_uint(payload_bytes, 4);
    }
}

/// `NBD_REPLY_TYPE_OFFSET_DATA` up to where its `data_bytes` of data begin.
pub fn encode_offset_data_header(buffer: &mut BytesMut, chunk: Chunk, offset: u64, data_bytes: u64) {
    encode_chunk_header(buffer, chunk, chunk_type::OFFSET_DATA, 8 + data_bytes);
    buffer.put_u64(offset);
}

/// `NBD_REPLY_TYPE_OFFSET_HOLE`.
pub fn encode_hole_chunk(buffer: &mut BytesMut, chunk: Chunk, offset: u64, hole_bytes: u32) {
    encode_chunk_header(buffer, chunk, chunk_type::OFFSET_HOLE, 12);
    buffer.put_u64(offset);
    buffer.put_u32(hole_bytes);
}

/// `NBD_REPLY_TYPE_ERROR`, with a message for people.
pub fn encode_error_chunk(buffer: &mut BytesMut, chunk: Chunk, error: ErrorCode, message: &str) {
    let message = cut(message);
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    encode_chunk_header(buffer, chunk, chunk_type::ERROR, 6 + u64::from(length));
    buffer.put_u32(error.number());
    buffer.put_u16(length);
    buffer.put_slice(message.as_bytes());
}

/// `NBD_REPLY_TYPE_BLOCK_STATUS` or `NBD_REPLY_TYPE_BLOCK_STATUS_EXT` up to where its `count` descriptors begin.
pub fn encode_status_header(buffer: &mut BytesMut, chunk: Chunk, context: u32, count: u32) {
    let descriptors = u64::from(count) * extent_bytes(chunk.dialect);
    if chunk.dialect == Dialect::Extended {
        encode_chunk_header(buffer, chunk, chunk_type::BLOCK_STATUS_EXT, 8 + descriptors);
        buffer.put_u32(context);
        buffer.put_u32(count);
    } else {
        encode_chunk_header(buffer, chunk, chunk_type::BLOCK_STATUS, 4 + descriptors);
        buffer.put_u32(context);
    }
}

/// One descriptor of a block status chunk. In the compact form a longer extent is cut to what 32 bits hold, which is
/// right for the last extent of a reply only.
pub fn encode_extent(buffer: &mut BytesMut, dialect: Dialect, length: u64, status: u32) {
    if dialect == Dialect::Extended {
        buffer.put_u64(length);
        buffer.put_u64(status.into());
    } else {
        buffer.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        buffer.put_u32(status);
    }
}

/// Length of a descriptor in bytes.
pub const fn extent_bytes(dialect: Dialect) -> u64 {
    match dialect {
        Dialect::Extended => 16,
        Dialect::Simple | Dialect::Structured => 8,
    }
}
