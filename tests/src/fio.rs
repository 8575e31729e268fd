//! fio, as a judge from outside: jobs over its `nbd` engine or on a file, and the figures of its JSON.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::Tool;

/// What a job works on.
#[derive(Debug, Clone)]
pub enum Target {
    /// An NBD URI.
    Nbd(String),
    /// A file that was written before, with `O_DIRECT`; writes with `O_DSYNC`.
    File(String),
}

/// One job.
#[derive(Debug, Clone)]
pub struct Job {
    target: Target,
    args: Vec<String>,
    timeout: Duration,
    dir: PathBuf,
}

/// What a job reached.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// Requests a second.
    pub iops: f64,
    /// MiB a second.
    pub mib_per_s: f64,
    /// Median latency, microseconds.
    pub p50_us: f64,
    /// 99th percentile of the latency, microseconds.
    pub p99_us: f64,
    /// Bytes moved.
    pub bytes: u64,
    /// Requests done.
    pub requests: u64,
    /// Requests that failed, or blocks that did not verify.
    pub errors: u64,
}

impl Job {
    /// A job with `rw` (`randwrite`, `read`, ...), a block size and a queue depth.
    pub fn new(target: Target, rw: &str, block_size: &str, depth: u32) -> Self {
        let args = vec![
            "--name=job".to_owned(),
            format!("--rw={rw}"),
            format!("--bs={block_size}"),
            format!("--iodepth={depth}"),
            // The same offsets each time, so that a later run can verify what an earlier one wrote.
            "--randrepeat=1".to_owned(),
        ];
        Self {
            target,
            args,
            timeout: Duration::from_secs(300),
            dir: std::env::temp_dir(),
        }
    }

    /// Adds an option, `name=value`.
    #[must_use]
    pub fn with(mut self, option: &str) -> Self {
        self.args.push(format!("--{option}"));
        self
    }

    /// fio leaves what files it makes here.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Self {
        self.dir = dir.to_path_buf();
        self
    }

    /// The job must end within this time.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// Runs it; an I/O error or a block that does not verify is an error here.
    pub fn run(self) -> Result<Figures> {
        let is_write = self
            .args
            .iter()
            .any(|arg| arg.starts_with("--rw=") && arg.contains("write"));
        let verifies_only = self
            .args
            .iter()
            .any(|arg| arg == "--verify_only" || arg == "--verify_only=1");
        let mut tool = Tool::new("fio")
            .args(["--output-format=json", "--eta=never"])
            .timeout(self.timeout);
        tool = tool.dir(&self.dir);
        tool = match &self.target {
            Target::Nbd(uri) => tool.args(["--ioengine=nbd", &format!("--uri={uri}")]),
            Target::File(path) => {
                let sync = if is_write { "--sync=dsync" } else { "--sync=none" };
                tool.args(["--ioengine=io_uring", "--direct=1", sync, &format!("--filename={path}")])
            }
        };
        let ran = tool.args(&self.args).run()?;
        if ran.code != Some(0) {
            bail!(
                "`{}` exited with {:?}\n{}\n{}",
                ran.line,
                ran.code,
                ran.stderr.trim(),
                errors_in(&ran.stdout)
            );
        }
        // fio may print notes before the object.
        let start = ran
            .stdout
            .find('{')
            .with_context(|| format!("fio printed no JSON: {}", ran.text()))?;
        let report: Value = serde_json::from_str(&ran.stdout[start..]).context("fio's JSON")?;
        figures(&report, if is_write && !verifies_only { "write" } else { "read" })
    }
}

fn errors_in(stdout: &str) -> String {
    let interesting = |line: &&str| line.contains("error") || line.contains("verify") || line.contains("fio:");
    stdout
        .lines()
        .filter(interesting)
        .take(10)
        .collect::<Vec<_>>()
        .join("\n")
}

fn figures(report: &Value, side: &str) -> Result<Figures> {
    let job = &report["jobs"][0];
    let side = &job[side];
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    // fio gives the completion latency's percentiles in nanoseconds.
    let percentile = |name: &str| number(&side["clat_ns"]["percentile"][name]) / 1000.0;
    Ok(Figures {
        iops: number(&side["iops"]),
        mib_per_s: number(&side["bw_bytes"]) / f64::from(1 << 20),
        p50_us: percentile("50.000000"),
        p99_us: percentile("99.000000"),
        bytes: side["io_bytes"].as_u64().context("fio reported no bytes")?,
        requests: side["total_ios"].as_u64().context("fio reported no requests")?,
        errors: job["total_err"].as_u64().unwrap_or_default() + job["error"].as_u64().unwrap_or_default(),
    })
}
