//! Progress while something takes time: a spinner with the elapsed time on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// How often the spinner turns.
const TURN: Duration = Duration::from_millis(120);

/// Runs `work` under `title`, showing that it runs, then that it is done and how long it took.
pub(crate) fn during<T>(title: &str, work: impl FnOnce(&Activity) -> Result<T>) -> Result<T> {
    let activity = Activity::begin(title);
    let start = Instant::now();
    let result = work(&activity);
    activity.end(title, start.elapsed(), result.is_ok());
    result
}

/// Something under way.
#[derive(Debug)]
pub(crate) struct Activity {
    spinner: Option<ProgressBar>,
}

impl Activity {
    fn begin(title: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { spinner: None };
        }
        let spinner = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            spinner.set_style(style);
        }
        spinner.set_message(title.to_owned());
        spinner.enable_steady_tick(TURN);
        Self { spinner: Some(spinner) }
    }

    /// Says what it is at now.
    pub(crate) fn say(&self, what: &str) {
        match &self.spinner {
            Some(spinner) => spinner.set_message(what.to_owned()),
            None => println!("    {what}"),
        }
    }

    fn end(&self, title: &str, took: Duration, worked: bool) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
        let mark = if worked { "ok " } else { "FAILED" };
        println!("{mark} {title} ({:.1} s)", took.as_secs_f64());
    }
}
