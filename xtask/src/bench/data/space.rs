//! Write amplification: what is written to a disk for each byte that clients write, against how full the disk is.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use super::core::{measure, number};
use super::{Report, Stage};
use crate::bench::plot::{Axis, Plot, Series};
use crate::{progress, root};

const PATTERNS: [&str; 3] = ["uniform", "zipf", "sequential"];
const FILLS: [u32; 4] = [30, 50, 70, 85];
const WRITES: [(u32, &str); 2] = [(4096, "4 KiB"), (16_384, "16 KiB")];
const COMMAND: &str = "cargo xtask bench --suite data --section space --docs";
const HEAD: [&str; 9] = [
    "overwrite",
    "fill %",
    "disk bytes / client byte",
    "of it headers",
    "moved",
    "checkpoints",
    "live in victims %",
    "p50 us",
    "p99 us",
];
const NOTE: &str = "fill: live data in the disk's capacity. A disk of 1 GiB in 255 segments, one replica; three times the \
     capacity is overwritten before another one is measured. zipf: exponent 0.99, spread over the volume. 32 writes come at \
     once and share a frame, 64 MiB/s in all. Latencies are of a modelled disk, 1 GiB/s and 60 us: clients' writes beside \
     collection, the processor's time not counted. The same in every run.";

pub(super) fn run(stage: &Stage) -> Result<Vec<Report>> {
    stage.core_bench()?;
    let mut report = Report::new("write amplification of collection", &HEAD, NOTE);
    for (bytes, size) in WRITES {
        for pattern in PATTERNS {
            for fill in FILLS {
                let title = format!("space: {pattern} {size}, fill {fill} %");
                let arguments = ["space", pattern, &fill.to_string(), &bytes.to_string()];
                let objects = progress::during(&title, |_| measure(stage, &arguments))?;
                for object in objects {
                    report.add(row(&object, pattern, size)?, object);
                }
            }
        }
    }
    if stage.docs {
        write_docs(&report)?;
    }
    Ok(vec![report])
}

fn row(object: &Value, pattern: &str, size: &str) -> Result<Vec<String>> {
    let figure = |name: &str, digits: usize| Ok::<_, anyhow::Error>(format!("{:.digits$}", number(object, name)?));
    Ok(vec![
        format!("{pattern} {size}"),
        figure("fill_percent", 0)?,
        figure("amplification", 2)?,
        figure("headers", 2)?,
        figure("moved", 2)?,
        figure("checkpoints", 2)?,
        format!("{:.0}", number(object, "victims_live")? * 100.0),
        figure("p50_us", 0)?,
        figure("p99_us", 0)?,
    ])
}

/// The table and the plot as a page.
fn write_docs(report: &Report) -> Result<()> {
    let docs = root().join("docs");
    let put = |name: &str, text: String| {
        let path = docs.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    put("write-amplification.svg", plot(&report.json)?.to_svg())?;
    put("write-amplification.md", page(report))
}

fn plot(rows: &[Value]) -> Result<Plot> {
    let mut series = Vec::new();
    for (bytes, size) in WRITES {
        for (colour, pattern) in PATTERNS.into_iter().enumerate() {
            let of_series = rows
                .iter()
                .filter(|row| row["pattern"] == pattern && row["write_bytes"] == bytes);
            let points: Result<Vec<(f64, f64)>> = of_series
                .map(|row| Ok((number(row, "fill_percent")?, number(row, "amplification")?)))
                .collect();
            series.push(Series {
                name: format!("{pattern}, {size}"),
                colour,
                is_dashed: bytes != WRITES[0].0,
                points: points?,
            });
        }
    }
    let highest = series
        .iter()
        .flat_map(|series| &series.points)
        .map(|(_, y)| *y)
        .fold(1.0, f64::max);
    Ok(Plot {
        title: "Write amplification against fill level".to_owned(),
        x: Axis {
            label: "live data, % of the disk's capacity".to_owned(),
            min: 20.0,
            max: 90.0,
            step: 10.0,
        },
        y: Axis {
            label: "bytes written to the disk per byte of clients".to_owned(),
            min: 0.0,
            max: (highest * 2.0).ceil() / 2.0,
            step: 0.5,
        },
        series,
    })
}

fn page(report: &Report) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = report.head.iter().map(|cell| (*cell).to_owned()).collect();
    let rule: Vec<String> = (0..head.len())
        .map(|column| if column == 0 { "---" } else { "---:" }.to_owned())
        .collect();
    let rows: String = report.rows.iter().map(|row| line(row)).collect();
    format!(
        "# Write amplification\n\n\
         Made by `{COMMAND}`; do not edit.\n\n\
         ![Bytes written to the disk for each byte that clients write, against the live part of its capacity]\
         (write-amplification.svg)\n\n\
         What is written to one disk for each byte that clients write to it, when a volume of one replica fills so much of \
         the disk and is overwritten until that no longer changes. 1 is the data itself, written once to the log. The rest is \
         frame headers and records; live data that collection moves so that segments can be used again; and checkpoints. \
         `live in victims` is the part of the emptied segments that was still alive and had to be moved.\n\n\
         {NOTE}\n\n\
         With one write at a time each has a frame of its own, and headers add another 4 KiB to it.\n\n\
         {}{}{rows}",
        line(&head),
        line(&rule)
    )
}
