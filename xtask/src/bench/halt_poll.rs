//! What a virtual machine's kernel does before it halts a processor that has nothing to do.
//!
//! To wake a halted virtual processor takes tens of microseconds, and a write at depth 1 goes through a dozen wake-ups one
//! after another. Linux can therefore poll for a moment first (`guest_halt_poll_ns`, 200 us unless set otherwise; see
//! Documentation/virt/guest-halt-polling.rst). Whether it does decides a good part of every latency on such a machine, the
//! raw disk's too, so the benchmark says it, and can set it for its own duration.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};

const SETTING: &str = "/sys/module/haltpoll/parameters/guest_halt_poll_ns";

/// The setting as it was found; put back when this is dropped.
#[derive(Debug)]
pub(super) struct HaltPoll {
    /// Nanoseconds before this; nothing where the kernel has no such setting.
    found_ns: Option<u64>,
    changed: bool,
}

impl HaltPoll {
    /// Reads the setting, and changes it if asked to.
    pub(super) fn set(wanted_us: Option<u32>) -> Result<Self> {
        let found_ns = match fs::read_to_string(SETTING) {
            Ok(text) => Some(
                text.trim()
                    .parse()
                    .with_context(|| format!("{SETTING} holds {text:?}"))?,
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {SETTING}")),
        };
        if let Some(wanted_us) = wanted_us {
            anyhow::ensure!(
                found_ns.is_some(),
                "--halt-poll-us: this kernel has no {SETTING} (not a virtual machine, or another idle governor)"
            );
            write(u64::from(wanted_us) * 1000)?;
        }
        Ok(Self {
            found_ns,
            changed: wanted_us.is_some(),
        })
    }

    /// A line for people.
    pub(super) fn line(&self) -> Result<String> {
        if !Path::new(SETTING).exists() {
            return Ok("halt polling: not a setting of this kernel".to_owned());
        }
        let now: u64 = fs::read_to_string(SETTING)?.trim().parse()?;
        let changed = if self.changed { ", for this run only" } else { "" };
        let hint = if now == 0 {
            ": every wake-up of an idle processor waits for the hypervisor; compare --halt-poll-us 200, the kernel's default"
        } else {
            ""
        };
        Ok(format!("guest halt polling: {} us{changed}{hint}", now / 1000))
    }
}

impl Drop for HaltPoll {
    fn drop(&mut self) {
        if let (true, Some(found_ns)) = (self.changed, self.found_ns)
            && let Err(error) = write(found_ns)
        {
            eprintln!("{error:#}; put {found_ns} back by hand");
        }
    }
}

fn write(nanos: u64) -> Result<()> {
    fs::write(SETTING, nanos.to_string()).with_context(|| format!("cannot write {nanos} to {SETTING}"))
}
