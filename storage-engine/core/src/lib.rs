//! The replicated volume as a state machine: Raft groups over one disk's segment log, their block maps, and the
//! gateways that serve volumes to frontends. No thread, clock, socket or file.
#![forbid(unsafe_code)]

pub mod event;
pub mod map;
pub mod time;
