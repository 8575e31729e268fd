//! A simulated disk: what was written and completed is durable; a power cut keeps any subset of the 512-byte sectors of
//! what was in flight.
//!
//! # What it does when told to
//! - **Write errors**: the next write fails, and any subset of its sectors is on the media, as after a power cut.
//! - **Torn sectors**: a block that was being written for the first time when the power failed may be unreadable.
//! - **Read errors**: reads fail, some or all, for as long as they are asked to; a sector that cannot be read fails every
//!   read that touches it until it is written again.
//! - **Bit rot**: a bit of what is stored changes.
//! - **Late writes**: what was in flight when the power failed gets to the media when the node is back, unless something
//!   was written there since.
//! - **Loss of its end**: it is shorter than it was.
//! - **Lies**: a write is acknowledged, and is nowhere (phantom) or somewhere else (misdirected).
//!
//! # What a fault may not be
//! Nothing here tears below 512 bytes or reorders what was acknowledged one after the other: a completed write (the engine
//! writes with `RWF_DSYNC`) stays, unless the disk is told to lie.
//!
//! Pages are kept as slices of the buffers that were written: storing a write copies nothing.

mod stamps;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cairn_api::ids::DiskId;
use cairn_core::event::{DiskFault, IoId, RecoverySummary};
use cairn_core::log::recovery::{Row, Rows};

use cairn_format::anchor::{ANCHOR_OFFSETS, Anchor};
use cairn_format::frame;
use cairn_history::content::{self, SECTOR};
use cairn_history::rng::Rng;

use self::stamps::Stamps;

const PAGE: usize = 4096;

#[derive(Clone)]
struct Flight {
    io: IoId,
    /// Counts submissions.
    number: u64,
    offset: u64,
    length: u64,
    buffers: Vec<Bytes>,
}

impl Flight {
    const fn end(&self) -> u64 {
        self.offset + self.length
    }

    /// Its pages, each with its place.
    fn pages(&self) -> impl Iterator<Item = (u64, Bytes)> + '_ {
        let pages = self
            .buffers
            .iter()
            .flat_map(|buffer| (0..buffer.len()).step_by(PAGE).map(|at| buffer.slice(at..at + PAGE)));
        (self.offset / PAGE as u64..).zip(pages)
    }
}

/// What becomes of a write that is acknowledged and not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lie {
    /// It is nowhere.
    Phantom,
    /// It is so many pages further on, or further back.
    Misdirected(i64),
}

/// The last lie, until something on the disk says that what it was about was once durable.
#[derive(Clone)]
enum Lied {
    /// These were in flight at the time: before they have ended the engine does not count on what it was lied to about.
    Among(Vec<IoId>),
    /// What is submitted after so many submissions vouches for it.
    After(u64),
}

#[derive(Clone)]
pub struct SimDisk {
    size_bytes: u64,
    pages: Vec<Option<Bytes>>,
    in_flight: Vec<Flight>,
    /// What was in flight when the power failed and has not got to the media yet.
    late: Vec<Flight>,
    /// The stamps of all sectors that ever became durable: to check acknowledgements against.
    durable_stamps: Stamps,
    /// What sectors of encrypted volumes begin with when they are stored, and their stamps.
    sealed: BTreeMap<u64, u64>,
    /// Pages that cannot be read until they are written.
    unreadable: Vec<u64>,
    /// Others that were being written for the first time when the power failed.
    spoiled: Vec<u64>,
    /// Pages of which bits have changed since they were written.
    rotten: BTreeSet<u64>,
    pub bytes_written: u64,
    /// The first page and the pages of every write that has ended well, in order.
    written: Vec<(u64, u64)>,
    submitted: u64,
    lied: Option<Lied>,
    /// Every operation fails from now on.
    pub failed: bool,
    /// The next write fails.
    pub fail_next_write: bool,
    /// A power failure may leave a block that was being written for the first time unreadable.
    pub spoils_torn: bool,
    /// The next write is a lie.
    pub lie_next: Option<Lie>,
    /// Reads that fail, in percent.
    pub read_errors_percent: u64,
    /// Reads that return something else, in percent.
    pub misreads_percent: u64,
    /// A read has failed since this was last cleared.
    pub has_failed_a_read: bool,
    /// Something may not be read as it was written.
    pub was_harmed: bool,
    /// Pages that cannot be read for a while.
    hidden: Vec<u64>,
}

