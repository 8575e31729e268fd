//! Reading the last checkpoint back: the anchors, the table, the pages. The log is read after that, from where the anchor
//! says that it begins.
//!
//! # What is believed
//! - Of two anchors the one of the higher generation. If one of them is damaged or cannot be read, the other may be older
//!   than the last checkpoint: then all that changed since stands in the log behind it, and if anything of it was used again
//!   since, a checksum or the log's chain will not fit. So either the whole is read, or the disk is refused.
//! - If neither can be believed the disk is refused. It is never taken for a new one: formatting writes both.
//! - A table or page that does not match its checksum, or does not belong where it was read, is lost: the disk is refused, as
//!   one that has lost what it had acknowledged. One that cannot be read may come back: refused, to be tried again.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use cairn_api::ids::{DiskId, GroupId};
use cairn_api::units::{BLOCK_BYTES, BLOCK_SIZE};
use cairn_format::anchor::{ANCHOR_BYTES, ANCHOR_OFFSETS, Anchor, CheckpointPlace};
use cairn_format::chunk::{self, CHUNK_BLOCKS_MAX, ChunkKind};
use cairn_format::error::FormatError;
use cairn_format::page::LeafPage;
use cairn_format::superblock::Geometry;
use cairn_format::table::{LeafPlace, Table};

use crate::event::{DiskFault, IoId};
use crate::group::Recovered;
use crate::log::recovery::{LogRead, Row, Rows};

/// Pages that lie so close together are read with one read.
const GAP_BYTES_MAX: u64 = 64 << 10;
/// The longest read of pages.
const READ_BYTES_MAX: u64 = 1 << 20;
/// Reads of pages under way at once.
const READS_MAX: usize = 16;
/// A read that fails is tried so many times before it counts as failed.
const READ_TRIES: u32 = 3;

/// What was read of a checkpoint.
#[derive(Default)]
pub(crate) struct Loaded {
    /// Its generation; 0 where there was none yet.
    pub(crate) generation: u64,
    /// Where it is; `None` where there was none yet.
    pub(crate) place: Option<CheckpointPlace>,
    /// Its table.
    pub(crate) table: Table,
    /// The chunks of the table, last first: where each starts on the disk, and its blocks.
    pub(crate) chunks: Vec<(u64, u32)>,
    /// The replicas.
    pub(crate) groups: BTreeMap<GroupId, Recovered>,
    /// Bytes read.
    pub(crate) bytes_read: u64,
}

/// How loading ended.
pub(crate) enum Outcome {
    /// Well.
    Loaded(Box<Loaded>),
    /// Not at all: why, and what to do, as a sentence.
    Refused(String),
}

/// Leaves whose pages are read at once.
struct Stretch {
    offset: u64,
    length: u32,
    leaves: Vec<LeafPlace>,
}

enum Read {
    Anchor(usize),
    Chunk { block: u64 },
    Pages(Stretch),
}

/// What one anchor's place holds.
enum Found {
    Anchor(Anchor),
    Damaged(String),
    Unreadable(String),
}

/// Loading the last checkpoint of one disk; feed it the results of the reads it asks for.
pub(crate) struct Loading {
    disk: DiskId,
    geometry: Geometry,
    anchors: [Option<Found>; 2],
    chosen: Option<Anchor>,
    /// The table's chunks, last first.
    chunks: Vec<Bytes>,
    loaded: Loaded,
    stretches: VecDeque<Stretch>,
    reads: BTreeMap<IoId, (LogRead, Read, u32)>,
    rows: Rows,
}

impl Loading {
    pub(crate) fn new(disk: DiskId, geometry: Geometry) -> Self {
        Self {
            disk,
            geometry,
            anchors: [None, None],
            chosen: None,
            chunks: Vec::new(),
            loaded: Loaded::default(),
            stretches: VecDeque::new(),
            reads: BTreeMap::new(),
            rows: Rows::none(),
        }
    }

    /// The rows of the decision table that were met.
    pub(crate) const fn rows(&self) -> Rows {
        self.rows
    }

