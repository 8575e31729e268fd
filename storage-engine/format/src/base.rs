//! What a clone shows where it has nothing of its own: a snapshot of another volume, its base.

use bytes::{BufMut, BytesMut};
use cairn_api::ids::{GroupId, SnapshotId};

use crate::entry::LBA_END_MAX;
use crate::error::FormatError;
use crate::wire::Reader;

/// Bytes of an encoded base, or of the word that there is none.
pub(crate) const BASE_BYTES: usize = 24;

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Base {
    /// The volume that the snapshot is of. Never the clone itself.
    pub group: GroupId,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Blocks of the clone that the snapshot may show through, from the first on: at least as many as the snapshot has, unless the
    /// clone is smaller; 1 to [`LBA_END_MAX`].
    pub blocks: u64,
}

/// # Panics
/// If the base breaks the bounds that its fields state.
pub(crate) fn put_base(buffer: &mut BytesMut, base: Option<&Base>) {
    let Some(base) = base else {
        return buffer.put_bytes(0, BASE_BYTES);
    };
    assert!(
        base.snapshot.0 > 0 && (1..=LBA_END_MAX).contains(&base.blocks),
        "a base is a snapshot of some size"
    );
    for field in [base.group.0, base.snapshot.0, base.blocks] {
        buffer.put_u64_le(field);
    }
}

pub(crate) fn take_base(reader: &mut Reader<'_>) -> Result<Option<Base>, FormatError> {
    let base = Base {
        group: GroupId(reader.u64("volume of the base")?),
        snapshot: SnapshotId(reader.u64("snapshot of the base")?),
        blocks: reader.u64("size of the base")?,
    };
    match base {
        Base {
            group: GroupId(0),
            snapshot: SnapshotId(0),
            blocks: 0,
        } => Ok(None),
        Base { blocks, .. } if blocks == 0 || blocks > LBA_END_MAX => {
            Err(reader.out_of_range("size of the base", blocks, "1 to 2^51 blocks"))
        }
        Base {
            snapshot: SnapshotId(0),
            ..
        } => Err(reader.out_of_range("snapshot of the base", 0, "at least 1")),
        base => Ok(Some(base)),
    }
}
