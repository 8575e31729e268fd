//! Where results go: stdout, as a table or as JSON. Everything else the command says goes to stderr.

use std::io::{self, Write};

use crate::args::OutputFormat;
use crate::error::CliError;
use crate::views::View;

/// The chosen format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output(pub(crate) OutputFormat);

impl Output {
    /// Prints a result.
    pub(crate) fn show(self, view: &impl View) -> Result<(), CliError> {
        let text = match self.0 {
            OutputFormat::Table => view.table(),
            OutputFormat::Json => serde_json::to_string_pretty(view)
                .map_err(|error| CliError::failed(format!("the result could not be written as JSON: {error}"), ""))?,
        };
        to_stdout(&text)
    }

    /// Prints a result while the command goes on; JSON on one line, so that a reader knows when it is complete.
    pub(crate) fn show_line(self, view: &impl View) -> Result<(), CliError> {
        match self.0 {
            OutputFormat::Table => self.show(view),
            OutputFormat::Json => {
                to_stdout(&serde_json::to_string(view).map_err(|error| {
                    CliError::failed(format!("the result could not be written as JSON: {error}"), "")
                })?)
            }
        }
    }

    /// Whether a program reads.
    pub(crate) fn is_json(self) -> bool {
        self.0 == OutputFormat::Json
    }
}

/// Writes a line to stderr. A closed stderr is nobody's loss.
pub(crate) fn remark(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn to_stdout(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush()) {
        // `cairn volume list | head -1` is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(CliError::failed(
            format!("the result could not be printed: {error}"),
            "",
        )),
        Ok(()) => Ok(()),
    }
}
