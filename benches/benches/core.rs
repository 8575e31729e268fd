//! What a request costs all three cores together, without any I/O.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "a benchmark")]

use bytes::Bytes;
use cairn_api::block::BlockOp;
use cairn_benches::{Instant, VOLUME_BLOCKS};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Requests between two ticks: about what a busy volume does in one.
const REQUESTS_A_TICK: u64 = 1000;

struct Places(u64);

impl Places {
    fn next_offset(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % VOLUME_BLOCKS * 4096
    }
}

fn writes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("write 4 KiB, three replicas");
    let data = Bytes::from(vec![0x5A; 4096]);
    for depth in [1, 32] {
        let mut cluster = Instant::new();
        let (mut places, mut done) = (Places(1), 0);
        group.throughput(Throughput::Elements(depth));
        group.bench_function(BenchmarkId::new("depth", depth), |bencher| {
            bencher.iter(|| {
                for _ in 0..depth {
                    let offset = places.next_offset();
                    cluster.submit(BlockOp::Write {
                        offset,
                        data: data.clone(),
                    });
                }
                cluster.settle();
                assert_eq!(cluster.take_all() as u64, depth);
                done += depth;
                if done >= REQUESTS_A_TICK {
                    done = 0;
                    cluster.tick();
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, writes);
criterion_main!(benches);
