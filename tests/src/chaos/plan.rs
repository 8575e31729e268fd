//! What goes wrong when, drawn from a seed.
//!
//! A round deals its faults from a shuffled deck, so that none is forgotten for long, whatever the seed. What it does to
//! disks is chosen once a round and happens to one engine only: every acknowledged block keeps at least one good copy, and
//! with the other two engines a majority that can serve. So whatever is lost, Cairn lost it.

use std::fmt;
use std::time::Duration;

use cairn_history::rng::Rng;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL to one engine, and a start later.
    Kill,
    /// SIGKILL to two at once.
    KillTwo,
    /// SIGKILL to all at once.
    KillAll,
    /// SIGTERM to one, and a start when it has ended.
    Restart,
    /// SIGSTOP to one, SIGCONT later.
    Stop,
    /// SIGSTOP to all.
    StopAll,
    /// One engine and its peers hear nothing of each other; its clients reach it.
    CutOff,
    /// Nobody reaches one engine, clients neither.
    Isolate,
    /// One engine hears nothing from its peers; they hear it.
    Deaf,
    /// Its peers hear nothing from one engine; it hears them.
    Mute,
    /// Two engines do not hear each other; both hear the third.
    PairCut,
    /// Packets to one engine are lost at random.
    Loss,
    /// Packets between all engines are lost at random.
    LossEverywhere,
    /// What one engine sends waits in a narrow queue.
    Clog,
    /// One engine and the clients hear nothing of each other.
    ClientsCut,
    /// Every connection of one volume's clients is dropped by them.
    Disconnect,
    /// The writers of a volume go to another engine, with what is in flight left behind.
    Move,
    /// The engine that holds a volume is stopped, or cut off from its peers, with writes in flight; the writers go to
    /// another engine, with or without a forced detach; and the old holder wakes up.
    TakeOver,
    /// The control API takes a volume away from its holder.
    Detach,
    /// Payload blocks of one disk change under the engine, running or not.
    Rot,
    /// A frame in the middle of one disk's log is damaged, its engine running or not: when it starts it must refuse.
    BreakLog,
    /// One engine's disk is filled by a volume of its own.
    FillDisk,
}

impl Kind {
    /// All kinds, in the order of a report.
    pub const ALL: [Self; 22] = [
        Self::Kill,
        Self::KillTwo,
        Self::KillAll,
        Self::Restart,
        Self::Stop,
        Self::StopAll,
        Self::CutOff,
        Self::Isolate,
        Self::Deaf,
        Self::Mute,
        Self::PairCut,
        Self::Loss,
        Self::LossEverywhere,
        Self::Clog,
        Self::ClientsCut,
        Self::Disconnect,
        Self::Move,
        Self::TakeOver,
        Self::Detach,
        Self::Rot,
        Self::BreakLog,
        Self::FillDisk,
    ];

