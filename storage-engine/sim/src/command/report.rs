//! What is shown while seeds run, and after.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::Result;
use cairn_sim::campaign::{Plan, Summary};
use cairn_sim::check::Violation;
use cairn_sim::scenario::Scenario;
use indicatif::{ProgressBar, ProgressStyle};

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The line that tells how far it is.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    last: Instant,
    failures: usize,
}

impl Progress {
    pub(crate) fn begin(plan: &Plan) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = is_terminal.then(|| {
            let bar = if plan.seeds == u64::MAX {
                ProgressBar::new_spinner()
            } else {
                ProgressBar::new(plan.seeds)
            };
            if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} seeds, {elapsed}: {wide_msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self {
            bar,
            last: Instant::now(),
            failures: 0,
        }
    }

    pub(crate) fn tell(&mut self, summary: &Summary) {
        for failure in summary.failures.iter().skip(self.failures) {
            let tell = || violation(failure.seed, &failure.violation);
            match &self.bar {
                Some(bar) => bar.suspend(tell),
                None => tell(),
            }
        }
        self.failures = summary.failures.len();
        let text = line(summary);
        match &self.bar {
            Some(bar) => {
                bar.set_position(summary.seeds);
                bar.set_message(text);
            }
            None if self.last.elapsed() >= LINE_EVERY => {
                self.last = Instant::now();
                println!("{} seeds, {:.0} s: {text}", summary.seeds, summary.wall_seconds);
            }
            None => {}
        }
    }

    pub(crate) fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn line(summary: &Summary) -> String {
    let faults: u64 = summary.faults.values().sum();
    let (seed, ms) = summary.slowest_seed;
    let kinds: Vec<String> = summary
        .faults
        .iter()
        .map(|(kind, count)| format!("{kind:?} {count}"))
        .collect();
    format!(
        "{} failed, {:.2} simulated hours, {faults} faults, slowest seed {seed} ({ms} ms); {}",
        summary.failures.len(),
        summary.simulated_hours,
        kinds.join(", ")
    )
}

/// What many seeds came to.
pub(crate) fn summary(summary: &Summary) {
    println!("faults that took effect:");
    for (kind, count) in &summary.faults {
        let mark = if *count == 0 { "  <- never" } else { "" };
        println!("  {:<14} {count:>9}{mark}", format!("{kind:?}"));
    }
    println!("rows of the recovery table (docs/recovery-table.md), by recoveries that met them:");
    let never: Vec<_> = summary.rows.never().collect();
    for (row, count) in &summary.rows.0 {
        let mark = match count {
            0 if never.contains(row) => "  <- never",
            0 => "  (not a fault of disks)",
            _ => "",
        };
        println!("  {:<20} {count:>9}{mark}", row.name());
    }
    println!(
        "{} seeds from {} in {:.1} s: {:.2} simulated hours, {} writes acknowledged, {} sectors checked, {} requests refused",
        summary.seeds,
        summary.start,
        summary.wall_seconds,
        summary.simulated_hours,
        summary.writes_acknowledged,
        summary.sectors_checked,
        summary.requests_refused,
    );
    let space = summary.space;
    println!(
        "{} checkpoints freed {} segments, {} were begun behind one; collection emptied {} and moved {} blocks",
        space.checkpoints, space.freed, space.begun, space.emptied, space.moved,
    );
    println!(
        "a seed took {:.0} ms on average, seed {} the longest: {} ms; the slowest healing, of seed {}, {} ms of simulated time",
        summary.mean_seed_ms,
        summary.slowest_seed.0,
        summary.slowest_seed.1,
        summary.slowest_healing.0,
        summary.slowest_healing.1,
    );
    println!("{} failed", summary.failures.len());
}

/// What was violated, and how to see it again.
pub(crate) fn violation(seed: u64, violation: &Violation) {
    println!("\nseed {seed} fails: {:?} at {}", violation.check, violation.place);
    for line in violation.message.lines().take(40) {
        println!("  {line}");
    }
    println!("replay it: cargo xtask sim --seed {seed} --trace");
}

/// The smallest scenario that fails in the same way.
pub(crate) fn smallest((scenario, violation): &(Scenario, Violation)) -> Result<()> {
    println!(
        "\nmade smaller ({} faults), it still fails: {:?}",
        scenario.faults.len(),
        violation.check
    );
    for line in violation.message.lines().take(40) {
        println!("  {line}");
    }
    println!("save this to a file and replay it with --scenario FILE:");
    println!("{}", serde_json::to_string(scenario)?);
    Ok(())
}
