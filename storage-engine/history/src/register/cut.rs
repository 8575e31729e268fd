//! The state of a whole volume at one moment, of which only an earlier and a later one are known: what a snapshot shows.
//!
//! Each sector shows what a read between the two moments could have returned, always the same, and all of them together are
//! one state that the volume was in: if a write is to be seen, so is every write that was acknowledged before it began, or what
//! came after that. Of the moment itself this much is known: it is later than the beginning of every write that is seen, and
//! earlier than the acknowledgement of every write that came behind what is seen at its place.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::{History, OpId, What, value_at};

/// See the module.
#[derive(Clone)]
pub struct Cut {
    asked: u64,
    answered: u64,
    /// What each sector held for sure when it was asked for.
    base: Vec<u64>,
    /// What a sector may have held beside.
    more: BTreeSet<(u64, u64)>,
    /// What was found in each sector so far.
    seen: BTreeMap<u64, u64>,
}

/// A write as the log tells it.
struct Told {
    began: u64,
    /// When it could land no more, by what its client was told.
    ended: Option<u64>,
    acknowledged: Option<u64>,
    sectors: Range<u64>,
    stamp: u64,
}

impl Cut {
    /// Sectors.
    pub fn len(&self) -> u64 {
        self.base.len() as u64
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.base.is_empty()
    }
}

impl History {
    /// Somebody asks for the state of so many sectors at one moment from now on.
    pub fn begin_cut(&mut self, now: u64, sectors: u64) -> OpId {
        self.begin_read(now, 0..sectors)
    }

    /// It was taken.
    pub fn end_cut(&mut self, now: u64, op: OpId) -> Cut {
        let read = self.reads.remove(&op).expect("a cut under way");
        Cut {
            asked: read.began,
            answered: now,
            base: read.base,
            more: read.more.into_iter().collect(),
            seen: BTreeMap::new(),
        }
    }

    /// These values, from sector `first` on, were found in it.
    pub fn check_cut(&mut self, cut: &mut Cut, first: u64, values: &[u64]) {
        for (place, value) in (first..).zip(values) {
            self.checked += 1;
            let is_possible = cut.base[super::place(place)] == *value || cut.more.contains(&(place, *value));
            assert!(
                is_possible,
                "sector {place} of the state between {} and {} is {value}, which it was not then:\n{}",
                cut.asked,
                cut.answered,
                self.story_of(place)
            );
            let before = cut.seen.insert(place, *value);
            assert!(
                before.is_none_or(|before| before == *value),
                "sector {place} of the state between {} and {} was {before:?} and is {value} now",
                cut.asked,
                cut.answered
            );
        }
    }

    /// What was found so far is of one moment.
    pub fn check_one_moment(&self, cut: &Cut) {
        let told = self.told();
        let mut writes_of: BTreeMap<u64, Vec<&Told>> = BTreeMap::new();
        for write in &told {
            for place in write.sectors.clone() {
                writes_of.entry(place).or_default().push(write);
            }
        }
        let (mut after, mut before) = ((cut.asked, None), (cut.answered, None));
        for (place, value) in &cut.seen {
            let writes = writes_of.get(place).map_or(&[][..], Vec::as_slice);
            let Some((began, ended)) = life_of(*place, *value, writes) else {
                continue;
            };
            if began > after.0 {
                after = (began, Some(*place));
            }
            let later = writes
                .iter()
                .filter(|write| ended.is_some_and(|ended| ended < write.began));
            if let Some(end) = later.filter_map(|write| write.acknowledged).min()
                && end < before.0
            {
                before = (end, Some(*place));
            }
        }
        let story = |place: Option<u64>| place.map_or_else(String::new, |place| self.story_of(place));
        assert!(
            after.0 <= before.0,
            "the state asked for at {} and there at {} is of no moment: sector {:?} shows what began at {}, and sector {:?} \
             does not show what was acknowledged at {}\n{}\n{}",
            cut.asked,
            cut.answered,
            after.1,
            after.0,
            before.1,
            before.0,
            story(after.1),
            story(before.1)
        );
    }

