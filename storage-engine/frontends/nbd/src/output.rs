//! Bytes to send, in order, as a list of pieces, so that read data goes from the device to the socket as it is.

use bytes::{Bytes, BytesMut};

/// Headers are carved from one allocation of this size: some hundred replies share it.
const ARENA_BYTES: usize = 4096;

/// The most zeros in one piece; pieces of zeros all share [`ZEROS`].
const ZERO_PIECE_BYTES: usize = 1 << 20;
static ZEROS: [u8; ZERO_PIECE_BYTES] = [0; ZERO_PIECE_BYTES];

/// Output that the driver has not taken.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pieces: Vec<Bytes>,
    bytes: usize,
    arena: BytesMut,
}

impl Output {
    /// Appends what `encode` writes.
    pub(crate) fn encode(&mut self, encode: impl FnOnce(&mut BytesMut)) {
        if self.arena.capacity() < 64 {
            self.arena.reserve(ARENA_BYTES);
        }
        encode(&mut self.arena);
        let piece = self.arena.split().freeze();
        self.push(piece);
    }

    /// Appends `piece` without copying it.
    pub(crate) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.bytes += piece.len();
            self.pieces.push(piece);
        }
    }

    /// Appends `count` zeros without allocating them.
    pub(crate) fn push_zeros(&mut self, count: u64) {
        let mut left = count;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(ZERO_PIECE_BYTES);
            self.push(Bytes::from_static(&ZEROS[..length]));
            left -= length as u64;
        }
    }

    /// Bytes that were not taken.
    pub(crate) const fn len(&self) -> usize {
        self.bytes
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Moves everything to the end of `taken`.
    pub(crate) fn take(&mut self, taken: &mut Vec<Bytes>) {
        taken.append(&mut self.pieces);
        self.bytes = 0;
    }
}
