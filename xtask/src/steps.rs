//! A run of steps: each shown as it starts, timed, and told again in a summary with the tests it counted.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::table;

/// Tests that ran within a step.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Those that passed.
    pub(crate) passed: u64,
    /// Those that failed.
    pub(crate) failed: u64,
}

/// How a step ended.
#[derive(Debug)]
enum Ended {
    Passed,
    Failed(String),
    Skipped(String),
}

#[derive(Debug)]
struct Step {
    name: String,
    took: Duration,
    counts: Counts,
    ended: Ended,
}

/// The steps so far.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<Step>,
}

/// What the work of a step reports when it did not fail.
#[derive(Debug)]
pub(crate) enum Report {
    /// It holds; these tests ran.
    Passed(Counts),
    /// It could not be looked at, for this reason.
    Skipped(String),
}

impl From<()> for Report {
    fn from((): ()) -> Self {
        Self::Passed(Counts::default())
    }
}

impl Steps {
    /// Runs one step. A step that fails does not keep the next from running, so that one run tells everything.
    pub(crate) fn run(&mut self, name: &str, work: impl FnOnce(&mut Counts) -> Result<Report>) {
        println!("\n==> {name}");
        let start = Instant::now();
        let mut counts = Counts::default();
        let ended = match work(&mut counts) {
            Ok(Report::Passed(more)) => {
                counts.passed += more.passed;
                Ended::Passed
            }
            Ok(Report::Skipped(reason)) => {
                println!("skipped: {reason}");
                Ended::Skipped(reason)
            }
            Err(error) => {
                println!("FAILED: {error:#}");
                Ended::Failed(format!("{error:#}"))
            }
        };
        let took = start.elapsed();
        println!("<== {name}: {:.1} s", took.as_secs_f64());
        self.done.push(Step {
            name: name.to_owned(),
            took,
            counts,
            ended,
        });
    }

    /// Prints the summary and, as the last line, `N passed, N failed`: the tests and the steps together.
    pub(crate) fn finish(&self) -> Result<()> {
        println!();
        table::print(
            &["step", "result", "tests", "seconds"],
            &self.done.iter().map(row).collect::<Vec<_>>(),
        );
        for step in &self.done {
            match &step.ended {
                Ended::Skipped(reason) => println!("note: {} was skipped: {reason}", step.name),
                Ended::Failed(reason) => {
                    println!("failed: {}: {}", step.name, reason.lines().next().unwrap_or_default());
                }
                Ended::Passed => {}
            }
        }
        let total = self.total();
        println!("{} passed, {} failed", total.passed, total.failed);
        if total.failed > 0 {
            bail!("not everything passed");
        }
        Ok(())
    }

    fn total(&self) -> Counts {
        let mut total = Counts::default();
        for step in &self.done {
            total.passed += step.counts.passed;
            total.failed += step.counts.failed;
            match step.ended {
                Ended::Passed => total.passed += 1,
                // A step whose tests failed is told by its tests; one that failed otherwise counts itself.
                Ended::Failed(_) => total.failed += u64::from(step.counts.failed == 0),
                Ended::Skipped(_) => {}
            }
        }
        total
    }
}

fn row(step: &Step) -> Vec<String> {
    let result = match step.ended {
        Ended::Passed => "passed",
        Ended::Failed(_) => "FAILED",
        Ended::Skipped(_) => "skipped",
    };
    let tests = match step.counts {
        Counts { passed: 0, failed: 0 } => String::new(),
        Counts { passed, failed: 0 } => passed.to_string(),
        Counts { passed, failed } => format!("{failed} of {} failed", passed + failed),
    };
    vec![
        step.name.clone(),
        result.to_owned(),
        tests,
        format!("{:.1}", step.took.as_secs_f64()),
    ]
}

/// Runs a command with its output shown as it comes, and counts the tests that cargo reports in it.
pub(crate) fn command(dir: &Path, program: &str, args: &[&str], counts: &mut Counts) -> Result<()> {
    command_with(dir, program, args, &[], counts)
}

/// [`command`], with environment variables.
pub(crate) fn command_with(
    dir: &Path,
    program: &str,
    args: &[&str],
    variables: &[(&str, &Path)],
    counts: &mut Counts,
) -> Result<()> {
    let line = format!("{program} {}", args.join(" "));
    println!("$ {line}");
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    for (key, value) in variables {
        command.env(key, value);
    }
    let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
    let stdout = child.stdout.take().context("the command has no output")?;
    for text in BufReader::new(stdout).lines() {
        let text = text?;
        println!("{text}");
        if let Some(found) = parse_result(&text) {
            counts.passed += found.passed;
            counts.failed += found.failed;
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// The counts of a line such as `test result: ok. 12 passed; 0 failed; 1 ignored; ...`.
fn parse_result(line: &str) -> Option<Counts> {
    let (_, rest) = line.split_once("test result: ")?;
    let number = |unit: &str| -> Option<u64> {
        let part = rest.split(';').find(|part| part.trim_end().ends_with(unit))?;
        part.trim_end()
            .strip_suffix(unit)?
            .trim_end()
            .rsplit(' ')
            .next()?
            .parse()
            .ok()
    };
    Some(Counts {
        passed: number("passed")?,
        failed: number("failed")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_cargo_prints() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(parse_result(line), Some(Counts { passed: 12, failed: 3 }));
        assert_eq!(parse_result("running 3 tests"), None);
    }

    #[test]
    fn counts_tests_and_steps_once() {
        let mut steps = Steps::default();
        steps.run("a", |counts| {
            counts.passed = 4;
            Ok(().into())
        });
        steps.run("b", |counts| {
            *counts = Counts { passed: 1, failed: 2 };
            bail!("two tests failed")
        });
        steps.run("c", |_| bail!("no tests, but failed"));
        steps.run("d", |_| Ok(Report::Skipped("no network".to_owned())));
        assert_eq!(steps.total(), Counts { passed: 6, failed: 3 });
    }
}
