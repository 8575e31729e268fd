//! A disk in memory that keeps only what is not clients' data, and counts what is written by its purpose.
//!
//! All data that clients of a benchmark write is one buffer's ([`Payload`]), so that a place on the disk either holds that
//! data, which costs a bit, or something else, which is kept as the core gave it. So disks of hundreds of gigabytes fit, and
//! reads of data copy nothing.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read as _, Write as _};
use std::ops::AddAssign;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use cairn_api::ids::DiskId;
use cairn_format::anchor::{ANCHOR_OFFSETS, Anchor};
use cairn_format::segment::{HeadKind, SegmentHeader};
use cairn_format::superblock::Geometry;

const BLOCK: usize = 4096;
const BLOCK_U64: u64 = BLOCK as u64;
/// The longest request of a client, and the longest read of a core.
const PAYLOAD_BYTES: usize = 4 << 20;

/// What clients write: every block of it is the same.
#[derive(Debug, Clone)]
pub struct Payload(Bytes);

impl Payload {
    /// So many bytes of it.
    ///
    /// # Panics
    /// If that is more than 4 MiB.
    pub fn of(&self, bytes: usize) -> Bytes {
        self.0.slice(..bytes)
    }

    fn holds(&self, buffer: &Bytes) -> bool {
        self.0.as_ptr_range().contains(&buffer.as_ptr())
    }
}

impl Default for Payload {
    fn default() -> Self {
        Self(Bytes::from(vec![0x5A; PAYLOAD_BYTES]))
    }
}

/// Bytes written, by purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Clients' data in the log.
    pub payload: u64,
    /// The log's frame and segment headers, with all records that carry no data.
    pub headers: u64,
    /// Data that collection has moved, with its names and the headers of its segments.
    pub moved: u64,
    /// Pages, tables and anchors of checkpoints.
    pub checkpoints: u64,
}

impl Written {
    /// All of it.
    pub const fn total(&self) -> u64 {
        self.payload + self.headers + self.moved + self.checkpoints
    }

    /// What was written since `before`.
    #[must_use]
    pub const fn since(&self, before: &Self) -> Self {
        Self {
            payload: self.payload - before.payload,
            headers: self.headers - before.headers,
            moved: self.moved - before.moved,
            checkpoints: self.checkpoints - before.checkpoints,
        }
    }
}

impl AddAssign for Written {
    fn add_assign(&mut self, other: Self) {
        self.payload += other.payload;
        self.headers += other.headers;
        self.moved += other.moved;
        self.checkpoints += other.checkpoints;
    }
}

/// See the module.
#[derive(Debug)]
pub struct MemoryDisk {
    geometry: Geometry,
    payload: Payload,
    /// A bit a block.
    is_payload: Vec<u64>,
    others: HashMap<u64, Bytes>,
    /// What each segment was last begun for.
    kinds: Vec<HeadKind>,
    written: Written,
    read_bytes: u64,
}

impl MemoryDisk {
    /// A disk as formatting leaves it.
    pub fn formatted(geometry: Geometry, disk: DiskId) -> Self {
        let mut formatted = Self::blank(geometry);
        for offset in ANCHOR_OFFSETS {
            let anchor = Anchor::formatted(disk).encode();
            formatted.others.insert(offset / BLOCK_U64, anchor);
        }
        formatted
    }

    fn blank(geometry: Geometry) -> Self {
        let words = usize::try_from(geometry.end() / BLOCK_U64 / 64 + 1).expect("a disk that fits");
        Self {
            geometry,
            payload: Payload::default(),
            is_payload: vec![0; words],
            others: HashMap::new(),
            kinds: vec![HeadKind::Hot; geometry.segment_count as usize],
            written: Written::default(),
            read_bytes: 0,
        }
    }

    /// Its layout.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// What clients are to write.
    pub const fn payload(&self) -> &Payload {
        &self.payload
    }

    /// What was written so far.
    pub const fn written(&self) -> Written {
        self.written
    }