    /// The first reads.
    pub(crate) fn start(&mut self, io_ids: &mut impl FnMut() -> IoId, out: &mut Vec<LogRead>) {
        for (place, offset) in ANCHOR_OFFSETS.into_iter().enumerate() {
            self.read(offset, BLOCK_SIZE, Read::Anchor(place), 0, io_ids, out);
        }
    }

    /// A read has ended. Gives the outcome when there is nothing more to read.
    pub(crate) fn completed(
        &mut self,
        io: IoId,
        result: Result<Bytes, DiskFault>,
        io_ids: &mut impl FnMut() -> IoId,
        out: &mut Vec<LogRead>,
    ) -> Option<Outcome> {
        let (read, purpose, tried) = self.reads.remove(&io)?;
        let result = match result {
            Ok(bytes) if bytes.len() == read.length as usize => Ok(bytes),
            Ok(bytes) => Err(format!("it ended after {} of {} bytes", bytes.len(), read.length)),
            Err(DiskFault::Os(_)) if tried + 1 < READ_TRIES => {
                self.read(read.offset, read.length, purpose, tried + 1, io_ids, out);
                return None;
            }
            Err(fault) => Err(fault.to_string()),
        };
        self.loaded.bytes_read += u64::from(read.length);
        let taken = match purpose {
            Read::Anchor(place) => self.anchor(place, result, io_ids, out),
            Read::Chunk { block } => match result {
                Ok(bytes) => self.chunk(block, &bytes, io_ids, out),
                Err(words) => Err(self.unreadable(read.offset, &words)),
            },
            Read::Pages(stretch) => match result {
                Ok(bytes) => self.pages(&stretch, &bytes),
                Err(words) => Err(self.unreadable(read.offset, &words)),
            },
        };
        if let Err(reason) = taken {
            self.reads.clear();
            return Some(Outcome::Refused(reason));
        }
        self.read_pages(io_ids, out);
        let is_done = self.reads.is_empty() && self.chosen.is_some();
        is_done.then(|| Outcome::Loaded(Box::new(std::mem::take(&mut self.loaded))))
    }

    fn read(
        &mut self,
        offset: u64,
        length: u32,
        purpose: Read,
        tried: u32,
        io_ids: &mut impl FnMut() -> IoId,
        out: &mut Vec<LogRead>,
    ) {
        let read = LogRead {
            io: io_ids(),
            offset,
            length,
        };
        self.reads.insert(read.io, (read, purpose, tried));
        out.push(read);
    }

    fn anchor(
        &mut self,
        place: usize,
        result: Result<Bytes, String>,
        io_ids: &mut impl FnMut() -> IoId,
        out: &mut Vec<LogRead>,
    ) -> Result<(), String> {
        let offset = ANCHOR_OFFSETS[place];
        let found = match result {
            Err(words) => Found::Unreadable(words),
            Ok(bytes) => match Anchor::decode(&bytes[..ANCHOR_BYTES]) {
                Ok(anchor) if anchor.disk != self.disk => Found::Damaged(format!("it is of disk {}", anchor.disk)),
                Ok(anchor) => Found::Anchor(anchor),
                Err(error) if error.is_newer() => return Err(self.not_decoded(offset, &error)),
                Err(error) => Found::Damaged(error.to_string()),
            },
        };
        self.anchors[place] = Some(found);
        let [Some(first), Some(second)] = &self.anchors else {
            return Ok(());
        };
        let chosen = match (first, second) {
            (Found::Anchor(first), Found::Anchor(second)) => {
                if first.generation >= second.generation {
                    *first
                } else {
                    *second
                }
            }
            (Found::Anchor(anchor), damaged) | (damaged, Found::Anchor(anchor)) => {
                let (Found::Damaged(words) | Found::Unreadable(words)) = damaged else {
                    return Ok(());
                };
                tracing::warn!(disk = %self.disk, generation = anchor.generation, words, "one anchor is left");
                self.rows.insert(Row::OneAnchor);
                *anchor
            }
            (first, second) => {
                let [first, second] = [first, second].map(|found| match found {
                    Found::Damaged(words) => (words.clone(), false),
                    Found::Unreadable(words) => (words.clone(), true),
                    Found::Anchor(_) => (String::new(), false),
                });
                return Err(self.no_anchor(&first, &second));
            }
        };
        self.chosen = Some(chosen);
        self.loaded.generation = chosen.generation;
        self.loaded.place = chosen.checkpoint;
        if let Some(checkpoint) = chosen.checkpoint {
            self.rows.insert(Row::Checkpoint);
            self.read_chunk(checkpoint.table.block, checkpoint.table.blocks, io_ids, out)?;
        }
        Ok(())
    }