    fn told(&self) -> Vec<Told> {
        let mut told: BTreeMap<OpId, Told> = BTreeMap::new();
        for line in &self.log {
            let write = told.entry(line.op).or_insert_with(|| Told {
                began: line.at,
                ended: None,
                acknowledged: None,
                sectors: line.sectors.clone(),
                stamp: line.stamp,
            });
            match line.what {
                What::IsAcknowledged => (write.ended, write.acknowledged) = (Some(line.at), Some(line.at)),
                What::Fails => write.ended = Some(line.at),
                What::Begins | What::IsLeft | What::Dies => {}
            }
        }
        told.into_values().collect()
    }
}

/// When the write that left this value began, and when it could land no more; `None` if zeros may be of several.
fn life_of(place: u64, value: u64, writes: &[&Told]) -> Option<(u64, Option<u64>)> {
    if value == 0 {
        let is_zeroed = writes.iter().any(|write| write.stamp == 0);
        return (!is_zeroed).then_some((0, Some(0)));
    }
    let leaves = |write: &&&Told| write.stamp != 0 && value_at(write.stamp, place - write.sectors.start) == value;
    let write = writes.iter().find(leaves)?;
    Some((write.began, write.ended))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut_of(history: &mut History, asked: u64, answered: u64, values: &[u64]) {
        let op = history.begin_cut(asked, values.len() as u64);
        let mut cut = history.end_cut(answered, op);
        history.check_cut(&mut cut, 0, values);
        history.check_one_moment(&cut);
    }

    fn written(history: &mut History, began: u64, ended: u64, place: u64) -> u64 {
        let stamp = history.stamps(1);
        let op = history.begin_write(began, began, place..place + 1, stamp);
        history.acknowledge(ended, op);
        stamp
    }

    #[test]
    fn what_was_acknowledged_is_in_it() {
        let mut history = History::default();
        let stamp = written(&mut history, 1, 2, 0);
        cut_of(&mut history, 3, 4, &[stamp, 0]);
    }

    #[test]
    #[should_panic(expected = "which it was not then")]
    fn what_was_acknowledged_is_not_left_out() {
        let mut history = History::default();
        written(&mut history, 1, 2, 0);
        cut_of(&mut history, 3, 4, &[0, 0]);
    }

    #[test]
    #[should_panic(expected = "which it was not then")]
    fn what_begins_later_is_not_in_it() {
        let mut history = History::default();
        let op = history.begin_cut(1, 2);
        let mut cut = history.end_cut(2, op);
        let stamp = written(&mut history, 3, 4, 0);
        history.check_cut(&mut cut, 0, &[stamp, 0]);
    }

    /// Both are written while it is taken, one after the other: the later one is not there without the earlier one.
    fn two_in_a_row(values: impl Fn(u64, u64) -> [u64; 2]) {
        let mut history = History::default();
        let op = history.begin_cut(1, 2);
        let first = written(&mut history, 2, 3, 0);
        let second = written(&mut history, 4, 5, 1);
        let mut cut = history.end_cut(6, op);
        history.check_cut(&mut cut, 0, &values(first, second));
        history.check_one_moment(&cut);
    }

    #[test]
    fn any_moment_will_do() {
        two_in_a_row(|_, _| [0, 0]);
        two_in_a_row(|first, _| [first, 0]);
        two_in_a_row(|first, second| [first, second]);
    }

    #[test]
    #[should_panic(expected = "is of no moment")]
    fn two_moments_are_none() {
        two_in_a_row(|_, second| [0, second]);
    }

    #[test]
    #[should_panic(expected = "is 0 now")]
    fn it_does_not_change() {
        let mut history = History::default();
        let op = history.begin_cut(1, 1);
        let stamp = written(&mut history, 2, 3, 0);
        let mut cut = history.end_cut(4, op);
        history.check_cut(&mut cut, 0, &[stamp]);
        history.check_cut(&mut cut, 0, &[0]);
    }
}
