//! Why bytes could not be decoded: which structure, which field, what was found and what was expected.

use crate::checksum::BlockMismatch;

/// A decoding error. None of them says anything about the medium the bytes came from: the caller knows that.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FormatError {
    /// The bytes end inside a field.
    #[error("{structure}: {field} needs {needed} bytes, {available} are left")]
    Truncated {
        /// What was being decoded.
        structure: &'static str,
        /// Which field.
        field: &'static str,
        /// Bytes the field needs.
        needed: usize,
        /// Bytes that were left.
        available: usize,
    },
    /// Something follows where the structure should have ended.
    #[error("{structure}: {excess} bytes follow its end")]
    Excess {
        /// What was being decoded.
        structure: &'static str,
        /// How many.
        excess: usize,
    },
    /// The bytes are not this structure at all.
    #[error("{structure}: the magic number is {found:#018x}, expected {expected:#018x}")]
    Magic {
        /// What was being decoded.
        structure: &'static str,
        /// What the bytes start with.
        found: u64,
        /// What they should start with.
        expected: u64,
    },
    /// The structure is of a version that this build does not know.
    #[error("{structure}: version {found}, but this build reads version {supported}: use a build that knows it")]
    Version {
        /// What was being decoded.
        structure: &'static str,
        /// The version found.
        found: u16,
        /// The version this build reads.
        supported: u16,
    },
    /// The bytes were changed after they were written.
    #[error("{structure}: the checksum of {part} is {found:#010x}, its bytes give {computed:#010x}")]
    Checksum {
        /// What was being decoded.
        structure: &'static str,
        /// Which part of it the checksum covers.
        part: &'static str,
        /// The checksum that was stored.
        found: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// A number outside its bounds.
    #[error("{structure}: {field} is {found}, expected {expected}")]
    OutOfRange {
        /// What was being decoded.
        structure: &'static str,
        /// Which field.
        field: &'static str,
        /// The value found.
        found: u64,
        /// The bounds, in words.
        expected: &'static str,
    },
    /// A code that this build gives no meaning.
    #[error("{structure}: {field} {found} is unknown, known are {known}")]
    Unknown {
        /// What was being decoded.
        structure: &'static str,
        /// Which field.
        field: &'static str,
        /// The code found.
        found: u64,
        /// The codes this build knows, in words.
        known: &'static str,
    },
    /// Two fields that contradict each other.
    #[error("{structure}: {field} is {found}, but {other} makes it {expected}")]
    Contradiction {
        /// What was being decoded.
        structure: &'static str,
        /// Which field.
        field: &'static str,
        /// Its value.
        found: u64,
        /// What it contradicts.
        other: &'static str,
        /// What the other makes it.
        expected: u64,
    },
    /// A text that is not UTF-8.
    #[error("{structure}: {field} is not UTF-8 text")]
    Text {
        /// What was being decoded.
        structure: &'static str,
        /// Which field.
        field: &'static str,
    },
    /// A payload that does not match its checksums.
    #[error("{structure}: payload {mismatch}")]
    Payload {
        /// What was being decoded.
        structure: &'static str,
        /// Which block, and how.
        mismatch: BlockMismatch,
    },
}

impl FormatError {
    /// Whether the bytes are whole and intact, but say something that this build does not understand. Such bytes were
    /// written on purpose: they must never be taken for a torn write.
    pub const fn is_newer(&self) -> bool {
        matches!(self, Self::Version { .. } | Self::Unknown { .. })
    }
}
