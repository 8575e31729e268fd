//! A histogram that many threads feed without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds in nanoseconds, in steps of 1, 2 and 5 from 1 us to 10 s: fine enough to tell 250 us from 500, few enough to scrape.
pub(super) const BOUNDS_NS: [u64; 22] = [
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// Durations of one stage.
#[derive(Debug, Default)]
pub struct StageHistogram {
    buckets: [AtomicU64; BOUNDS_NS.len()],
    beyond: AtomicU64,
    sum_ns: AtomicU64,
}

impl StageHistogram {
    /// Counts one duration: two relaxed additions.
    pub fn observe(&self, nanos: u64) {
        let place = BOUNDS_NS.partition_point(|bound| *bound < nanos);
        self.buckets
            .get(place)
            .unwrap_or(&self.beyond)
            .fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(nanos, Ordering::Relaxed);
    }

    /// The sum in seconds, the count, and each bound in seconds with the count of its own bucket.
    ///
    /// The encoder adds the buckets up, so the counts here are not cumulative. The count is the buckets' own sum, so that a
    /// scrape in the middle of an observation is consistent in itself.
    #[allow(
        clippy::cast_precision_loss,
        reason = "a sum of nanoseconds is exact to 2^53, which is 104 days"
    )]
    pub(super) fn snapshot(&self) -> (f64, u64, Vec<(f64, u64)>) {
        let mut buckets: Vec<(f64, u64)> = BOUNDS_NS
            .iter()
            .zip(&self.buckets)
            .map(|(bound, count)| (*bound as f64 / 1e9, count.load(Ordering::Relaxed)))
            .collect();
        buckets.push((f64::MAX, self.beyond.load(Ordering::Relaxed)));
        let count = buckets.iter().map(|(_, count)| count).sum();
        (self.sum_ns.load(Ordering::Relaxed) as f64 / 1e9, count, buckets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_falls_into_the_bucket_whose_bound_it_does_not_exceed() {
        let histogram = StageHistogram::default();
        for nanos in [0, 1_000, 1_001, 300_000, 99_000_000_000] {
            histogram.observe(nanos);
        }
        let (sum, count, buckets) = histogram.snapshot();
        assert_eq!(count, 5);
        assert!((sum - 99.000_302_001).abs() < 1e-6, "{sum}");
        assert_eq!((buckets[0].1, buckets[1].1, buckets[8].1, buckets[22].1), (2, 1, 1, 1));
    }
}
