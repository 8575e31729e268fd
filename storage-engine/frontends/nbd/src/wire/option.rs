//! What a client sends while it negotiates.

use super::reader::Reader;
use super::{BadMagic, OPTION_MAGIC, allocation, client_flag, info};
use crate::limits::STRING_BYTES_MAX;

/// The client's answer to the greeting ("Client flags").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClientFlags {
    /// The client speaks fixed newstyle.
    pub fixed_newstyle: bool,
    /// The client does not want the zeros after `NBD_OPT_EXPORT_NAME`.
    pub no_zeroes: bool,
}

impl ClientFlags {
    /// Length of the message in bytes.
    pub const BYTES: usize = 4;

    /// Decodes the flags.
    ///
    /// # Errors
    /// The word itself, if it has a flag that was not offered: the connection must then be dropped.
    pub const fn decode(bytes: [u8; Self::BYTES]) -> Result<Self, u32> {
        let word = u32::from_be_bytes(bytes);
        if word & !(client_flag::FIXED_NEWSTYLE | client_flag::NO_ZEROES) != 0 {
            return Err(word);
        }
        Ok(Self {
            fixed_newstyle: word & client_flag::FIXED_NEWSTYLE != 0,
            no_zeroes: word & client_flag::NO_ZEROES != 0,
        })
    }
}

/// What precedes an option's data ("Newstyle negotiation").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OptionHeader {
    /// The option's number, known or not.
    pub option: u32,
    /// Bytes of data that follow.
    pub length: u32,
}

impl OptionHeader {
    /// Length of the header in bytes.
    pub const BYTES: usize = 16;

    /// Decodes a header.
    ///
    /// # Errors
    /// If it does not begin with [`OPTION_MAGIC`].
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, BadMagic> {
        let [m0, m1, m2, m3, m4, m5, m6, m7, o0, o1, o2, o3, l0, l1, l2, l3] = *bytes;
        let found = u64::from_be_bytes([m0, m1, m2, m3, m4, m5, m6, m7]);
        if found != OPTION_MAGIC {
            return Err(BadMagic {
                expected: OPTION_MAGIC,
                found,
            });
        }
        Ok(Self {
            option: u32::from_be_bytes([o0, o1, o2, o3]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }
}

/// Why an option's data was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OptionDataError {
    /// The data does not have the option's form: `NBD_REP_ERR_INVALID`.
    #[error("{0}")]
    Invalid(&'static str),
    /// A string is longer than the document allows: `NBD_REP_ERR_TOO_BIG`.
    #[error("{0}")]
    TooBig(&'static str),
}

const NAME_CUT: OptionDataError = OptionDataError::Invalid("the data ends inside the export name");
const QUERY_CUT: OptionDataError = OptionDataError::Invalid("the data ends inside the list of queries");

/// The information types that a client asked for; those this server does not know are ignored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct InfoRequests {
    /// `NBD_INFO_NAME`.
    pub name: bool,
    /// `NBD_INFO_DESCRIPTION`.
    pub description: bool,
    /// `NBD_INFO_BLOCK_SIZE`.
    pub block_size: bool,
}

/// Data of `NBD_OPT_INFO` and `NBD_OPT_GO`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportRequest {
    /// The export's name; empty for the default export.
    pub name: String,
    /// The information wanted beside `NBD_INFO_EXPORT`.
    pub info: InfoRequests,
}

impl ExportRequest {
    /// Decodes an option's data.
    ///
    /// # Errors
    /// If the lengths in it do not add up, or the name is not a string of the protocol.
    pub fn decode(data: &[u8]) -> Result<Self, OptionDataError> {
        let mut reader = Reader(data);
        let name = counted_string(&mut reader, NAME_CUT)?;
        let cut = OptionDataError::Invalid("the data ends inside the list of information requests");
        let count = reader.u16().ok_or(cut)?;
        let mut wanted = InfoRequests::default();
        for _ in 0..count {
            match reader.u16().ok_or(cut)? {
                info::NAME => wanted.name = true,
                info::DESCRIPTION => wanted.description = true,
                info::BLOCK_SIZE => wanted.block_size = true,
                _ => {}
            }
        }
        if !reader.is_empty() {
            return Err(OptionDataError::Invalid(
                "data follows the list of information requests",
            ));
        }
        Ok(Self { name, info: wanted })
    }
}

/// What the queries of a metadata context option come to, given the contexts that this server has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ContextQueries {
    /// Queries given.
    pub count: u32,
    /// Whether `base:` is among them.
    pub wildcard: bool,
    /// Whether `base:allocation` is among them.
    pub allocation: bool,
}

impl ContextQueries {
    /// Whether `NBD_OPT_LIST_META_CONTEXT` lists `base:allocation`: no query asks for everything.
    pub const fn lists_allocation(self) -> bool {
        self.count == 0 || self.wildcard || self.allocation
    }

    /// Whether `NBD_OPT_SET_META_CONTEXT` selects `base:allocation`: only its exact name does.
    pub const fn selects_allocation(self) -> bool {
        self.allocation
    }
}

/// Data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ContextRequest {
    /// The export's name.
    pub name: String,
    /// The queries, matched already.
    pub queries: ContextQueries,
}

impl ContextRequest {
    /// Decodes an option's data.
    ///
    /// # Errors
    /// If the lengths in it do not add up, a string is not one of the protocol, or a query lacks its namespace.
    pub fn decode(data: &[u8]) -> Result<Self, OptionDataError> {
        let mut reader = Reader(data);
        let name = counted_string(&mut reader, NAME_CUT)?;
        let count = reader.u32().ok_or(QUERY_CUT)?;
        let mut queries = ContextQueries {
            count,
            ..ContextQueries::default()
        };
        // Each query takes at least 4 bytes of the data, which ends the loop whatever the count says.
        for _ in 0..count {
            let length = reader.u32().ok_or(QUERY_CUT)?;
            let query = string(reader.bytes(length).ok_or(QUERY_CUT)?)?;
            match query {
                allocation::NAME => queries.allocation = true,
                allocation::WILDCARD => queries.wildcard = true,
                other if other.contains(':') => {}
                _ => {
                    return Err(OptionDataError::Invalid(
                        "a query has no namespace: write it as namespace:name",
                    ));
                }
            }
        }
        if !reader.is_empty() {
            return Err(OptionDataError::Invalid("data follows the list of queries"));
        }
        Ok(Self { name, queries })
    }
}

/// A string behind its 32-bit length.
fn counted_string(reader: &mut Reader<'_>, cut: OptionDataError) -> Result<String, OptionDataError> {
    let length = reader.u32().ok_or(cut)?;
    string(reader.bytes(length).ok_or(cut)?).map(str::to_owned)
}

/// A string as section "Conventions" allows it: UTF-8, without NUL, at most 4,096 bytes.
pub(crate) fn string(bytes: &[u8]) -> Result<&str, OptionDataError> {
    if bytes.len() > STRING_BYTES_MAX {
        return Err(OptionDataError::TooBig("a string is longer than 4096 bytes"));
    }
    if bytes.contains(&0) {
        return Err(OptionDataError::Invalid("a string contains a NUL byte"));
    }
    str::from_utf8(bytes).map_err(|_| OptionDataError::Invalid("a string is not UTF-8"))
}
