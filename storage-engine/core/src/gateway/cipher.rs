//! A volume's encryption: between what clients say and the parts that are sent to the leader.
//!
//! - Only here is a payload plaintext. What a part carries is ciphertext, with the checksums of the ciphertext; it is made
//!   once, when the part is, and kept until the reply, so that sending again sends the same bytes.
//! - The tweak of a block is its number in the volume, never its place in a request: requests are cut in many ways, and a
//!   block is read in other company than it was written in.
//! - Of an answer only what is said to be data is decrypted. A hole, a trimmed block and a zeroed one come as zeros, which
//!   nobody encrypted: decrypting them would make noise of them.
//! - The partial blocks of an unaligned write are decrypted before they are merged, and the whole is encrypted.
//!
//! Each way is one pass from one buffer into another, and the only copy that encryption costs; the plaintext of a write is
//! let go as soon as its parts are made.

use std::sync::Arc;

use bytes::Bytes;
use cairn_api::block::{BlockError, BlockOp};
use cairn_api::units::{BLOCK_BYTES, Lba};
use cairn_crypto::VolumeCipher;
use cairn_format::peer::BlockPiece;

use super::PartKind;
use super::plan::Piece;
use crate::memory::Memory;
use crate::mutation::{Seeded, mutated};
use crate::shared::Shared;

/// How the payloads of a volume are turned into what is stored, and back. Of a volume without encryption they are that.
#[derive(Clone)]
pub(super) struct Seal {
    cipher: Option<Arc<VolumeCipher>>,
    memory: Arc<dyn Memory>,
    seeded: Seeded,
}

impl Seal {
    pub(super) fn new(cipher: Option<Arc<VolumeCipher>>, shared: &Shared) -> Self {
        Self {
            cipher,
            memory: Arc::clone(&shared.memory),
            seeded: shared.seeded,
        }
    }

    pub(super) fn is_plain(&self) -> bool {
        self.cipher.is_none()
    }

    /// What is stored of whole blocks, of which the first is `lba`.
    pub(super) fn seal(&self, lba: Lba, plain: &Bytes) -> Bytes {
        let Some(cipher) = &self.cipher else {
            return plain.clone();
        };
        let first = self.tweak(lba);
        self.memory
            .filled(plain.len(), &mut |out| cipher.encrypt(first, plain, out))
    }

    /// The same for an unaligned write, whose blocks were read before and merged.
    pub(super) fn seal_merged(&self, lba: Lba, plain: &Bytes) -> Bytes {
        if mutated!(self.seeded, UnalignedInClear) {
            return plain.clone();
        }
        self.seal(lba, plain)
    }

    /// What clients see of an answer that begins with block `first`.
    pub(super) fn open(&self, first: Lba, pieces: Vec<BlockPiece>) -> Result<Vec<BlockPiece>, BlockError> {
        let Some(cipher) = &self.cipher else {
            return Ok(pieces);
        };
        let mut lba = first;
        let mut opened = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let piece = self.noisy(piece);
            let BlockPiece::Data(secret) = piece else {
                lba = lba.advance(blocks_of(&piece));
                opened.push(piece);
                continue;
            };
            if !(secret.len() as u64).is_multiple_of(BLOCK_BYTES) {
                let reason = format!(
                    "the leader answered {} bytes from {lba} on: no whole blocks",
                    secret.len()
                );
                return Err(BlockError::Io(reason));
            }
            let tweak = self.tweak(lba);
            let plain = self
                .memory
                .filled(secret.len(), &mut |out| cipher.decrypt(tweak, &secret, out));
            lba = lba.advance(secret.len() as u64 / BLOCK_BYTES);
            opened.push(BlockPiece::Data(plain));
        }
        Ok(opened)
    }

    /// What the partial block of an unaligned write held.
    pub(super) fn open_edge(&self, block: u64, pieces: Vec<BlockPiece>) -> Result<Vec<BlockPiece>, BlockError> {
        if mutated!(self.seeded, EdgesInCipher) {
            return Ok(pieces);
        }
        self.open(Lba(block), pieces)
    }

    /// The plaintext of an operation whose parts are made: nobody needs it any more, and it would be kept until the reply.
    pub(super) fn forget_plaintext(&self, op: &mut BlockOp) {
        if let (BlockOp::Write { data, .. }, false) = (op, self.is_plain()) {
            *data = Bytes::new();
        }
    }

    /// What is sent again is what was sent. The fault that this is here for encrypts when it sends.
    pub(super) fn send_again(&self, piece: &mut PartKind) {
        if let PartKind::Blocks(Piece::Write {
            lba,
            block_crcs,
            payload,
        }) = piece
            && mutated!(self.seeded, ReencryptedOnResend)
        {
            *payload = self.seal(*lba, payload);
            *block_crcs = cairn_format::checksum::block_crcs(payload);
        }
    }

    fn tweak(&self, lba: Lba) -> Lba {
        if mutated!(self.seeded, TweakFromRequest) {
            return Lba(0);
        }
        lba
    }

    /// The fault that takes zeros for data.
    fn noisy(&self, piece: BlockPiece) -> BlockPiece {
        match piece {
            BlockPiece::Zeros(blocks) if mutated!(self.seeded, HoleDecrypted) => {
                BlockPiece::Data(vec![0; blocks as usize * usize::try_from(BLOCK_BYTES).unwrap_or(0)].into())
            }
            piece => piece,
        }
    }
}

fn blocks_of(piece: &BlockPiece) -> u64 {
    match piece {
        BlockPiece::Zeros(blocks) => u64::from(*blocks),
        BlockPiece::Data(data) => data.len() as u64 / BLOCK_BYTES,
    }
}
