//! The simulator as a command: many seeds, one seed, or a scenario from a file. `cargo xtask sim` builds and runs it.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the output of this command is its purpose")]

mod args;
#[cfg(feature = "mutations")]
mod known;
#[cfg(feature = "mutations")]
mod mutants;
mod report;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use cairn_sim::campaign::{Plan, campaign};
#[cfg(not(feature = "mutations"))]
use cairn_sim::mutant::Mutant;
use cairn_sim::run::{Watch, run};
use cairn_sim::scenario::Scenario;
use cairn_sim::shrink::shrink;
use clap::Parser;

use args::Arguments;

fn main() -> ExitCode {
    match act(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does what was asked for; false if something was violated.
fn act(arguments: &Arguments) -> Result<bool> {
    #[cfg(feature = "mutations")]
    if let Some(seeds_max) = arguments.mutants {
        return mutants::hunt(arguments, seeds_max);
    }
    if let Some(path) = &arguments.scenario {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let scenario = serde_json::from_str(&text).with_context(|| format!("{} is no scenario", path.display()))?;
        return one(&scenario, arguments);
    }
    match arguments.seed {
        Some(seed) => one(&Scenario::draw(seed), arguments),
        None => many(arguments),
    }
}

fn one(scenario: &Scenario, arguments: &Arguments) -> Result<bool> {
    #[cfg(feature = "mutations")]
    let mutant = mutants::named(arguments)?;
    #[cfg(not(feature = "mutations"))]
    let mutant = Mutant::default();
    let watch = Watch {
        is_printing: arguments.trace,
        mutant,
    };
    let outcome = run(scenario, watch);
    println!("{}", serde_json::to_string_pretty(&outcome)?);
    let Some(violation) = &outcome.violation else {
        println!("seed {} holds", scenario.seed);
        return Ok(true);
    };
    report::violation(scenario.seed, violation);
    if !arguments.no_shrink && !arguments.trace {
        report::smallest(&shrink(scenario, watch, violation))?;
    }
    Ok(false)
}

fn many(arguments: &Arguments) -> Result<bool> {
    let plan = Plan {
        start: arguments.start,
        seeds: arguments
            .seeds
            .unwrap_or(if arguments.minutes.is_some() { u64::MAX } else { 100 }),
        time: arguments.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0)),
        jobs: arguments.jobs,
        failures_max: arguments.failures,
    };
    let mut progress = report::Progress::begin(&plan);
    let summary = campaign(&plan, |summary| progress.tell(summary));
    progress.end();
    report::summary(&summary);
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&summary)?;
        std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
    }
    if let (Some(failure), false) = (summary.failures.first(), arguments.no_shrink) {
        report::smallest(&shrink(
            &Scenario::draw(failure.seed),
            Watch::default(),
            &failure.violation,
        ))?;
    }
    Ok(summary.failures.is_empty())
}
