//! A volume's history, shared by its clients: what each was told, in one order that agrees with real time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cairn_history::register::History;

/// Between two acknowledged writes of a volume so much time may pass without any fault.
const USUAL_GAP_NS: u64 = 200_000_000;

/// Something was found that cannot be true: there is no point in going on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Violated;

/// What clients did, in numbers.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) writes: AtomicU64,
    pub(super) reads: AtomicU64,
    /// Requests that were refused: fenced, the volume held elsewhere, no space.
    pub(super) refused: AtomicU64,
    /// Requests without an answer.
    pub(super) lost: AtomicU64,
    /// Reads of corrupted blocks that failed.
    pub(super) unreadable: AtomicU64,
    pub(super) connections: AtomicU64,
}

/// See the module.
#[derive(Default)]
pub(super) struct Recorder {
    history: Mutex<History>,
    violation: Mutex<Option<String>>,
    /// When writes were acknowledged, in order but for what two clients heard in the same moment.
    acknowledged: Mutex<Vec<u64>>,
    /// The longest that any request waited for its answer.
    longest_wait: AtomicU64,
    pub(super) tally: Tally,
}

impl Recorder {
    /// Works on the history. A check that fails is kept as this volume's violation, with its report.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut History) -> T) -> Result<T, Violated> {
        let mut history = lock(&self.history);
        if lock(&self.violation).is_some() {
            return Err(Violated);
        }
        catch_unwind(AssertUnwindSafe(|| work(&mut history))).map_err(|panic| {
            let words = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
            self.violated(words.unwrap_or_else(|| "a check failed".to_owned()))
        })
    }

    /// Notes something that must not be; the first one is kept.
    pub(super) fn violated(&self, what: String) -> Violated {
        lock(&self.violation).get_or_insert(what);
        Violated
    }

    pub(super) fn violation(&self) -> Option<String> {
        lock(&self.violation).clone()
    }

    /// A write was acknowledged now.
    pub(super) fn note_acknowledged(&self, now: u64) {
        lock(&self.acknowledged).push(now);
        self.tally.writes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_wait(&self, nanos: u64) {
        self.longest_wait.fetch_max(nanos, Ordering::Relaxed);
    }

    pub(super) fn longest_wait(&self) -> Duration {
        Duration::from_nanos(self.longest_wait.load(Ordering::Relaxed))
    }

    /// When a write was last acknowledged; 0 if none was.
    pub(super) fn last_acknowledged(&self) -> u64 {
        lock(&self.acknowledged).last().copied().unwrap_or(0)
    }

    /// Sectors that were read and compared.
    pub(super) fn checked(&self) -> u64 {
        lock(&self.history).checked
    }

    /// The longest time without an acknowledged write that begins between `from` and `to`, or shortly before: one that had
    /// begun earlier has another cause.
    pub(super) fn longest_gap(&self, from: u64, to: u64) -> Duration {
        let acknowledged = lock(&self.acknowledged);
        let begins = |pair: &&[u64]| pair[0] + USUAL_GAP_NS >= from && pair[0] <= to;
        let gaps = acknowledged.windows(2).filter(begins);
        Duration::from_nanos(gaps.map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or(0))
    }

    /// The time from `at` to the next acknowledged write, if there is one.
    pub(super) fn recovery(&self, at: u64) -> Option<Duration> {
        let acknowledged = lock(&self.acknowledged);
        let next = acknowledged.iter().find(|time| **time >= at);
        next.map(|time| Duration::from_nanos(time - at))
    }

    /// Times of at least `least` without an acknowledged write: from and to.
    pub(super) fn gaps(&self, least: Duration) -> Vec<(Duration, Duration)> {
        let acknowledged = lock(&self.acknowledged);
        let pairs = acknowledged.windows(2);
        let gaps = pairs.map(|pair| (Duration::from_nanos(pair[0]), Duration::from_nanos(pair[1])));
        gaps.filter(|(from, to)| to.saturating_sub(*from) >= least).collect()
    }
}

/// A panic in here is caught before it could leave a lock behind that nobody may take.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_is_kept_and_ends_the_record() {
        let recorder = Recorder::default();
        let write = recorder.with(|history| history.begin_write(1, 1, 0..1, 5)).unwrap();
        recorder.with(|history| history.acknowledge(2, write)).unwrap();
        let read = recorder.with(|history| history.begin_read(3, 0..1)).unwrap();
        assert!(recorder.with(|history| history.end_read(4, read, 1, &[0])).is_err());
        assert!(recorder.violation().unwrap().contains("sector 0 read as 0"));
        assert!(recorder.with(|_| ()).is_err());
    }

    #[test]
    fn a_gap_belongs_to_the_fault_that_it_begins_with() {
        let recorder = Recorder::default();
        let ms = 1_000_000;
        for at in [0, 10, 5_000, 5_010] {
            recorder.note_acknowledged(at * ms);
        }
        assert_eq!(recorder.longest_gap(100 * ms, 200 * ms), Duration::from_millis(4_990));
        assert_eq!(recorder.longest_gap(1_000 * ms, 4_000 * ms), Duration::ZERO);
        assert_eq!(recorder.longest_gap(5_005 * ms, 5_020 * ms), Duration::from_millis(10));
    }
}
