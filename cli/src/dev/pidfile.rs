//! `DIR/x/engine.pid`: the engine's process id while it runs, so that people and tests can signal one engine.

use std::fs;

use super::layout::EnginePlan;
use crate::error::{CliError, Kind};

/// Notes the process of an engine. A failure is only a missing convenience.
pub(super) fn write(engine: &EnginePlan, pid: u32) {
    if let Err(error) = fs::write(&engine.pid_file, format!("{pid}\n")) {
        crate::output::remark(&format!("{} could not be written: {error}", engine.pid_file.display()));
    }
}

/// The engine has no process any more.
pub(super) fn remove(engine: &EnginePlan) {
    let _ = fs::remove_file(&engine.pid_file);
}

/// An engine can outlive an earlier run that was killed; a second one on its disk must not be started.
pub(super) fn refuse_if_running(engine: &EnginePlan) -> Result<(), CliError> {
    let Some(pid) = fs::read_to_string(&engine.pid_file)
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok())
    else {
        return Ok(());
    };
    // The process id may belong to another program by now; the configuration file in its command line tells.
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let config = engine.config.as_os_str().as_encoded_bytes();
    if !command.split(|byte| *byte == 0).any(|argument| argument == config) {
        return Ok(());
    }
    Err(CliError::new(
        Kind::Conflict,
        format!("engine {} of an earlier run still runs as process {pid}", engine.name),
        format!("stop it: kill {pid}"),
    ))
}
