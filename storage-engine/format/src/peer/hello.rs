//! The greeting that opens a link: who dials, and which disk's core it wants. Fixed sizes, so that the acceptor reads
//! exactly these bytes and leaves the rest of the stream to the core that takes over.

use bytes::{BufMut, Bytes, BytesMut};
use cairn_api::ids::{ClusterId, DiskId, NodeId};

use super::WIRE_VERSION;
use crate::checksum::crc32c;
use crate::error::FormatError;
use crate::wire::Reader;

const HELLO: &str = "peer greeting";
const REPLY: &str = "reply to a peer greeting";
const HELLO_MAGIC: u64 = u64::from_le_bytes(*b"CAIRNHLO");
const REPLY_MAGIC: u64 = u64::from_le_bytes(*b"CAIRNRPL");
/// Length of an encoded [`Hello`].
pub const HELLO_BYTES: usize = 96;
/// Length of an encoded [`HelloReply`].
pub const HELLO_REPLY_BYTES: usize = 16;
const RESERVED_BYTES: usize = 14;

/// What the dialling core says first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The version of the wire it speaks. Decoding does not judge it, so that the refusal can be sent.
    pub wire_version: u16,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its node.
    pub from_node: NodeId,
    /// Its disk: the sender of all messages of this link.
    pub from_disk: DiskId,
    /// The disk whose core it wants.
    pub to_disk: DiskId,
}

impl Hello {
    /// A greeting in this build's version.
    pub const fn new(cluster: ClusterId, from_node: NodeId, from_disk: DiskId, to_disk: DiskId) -> Self {
        Self {
            wire_version: WIRE_VERSION,
            cluster,
            from_node,
            from_disk,
            to_disk,
        }
    }

    /// The bytes to send.
    pub fn encode(&self) -> Bytes {
        let mut buffer = BytesMut::with_capacity(HELLO_BYTES);
        buffer.put_u64_le(HELLO_MAGIC);
        buffer.put_u16_le(self.wire_version);
        for id in [
            self.cluster.to_bytes(),
            self.from_node.to_bytes(),
            self.from_disk.to_bytes(),
            self.to_disk.to_bytes(),
        ] {
            buffer.put_slice(&id);
        }
        buffer.put_bytes(0, RESERVED_BYTES);
        let crc = crc32c(&buffer);
        buffer.put_u32_le(crc);
        // The fields end at 88 bytes; the rest keeps the greeting at its fixed length.
        buffer.put_bytes(0, HELLO_BYTES - buffer.len());
        buffer.freeze()
    }

    /// Decodes exactly [`HELLO_BYTES`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(HELLO, bytes);
        reader.magic(HELLO_MAGIC)?;
        let hello = Self {
            wire_version: reader.u16("wire version")?,
            cluster: reader.cluster("cluster")?,
            from_node: reader.node("dialling node")?,
            from_disk: reader.disk("dialling disk")?,
            to_disk: reader.disk("dialled disk")?,
        };
        // Reserved bytes are a later version's to use, and such a version must still be answered by name.
        reader.take("reserved", RESERVED_BYTES)?;
        check_crc(HELLO, &mut reader, bytes)?;
        Ok(hello)
    }
}

/// Whether the acceptor takes the link, or why not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HelloCode {
    /// The link stands: frames may follow.
    Accepted,
    /// The acceptor speaks another version of the wire.
    WrongVersion,
    /// The acceptor belongs to another cluster.
    WrongCluster,
    /// The acceptor has no such disk.
    UnknownDisk,
    /// The disk is there, but its core does not run: it is still recovering, or it has failed.
    DiskNotReady,
    /// The dialling disk is the dialled one, or one that the acceptor holds itself.
    SameDisk,
    /// The acceptor has as many links as it is allowed.
    TooManyLinks,
    /// The acceptor is stopping.
    ShuttingDown,
}

const CODES: [(u16, HelloCode); 8] = [
    (0, HelloCode::Accepted),
    (1, HelloCode::WrongVersion),
    (2, HelloCode::WrongCluster),
    (3, HelloCode::UnknownDisk),
    (4, HelloCode::DiskNotReady),
    (5, HelloCode::SameDisk),
    (6, HelloCode::TooManyLinks),
    (7, HelloCode::ShuttingDown),
];

impl HelloCode {
    /// The reason in words.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::WrongVersion => "it speaks another version of the peer wire: bring both engines to one version",
            Self::WrongCluster => "it belongs to another cluster",
            Self::UnknownDisk => "it has no such disk",
            Self::DiskNotReady => "the disk is recovering or has failed",
            Self::SameDisk => "a disk may not dial itself",
            Self::TooManyLinks => "it has as many links as it is allowed",
            Self::ShuttingDown => "it is shutting down",
        }
    }
}

/// The acceptor's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HelloReply {
    /// The version of the wire the acceptor speaks.
    pub wire_version: u16,
    /// Its verdict.
    pub code: HelloCode,
}

impl HelloReply {
    /// An answer in this build's version.
    pub const fn new(code: HelloCode) -> Self {
        Self {
            wire_version: WIRE_VERSION,
            code,
        }
    }

    /// The bytes to send.
    pub fn encode(&self) -> Bytes {
        let code = CODES
            .iter()
            .find(|(_, code)| *code == self.code)
            .map_or(u16::MAX, |(number, _)| *number);
        let mut buffer = BytesMut::with_capacity(HELLO_REPLY_BYTES);
        buffer.put_u64_le(REPLY_MAGIC);
        buffer.put_u16_le(self.wire_version);
        buffer.put_u16_le(code);
        let crc = crc32c(&buffer);
        buffer.put_u32_le(crc);
        buffer.freeze()
    }

    /// Decodes exactly [`HELLO_REPLY_BYTES`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(REPLY, bytes);
        reader.magic(REPLY_MAGIC)?;
        let wire_version = reader.u16("wire version")?;
        let number = reader.u16("code")?;
        check_crc(REPLY, &mut reader, bytes)?;
        let code = CODES
            .iter()
            .find(|(known, _)| *known == number)
            .map(|(_, code)| *code)
            .ok_or_else(|| reader.unknown("code", u64::from(number), "0 to 7"))?;
        Ok(Self { wire_version, code })
    }
}

/// Checks the checksum of everything read so far, and that only zeros follow it.
fn check_crc(structure: &'static str, reader: &mut Reader<'_>, bytes: &[u8]) -> Result<(), FormatError> {
    let computed = crc32c(&bytes[..reader.position()]);
    let found = reader.u32("checksum")?;
    if found != computed {
        return Err(FormatError::Checksum {
            structure,
            part: "its fields",
            found,
            computed,
        });
    }
    let padding = if structure == HELLO {
        HELLO_BYTES
    } else {
        HELLO_REPLY_BYTES
    } - reader.position();
    reader.reserved(padding)?;
    reader.end()
}
