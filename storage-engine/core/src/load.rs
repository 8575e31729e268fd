//! What a core holds at a moment: so that its bounds can be watched, and its idleness.

/// Counts of what is under way. All of them are bounded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Load {
    /// Bytes of records that wait for a frame.
    pub log_bytes: u64,
    /// Frames on their way to the disk.
    pub frames: usize,
    /// Reads of the disk.
    pub reads: usize,
    /// Bytes queued to peers, as the core counts them.
    pub link_bytes: usize,
    /// Operations of gateways: requests of frontends and commands, the devices of some of which may be closed.
    pub operations: usize,
    /// Proposals of leaders that are not applied.
    pub proposals: usize,
    /// Append messages that wait for payload to be read back.
    pub held_messages: usize,
    /// Repaired blocks that are not back on the disk.
    pub write_backs: usize,
    /// Payload that groups keep in memory until it is durable.
    pub payload_bytes: u64,
}
