//! Units: block addresses and byte counts.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The block: the unit of the map, of checksums and of atomic writes, in bytes.
pub const BLOCK_SIZE: u32 = 4096;
/// [`BLOCK_SIZE`] as `u64`, for arithmetic on offsets.
pub const BLOCK_BYTES: u64 = BLOCK_SIZE as u64;

/// A block address within a volume, in units of [`BLOCK_SIZE`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lba(pub u64);

impl Lba {
    /// The byte offset of the block within its volume.
    pub const fn offset_bytes(self) -> u64 {
        self.0 * BLOCK_BYTES
    }

    /// The block `count` further on.
    #[must_use]
    pub const fn advance(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

impl fmt::Display for Lba {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}", self.0)
    }
}

/// A number of bytes. Parses `4096`, `4KiB`, `8GiB`, `1TiB` (powers of 1024) and `8GB` (powers of 1000).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

/// Why a size could not be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{text}' is not a size: write a whole number and a unit, such as 4096, 64MiB, 8GiB or 1TB")]
pub struct ParseSizeError {
    /// What was given.
    pub text: String,
}

const BINARY_UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
const DECIMAL_UNITS: [(&str, u64); 4] = [
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
];

impl FromStr for ByteSize {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseSizeError { text: text.to_owned() };
        let trimmed = text.trim();
        let (digits, unit_bytes) = BINARY_UNITS
            .iter()
            .chain(&DECIMAL_UNITS)
            .find_map(|(unit, bytes)| trimmed.strip_suffix(unit).map(|rest| (rest, *bytes)))
            .unwrap_or((trimmed.strip_suffix('B').unwrap_or(trimmed), 1));
        let count: u64 = digits.trim().parse().map_err(|_| refuse())?;
        count.checked_mul(unit_bytes).map(Self).ok_or_else(refuse)
    }
}

impl fmt::Display for ByteSize {
    /// The largest binary unit that leaves at least one whole unit, with one decimal where it is not exact.
    #[allow(clippy::cast_precision_loss)]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, bytes) in BINARY_UNITS {
            if self.0 >= bytes {
                return if self.0.is_multiple_of(bytes) {
                    write!(f, "{} {unit}", self.0 / bytes)
                } else {
                    write!(f, "{:.1} {unit}", self.0 as f64 / bytes as f64)
                };
            }
        }
        write!(f, "{} B", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_in_every_unit() {
        for (text, bytes) in [
            ("4096", 4096),
            ("4KiB", 4096),
            ("8 GiB", 8 << 30),
            ("1TB", 1_000_000_000_000),
            ("7B", 7),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn a_size_that_cannot_be_read_is_named() {
        for text in ["", "GiB", "-1", "1.5GiB", "9999999999TiB", "4kib"] {
            let error = text.parse::<ByteSize>().unwrap_err();
            assert_eq!(error.text, text);
        }
    }

    #[test]
    fn sizes_print_in_the_unit_a_person_would_choose() {
        assert_eq!(ByteSize(1 << 30).to_string(), "1 GiB");
        assert_eq!(ByteSize(3 << 29).to_string(), "1.5 GiB");
        assert_eq!(ByteSize(12).to_string(), "12 B");
    }
}
