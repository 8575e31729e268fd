//! A simulated disk: sparse pages, writes that are in flight until they complete, and power cuts that keep any subset of
//! the 512-byte sectors of what was in flight. What completed is durable.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cairn_core::event::{DiskFault, IoId};

use cairn_history::content::{self, SECTOR};
use cairn_history::rng::Rng;

const PAGE: usize = 4096;

struct Flight {
    offset: u64,
    data: Vec<u8>,
}

pub struct SimDisk {
    size_bytes: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
    in_flight: BTreeMap<IoId, Flight>,
    /// The stamps of all sectors that ever became durable: to check acknowledgements against.
    durable_stamps: BTreeSet<u64>,
    pub bytes_written: u64,
    /// Every operation fails from now on.
    pub failed: bool,
}

impl SimDisk {
    pub fn new(size_bytes: u64) -> Self {
        assert_eq!(size_bytes % PAGE as u64, 0);
        Self {
            size_bytes,
            pages: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            durable_stamps: BTreeSet::new(),
            bytes_written: 0,
            failed: false,
        }
    }

    /// Takes a write; it becomes durable in [`Self::complete`].
    pub fn submit(&mut self, io: IoId, offset: u64, buffers: &[Bytes]) {
        assert_eq!(offset % PAGE as u64, 0, "{io:?} is not aligned");
        assert!(!buffers.is_empty(), "{io:?} writes nothing");
        for buffer in buffers {
            assert!(
                !buffer.is_empty() && buffer.len() % PAGE == 0,
                "{io:?}: a buffer of {} bytes",
                buffer.len()
            );
        }
        let data = buffers.concat();
        let end = offset + data.len() as u64;
        assert!(
            end <= self.size_bytes,
            "{io:?} writes up to {end} of {}",
            self.size_bytes
        );
        for (other, flight) in &self.in_flight {
            let apart = end <= flight.offset || offset >= flight.offset + flight.data.len() as u64;
            assert!(
                apart,
                "{io:?} at {offset} overlaps {other:?} at {}, which is in flight",
                flight.offset
            );
        }
        let previous = self.in_flight.insert(io, Flight { offset, data });
        assert!(previous.is_none(), "{io:?} is used twice");
    }

    /// A write has ended. False if a power cut took it.
    pub fn complete(&mut self, io: IoId) -> Option<Result<(), DiskFault>> {
        let flight = self.in_flight.remove(&io)?;
        if self.failed {
            return Some(Err(DiskFault::Os("simulated failure".to_owned())));
        }
        self.bytes_written += flight.data.len() as u64;
        for (i, sector) in flight.data.chunks(SECTOR).enumerate() {
            self.store_sector(flight.offset + (i * SECTOR) as u64, sector);
        }
        Some(Ok(()))
    }

    pub fn read(&self, offset: u64, length: u32) -> Result<Bytes, DiskFault> {
        assert!(
            offset.is_multiple_of(PAGE as u64) && (length as usize).is_multiple_of(PAGE) && length > 0,
            "a read that is not aligned"
        );
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
        let mut data = Vec::with_capacity(length as usize);
        for page in offset / PAGE as u64..end / PAGE as u64 {
            match self.pages.get(&page) {
                Some(page) => data.extend_from_slice(&page[..]),
                None => data.resize(data.len() + PAGE, 0),
            }
        }
        Ok(Bytes::from(data))
    }

    /// The power fails: of each write in flight nothing, all, a prefix or any subset of its sectors stays.
    pub fn crash(&mut self, rng: &mut Rng) {
        for (_, flight) in std::mem::take(&mut self.in_flight) {
            let sectors = flight.data.len() / SECTOR;
            let prefix = rng.pick(sectors + 1);
            let mode = rng.below(4);
            for (i, sector) in flight.data.chunks(SECTOR).enumerate() {
                let kept = match mode {
                    0 => false,
                    1 => true,
                    2 => i < prefix,
                    _ => rng.chance(50),
                };
                if kept {
                    self.store_sector(flight.offset + (i * SECTOR) as u64, sector);
                }
            }
        }
    }

    /// Flips a bit of the block at `offset`.
    pub fn rot(&mut self, offset: u64) {
        if let Some(page) = self.pages.get_mut(&(offset / PAGE as u64)) {
            page[77] ^= 0x10;
        }
    }

    /// Whether a sector with this stamp ever became durable.
    pub fn has_stamp(&self, stamp: u64) -> bool {
        self.durable_stamps.contains(&stamp)
    }

    fn store_sector(&mut self, offset: u64, sector: &[u8]) {
        if let Some(stamp) = content::stamp_of(sector) {
            self.durable_stamps.insert(stamp);
        }
        let page = self
            .pages
            .entry(offset / PAGE as u64)
            .or_insert_with(|| Box::new([0; PAGE]));
        let start = usize::try_from(offset % PAGE as u64).unwrap();
        page[start..start + SECTOR].copy_from_slice(sector);
    }
}
