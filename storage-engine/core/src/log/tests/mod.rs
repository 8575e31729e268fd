//! A disk in memory, a log on it, and the tests of both writer and recovery.
#![allow(clippy::cast_possible_truncation, reason = "test data is small")]

mod properties;
mod rows;
mod writing;

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use cairn_api::ids::{DiskId, Epoch, GroupId, LogIndex, NodeId, ReplicaId, Term};
use cairn_api::units::{BLOCK_BYTES, BLOCK_SIZE, Lba};
use cairn_format::checksum::block_crcs;
use cairn_format::entry::{BlockCrcs, EntryHeader};
use cairn_format::superblock::Geometry;

use super::recovery::{LogRead, LogStart, Outcome, RecoveredRecord, Recovery, RecoverySink, Rows};
use super::{LogSettings, LogTail, LogWrite, LogWriter, Record};
use crate::event::{DiskFault, GroupSpec, IoId, Member};

pub(super) const DISK: DiskId = DiskId::from_bytes([7; 16]);
pub(super) const SECTOR: u64 = 512;

/// As small as segments may be, so that tests cross many of them.
pub(super) fn geometry(segment_count: u32) -> Geometry {
    Geometry {
        segments_start: 1 << 20,
        segment_size: 2 << 20,
        segment_count,
    }
}

/// A disk: what is on the media, sector by sector, and what cannot be read.
#[derive(Clone, Default)]
pub(super) struct TestDisk {
    sectors: BTreeMap<u64, [u8; SECTOR as usize]>,
    unreadable: BTreeSet<u64>,
    /// Reads beyond this come short.
    length: u64,
}

impl TestDisk {
    pub(super) fn new(geometry: &Geometry) -> Self {
        Self {
            sectors: BTreeMap::new(),
            unreadable: BTreeSet::new(),
            length: geometry.end(),
        }
    }

    /// Writes the sectors of `bytes` that `keep` wants, by their number within the write.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8], mut keep: impl FnMut(u64) -> bool) {
        for (number, sector) in bytes.chunks_exact(SECTOR as usize).enumerate() {
            if keep(number as u64) {
                let mut content = [0; SECTOR as usize];
                content.copy_from_slice(sector);
                self.sectors.insert(offset / SECTOR + number as u64, content);
            }
        }
    }

    pub(super) fn read(&self, offset: u64, length: u32) -> Result<Bytes, DiskFault> {
        let end = offset + u64::from(length);
        if end > self.length {
            return Err(DiskFault::Short {
                done: self.length.saturating_sub(offset),
                asked: u64::from(length),
            });
        }
        let mut bytes = BytesMut::with_capacity(length as usize);
        for sector in offset / SECTOR..end / SECTOR {
            if self.unreadable.contains(&sector) {
                return Err(DiskFault::Os("Input/output error (os error 5)".to_owned()));
            }
            bytes.extend_from_slice(self.sectors.get(&sector).unwrap_or(&[0; SECTOR as usize]));
        }
        Ok(bytes.freeze())
    }

    /// Flips bits of one byte.
    pub(super) fn flip(&mut self, offset: u64, mask: u8) {
        let sector = self.sectors.entry(offset / SECTOR).or_insert([0; SECTOR as usize]);
        sector[(offset % SECTOR) as usize] ^= mask;
    }

    /// Zeros a range of sectors.
    pub(super) fn erase(&mut self, offset: u64, length: u64) {
        for sector in offset / SECTOR..(offset + length) / SECTOR {
            self.sectors.remove(&sector);
        }
    }

    pub(super) fn make_unreadable(&mut self, offset: u64) {
        self.unreadable.insert(offset / SECTOR);
    }

    pub(super) fn heal(&mut self) {
        self.unreadable.clear();
    }

    pub(super) fn shorten(&mut self, length: u64) {
        self.length = length;
    }
}

#[derive(Default)]
pub(super) struct Collected(pub(super) Vec<RecoveredRecord>);

impl RecoverySink for Collected {
    fn record(&mut self, record: RecoveredRecord) {
        self.0.push(record);
    }
}

/// Runs recovery to its end.
pub(super) fn recover(disk: &TestDisk, geometry: &Geometry) -> (Outcome, Vec<RecoveredRecord>) {
    let (outcome, records, _) = recover_by_rows(disk, geometry);
    (outcome, records)
}

/// The same, and the rows of the decision table that it reports.
pub(super) fn recover_by_rows(disk: &TestDisk, geometry: &Geometry) -> (Outcome, Vec<RecoveredRecord>, Rows) {
    recover_with(geometry, |read| disk.read(read.offset, read.length))
}

