//! Requests of the transmission phase.

use bytes::{BufMut, BytesMut};

use super::reader::Reader;
use super::{BadMagic, EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC};

/// Which headers the two sides agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Dialect {
    /// Compact requests, simple replies.
    #[default]
    Simple,
    /// Compact requests, structured replies (`NBD_OPT_STRUCTURED_REPLY`).
    Structured,
    /// Extended requests and replies (`NBD_OPT_EXTENDED_HEADERS`).
    Extended,
}

/// Length of the longest request header in bytes.
pub const REQUEST_HEADER_BYTES_MAX: usize = 32;

impl Dialect {
    /// Length of a request header in bytes.
    pub const fn request_header_bytes(self) -> usize {
        match self {
            Self::Simple | Self::Structured => 28,
            Self::Extended => REQUEST_HEADER_BYTES_MAX,
        }
    }

    /// Length of a reply chunk's header in bytes.
    pub const fn chunk_header_bytes(self) -> usize {
        match self {
            Self::Simple => 16,
            Self::Structured => 20,
            Self::Extended => 32,
        }
    }
}

/// A request header ("Request message").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Command flags.
    pub flags: u16,
    /// The command, known or not.
    pub command: u16,
    /// The client's name for the request, repeated in the reply.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes of the effect or of the payload.
    pub length: u64,
}

impl Request {
    /// Decodes a header of the dialect's length.
    ///
    /// # Errors
    /// If it does not begin with the dialect's magic.
    pub fn decode(header: &[u8], dialect: Dialect) -> Result<Self, BadMagic> {
        let mut reader = Reader(header);
        let mut decode = || {
            let magic = reader.u32()?;
            let (flags, command) = (reader.u16()?, reader.u16()?);
            let (cookie, offset) = (reader.u64()?, reader.u64()?);
            let length = if dialect == Dialect::Extended {
                reader.u64()?
            } else {
                u64::from(reader.u32()?)
            };
            Some((
                magic,
                Self {
                    flags,
                    command,
                    cookie,
                    offset,
                    length,
                },
            ))
        };
        let expected = if dialect == Dialect::Extended {
            EXTENDED_REQUEST_MAGIC
        } else {
            REQUEST_MAGIC
        };
        let (found, request) = decode().ok_or(BadMagic {
            expected: expected.into(),
            found: 0,
        })?;
        if found != expected {
            return Err(BadMagic {
                expected: expected.into(),
                found: found.into(),
            });
        }
        Ok(request)
    }

    /// Encodes the header as a client does. A compact header has room for the low 32 bits of the length only.
    pub fn encode(&self, dialect: Dialect, buffer: &mut BytesMut) {
        let extended = dialect == Dialect::Extended;
        buffer.put_u32(if extended {
            EXTENDED_REQUEST_MAGIC
        } else {
            REQUEST_MAGIC
        });
        buffer.put_u16(self.flags);
        buffer.put_u16(self.command);
        buffer.put_u64(self.cookie);
        buffer.put_u64(self.offset);
        if extended {
            buffer.put_u64(self.length);
        } else {
            buffer.put_uint(self.length & u64::from(u32::MAX), 4);
        }
    }
}
