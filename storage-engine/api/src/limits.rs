//! What a volume may be asked for: its limits, and what they may be.

use std::fmt;
use std::ops::RangeInclusive;

use crate::units::ByteSize;

/// Requests a second that a volume may be limited to. Below the least one request more or less is a tenth of a second's
/// worth; the most is beyond what any disk does.
pub const IOPS_RANGE: RangeInclusive<u64> = 10..=10_000_000;
/// Bytes a second that a volume may be limited to: 1 MiB to 1 TiB. With the least the longest request that there is, of
/// 32 MiB, takes half a minute, which is what clients' own time-outs are made for.
pub const BYTES_PER_S_RANGE: RangeInclusive<u64> = 1 << 20..=1 << 40;
/// Milliseconds' worth of its limits that a volume may save up while it is idle.
pub const BURST_MS_RANGE: RangeInclusive<u32> = 0..=60_000;
/// The burst of a volume for which none was asked: what a filesystem's commit or a batch of a database takes at once, and a
/// hundredth of what is allowed within ten seconds.
pub const BURST_MS_DEFAULT: u32 = 100;

/// The limits of a volume. Each request counts once against `iops` and with its payload against `bytes_per_s`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VolumeLimits {
    /// Reads, writes, trims, zeroings and questions for allocation a second, within [`IOPS_RANGE`].
    pub iops: Option<u64>,
    /// Bytes read and written a second, within [`BYTES_PER_S_RANGE`].
    pub bytes_per_s: Option<u64>,
    /// For how many milliseconds' worth of both the volume may do at once after it was idle, within [`BURST_MS_RANGE`].
    pub burst_ms: u32,
}

impl Default for VolumeLimits {
    fn default() -> Self {
        Self {
            iops: None,
            bytes_per_s: None,
            burst_ms: BURST_MS_DEFAULT,
        }
    }
}

/// A limit that is none.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what} is {value}: {rule}")]
pub struct LimitError {
    /// Which one.
    pub what: &'static str,
    /// What was given.
    pub value: String,
    /// What it may be.
    pub rule: String,
}

impl VolumeLimits {
    /// Whether anything is limited.
    pub const fn is_any(&self) -> bool {
        self.iops.is_some() || self.bytes_per_s.is_some()
    }

    /// Refuses what is no limit, by name and with what is allowed.
    ///
    /// # Errors
    /// The first value that is out of its range.
    pub fn check(&self) -> Result<(), LimitError> {
        if let Some(iops) = self.iops.filter(|iops| !IOPS_RANGE.contains(iops)) {
            let rule = format!(
                "a volume is limited to {} to {} requests a second, or to none",
                IOPS_RANGE.start(),
                IOPS_RANGE.end()
            );
            return Err(refusal("iops", iops, rule));
        }
        if let Some(bytes) = self.bytes_per_s.filter(|bytes| !BYTES_PER_S_RANGE.contains(bytes)) {
            let rule = format!(
                "a volume is limited to {} to {} a second, or to none",
                ByteSize(*BYTES_PER_S_RANGE.start()),
                ByteSize(*BYTES_PER_S_RANGE.end())
            );
            return Err(refusal("bandwidth", ByteSize(bytes), rule));
        }
        if !BURST_MS_RANGE.contains(&self.burst_ms) {
            let rule = format!("a burst is 0 to {} s of the limits", BURST_MS_RANGE.end() / 1000);
            return Err(refusal("burst", format!("{} ms", self.burst_ms), rule));
        }
        Ok(())
    }
}

fn refusal(what: &'static str, value: impl fmt::Display, rule: String) -> LimitError {
    LimitError {
        what,
        value: value.to_string(),
        rule,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_limit_is_refused_by_name_and_with_the_range() {
        let good = VolumeLimits {
            iops: Some(10),
            bytes_per_s: Some(1 << 20),
            burst_ms: 0,
        };
        assert_eq!(good.check(), Ok(()));
        assert_eq!(VolumeLimits::default().check(), Ok(()));
        let refused = |limits: VolumeLimits| limits.check().unwrap_err().to_string();
        assert_eq!(
            refused(VolumeLimits { iops: Some(0), ..good }),
            "iops is 0: a volume is limited to 10 to 10000000 requests a second, or to none"
        );
        assert_eq!(
            refused(VolumeLimits {
                bytes_per_s: Some(4096),
                ..good
            }),
            "bandwidth is 4 KiB: a volume is limited to 1 MiB to 1 TiB a second, or to none"
        );
        assert_eq!(
            refused(VolumeLimits {
                burst_ms: 60_001,
                ..good
            }),
            "burst is 60001 ms: a burst is 0 to 60 s of the limits"
        );
    }
}
