//! Holding a volume to its limits: requests wait here, in order, before anything else is done with them.
//!
//! # The buckets
//! A bucket fills at its rate and holds at most the burst's worth. A request goes when every bucket holds all that it costs,
//! and takes it: in no stretch of time does more pass than the burst and what the rate makes of that stretch. One that costs
//! more than a bucket holds is let through as well: while it is the next one, the bucket may hold as much as it costs. So it
//! waits for its own cost and no longer, and the rate holds over any time.
//!
//! Requests go in the order in which they came: small ones behind a large one wait for it, or a stream of them would take
//! every token before there are ever enough for the large one. How many wait is bounded by what clients may have under way.
//!
//! Levels are counted in units times nanoseconds, so that a rate in units a second fills them without rounding: a second of
//! anything is 10^9. The time is the one that the core is given, and the next moment at which something can go is the
//! gateway's deadline; nobody looks in between.
//!
//! A request is charged once, when it comes, however it is split and whatever has to be read around it, and not again when it
//! is sent again after a failover: limits are about what a client asks for. FLUSH asks for nothing and is free.

use std::collections::VecDeque;

use cairn_api::block::{BlockOp, Tag};
use cairn_api::limits::VolumeLimits;

use crate::event::DeviceId;
use crate::time::Timestamp;

/// One unit in a bucket's level.
const UNIT: u128 = 1_000_000_000;
/// What a bucket of requests holds at least: one, or a volume that was idle would have to wait for its first.
const REQUESTS_HELD_MIN: u128 = UNIT;

/// What a request takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cost {
    requests: u64,
    bytes: u64,
}

impl Cost {
    fn of(op: &BlockOp) -> Self {
        let bytes = match op {
            BlockOp::Read { length, .. } => u64::from(*length),
            BlockOp::Write { data, .. } => data.len() as u64,
            // What has no payload costs a request, however long its range is.
            BlockOp::Flush | BlockOp::Trim { .. } | BlockOp::WriteZeroes { .. } | BlockOp::Status { .. } => 0,
        };
        let requests = u64::from(!matches!(op, BlockOp::Flush));
        Self { requests, bytes }
    }
}

#[derive(Debug)]
struct Bucket {
    /// Units a second.
    rate: u64,
    level: u128,
    held_max: u128,
    filled_at: Timestamp,
}

impl Bucket {
    fn new(now: Timestamp, rate: u64, burst_ms: u32, held_min: u128) -> Self {
        let held_max = (u128::from(rate) * u128::from(burst_ms) * 1_000_000).max(held_min);
        Self {
            rate,
            level: held_max,
            held_max,
            filled_at: now,
        }
    }

    /// Fills it for the time that has passed, up to what it holds or what the next request takes.
    fn fill(&mut self, now: Timestamp, wanted: u128) {
        let nanos = now.since(self.filled_at).as_nanos();
        let gained = u128::from(self.rate) * nanos;
        self.level = self.level.saturating_add(gained).min(self.held_max.max(wanted));
        self.filled_at = now;
    }

    /// Nanoseconds until it holds so much, rounded up; 0 if it does.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a request of 32 MiB at the least rate takes 32 s"
    )]
    fn wait_nanos(&self, wanted: u128) -> u64 {
        wanted.saturating_sub(self.level).div_ceil(u128::from(self.rate)) as u64
    }

    /// Another bucket takes over what this one holds, as far as it may hold it.
    fn succeed(&self, mut new: Self) -> Self {
        new.level = self.level.min(new.held_max);
        new
    }
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) device: DeviceId,
    pub(super) tag: Tag,
    pub(super) op: BlockOp,
    pub(super) since: Timestamp,
}

/// A volume's limits, and the requests that wait for them.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    limits: VolumeLimits,
    requests: Option<Bucket>,
    bytes: Option<Bucket>,
    held: VecDeque<Held>,
    /// When the first of them can go.
    due: Option<Timestamp>,
}

impl Limiter {
    /// Other limits rule from now on, for those that wait as well.
    pub(super) fn set(&mut self, now: Timestamp, limits: VolumeLimits) {
        if limits == self.limits {
            return;
        }
        for bucket in [&mut self.requests, &mut self.bytes].into_iter().flatten() {
            bucket.fill(now, 0);
        }
        let renew = |old: &Option<Bucket>, rate: Option<u64>, held_min| {
            let new = Bucket::new(now, rate?, limits.burst_ms, held_min);
            Some(match old {
                Some(old) => old.succeed(new),
                None => new,
            })
        };
        self.requests = renew(&self.requests, limits.iops, REQUESTS_HELD_MIN);
        self.bytes = renew(&self.bytes, limits.bytes_per_s, 0);
        self.limits = limits;
    }

