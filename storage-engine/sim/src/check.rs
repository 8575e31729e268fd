//! What a run checks, and how a violation is told apart from others: the first word of its message.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use serde::{Deserialize, Serialize};

/// What was violated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Check {
    /// A block's history: each sector is a register.
    History,
    /// What a client read: whole sectors, each at its place.
    Content,
    /// An acknowledged write is on the media of a majority.
    Durable,
    /// Replicas are equal, block for block.
    Equal,
    /// What a fresh core makes of the disks is what was there before.
    Replay,
    /// Queues and memory stay within their bounds.
    Bounds,
    /// A healed majority serves.
    Liveness,
    /// Nobody reads under a lease while another leads.
    Lease,
    /// Whatever was asked for comes to an end.
    Stuck,
    /// Nothing is overwritten that the last durable checkpoint names.
    Checkpoint,
    /// A disk is given up only if something is wrong with it.
    Disk,
    /// A client is told errors only for reasons.
    Error,
    /// What clients wrote to an encrypted volume leaves no core as it is.
    Plaintext,
    /// The core, the log or raft-rs panicked.
    Panic,
}

/// A violation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Violation {
    pub check: Check,
    /// Where in the source.
    pub place: String,
    pub message: String,
}

impl Check {
    const WORDS: [(&'static str, Self); 13] = [
        ("[history] ", Self::History),
        ("[content] ", Self::Content),
        ("[durable] ", Self::Durable),
        ("[equal] ", Self::Equal),
        ("[replay] ", Self::Replay),
        ("[bounds] ", Self::Bounds),
        ("[liveness] ", Self::Liveness),
        ("[lease] ", Self::Lease),
        ("[stuck] ", Self::Stuck),
        ("[checkpoint] ", Self::Checkpoint),
        ("[disk] ", Self::Disk),
        ("[error] ", Self::Error),
        ("[plaintext] ", Self::Plaintext),
    ];
}

impl Violation {
    fn of(message: &str, place: &str) -> Self {
        let found = Check::WORDS
            .iter()
            .find_map(|(word, check)| message.strip_prefix(word).map(|rest| (*check, rest)));
        // The judges' own words are theirs to choose.
        let (check, rest) = found.unwrap_or_else(|| {
            let check = match place {
                place if place.contains("history/src/register") => Check::History,
                place if place.contains("history/src/content") => Check::Content,
                _ => Check::Panic,
            };
            (check, message)
        });
        Self {
            check,
            place: place.to_owned(),
            message: rest.to_owned(),
        }
    }
}

thread_local! {
    static IS_CATCHING: Cell<bool> = const { Cell::new(false) };
    static CAUGHT: RefCell<Option<Violation>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Runs `work`; a panic in it is a violation, and is not printed.
pub fn catching<T>(work: impl FnOnce() -> T) -> Result<T, Violation> {
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IS_CATCHING.get() {
                return before(info);
            }
            let payload = info.payload();
            let text = payload.downcast_ref::<&str>().copied();
            let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            let message = text.unwrap_or("a panic without words");
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            CAUGHT.with_borrow_mut(|caught| *caught = Some(Violation::of(message, &place)));
        }));
    });
    IS_CATCHING.set(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    IS_CATCHING.set(false);
    result.map_err(|_| {
        CAUGHT
            .with_borrow_mut(Option::take)
            .unwrap_or_else(|| Violation::of("a panic that nobody saw", ""))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_are_told_apart() {
        let violation = catching(|| panic!("[equal] node 1 differs")).unwrap_err();
        assert_eq!(
            (violation.check, violation.message.as_str()),
            (Check::Equal, "node 1 differs")
        );
        assert!(violation.place.contains("check.rs"));
        assert_eq!(
            catching(|| panic!("index out of range")).unwrap_err().check,
            Check::Panic
        );
        assert_eq!(catching(|| 7), Ok(7));
    }
}
