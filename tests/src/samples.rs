//! When each request was sent and answered, and what that says about stalls.

use std::time::{Duration, Instant};

/// The times of all requests of a load.
#[derive(Debug, Default)]
pub struct Samples {
    /// Sent and answered, in the order of the answers.
    times: Vec<(Instant, Instant)>,
}

impl Samples {
    /// Notes a request that was sent at `sent` and is answered now.
    pub fn note(&mut self, sent: Instant) {
        self.times.push((sent, Instant::now()));
    }

    /// How many requests were answered.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The longest that any request waited, of those in flight at some time between `from` and `to`.
    pub fn longest_wait(&self, from: Instant, to: Instant) -> Duration {
        let overlapping = self
            .times
            .iter()
            .filter(|(sent, answered)| *answered >= from && *sent <= to);
        overlapping
            .map(|(sent, answered)| answered.duration_since(*sent))
            .max()
            .unwrap_or_default()
    }

    /// The longest time without any answer that overlaps `from` to `to`.
    pub fn longest_silence(&self, from: Instant, to: Instant) -> Duration {
        let pairs = self.times.windows(2).map(|pair| (pair[0].1, pair[1].1));
        let overlapping = pairs.filter(|(before, after)| *after >= from && *before <= to);
        overlapping
            .map(|(before, after)| after.duration_since(before))
            .max()
            .unwrap_or_default()
    }

    /// The waiting time that `percent` of all requests did not exceed.
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut waits: Vec<Duration> = self.times.iter().map(|(sent, answered)| *answered - *sent).collect();
        waits.sort_unstable();
        let index = (waits.len() * percent / 100).min(waits.len().saturating_sub(1));
        waits.get(index).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_stall_around_an_event() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let samples = Samples {
            times: vec![(at(0), at(1)), (at(1), at(2)), (at(2), at(502)), (at(502), at(503))],
        };
        assert_eq!(samples.longest_wait(at(100), at(200)), Duration::from_millis(500));
        assert_eq!(samples.longest_silence(at(100), at(200)), Duration::from_millis(500));
        assert_eq!(samples.longest_wait(at(503), at(600)), Duration::from_millis(1));
        assert_eq!(samples.percentile(50), Duration::from_millis(1));
    }
}
