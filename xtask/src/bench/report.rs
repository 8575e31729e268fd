//! The rows, as a table and as JSON.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use cairn_tests::fio::Figures;
use serde_json::{Value, json};

use crate::table;

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum System {
    /// A file on the same filesystem.
    Raw,
    /// A volume of three replicas.
    Cairn,
}

impl System {
    /// As it stands in the table and the JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Cairn => "cairn",
        }
    }
}

/// One measurement.
#[derive(Debug)]
pub(super) struct Row {
    workload: &'static str,
    system: System,
    figures: Figures,
    cpu_us_per_io: f64,
    load_average: f64,
    /// Requests a second and median latency of every round, in order.
    rounds: Vec<(f64, f64)>,
}

impl Row {
    /// A row; `cpu_us` is what all engines used during the measurement.
    pub(super) fn new(
        workload: &'static str,
        system: System,
        figures: &Figures,
        cpu_us: u64,
        load_average: f64,
    ) -> Self {
        let requests = figures.requests.max(1);
        let cpu_us_per_io = if system == System::Raw {
            0.0
        } else {
            float(cpu_us) / float(requests)
        };
        Self {
            workload,
            system,
            figures: *figures,
            cpu_us_per_io,
            load_average,
            rounds: vec![(figures.iops, figures.p50_us)],
        }
    }

    /// The round with the median of the median latencies, which remembers the others; of an even number the slower one.
    pub(super) fn median(mut rounds: Vec<Self>) -> Option<Self> {
        let all: Vec<(f64, f64)> = rounds.iter().flat_map(|row| row.rounds.clone()).collect();
        rounds.sort_by(|a, b| a.figures.p50_us.total_cmp(&b.figures.p50_us));
        let middle = rounds.len() / 2;
        rounds.into_iter().nth(middle).map(|row| Self { rounds: all, ..row })
    }

    fn json(&self) -> Value {
        json!({
            "system": self.system.name(),
            "workload": self.workload,
            "iops": round(self.figures.iops),
            "mib_per_s": round(self.figures.mib_per_s),
            "p50_us": round(self.figures.p50_us),
            "p99_us": round(self.figures.p99_us),
            "cpu_us_per_io": round(self.cpu_us_per_io),
            "load_average": self.load_average,
            "rounds": self.rounds.iter().map(|(iops, p50_us)| json!({
                "iops": round(*iops),
                "p50_us": round(*p50_us),
            })).collect::<Vec<_>>(),
        })
    }

    /// The least and the greatest median latency of all rounds.
    fn span(&self) -> String {
        let of = |pick: fn(f64, f64) -> f64| self.rounds.iter().map(|round| round.1).reduce(pick).unwrap_or_default();
        format!("{:.0}-{:.0}", of(f64::min), of(f64::max))
    }

    fn cells(&self, raw: Option<&Self>) -> Vec<String> {
        let ratio = |own: f64, raw: Option<f64>| match raw {
            Some(raw) if raw > 0.0 => format!("{:.2}", own / raw),
            _ => String::new(),
        };
        let cpu = match self.system {
            System::Raw => String::new(),
            System::Cairn => format!("{:.1}", self.cpu_us_per_io),
        };
        vec![
            self.workload.to_owned(),
            self.system.name().to_owned(),
            format!("{:.0}", self.figures.iops),
            format!("{:.1}", self.figures.mib_per_s),
            ratio(self.figures.iops, raw.map(|raw| raw.figures.iops)),
            format!("{:.0}", self.figures.p50_us),
            format!("{:.0}", self.figures.p99_us),
            ratio(self.figures.p50_us, raw.map(|raw| raw.figures.p50_us)),
            self.span(),
            cpu,
            format!("{:.2}", self.load_average),
        ]
    }
}

/// Prints all rows, Cairn's with its ratio to raw.
pub(super) fn print(rows: &[Row], rounds: u32) {
    let raw_of = |row: &Row| {
        let is_raw = |other: &&Row| other.system == System::Raw && other.workload == row.workload;
        rows.iter().find(is_raw).filter(|_| row.system == System::Cairn)
    };
    let cells: Vec<Vec<String>> = rows.iter().map(|row| row.cells(raw_of(row))).collect();
    println!();
    let head = [
        "workload",
        "system",
        "IOPS",
        "MiB/s",
        "x raw",
        "p50 us",
        "p99 us",
        "x raw",
        "p50 of rounds",
        "CPU us/IO",
        "load average",
    ];
    table::print(&head, &cells);
    println!(
        "\nraw: a pre-written file, O_DIRECT, io_uring, O_DSYNC for writes. cairn: three replicas on this machine, over\n\
         the NBD unix socket of the leader. x raw: Cairn's figure over raw's. CPU: all three engines together. Each row is the\n\
         round with the median of the p50 of {rounds}, raw and cairn in turn."
    );
}

/// Writes the rows as a JSON array.
pub(super) fn write_json(rows: &[Row], path: &Path) -> Result<()> {
    let array: Vec<Value> = rows.iter().map(Row::json).collect();
    let text = serde_json::to_string_pretty(&array)?;
    fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Counts of this size are exact as floating point.
#[expect(clippy::cast_precision_loss, reason = "a benchmark's counts stay far below 2^53")]
fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(p50_us: f64) -> Row {
        let figures = Figures {
            iops: 1e6 / p50_us,
            mib_per_s: 1.0,
            p50_us,
            p99_us: 2.0 * p50_us,
            bytes: 4096,
            requests: 1,
            errors: 0,
        };
        Row::new("randwrite-4k-qd1", System::Cairn, &figures, 100, 0.5)
    }

    #[test]
    fn the_median_round_counts_and_the_others_are_remembered() {
        let median = Row::median(vec![row(900.0), row(400.0), row(500.0)]).expect("three rounds");
        assert!((median.figures.p50_us - 500.0).abs() < f64::EPSILON);
        assert_eq!(median.span(), "400-900");
        assert_eq!(median.json()["rounds"][0]["p50_us"], 900.0);
        assert!(Row::median(Vec::new()).is_none());
    }
}
