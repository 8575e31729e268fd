//! Waiting for something to become true, with a limit and a reason when it does not.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at again. Short against every limit in use, long enough not to be a load itself.
const POLL: Duration = Duration::from_millis(50);

/// Calls `probe` until it returns a value, or fails with `what` and the probe's last reason once `limit` has passed.
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        let reason = match probe() {
            Ok(value) => return Ok(value),
            Err(reason) => reason,
        };
        if start.elapsed() >= limit {
            bail!("{what}: not so after {limit:?}: {reason:#}");
        }
        sleep(POLL);
    }
}