impl SimDisk {
    pub fn new(size_bytes: u64) -> Self {
        assert_eq!(size_bytes % PAGE as u64, 0);
        let pages = usize::try_from(size_bytes / PAGE as u64).unwrap();
        Self {
            size_bytes,
            pages: vec![None; pages],
            in_flight: Vec::new(),
            late: Vec::new(),
            durable_stamps: Stamps::default(),
            sealed: BTreeMap::new(),
            unreadable: Vec::new(),
            spoiled: Vec::new(),
            rotten: BTreeSet::new(),
            bytes_written: 0,
            written: Vec::new(),
            submitted: 0,
            lied: None,
            failed: false,
            fail_next_write: false,
            spoils_torn: false,
            lie_next: None,
            read_errors_percent: 0,
            misreads_percent: 0,
            has_failed_a_read: false,
            was_harmed: false,
            hidden: Vec::new(),
        }
    }

    /// A disk as formatting leaves it.
    pub fn formatted(size_bytes: u64, disk: DiskId) -> Self {
        let mut formatted = Self::new(size_bytes);
        for offset in ANCHOR_OFFSETS {
            let page = usize::try_from(offset / PAGE as u64).unwrap();
            formatted.pages[page] = Some(Anchor::formatted(disk).encode());
        }
        formatted
    }

    /// Takes a write; it becomes durable in [`Self::complete`].
    pub fn submit(&mut self, io: IoId, offset: u64, buffers: Vec<Bytes>) {
        assert_eq!(offset % PAGE as u64, 0, "{io:?} is not aligned");
        assert!(!buffers.is_empty(), "{io:?} writes nothing");
        let mut length = 0;
        for buffer in &buffers {
            let is_whole = !buffer.is_empty() && buffer.len().is_multiple_of(PAGE);
            assert!(is_whole, "{io:?}: a buffer of {} bytes", buffer.len());
            length += buffer.len() as u64;
        }
        self.submitted += 1;
        let flight = Flight {
            io,
            number: self.submitted,
            offset,
            length,
            buffers,
        };
        let size = self.size_bytes;
        assert!(flight.end() <= size, "{io:?} writes up to {} of {size}", flight.end());
        for other in &self.in_flight {
            assert_ne!(other.io, io, "{io:?} is used twice");
            let apart = flight.end() <= other.offset || offset >= other.end();
            assert!(apart, "{io:?} at {offset} overlaps {:?}, which is in flight", other.io);
        }
        // Writes to one place keep their order: what is late for its own is dropped.
        self.late
            .retain(|late| flight.end() <= late.offset || offset >= late.end());
        self.in_flight.push(flight);
    }

    /// Writes that have not ended.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// A write has ended. `None` if a power cut took it.
    pub fn complete(&mut self, io: IoId, rng: &mut Rng) -> Option<Result<(), DiskFault>> {
        let place = self.in_flight.iter().position(|flight| flight.io == io)?;
        let flight = self.in_flight.remove(place);
        if self.failed || std::mem::take(&mut self.fail_next_write) {
            self.tear(&flight, rng);
            return Some(Err(DiskFault::Os("simulated write error".to_owned())));
        }
        self.bytes_written += flight.length;
        self.written
            .push((flight.offset / PAGE as u64, flight.length / PAGE as u64));
        let lie = self.lie_next.take();
        self.was_harmed |= lie.is_some();
        self.note_lie(&flight, lie.is_some());
        let shift = match lie {
            None => 0,
            Some(Lie::Phantom) => return Some(Ok(())),
            Some(Lie::Misdirected(shift)) => shift,
        };
        for (page, bytes) in flight.pages() {
            let target = page.checked_add_signed(shift).filter(|page| self.slot(*page).is_some());
            if let Some(target) = target {
                self.store(target, bytes);
            }
        }
        Some(Ok(()))
    }

