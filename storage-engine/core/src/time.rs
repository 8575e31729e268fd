//! Time as the core knows it: what its driver says it is.

use std::time::Duration;

/// A point on the driver's monotonic clock (`CLOCK_BOOTTIME`, so that a suspended machine's lease runs out too).
///
/// A driver reads the clock **after** it has collected the events it is about to hand over. A lease checked against a
/// time from before a request arrived could serve that request stale data.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp {
    nanos: u64,
}

impl Timestamp {
    /// From nanoseconds of the clock.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self { nanos }
    }

    /// Nanoseconds of the clock.
    pub const fn as_nanos(self) -> u64 {
        self.nanos
    }

    /// The point `duration` later, saturating.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "584 years of nanoseconds fit in 64 bits")]
    pub const fn after(self, duration: Duration) -> Self {
        Self {
            nanos: self.nanos.saturating_add(duration.as_nanos() as u64),
        }
    }

    /// Time since `earlier`; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }
}
