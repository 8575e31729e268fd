//! What a virtual machine's kernel does before it halts a processor that has nothing to do.
//!
//! To wake a halted virtual processor takes tens of microseconds, and a write at depth 1 goes through a dozen wake-ups one
//! after another. Linux can therefore poll for a moment first (`guest_halt_poll_ns`, 200 us unless set otherwise; see
//! Documentation/virt/guest-halt-polling.rst). Whether it does decides a good part of every latency on such a machine, the
//! raw disk's too, so the benchmark says it, and measures with the kernel's default unless told otherwise.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

const SETTING: &str = "/sys/module/haltpoll/parameters/guest_halt_poll_ns";

/// The kernel's own default.
const DEFAULT_US: u64 = 200;
/// More than any wake-up is worth.
const MICROS_MAX: u32 = 1000;

/// What the command line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Wanted {
    /// The kernel's default, where there is such a setting.
    #[default]
    Default,
    /// The machine as it is.
    Keep,
    /// So long.
    Micros(u32),
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "default" => Ok(Self::Default),
            "keep" => Ok(Self::Keep),
            _ => text
                .parse()
                .ok()
                .filter(|micros| *micros <= MICROS_MAX)
                .map(Self::Micros)
                .ok_or_else(|| format!("give 0 to {MICROS_MAX}, `keep` or `default`")),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::Keep => formatter.write_str("keep"),
            Self::Micros(micros) => write!(formatter, "{micros}"),
        }
    }
}

/// The setting as it was found; put back when this is dropped.
#[derive(Debug)]
pub(super) struct HaltPoll {
    /// Nanoseconds before this; nothing where the kernel has no such setting.
    found_ns: Option<u64>,
    changed: bool,
}

impl HaltPoll {
    /// Reads the setting, and changes it if asked to.
    pub(super) fn set(wanted: Wanted) -> Result<Self> {
        let found_ns = match fs::read_to_string(SETTING) {
            Ok(text) => Some(
                text.trim()
                    .parse()
                    .with_context(|| format!("{SETTING} holds {text:?}"))?,
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {SETTING}")),
        };
        let changed = match (wanted, found_ns) {
            (Wanted::Keep, _) | (Wanted::Default, None) => false,
            (Wanted::Default, Some(_)) => {
                write(DEFAULT_US * 1000)?;
                true
            }
            (Wanted::Micros(micros), Some(_)) => {
                write(u64::from(micros) * 1000)?;
                true
            }
            (Wanted::Micros(micros), None) => bail!(
                "--halt-poll-us {micros}: this kernel has no {SETTING} (not a virtual machine, or another idle governor)"
            ),
        };
        Ok(Self { found_ns, changed })
    }

    /// A line for people.
    pub(super) fn line(&self) -> Result<String> {
        if !Path::new(SETTING).exists() {
            return Ok("halt polling: not a setting of this kernel".to_owned());
        }
        let now: u64 = fs::read_to_string(SETTING)?.trim().parse()?;
        let changed = if self.changed { ", for this run only" } else { "" };
        let hint = if now == 0 {
            ": every wake-up of an idle processor waits for the hypervisor; the kernel's default is 200 us"
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_a_time_and_two_words_and_nothing_else() {
        assert_eq!("keep".parse(), Ok(Wanted::Keep));
        assert_eq!("50".parse(), Ok(Wanted::Micros(50)));
        assert_eq!(Wanted::default().to_string().parse(), Ok(Wanted::Default));
        for bad in ["", "-1", "1001", "50us"] {
            assert!(
                bad.parse::<Wanted>().is_err_and(|error| error.contains("1000")),
                "{bad}"
            );
        }
    }
}