    /// Everything in flight ends well.
    pub fn complete_all(&mut self, rng: &mut Rng) {
        for flight in self.in_flight.clone() {
            self.complete(flight.io, rng);
        }
    }

    /// Keeps track of whether a lie would be noticed after a restart.
    fn note_lie(&mut self, flight: &Flight, is_lie: bool) {
        if is_lie {
            let others = self.in_flight.iter().map(|other| other.io).collect();
            self.lied = Some(Lied::Among(others));
        }
        match &mut self.lied {
            Some(Lied::Among(others)) => {
                others.retain(|other| *other != flight.io);
                if others.is_empty() {
                    self.lied = Some(Lied::After(self.submitted));
                }
            }
            Some(Lied::After(submitted)) if flight.number > *submitted => self.lied = None,
            _ => {}
        }
    }

    /// Whether the disk has lied about a write for which nothing on it vouches yet, or is about to.
    pub fn has_an_undetectable_lie(&self) -> bool {
        self.lied.is_some() || self.lie_next.is_some()
    }

    /// A page of a write that ended well, but not of the last `spare` ones: the first of the write or any other. `draw`
    /// chooses; `None` if there is no such write.
    pub fn old_page(&self, draw: u64, is_first: bool, spare: usize) -> Option<u64> {
        let writes = self.written.len().checked_sub(spare).filter(|writes| *writes > 0)?;
        // Frames without payload have nothing but a header: the next write that has what is asked for.
        let start = usize::try_from(draw % writes as u64).unwrap();
        let (first, pages) = *(self.written[start..writes].iter()).find(|(_, pages)| is_first || *pages > 1)?;
        let within = if is_first {
            0
        } else {
            1 + (draw / writes as u64) % (pages - 1)
        };
        Some((first + within) * PAGE as u64)
    }

    fn slot(&self, page: u64) -> Option<&Option<Bytes>> {
        self.pages.get(usize::try_from(page).ok()?)
    }

    fn store(&mut self, page: u64, bytes: Bytes) {
        for sector in bytes.chunks(SECTOR) {
            // Of the ciphertexts one in 65,536 looks like a sector that is none.
            let sealed = self.sealed.get(&head_of(sector)).copied();
            let stamp = sealed.or_else(|| content::stamp_of(sector));
            if let Some(stamp) = stamp {
                self.durable_stamps.insert(stamp);
            }
        }
        self.unreadable.retain(|unreadable| *unreadable != page);
        self.spoiled.retain(|spoiled| *spoiled != page);
        self.rotten.remove(&page);
        self.pages[usize::try_from(page).unwrap()] = Some(bytes);
    }

    pub fn read(&self, offset: u64, length: u32) -> Result<Bytes, DiskFault> {
        let is_aligned = offset.is_multiple_of(PAGE as u64) && (length as usize).is_multiple_of(PAGE);
        assert!(is_aligned && length > 0, "a read that is not aligned");
        if self.failed {
            return Err(DiskFault::Os("simulated failure".to_owned()));
        }
        let end = offset + u64::from(length);
        if end > self.size_bytes {
            let done = self.size_bytes.saturating_sub(offset);
            return Err(DiskFault::Short {
                done,
                asked: u64::from(length),
            });
        }
        let pages = offset / PAGE as u64..end / PAGE as u64;
        if self
            .unreadable
            .iter()
            .chain(&self.spoiled)
            .any(|page| pages.contains(page))
        {
            return Err(DiskFault::Os("simulated unreadable sector".to_owned()));
        }
        let pages = usize::try_from(pages.start).unwrap()..usize::try_from(pages.end).unwrap();
        if let [Some(page)] = &self.pages[pages.clone()] {
            return Ok(page.clone());
        }
        let mut data = Vec::with_capacity(length as usize);
        for page in &self.pages[pages] {
            match page {
                Some(page) => data.extend_from_slice(page),
                None => data.resize(data.len() + PAGE, 0),
            }
        }
        Ok(Bytes::from(data))
    }

