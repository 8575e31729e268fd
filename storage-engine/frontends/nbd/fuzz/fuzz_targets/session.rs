//! Feeds a session whatever libFuzzer comes up with, from the greeting on or from inside the transmission phase.
#![no_main]

#[allow(dead_code, unreachable_pub, missing_docs, reason = "shared with the crate's tests, of which this is one more")]
#[path = "../../tests/common/chaos.rs"]
mod chaos;
#[allow(dead_code, unreachable_pub, missing_docs, reason = "shared with the crate's tests, of which this is one more")]
#[path = "../../tests/common/device.rs"]
mod device;

use cairn_nbd::TlsPolicy;
use cairn_nbd::wire::{OPTION_MAGIC, option_code};
use chaos::{Chaos, Driver};
use libfuzzer_sys::fuzz_target;

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    [&OPTION_MAGIC.to_be_bytes()[..], &option.to_be_bytes(), &length.to_be_bytes(), data].concat()
}

/// What precedes the input: nothing, the client's flags, or a negotiation that ends in one of the three dialects.
fn prefix(kind: u8) -> Vec<u8> {
    let style = match kind % 5 {
        0 => return Vec::new(),
        1 => return vec![0, 0, 0, 3],
        2 => Vec::new(),
        3 => option(option_code::STRUCTURED_REPLY, &[]),
        _ => option(option_code::EXTENDED_HEADERS, &[]),
    };
    let contexts = option(option_code::SET_META_CONTEXT, b"\0\0\0\x04disk\0\0\0\x01\0\0\0\x0fbase:allocation");
    [vec![0, 0, 0, 3], style, contexts, option(option_code::GO, b"\0\0\0\x04disk\0\0")].concat()
}

fuzz_target!(|input: &[u8]| {
    let Some(([kind, hold, a, b, c, d], input)) = input.split_first_chunk::<6>() else { return };
    let driver = Driver { pieces: [*a, *b, *c, *d], hold: usize::from(hold % 16), reverse: hold & 16 != 0 };
    Chaos::new(TlsPolicy::Off, driver).run(&[&prefix(*kind), input].concat());
});
