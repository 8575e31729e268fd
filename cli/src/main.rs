//! The entry point of `cairn`: reads the command line, runs the command, turns its error into two lines and an exit code.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use cairn_cli::args::Cli;
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // One thread is plenty: the command waits for engines and disks, and computes nothing.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime could not be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(cairn_cli::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.report());
            ExitCode::from(error.kind.exit_code())
        }
    }
}
