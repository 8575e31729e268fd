//! One number for all that a volume and its snapshots show: equal on equal replicas, wherever their disks hold the data and
//! however far deleted snapshots are merged away.

use super::leaf::{Content, LEAF_SLOTS};
use super::view::View;
use super::{BlockMap, leaf::Piece};

/// Slots without data of one kind and birth in a row.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Row {
    lba: u64,
    blocks: u64,
    birth: u64,
    kind: u8,
}

#[derive(Default)]
struct Digest {
    crc: u32,
    row: Option<Row>,
}

impl Digest {
    fn add(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.crc = crc32c::crc32c_append(self.crc, &number.to_le_bytes());
        }
    }

    fn end_row(&mut self) {
        if let Some(row) = self.row.take() {
            self.add(&[row.lba, row.blocks, row.birth, u64::from(row.kind)]);
        }
    }

    fn piece(&mut self, lba: u64, piece: &Piece<'_>) {
        let kind = match piece.content {
            Content::Hole => return,
            Content::Data { crcs, .. } => {
                self.end_row();
                for (lba, crc) in (lba..).zip(crcs) {
                    self.add(&[lba, piece.birth, u64::from(*crc)]);
                }
                return;
            }
            Content::Zero => 1,
            Content::Trimmed => 2,
        };
        let blocks = piece.slots as u64;
        match &mut self.row {
            Some(row) if (row.birth, row.kind) == (piece.birth, kind) && row.lba + row.blocks == lba => {
                row.blocks += blocks;
            }
            _ => {
                self.end_row();
                self.row = Some(Row {
                    lba,
                    blocks,
                    birth: piece.birth,
                    kind,
                });
            }
        }
    }
}

impl View<'_> {
    /// CRC32C over the address, birth and checksum of every block with data, and over every row of zeros, in order.
    pub fn digest(self) -> u32 {
        let mut digest = Digest::default();
        for span in self.spans(0..self.size_blocks().next_multiple_of(LEAF_SLOTS)) {
            digest.piece(span.lba, &span.piece);
        }
        digest.end_row();
        digest.crc
    }
}

impl BlockMap {
    /// The digest of the volume as it is, continued by id, index and digest of every snapshot.
    pub fn digest(&self) -> u32 {
        let mut digest = Digest {
            crc: self.now().digest(),
            row: None,
        };
        for snapshot in self.snapshots() {
            let view = self.snapshot(snapshot.id).map_or(0, View::digest);
            digest.add(&[snapshot.id.get(), snapshot.at.get(), u64::from(view)]);
        }
        digest.crc
    }
}
