//! What a reactor drives: the real core, or a fake in tests.

use std::sync::Arc;

use cairn_core::event::{Effect, Event};
use cairn_core::memory::Memory;
use cairn_core::time::Timestamp;

/// A state machine that takes events and gives effects. The reactor calls nothing of it concurrently.
pub trait Machine: Send + 'static {
    /// Where it may make payloads of its own, from before the start on.
    fn use_memory(&mut self, _memory: Arc<dyn Memory>) {}
    /// Recovery begins: emits reads.
    fn start(&mut self, now: Timestamp, effects: &mut Vec<Effect>);
    /// Something has happened.
    fn handle(&mut self, now: Timestamp, event: Event, effects: &mut Vec<Effect>);
    /// Once after each batch of events: group commit happens here.
    fn poll(&mut self, now: Timestamp, effects: &mut Vec<Effect>);
    /// When a [`Event::Tick`] is wanted at the latest.
    fn next_deadline(&self) -> Timestamp;
}

impl Machine for cairn_core::Core {
    fn use_memory(&mut self, memory: Arc<dyn Memory>) {
        Self::use_memory(self, memory);
    }

    fn start(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        Self::start(self, now, effects);
    }

    fn handle(&mut self, now: Timestamp, event: Event, effects: &mut Vec<Effect>) {
        Self::handle(self, now, event, effects);
    }

    fn poll(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        Self::poll(self, now, effects);
    }

    fn next_deadline(&self) -> Timestamp {
        Self::next_deadline(self)
    }
}
