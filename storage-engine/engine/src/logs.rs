//! The log: one line an event, to stderr.

use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{LogConfig, LogFormat};

/// Starts logging as configured. A second call changes nothing.
pub fn start(config: &LogConfig) {
    // The configuration has been checked; should the filter be refused all the same, everything at `info` is better
    // than silence.
    let targets: Targets = config
        .level
        .parse()
        .unwrap_or_else(|_| Targets::new().with_default(tracing_subscriber::filter::LevelFilter::INFO));
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = match config.format {
        LogFormat::Human => layer.with_target(false).with_ansi(false).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    // An error means that a subscriber stands already, as in tests.
    let _ = tracing_subscriber::registry()
        .with(layer.with_filter(targets))
        .try_init();
}
