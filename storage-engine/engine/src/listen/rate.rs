//! Keeps strangers from filling the log.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines a window: enough to see what is going on.
const LINES_MAX: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);

struct Window {
    since: Instant,
    lines: u32,
    suppressed: u64,
}

/// Lets [`LINES_MAX`] lines through in each window of time.
pub(super) struct RateLimit {
    window: Mutex<Window>,
}

impl RateLimit {
    pub(super) fn new() -> Self {
        Self {
            window: Mutex::new(Window {
                since: Instant::now(),
                lines: 0,
                suppressed: 0,
            }),
        }
    }

    /// Whether to log now, and if so, how many lines were swallowed since the last one that was let through.
    pub(super) fn allow(&self) -> Option<u64> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.since.elapsed() >= WINDOW {
            window.since = Instant::now();
            window.lines = 0;
        }
        if window.lines >= LINES_MAX {
            window.suppressed += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_off_after_the_first_lines() {
        let limit = RateLimit::new();
        let allowed = (0..100).filter(|_| limit.allow().is_some()).count();
        assert_eq!(allowed, LINES_MAX as usize);
    }
}