/// The same on a disk that answers so.
pub(super) fn recover_with(
    geometry: &Geometry,
    mut answer: impl FnMut(&LogRead) -> Result<Bytes, DiskFault>,
) -> (Outcome, Vec<RecoveredRecord>, Rows) {
    let mut recovery = Recovery::new(DISK, *geometry, LogStart::default());
    let mut sink = Collected::default();
    let mut next_io = 0;
    let mut io_ids = || {
        next_io += 1;
        IoId(next_io)
    };
    let mut reads: Vec<LogRead> = Vec::new();
    recovery.start(&mut io_ids, &mut reads);
    while !reads.is_empty() {
        // The last first: completions come in any order.
        let read = reads.remove(reads.len() - 1);
        assert!(read.offset.is_multiple_of(BLOCK_BYTES) && read.length.is_multiple_of(BLOCK_SIZE) && read.length > 0);
        let result = answer(&read);
        if let Some(outcome) = recovery.completed(read.io, result, &mut io_ids, &mut reads, &mut sink) {
            return (outcome, sink.0, recovery.rows());
        }
    }
    panic!("recovery neither ended nor asked for anything");
}

/// The tail of a recovery that must have gone well.
pub(super) fn tail_of(outcome: &Outcome) -> LogTail {
    match outcome {
        Outcome::Clean { tail, .. } | Outcome::TornTail { tail, .. } => tail.clone(),
        other => panic!("recovery failed: {other:?}"),
    }
}

/// A log on a disk, and what was pushed to it.
pub(super) struct Rig {
    pub(super) geometry: Geometry,
    pub(super) settings: LogSettings,
    pub(super) disk: TestDisk,
    pub(super) writer: LogWriter,
    /// Everything pushed that may still be there, in order.
    pub(super) pushed: Vec<Record>,
    /// What was pushed to earlier openings. Until an opening is durable nobody has heard of it, and what an earlier one
    /// had left unfinished may yet turn out to have reached the disk.
    pub(super) earlier: Vec<Vec<Record>>,
    /// So many of `pushed` were there when this writer began.
    pub(super) base: usize,
    /// So many of `pushed` are durable.
    pub(super) durable: usize,
    pub(super) under_way: Vec<LogWrite>,
    next_io: u64,
    next_index: u64,
}

impl Rig {
    pub(super) fn new(segment_count: u32) -> Self {
        Self::with_settings(segment_count, LogSettings::default())
    }

    pub(super) fn with_settings(segment_count: u32, settings: LogSettings) -> Self {
        let geometry = geometry(segment_count);
        let tail = LogTail::empty(DISK, &geometry);
        Self {
            geometry,
            settings,
            disk: TestDisk::new(&geometry),
            writer: LogWriter::with_settings(DISK, geometry, tail, settings),
            pushed: Vec::new(),
            earlier: Vec::new(),
            base: 0,
            durable: 0,
            under_way: Vec::new(),
            next_io: 0,
            next_index: 0,
        }
    }

    /// An entry with so many blocks of payload, unlike any other.
    pub(super) fn entry(&mut self, blocks: u32) -> Record {
        self.next_index += 1;
        let seed = self.next_index;
        let payload: Bytes = (0..u64::from(blocks) * BLOCK_BYTES)
            .map(|place| (place.wrapping_mul(seed | 1).wrapping_add(place / BLOCK_BYTES) >> 3) as u8)
            .collect();
        let epoch = Epoch(3);
        let header = match blocks {
            0 if seed.is_multiple_of(2) => Bytes::new(),
            0 => EntryHeader::Zero {
                epoch,
                lba: Lba(seed),
                blocks: 9,
                allocate: false,
            }
            .encode(),
            _ => EntryHeader::Write {
                epoch,
                lba: Lba(seed),
                block_crcs: block_crcs(&payload),
            }
            .encode(),
        };
        Record::Entry {
            group: GroupId(2),
            term: Term(5),
            index: LogIndex(seed),
            header,
            payload,
        }
    }

    pub(super) fn hard_state(&mut self) -> Record {
        self.next_index += 1;
        Record::HardState {
            group: GroupId(2),
            term: Term(self.next_index),
            vote: ReplicaId(1),
            commit: LogIndex(self.next_index),
        }
    }

    pub(super) fn group_created(&mut self) -> Record {
        self.next_index += 1;
        let member = Member {
            replica: ReplicaId(1),
            node: NodeId::from_bytes([1; 16]),
            disk: DISK,
        };
        Record::GroupCreated {
            spec: GroupSpec {
                base: None,
                group: GroupId(2),
                size_blocks: 100,
                members: vec![member],
            },
            replica: ReplicaId(1 + self.next_index % 7),
            index: LogIndex(10),
            term: Term(1),
        }
    }

    pub(super) fn push(&mut self, record: Record) {
        self.writer.push(record.clone());
        self.pushed.push(record);
    }

    pub(super) fn push_entry(&mut self, blocks: u32) {
        let entry = self.entry(blocks);
        self.push(entry);
    }

    pub(super) fn compose(&mut self) -> usize {
        let next_io = &mut self.next_io;
        let before = self.under_way.len();
        let mut io_ids = || {
            *next_io += 1;
            IoId(*next_io)
        };
        self.writer.compose(&mut io_ids, &mut self.under_way);
        self.under_way.len() - before
    }