    /// [`Self::read`], which may meet a read error.
    pub fn try_read(&mut self, offset: u64, length: u32, rng: &mut Rng) -> Result<Bytes, DiskFault> {
        if self.read_errors_percent > 0 && rng.chance(self.read_errors_percent) {
            (self.has_failed_a_read, self.was_harmed) = (true, true);
            return Err(DiskFault::Os("simulated read error".to_owned()));
        }
        let pages = offset / PAGE as u64..(offset + u64::from(length)) / PAGE as u64;
        if self.hidden.iter().any(|page| pages.contains(page)) {
            (self.has_failed_a_read, self.was_harmed) = (true, true);
            return Err(DiskFault::Os("simulated read error".to_owned()));
        }
        let data = self.read(offset, length)?;
        if self.misreads_percent > 0 && rng.chance(self.misreads_percent) {
            self.was_harmed = true;
            let mut wrong = data.to_vec();
            let place = rng.pick(wrong.len());
            wrong[place] ^= 0x04;
            return Ok(Bytes::from(wrong));
        }
        Ok(data)
    }

    /// The power fails: of each write in flight nothing, all, a prefix or any subset of its sectors stays.
    pub fn crash(&mut self, rng: &mut Rng) {
        for flight in std::mem::take(&mut self.in_flight) {
            self.tear(&flight, rng);
        }
    }

    /// A write in flight goes no further than `end`, with the power failure that comes next.
    pub fn cut_short(&mut self, io: IoId, end: u64) {
        let Some(place) = self.in_flight.iter().position(|flight| flight.io == io) else {
            return;
        };
        let flight = self.in_flight.remove(place);
        for (page, bytes) in flight.pages() {
            let kept = usize::try_from(end.saturating_sub(page * PAGE as u64))
                .unwrap()
                .min(PAGE);
            if kept > 0 {
                let mut torn = self.copy_of(page);
                torn[..kept].copy_from_slice(&bytes[..kept]);
                self.store(page, Bytes::from(torn));
            }
        }
    }

    /// Takes what is in flight from the power failure that comes next: it gets to the media in [`Self::land`].
    pub fn hold_back(&mut self) {
        self.late.append(&mut self.in_flight);
    }

    /// What was held back gets to the media, unless something else was written there since; true if anything does.
    pub fn land(&mut self) -> bool {
        let late = std::mem::take(&mut self.late);
        for (page, bytes) in late.iter().flat_map(Flight::pages) {
            self.store(page, bytes);
        }
        !late.is_empty()
    }

    /// From here on it ends in the middle of what it was.
    pub const fn shrink(&mut self) {
        self.size_bytes = self.size_bytes / 2 / PAGE as u64 * PAGE as u64;
    }

