//! The 64 bytes in front of each frame: what a receiver needs to place body and payload before it knows what they say.

use bytes::{BufMut, BytesMut};
use cairn_api::units::BLOCK_SIZE;

use super::{BODY_BYTES_MAX, HEADER_BYTES, MESSAGES_MAX, PAYLOAD_BYTES_MAX, WIRE_VERSION};
use crate::checksum::crc32c;
use crate::error::FormatError;
use crate::wire::Reader;

const STRUCTURE: &str = "peer frame header";
const MAGIC: u64 = u64::from_le_bytes(*b"CAIRNPFR");
/// Bytes between the last field and the checksum: room for later fields.
const RESERVED_BYTES: usize = 32;

/// A decoded frame header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// Bytes of body, at most [`BODY_BYTES_MAX`].
    pub body_len: u32,
    /// Bytes of payload: whole blocks, at most [`PAYLOAD_BYTES_MAX`].
    pub payload_len: u32,
    /// Messages in the body.
    pub message_count: u32,
    /// CRC32C of the body.
    pub body_crc: u32,
}

impl FrameHeader {
    pub(super) fn encode_into(&self, buffer: &mut BytesMut) {
        buffer.put_u64_le(MAGIC);
        buffer.put_u16_le(WIRE_VERSION);
        buffer.put_u16_le(0); // flags
        for field in [self.body_len, self.payload_len, self.message_count, self.body_crc] {
            buffer.put_u32_le(field);
        }
        buffer.put_bytes(0, RESERVED_BYTES);
        let crc = crc32c(&buffer[buffer.len() + 4 - HEADER_BYTES..]);
        buffer.put_u32_le(crc);
    }
}

/// Decodes and checks a frame header. After an error the stream cannot be followed any further: close the link.
pub fn decode_header(bytes: &[u8; HEADER_BYTES]) -> Result<FrameHeader, FormatError> {
    let mut reader = Reader::new(STRUCTURE, bytes);
    reader.magic(MAGIC)?;
    let computed = crc32c(&bytes[..HEADER_BYTES - 4]);
    let mut tail = Reader::new(STRUCTURE, &bytes[HEADER_BYTES - 4..]);
    let found = tail.u32("checksum")?;
    if found != computed {
        return Err(FormatError::Checksum {
            structure: STRUCTURE,
            part: "the header",
            found,
            computed,
        });
    }
    reader.version(WIRE_VERSION)?;
    reader.no_flags()?;
    let header = FrameHeader {
        body_len: reader.u32("body length")?,
        payload_len: reader.u32("payload length")?,
        message_count: reader.u32("message count")?,
        body_crc: reader.u32("checksum of the body")?,
    };
    reader.reserved(RESERVED_BYTES)?;
    if header.body_len as usize > BODY_BYTES_MAX {
        return Err(reader.out_of_range("body length", u64::from(header.body_len), "at most 1 MiB"));
    }
    if header.payload_len as usize > PAYLOAD_BYTES_MAX || !header.payload_len.is_multiple_of(BLOCK_SIZE) {
        let expected = "whole 4 KiB blocks, at most 4 MiB";
        return Err(reader.out_of_range("payload length", u64::from(header.payload_len), expected));
    }
    if header.message_count as usize > MESSAGES_MAX {
        let expected = "no more than fit in a body";
        return Err(reader.out_of_range("message count", u64::from(header.message_count), expected));
    }
    Ok(header)
}
