//! Seeds that have caught seeded faults: where a hunt begins, not what it relies on. A change of what is drawn makes them
//! stale, and the hunt goes on from its first seed.

use cairn_core::mutation::Mutation;

/// The seed that caught a fault last.
pub(crate) const fn known_seed(mutation: Mutation) -> u64 {
    match mutation {
        Mutation::FailedFlushTrusted | Mutation::ReencryptedOnResend => 2,
        Mutation::LeaseTooLong
        | Mutation::LeaseFromArrival
        | Mutation::OldSlotDropped
        | Mutation::MergeKeepsAll
        | Mutation::SnapshotAtAnotherIndex
        | Mutation::AppliedOutOfOrder
        | Mutation::HardStateForgotten
        | Mutation::FramesOutOfOrder => 3,
        Mutation::EdgesInCipher | Mutation::UnalignedInClear => 4,
        Mutation::LeaseKeptOnTransfer
        | Mutation::MergeDropsAll
        | Mutation::OverlapsUnlocked
        | Mutation::BaseDroppedTooEarly => 5,
        Mutation::ReadsBeforeOwnTerm | Mutation::CatchUpEndsEarly | Mutation::KeepsWhatItHasNot => 6,
        Mutation::ReceivedPayloadUnchecked | Mutation::StateForgetsTrims | Mutation::MembersForgotten => 7,
        Mutation::ReadUnchecked => 10,
        Mutation::RepairUnchecked => 11,
        Mutation::EpochUnchecked => 13,
        Mutation::FlattenOverwritesNewer | Mutation::TrimShowsBase => 16,
        Mutation::EdgesBeforeAttachment => 19,
        Mutation::ResumesAfterTheft => 20,
        Mutation::ReadsWithoutLease | Mutation::EmptyAppendJoined => 22,
        Mutation::VotesAfterRestart => 23,
        Mutation::TailPayloadUnchecked => 25,
        Mutation::DamageTakenForTorn => 30,
        Mutation::CommitOneTooFar => 42,
        Mutation::StageForgetsCommit => 55,
        Mutation::ScrubUnchecked => 78,
        Mutation::ResendsUnderSameEpoch => 98,
        Mutation::MovedAgain => 101,
        // Most are caught by the first.
        _ => 1,
    }
}
