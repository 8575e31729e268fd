//! Sections that measure a core by itself, on a disk in memory.

use std::time::Duration;

use anyhow::{Context, Result};
use cairn_tests::Tool;
use serde_json::Value;

use super::Stage;

/// No measurement takes so long on a machine that is worth measuring.
const TIMEOUT: Duration = Duration::from_secs(1200);

/// Runs one measurement; gives the objects that it prints.
pub(super) fn measure(stage: &Stage, arguments: &[&str]) -> Result<Vec<Value>> {
    let ran = Tool::new(stage.core_bench()?).args(arguments).timeout(TIMEOUT).ok()?;
    let objects = ran
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("unexpected output: {line}")));
    objects.collect()
}

/// A figure of an object.
pub(super) fn number(object: &Value, name: &str) -> Result<f64> {
    object[name]
        .as_f64()
        .with_context(|| format!("there is no figure '{name}' in {object}"))
}
