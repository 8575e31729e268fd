//! Seeds that have caught seeded faults: where a hunt begins, not what it relies on. A change of what is drawn makes them
//! stale, and the hunt goes on from its first seed.

use cairn_core::mutation::Mutation;

/// Seeded faults that took many seeds to catch, and may take as many again after any change of the core.
pub(crate) const RARE: [Mutation; 4] = [
    Mutation::VotesAfterRestart,
    Mutation::ReceivedPayloadUnchecked,
    Mutation::TailPayloadUnchecked,
    Mutation::EmptyAppendJoined,
];

/// The seed that caught a fault last.
pub(crate) const fn known_seed(mutation: Mutation) -> u64 {
    match mutation {
        Mutation::MembersForgotten | Mutation::OverlapsUnlocked => 4,
        Mutation::EdgesBeforeAttachment => 5,
        Mutation::ResumesAfterTheft | Mutation::LeaseTooLong | Mutation::LeaseFromArrival => 6,
        Mutation::EpochUnchecked => 8,
        Mutation::HealsNextBlock => 11,
        Mutation::ReadUnchecked => 13,
        Mutation::HardStateForgotten => 14,
        Mutation::ResendsUnderSameEpoch => 23,
        Mutation::ReadsBeforeOwnTerm => 26,
        Mutation::RepairUnchecked => 32,
        Mutation::DamageTakenForTorn => 43,
        // Most are caught by the first.
        _ => 1,
    }
}
