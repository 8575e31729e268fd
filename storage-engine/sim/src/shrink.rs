//! Makes a failing scenario smaller while it still fails in the same way.
//!
//! Faults are taken away first, in halves, then quarters, and so on (delta debugging: Zeller and Hildebrandt, 2002); then
//! clients and volumes, then time. What is tried is bounded, not what is found: a smaller scenario is always one that failed.

use crate::check::{Check, Violation};
use crate::run::{Watch, run};
use crate::scenario::{Fault, Scenario};

/// Scenarios tried for one failure.
const TRIES_MAX: usize = 400;

struct Shrinker {
    best: Scenario,
    watch: Watch,
    violation: Violation,
    tries: usize,
}

/// The smallest scenario found that fails like this one, and how it fails.
pub fn shrink(scenario: &Scenario, watch: Watch, violation: &Violation) -> (Scenario, Violation) {
    let mut shrinker = Shrinker {
        best: scenario.clone(),
        watch: Watch {
            is_printing: false,
            ..watch
        },
        violation: violation.clone(),
        tries: 0,
    };
    shrinker.go();
    (shrinker.best, shrinker.violation)
}

/// Whether two violations are of one kind; panics are, if they are of one place.
fn is_alike(one: &Violation, other: &Violation) -> bool {
    one.check == other.check && (one.check != Check::Panic || one.place == other.place)
}

impl Shrinker {
    fn go(&mut self) {
        loop {
            let before = self.best.clone();
            self.fewer_faults();
            self.fewer_volumes();
            self.fewer_clients();
            self.shorter();
            self.plainer();
            if self.best == before || self.tries >= TRIES_MAX {
                return;
            }
        }
    }

    /// Keeps the candidate if it fails alike.
    fn attempt(&mut self, candidate: Scenario) -> bool {
        if self.tries >= TRIES_MAX || candidate == self.best {
            return false;
        }
        self.tries += 1;
        match run(&candidate, self.watch).violation {
            Some(violation) if is_alike(&violation, &self.violation) => {
                (self.best, self.violation) = (candidate, violation);
                true
            }
            _ => false,
        }
    }

    fn fewer_faults(&mut self) {
        let mut size = self.best.faults.len().div_ceil(2);
        while size > 0 {
            let mut start = 0;
            while start < self.best.faults.len() {
                let mut candidate = self.best.clone();
                let end = (start + size).min(candidate.faults.len());
                candidate.faults.drain(start..end);
                if !self.attempt(candidate) {
                    start = end;
                }
            }
            size /= 2;
        }
    }

    fn fewer_volumes(&mut self) {
        let mut volume = self.best.volumes.len();
        while volume > 0 && self.best.volumes.len() > 1 {
            volume -= 1;
            let mut candidate = self.best.clone();
            candidate.volumes.remove(volume);
            candidate
                .faults
                .retain_mut(|planned| planned.fault.volumes_mut().into_iter().all(|named| *named != volume));
            let named = candidate
                .faults
                .iter_mut()
                .flat_map(|planned| planned.fault.volumes_mut());
            named.filter(|named| **named > volume).for_each(|named| *named -= 1);
            self.attempt(candidate);
        }
    }

    fn fewer_clients(&mut self) {
        for volume in 0..self.best.volumes.len() {
            let mut candidate = self.best.clone();
            candidate.volumes[volume].clones = false;
            self.attempt(candidate);
            let mut candidate = self.best.clone();
            (candidate.volumes[volume].snapshots, candidate.volumes[volume].clones) = (false, false);
            self.attempt(candidate);
            let mut client = self.best.volumes[volume].clients.len();
            while client > 1 {
                client -= 1;
                let is_moved = self.best.faults.iter().any(|planned| {
                    matches!(planned.fault, Fault::Move { volume: of, client: moved, .. } if of == volume && moved >= client)
                });
                if is_moved {
                    continue;
                }
                let mut candidate = self.best.clone();
                candidate.volumes[volume].clients.remove(client);
                self.attempt(candidate);
            }
        }
    }

    fn shorter(&mut self) {
        let last = self.best.faults.last().map_or(0, |planned| planned.at_us);
        for beyond in [1_000, 1_000_000, 5_000_000] {
            let mut candidate = self.best.clone();
            candidate.heal_at_us = candidate.heal_at_us.min(last + beyond);
            if self.attempt(candidate) {
                return;
            }
        }
    }

    /// Ordinary clocks, links and disks.
    fn plainer(&mut self) {
        let usual: [fn(&mut Scenario); 6] = [
            |scenario| scenario.drift_ppm.iter_mut().for_each(|ppm| *ppm = 0),
            |scenario| scenario.link_latency_us = (20, 300),
            |scenario| scenario.write_latency_us = (60, 900),
            |scenario| scenario.read_latency_us = (40, 300),
            |scenario| scenario.volumes.iter_mut().for_each(|volume| volume.hot_blocks = 0),
            |scenario| scenario.volumes.iter_mut().for_each(|volume| volume.encrypted = false),
        ];
        for change in usual {
            let mut candidate = self.best.clone();
            change(&mut candidate);
            self.attempt(candidate);
        }
    }
}
