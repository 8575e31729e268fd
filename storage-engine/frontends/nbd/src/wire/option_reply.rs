//! What the server sends while a client negotiates.

use bytes::{BufMut, BytesMut};

use super::{EXPORT_NAME_ZEROES, GREETING_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, handshake_flag, info, reply_code};
use crate::limits::STRING_BYTES_MAX;

/// The server's first words ("Newstyle negotiation").
pub fn encode_greeting(buffer: &mut BytesMut) {
    buffer.put_u64(GREETING_MAGIC);
    buffer.put_u64(OPTION_MAGIC);
    buffer.put_u16(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
}

/// An option reply with `data` ("Fixed newstyle negotiation"); data beyond what fits a string message is cut.
pub fn encode_option_reply(buffer: &mut BytesMut, option: u32, kind: u32, data: &[u8]) {
    let data = &data[..data.len().min(3 * STRING_BYTES_MAX)];
    buffer.put_u64(OPTION_REPLY_MAGIC);
    buffer.put_u32(option);
    buffer.put_u32(kind);
    buffer.put_u32(length_u32(data.len()));
    buffer.put_slice(data);
}

/// `NBD_REP_SERVER`: one export of a list.
pub fn encode_server(buffer: &mut BytesMut, option: u32, name: &str, description: &str) {
    let (name, description) = (cut(name), cut(description));
    let mut data = Vec::with_capacity(4 + name.len() + description.len());
    data.extend_from_slice(&length_u32(name.len()).to_be_bytes());
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(description.as_bytes());
    encode_option_reply(buffer, option, reply_code::SERVER, &data);
}

/// `NBD_INFO_EXPORT`.
pub fn encode_info_export(buffer: &mut BytesMut, option: u32, size_bytes: u64, flags: u16) {
    let mut data = [0; 12];
    data[..2].copy_from_slice(&info::EXPORT.to_be_bytes());
    data[2..10].copy_from_slice(&size_bytes.to_be_bytes());
    data[10..].copy_from_slice(&flags.to_be_bytes());
    encode_option_reply(buffer, option, reply_code::INFO, &data);
}

/// `NBD_INFO_NAME` and `NBD_INFO_DESCRIPTION`.
pub fn encode_info_text(buffer: &mut BytesMut, option: u32, kind: u16, text: &str) {
    let mut data = kind.to_be_bytes().to_vec();
    data.extend_from_slice(cut(text).as_bytes());
    encode_option_reply(buffer, option, reply_code::INFO, &data);
}

/// `NBD_INFO_BLOCK_SIZE`: minimum, preferred, and maximum payload in bytes.
pub fn encode_block_size(buffer: &mut BytesMut, option: u32, constraints: [u32; 3]) {
    let mut data = info::BLOCK_SIZE.to_be_bytes().to_vec();
    for bytes in constraints {
        data.extend_from_slice(&bytes.to_be_bytes());
    }
    encode_option_reply(buffer, option, reply_code::INFO, &data);
}

/// `NBD_REP_META_CONTEXT`.
pub fn encode_context(buffer: &mut BytesMut, option: u32, id: u32, name: &str) {
    let mut data = id.to_be_bytes().to_vec();
    data.extend_from_slice(cut(name).as_bytes());
    encode_option_reply(buffer, option, reply_code::META_CONTEXT, &data);
}

/// The answer to `NBD_OPT_EXPORT_NAME`, which has no reply header.
pub fn encode_export_name_reply(buffer: &mut BytesMut, size_bytes: u64, flags: u16, no_zeroes: bool) {
    buffer.put_u64(size_bytes);
    buffer.put_u16(flags);
    if !no_zeroes {
        buffer.put_bytes(0, EXPORT_NAME_ZEROES);
    }
}

/// `text`, shortened at a character boundary to the longest string of the protocol.
pub(super) fn cut(text: &str) -> &str {
    let mut end = text.len().min(STRING_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Lengths here are those of strings cut to [`STRING_BYTES_MAX`] and a few numbers, so they always fit.
fn length_u32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
