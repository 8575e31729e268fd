//! The entry header, which has no checksum of its own.
#![no_main]

use cairn_format::entry::{BlockCrcs, EntryHeader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let header = EntryHeader::decode(data);
    if !data.is_empty() {
        let count = BlockCrcs::of_header(data).map(|crcs| crcs.count());
        assert_eq!(count, header.as_ref().map(EntryHeader::payload_blocks).map_err(Clone::clone));
    }
    if let Ok(header) = header {
        assert_eq!(&header.encode()[..], data);
    }
});
