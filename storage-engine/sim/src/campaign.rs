//! Many seeds, one after the other, on a few threads: what was injected, what was covered, what failed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::check::Violation;
use crate::cluster::SpaceCounts;
use crate::rows::RowCounts;
use crate::run::{Outcome, Watch, run};
use crate::scenario::{Kind, Scenario};

/// Which seeds, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub start: u64,
    /// At most so many.
    pub seeds: u64,
    /// None is begun after so long.
    pub time: Option<Duration>,
    pub jobs: usize,
    /// Stop at so many failures.
    pub failures_max: usize,
}

/// A seed that failed.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    pub seed: u64,
    pub violation: Violation,
}

/// What many runs came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    pub start: u64,
    pub seeds: u64,
    pub failures: Vec<Failure>,
    pub simulated_hours: f64,
    pub wall_seconds: f64,
    pub faults: BTreeMap<Kind, u64>,
    /// Recoveries that met a row of the recovery table, by row.
    pub rows: RowCounts,
    /// What checkpoints and collection did.
    pub space: SpaceCounts,
    pub writes_acknowledged: u64,
    pub sectors_checked: u64,
    pub requests_refused: u64,
    /// The seed that took longest, and its milliseconds.
    pub slowest_seed: (u64, u64),
    pub mean_seed_ms: f64,
    /// The seed whose volumes served last after a majority had healed, and its milliseconds of simulated time.
    pub slowest_healing: (u64, u64),
    simulated_ns: u64,
    run_ms: u64,
}

impl Summary {
    fn new(start: u64) -> Self {
        Self {
            start,
            faults: Kind::ALL.iter().map(|kind| (*kind, 0)).collect(),
            rows: RowCounts::zeros(),
            ..Self::default()
        }
    }

    fn add(&mut self, outcome: Outcome, took: Duration) {
        self.seeds += 1;
        self.simulated_ns += outcome.simulated_ns;
        #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
        {
            self.simulated_hours = self.simulated_ns as f64 / 3.6e12;
        }
        for (kind, count) in outcome.injected {
            *self.faults.entry(kind).or_default() += count;
        }
        self.rows.add(&outcome.rows);
        self.space += outcome.space;
        self.writes_acknowledged += outcome.acknowledged;
        self.sectors_checked += outcome.checked;
        self.requests_refused += outcome.refused;
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.run_ms += ms;
        if ms > self.slowest_seed.1 {
            self.slowest_seed = (outcome.seed, ms);
        }
        let healing = outcome.served_after_ns / 1_000_000;
        if healing > self.slowest_healing.1 {
            self.slowest_healing = (outcome.seed, healing);
        }
        #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
        {
            self.mean_seed_ms = self.run_ms as f64 / self.seeds as f64;
        }
        if let Some(violation) = outcome.violation {
            let seed = outcome.seed;
            self.failures.push(Failure { seed, violation });
        }
    }
}

/// Runs the seeds; `tell` is called after each with what there is so far.
pub fn campaign(plan: &Plan, mut tell: impl FnMut(&Summary)) -> Summary {
    let began = Instant::now();
    let next = AtomicU64::new(plan.start);
    let is_over = AtomicBool::new(false);
    let mut summary = Summary::new(plan.start);
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.max(1) {
            let sender = sender.clone();
            let (next, is_over) = (&next, &is_over);
            scope.spawn(move || work(plan, began, next, is_over, &sender));
        }
        drop(sender);
        for (outcome, took) in receiver {
            summary.add(outcome, took);
            summary.wall_seconds = began.elapsed().as_secs_f64();
            if summary.failures.len() >= plan.failures_max {
                is_over.store(true, Ordering::Relaxed);
            }
            tell(&summary);
        }
    });
    summary.failures.sort_by_key(|failure| failure.seed);
    summary
}

fn work(
    plan: &Plan,
    began: Instant,
    next: &AtomicU64,
    is_over: &AtomicBool,
    sender: &mpsc::Sender<(Outcome, Duration)>,
) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        let is_late = plan.time.is_some_and(|time| began.elapsed() >= time);
        if seed - plan.start >= plan.seeds || is_late || is_over.load(Ordering::Relaxed) {
            return;
        }
        let started = Instant::now();
        let outcome = run(&Scenario::draw(seed), Watch::default());
        if sender.send((outcome, started.elapsed())).is_err() {
            return;
        }
    }
}
