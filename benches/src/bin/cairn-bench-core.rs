//! Measures a core on a disk in memory: `cargo xtask bench --suite data` runs it and shows what it prints, an object of
//! JSON a line.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark stops at the first thing that is not as it must be"
)]

use std::path::Path;

use cairn_benches::map::{self, Layout};
use cairn_benches::pattern::Pattern;
use cairn_benches::snapshots;
use cairn_benches::space::{self, Case};

const USAGE: &str = "one of\n  space PATTERN FILL_PERCENT WRITE_BYTES\n  map sequential|scattered BLOCKS,... DIR\n  \
                     volumes COUNT DIR\n  snapshots SIZE_BYTES\n  start FILE BLOCKS";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let show = |figures| println!("{figures}");
    match words.as_slice() {
        ["space", pattern, fill_percent, write_bytes] => {
            let pattern = Pattern::ALL.into_iter().find(|known| known.name() == *pattern);
            let case = Case {
                fill_percent: number(fill_percent),
                pattern: pattern.expect("uniform, zipf or sequential"),
                write_bytes: number(write_bytes),
            };
            show(space::amplification(&case));
        }
        ["map", layout, points, dir] => {
            let layouts = [Layout::Sequential, Layout::Scattered];
            let layout = layouts.into_iter().find(|known| known.name() == *layout);
            let points: Vec<u64> = points.split(',').map(number).collect();
            map::grow(layout.expect("sequential or scattered"), &points, Path::new(dir), show);
        }
        ["volumes", count, dir] => show(map::volumes(number(count), Path::new(dir))),
        ["snapshots", size_bytes] => snapshots::snapshots(number(size_bytes), show),
        ["start", file, blocks] => show(map::started(Path::new(file), number(blocks))),
        _ => panic!("{USAGE}"),
    }
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("{word} is no number\n{USAGE}"))
}
