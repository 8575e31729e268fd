//! What clients were told, sector by sector, and whether it can be true: a register per 512-byte sector.
//!
//! A sector has a base value (the last acknowledged or observed one) and values that may or may not have been written:
//! those of writes under way, of writes that failed, and of writes whose client died. A read may return any value that
//! was possible at some moment between its start and its end; what it returns narrows down what was undecided. Two live
//! clients never write one sector at the same time, so that acknowledgements order writes.
//!
//! A dead client's write stays possible until another client's write, started after the death, is acknowledged: from
//! then on the attachment's epoch shuts it out, and it has either landed before or never will.

use std::collections::BTreeMap;
use std::ops::Range;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OpId(pub u64);

#[derive(Clone, Copy, Debug)]
struct Possible {
    op: OpId,
    value: u64,
    /// From when on it can no longer land.
    closed_at: Option<u64>,
}

#[derive(Default)]
struct Sector {
    base: u64,
    possible: Vec<Possible>,
}

struct Write {
    client: u64,
    began: u64,
    sectors: Range<u64>,
    /// The stamp of its first sector, rising by one a sector; 0 for zeros.
    stamp: u64,
}

struct Read {
    began: u64,
    sectors: Range<u64>,
    candidates: Vec<Vec<u64>>,
}

/// What happened when, for the report of a failure.
struct Line {
    at: u64,
    sectors: Range<u64>,
    what: What,
    client: u64,
    stamp: u64,
    op: OpId,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Begins,
    IsAcknowledged,
    Fails,
    Dies,
}

#[derive(Default)]
pub struct History {
    sectors: BTreeMap<u64, Sector>,
    writes: BTreeMap<OpId, Write>,
    /// Writes of clients that died, and when they did.
    orphans: BTreeMap<OpId, (Write, u64)>,
    reads: BTreeMap<OpId, Read>,
    op_last: u64,
    stamp_last: u64,
    log: Vec<Line>,
    pub acknowledged: u64,
    pub checked: u64,
}

fn value_at(stamp: u64, offset: u64) -> u64 {
    if stamp == 0 { 0 } else { stamp + offset }
}

impl History {
    fn next_op(&mut self) -> OpId {
        self.op_last += 1;
        OpId(self.op_last)
    }

    /// Stamps for so many sectors: the first of them.
    pub fn stamps(&mut self, sectors: u64) -> u64 {
        let first = self.stamp_last + 1;
        self.stamp_last += sectors;
        first
    }

    fn note(&mut self, at: u64, what: What, op: OpId, write: &Write) {
        let (client, stamp) = (write.client, write.stamp);
        self.log.push(Line {
            at,
            sectors: write.sectors.clone(),
            what,
            client,
            stamp,
            op,
        });
    }

    /// Whether a write of a live client is under way in the range.
    pub fn is_being_written(&self, sectors: &Range<u64>) -> bool {
        self.writes
            .values()
            .any(|write| write.sectors.start < sectors.end && sectors.start < write.sectors.end)
    }

    pub fn begin_write(&mut self, now: u64, client: u64, sectors: Range<u64>, stamp: u64) -> OpId {
        assert!(!self.is_being_written(&sectors));
        let op = self.next_op();
        for (offset, place) in (0..).zip(sectors.clone()) {
            let value = value_at(stamp, offset);
            self.sectors.entry(place).or_default().possible.push(Possible {
                op,
                value,
                closed_at: None,
            });
            for read in self.reads.values_mut().filter(|read| read.sectors.contains(&place)) {
                let index = usize::try_from(place - read.sectors.start).unwrap();
                read.candidates[index].push(value);
            }
        }
        let write = Write {
            client,
            began: now,
            sectors,
            stamp,
        };
        self.note(now, What::Begins, op, &write);
        self.writes.insert(op, write);
        op
    }

    /// The write was acknowledged.
    pub fn acknowledge(&mut self, now: u64, op: OpId) {
        let write = self.writes.remove(&op).expect("a write under way");
        self.note(now, What::IsAcknowledged, op, &write);
        self.acknowledged += 1;
        for (offset, place) in (0..).zip(write.sectors.clone()) {
            let sector = self.sectors.get_mut(&place).expect("a sector that was written");
            sector.base = value_at(write.stamp, offset);
            sector
                .possible
                .retain(|possible| possible.op != op && possible.closed_at.is_none());
        }
        self.shut_out(now, write.client, write.began, &write.sectors);
    }