    fn no_anchor(&mut self, first: &(String, bool), second: &(String, bool)) -> String {
        let disk = self.disk;
        let places = format!(
            "at byte {}: {}; at byte {}: {}",
            ANCHOR_OFFSETS[0], first.0, ANCHOR_OFFSETS[1], second.0
        );
        if first.1 || second.1 {
            self.rows.insert(Row::CheckpointUnreadable);
            format!(
                "disk {disk} cannot be read where it says at what place its log begins: {places}. Start the engine again to \
                 try once more; if it stays so, {}",
                replace(disk)
            )
        } else {
            self.rows.insert(Row::CheckpointDamaged);
            format!(
                "disk {disk} has no anchor left, so that nobody knows where its log begins: {places}. {}",
                lost(disk)
            )
        }
    }

    fn unreadable(&mut self, offset: u64, words: &str) -> String {
        self.rows.insert(Row::CheckpointUnreadable);
        let disk = self.disk;
        format!(
            "disk {disk} cannot be read at byte {offset}, where its last checkpoint is: {words}. Start the engine again to \
             try once more; if it stays so, {}",
            replace(disk)
        )
    }

    fn damaged(&mut self, offset: u64, words: &str) -> String {
        self.rows.insert(Row::CheckpointDamaged);
        let disk = self.disk;
        format!(
            "disk {disk} has lost a part of its last checkpoint, at byte {offset}: {words}. {}",
            lost(disk)
        )
    }

    fn not_decoded(&mut self, offset: u64, error: &FormatError) -> String {
        if !error.is_newer() {
            return self.damaged(offset, &error.to_string());
        }
        self.rows.insert(Row::NewerBuild);
        let disk = self.disk;
        format!("disk {disk} at byte {offset}: {error}; use the version that wrote it")
    }

    fn read_chunk(
        &mut self,
        block: u64,
        blocks: u32,
        io_ids: &mut impl FnMut() -> IoId,
        out: &mut Vec<LogRead>,
    ) -> Result<(), String> {
        let offset = block.saturating_mul(BLOCK_BYTES);
        let length = blocks.saturating_mul(BLOCK_SIZE);
        let end = offset.saturating_add(u64::from(length));
        if blocks == 0
            || blocks > CHUNK_BLOCKS_MAX
            || offset < self.geometry.segments_start
            || end > self.geometry.end()
        {
            return Err(self.damaged(offset, &format!("a chunk of {blocks} blocks cannot be there")));
        }
        self.read(offset, length, Read::Chunk { block }, 0, io_ids, out);
        Ok(())
    }

    fn chunk(
        &mut self,
        block: u64,
        bytes: &Bytes,
        io_ids: &mut impl FnMut() -> IoId,
        out: &mut Vec<LogRead>,
    ) -> Result<(), String> {
        let offset = block * BLOCK_BYTES;
        let (info, body) = chunk::decode(bytes).map_err(|error| self.not_decoded(offset, &error))?;
        let is_ours = info.disk == self.disk
            && info.block == block
            && info.kind == ChunkKind::Table
            && info.generation == self.loaded.generation;
        if !is_ours {
            return Err(self.damaged(offset, "what is there is of something else"));
        }
        self.chunks.push(body);
        self.loaded
            .chunks
            .push((block, chunk::chunk_blocks(self.chunks.last().map_or(0, Bytes::len))));
        let wanted = self.loaded.place.map_or(0, |place| place.table.chunks) as usize;
        match (info.previous_block, self.chunks.len()) {
            (0, have) if have == wanted => self.table(offset),
            (0, have) => Err(self.damaged(offset, &format!("the table has {have} chunks of {wanted}"))),
            (_, have) if have >= wanted => Err(self.damaged(offset, "the table has more chunks than the anchor says")),
            (previous, _) => self.read_chunk(previous, info.previous_blocks, io_ids, out),
        }
    }

