//! `cargo xtask test`: what must pass before a change lands, cheapest first.

use std::path::Path;

use anyhow::{Context, Result, bail};
use cairn_tests::Tool;
use cairn_tests::binaries::DIR_VARIABLE;
use clap::{Args, ValueEnum};

use crate::packages::{self, E2FSPROGS, FIO, GCC, IPROUTE, LIBNBD, NFTABLES, OPENSSL, PYTHON_LIBNBD, QEMU, UTIL_LINUX};
use crate::steps::{self, Counts, Report, Steps};
use crate::{root, sim, target_dir, tidy};

/// What `cargo xtask test` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cargo xtask test\n  cargo xtask test --only faults\n  \
    cargo xtask test --only format --only tidy")]
pub(crate) struct Options {
    /// Only these parts.
    #[arg(long, value_enum)]
    only: Vec<Part>,
}

/// The parts, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// `cargo fmt --check`
    Format,
    /// The rules of style that no compiler checks
    Tidy,
    /// Clippy with warnings refused
    Clippy,
    /// Bans, licences, sources and advisories of what Cairn depends on
    Deny,
    /// Unit, property and documentation tests
    Unit,
    /// Real NBD clients on a real cluster
    Clients,
    /// Disks, peers and clients that bring nonsense
    BadInput,
    /// Engines killed, stopped and started again
    Faults,
    /// Encrypted volumes: disks and wires searched for plaintext, keys rotated
    Encryption,
    /// Snapshots of real volumes, and what is made of them
    Snapshots,
    /// Every fault at random, for three minutes, on engines in networks of their own
    Chaos,
    /// Five hundred clusters in simulation, with every fault there is
    Sim,
    /// The simulator's checks themselves, on cores with seeded faults
    Mutants,
}

/// The parts that run engines as processes: the suite of each, and what it is about.
const SUITES: [(Part, &str, &str); 6] = [
    (Part::Clients, "nbd_clients", "real NBD clients"),
    (Part::BadInput, "bad_input", "bad input"),
    (Part::Faults, "faults", "kill, stop, restart"),
    (Part::Encryption, "encryption", "encrypted volumes"),
    (Part::Snapshots, "snapshots", "snapshots"),
    (Part::Chaos, "chaos", "every fault at random, three minutes"),
];

/// Runs the parts asked for, or all.
pub(crate) fn run(options: &Options) -> Result<()> {
    packages::ensure(&[
        GCC,
        FIO,
        LIBNBD,
        QEMU,
        PYTHON_LIBNBD,
        E2FSPROGS,
        OPENSSL,
        IPROUTE,
        NFTABLES,
        UTIL_LINUX,
    ])?;
    let wanted = |part: Part| options.only.is_empty() || options.only.contains(&part);
    let mut steps = Steps::default();
    if wanted(Part::Format) {
        steps.run("format", |counts| cargo(&["fmt", "--all", "--", "--check"], counts));
    }
    if wanted(Part::Tidy) {
        steps.run("tidy", |_| tidy::run(root()).map(Into::into));
    }
    if wanted(Part::Clippy) {
        let args = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
        steps.run("clippy", |counts| cargo(&args, counts));
    }
    if wanted(Part::Unit) {
        let args = ["test", "--workspace", "--exclude", "cairn-tests", "--no-fail-fast"];
        steps.run("unit and property tests", |counts| cargo(&args, counts));
        steps.run("the test harness itself", |counts| {
            cargo(&["test", "-p", "cairn-tests", "--lib"], counts)
        });
    }
    if SUITES.iter().any(|(part, ..)| wanted(*part)) {
        steps.run("build the engines", |counts| {
            cargo(&["build", "--workspace", "--bins"], counts)
        });
    }
    for (_, name, what) in SUITES.iter().filter(|(part, ..)| wanted(*part)) {
        steps.run(what, |counts| suite(name, counts));
    }
    simulate(&mut steps, wanted);
    if wanted(Part::Deny) {
        deny(&mut steps);
    }
    steps.finish()
}

/// Clusters in simulation, sound ones and such with seeded faults.
fn simulate(steps: &mut Steps, wanted: impl Fn(Part) -> bool) {
    if wanted(Part::Sim) {
        steps.run("simulation", |counts| {
            let mut args = sim::SOUND.to_vec();
            args.extend(["--seeds", "500", "--minutes", "4"]);
            cargo(&args, counts)
        });
    }
    if wanted(Part::Mutants) {
        steps.run("the seeded faults", |counts| {
            let args = [
                "test",
                "-p",
                "cairn-core",
                "--features",
                "mutations",
                "--lib",
                "mutation::",
            ];
            cargo(&args, counts)
        });
        steps.run("seeded faults are caught", |counts| {
            let mut args = sim::MUTANTS.to_vec();
            args.extend(["--mutants", "--known"]);
            cargo(&args, counts)
        });
    }
}

fn cargo(args: &[&str], counts: &mut Counts) -> Result<Report> {
    steps::command(root(), "cargo", args, counts).map(Into::into)
}

/// One integration suite, with the engines that were just built. One test at a time: each has the machine to itself, so that
/// a stall is the fault it injected and not its neighbour.
fn suite(name: &str, counts: &mut Counts) -> Result<Report> {
    let args = [
        "test",
        "-p",
        "cairn-tests",
        "--test",
        name,
        "--no-fail-fast",
        "--",
        "--test-threads=1",
        // What a suite counted is worth seeing when it passes, too.
        "--nocapture",
    ];
    let binaries = target_dir().join("debug");
    let variables: [(&str, &Path); 1] = [(DIR_VARIABLE, &binaries)];
    steps::command_with(root(), "cargo", &args, &variables, counts).map(Into::into)
}

/// What cargo-deny checks without the network, and then the advisories, which need their database.
fn deny(steps: &mut Steps) {
    steps.run("install cargo-deny", |counts| install_deny(counts).map(Into::into));
    let args = [
        "deny",
        "--all-features",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ];
    steps.run("bans, licences, sources", |counts| cargo(&args, counts));
    steps.run("advisories", |_| advisories());
}

fn install_deny(counts: &mut Counts) -> Result<()> {
    if Tool::new("cargo").args(["deny", "--version"]).ok().is_ok() {
        return Ok(());
    }
    println!("installing: cargo-deny (built from source without optimisation: some minutes)");
    // It reads a few files once; optimising it would take far longer than it could ever save.
    let profile = [
        ("CARGO_PROFILE_RELEASE_OPT_LEVEL", Path::new("0")),
        ("CARGO_PROFILE_RELEASE_LTO", Path::new("off")),
        ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", Path::new("16")),
    ];
    let args = ["install", "cargo-deny", "--locked", "--quiet"];
    steps::command_with(root(), "cargo", &args, &profile, counts).context("installing cargo-deny")
}

fn advisories() -> Result<Report> {
    let args = [
        "deny",
        "--all-features",
        "check",
        "--hide-inclusion-graph",
        "advisories",
    ];
    let ran = Tool::new("cargo").args(args).dir(root()).run()?;
    if ran.code == Some(0) {
        return Ok(().into());
    }
    if ran.text().contains("failed to fetch advisory database") {
        return Ok(Report::Skipped(
            "the advisory database cannot be reached from here".to_owned(),
        ));
    }
    println!("{}", ran.text().trim());
    bail!("an advisory without an exception in deny.toml")
}
