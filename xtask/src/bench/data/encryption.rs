//! Encryption: a load on an encrypted volume and on a plain one of the same engines, in turn.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context, Result};
use cairn_tests::fio::Figures;
use cairn_tests::{Cluster, ClusterOptions};
use serde_json::json;

use super::{Report, Stage, job, round};
use crate::progress;

const DISK_BYTES: u64 = 4 << 30;
const VOLUME_BYTES: u64 = 256 << 20;
const VOLUMES: [&str; 2] = ["plain", "secret"];
const ROUNDS: usize = 3;
/// Requests, their size, and how many are under way.
const LOADS: [(&str, &str, u32); 6] = [
    ("randwrite", "4k", 1),
    ("randwrite", "4k", 32),
    ("randread", "4k", 1),
    ("randread", "4k", 32),
    ("write", "1M", 8),
    ("read", "1M", 8),
];

pub(super) fn run(stage: &Stage) -> Result<Vec<Report>> {
    let cluster = cluster(stage)?;
    for volume in VOLUMES {
        let fill = job(&cluster, 0, volume, ("write", "1M", 8), VOLUME_BYTES, 3);
        progress::during(&format!("encryption: filling the volume '{volume}'"), |_| fill.run())?;
    }
    let mut report = Report::new(
        "a load on an encrypted volume beside a plain one",
        &[
            "load",
            "plain p50 us",
            "encrypted",
            "ratio",
            "plain MiB/s",
            "encrypted",
            "ratio",
        ],
        "AES-256-XTS in the gateway; three replicas on one machine. Three rounds of each in turn, the medians of which are \
         shown.",
    );
    let seconds = stage.seconds.min(3);
    for (rw, size, depth) in LOADS {
        let mut rounds = [Vec::new(), Vec::new()];
        for round in 1..=ROUNDS {
            for (volume, measured) in VOLUMES.into_iter().zip(&mut rounds) {
                let title = format!("encryption: {rw} {size} qd{depth} on '{volume}', round {round}");
                measured.push(progress::during(&title, |_| {
                    job(&cluster, 0, volume, (rw, size, depth), VOLUME_BYTES, seconds).run()
                })?);
            }
        }
        let [plain_us, secret_us] = rounds.each_ref().map(|round| median(round, |figures| figures.p50_us));
        let [plain_rate, secret_rate] = rounds
            .each_ref()
            .map(|round| median(round, |figures| figures.mib_per_s));
        let (times, rates) = (secret_us / plain_us, secret_rate / plain_rate);
        report.add(
            vec![
                format!("{rw} {size} qd{depth}"),
                format!("{plain_us:.0}"),
                format!("{secret_us:.0}"),
                format!("{times:.2}"),
                format!("{plain_rate:.1}"),
                format!("{secret_rate:.1}"),
                format!("{rates:.2}"),
            ],
            json!({
                "load": format!("{rw}-{size}-qd{depth}"), "plain_p50_us": round(plain_us),
                "encrypted_p50_us": round(secret_us), "ratio_p50": times, "plain_mib_per_s": round(plain_rate),
                "encrypted_mib_per_s": round(secret_rate), "ratio_mib_per_s": rates,
            }),
        );
    }
    Ok(vec![report])
}

/// Three engines that share a master key, and the two volumes.
fn cluster(stage: &Stage) -> Result<Cluster> {
    let options = ClusterOptions {
        disk_bytes: stage.disk_bytes.unwrap_or(DISK_BYTES),
        dir: Some(stage.dir.join("encryption")),
        ..ClusterOptions::default()
    };
    let binaries = stage.binaries()?;
    progress::during("encryption: starting three engines", |_| {
        let mut cluster = Cluster::prepare(binaries, &options)?;
        let keys = cluster.dir().join("master-keys");
        fs::write(&keys, format!("main 1 {}\n", "a1".repeat(32)))
            .and_then(|()| fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)))
            .with_context(|| format!("cannot write {}", keys.display()))?;
        for engine in &mut cluster.engines {
            engine.config.master_keys = Some(keys.clone());
        }
        cluster.found(options.disk_bytes)?;
        cluster.create_volume(VOLUMES[0], VOLUME_BYTES)?;
        let size = VOLUME_BYTES.to_string();
        let create = ["volume", "create", VOLUMES[1], "--size", &size, "--encrypted"];
        cluster.cairn().args(create).ok()?;
        Ok(cluster)
    })
}

fn median(rounds: &[Figures], figure: impl Fn(&Figures) -> f64) -> f64 {
    let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}
