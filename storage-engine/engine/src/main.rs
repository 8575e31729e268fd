//! `cairn-engine`: see the crate's documentation.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use cairn_engine::args::Args;
use cairn_engine::config::{COMMENTED_DEFAULT, Config};
use cairn_engine::disks::real::Reactors;
use cairn_engine::{daemon, logs};
use clap::Parser as _;

/// The configuration or the command line is wrong.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    if args.print_config {
        return match std::io::stdout().write_all(COMMENTED_DEFAULT.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let Some(path) = &args.config else {
        return ExitCode::from(EXIT_USAGE);
    };
    let config = match Config::load(path, &args.overrides()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("cairn-engine: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if args.check {
        eprintln!("cairn-engine: {} is valid", path.display());
        return ExitCode::SUCCESS;
    }
    logs::start(&config.log);
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> Result<(), daemon::DaemonError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("cairn-control")
        .build()
        .map_err(daemon::DaemonError::Runtime)?;
    let disks = Arc::new(Reactors::new(config.nbd.move_leadership));
    let result = runtime.block_on(daemon::run(config, disks, daemon::signalled()));
    // What still runs has nothing left to do; waiting for it could only delay the end.
    runtime.shutdown_background();
    result
}
