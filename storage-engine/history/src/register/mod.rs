//! What clients were told, sector by sector, and whether it can be true: a register per 512-byte sector.
//!
//! A sector has a base value (the last acknowledged or observed one) and values that may or may not have been written:
//! those of writes under way, of writes that failed, and of writes whose client is gone. A read may return any value that
//! was possible at some moment between its start and its end; what it returns narrows down what was undecided. Two live
//! clients never write one sector at the same time, so that acknowledgements order writes.
//!
//! # Clients that are gone
//! A client that went away leaves its writes with the process that it spoke to, which may still carry them out. When the
//! process dies, they stay possible until a write of another process, begun after the death, is acknowledged: from then
//! on the attachment's epoch shuts them out, and each has either landed before or never will. A process is one life of one
//! gateway: after a restart it is another.

mod cut;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;

pub use self::cut::Cut;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OpId(pub u64);

/// Who writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Writer {
    pub client: u64,
    /// The process that carries out what the client asked for.
    pub process: u64,
    /// The client is one open device from beginning to end: it never writes under two attachments that another one came
    /// between.
    pub is_device: bool,
}

impl From<u64> for Writer {
    /// A client that lives and dies with its process.
    fn from(client: u64) -> Self {
        Self {
            client,
            process: client,
            is_device: false,
        }
    }
}

/// The operation of a value that was acknowledged already.
const NOBODY: OpId = OpId(0);

#[derive(Clone, Copy, Debug)]
struct Possible {
    op: OpId,
    value: u64,
    /// From when on it can no longer land.
    closed_at: Option<u64>,
}

#[derive(Clone, Default)]
struct Sector {
    base: u64,
    /// When the base became what it is.
    base_at: u64,
    possible: Vec<Possible>,
}

struct Write {
    writer: Writer,
    began: u64,
    sectors: Range<u64>,
    /// The stamp of its first sector, rising by one a sector; 0 for zeros.
    stamp: u64,
    is_shut_out: bool,
}

struct Read {
    began: u64,
    sectors: Range<u64>,
    /// What each sector held for sure when it began.
    base: Vec<u64>,
    /// What a sector may have held beside.
    more: Vec<(u64, u64)>,
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
    IsLeft,
    Dies,
}

#[derive(Default)]
pub struct History {
    sectors: Vec<Sector>,
    writes: BTreeMap<OpId, Write>,
    /// Writes of clients that are gone, and when their process died.
    orphans: BTreeMap<OpId, (Write, Option<u64>)>,
    reads: BTreeMap<OpId, Read>,
    /// When each device was first told that a write was done.
    served: BTreeMap<u64, u64>,
    /// Writes of which it is known, without a word from whoever carries them out, that they never landed, and where.
    refuted: BTreeMap<OpId, u64>,
    op_last: u64,
    stamp_last: u64,
    log: Vec<Line>,
    pub acknowledged: u64,
    pub checked: u64,
}

fn value_at(stamp: u64, offset: u64) -> u64 {
    if stamp == 0 { 0 } else { stamp + offset }
}

fn place(sector: u64) -> usize {
    usize::try_from(sector).unwrap()
}

