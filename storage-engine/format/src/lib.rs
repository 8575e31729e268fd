//! The bytes on disk and on the peer wire: typed encode and decode over byte slices, with CRC32C. No I/O.
//!
//! Every decoder bounds and checks each field before it uses it, allocates only what the bytes at hand can justify,
//! and names the field that is wrong. All integers are little-endian.
#![forbid(unsafe_code)]

pub mod anchor;
pub mod base;
pub mod checksum;
pub mod chunk;
pub mod entry;
pub mod error;
pub mod frame;
pub mod member;
pub mod moved;
pub mod page;
pub mod peer;
pub mod portion;
mod sealed_block;
pub mod segment;
pub mod superblock;
pub mod table;
pub mod volume_state;
mod wire;