    /// Takes what a request costs, if it may go now; else says when it may.
    fn take(&mut self, now: Timestamp, op: &BlockOp) -> Result<(), Timestamp> {
        let cost = Cost::of(op);
        let mut wait_nanos = 0;
        let mut buckets = [
            (self.requests.as_mut(), u128::from(cost.requests) * UNIT),
            (self.bytes.as_mut(), u128::from(cost.bytes) * UNIT),
        ];
        for (bucket, wanted) in &mut buckets {
            if let Some(bucket) = bucket {
                bucket.fill(now, *wanted);
                wait_nanos = wait_nanos.max(bucket.wait_nanos(*wanted));
            }
        }
        if wait_nanos > 0 {
            return Err(now.after(std::time::Duration::from_nanos(wait_nanos)));
        }
        for (bucket, wanted) in buckets {
            if let Some(bucket) = bucket {
                bucket.level -= wanted;
            }
        }
        Ok(())
    }

    /// A request has come: gives it back if it may go now, else keeps it.
    pub(super) fn admit(&mut self, held: Held) -> Option<Held> {
        if matches!(held.op, BlockOp::Flush) {
            return Some(held);
        }
        if self.held.is_empty() {
            match self.take(held.since, &held.op) {
                Ok(()) => return Some(held),
                Err(due) => self.due = Some(due),
            }
        }
        self.held.push_back(held);
        None
    }

    /// The next request that may go now, if there is one.
    pub(super) fn release(&mut self, now: Timestamp) -> Option<Held> {
        let next = self.held.pop_front();
        let Some(next) = next else {
            self.due = None;
            return None;
        };
        match self.take(now, &next.op) {
            Ok(()) => Some(next),
            Err(due) => {
                self.due = Some(due);
                self.held.push_front(next);
                None
            }
        }
    }

    /// A device is gone: what it has waiting was never begun, and nobody is owed a reply.
    pub(super) fn forget(&mut self, device: DeviceId) {
        self.held.retain(|held| held.device != device);
    }

