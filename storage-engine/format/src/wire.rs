//! The reader behind every decoder: takes fields one by one and names the one that is missing.

use cairn_api::ids::{ClusterId, DiskId, NodeId};

use crate::error::FormatError;

/// A cursor over the bytes of one structure.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    structure: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(structure: &'static str, bytes: &'a [u8]) -> Self {
        Self {
            structure,
            bytes,
            at: 0,
        }
    }

    /// Bytes taken so far.
    pub(crate) const fn position(&self) -> usize {
        self.at
    }

    pub(crate) const fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(crate) fn take(&mut self, field: &'static str, count: usize) -> Result<&'a [u8], FormatError> {
        let available = self.remaining();
        if count > available {
            return Err(FormatError::Truncated {
                structure: self.structure,
                field,
                needed: count,
                available,
            });
        }
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], FormatError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(field, N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, FormatError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, FormatError> {
        self.array(field).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, FormatError> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, FormatError> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// A number of 48 bits.
    pub(crate) fn u48(&mut self, field: &'static str) -> Result<u64, FormatError> {
        let mut bytes = [0; 8];
        bytes[..6].copy_from_slice(self.take(field, 6)?);
        Ok(u64::from_le_bytes(bytes))
    }

    pub(crate) fn cluster(&mut self, field: &'static str) -> Result<ClusterId, FormatError> {
        self.array(field).map(ClusterId::from_bytes)
    }

    pub(crate) fn node(&mut self, field: &'static str) -> Result<NodeId, FormatError> {
        self.array(field).map(NodeId::from_bytes)
    }

    pub(crate) fn disk(&mut self, field: &'static str) -> Result<DiskId, FormatError> {
        self.array(field).map(DiskId::from_bytes)
    }

    /// A flag byte: 0 or 1 and nothing else.
    pub(crate) fn bool(&mut self, field: &'static str) -> Result<bool, FormatError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(self.out_of_range(field, u64::from(found), "0 or 1")),
        }
    }

    /// Checks the magic number that starts a structure.
    pub(crate) fn magic(&mut self, expected: u64) -> Result<(), FormatError> {
        let found = self.u64("magic")?;
        if found == expected {
            Ok(())
        } else {
            Err(FormatError::Magic {
                structure: self.structure,
                found,
                expected,
            })
        }
    }

    /// Checks the version of a structure.
    pub(crate) fn version(&mut self, supported: u16) -> Result<(), FormatError> {
        let found = self.u16("version")?;
        if found == supported {
            Ok(())
        } else {
            Err(FormatError::Version {
                structure: self.structure,
                found,
                supported,
            })
        }
    }

    /// A 16-bit field of flags, of which none has a meaning yet.
    pub(crate) fn no_flags(&mut self) -> Result<(), FormatError> {
        match self.u16("flags")? {
            0 => Ok(()),
            found => Err(FormatError::Unknown {
                structure: self.structure,
                field: "flags",
                found: u64::from(found),
                known: "none",
            }),
        }
    }

    /// Bytes that are reserved: room for later fields, zero until then.
    pub(crate) fn reserved(&mut self, count: usize) -> Result<(), FormatError> {
        match self.take("reserved", count)?.iter().find(|byte| **byte != 0) {
            None => Ok(()),
            Some(found) => Err(FormatError::Unknown {
                structure: self.structure,
                field: "reserved byte",
                found: u64::from(*found),
                known: "0",
            }),
        }
    }

    /// Everything must have been taken.
    pub(crate) fn end(&self) -> Result<(), FormatError> {
        match self.remaining() {
            0 => Ok(()),
            excess => Err(FormatError::Excess {
                structure: self.structure,
                excess,
            }),
        }
    }

    pub(crate) const fn out_of_range(&self, field: &'static str, found: u64, expected: &'static str) -> FormatError {
        FormatError::OutOfRange {
            structure: self.structure,
            field,
            found,
            expected,
        }
    }

    pub(crate) const fn unknown(&self, field: &'static str, found: u64, known: &'static str) -> FormatError {
        FormatError::Unknown {
            structure: self.structure,
            field,
            found,
            known,
        }
    }

    pub(crate) const fn contradiction(
        &self,
        field: &'static str,
        found: u64,
        other: &'static str,
        expected: u64,
    ) -> FormatError {
        FormatError::Contradiction {
            structure: self.structure,
            field,
            found,
            other,
            expected,
        }
    }
}
