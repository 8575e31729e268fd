//! Seeds that have caught seeded faults: where a hunt begins, not what it relies on. A change of what is drawn makes them
//! stale, and the hunt goes on from its first seed.

use cairn_core::mutation::Mutation;

/// Seeded faults that took many seeds to catch, and may take as many again after any change of the core.
pub(crate) const RARE: [Mutation; 1] = [Mutation::EmptyAppendJoined];

/// The seed that caught a fault last.
pub(crate) const fn known_seed(mutation: Mutation) -> u64 {
    match mutation {
        Mutation::TailPayloadUnchecked => 2,
        Mutation::LeaseTooLong | Mutation::LeaseFromArrival | Mutation::OverlapsUnlocked => 3,
        Mutation::MembersForgotten => 4,
        Mutation::EdgesBeforeAttachment => 5,
        Mutation::ResumesAfterTheft | Mutation::ReadsWithoutLease => 6,
        Mutation::EpochUnchecked => 8,
        Mutation::VotesAfterRestart => 9,
        Mutation::HealsNextBlock => 11,
        Mutation::ReadUnchecked => 13,
        Mutation::HardStateForgotten => 14,
        Mutation::ResendsUnderSameEpoch => 23,
        Mutation::RepairUnchecked => 32,
        Mutation::ReadsBeforeOwnTerm => 36,
        Mutation::UnreadableTakenForEnd => 48,
        Mutation::DamageTakenForTorn => 50,
        Mutation::ReceivedPayloadUnchecked => 64,
        Mutation::EmptyAppendJoined => 121,
        // Most are caught by the first.
        _ => 1,
    }
}
