//! Seeded faults: mistakes that somebody could really make, each to be switched on by a test of the tests. A simulator that
//! lets one of them pass is not worth its name.
//!
//! The list exists only under the crate's feature `mutations`, which no engine enables. Without it [`mutated`] is the
//! constant `false` and every branch behind it is gone from the program.
//!
//! A fault belongs to one core, given to [`crate::Core::with_mutation`]: several simulations in one process do not
//! disturb each other, and a cluster may have a faulty member among sound ones.
#![cfg_attr(
    not(feature = "mutations"),
    doc = "",
    doc = "The list is not part of an engine:",
    doc = "```compile_fail",
    doc = "use cairn_core::mutation::Mutation;",
    doc = "```"
)]

/// Whether a core has a fault: `mutated!(seeded, Name)`. The constant `false` without the feature.
macro_rules! mutated {
    ($seeded:expr, $name:ident) => {{
        #[cfg(feature = "mutations")]
        let is_mutated = $seeded.has($crate::mutation::Mutation::$name);
        #[cfg(not(feature = "mutations"))]
        let is_mutated = {
            let _: &$crate::mutation::Seeded = &$seeded;
            false
        };
        is_mutated
    }};
}
pub(crate) use mutated;

/// The fault of a core, if it has one. Takes no room without the feature.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seeded {
    #[cfg(feature = "mutations")]
    mutation: Option<Mutation>,
}

#[cfg(feature = "mutations")]
impl Seeded {
    pub(crate) const fn with(mutation: Option<Mutation>) -> Self {
        Self { mutation }
    }

    pub(crate) fn has(self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }
}

/// Declares the enum and everything that must cover all of it.
#[cfg(feature = "mutations")]
macro_rules! mutations {
    ($($variant:ident, $name:literal: $fault:literal; caught by $check:literal.)*) => {
        /// A seeded fault; the sentences of each say what is wrong and which observable check should notice.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Mutation {
            $(
                #[doc = concat!($fault, "\n\nCaught by ", $check, ".")]
                $variant,
            )*
        }

        impl Mutation {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name, for command lines and reports.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),*
                }
            }

            /// What is wrong, in one sentence.
            pub const fn fault(self) -> &'static str {
                match self {
                    $(Self::$variant => $fault),*
                }
            }

            /// The observable check that should notice.
            pub const fn check(self) -> &'static str {
                match self {
                    $(Self::$variant => $check),*
                }
            }

            /// The one of this name.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|mutation| mutation.name() == name)
            }
        }
    };
}