    /// Requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.held.len()
    }

    /// When the first of them can go.
    pub(super) fn due(&self) -> Option<Timestamp> {
        self.due.filter(|_| !self.held.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn limits(iops: Option<u64>, bytes_per_s: Option<u64>, burst_ms: u32) -> VolumeLimits {
        VolumeLimits {
            iops,
            bytes_per_s,
            burst_ms,
        }
    }

    fn read(length: u32, tag: u64, at: u64) -> Held {
        Held {
            device: DeviceId(1),
            tag: Tag(tag),
            op: BlockOp::Read { offset: 0, length },
            since: Timestamp::from_nanos(at),
        }
    }

    /// A client that always has `depth` requests under way, each done as soon as it goes: when which request went.
    fn run(limiter: &mut Limiter, lengths: impl Iterator<Item = u32>, depth: usize, end: u64) -> Vec<(u64, u64, u32)> {
        let (mut now, mut gone) = (limiter.due().map_or(0, Timestamp::as_nanos), Vec::new());
        for (tag, length) in (0..).zip(lengths) {
            while limiter.waiting() >= depth {
                now = now.max(limiter.due().unwrap().as_nanos());
                let before = gone.len();
                while let Some(held) = limiter.release(Timestamp::from_nanos(now)) {
                    let BlockOp::Read { length, .. } = held.op else {
                        unreachable!()
                    };
                    gone.push((now, held.tag.0, length));
                }
                assert!(gone.len() > before, "nothing went at the time that was named");
            }
            if now > end {
                break;
            }
            if let Some(held) = limiter.admit(read(length, tag, now)) {
                gone.push((now, held.tag.0, length));
            }
        }
        gone.retain(|(at, ..)| *at <= end);
        gone
    }

    #[test]
    fn ten_seconds_of_requests_are_what_was_allowed() {
        for (iops, burst_ms) in [(10, 0), (100, 100), (1000, 100), (33_333, 100), (1000, 0), (1000, 2000)] {
            let mut limiter = Limiter::default();
            limiter.set(Timestamp::from_nanos(0), limits(Some(iops), None, burst_ms));
            let gone = run(&mut limiter, std::iter::repeat(4096), 32, 10 * SECOND).len() as u64;
            let allowed = iops * 10 + (iops * u64::from(burst_ms) / 1000).max(1);
            assert!(
                gone == allowed || gone + 1 == allowed,
                "{iops} a second: {gone}, not {allowed}"
            );
        }
    }

    #[test]
    fn ten_seconds_of_bytes_are_what_was_allowed_whatever_the_requests() {
        for length in [512, 4096, 1 << 20, 8 << 20] {
            let mut limiter = Limiter::default();
            limiter.set(Timestamp::from_nanos(0), limits(None, Some(50 << 20), 100));
            let gone = run(&mut limiter, std::iter::repeat(length), 16, 10 * SECOND).len() as u64 * u64::from(length);
            let allowed = (500 << 20) + (5 << 20);
            assert!(
                gone <= allowed && gone + 2 * u64::from(length) > allowed,
                "{length}: {gone} bytes"
            );
        }
    }

    #[test]
    fn large_requests_wait_for_their_own_cost_and_small_ones_behind_them_wait_too() {
        let mut limiter = Limiter::default();
        limiter.set(Timestamp::from_nanos(0), limits(None, Some(1 << 20), 0));
        let lengths = [1 << 20, 4096, 4096, 2 << 20, 512];
        let gone = run(
            &mut limiter,
            lengths.into_iter().chain(std::iter::repeat(512)),
            4,
            4 * SECOND,
        );
        let order: Vec<u64> = gone.iter().map(|(_, tag, _)| *tag).collect();
        assert!(order.is_sorted(), "{order:?}");
        let large = gone.iter().find(|(_, tag, _)| *tag == 3).unwrap().0;
        let before = u64::from(lengths[0] + lengths[1] + lengths[2] + lengths[3]);
        assert_eq!(large, (before * SECOND).div_ceil(1 << 20));
    }

    #[test]
    fn a_change_holds_at_once_for_those_that_wait() {
        let mut limiter = Limiter::default();
        let at = |nanos| Timestamp::from_nanos(nanos);
        limiter.set(at(0), limits(Some(10), None, 0));
        assert!(
            limiter.admit(read(512, 1, 0)).is_some(),
            "an idle volume serves one at once"
        );
        assert!(limiter.admit(read(512, 2, 0)).is_none());
        assert_eq!(limiter.due(), Some(at(SECOND / 10)));
        limiter.set(at(1000), limits(Some(1000), None, 0));
        assert!(limiter.release(at(1000)).is_none());
        assert!(
            limiter.due().unwrap() < at(SECOND / 500),
            "the new rate counts from the change on"
        );
        limiter.set(at(2000), limits(None, None, 0));
        assert_eq!(limiter.release(at(2000)).unwrap().tag, Tag(2));
        assert_eq!(limiter.due(), None);
    }

    #[test]
    fn flush_is_free_and_what_has_no_payload_costs_no_bytes() {
        let mut limiter = Limiter::default();
        limiter.set(Timestamp::from_nanos(0), limits(Some(10), Some(1 << 20), 0));
        let ask = |limiter: &mut Limiter, op| {
            let held = Held { op, ..read(0, 9, 0) };
            limiter.admit(held).is_some()
        };
        let zeroes = BlockOp::WriteZeroes {
            offset: 0,
            length: 1 << 40,
            no_hole: false,
        };
        assert!(ask(&mut limiter, zeroes), "the first request of an idle volume");
        assert!(!ask(&mut limiter, BlockOp::Trim { offset: 0, length: 512 }));
        assert!(ask(&mut limiter, BlockOp::Flush), "even while others wait");
        let write = BlockOp::Write {
            offset: 1,
            data: Bytes::from_static(&[0; 700]),
        };
        assert_eq!(
            Cost::of(&write),
            Cost {
                requests: 1,
                bytes: 700
            }
        );
    }

    proptest! {
        /// In no stretch of time passes more than the burst and what the rate makes of that stretch, except that one request
        /// may be larger than the burst.
        #[test]
        fn no_stretch_of_time_sees_more_than_is_allowed(
            lengths in prop::collection::vec(1_u32..3_000_000, 20..120), rate in 1_u64 << 20..1 << 26, burst_ms in 0_u32..500
        ) {
            let mut limiter = Limiter::default();
            limiter.set(Timestamp::from_nanos(0), limits(None, Some(rate), burst_ms));
            let gone = run(&mut limiter, lengths.into_iter(), 8, u64::MAX / 2);
            for (first, (from, ..)) in gone.iter().enumerate() {
                let (mut bytes, mut largest) = (0_u128, 0_u128);
                for (to, _, length) in &gone[first..] {
                    bytes += u128::from(*length);
                    largest = largest.max(u128::from(*length));
                    let burst = (u128::from(rate) * u128::from(burst_ms) / 1000).max(largest);
                    let allowed = burst + u128::from(rate) * u128::from(to - from) / 1_000_000_000 + 1;
                    prop_assert!(bytes <= allowed, "{bytes} of {allowed} bytes from {from} to {to}");
                }
            }
        }
    }
}
