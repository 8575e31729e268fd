//! Seeds that have caught seeded faults: where a hunt begins, not what it relies on. A change of what is drawn makes them
//! stale, and the hunt goes on from its first seed.

use cairn_core::mutation::Mutation;

/// The seed that caught a fault last.
pub(crate) const fn known_seed(mutation: Mutation) -> u64 {
    match mutation {
        Mutation::LeaseTooLong
        | Mutation::LeaseFromArrival
        | Mutation::OldSlotDropped
        | Mutation::MergeDropsAll
        | Mutation::MergeKeepsAll
        | Mutation::SnapshotAtAnotherIndex
        | Mutation::TailPayloadUnchecked
        | Mutation::FramesOutOfOrder => 3,
        Mutation::FailedFlushTrusted | Mutation::EdgesInCipher | Mutation::UnalignedInClear => 4,
        Mutation::BaseDroppedTooEarly | Mutation::MovedUnchecked | Mutation::OverlapsUnlocked => 5,
        Mutation::LeaseKeptOnTransfer | Mutation::ReadsWithoutLease | Mutation::RangeRefusalTrusted => 6,
        Mutation::StateForgetsTrims | Mutation::UnreadableTakenForEnd | Mutation::MembersForgotten => 7,
        Mutation::StageForgetsCommit | Mutation::HardStateForgotten => 9,
        Mutation::RepairUnchecked | Mutation::EdgesBeforeAttachment => 11,
        Mutation::ReadsBeforeOwnTerm | Mutation::ScrubUnchecked => 12,
        Mutation::EpochUnchecked => 15,
        Mutation::TrimShowsBase | Mutation::ResendsUnderSameEpoch => 16,
        Mutation::EmptyAppendJoined => 17,
        Mutation::ReceivedPayloadUnchecked => 19,
        Mutation::ResumesAfterTheft => 20,
        Mutation::DamageTakenForTorn => 30,
        Mutation::FreedBeforeDurable => 37,
        Mutation::CommitOneTooFar => 42,
        Mutation::FlattenOverwritesNewer => 67,
        Mutation::VotesAfterRestart => 92,
        Mutation::MovedAgain => 652,
        // Most are caught by the first.
        _ => 1,
    }
}
