//! What a start takes: recovery from a checkpoint of maps of many blocks, and of many volumes, and the memory they need.
//!
//! The maps are made by writing, then the disk is saved, and a process of its own loads and starts it: so its memory is that of a
//! start, not of what was there before.

use std::collections::VecDeque;
use std::path::Path;
use std::process::{Command as Process, Stdio};

use cairn_api::block::BlockOp;
use cairn_api::ids::GroupId;
use cairn_core::config::{Limits, SpaceSettings};
use cairn_core::event::DeviceId;
use cairn_format::superblock::Geometry;
use serde_json::{Value, json};

use crate::disk::MemoryDisk;
use crate::solo::{DiskModel, Solo};
use crate::space::fill;

const BLOCK: u64 = 4096;
const SEGMENT_BYTES: u64 = 64 << 20;
/// Requests under way.
const DEPTH: usize = 64;
/// Each so many blocks of a volume are written in an order that joins none of them.
const SHUFFLED: u64 = 1 << 16;
/// Odd, so that it takes each of a power of two of numbers to another.
const STRIDE: u64 = 40_503;
/// Data of each of many volumes.
const SMALL_BLOCKS: u64 = 16;

/// How blocks lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Written in order, 1 MiB at a time: on the disk as in the volume.
    Sequential,
    /// Written one by one in no order: each block is somewhere else.
    Scattered,
}

impl Layout {
    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Scattered => "scattered",
        }
    }
}

/// Little of the log stays behind a checkpoint, so that it is the map that is read.
fn limits() -> Limits {
    Limits {
        space: SpaceSettings {
            window_segments_max: Some(4),
            free_segments_low: None,
        },
        ..Limits::default()
    }
}

/// A disk for so many blocks.
fn geometry(blocks: u64) -> Geometry {
    let bytes = (blocks * BLOCK / 2 * 3).max(64 << 30);
    Geometry::for_device(bytes, SEGMENT_BYTES).expect("a valid layout")
}

/// Starts of one volume that grows, at so many blocks each: gives the figures of each to `row`.
pub fn grow(layout: Layout, points: &[u64], dir: &Path, mut row: impl FnMut(Value)) {
    let largest = points.iter().copied().max().unwrap_or(0).next_multiple_of(SHUFFLED);
    let mut solo = Solo::new(geometry(largest), limits(), DiskModel::INSTANT);
    solo.create_volume(GroupId(2), largest);
    let device = solo.open(GroupId(2), largest);
    let mut have = 0;
    for point in points {
        match layout {
            Layout::Sequential => fill(&mut solo, device, have..*point),
            Layout::Scattered => scatter(&mut solo, device, have..*point),
        }
        have = *point;
        let mut figures = start(&mut solo, largest, dir);
        figures["layout"] = json!(layout.name());
        figures["blocks"] = json!(point);
        row(figures);
    }
}

/// The start of a disk with so many volumes, each of some data.
pub fn volumes(count: u64, dir: &Path) -> Value {
    let mut solo = Solo::new(geometry(0), limits(), DiskModel::INSTANT);
    let data = solo
        .payload()
        .of(usize::try_from(SMALL_BLOCKS * BLOCK).expect("a short write"));
    for number in 0..count {
        let (group, size_blocks) = (GroupId(2 + number), 1 << 18);
        solo.create_volume(group, size_blocks);
        let device = solo.open(group, size_blocks);
        let op = BlockOp::Write {
            offset: 0,
            data: data.clone(),
        };
        solo.submit(device, op);
        solo.take();
        solo.close(device);
    }
    let mut figures = start(&mut solo, 0, dir);
    figures["volumes"] = json!(count);
    figures["blocks"] = json!(count * SMALL_BLOCKS);
    figures
}

/// Writes blocks one by one, each once, in an order that joins none of them.
fn scatter(solo: &mut Solo, device: DeviceId, blocks: std::ops::Range<u64>) {
    let data = solo.payload().of(usize::try_from(BLOCK).expect("a block"));
    let mut under_way = 0;
    for number in blocks {
        let (first, place) = (number / SHUFFLED * SHUFFLED, number % SHUFFLED);
        let offset = (first + place * STRIDE % SHUFFLED) * BLOCK;
        let data = data.clone();
        solo.submit(device, BlockOp::Write { offset, data });
        under_way += 1;
        while under_way == DEPTH {
            solo.take();
            under_way -= 1;
            while solo.take_if_any().is_some() {
                under_way -= 1;
            }
        }
    }
    for _ in 0..under_way {
        solo.take();
    }
}

/// Makes a checkpoint, and starts the disk in a process of its own.
fn start(solo: &mut Solo, sized_for: u64, dir: &Path) -> Value {
    // The first lets the log begin later, the second may then leave the rest of it behind.
    solo.checkpoint();
    solo.checkpoint();
    let path = dir.join("disk");
    solo.disk().save(&path);
    let program = std::env::current_exe().expect("the path of this program");
    let child = Process::new(program)
        .arg("start")
        .arg(&path)
        .arg(sized_for.to_string())
        .stderr(Stdio::inherit())
        .output()
        .expect("a process");
    assert!(child.status.success(), "the start failed: {}", child.status);
    std::fs::remove_file(&path).expect("a file to be removed");
    serde_json::from_slice(&child.stdout).expect("figures")
}

/// Starts a saved disk, which was made for so many blocks, and says what that took.
pub fn started(path: &Path, sized_for: u64) -> Value {
    let disk = MemoryDisk::load(path, geometry(sized_for));
    let before = resident_bytes();
    let (solo, recovery) = Solo::on(disk, limits(), DiskModel::INSTANT);
    let after = resident_bytes();
    let numbers: VecDeque<GroupId> = recovery.summary.groups.iter().copied().collect();
    let maps = numbers.iter().filter_map(|group| solo.core().map(*group));
    let (mut mapped, mut map_bytes) = (0, 0);
    for map in maps {
        mapped += map.allocated_blocks();
        map_bytes += map.memory_bytes();
    }
    json!({
        "seconds": (recovery.took.as_secs_f64() * 1000.0).round() / 1000.0, "read_bytes": recovery.read_bytes,
        "frames": recovery.summary.frames, "mapped": mapped, "map_bytes": map_bytes,
        "resident_bytes": after.saturating_sub(before),
    })
}

/// What Linux counts as resident of this process.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.expect("VmRSS in kB") * 1024
}
