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
    /// The most that the job moves, whatever the time: writes use up the disk, whose space is not reclaimed yet.
    bytes_max: u64,
}

/// In the order of measuring: the sequential write comes first and fills the volume, so that no read finds a hole. At depth 1
/// each block costs two on disk (a header and the payload), at depth 32 less than 1.3, so that all of it fits a disk.
pub(super) const WORKLOADS: [Workload; 6] = [
    Workload {
        name: "write-1m-qd8",
        rw: "write",
        block_size: "1M",
        depth: 8,
        bytes_max: 2 << 30,
    },
    Workload {
        name: "read-1m-qd8",
        rw: "read",
        block_size: "1M",
        depth: 8,
        bytes_max: 64 << 30,
    },
    Workload {
        name: "randwrite-4k-qd1",
        rw: "randwrite",
        block_size: "4k",
        depth: 1,
        bytes_max: 512 << 20,
    },
    Workload {
        name: "randwrite-4k-qd32",
        rw: "randwrite",
        block_size: "4k",
        depth: 32,
        bytes_max: 2 << 30,
    },
    Workload {
        name: "randread-4k-qd1",
        rw: "randread",
        block_size: "4k",
        depth: 1,
        bytes_max: 64 << 30,
    },
    Workload {
        name: "randread-4k-qd32",
        rw: "randread",
        block_size: "4k",
        depth: 32,
        bytes_max: 64 << 30,
    },
];

impl Workload {
    /// The job for one system. It ends after `seconds` or when its bytes are done.
    pub(super) fn job(&self, target: Target, seconds: u32) -> Job {
        Job::new(target, self.rw, self.block_size, self.depth)
            .with(&format!("size={REGION_BYTES}"))
            .with(&format!("io_size={}", self.bytes_max))
            .with(&format!("runtime={seconds}"))
            .with("norandommap=1")
    }
}
