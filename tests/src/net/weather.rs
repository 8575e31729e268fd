//! What goes wrong on a network at one time, as a value: the sum of the faults that are active.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// One end of a way through the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// An engine, by its index.
    Engine(usize),
    /// Where the clients are.
    Clients,
}

/// A clogged way out: the rate, and how long a packet may wait before it is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clog {
    /// Kilobits a second.
    pub rate_kbit: u64,
    /// The longest wait in the queue.
    pub wait_ms: u64,
}

/// All that goes wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Weather {
    /// Ways, from and to, on which every packet is lost.
    pub cut: BTreeSet<(End, End)>,
    /// Ways on which so many of a hundred packets are lost.
    pub lossy: BTreeMap<(End, End), u8>,
    /// Engines that send into a narrow queue.
    pub clogged: BTreeMap<usize, Clog>,
}

impl Weather {
    /// Cuts the way from one end to another; the way back stays open.
    pub fn cut(&mut self, from: End, to: End) {
        self.cut.insert((from, to));
    }

    /// Cuts both ways.
    pub fn cut_both(&mut self, one: End, other: End) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Loses some packets; where two faults meet, the worse one counts.
    pub fn lose(&mut self, from: End, to: End, percent: u8) {
        let worst = self.lossy.entry((from, to)).or_default();
        *worst = percent.max(*worst);
    }

    /// The packet filter of the namespace of `to`, which drops what must not arrive. Dropping on arrival and not on the
    /// way out keeps the sender as ignorant as it would be of a broken cable.
    pub(super) fn rules(&self, to: End, address_of: impl Fn(End) -> String) -> String {
        // Added before it is deleted, because deleting what is not there is an error; all of it takes effect at once.
        let mut text = String::from("add table inet faults; delete table inet faults");
        let dropped = self.cut.iter().filter(|way| way.1 == to).map(|way| (way.0, None));
        let lossy = self.lossy.iter().filter(|(way, _)| way.1 == to);
        let all: Vec<(End, Option<u8>)> = dropped
            .chain(lossy.map(|(way, percent)| (way.0, Some(*percent))))
            .collect();
        if all.is_empty() {
            return text;
        }
        text.push_str("; add table inet faults; ");
        text.push_str("add chain inet faults arrivals { type filter hook input priority 0; policy accept; }");
        for (from, percent) in all {
            let _ = write!(text, "; add rule inet faults arrivals ip saddr {}", address_of(from));
            if let Some(percent) = percent {
                let _ = write!(text, " numgen random mod 100 < {percent}");
            }
            text.push_str(" drop");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_filters_what_arrives_there() {
        let mut weather = Weather::default();
        weather.cut(End::Engine(0), End::Engine(1));
        weather.lose(End::Clients, End::Engine(1), 20);
        weather.lose(End::Clients, End::Engine(1), 10);
        let name = |end: End| match end {
            End::Engine(index) => format!("10.0.0.{index}"),
            End::Clients => "10.0.0.99".to_owned(),
        };
        let rules = weather.rules(End::Engine(1), name);
        assert!(rules.contains("ip saddr 10.0.0.0 drop"), "{rules}");
        assert!(
            rules.contains("ip saddr 10.0.0.99 numgen random mod 100 < 20 drop"),
            "{rules}"
        );
        assert!(!weather.rules(End::Engine(0), name).contains("drop"));
    }
}
