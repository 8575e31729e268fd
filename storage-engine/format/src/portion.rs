//! A portion of a volume's map as a replica that is brought up without the log receives and stages it: rows of slots, the
//! data of those that the receiver does not have, and for the others the word that it has them.

use bytes::{BufMut, BytesMut};
use cairn_api::ids::LogIndex;
use cairn_api::units::Lba;

use crate::checksum::{self, BlockMismatch};
use crate::entry::{ENTRY_BLOCKS_MAX, LBA_END_MAX};
use crate::error::FormatError;
use crate::wire::Reader;

/// The longest encoded portion, in bytes: with the fixed fields of a frame and of its record it fits one block.
pub const PORTION_BYTES_MAX: usize = 3800;
/// The most blocks of data in a portion: those of an entry, so that nothing in a log is longer.
pub const PORTION_BLOCKS_MAX: u32 = ENTRY_BLOCKS_MAX;
/// The most slots in a row: those of 2 MiB, which is what a map's leaf holds.
pub const ROW_SLOTS_MAX: u32 = 512;
/// Bytes of a row in front of its checksums.
const ROW_BYTES: usize = 19;
const FIXED_BYTES: usize = 10;

/// What a row's slots hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RowContent {
    /// Data, which travels along; the CRC32C of each block.
    Data(Vec<u32>),
    /// Data that the receiver has under the same address and birth.
    Kept,
    /// Allocated zeros.
    Zero,
    /// Trimmed, over a base.
    Trimmed,
}

/// Slots of one kind and birth in a row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The first one.
    pub lba: Lba,
    /// How many; 1 to [`ROW_SLOTS_MAX`].
    pub slots: u32,
    /// The index of the entry that filled them.
    pub birth: LogIndex,
    /// What they hold.
    pub content: RowContent,
}

impl Row {
    /// Bytes that it takes in a portion.
    pub const fn encoded_len(&self) -> usize {
        match &self.content {
            RowContent::Data(crcs) => ROW_BYTES + 4 * crcs.len(),
            RowContent::Kept | RowContent::Zero | RowContent::Trimmed => ROW_BYTES,
        }
    }

    /// Blocks of data that travel with it.
    pub const fn data_blocks(&self) -> u32 {
        match self.content {
            RowContent::Data(_) => self.slots,
            RowContent::Kept | RowContent::Zero | RowContent::Trimmed => 0,
        }
    }
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Portion {
    /// The index of the snapshot whose delta the slots belong to; 0 for the volume as it is.
    pub owner: LogIndex,
    /// In the order of their addresses.
    pub rows: Vec<Row>,
}

impl Portion {
    /// Length of the encoded portion in bytes.
    pub fn encoded_len(&self) -> usize {
        FIXED_BYTES + self.rows.iter().map(Row::encoded_len).sum::<usize>()
    }

    /// Blocks of data that travel with it.
    pub fn data_blocks(&self) -> u32 {
        self.rows.iter().map(Row::data_blocks).sum()
    }

    /// The checksums of that data, in order.
    pub fn crcs(&self) -> impl Iterator<Item = u32> + '_ {
        self.rows.iter().flat_map(|row| {
            match &row.content {
                RowContent::Data(crcs) => crcs.as_slice(),
                RowContent::Kept | RowContent::Zero | RowContent::Trimmed => &[],
            }
            .iter()
            .copied()
        })
    }

    /// Checks the data that came with it.
    pub fn verify(&self, payload: &[u8]) -> Result<(), BlockMismatch> {
        let crcs: Vec<u32> = self.crcs().collect();
        checksum::verify(payload, &crcs)
    }

    /// Whether it keeps to its bounds.
    pub fn is_sound(&self) -> bool {
        let is_sound = |row: &Row| {
            let counted = match &row.content {
                RowContent::Data(crcs) => crcs.len() == row.slots as usize,
                RowContent::Kept | RowContent::Zero | RowContent::Trimmed => true,
            };
            let end = row.lba.0.checked_add(u64::from(row.slots));
            counted && (1..=ROW_SLOTS_MAX).contains(&row.slots) && end.is_some_and(|end| end <= LBA_END_MAX)
        };
        let is_rising = |pair: &[Row]| pair[0].lba.0 + u64::from(pair[0].slots) <= pair[1].lba.0;
        let fits = self.encoded_len() <= PORTION_BYTES_MAX && self.data_blocks() <= PORTION_BLOCKS_MAX;
        fits && !self.rows.is_empty() && self.rows.iter().all(is_sound) && self.rows.windows(2).all(is_rising)
    }

    /// # Panics
    /// If it does not keep to its bounds: a receiver, or a recovery, would refuse it.
    pub(crate) fn encode_into(&self, buffer: &mut BytesMut) {
        assert!(self.is_sound(), "a portion within its bounds");
        buffer.put_u64_le(self.owner.0);
        #[allow(clippy::cast_possible_truncation, reason = "bounded by PORTION_BYTES_MAX")]
        buffer.put_u16_le(self.rows.len() as u16);
        for row in &self.rows {
            buffer.put_u64_le(row.lba.0);
            #[allow(clippy::cast_possible_truncation, reason = "bounded by ROW_SLOTS_MAX")]
            buffer.put_u16_le(row.slots as u16);
            buffer.put_u8(match row.content {
                RowContent::Data(_) => 1,
                RowContent::Kept => 2,
                RowContent::Zero => 3,
                RowContent::Trimmed => 4,
            });
            buffer.put_u64_le(row.birth.0);
            if let RowContent::Data(crcs) = &row.content {
                crcs.iter().for_each(|crc| buffer.put_u32_le(*crc));
            }
        }
    }

    pub(crate) fn take(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let owner = LogIndex(reader.u64("owner")?);
        let count = usize::from(reader.u16("row count")?);
        if count == 0 || count > PORTION_BYTES_MAX / ROW_BYTES || count > reader.remaining() / ROW_BYTES {
            return Err(reader.out_of_range("row count", count as u64, "1 to 200, all within the portion"));
        }
        let mut rows = Vec::with_capacity(count);
        for _ in 0..count {
            rows.push(take_row(reader)?);
        }
        let portion = Self { owner, rows };
        if portion.is_sound() {
            Ok(portion)
        } else {
            let expected = "rising rows within 2^51 blocks, at most 256 blocks of data and 3,800 bytes";
            Err(reader.out_of_range("rows of a portion", count as u64, expected))
        }
    }
}

fn take_row(reader: &mut Reader<'_>) -> Result<Row, FormatError> {
    let lba = Lba(reader.u64("first block")?);
    let slots = u32::from(reader.u16("slot count")?);
    if !(1..=ROW_SLOTS_MAX).contains(&slots) {
        return Err(reader.out_of_range("slot count", u64::from(slots), "1 to 512"));
    }
    let kind = reader.u8("kind of row")?;
    let birth = LogIndex(reader.u64("birth")?);
    let content = match kind {
        1 => {
            let crcs = (0..slots).map(|_| reader.u32("checksum")).collect::<Result<_, _>>()?;
            RowContent::Data(crcs)
        }
        2 => RowContent::Kept,
        3 => RowContent::Zero,
        4 => RowContent::Trimmed,
        found => return Err(reader.unknown("kind of row", u64::from(found), "1 data, 2 kept, 3 zero, 4 trimmed")),
    };
    Ok(Row {
        lba,
        slots,
        birth,
        content,
    })
}
