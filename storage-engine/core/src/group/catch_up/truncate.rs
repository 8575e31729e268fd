//! Forgetting the beginning of the log.
//!
//! Every replica does so by itself: what it keeps is for followers that are a little behind, and whoever is further behind is
//! given the state. An entry is forgotten when it is applied here and so many later ones are, too. A mark holds the log: who is
//! given the state at its index needs the entries behind it.

use super::super::Group;
use crate::shared::Shared;

impl Group {
    /// Forgets what need not be kept, once it is worth it.
    pub(in crate::group) fn truncate_log(&mut self, shared: &Shared) {
        let kept = shared.config.limits.log_kept_max;
        // A state machine outside reads its commands from the log, and may be given any of them again.
        if kept == 0 || self.is_external() || self.is_installing() {
            return;
        }
        let held = self.mark_state().map_or(u64::MAX, |state| state.index.get());
        let upto = self.applied.saturating_sub(kept).min(held);
        if upto > self.node.store().truncated() + kept / 8 {
            self.node.mut_store().truncate_front(upto);
        }
    }
}
