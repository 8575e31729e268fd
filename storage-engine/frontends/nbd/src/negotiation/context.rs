//! "Metadata querying": this server has one context, `base:allocation`.

use super::{Negotiation, Step};
use crate::output::Output;
use crate::wire::{ContextQueries, allocation, encode_context, reply_code};

impl Negotiation {
    pub(super) fn list_contexts(&self, option: u32, queries: ContextQueries, output: &mut Output) -> Step {
        if queries.lists_allocation() {
            // The id is reserved in lists and is to be zero.
            output.encode(|buffer| encode_context(buffer, option, 0, allocation::NAME));
        }
        self.reply(output, option, reply_code::ACK, "")
    }

    pub(super) fn set_contexts(
        &mut self,
        option: u32,
        name: String,
        queries: ContextQueries,
        output: &mut Output,
    ) -> Step {
        if queries.selects_allocation() {
            output.encode(|buffer| encode_context(buffer, option, allocation::ID, allocation::NAME));
            self.allocation_for = Some(name);
        }
        self.reply(output, option, reply_code::ACK, "")
    }
}
