//! Volumes with limits, in exact simulated time.

use std::time::Duration;

use bytes::Bytes;
use cairn_api::block::{BlockOp, BlockReply, Tag};
use cairn_api::ids::GroupId;
use cairn_api::limits::VolumeLimits;
use cairn_core::event::{Command, CommandReply, DeviceId, GroupSpec};
use cairn_sim::cluster::{Cluster, MILLISECOND, SECOND, Setup};

const VOLUME: GroupId = GroupId(2);
const BLOCKS: u64 = 4096;

struct Bench {
    cluster: Cluster,
    spec: GroupSpec,
    device: DeviceId,
    under_way: Vec<Tag>,
    next: u64,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let mut cluster = Cluster::new(Setup {
            drift_ppm_max: 0,
            ..Setup::new(seed)
        });
        let spec = cluster.spec(VOLUME, BLOCKS, 3);
        cluster.create(&spec);
        let device = cluster.open(1, &spec);
        let mut bench = Self {
            cluster,
            spec,
            device,
            under_way: Vec::new(),
            next: 0,
        };
        // The attachment and the leader are there before anything is measured.
        bench.run(50 * MILLISECOND, 1, |_| 4096);
        bench
    }

    fn limit(&mut self, limits: VolumeLimits) {
        let update = Command::UpdateVolume {
            group: VOLUME,
            size_bytes: BLOCKS * 4096,
            limits,
        };
        assert_eq!(self.cluster.command(1, update), Ok(CommandReply::Done));
    }

    fn op(&mut self, length: u32) -> BlockOp {
        self.next += 1;
        let offset = self.next * 7919 % 100 * 4096 + u64::from(!length.is_multiple_of(4096)) * 100;
        match self.next % 3 {
            0 => BlockOp::Read { offset, length },
            _ => BlockOp::Write {
                offset,
                data: Bytes::from(vec![3; length as usize]),
            },
        }
    }

    /// Keeps `depth` requests under way for so long: requests answered, and their bytes.
    fn run(&mut self, nanos: u64, depth: usize, length: impl Fn(u64) -> u32) -> (u64, u64) {
        let end = self.cluster.now + nanos;
        let (mut answered, mut bytes) = (0, 0);
        let mut lengths: std::collections::BTreeMap<Tag, u32> = std::collections::BTreeMap::new();
        while self.cluster.now < end {
            let mut left = Vec::new();
            for tag in std::mem::take(&mut self.under_way) {
                match self.cluster.take_reply(1, self.device, tag) {
                    Some(Ok(BlockReply::Done | BlockReply::Read(_))) => {
                        answered += 1;
                        bytes += u64::from(lengths.remove(&tag).unwrap_or(0));
                    }
                    Some(other) => panic!("{other:?}"),
                    None => left.push(tag),
                }
            }
            self.under_way = left;
            while self.under_way.len() < depth {
                let length = length(self.next);
                let op = self.op(length);
                let tag = self.cluster.submit(1, self.device, op);
                lengths.insert(tag, length);
                self.under_way.push(tag);
            }
            let step = MILLISECOND.min(end - self.cluster.now);
            self.cluster.run(Duration::from_nanos(step));
        }
        (answered, bytes)
    }
}

fn is_within_5_percent(found: u64, allowed: u64) -> bool {
    found.abs_diff(allowed) * 20 <= allowed
}

#[test]
fn ten_seconds_of_requests_are_within_5_percent_of_what_is_allowed() {
    for (seed, iops) in [(1, 10), (2, 200), (3, 1500)] {
        let mut bench = Bench::new(seed);
        bench.limit(VolumeLimits {
            iops: Some(iops),
            ..VolumeLimits::default()
        });
        // Unaligned requests, and those that are sent in two parts, count once.
        let (answered, _) = bench.run(10 * SECOND, 16, |number| if number % 50 == 0 { 1_200_000 } else { 700 });
        assert!(
            is_within_5_percent(answered, iops * 10),
            "{answered} of {iops} a second"
        );
        let (requests, nanos) = bench.cluster.nodes[1].throttled;
        assert!(
            requests + 200 > iops * 10 && nanos > 9 * SECOND,
            "{requests} waited {nanos} ns"
        );
    }
}

#[test]
fn ten_seconds_of_bytes_are_within_5_percent_of_what_is_allowed() {
    for (seed, length) in [(1, 4096), (2, 1 << 20), (3, 70_000)] {
        let mut bench = Bench::new(seed);
        let allowed = 4 << 20;
        bench.limit(VolumeLimits {
            bytes_per_s: Some(allowed),
            ..VolumeLimits::default()
        });
        let (_, bytes) = bench.run(10 * SECOND, 8, |_| length);
        assert!(
            is_within_5_percent(bytes, allowed * 10),
            "{bytes} bytes in requests of {length}"
        );
    }
}

#[test]
fn a_change_takes_effect_at_once_for_those_that_wait() {
    let mut bench = Bench::new(5);
    let limits = |iops| VolumeLimits {
        iops: Some(iops),
        ..VolumeLimits::default()
    };
    bench.limit(limits(10));
    bench.run(2 * SECOND, 64, |_| 4096);
    bench.limit(limits(1000));
    let (answered, _) = bench.run(2 * SECOND, 64, |_| 4096);
    assert!(is_within_5_percent(answered, 2000 + 100 / 2), "{answered}");
    bench.limit(limits(10));
    let (answered, _) = bench.run(2 * SECOND, 64, |_| 4096);
    assert!((18..=24).contains(&answered), "{answered}");
    bench.limit(VolumeLimits::default());
    let waiting = bench.under_way.clone();
    bench.cluster.run(Duration::from_millis(100));
    let (node, device) = (1, bench.device);
    assert!(
        waiting
            .iter()
            .all(|tag| bench.cluster.take_reply(node, device, *tag).is_some())
    );
}

/// The client is gone; what it had waiting is forgotten, and the gateway with it.
#[test]
fn what_waits_goes_with_its_client() {
    let mut bench = Bench::new(6);
    bench.limit(VolumeLimits {
        iops: Some(10),
        ..VolumeLimits::default()
    });
    bench.run(SECOND, 64, |_| 4096);
    bench.cluster.close(1, bench.device);
    bench.cluster.run(Duration::from_secs(3));
    let operations = bench.cluster.nodes[1].core.as_ref().unwrap().load().unwrap().operations;
    assert_eq!(operations, 0);
    let spec = bench.spec.clone();
    bench.cluster.quiesce(&spec);
}