    /// The disk ends the write at `place` among those under way.
    pub(super) fn complete(&mut self, place: usize) {
        let write = self.under_way.remove(place);
        self.disk.write(write.offset, &concat(&write), |_| true);
        if let Some(records) = self.writer.completed(write.io) {
            // All records are of one group here.
            let last = records
                .last()
                .map_or(0, |(_, ticket)| usize::try_from(ticket.0).unwrap());
            self.durable = self.durable.max(self.base + last);
            self.earlier.clear();
        }
    }

    /// Writes until nothing is queued or under way.
    pub(super) fn settle(&mut self) {
        loop {
            self.compose();
            if self.under_way.is_empty() {
                return;
            }
            self.complete(0);
        }
    }

    /// A frame of its own for this record, durable.
    pub(super) fn write_frame(&mut self, record: Record) -> u64 {
        self.push(record);
        self.compose();
        let offset = self.frame_offset(self.under_way.len() - 1);
        while !self.under_way.is_empty() {
            self.complete(0);
        }
        offset
    }

    /// Where the frame of a write under way starts: behind the segment header, if it has one.
    pub(super) fn frame_offset(&self, place: usize) -> u64 {
        let write = &self.under_way[place];
        let segment = self.geometry.segment_of(write.offset).unwrap();
        let is_start = write.offset == self.geometry.segment_offset(segment);
        write.offset + if is_start { BLOCK_BYTES } else { 0 }
    }

    /// The power fails: of each write under way the sectors stay that `keep` wants (write, sector). Nothing is
    /// recovered yet.
    pub(super) fn crash(&mut self, mut keep: impl FnMut(usize, u64) -> bool) {
        for (number, write) in std::mem::take(&mut self.under_way).iter().enumerate() {
            self.disk
                .write(write.offset, &concat(write), |sector| keep(number, sector));
        }
    }

    pub(super) fn recover(&self) -> (Outcome, Vec<RecoveredRecord>) {
        recover(&self.disk, &self.geometry)
    }

    /// The rows of the decision table that a recovery meets.
    pub(super) fn rows(&self) -> Rows {
        recover_by_rows(&self.disk, &self.geometry).2
    }

    /// Recovers, checks that what is found is what was pushed, all that was durable included, and goes on from there.
    pub(super) fn restart(&mut self) -> Outcome {
        let (outcome, records) = self.recover();
        let tail = tail_of(&outcome);
        assert!(
            records.len() >= self.durable,
            "{} records found of {} durable ones",
            records.len(),
            self.durable
        );
        let histories = std::iter::once(&self.pushed).chain(&self.earlier);
        let Some(history) = histories
            .filter(|history| is_prefix(&records, history))
            .max_by_key(|history| history.len())
        else {
            panic!("what was found was never pushed: {records:?}");
        };
        self.check_payload(&records, history);
        let found = history[..records.len()].to_vec();
        let before = std::mem::replace(&mut self.pushed, found);
        self.earlier.push(before);
        self.base = records.len();
        self.under_way.clear();
        self.writer = LogWriter::with_settings(DISK, self.geometry, tail, self.settings);
        outcome
    }

    fn check_payload(&self, records: &[RecoveredRecord], history: &[Record]) {
        for (found, pushed) in records.iter().zip(history) {
            if let (RecoveredRecord::Entry { placed, .. }, Record::Entry { header, payload, .. }) = (found, pushed)
                && !payload.is_empty()
            {
                let length = u32::try_from(payload.len()).unwrap();
                let bytes = self.disk.read(placed.payload_block * BLOCK_BYTES, length).unwrap();
                assert_eq!(
                    BlockCrcs::of_header(header).unwrap().verify(&bytes),
                    Ok(()),
                    "the payload is there"
                );
            }
        }
    }
}

/// Whether what was found is what was pushed first.
pub(super) fn is_prefix(found: &[RecoveredRecord], pushed: &[Record]) -> bool {
    found.len() <= pushed.len() && found.iter().zip(pushed).all(|(found, pushed)| is_same(found, pushed))
}

fn is_same(found: &RecoveredRecord, pushed: &Record) -> bool {
    match (found, pushed) {
        (
            RecoveredRecord::Entry { placed, header: found },
            Record::Entry {
                group,
                term,
                index,
                header,
                ..
            },
        ) => (placed.group, placed.term, placed.index, found) == (*group, *term, *index, header),
        (
            RecoveredRecord::HardState {
                group,
                term,
                vote,
                commit,
            },
            Record::HardState {
                group: of,
                term: at,
                vote: voted,
                commit: committed,
            },
        ) => (group, term, vote, commit) == (of, at, voted, committed),
        (
            RecoveredRecord::GroupCreated {
                spec,
                replica,
                index,
                term,
                ..
            },
            Record::GroupCreated {
                spec: made,
                replica: number,
                index: behind,
                term: at,
            },
        ) => (spec, replica, index, term) == (made, number, behind, at),
        (RecoveredRecord::GroupDropped(found), Record::GroupDropped(pushed)) => found == pushed,
        _ => false,
    }
}

fn concat(write: &LogWrite) -> Bytes {
    let mut bytes = BytesMut::new();
    write.buffers.iter().for_each(|buffer| bytes.extend_from_slice(buffer));
    bytes.freeze()
}
