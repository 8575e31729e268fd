//! How full a disk is: told to whoever asks, and written to the log when it passes a threshold.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use cairn_api::ids::DiskId;
use cairn_api::units::ByteSize;
use cairn_core::event::SpaceStatus;

/// A disk is as full as before until it is so much below a threshold, in thousandths, so that nobody is told twice a second.
const BACK_PERMILLE: u16 = 10;

/// Above which part of its capacity a disk is filling up, and nearly full, in percent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Thresholds {
    /// Filling up: somebody should make room, or add a disk.
    pub warning: u8,
    /// Nearly full: writes will be refused soon.
    pub alarm: u8,
}

/// How full a disk is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Fullness {
    /// Below both thresholds.
    #[default]
    Roomy,
    /// Above the first.
    Filling,
    /// Above the second.
    NearlyFull,
    /// Writes that need space are refused. Reads, trims and deletions go on.
    Full,
}

impl Fullness {
    /// 0 to 3, for metrics.
    pub const fn level(self) -> u64 {
        match self {
            Self::Roomy => 0,
            Self::Filling => 1,
            Self::NearlyFull => 2,
            Self::Full => 3,
        }
    }

    fn of(permille: u16, thresholds: Thresholds) -> Self {
        match permille {
            1000.. => Self::Full,
            some if some >= u16::from(thresholds.alarm) * 10 => Self::NearlyFull,
            some if some >= u16::from(thresholds.warning) * 10 => Self::Filling,
            _ => Self::Roomy,
        }
    }

    /// How full it is now, if it was this full before.
    fn next(self, permille: u16, thresholds: Thresholds) -> Self {
        let found = Self::of(permille, thresholds);
        found.max(self.min(Self::of(permille.saturating_add(BACK_PERMILLE).min(999), thresholds)))
    }
}

impl fmt::Display for Fullness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Roomy => "roomy",
            Self::Filling => "filling up",
            Self::NearlyFull => "nearly full",
            Self::Full => "full",
        })
    }
}

/// The space of one disk, as its core told it last.
pub(super) struct SpaceWatch {
    disk: DiskId,
    thresholds: Thresholds,
    last: Mutex<(SpaceStatus, Fullness)>,
}

impl SpaceWatch {
    pub(super) fn new(disk: DiskId, thresholds: Thresholds) -> Self {
        Self {
            disk,
            thresholds,
            last: Mutex::default(),
        }
    }

    pub(super) fn last(&self) -> (SpaceStatus, Fullness) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The core has told what is used.
    pub(super) fn told(&self, status: SpaceStatus) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last.1;
        *last = (status, before.next(status.used_permille(), self.thresholds));
        let now = last.1;
        drop(last);
        let (disk, used, capacity) = (
            self.disk,
            ByteSize(status.used_bytes()),
            ByteSize(status.capacity_bytes()),
        );
        match now {
            _ if now == before => {}
            Fullness::Roomy => tracing::info!(%disk, %used, %capacity, "the disk has room again"),
            Fullness::Filling => tracing::warn!(
                %disk, %used, %capacity,
                "the disk is filling up: delete snapshots or volumes, trim, or add disks"
            ),
            Fullness::NearlyFull => tracing::warn!(
                %disk, %used, %capacity,
                "the disk is nearly full: writes will be refused soon. Delete snapshots or volumes, trim, or move replicas to \
                 another disk with `cairn disk replace`"
            ),
            Fullness::Full => tracing::error!(
                %disk, %used, %capacity,
                "the disk is full: writes that need space are refused, reads, trims and deletions go on"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLDS: Thresholds = Thresholds { warning: 80, alarm: 90 };

    #[test]
    fn each_threshold_is_passed_once_on_the_way_up_and_once_on_the_way_down() {
        let path = [0, 799, 800, 795, 791, 790, 789, 899, 900, 895, 999, 1000, 999, 889, 0];
        let mut now = Fullness::Roomy;
        let found: Vec<u64> = path
            .iter()
            .map(|permille| {
                now = now.next(*permille, THRESHOLDS);
                now.level()
            })
            .collect();
        assert_eq!(found, [0, 0, 1, 1, 1, 1, 0, 1, 2, 2, 2, 3, 2, 1, 0]);
    }

    #[test]
    fn what_the_core_tells_is_what_is_answered() {
        let watch = SpaceWatch::new(DiskId::from_bytes([3; 16]), THRESHOLDS);
        assert_eq!(watch.last().1, Fullness::Roomy);
        let status = SpaceStatus {
            live_blocks: 95,
            capacity_blocks: 100,
            ..SpaceStatus::default()
        };
        watch.told(status);
        assert_eq!(watch.last(), (status, Fullness::NearlyFull));
    }
}
