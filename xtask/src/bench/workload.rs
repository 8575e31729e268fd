//! What is measured.

use cairn_tests::fio::{Job, Target};

use super::REGION_BYTES;

/// One line of the benchmark.
#[derive(Debug)]
pub(super) struct Workload {
    /// As it stands in the table and the JSON.
    pub(super) name: &'static str,
    rw: &'static str,
    block_size: &'static str,
    depth: u32,
    /// The most that all rounds move together, whatever the time: writes use up the disk, whose space is not reclaimed yet.
    bytes_max: u64,
    /// The least that a round may move.
    bytes_min: u64,
}

/// In the order of measuring: the sequential write comes first and fills the volume, so that no read finds a hole. At depth 1
/// each block costs two on disk (a header and the payload), at depth 32 less than 1.3, so that all of it fits a disk.
pub(super) const WORKLOADS: [Workload; 6] = [
    Workload {
        name: "write-1m-qd8",
        rw: "write",
        block_size: "1M",
        depth: 8,
        bytes_max: 3 << 30,
        bytes_min: REGION_BYTES,
    },
    Workload {
        name: "read-1m-qd8",
        rw: "read",
        block_size: "1M",
        depth: 8,
        bytes_max: 64 << 30,
        bytes_min: 0,
    },
    Workload {
        name: "randwrite-4k-qd1",
        rw: "randwrite",
        block_size: "4k",
        depth: 1,
        bytes_max: 300 << 20,
        bytes_min: 0,
    },
    Workload {
        name: "randwrite-4k-qd32",
        rw: "randwrite",
        block_size: "4k",
        depth: 32,
        bytes_max: 1536 << 20,
        bytes_min: 0,
    },
    Workload {
        name: "randread-4k-qd1",
        rw: "randread",
        block_size: "4k",
        depth: 1,
        bytes_max: 64 << 30,
        bytes_min: 0,
    },
    Workload {
        name: "randread-4k-qd32",
        rw: "randread",
        block_size: "4k",
        depth: 32,
        bytes_max: 64 << 30,
        bytes_min: 0,
    },
];

impl Workload {
    /// The job of one round on one system. It ends after `seconds` or when its share of the bytes is done, which is a whole
    /// pass over the region at least for the sequential write that fills it.
    pub(super) fn job(&self, target: Target, seconds: u32, rounds: u32) -> Job {
        let bytes = (self.bytes_max / u64::from(rounds)).max(self.bytes_min);
        Job::new(target, self.rw, self.block_size, self.depth)
            .with(&format!("size={REGION_BYTES}"))
            .with(&format!("io_size={bytes}"))
            .with(&format!("runtime={seconds}"))
            .with("norandommap=1")
    }
}
