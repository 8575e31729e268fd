//! What the demo found out, as a table and as JSON.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use cairn_tests::fio::Figures;
use serde_json::{Map, Value, json};

use crate::table;

/// All figures of a run.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Blocks of 4 KiB that were read back and compared with what was written.
    pub(super) blocks_verified: u64,
    /// Those that were wrong. Must be zero.
    pub(super) mismatches: u64,
    /// fio's figures by workload.
    pub(super) speed: Vec<(&'static str, Figures)>,
    /// Bytes written to each disk over bytes accepted, at queue depth 32, by engine.
    pub(super) write_amplification: Vec<(String, f64)>,
    /// Stalls by event: the JSON key's stem, what happened, the longest wait of a request, the longest silence.
    pub(super) stalls: Vec<Stall>,
    /// How long the restart after the loss of all engines took, until the volume served.
    pub(super) recovery: Duration,
}

/// What the client felt at an event.
#[derive(Debug)]
pub(super) struct Stall {
    /// The stem of the key in the JSON.
    pub(super) key: &'static str,
    /// The event in words.
    pub(super) event: String,
    /// The longest that any request waited.
    pub(super) wait: Duration,
    /// The longest time without any reply.
    pub(super) silence: Duration,
}

impl Report {
    /// The worst of the disks.
    fn worst_amplification(&self) -> f64 {
        self.write_amplification
            .iter()
            .map(|(_, ratio)| *ratio)
            .fold(0.0, f64::max)
    }

    /// Prints the table.
    pub(super) fn print(&self) {
        println!();
        let speed = |(name, figures): &(&str, Figures)| {
            vec![
                (*name).to_owned(),
                format!("{:.0}", figures.iops),
                format!("{:.1}", figures.mib_per_s),
                format!("{:.0}", figures.p50_us),
                format!("{:.0}", figures.p99_us),
            ]
        };
        let rows: Vec<_> = self.speed.iter().map(speed).collect();
        table::print(
            &["workload (fio, 3 replicas)", "IOPS", "MiB/s", "p50 us", "p99 us"],
            &rows,
        );
        println!();
        let stall = |stall: &Stall| vec![stall.event.clone(), ms(stall.wait), ms(stall.silence)];
        let rows: Vec<_> = self.stalls.iter().map(stall).collect();
        table::print(
            &["event during verified writes", "longest wait ms", "longest silence ms"],
            &rows,
        );
        println!();
        let mut rows = Vec::new();
        for (engine, ratio) in &self.write_amplification {
            rows.push(vec![
                format!("bytes written per byte accepted, engine {engine}, 4K qd32"),
                format!("{ratio:.2}"),
            ]);
        }
        rows.push(vec![
            "all engines killed and started: seconds to serve".to_owned(),
            seconds(self.recovery),
        ]);
        rows.push(vec!["blocks verified".to_owned(), self.blocks_verified.to_string()]);
        rows.push(vec!["mismatches".to_owned(), self.mismatches.to_string()]);
        table::print(&["result", ""], &rows);
    }

    /// Writes the figures as one JSON object.
    pub(super) fn write_json(&self, path: &Path) -> Result<()> {
        let mut object = Map::new();
        object.insert("blocks_verified".to_owned(), json!(self.blocks_verified));
        object.insert("mismatches".to_owned(), json!(self.mismatches));
        object.insert(
            "write_amplification_qd32".to_owned(),
            json!(round(self.worst_amplification())),
        );
        object.insert("recovery_ms".to_owned(), json!(millis(self.recovery)));
        for stall in &self.stalls {
            object.insert(format!("{}_stall_ms", stall.key), json!(millis(stall.wait)));
            object.insert(format!("{}_silence_ms", stall.key), json!(millis(stall.silence)));
        }
        for (name, figures) in &self.speed {
            let stem = name.replace('-', "_");
            object.insert(format!("{stem}_iops"), json!(round(figures.iops)));
            object.insert(format!("{stem}_mib_per_s"), json!(round(figures.mib_per_s)));
            object.insert(format!("{stem}_p50_us"), json!(round(figures.p50_us)));
            object.insert(format!("{stem}_p99_us"), json!(round(figures.p99_us)));
        }
        let text = serde_json::to_string_pretty(&Value::Object(object))?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }
}

fn ms(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64() * 1000.0)
}

fn seconds(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64())
}

fn millis(duration: Duration) -> f64 {
    round(duration.as_secs_f64() * 1000.0)
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