    /// Bytes that were read so far.
    pub const fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// Carries out a write.
    pub fn write(&mut self, offset: u64, buffers: &[Bytes]) {
        let segment = self.geometry.segment_of(offset).map(|segment| segment as usize);
        if let (Some(segment), Some(first)) = (segment, buffers.first())
            && self.geometry.segment_offset(u32::try_from(segment).expect("a segment")) == offset
            && let Ok(header) = SegmentHeader::decode(&first[..BLOCK])
        {
            self.kinds[segment] = header.head;
        }
        let kind = segment.map(|segment| self.kinds[segment]);
        let mut block = offset / BLOCK_U64;
        for buffer in buffers {
            let is_payload = self.payload.holds(buffer);
            let count = match kind {
                Some(HeadKind::Hot) if is_payload => &mut self.written.payload,
                Some(HeadKind::Hot) => &mut self.written.headers,
                Some(HeadKind::Cold) => &mut self.written.moved,
                Some(HeadKind::Index) | None => &mut self.written.checkpoints,
            };
            *count += buffer.len() as u64;
            for at in (0..buffer.len()).step_by(BLOCK) {
                self.set_payload(block, is_payload);
                if is_payload {
                    self.others.remove(&block);
                } else {
                    self.others.insert(block, buffer.slice(at..at + BLOCK));
                }
                block += 1;
            }
        }
    }

    /// Carries out a read.
    pub fn read(&mut self, offset: u64, length: u32) -> Bytes {
        self.read_bytes += u64::from(length);
        let length = length as usize;
        let first = offset / BLOCK_U64;
        let blocks = first..first + (length / BLOCK) as u64;
        if length <= PAYLOAD_BYTES && blocks.clone().all(|block| self.has_payload(block)) {
            return self.payload.of(length);
        }
        let mut bytes = BytesMut::with_capacity(length);
        for block in blocks {
            match self.others.get(&block) {
                Some(other) => bytes.extend_from_slice(other),
                None if self.has_payload(block) => bytes.extend_from_slice(&self.payload.0[..BLOCK]),
                None => bytes.resize(bytes.len() + BLOCK, 0),
            }
        }
        bytes.freeze()
    }

    fn has_payload(&self, block: u64) -> bool {
        let (word, bit) = place(block);
        self.is_payload[word] & bit != 0
    }

    fn set_payload(&mut self, block: u64, is_payload: bool) {
        let (word, bit) = place(block);
        if is_payload {
            self.is_payload[word] |= bit;
        } else {
            self.is_payload[word] &= !bit;
        }
    }

    /// Writes all that it holds to a file, for [`Self::load`].
    ///
    /// # Panics
    /// If that fails.
    pub fn save(&self, path: &Path) {
        let mut file = BufWriter::new(File::create(path).expect("a file to be written"));
        let mut put = |bytes: &[u8]| file.write_all(bytes).expect("room for the file");
        put(&(self.others.len() as u64).to_le_bytes());
        let mut numbers: Vec<u64> = self.others.keys().copied().collect();
        numbers.sort_unstable();
        for word in &self.is_payload {
            put(&word.to_le_bytes());
        }
        for number in &numbers {
            put(&number.to_le_bytes());
        }
        for number in &numbers {
            put(&self.others[number]);
        }
        file.flush().expect("room for the file");
    }

    /// A disk as it was saved.
    ///
    /// # Panics
    /// If the file cannot be read, or is of a disk of another layout.
    pub fn load(path: &Path, geometry: Geometry) -> Self {
        let mut disk = Self::blank(geometry);
        let mut file = BufReader::with_capacity(1 << 20, File::open(path).expect("a file to be read"));
        let mut number = || {
            let mut bytes = [0; 8];
            file.read_exact(&mut bytes).expect("a number");
            u64::from_le_bytes(bytes)
        };
        let count = usize::try_from(number()).expect("a count");
        disk.is_payload.fill_with(&mut number);
        let numbers: Vec<u64> = (0..count).map(|_| number()).collect();
        let mut all = vec![0; count * BLOCK];
        file.read_exact(&mut all).expect("as many blocks");
        let mut all = Bytes::from(all);
        let blocks = numbers.into_iter().map(|number| (number, all.split_to(BLOCK)));
        disk.others = blocks.collect();
        disk
    }
}

fn place(block: u64) -> (usize, u64) {
    let word = usize::try_from(block / 64).expect("a block of the disk");
    (word, 1 << (block % 64))
}
