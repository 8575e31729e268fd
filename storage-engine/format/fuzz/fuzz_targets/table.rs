//! The table of a checkpoint, which has no checksum of its own: its chunks have.
#![no_main]

use bytes::Bytes;
use cairn_format::member::MEMBERS_MAX;
use cairn_format::table::Table;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(table) = Table::decode(&Bytes::copy_from_slice(data)) else {
        return;
    };
    // The encoder takes no more members than a group may have.
    let is_encodable = table.groups.iter().all(|group| {
        let lists = [&group.created_members, &group.voters, &group.learners];
        lists.iter().all(|members| members.len() <= MEMBERS_MAX)
    });
    if is_encodable {
        assert_eq!(&table.encode()[..], data);
    }
});