    /// All chunks of the table are here.
    fn table(&mut self, offset: u64) -> Result<(), String> {
        let mut bytes = BytesMut::with_capacity(self.chunks.iter().map(Bytes::len).sum());
        for chunk in self.chunks.drain(..).rev() {
            bytes.extend_from_slice(&chunk);
        }
        let table = Table::decode(&bytes.freeze()).map_err(|error| self.not_decoded(offset, &error))?;
        for group in &table.groups {
            self.loaded.groups.insert(group.group, Recovered::from_table(group));
        }
        let mut leaves = table.leaves.clone();
        leaves.sort_unstable_by_key(|leaf| (leaf.page.block, leaf.page.at));
        for leaf in leaves {
            self.plan(leaf)?;
        }
        self.loaded.table = table;
        Ok(())
    }

    /// Adds a page to the last stretch, or to a new one.
    #[allow(clippy::cast_possible_truncation, reason = "bounded by READ_BYTES_MAX")]
    fn plan(&mut self, leaf: LeafPlace) -> Result<(), String> {
        let start = leaf.page.block * BLOCK_BYTES;
        let end = (start + u64::from(leaf.page.at) + u64::from(leaf.page.bytes)).next_multiple_of(BLOCK_BYTES);
        if start < self.geometry.segments_start || end > self.geometry.end() {
            return Err(self.damaged(start, "a page cannot be there"));
        }
        if let Some(last) = self.stretches.back_mut() {
            let last_end = last.offset + u64::from(last.length);
            if start <= last_end + GAP_BYTES_MAX && end - last.offset <= READ_BYTES_MAX {
                last.length = last.length.max((end - last.offset) as u32);
                last.leaves.push(leaf);
                return Ok(());
            }
        }
        self.stretches.push_back(Stretch {
            offset: start,
            length: (end - start) as u32,
            leaves: vec![leaf],
        });
        Ok(())
    }

    fn read_pages(&mut self, io_ids: &mut impl FnMut() -> IoId, out: &mut Vec<LogRead>) {
        while self.reads.len() < READS_MAX
            && let Some(stretch) = self.stretches.pop_front()
        {
            self.read(stretch.offset, stretch.length, Read::Pages(stretch), 0, io_ids, out);
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "places within a read of 1 MiB")]
    fn pages(&mut self, stretch: &Stretch, bytes: &Bytes) -> Result<(), String> {
        for leaf in &stretch.leaves {
            let offset = leaf.page.block * BLOCK_BYTES + u64::from(leaf.page.at);
            let start = (offset - stretch.offset) as usize;
            let piece = bytes
                .get(start..start + usize::from(leaf.page.bytes))
                .unwrap_or_default();
            let page = LeafPage::decode(piece).map_err(|error| self.damaged(offset, &error.to_string()))?;
            if LeafPage::checksum_in(piece) != Some(leaf.page.crc) {
                return Err(self.damaged(offset, "what is there is a page of another checkpoint"));
            }
            if page.key != leaf.key {
                return Err(self.damaged(offset, "what is there is another leaf's page"));
            }
            let group = self.loaded.groups.get_mut(&leaf.key.group);
            let put = group.map_or_else(
                || Err("a leaf of a group that the table does not have".to_owned()),
                |group| group.map.put_page(&page, leaf.page),
            );
            put.map_err(|words| self.damaged(offset, &words))?;
        }
        Ok(())
    }
}

fn replace(disk: DiskId) -> String {
    format!("let its peers rebuild its replicas on another disk: `cairn disk replace {disk} NEW`")
}

fn lost(disk: DiskId) -> String {
    format!(
        "Its replicas never vote again; {}. The same device will do, formatted anew",
        replace(disk)
    )
}
