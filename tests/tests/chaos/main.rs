//! Three minutes of faults on real processes. `CAIRN_CHAOS_SEED` and `CAIRN_CHAOS_SECONDS` run another seed, or longer;
//! `CAIRN_CHAOS_STORY` tells what happened in every round.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cairn_tests::Binaries;
use cairn_tests::chaos::{self, Options};

/// A number from the environment; one that cannot be read is refused.
fn number(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text
            .parse()
            .with_context(|| format!("{name} is '{text}': write a number")),
    }
}

#[test]
fn real_engines_survive_real_faults_under_a_recorded_load() -> Result<()> {
    let usual = Options::default();
    let options = Options {
        seed: number("CAIRN_CHAOS_SEED", usual.seed)?,
        time: Duration::from_secs(number("CAIRN_CHAOS_SECONDS", usual.time.as_secs())?),
        story: std::env::var_os("CAIRN_CHAOS_STORY").is_some(),
        ..usual
    };
    let figures = chaos::run(&Binaries::for_tests()?, &options, |line| println!("  {line}"))?;
    println!(
        "  {:<28} {:>8} {:>15} {:>18}",
        "fault", "injected", "longest stall s", "longest recovery s"
    );
    for (kind, of_kind) in figures.by_kind() {
        println!(
            "  {kind:<28} {:>8} {:>15.2} {:>18.2}",
            of_kind.injected,
            of_kind.longest_stall.as_secs_f64(),
            of_kind.longest_recovery.as_secs_f64()
        );
    }
    figures.lines().iter().for_each(|line| println!("  {line}"));
    ensure!(figures.requests() > 1000, "hardly any request was checked");
    Ok(())
}