#[cfg(feature = "mutations")]
mutations! {
    AcksBeforeMajority, "acks-before-majority":
        "A leader acknowledges a write once its own frame is durable, before any follower has it.";
        caught by "counting the media that hold an acknowledged write: fewer than a majority; or by a lost write after the leader's death".
    AcksBeforeDurable, "acks-before-durable":
        "A follower confirms entries before its own frame with them is durable.";
        caught by "counting the media that hold an acknowledged write at the moment of the reply, or a lost write after power cuts".
    EpochUnchecked, "epoch-unchecked":
        "Writes take effect whatever epoch they were made under.";
        caught by "the history: a write of a former holder, or an old copy that arrives late, undoes a later one".
    ResumesAfterTheft, "resumes-after-theft":
        "A gateway may renew its attachment although another node has attached since.";
        caught by "the history: a holder that slept sends its old writes again under a fresh epoch".
    LeaseKeptOnTransfer, "lease-kept-on-transfer":
        "A leader that hands over goes on reading under its lease.";
        caught by "the history: a stale read at the old leader while the new one serves writes".
    LeaseTooLong, "lease-too-long":
        "A lease lasts four times as long as it may, longer than the election time-out.";
        caught by "the history: a stale read at a leader that was cut off".
    LeaseFromArrival, "lease-from-arrival":
        "A lease counts from the arrival of a follower's answer instead of from the stamp that it answers.";
        caught by "the history: a stale read at a leader whose answers were delayed or who was stopped with them in its socket".
    VotesAfterRestart, "votes-after-restart":
        "A replica votes at once after a restart, though it may have promised a leader not to.";
        caught by "the history: a stale read at a leader that is cut off while a restarted follower elects another".
    ReadsWithoutLease, "reads-without-lease":
        "Whoever believes to lead answers reads, without lease or ReadIndex.";
        caught by "the history: a stale read at a leader on the small side of a partition".
    ReadsBeforeOwnTerm, "reads-before-own-term":
        "A new leader answers reads before it has applied an entry of its own term.";
        caught by "the history: a read at a new leader misses what its predecessor acknowledged".
    ReadUnchecked, "read-unchecked":
        "What the disk returns is given to clients without a look at its checksum.";
        caught by "the history: a read of bytes that nobody wrote, after rot on the leader".
    ReceivedPayloadUnchecked, "received-payload-unchecked":
        "A follower writes received payload without checking it (seeded in the codec: `cairn_format::peer::decode_body_trusting`).";
        caught by "comparing every mapped block on the media with its checksum, or reading at that follower once it leads".
    OldSlotDropped, "old-slot-dropped":
        "What the volume replaces is dropped although a snapshot shows it.";
        caught by "the history: a snapshot reads as zeros what was acknowledged before it was asked for".
    MergeDropsAll, "merge-drops-all":
        "What a deleted snapshot kept is dropped although an older one shows it.";
        caught by "the history: an older snapshot reads as zeros what was acknowledged before it was asked for".
    MergeKeepsAll, "merge-keeps-all":
        "An older snapshot inherits all that a deleted one kept, younger blocks, too.";
        caught by "the history: an older snapshot loses what it showed; or the space of a volume that does not add up".
    SnapshotAtAnotherIndex, "snapshot-at-another-index":
        "A replica that restarts makes its snapshots one entry too late.";
        caught by "comparing the replicas' digests after a restart, or a snapshot that shows what began later".
    FlattenOverwritesNewer, "flatten-overwrites-newer":
        "What is copied from a clone's base replaces what was written to the clone meanwhile.";
        caught by "the history: a block of a clone reads as its source had it, after it was written".
    BaseDroppedTooEarly, "base-dropped-too-early":
        "A clone drops its base with the first entry that fills it.";
        caught by "the history: a block of a clone that was never written reads as zeros".
    TrimShowsBase, "trim-shows-base":
        "A trim of a clone leaves a hole through which its base shows.";
        caught by "the history: a block of a clone reads as its source had it, after it was trimmed".
    RepairUnchecked, "repair-unchecked":
        "A peer's copy of a damaged block is taken without a look at its checksum, on either side.";
        caught by "the history: a read of bytes that nobody wrote, after rot of one block on two replicas".
    HealsNextBlock, "heals-next-block":
        "A repaired block is written back one block too far.";
        caught by "comparing every mapped block on the media with its checksum, after rot that was read and repaired".
    ScrubUnchecked, "scrub-unchecked":
        "Scrubbing reads everything and compares nothing.";
        caught by "comparing every mapped block on the media with its checksum, after rot and a whole pass of scrubbing".
    MovedAgain, "moved-again":
        "A restart does what was moved before the checkpoint a second time.";
        caught by "comparing every mapped block on the media with its checksum, after a restart that finds the old place in use again".
    MovedUnchecked, "moved-unchecked":
        "Collection changes the map though the block was written anew while it was moved.";
        caught by "the assertion on the counts of segments, or the history: an old version comes back".
    FreedBeforeDurable, "freed-before-durable":
        "Segments are given up when a checkpoint begins instead of when it is durable.";
        caught by "comparing each segment that is begun with what the last durable checkpoint says is free".
    ReplacedUncounted, "replaced-uncounted":
        "What an entry replaces counts as garbage twice.";
        caught by "the assertion on the counts of segments".
    DamageTakenForTorn, "damage-taken-for-torn":
        "Recovery cuts the log at any damage, whatever vouches for what was lost, and carries on.";
        caught by "a core that starts on a disk which lost acknowledged frames, and then by lost writes".
    CatchUpEndsEarly, "catch-up-ends-early":
        "Who serves the state at a mark says that a portion was the last one when there is more to come.";
        caught by "comparing the replicas block for block, or a lost write at a replica that was given a state".
    KeepsWhatItHasNot, "keeps-what-it-has-not":
        "A replica that receives a state says that it has applied more than it has, and leaves out what it then does not find.";
        caught by "comparing the replicas block for block, or a lost write at a replica that was given a state".
    StateForgetsTrims, "state-forgets-trims":
        "A replica that was given a state still shows what it had where the state has nothing.";
        caught by "comparing the replicas block for block, or the history: a read of what was trimmed".
    StageForgetsCommit, "stage-forgets-commit":
        "Recovery looks up what a replica kept of its own map before that map has applied what it had applied then.";
        caught by "a core that refuses its disk, or comparing the replicas block for block".
    UnreadableTakenForEnd, "unreadable-taken-for-end":
        "Recovery takes what it cannot read for the end of the log, if nothing vouches for it, and carries on.";
        caught by "a core that starts without what is durable on its disk, after a read error while it recovered".
    TailPayloadUnchecked, "tail-payload-unchecked":
        "Recovery believes the headers of the last frames without reading their payload.";
        caught by "comparing every mapped block on the media with its checksum after power cuts that tore payload".
    RecoveryForgetsLastEntry, "recovery-forgets-last-entry":
        "Recovery counts the last committed entry as applied without applying it.";
        caught by "comparing the replicas' digests after a restart, or a lost write at a restarted leader".
    LastBlockNotRebuilt, "last-block-not-rebuilt":
        "Recovery maps all blocks of a write but its last.";
        caught by "comparing the replicas' digests after a restart, or a lost write at a restarted leader".
    LastBlockUnmapped, "last-block-unmapped":
        "Applying a write of several blocks leaves the last one as it was.";
        caught by "the history: the last block of a longer write reads as before".
    TrimsOneBlockMore, "trims-one-block-more":
        "A trim or zeroing takes one block more than it should.";
        caught by "the history: the block behind a trim reads as zeros".
    ResizesAsToldOnly, "resizes-as-told-only":
        "A resize is applied though the volume is larger already.";
        caught by "the map, which does not shrink, once an entry with a smaller size follows one with a larger one".
    ResizeNotReplayed, "resize-not-replayed":
        "A replica that restarts has the size that its volume was created with.";
        caught by "comparing the replicas' sizes after a restart, or an entry beyond the end of a replica's map".
    RangeRefusalTrusted, "range-refusal-trusted":
        "A gateway passes a leader's refusal on although the volume is known to be about to be larger.";
        caught by "a client's error for a request within the size that it was told".
    AppliedOutOfOrder, "applied-out-of-order":
        "Neighbouring committed entries of one batch are applied in the wrong order.";
        caught by "comparing the replicas' digests after a follower took overlapping writes in one batch".
    CommitOneTooFar, "commit-one-too-far":
        "A follower takes one entry more for committed than its leader says.";
        caught by "comparing each replica's commit index with what a majority holds, or a replica that must replace what it applied, in five replicas with the leader and one follower cut off".
    HardStateForgotten, "hard-state-forgotten":
        "A replica forgets term and vote when it restarts.";
        caught by "a replica's term that is lower after a restart than before".
    MembersForgotten, "members-forgotten":
        "A replica that restarts counts the members that its group was created with.";
        caught by "the cluster standing still or electing two leaders after replaced members and restarts".
    EmptyAppendJoined, "empty-append-joined":
        "Appends are joined as raft-rs's own batching does it: also to the empty append that announces a commit, without comparing indices.";
        caught by "counting the media that hold an acknowledged write, or a lost write, with followers that come and go under load".
    FramesOutOfOrder, "frames-out-of-order":
        "A frame that is done counts as durable although the one before it is still under way.";
        caught by "counting the media that hold an acknowledged write, or a lost write after power cuts, with two frames in flight".
    FailedFlushTrusted, "failed-flush-trusted":
        "A durable write that failed is taken for done.";
        caught by "counting the media that hold an acknowledged write after a disk error, or a core that goes on after one".
    TailUnsealed, "tail-unsealed":
        "The log goes on behind a cut under the same incarnation as before.";
        caught by "an opening of a disk whose incarnation is not higher than its last one's".
    ResendsUnderSameEpoch, "resends-under-same-epoch":
        "After a failover a gateway sends writes again without taking the attachment anew.";
        caught by "the history: the first copy of a write lands after a later write of the same blocks".
    EdgesBeforeAttachment, "edges-before-attachment":
        "The partial blocks of an unaligned write are read before the volume is attached.";
        caught by "the history: an unaligned write brings back what the former holder has replaced".
    OverlapsUnlocked, "overlaps-unlocked":
        "A gateway starts overlapping writes at the same time.";
        caught by "the history: of two writes into one block one is lost".
    TweakFromRequest, "tweak-from-request":
        "The cipher counts an encrypted volume's blocks from the beginning of each part instead of the volume.";
        caught by "what clients read: a block that was written in one company and read in another is noise".
    ReencryptedOnResend, "reencrypted-on-resend":
        "A write to an encrypted volume is encrypted once more when it is sent again.";
        caught by "what clients read after a failover: a block that was sent twice is noise".
    HoleDecrypted, "hole-decrypted":
        "Blocks of an encrypted volume that were never written are decrypted.";
        caught by "what clients read: a hole is noise instead of zeros".
    EdgesInCipher, "edges-in-cipher":
        "The partial blocks of an unaligned write to an encrypted volume are merged without having been decrypted.";
        caught by "what clients read: the sectors around an unaligned write are noise".
    UnalignedInClear, "unaligned-in-clear":
        "Unaligned writes to an encrypted volume are sent and stored as they are.";
        caught by "the search for what clients have written in all messages and writes to disks".
}