    /// Writes of other clients that died before `began` can land no more; where `over` was written they are gone.
    fn shut_out(&mut self, now: u64, client: u64, began: u64, over: &Range<u64>) {
        let dead: Vec<OpId> = self
            .orphans
            .iter()
            .filter(|(_, (write, died))| write.client != client && *died < began)
            .map(|(op, _)| *op)
            .collect();
        for op in dead {
            let Some((write, _)) = self.orphans.remove(&op) else {
                continue;
            };
            for place in write.sectors {
                let Some(sector) = self.sectors.get_mut(&place) else {
                    continue;
                };
                if over.contains(&place) {
                    sector.possible.retain(|possible| possible.op != op);
                } else {
                    sector
                        .possible
                        .iter_mut()
                        .filter(|possible| possible.op == op)
                        .for_each(|possible| {
                            possible.closed_at = Some(now);
                        });
                }
            }
        }
    }

    /// The write failed: it may have landed before now, and will not later.
    pub fn fail(&mut self, now: u64, op: OpId) {
        let write = self.writes.remove(&op).expect("a write under way");
        self.note(now, What::Fails, op, &write);
        for place in write.sectors {
            let Some(sector) = self.sectors.get_mut(&place) else {
                continue;
            };
            sector
                .possible
                .iter_mut()
                .filter(|possible| possible.op == op)
                .for_each(|possible| {
                    possible.closed_at = Some(now);
                });
        }
    }

    /// The client is gone; its writes may still land.
    pub fn died(&mut self, now: u64, client: u64) {
        let ops: Vec<OpId> = self
            .writes
            .iter()
            .filter(|(_, w)| w.client == client)
            .map(|(op, _)| *op)
            .collect();
        for op in ops {
            if let Some(write) = self.writes.remove(&op) {
                self.note(now, What::Dies, op, &write);
                self.orphans.insert(op, (write, now));
            }
        }
    }

    /// The connection of a write is gone without an answer, though the client's other connections go on: the write may
    /// still land. `is_held` says that the server is known to have held the attachment for this very connection. Then
    /// the write is shut out like that of a client that died. If not, the server may take the attachment later, for this
    /// write: no other client's attachment shuts it out, and it stays possible for good.
    pub fn lost(&mut self, now: u64, op: OpId, is_held: bool) {
        let write = self.writes.remove(&op).expect("a write under way");
        self.note(now, What::Dies, op, &write);
        if is_held {
            self.orphans.insert(op, (write, now));
        }
    }

    pub fn begin_read(&mut self, now: u64, sectors: Range<u64>) -> OpId {
        let op = self.next_op();
        let candidates = sectors
            .clone()
            .map(|place| match self.sectors.get(&place) {
                None => vec![0],
                Some(sector) => std::iter::once(sector.base)
                    .chain(sector.possible.iter().map(|possible| possible.value))
                    .collect(),
            })
            .collect();
        self.reads.insert(
            op,
            Read {
                began: now,
                sectors,
                candidates,
            },
        );
        op
    }

    /// The read's client is gone.
    pub fn forget_read(&mut self, op: OpId) {
        self.reads.remove(&op);
    }

    /// The read returned these values, one a sector.
    pub fn end_read(&mut self, now: u64, op: OpId, reader: u64, values: &[u64]) {
        let read = self.reads.remove(&op).expect("a read under way");
        assert_eq!(values.len(), read.candidates.len(), "a read of another length");
        for ((place, value), candidates) in read.sectors.clone().zip(values).zip(&read.candidates) {
            self.checked += 1;
            if !candidates.contains(value) {
                self.report(now, place, *value, candidates, reader, read.began);
            }
            self.observe(place, *value, read.began);
        }
    }

    fn observe(&mut self, place: u64, value: u64, began: u64) {
        let Some(sector) = self.sectors.get_mut(&place) else {
            return;
        };
        let mut matching = sector.possible.iter().filter(|possible| possible.value == value);
        let decided = matching.next().copied();
        let is_unique = matching.next().is_none() && value != 0;
        match decided {
            Some(landed) if is_unique => {
                sector.base = value;
                sector.possible.retain(|possible| possible.op != landed.op);
            }
            // Zeros carry no stamp: they may be older than the zeroing that is possible. Nothing is decided.
            Some(_) => return,
            None if sector.base != value => return,
            None => {}
        }
        sector
            .possible
            .retain(|possible| possible.closed_at.is_none_or(|closed| closed >= began));
    }