impl History {
    /// A history whose stamps start after `stamp`: several volumes of one run must not share any.
    pub fn with_stamps_after(stamp: u64) -> Self {
        Self {
            stamp_last: stamp,
            ..Self::default()
        }
    }

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
        self.log.push(Line {
            at,
            sectors: write.sectors.clone(),
            what,
            client: write.writer.client,
            stamp: write.stamp,
            op,
        });
    }

    fn sectors_of(&mut self, range: &Range<u64>) -> &mut [Sector] {
        let (start, end) = (place(range.start), place(range.end));
        if self.sectors.len() < end {
            self.sectors.resize(end, Sector::default());
        }
        &mut self.sectors[start..end]
    }

    /// Whether a write of a live client is under way in the range.
    pub fn is_being_written(&self, sectors: &Range<u64>) -> bool {
        self.writes
            .values()
            .any(|write| write.sectors.start < sectors.end && sectors.start < write.sectors.end)
    }

    /// Whether a write of a live client of this process is under way in the range.
    pub fn is_being_written_by(&self, process: u64, sectors: &Range<u64>) -> bool {
        self.writes.values().any(|write| {
            write.writer.process == process && write.sectors.start < sectors.end && sectors.start < write.sectors.end
        })
    }

    pub fn begin_write(&mut self, now: u64, writer: impl Into<Writer>, sectors: Range<u64>, stamp: u64) -> OpId {
        let writer = writer.into();
        assert!(!self.is_being_written_by(writer.process, &sectors));
        let op = self.next_op();
        for (offset, sector) in (0..).zip(self.sectors_of(&sectors)) {
            sector.possible.push(Possible {
                op,
                value: value_at(stamp, offset),
                closed_at: None,
            });
        }
        for read in self.reads.values_mut() {
            let common = read.sectors.start.max(sectors.start)..read.sectors.end.min(sectors.end);
            read.more
                .extend(common.map(|place| (place, value_at(stamp, place - sectors.start))));
        }
        let write = Write {
            writer,
            began: now,
            sectors,
            stamp,
            is_shut_out: false,
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
        if let Some(sector) = self.refuted.remove(&op) {
            panic!(
                "the write {op:?} was acknowledged at {now}, though it never landed in sector {sector}:\n{}",
                self.story_of(sector)
            );
        }
        for (offset, sector) in (0..).zip(self.sectors_of(&write.sectors)) {
            sector.landed(now, op, value_at(write.stamp, offset), write.began);
        }
        self.shut_out(now, &write);
        if write.writer.is_device {
            self.served.entry(write.writer.client).or_insert(now);
        }
    }

    /// The write `by` was acknowledged: what can land no more closes, and where `by` wrote it is gone.
    fn shut_out(&mut self, now: u64, by: &Write) {
        let served = &self.served;
        let is_older = |write: &Write, died: Option<u64>| {
            let served = served.get(&write.writer.client).filter(|_| write.writer.is_device);
            let is_device_older = served.is_some_and(|served| *served < by.began);
            let is_dead_longer = died.is_some_and(|died| died < by.began);
            write.writer.process != by.writer.process && !write.is_shut_out && (is_device_older || is_dead_longer)
        };
        let mut shut: Vec<(OpId, Range<u64>)> = Vec::new();
        for (op, write) in &mut self.writes {
            if is_older(write, None) {
                write.is_shut_out = true;
                shut.push((*op, write.sectors.clone()));
            }
        }
        self.orphans.retain(|op, (write, died)| {
            let is_kept = !is_older(write, *died);
            if !is_kept {
                shut.push((*op, write.sectors.clone()));
            }
            is_kept
        });
        for (op, sectors) in shut {
            for (place, sector) in sectors.clone().zip(self.sectors_of(&sectors)) {
                if by.sectors.contains(&place) {
                    sector.possible.retain(|possible| possible.op != op);
                } else {
                    sector.close(op, now);
                }
            }
        }
    }

    /// The write failed: it may have landed before now, and will not later.
    pub fn fail(&mut self, now: u64, op: OpId) {
        let write = self.writes.remove(&op).expect("a write under way");
        self.note(now, What::Fails, op, &write);
        for sector in self.sectors_of(&write.sectors) {
            sector.close(op, now);
        }
    }

    /// The client is gone, the process that it spoke to is not: its writes may still land.
    pub fn left(&mut self, now: u64, client: u64) {
        self.orphan(now, What::IsLeft, None, |writer| writer.client == client);
    }

    /// The process is gone, and all its clients with it; what it had asked for may still land.
    pub fn died(&mut self, now: u64, process: u64) {
        for (write, died) in self.orphans.values_mut() {
            if write.writer.process == process {
                died.get_or_insert(now);
            }
        }
        self.orphan(now, What::Dies, Some(now), |writer| writer.process == process);
    }

    fn orphan(&mut self, now: u64, what: What, died: Option<u64>, is_gone: impl Fn(Writer) -> bool) {
        let gone = |(op, write): (&OpId, &Write)| is_gone(write.writer).then_some(*op);
        let ops: Vec<OpId> = self.writes.iter().filter_map(gone).collect();
        for op in ops {
            if let Some(write) = self.writes.remove(&op) {
                self.note(now, what, op, &write);
                self.orphans.insert(op, (write, died));
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
            self.orphans.insert(op, (write, Some(now)));
        }
    }

    pub fn begin_read(&mut self, now: u64, sectors: Range<u64>) -> OpId {
        let op = self.next_op();
        let (mut base, mut more) = (Vec::with_capacity(place(sectors.end - sectors.start)), Vec::new());
        for (place, sector) in sectors.clone().zip(self.sectors_of(&sectors)) {
            base.push(sector.base);
            more.extend(sector.possible.iter().map(|possible| (place, possible.value)));
        }
        let read = Read {
            began: now,
            sectors,
            base,
            more,
        };
        self.reads.insert(op, read);
        op
    }

    /// The read's client is gone, or was told an error.
    pub fn forget_read(&mut self, op: OpId) {
        self.reads.remove(&op);
    }

    /// The read returned these values, one a sector.
    pub fn end_read(&mut self, now: u64, op: OpId, reader: u64, values: &[u64]) {
        let read = self.reads.remove(&op).expect("a read under way");
        assert_eq!(values.len(), read.base.len(), "a read of another length");
        for ((place, value), base) in read.sectors.clone().zip(values).zip(&read.base) {
            self.checked += 1;
            if base != value && !read.more.contains(&(place, *value)) {
                self.report(now, place, *value, &read, reader);
            }
            self.observe(place, *value, read.began);
        }
    }

    fn observe(&mut self, number: u64, value: u64, began: u64) {
        let sector = &mut self.sectors[place(number)];
        if began < sector.base_at {
            // What was read may be older than what the sector is known to hold by now.
            return;
        }
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
        let base_at = sector.base_at;
        let is_over = |possible: &Possible| possible.closed_at.is_some_and(|closed| closed < began);
        let over: Vec<OpId> = sector
            .possible
            .iter()
            .filter(|possible| is_over(possible))
            .map(|p| p.op)
            .collect();
        sector.possible.retain(|possible| !is_over(possible));
        if decided.is_some() {
            // The others may have landed before what was read.
            return;
        }
        for op in over {
            // It began when the sector held what it still holds, and can land no more.
            if self.writes.get(&op).is_some_and(|write| write.began > base_at) {
                self.refuted.insert(op, number);
            }
        }
    }

    /// Whether the sector may hold the value now.
    pub fn may_hold(&self, sector: u64, value: u64) -> bool {
        let Some(sector) = self.sectors.get(place(sector)) else {
            return value == 0;
        };
        sector.base == value || sector.possible.iter().any(|possible| possible.value == value)
    }

    /// Everything that is known of a sector, in lines.
    pub fn story_of(&self, sector: u64) -> String {
        let mut text = String::new();
        for line in self.log.iter().filter(|line| line.sectors.contains(&sector)) {
            let Line {
                at,
                sectors,
                what,
                client,
                stamp,
                op,
            } = line;
            text.push_str(&format!(
                "  {at:>14} client {client}, {op:?} of {stamp} to {sectors:?} {what:?}\n"
            ));
        }
        text
    }

    fn report(&self, now: u64, sector: u64, value: u64, read: &Read, reader: u64) -> ! {
        let base = read.base[place(sector - read.sectors.start)];
        let more = read
            .more
            .iter()
            .filter(|(at, _)| *at == sector)
            .map(|(_, value)| *value);
        let possible: Vec<u64> = std::iter::once(base).chain(more).collect();
        panic!(
            "sector {sector} read as {value} by client {reader} from {} to {now}; possible were {possible:?}\n{}",
            read.began,
            self.story_of(sector)
        );
    }
}

impl Sector {
    /// A write that began at `began` was acknowledged.
    fn landed(&mut self, now: u64, op: OpId, value: u64, began: u64) {
        let Some(own) = self.possible.iter().position(|possible| possible.op == op) else {
            // It was seen already, or overwritten by what shut it out.
            return;
        };
        self.possible.swap_remove(own);
        // What could no longer land when this write began has landed before it, if ever.
        self.possible
            .retain(|possible| possible.closed_at.is_none_or(|closed| closed >= began));
        if self.base_at > began {
            // What is known to be here was learnt while this write was under way: it may be the later one.
            self.possible.push(Possible {
                op: NOBODY,
                value: self.base,
                closed_at: Some(now),
            });
        }
        (self.base, self.base_at) = (value, now);
    }

    fn close(&mut self, op: OpId, now: u64) {
        for possible in self.possible.iter_mut().filter(|possible| possible.op == op) {
            possible.closed_at = Some(now);
        }
    }
}
