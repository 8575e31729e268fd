//! Progress on stderr, shown only where stderr is a terminal: stdout belongs to results.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a spinner turns.
const TICK: Duration = Duration::from_millis(120);

/// A spinner that says what is being waited for; gone when dropped.
pub(crate) struct Waiting(ProgressBar);

impl Waiting {
    /// Starts to turn.
    pub(crate) fn start() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(style(
            "{spinner} {wide_msg} {elapsed}",
            ProgressStyle::default_spinner(),
        ));
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// What is being waited for now.
    pub(crate) fn say(&self, what: impl Into<String>) {
        self.0.set_message(what.into());
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A bar over a known number of bytes; gone when dropped.
pub(crate) struct ByteBar(ProgressBar);

impl ByteBar {
    /// A bar of `bytes` for work that `what` names.
    pub(crate) fn start(bytes: u64, what: impl Into<String>) -> Self {
        let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
        bar.set_style(
            style(
                "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}, {eta} left",
                ProgressStyle::default_bar(),
            )
            .progress_chars("=> "),
        );
        bar.set_message(what.into());
        Self(bar)
    }

    /// So many bytes more are done.
    pub(crate) fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Drop for ByteBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A bar over a known number of things, with what is being done now; gone when dropped.
pub(crate) struct StepBar(ProgressBar);

impl StepBar {
    /// A bar that stands at its beginning.
    pub(crate) fn start() -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        bar.set_style(style(STEPS, ProgressStyle::default_bar()).progress_chars("=> "));
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// So many of so many are done, and this is what is done now.
    pub(crate) fn say(&self, done: u64, all: u64, what: impl Into<String>) {
        self.0.set_length(all);
        self.0.set_position(done);
        self.0.set_message(what.into());
    }
}

impl Drop for StepBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// The look of [`StepBar`].
const STEPS: &str = "{spinner} [{bar:20}] {pos}/{len} {wide_msg} {elapsed}";

/// The templates are constants; should one be wrong, the default look is better than no command.
fn style(template: &str, fallback: ProgressStyle) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or(fallback)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_valid() {
        for template in [
            "{spinner} {wide_msg} {elapsed}",
            "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}, {eta} left",
            STEPS,
        ] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