    /// As a report names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill one",
            Self::KillTwo => "kill two at once",
            Self::KillAll => "kill all at once",
            Self::Restart => "orderly restart",
            Self::Stop => "stop one",
            Self::StopAll => "stop all",
            Self::CutOff => "cut off from peers",
            Self::Isolate => "cut off from everybody",
            Self::Deaf => "deaf to peers (one way)",
            Self::Mute => "mute to peers (one way)",
            Self::PairCut => "two cut off from each other",
            Self::Loss => "packet loss at one",
            Self::LossEverywhere => "packet loss everywhere",
            Self::Clog => "clogged way out",
            Self::ClientsCut => "clients cut off",
            Self::Disconnect => "clients drop connections",
            Self::Move => "writers move",
            Self::TakeOver => "taken from a sleeping holder",
            Self::Detach => "forced detach",
            Self::Rot => "payload blocks corrupted",
            Self::BreakLog => "log frame corrupted",
            Self::FillDisk => "disk filled",
        }
    }

    /// How often it is in a deck; what happens to disks is dealt apart.
    fn copies(self) -> usize {
        match self {
            Self::Kill | Self::Stop | Self::TakeOver => 3,
            Self::KillAll | Self::CutOff | Self::Move | Self::Rot => 2,
            Self::BreakLog | Self::FillDisk => 0,
            _ => 1,
        }
    }

    /// How long it lasts, in milliseconds, from and to. Both sides of the election time-out of a second, and of the five
    /// seconds after which a holder counts as gone.
    fn lengths_ms(self) -> (u64, u64) {
        match self {
            Self::Kill | Self::KillTwo | Self::KillAll => (0, 5_000),
            Self::Stop | Self::CutOff | Self::Isolate | Self::Deaf | Self::Mute | Self::PairCut => (200, 8_000),
            Self::ClientsCut => (500, 8_000),
            Self::TakeOver => (600, 9_000),
            Self::StopAll => (200, 4_000),
            Self::Loss | Self::LossEverywhere | Self::Clog => (2_000, 8_000),
            _ => (0, 0),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

/// Whom a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Victim {
    /// This engine.
    Engine(usize),
    /// The engine through which this volume is written at that moment; leadership follows it there.
    Holder(usize),
    /// The engine that leads this volume at that moment, as far as anybody can tell.
    Leader(usize),
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Episode {
    pub(super) kind: Kind,
    pub(super) victim: Victim,
    /// Another engine, counted on from the victim: 1 or 2.
    pub(super) step: usize,
    /// The volume of a fault that hits a volume.
    pub(super) volume: usize,
    /// Since the round's start.
    pub(super) at: Duration,
    pub(super) length: Duration,
    /// A number for whatever the kind needs.
    pub(super) amount: u64,
}

/// What a round does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) episodes: Vec<Episode>,
    /// The one engine whose disk is damaged.
    pub(super) damaged: usize,
    /// Leadership stays where elections put it, instead of following the writers: then a holder and its leader are two
    /// engines most of the time, and what a holder sent can be late without being lost.
    pub(super) keeps_leadership: bool,
}

/// Draws a round of so many engines and volumes; nothing begins in its last seconds.
pub(super) fn draw(seed: u64, length: Duration, engines: usize, volumes: usize) -> Plan {
    let mut rng = Rng::new(seed ^ 0x504C_414E);
    let damaged = rng.pick(engines);
    let keeps_leadership = rng.chance(40);
    let mut deck = shuffled(&mut rng);
    let mut episodes = Vec::new();
    let mut at = Duration::from_millis(rng.between(800, 2_000));
    while at + Duration::from_secs(2) < length {
        let kind = match deck.pop() {
            Some(kind) => kind,
            None => {
                deck = shuffled(&mut rng);
                continue;
            }
        };
        let episode = one(&mut rng, kind, at, engines, volumes);
        // Usually the next fault waits for the end of this one and a little longer; sometimes it comes on top.
        let pause = Duration::from_millis(rng.between(300, 2_500));
        at += if rng.chance(25) { pause } else { episode.length + pause };
        episodes.push(episode);
    }
    // Damage that lasts comes in the second half, so that the first half has three whole engines.
    let lasting = match seed % 3 {
        0 => Some(Kind::BreakLog),
        1 => Some(Kind::FillDisk),
        _ => None,
    };
    if let Some(kind) = lasting {
        let at = length.mul_f64(0.5) + Duration::from_millis(rng.below(4_000));
        let mut episode = one(&mut rng, kind, at, engines, volumes);
        episode.victim = Victim::Engine(damaged);
        episodes.push(episode);
        episodes.sort_by_key(|episode| episode.at);
    }
    Plan {
        episodes,
        damaged,
        keeps_leadership,
    }
}

fn shuffled(rng: &mut Rng) -> Vec<Kind> {
    let mut deck: Vec<Kind> = Kind::ALL
        .into_iter()
        .flat_map(|kind| std::iter::repeat_n(kind, kind.copies()))
        .collect();
    for last in (1..deck.len()).rev() {
        deck.swap(last, rng.pick(last + 1));
    }
    deck
}

fn one(rng: &mut Rng, kind: Kind, at: Duration, engines: usize, volumes: usize) -> Episode {
    let volume = rng.pick(volumes);
    let (shortest, longest) = kind.lengths_ms();
    // Half of the faults are short: the edges of time-outs lie there.
    let longest = if rng.chance(50) {
        shortest + (longest - shortest) / 4
    } else {
        longest
    };
    Episode {
        kind,
        victim: match rng.below(100) {
            0..35 => Victim::Holder(volume),
            35..70 => Victim::Leader(volume),
            _ => Victim::Engine(rng.pick(engines)),
        },
        step: 1 + rng.pick(engines.saturating_sub(1)),
        volume,
        at,
        length: Duration::from_millis(rng.between(shortest, longest)),
        amount: rng.draw(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const ROUND: Duration = Duration::from_secs(45);

    #[test]
    fn the_same_seed_gives_the_same_plan() {
        assert_eq!(draw(7, ROUND, 3, 2), draw(7, ROUND, 3, 2));
        assert_ne!(draw(7, ROUND, 3, 2), draw(8, ROUND, 3, 2));
    }

    #[test]
    fn a_few_rounds_have_every_kind() {
        let kinds: BTreeSet<Kind> = (0..12)
            .flat_map(|seed| draw(seed, ROUND, 3, 2).episodes)
            .map(|episode| episode.kind)
            .collect();
        assert_eq!(kinds, Kind::ALL.into_iter().collect());
    }

    #[test]
    fn lasting_damage_hits_one_engine_only() {
        for seed in 0..50 {
            let plan = draw(seed, ROUND, 3, 2);
            for episode in plan.episodes.iter().filter(|episode| episode.kind.copies() == 0) {
                assert_eq!(episode.victim, Victim::Engine(plan.damaged));
                assert!(episode.at >= ROUND / 2);
            }
        }
    }
}
