//! Seeds that have caught seeded faults: where a hunt begins, not what it relies on. A change of what is drawn makes them
//! stale, and the hunt goes on from its first seed.

use cairn_core::mutation::Mutation;

/// The seed that caught a fault last.
pub(crate) const fn known_seed(mutation: Mutation) -> u64 {
    match mutation {
        Mutation::ReencryptedOnResend => 2,
        Mutation::EpochUnchecked
        | Mutation::LeaseTooLong
        | Mutation::LeaseFromArrival
        | Mutation::OldSlotDropped
        | Mutation::MergeDropsAll
        | Mutation::MergeKeepsAll
        | Mutation::SnapshotAtAnotherIndex
        | Mutation::AppliedOutOfOrder
        | Mutation::MembersForgotten
        | Mutation::FramesOutOfOrder
        | Mutation::FailedFlushTrusted => 3,
        Mutation::ResumesAfterTheft | Mutation::EdgesInCipher | Mutation::UnalignedInClear => 4,
        Mutation::LeaseKeptOnTransfer | Mutation::CommitOneTooFar | Mutation::OverlapsUnlocked => 5,
        Mutation::CatchUpEndsEarly | Mutation::KeepsWhatItHasNot => 6,
        Mutation::ReceivedPayloadUnchecked | Mutation::StateForgetsTrims => 7,
        Mutation::ReadsBeforeOwnTerm => 8,
        Mutation::ReadUnchecked => 10,
        Mutation::RepairUnchecked | Mutation::HardStateForgotten | Mutation::EdgesBeforeAttachment => 11,
        Mutation::TailPayloadUnchecked => 15,
        Mutation::ResendsUnderSameEpoch => 16,
        Mutation::ReadsWithoutLease => 22,
        Mutation::DamageTakenForTorn => 30,
        Mutation::StageForgetsCommit => 63,
        Mutation::EmptyAppendJoined => 70,
        Mutation::ScrubUnchecked => 78,
        Mutation::VotesAfterRestart => 92,
        Mutation::UnreadableTakenForEnd => 133,
        // Most are caught by the first.
        _ => 1,
    }
}
