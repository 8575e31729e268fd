//! What snapshots cost the core: made and deleted on small and large volumes, with none and with as many as there may be.

use std::time::Duration;

use cairn_api::block::BlockOp;
use cairn_api::ids::{GroupId, SnapshotId};
use cairn_core::SNAPSHOTS_MAX;
use cairn_core::config::Limits;
use cairn_core::event::{Command, DeviceId};
use cairn_format::superblock::Geometry;
use serde_json::{Value, json};

use crate::pattern::Random;
use crate::solo::{DiskModel, Solo};

const VOLUME: GroupId = GroupId(2);
const BLOCK: u64 = 4096;
/// Blocks with data, spread over the volume.
const WRITTEN: u64 = 1 << 16;
/// Of those, overwritten after each snapshot.
const OVERWRITTEN: u64 = 64;
/// Creations that are measured, and deletions.
const SAMPLES: u64 = 50;

/// A thin volume with snapshots.
struct Subject {
    solo: Solo,
    device: DeviceId,
    step: u64,
    random: Random,
    last: u64,
}

impl Subject {
    fn new(size_bytes: u64) -> Self {
        let geometry = Geometry::for_device(32 << 30, 64 << 20).expect("a valid layout");
        let mut solo = Solo::new(geometry, Limits::default(), DiskModel::INSTANT);
        let size_blocks = size_bytes / BLOCK;
        solo.create_volume(VOLUME, size_blocks);
        let device = solo.open(VOLUME, size_blocks);
        let mut subject = Self {
            solo,
            device,
            step: size_blocks / WRITTEN,
            random: Random::new(3),
            last: 0,
        };
        (0..WRITTEN).for_each(|place| subject.write(place));
        subject
    }

    fn write(&mut self, place: u64) {
        let data = self.solo.payload().of(usize::try_from(BLOCK).expect("a block"));
        let offset = place * self.step * BLOCK;
        self.solo.submit(self.device, BlockOp::Write { offset, data });
        self.solo.take();
    }

    /// Makes a snapshot, and overwrites some of the volume.
    fn create(&mut self) -> Duration {
        self.last += 1;
        let command = Command::CreateSnapshot {
            group: VOLUME,
            snapshot: SnapshotId(self.last),
        };
        let (_, took) = self.solo.ask_timed(command);
        for _ in 0..OVERWRITTEN {
            let place = self.random.below(WRITTEN);
            self.write(place);
        }
        took
    }

    fn delete(&mut self, snapshot: u64) -> Duration {
        let command = Command::DeleteSnapshot {
            group: VOLUME,
            snapshot: SnapshotId(snapshot),
        };
        self.solo.ask_timed(command).1
    }
}

/// Measures a volume of this size: gives an object for none, and one for as many snapshots as there may be.
pub fn snapshots(size_bytes: u64, mut row: impl FnMut(Value)) {
    let mut subject = Subject::new(size_bytes);
    let most = u64::try_from(SNAPSHOTS_MAX).expect("a count");
    let first: Vec<Duration> = (0..SAMPLES).map(|_| subject.create()).collect();
    let deleted: Vec<Duration> = (1..=SAMPLES).rev().map(|snapshot| subject.delete(snapshot)).collect();
    row(figures(size_bytes, 0, &first, &deleted));
    let live_before = settle(&mut subject.solo);
    while subject.last < SAMPLES + most - SAMPLES {
        subject.create();
    }
    let last: Vec<Duration> = (0..SAMPLES).map(|_| subject.create()).collect();
    let middle = SAMPLES + most / 2;
    let deleted: Vec<Duration> = (middle..middle + SAMPLES)
        .map(|snapshot| subject.delete(snapshot))
        .collect();
    let live_with = settle(&mut subject.solo);
    for snapshot in SAMPLES + 1..=subject.last {
        subject.delete(snapshot);
    }
    let (since, processor) = (subject.solo.now(), std::time::Instant::now());
    let live_after = settle(&mut subject.solo);
    let mut figures = figures(size_bytes, most - SAMPLES, &last, &deleted);
    figures["live_blocks_before"] = json!(live_before);
    figures["live_blocks_with"] = json!(live_with);
    figures["live_blocks_after"] = json!(live_after);
    figures["merge_ms"] = json!((subject.solo.now() - since) / 1_000_000);
    figures["merge_processor_ms"] = json!((processor.elapsed().as_secs_f64() * 1000.0).round());
    row(figures);
}

/// Lets time pass until what was deleted is merged away; how many blocks are alive then.
fn settle(solo: &mut Solo) -> u64 {
    while solo
        .core()
        .map(VOLUME)
        .is_some_and(cairn_core::map::BlockMap::is_merging)
    {
        solo.step();
    }
    solo.space().live_blocks
}

fn figures(size_bytes: u64, present: u64, created: &[Duration], deleted: &[Duration]) -> Value {
    json!({
        "size_bytes": size_bytes, "present": present,
        "create_p50_us": percentile_us(created, 50), "create_max_us": percentile_us(created, 100),
        "delete_p50_us": percentile_us(deleted, 50), "delete_max_us": percentile_us(deleted, 100),
    })
}

fn percentile_us(times: &[Duration], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let place = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    let time = sorted.get(place).copied().unwrap_or_default();
    (time.as_secs_f64() * 1e7).round() / 10.0
}