#[cfg(all(test, feature = "mutations"))]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_fault_has_a_name_of_its_own_and_says_what_it_is() {
        let names: BTreeSet<&str> = Mutation::ALL.iter().map(|mutation| mutation.name()).collect();
        let sentences: BTreeSet<&str> = Mutation::ALL.iter().map(|mutation| mutation.fault()).collect();
        assert_eq!(names.len(), Mutation::ALL.len());
        assert_eq!(sentences.len(), Mutation::ALL.len());
        for mutation in Mutation::ALL {
            assert_eq!(Mutation::named(mutation.name()), Some(*mutation));
            assert!(
                mutation.fault().ends_with('.'),
                "{mutation:?} is described in a sentence"
            );
            assert!(!mutation.check().is_empty());
        }
        assert_eq!(Mutation::named("no such fault"), None);
    }

    #[test]
    fn every_fault_is_switched_on_somewhere() {
        let source = concat!(
            include_str!("machine.rs"),
            include_str!("recover.rs"),
            include_str!("gateway/mod.rs"),
            include_str!("gateway/attachment.rs"),
            include_str!("gateway/cipher.rs"),
            include_str!("gateway/complete.rs"),
            include_str!("gateway/route.rs"),
            include_str!("group/mod.rs"),
            include_str!("group/apply.rs"),
            include_str!("group/catch_up/receive.rs"),
            include_str!("group/catch_up/serve.rs"),
            include_str!("group/table.rs"),
            include_str!("group/catch_up/staging.rs"),
            include_str!("group/lease.rs"),
            include_str!("group/read.rs"),
            include_str!("group/request.rs"),
            include_str!("map/fill.rs"),
            include_str!("map/relocate.rs"),
            include_str!("space/checkpoint.rs"),
            include_str!("map/snapshots.rs"),
            include_str!("map/volume.rs"),
            include_str!("log/writer.rs"),
            include_str!("repair/ask.rs"),
            include_str!("repair/heal.rs"),
            include_str!("scrub.rs"),
            include_str!("log/recovery/evidence.rs"),
            include_str!("log/recovery/tail.rs"),
        );
        for mutation in Mutation::ALL {
            // This one is the decoder's, chosen by whoever drives the core.
            let is_elsewhere = *mutation == Mutation::ReceivedPayloadUnchecked;
            let place = format!(", {mutation:?})");
            assert!(is_elsewhere || source.contains(&place), "{mutation:?} changes nothing");
        }
    }

    #[test]
    fn a_core_has_the_fault_that_it_was_given() {
        let seeded = Seeded::with(Some(Mutation::LeaseTooLong));
        assert!(mutated!(seeded, LeaseTooLong));
        assert!(!mutated!(seeded, ReadUnchecked));
        assert!(!mutated!(Seeded::default(), LeaseTooLong));
    }
}

#[cfg(all(test, not(feature = "mutations")))]
mod tests {
    use super::*;

    #[test]
    fn without_the_feature_nothing_is_left() {
        assert_eq!(size_of::<Seeded>(), 0);
        const IS_MUTATED: bool = mutated!(Seeded {}, ThereIsNoListToNameOneOf);
        const { assert!(!IS_MUTATED) };
    }
}
