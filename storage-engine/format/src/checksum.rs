//! CRC32C, by the processor's own instruction where it has one.
//!
//! Every block of payload has its own checksum: made once by the gateway, it travels with the entry and is checked by
//! each receiver before the block is written and by each reader after it is read.

use cairn_api::units::BLOCK_SIZE;
pub use crc32c::{crc32c, crc32c_append};

/// A block whose bytes do not match its checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BlockMismatch {
    /// The bytes differ.
    #[error("block {block}: the checksum says {expected:#010x}, the bytes give {computed:#010x}")]
    Checksum {
        /// Which block of the payload, from 0.
        block: usize,
        /// What the list says.
        expected: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// The payload is not as many whole blocks as there are checksums.
    #[error("{bytes} bytes of payload for {blocks} checksums of {BLOCK_SIZE} bytes each")]
    Length {
        /// Bytes of payload.
        bytes: usize,
        /// Checksums.
        blocks: usize,
    },
}

/// The checksum of each block of `payload`, in order. A last partial block is summed as it is.
pub fn block_crcs(payload: &[u8]) -> Vec<u32> {
    payload.chunks(BLOCK_SIZE as usize).map(crc32c).collect()
}

/// Checks each block of `payload` against its checksum.
pub fn verify(payload: &[u8], crcs: &[u32]) -> Result<(), BlockMismatch> {
    verify_with(payload, crcs.iter().copied())
}

/// As [`verify`], for checksums that are still in encoded form.
pub fn verify_with(payload: &[u8], crcs: impl ExactSizeIterator<Item = u32>) -> Result<(), BlockMismatch> {
    let blocks = crcs.len();
    if payload.len() != blocks * BLOCK_SIZE as usize {
        return Err(BlockMismatch::Length {
            bytes: payload.len(),
            blocks,
        });
    }
    for (block, (bytes, expected)) in payload.chunks_exact(BLOCK_SIZE as usize).zip(crcs).enumerate() {
        let computed = crc32c(bytes);
        if computed != expected {
            return Err(BlockMismatch::Checksum {
                block,
                expected,
                computed,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_castagnoli_one() {
        // The check value of CRC-32C (RFC 3720, appendix B.4 uses the same polynomial).
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c_append(crc32c(b"1234"), b"56789"), 0xE306_9283);
    }

    #[test]
    fn a_changed_block_is_named() {
        let mut payload = vec![7_u8; 3 * BLOCK_SIZE as usize];
        let crcs = block_crcs(&payload);
        assert_eq!(verify(&payload, &crcs), Ok(()));
        payload[5000] ^= 1;
        assert!(matches!(
            verify(&payload, &crcs),
            Err(BlockMismatch::Checksum { block: 1, .. })
        ));
    }

    #[test]
    fn a_payload_of_another_length_is_refused() {
        let payload = vec![7_u8; BLOCK_SIZE as usize];
        let crcs = block_crcs(&payload);
        assert_eq!(
            verify(&payload[1..], &crcs),
            Err(BlockMismatch::Length { bytes: 4095, blocks: 1 })
        );
        assert_eq!(
            verify(&payload, &[]),
            Err(BlockMismatch::Length { bytes: 4096, blocks: 0 })
        );
    }
}
