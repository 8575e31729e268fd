//! Replies, simple and structured.

use std::collections::BTreeMap;
use std::io::Read;

use anyhow::{Context, Result, bail, ensure};

use super::wire;

/// The longest message in a chunk that tells of an error.
const ERROR_CHUNK_MAX: u32 = 64 << 10;

/// A reply.
#[derive(Debug, Default)]
pub struct Reply {
    /// Of the request.
    pub cookie: u64,
    /// Zero, or the protocol's error number.
    pub error: u32,
    /// The data of a read that worked.
    pub data: Vec<u8>,
    /// Bytes of the data that chunks have brought so far.
    filled: usize,
}

/// What a read asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) offset: u64,
    pub(super) length: usize,
}

/// Takes a simple reply or a chunk of a structured one. Says whether the reply is whole now.
pub(super) fn take(
    stream: &mut impl Read,
    reads: &BTreeMap<u64, Asked>,
    partial: &mut BTreeMap<u64, Reply>,
) -> Result<(Reply, bool)> {
    match u32::from_be_bytes(array(stream).context("waiting for a reply")?) {
        wire::SIMPLE_REPLY_MAGIC => take_simple(stream, reads).map(|reply| (reply, true)),
        wire::STRUCTURED_REPLY_MAGIC => take_chunk(stream, reads, partial),
        magic => bail!("not a reply: {magic:#x}"),
    }
}

fn take_simple(stream: &mut impl Read, reads: &BTreeMap<u64, Asked>) -> Result<Reply> {
    let error = u32::from_be_bytes(array(stream)?);
    let cookie = u64::from_be_bytes(array(stream)?);
    let asked = reads.get(&cookie).filter(|_| error == 0);
    let mut data = vec![0; asked.map_or(0, |asked| asked.length)];
    stream.read_exact(&mut data)?;
    let filled = data.len();
    Ok(Reply {
        cookie,
        error,
        data,
        filled,
    })
}

fn take_chunk(
    stream: &mut impl Read,
    reads: &BTreeMap<u64, Asked>,
    partial: &mut BTreeMap<u64, Reply>,
) -> Result<(Reply, bool)> {
    let flags = u16::from_be_bytes(array(stream)?);
    let kind = u16::from_be_bytes(array(stream)?);
    let cookie = u64::from_be_bytes(array(stream)?);
    let length = u32::from_be_bytes(array(stream)?);
    let asked = reads.get(&cookie).copied();
    let mut reply = partial.remove(&cookie).unwrap_or_else(|| Reply {
        cookie,
        data: vec![0; asked.map_or(0, |asked| asked.length)],
        ..Reply::default()
    });
    match kind {
        wire::CHUNK_NONE => ensure!(length == 0, "an empty chunk of {length} bytes"),
        wire::CHUNK_OFFSET_DATA | wire::CHUNK_OFFSET_HOLE => {
            let asked = asked.context("data for a request that is no read")?;
            let offset = u64::from_be_bytes(array(stream)?);
            let bytes = if kind == wire::CHUNK_OFFSET_HOLE {
                u32::from_be_bytes(array(stream)?)
            } else {
                length.checked_sub(8).context("a data chunk without an offset")?
            };
            let place = offset
                .checked_sub(asked.offset)
                .and_then(|from| usize::try_from(from).ok());
            let bytes = usize::try_from(bytes)?;
            let target = place.and_then(|from| reply.data.get_mut(from..from.checked_add(bytes)?));
            let target = target.context("a chunk outside of what was asked for")?;
            if kind == wire::CHUNK_OFFSET_DATA {
                stream.read_exact(target)?;
            }
            reply.filled += bytes;
        }
        kind if kind & wire::CHUNK_ERROR_BIT != 0 => {
            ensure!(
                (6..=ERROR_CHUNK_MAX).contains(&length),
                "an error chunk of {length} bytes"
            );
            reply.error = u32::from_be_bytes(array(stream)?);
            let mut rest = vec![0; usize::try_from(length - 4)?];
            stream.read_exact(&mut rest)?;
        }
        kind => bail!("an unknown chunk, of type {kind}"),
    }
    let is_done = flags & wire::CHUNK_DONE != 0;
    if is_done && reply.error == 0 {
        ensure!(reply.filled == reply.data.len(), "a reply that lacks some of its data");
    }
    Ok((reply, is_done))
}

/// The next bytes.
pub(super) fn array<const N: usize>(stream: &mut impl Read) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(flags: u16, kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = wire::STRUCTURED_REPLY_MAGIC.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend(7u64.to_be_bytes());
        bytes.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn reads() -> BTreeMap<u64, Asked> {
        BTreeMap::from([(7, Asked { offset: 100, length: 4 })])
    }

    #[test]
    fn chunks_of_a_read_are_put_together() {
        let mut partial = BTreeMap::new();
        let hole = [&100u64.to_be_bytes()[..], &2u32.to_be_bytes()].concat();
        let data = [&102u64.to_be_bytes()[..], &[8, 9]].concat();
        let bytes = [
            chunk(0, wire::CHUNK_OFFSET_HOLE, &hole),
            chunk(1, wire::CHUNK_OFFSET_DATA, &data),
        ]
        .concat();
        let mut stream = bytes.as_slice();
        let (first, is_done) = take(&mut stream, &reads(), &mut partial).unwrap();
        assert!(!is_done);
        partial.insert(7, first);
        let (whole, is_done) = take(&mut stream, &reads(), &mut partial).unwrap();
        assert!(is_done && whole.data == [0, 0, 8, 9]);
    }

    #[test]
    fn data_that_was_not_asked_for_or_is_missing_is_noticed() {
        let beyond = [&103u64.to_be_bytes()[..], &[8, 9]].concat();
        for bytes in [
            chunk(1, wire::CHUNK_OFFSET_DATA, &beyond),
            chunk(1, wire::CHUNK_NONE, &[]),
        ] {
            assert!(take(&mut bytes.as_slice(), &reads(), &mut BTreeMap::new()).is_err());
        }
    }
}