    fn report(&self, now: u64, place: u64, value: u64, candidates: &[u64], reader: u64, began: u64) -> ! {
        let mut text = format!(
            "sector {place} read as {value} by client {reader} from {began} to {now}; possible were {candidates:?}\n"
        );
        for Line {
            at,
            sectors,
            what,
            client,
            stamp,
            op,
        } in self.log.iter().filter(|line| line.sectors.contains(&place))
        {
            text.push_str(&format!(
                "  {at:>14} client {client}, {op:?} of {stamp} to {sectors:?} {what:?}\n"
            ));
        }
        panic!("{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledged_value_must_be_read() {
        let mut history = History::default();
        let write = history.begin_write(1, 1, 0..2, 5);
        history.acknowledge(2, write);
        let read = history.begin_read(3, 0..2);
        history.end_read(4, read, 1, &[5, 6]);
    }

    #[test]
    #[should_panic(expected = "sector 0 read as 0")]
    fn a_lost_write_is_noticed() {
        let mut history = History::default();
        let write = history.begin_write(1, 1, 0..1, 5);
        history.acknowledge(2, write);
        let read = history.begin_read(3, 0..1);
        history.end_read(4, read, 1, &[0]);
    }

    #[test]
    #[should_panic(expected = "sector 0 read as 0")]
    fn what_was_seen_stays_seen() {
        let mut history = History::default();
        history.begin_write(1, 1, 0..1, 5);
        let read = history.begin_read(2, 0..1);
        history.end_read(3, read, 2, &[5]);
        let read = history.begin_read(4, 0..1);
        history.end_read(5, read, 2, &[0]);
    }

    #[test]
    #[should_panic(expected = "sector 0 read as 5")]
    fn a_dead_clients_write_may_not_land_after_the_next_attachment_was_seen_to_rule() {
        let mut history = History::default();
        history.begin_write(1, 1, 0..1, 5);
        history.died(2, 1);
        let write = history.begin_write(3, 2, 7..8, 9);
        history.acknowledge(4, write);
        let read = history.begin_read(5, 0..1);
        history.end_read(6, read, 2, &[0]);
        let read = history.begin_read(7, 0..1);
        history.end_read(8, read, 2, &[5]);
    }

    #[test]
    fn a_lost_connections_write_is_not_shut_out_by_its_own_client() {
        let mut history = History::default();
        let lost = history.begin_write(1, 1, 0..1, 5);
        history.lost(2, lost, true);
        let write = history.begin_write(3, 1, 0..1, 9);
        history.acknowledge(4, write);
        for value in [9, 5] {
            let read = history.begin_read(5, 0..1);
            history.end_read(6, read, 2, &[value]);
        }
    }

    #[test]
    #[should_panic(expected = "sector 0 read as 5")]
    fn a_lost_connections_write_is_shut_out_by_another_client() {
        let mut history = History::default();
        let lost = history.begin_write(1, 1, 0..1, 5);
        history.lost(2, lost, true);
        let write = history.begin_write(3, 2, 0..1, 9);
        history.acknowledge(4, write);
        let read = history.begin_read(5, 0..1);
        history.end_read(6, read, 2, &[5]);
    }

    #[test]
    fn what_never_held_the_attachment_may_take_it_late() {
        let mut history = History::default();
        let lost = history.begin_write(1, 1, 0..1, 5);
        history.lost(2, lost, false);
        let write = history.begin_write(3, 2, 0..1, 9);
        history.acknowledge(4, write);
        let read = history.begin_read(5, 0..1);
        history.end_read(6, read, 2, &[5]);
    }

    #[test]
    fn a_dead_clients_write_may_have_landed_before() {
        let mut history = History::default();
        history.begin_write(1, 1, 0..1, 5);
        history.died(2, 1);
        let write = history.begin_write(3, 2, 7..8, 9);
        history.acknowledge(4, write);
        let read = history.begin_read(5, 0..1);
        history.end_read(6, read, 2, &[5]);
    }
}
