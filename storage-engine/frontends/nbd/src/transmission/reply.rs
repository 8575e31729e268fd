//! Replies in each dialect ("Simple reply message", "Structured reply types", "Extended reply chunk message").

use bytes::Bytes;
use cairn_api::block::{Allocation, BlockError, BlockReply, ReadPiece, StatusExtent};

use super::error;
use super::in_flight::InFlight;
use super::judge::Refusal;
use crate::output::Output;
use crate::wire::{
    Chunk, Dialect, ErrorCode, Request, allocation, chunk_type, command, encode_chunk_header, encode_error_chunk,
    encode_extent, encode_hole_chunk, encode_offset_data_header, encode_simple_reply, encode_status_header,
};

const fn chunk(dialect: Dialect, request: &Request, done: bool) -> Chunk {
    Chunk {
        dialect,
        cookie: request.cookie,
        offset: request.offset,
        done,
    }
}

/// Success without anything to say.
pub(super) fn done(output: &mut Output, dialect: Dialect, request: &Request) {
    // With structured replies a simple one may still be used for success, except for reads; it is the shorter one.
    let simple = match dialect {
        Dialect::Simple => true,
        Dialect::Structured => request.command != command::READ,
        Dialect::Extended => false,
    };
    output.encode(|buffer| {
        if simple {
            encode_simple_reply(buffer, 0, request.cookie);
        } else {
            encode_chunk_header(buffer, chunk(dialect, request, true), chunk_type::NONE, 0);
        }
    });
}

/// An error, with its text where the dialect has room for one.
pub(super) fn refused(output: &mut Output, dialect: Dialect, request: &Request, refusal: &Refusal) {
    output.encode(|buffer| match dialect {
        Dialect::Simple => encode_simple_reply(buffer, refusal.error.number(), request.cookie),
        Dialect::Structured | Dialect::Extended => {
            encode_error_chunk(buffer, chunk(dialect, request, true), refusal.error, &refusal.text);
        }
    });
}

/// What the device made of a request.
pub(super) fn completed(
    output: &mut Output,
    dialect: Dialect,
    work: &InFlight,
    result: Result<BlockReply, BlockError>,
) {
    let request = &work.request;
    match (request.command, result) {
        (command, Err(block_error)) => refused(output, dialect, request, &error::refusal(command, &block_error)),
        (command::READ, Ok(BlockReply::Read(pieces))) if is_whole(&pieces, work) => {
            read(output, dialect, work, pieces);
        }
        (command::BLOCK_STATUS, Ok(BlockReply::Status(extents))) if extents.iter().any(|e| e.length > 0) => {
            status(output, dialect, work, &extents);
        }
        (command::READ | command::BLOCK_STATUS, Ok(_)) | (_, Ok(BlockReply::Read(_) | BlockReply::Status(_))) => {
            tracing::error!(
                command = request.command,
                "the device's answer does not fit the request"
            );
            let refusal = Refusal::new(ErrorCode::Io, "the device's answer does not fit the request");
            refused(output, dialect, request, &refusal);
        }
        (_, Ok(BlockReply::Done)) => done(output, dialect, request),
    }
}

/// Whether the pieces of a read add up to what was asked for: anything else would shift every later reply.
fn is_whole(pieces: &[ReadPiece], work: &InFlight) -> bool {
    pieces.iter().map(ReadPiece::len).sum::<u64>() == work.effect_bytes
}

fn push_piece(output: &mut Output, piece: ReadPiece) {
    match piece {
        ReadPiece::Data(data) => output.push(data),
        ReadPiece::Zeros(count) => output.push_zeros(count),
    }
}

