//! Seeds that have caught seeded faults: where a hunt begins, not what it relies on. A change of what is drawn makes them
//! stale, and the hunt goes on from its first seed.

use cairn_core::mutation::Mutation;

/// The seed that caught a fault last.
pub(crate) const fn known_seed(mutation: Mutation) -> u64 {
    match mutation {
        Mutation::ReencryptedOnResend
        | Mutation::ReadUnchecked
        | Mutation::HealsNextBlock
        | Mutation::MembersForgotten => 2,
        Mutation::EpochUnchecked
        | Mutation::LeaseKeptOnTransfer
        | Mutation::LeaseTooLong
        | Mutation::OldSlotDropped
        | Mutation::MergeDropsAll
        | Mutation::MergeKeepsAll
        | Mutation::SnapshotAtAnotherIndex
        | Mutation::AppliedOutOfOrder => 3,
        Mutation::EdgesInCipher
        | Mutation::UnalignedInClear
        | Mutation::ReadsBeforeOwnTerm
        | Mutation::ReceivedPayloadUnchecked => 4,
        Mutation::OverlapsUnlocked => 5,
        Mutation::VotesAfterRestart | Mutation::RangeRefusalTrusted => 6,
        Mutation::LeaseFromArrival | Mutation::CommitOneTooFar => 7,
        Mutation::EdgesBeforeAttachment => 8,
        Mutation::ResendsUnderSameEpoch => 15,
        Mutation::StateForgetsTrims => 7,
        Mutation::StageForgetsCommit => 17,
        Mutation::ReadsWithoutLease => 22,
        Mutation::FailedFlushTrusted => 26,
        Mutation::ScrubUnchecked => 38,
        Mutation::TailPayloadUnchecked | Mutation::EmptyAppendJoined => 40,
        Mutation::UnreadableTakenForEnd => 62,
        Mutation::DamageTakenForTorn => 63,
        Mutation::HardStateForgotten => 89,
        Mutation::RepairUnchecked => 98,
        // Most are caught by the first.
        _ => 1,
    }
}
