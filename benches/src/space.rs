//! What collection costs: bytes written to the disk for each byte that clients write, when the disk has come to rest.

use std::collections::BTreeMap;

use cairn_api::block::{BlockOp, Tag};
use cairn_api::ids::GroupId;
use cairn_core::config::Limits;
use cairn_core::event::DeviceId;
use cairn_format::superblock::Geometry;
use serde_json::{Value, json};

use crate::disk::Written;
use crate::pattern::{Pattern, Places};
use crate::solo::{DiskModel, Solo};

const VOLUME: GroupId = GroupId(2);
const BLOCK: u64 = 4096;
const FILL_BLOCKS: u64 = 256;
/// The disk: 255 segments.
const DISK_BYTES: u64 = 1 << 30;
const SEGMENT_BYTES: u64 = 4 << 20;
const SEED: u64 = 7;
/// Requests that come at once, and share a frame and its header.
const DEPTH: u64 = 32;
/// What clients write: little enough that the disk is never the limit, so that what collection does is as it was meant.
const BYTES_PER_S: u64 = 64 << 20;
/// Of the disk's capacity, what is overwritten before it is measured, and what is while it is measured.
const WARM_UP: u64 = 3;
const MEASURED: u64 = 1;

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Live blocks, in hundredths of the disk's capacity.
    pub fill_percent: u64,
    /// Where clients write.
    pub pattern: Pattern,
    /// Bytes of each write.
    pub write_bytes: u64,
}

/// What one measurement came to.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    client_bytes: u64,
    written: Written,
    /// The same in the stretch before: the nearer, the steadier.
    total_before: f64,
    checkpoints: u64,
    segments_emptied: u64,
    blocks_moved: u64,
    p50_us: f64,
    p99_us: f64,
}

/// A load that writes [`DEPTH`] places at once at its pace, and how long each write took.
struct Load {
    device: DeviceId,
    places: Places,
    write_bytes: u64,
    under_way: BTreeMap<Tag, u64>,
    latencies: Vec<u64>,
}

impl Load {
    fn write(&mut self, solo: &mut Solo, bytes: u64) {
        let payload = solo.payload();
        let length = usize::try_from(self.write_bytes).expect("a short write");
        let batch_bytes = self.write_bytes * DEPTH;
        self.latencies.clear();
        let mut next_at = solo.now();
        for _ in 0..bytes / batch_bytes {
            for _ in 0..DEPTH {
                let offset = self.places.next_place() * self.write_bytes;
                let data = payload.of(length);
                let tag = solo.submit(self.device, BlockOp::Write { offset, data });
                self.under_way.insert(tag, next_at);
            }
            next_at += batch_bytes * 1_000_000_000 / BYTES_PER_S;
            while !self.under_way.is_empty() {
                let ended = solo.take();
                let since = self.under_way.remove(&ended).expect("a write that was begun");
                self.latencies.push(solo.now() - since);
            }
            solo.rest_until(next_at);
        }
    }

    fn percentile_us(&mut self, permille: usize) -> f64 {
        self.latencies.sort_unstable();
        let place = (self.latencies.len() * permille / 1000).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(place).map_or(0.0, |nanos| *nanos as f64 / 1000.0)
    }
}

fn measure(case: &Case) -> Outcome {
    let geometry = Geometry::for_device(DISK_BYTES, SEGMENT_BYTES).expect("a valid layout");
    let mut solo = Solo::new(geometry, Limits::default(), DiskModel::FLASH);
    let capacity = solo.space().capacity_blocks;
    let unit = case.write_bytes / BLOCK;
    let size_blocks = capacity * case.fill_percent / 100 / unit * unit;
    let mut load = begin(&mut solo, case, size_blocks);
    let stretch = capacity * BLOCK;
    load.write(&mut solo, stretch * (WARM_UP - 1));
    let before = solo.disk().written();
    load.write(&mut solo, stretch);
    let (middle, work) = (solo.disk().written(), solo.work());
    load.write(&mut solo, stretch * MEASURED);
    let (written, now) = (solo.disk().written().since(&middle), solo.work());
    Outcome {
        client_bytes: stretch * MEASURED / (case.write_bytes * DEPTH) * (case.write_bytes * DEPTH),
        written,
        total_before: middle.since(&before).total() as f64 / stretch as f64,
        checkpoints: now.checkpoints - work.checkpoints,
        segments_emptied: now.segments_emptied - work.segments_emptied,
        blocks_moved: now.blocks_moved - work.blocks_moved,
        p50_us: load.percentile_us(500),
        p99_us: load.percentile_us(990),
    }
}

/// A volume of this size, all of it written once.
fn begin(solo: &mut Solo, case: &Case, size_blocks: u64) -> Load {
    solo.create_volume(VOLUME, size_blocks);
    let device = solo.open(VOLUME, size_blocks);
    fill(solo, device, 0..size_blocks);
    Load {
        device,
        places: Places::new(case.pattern, size_blocks * BLOCK / case.write_bytes, SEED),
        write_bytes: case.write_bytes,
        under_way: BTreeMap::new(),
        latencies: Vec::new(),
    }
}

/// Writes these blocks of a volume in order.
pub(crate) fn fill(solo: &mut Solo, device: DeviceId, blocks: std::ops::Range<u64>) {
    let payload = solo.payload();
    let mut next = blocks.start;
    let mut under_way = 0;
    while next < blocks.end || under_way > 0 {
        while next < blocks.end && under_way < 8 {
            let count = FILL_BLOCKS.min(blocks.end - next);
            let data = payload.of(usize::try_from(count * BLOCK).expect("a short write"));
            let offset = next * BLOCK;
            solo.submit(device, BlockOp::Write { offset, data });
            next += count;
            under_way += 1;
        }
        solo.take();
        under_way -= 1;
    }
}

/// Measures one case; an object of its figures.
pub fn amplification(case: &Case) -> Value {
    let outcome = measure(case);
    let share = |bytes: u64| rounded(bytes as f64 / outcome.client_bytes as f64);
    let written = &outcome.written;
    let segment_blocks = (SEGMENT_BYTES / BLOCK - 1) as f64;
    json!({
        "fill_percent": case.fill_percent, "pattern": case.pattern.name(), "write_bytes": case.write_bytes,
        "disk_bytes": DISK_BYTES, "client_bytes": outcome.client_bytes,
        "amplification": share(written.total()), "amplification_before": rounded(outcome.total_before),
        "payload": share(written.payload), "headers": share(written.headers), "moved": share(written.moved),
        "checkpoints": share(written.checkpoints), "checkpoints_count": outcome.checkpoints,
        "victims_live": rounded(outcome.blocks_moved as f64 / (outcome.segments_emptied as f64 * segment_blocks).max(1.0)),
        "p50_us": rounded(outcome.p50_us), "p99_us": rounded(outcome.p99_us),
    })
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
