//! Faults as weather: what each does to the network.

use super::director::Active;
use super::plan::Kind;
use crate::net::{Clog, End, Weather};

/// Whether a fault is one of the network.
pub(super) fn is_weather(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::CutOff
            | Kind::Isolate
            | Kind::Deaf
            | Kind::Mute
            | Kind::PairCut
            | Kind::Loss
            | Kind::LossEverywhere
            | Kind::Clog
            | Kind::ClientsCut
    )
}

/// The sum of the active faults among so many engines.
pub(super) fn of<'a>(active: impl Iterator<Item = &'a Active>, engines: usize) -> Weather {
    let mut weather = Weather::default();
    for fault in active {
        add(&mut weather, fault, engines);
    }
    weather
}

/// Whether a holder that is to be replaced is cut off from its peers; else it is stopped.
pub(super) fn is_cut_when_taken(amount: u64) -> bool {
    amount.is_multiple_of(2)
}

/// Adds what one fault does.
pub(super) fn add(weather: &mut Weather, fault: &Active, engines: usize) {
    let Some(victim) = fault.engines.first().copied() else {
        return;
    };
    let here = End::Engine(victim);
    let peers = || (0..engines).filter(move |peer| *peer != victim).map(End::Engine);
    // Beyond a third TCP hardly moves, and the fault is no longer loss but a cut.
    let percent = u8::try_from(2 + fault.amount % 30).unwrap_or(30);
    match fault.kind {
        Kind::TakeOver if !is_cut_when_taken(fault.amount) => {}
        Kind::CutOff | Kind::TakeOver => peers().for_each(|peer| weather.cut_both(here, peer)),
        Kind::Isolate => peers()
            .chain([End::Clients])
            .for_each(|other| weather.cut_both(here, other)),
        Kind::Deaf => peers().for_each(|peer| weather.cut(peer, here)),
        Kind::Mute => peers().for_each(|peer| weather.cut(here, peer)),
        Kind::ClientsCut => weather.cut_both(here, End::Clients),
        Kind::PairCut => {
            if let Some(other) = fault.engines.get(1) {
                weather.cut_both(here, End::Engine(*other));
            }
        }
        Kind::Loss => peers().for_each(|peer| weather.lose(peer, here, percent)),
        Kind::LossEverywhere => {
            for to in 0..engines {
                for from in (0..engines).filter(|from| *from != to) {
                    weather.lose(End::Engine(from), End::Engine(to), percent / 3 + 1);
                }
            }
        }
        Kind::Clog => {
            // From a slow modem's line to one that the load just fits through.
            let clog = Clog {
                rate_kbit: 500 << (fault.amount % 6),
                wait_ms: 50 + fault.amount / 7 % 400,
            };
            weather.clogged.insert(victim, clog);
        }
        _ => {}
    }
}