    fn tear(&mut self, flight: &Flight, rng: &mut Rng) {
        let sectors = flight.length / SECTOR as u64;
        let prefix = rng.below(sectors + 1);
        let mode = rng.below(4);
        // What stood there before was good, and a power failure takes nothing that was: only new places are lost so.
        let spoiled = (self.spoils_torn && rng.chance(15))
            .then_some(flight.offset / PAGE as u64 + prefix * SECTOR as u64 / PAGE as u64)
            .filter(|page| page * (PAGE as u64) < flight.end() && matches!(self.slot(*page), Some(None)));
        for (place, (page, new)) in (0..).zip(flight.pages()) {
            let first = place * (PAGE / SECTOR) as u64;
            let mut torn = None;
            for (i, sector) in (first..).zip(new.chunks(SECTOR)) {
                let kept = match mode {
                    0 => false,
                    1 => true,
                    2 => i < prefix,
                    _ => rng.chance(50),
                };
                if kept {
                    let page = torn.get_or_insert_with(|| self.copy_of(page));
                    let start = usize::try_from(i - first).unwrap() * SECTOR;
                    page[start..start + SECTOR].copy_from_slice(sector);
                }
            }
            if let Some(torn) = torn {
                self.store(page, Bytes::from(torn));
            }
        }
        self.spoiled.extend(spoiled);
    }

    fn copy_of(&self, page: u64) -> Vec<u8> {
        match self.slot(page) {
            Some(Some(bytes)) => bytes.to_vec(),
            _ => vec![0; PAGE],
        }
    }

    /// Flips a bit of the block at `offset`, if it was ever written.
    pub fn rot(&mut self, offset: u64) -> bool {
        let page = offset / PAGE as u64;
        if !matches!(self.slot(page), Some(Some(_))) {
            return false;
        }
        self.was_harmed = true;
        let mut bytes = self.copy_of(page);
        bytes[77] ^= 0x10;
        if !self.rotten.insert(page) {
            // The same bit again: as it was.
            self.rotten.remove(&page);
        }
        self.pages[usize::try_from(page).unwrap()] = Some(Bytes::from(bytes));
        true
    }

    /// Overwrites what a power failure left unreadable with zeroes, as an operator does who knows that nothing else stood
    /// there; true if there was anything.
    pub fn clear_spoiled(&mut self) -> bool {
        let spoiled = std::mem::take(&mut self.spoiled);
        for page in &spoiled {
            self.store(*page, Bytes::from(vec![0; PAGE]));
        }
        !spoiled.is_empty()
    }

    /// Makes the block at `offset` unreadable until it is written.
    pub fn spoil(&mut self, offset: u64) {
        self.was_harmed = true;
        self.unreadable.push(offset / PAGE as u64);
    }

    /// The headers of the last frames that ended well cannot be read until [`Self::show_hidden`].
    pub fn hide_last(&mut self, frames: usize) {
        let is_header =
            |page: u64| matches!(self.slot(page), Some(Some(bytes)) if frame::header_bytes_of(bytes).is_ok());
        // The first frame of a segment stands behind the segment's header.
        let headers = self
            .written
            .iter()
            .rev()
            .flat_map(|(first, pages)| *first..first + pages.min(&2));
        self.hidden = headers.filter(|page| is_header(*page)).take(frames).collect();
    }

    /// What was hidden can be read.
    pub fn show_hidden(&mut self) {
        self.hidden.clear();
    }

    /// What could not be read can be, from now on.
    pub fn clear_unreadable(&mut self) {
        self.unreadable.clear();
    }

    /// The rows of the recovery table that a recovery met which found this. What has rotted and let it end well is payload
    /// that recovery did not read, because a later frame vouches for it.
    pub fn rows_of(&self, summary: &RecoverySummary) -> Rows {
        let mut rows = summary.rows;
        if !self.rotten.is_empty() {
            rows.insert(Row::VouchedPayload);
        }
        rows
    }

    /// A sector is stored as this, and nothing else begins as it does.
    pub fn expect_sealed(&mut self, stored: &[u8], stamp: u64) {
        self.sealed.insert(head_of(stored), stamp);
    }

    /// Whether a sector with this stamp ever became durable.
    pub fn has_stamp(&self, stamp: u64) -> bool {
        self.durable_stamps.contains(stamp)
    }
}

fn head_of(sector: &[u8]) -> u64 {
    u64::from_le_bytes(*sector.first_chunk().unwrap())
}
