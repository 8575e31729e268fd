//! Starts: what it takes to recover maps of many blocks, and many volumes.

use anyhow::Result;
use serde_json::Value;

use super::core::{measure, number};
use super::{Report, Stage};
use crate::progress;

const NOTE: &str = "From the start of a core to the end of its recovery from a checkpoint, on a disk in memory whose reads take \
     no time, in a process of its own. sequential: written in order by 1 MiB, scattered: one by one in no order. read: what a \
     disk would have to read. resident: by how much the process grew.";
const HEAD: [&str; 8] = [
    "layout",
    "blocks",
    "seconds",
    "us / 1000 blocks",
    "read MiB",
    "frames of the log",
    "resident MiB",
    "bytes / block",
];
/// The last is 191 GiB of data. What is scattered takes long to be written.
const SEQUENTIAL: &str = "1000000,5000000,10000000,25000000,50000000";
const SCATTERED: &str = "1000000,5000000,10000000";
const VOLUMES: &str = "10000";

pub(super) fn run(stage: &Stage) -> Result<Vec<Report>> {
    stage.core_bench()?;
    let dir = stage.dir.display().to_string();
    let mut maps = Report::new("start of a disk with one volume", &HEAD, NOTE);
    for (layout, points) in [("sequential", SEQUENTIAL), ("scattered", SCATTERED)] {
        let objects = progress::during(&format!("map: volumes that grow, {layout}"), |_| {
            measure(stage, &["map", layout, points, &dir])
        })?;
        for object in objects {
            maps.add(row(&object, layout)?, object);
        }
    }
    let mut volumes = Report::new(
        "start of a disk with many volumes",
        &["volumes", "seconds", "read MiB", "resident MiB", "KiB / volume"],
        "Each has one replica and 64 KiB of data.",
    );
    let objects = progress::during("map: 10,000 volumes", |_| measure(stage, &["volumes", VOLUMES, &dir]))?;
    for object in objects {
        let (count, resident) = (number(&object, "volumes")?, number(&object, "resident_bytes")?);
        let cells = vec![
            format!("{count}"),
            format!("{:.2}", number(&object, "seconds")?),
            mib(number(&object, "read_bytes")?),
            mib(resident),
            format!("{:.1}", resident / count / 1024.0),
        ];
        volumes.add(cells, object);
    }
    Ok(vec![maps, volumes])
}

fn row(object: &Value, layout: &str) -> Result<Vec<String>> {
    let (blocks, seconds) = (number(object, "blocks")?, number(object, "seconds")?);
    let resident = number(object, "resident_bytes")?;
    Ok(vec![
        layout.to_owned(),
        format!("{} M", blocks / 1e6),
        format!("{seconds:.2}"),
        format!("{:.1}", seconds * 1e9 / blocks),
        mib(number(object, "read_bytes")?),
        format!("{}", number(object, "frames")?),
        mib(resident),
        format!("{:.1}", resident / blocks),
    ])
}

fn mib(bytes: f64) -> String {
    format!("{:.0}", bytes / f64::from(1 << 20))
}