fn read(output: &mut Output, dialect: Dialect, work: &InFlight, mut pieces: Vec<ReadPiece>) {
    let request = &work.request;
    if dialect == Dialect::Simple {
        output.encode(|buffer| encode_simple_reply(buffer, 0, request.cookie));
        pieces.into_iter().for_each(|piece| push_piece(output, piece));
        return;
    }
    if let [ReadPiece::Data(data)] = &mut pieces[..] {
        // By far the most common answer: no runs to find, nothing to allocate.
        let header = chunk(dialect, request, true);
        output.encode(|buffer| encode_offset_data_header(buffer, header, request.offset, work.effect_bytes));
        output.push(std::mem::take(data));
        return;
    }
    let runs = runs(&pieces);
    // "If the area being read contains both data and a hole, the server MUST use NBD_REPLY_TYPE_OFFSET_DATA".
    if work.is_unfragmented() && runs.len() > 1 {
        let header = chunk(dialect, request, true);
        output.encode(|buffer| encode_offset_data_header(buffer, header, request.offset, work.effect_bytes));
        pieces.into_iter().for_each(|piece| push_piece(output, piece));
        return;
    }
    let mut pieces = pieces.into_iter();
    let mut offset = request.offset;
    for (index, run) in runs.iter().enumerate() {
        let header = chunk(dialect, request, index + 1 == runs.len());
        let run_pieces = pieces.by_ref().take(run.pieces);
        if run.hole {
            // A read is at most 32 MiB long, so a hole in it fits 32 bits.
            let length = u32::try_from(run.bytes).unwrap_or(u32::MAX);
            output.encode(|buffer| encode_hole_chunk(buffer, header, offset, length));
            run_pieces.for_each(drop);
        } else {
            output.encode(|buffer| encode_offset_data_header(buffer, header, offset, run.bytes));
            run_pieces.for_each(|piece| push_piece(output, piece));
        }
        offset += run.bytes;
    }
}

/// Adjacent pieces of one kind: "A server SHOULD try to minimize the number of chunks".
struct Run {
    hole: bool,
    bytes: u64,
    pieces: usize,
}

fn runs(pieces: &[ReadPiece]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::with_capacity(1);
    for piece in pieces {
        let hole = matches!(piece, ReadPiece::Zeros(_));
        match runs.last_mut() {
            // An empty piece joins any run, so that no chunk is empty.
            Some(run) if run.hole == hole || piece.is_empty() => {
                run.bytes += piece.len();
                run.pieces += 1;
            }
            Some(run) if run.bytes == 0 => {
                *run = Run {
                    hole,
                    bytes: piece.len(),
                    pieces: run.pieces + 1,
                }
            }
            _ => runs.push(Run {
                hole,
                bytes: piece.len(),
                pieces: 1,
            }),
        }
    }
    runs
}

const fn status_flags(kind: Allocation) -> u32 {
    match kind {
        Allocation::Data => 0,
        Allocation::Zero => allocation::ZERO,
        Allocation::Hole => allocation::HOLE | allocation::ZERO,
    }
}

/// The extents as the document wants them: none empty, neighbours different, none beyond what was asked for, not too
/// many of them.
fn tidy(extents: &[StatusExtent], work: &InFlight) -> Vec<(u64, u32)> {
    let mut left = work.effect_bytes;
    let mut descriptors: Vec<(u64, u32)> = Vec::with_capacity(extents.len());
    for extent in extents {
        let (length, flags) = (extent.length.min(left), status_flags(extent.allocation));
        let is_full = descriptors.len() >= work.extents_max() as usize;
        left -= length;
        match descriptors.last_mut() {
            _ if length == 0 => {}
            Some((bytes, previous)) if *previous == flags => *bytes += length,
            _ if is_full => break,
            _ => descriptors.push((length, flags)),
        }
    }
    descriptors
}

fn status(output: &mut Output, dialect: Dialect, work: &InFlight, extents: &[StatusExtent]) {
    let descriptors = tidy(extents, work);
    // At most `STATUS_EXTENTS_MAX`.
    let count = u32::try_from(descriptors.len()).unwrap_or(u32::MAX);
    let header = chunk(dialect, &work.request, true);
    let mut buffer = bytes::BytesMut::with_capacity(64 + 16 * descriptors.len());
    encode_status_header(&mut buffer, header, allocation::ID, count);
    for (length, flags) in descriptors {
        encode_extent(&mut buffer, dialect, length, flags);
    }
    output.push(Bytes::from(buffer));
}
