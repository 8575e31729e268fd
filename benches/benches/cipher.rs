//! What encryption costs: one pass from one buffer into another, in the units in which a gateway does it. `xts-mode` does one
//! AES block at a time, and is here to show what that would cost.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "a benchmark")]

use aes::Aes256;
use aes::cipher::KeyInit as _;
use cairn_api::units::Lba;
use cairn_crypto::{DataKey, VolumeCipher};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use xts_mode::{Xts128, get_tweak_default};

fn key() -> [u8; 64] {
    std::array::from_fn(|i| u8::try_from(i).unwrap())
}

fn passes(criterion: &mut Criterion) {
    let cipher = VolumeCipher::new(&DataKey::from_bytes(&key()).unwrap());
    let halves = [&key()[..32], &key()[32..]].map(|half| Aes256::new_from_slice(half).unwrap());
    let [data, tweak] = halves;
    let other = Xts128::<Aes256>::new(data, tweak);
    let mut group = criterion.benchmark_group("AES-256-XTS");
    for length in [4 << 10, 1 << 20] {
        let from = vec![0x5A; length];
        let mut to = vec![0; length];
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(BenchmarkId::new("encrypt", length), |bencher| {
            bencher.iter(|| cipher.encrypt(Lba(1 << 20), &from, &mut to));
        });
        group.bench_function(BenchmarkId::new("decrypt", length), |bencher| {
            bencher.iter(|| cipher.decrypt(Lba(1 << 20), &from, &mut to));
        });
        group.bench_function(BenchmarkId::new("copy", length), |bencher| {
            bencher.iter(|| to.copy_from_slice(std::hint::black_box(&from)));
        });
        group.bench_function(BenchmarkId::new("crc32c", length), |bencher| {
            bencher.iter(|| cairn_format::checksum::block_crcs(&from));
        });
        group.bench_function(BenchmarkId::new("xts-mode encrypt", length), |bencher| {
            bencher.iter(|| other.encrypt_area(&mut to, 4096, 1 << 20, get_tweak_default));
        });
    }
    group.finish();
}

criterion_group!(benches, passes);
criterion_main!(benches);
