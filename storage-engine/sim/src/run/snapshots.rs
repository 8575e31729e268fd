//! Snapshots of the volumes: made, read and deleted, no matter what else happens, and checked against the history.
//!
//! The control plane's part is played as an engine does it: whoever seems to lead is asked, and asked again until there is an
//! answer. What a snapshot shows must be the state of the volume at one moment between the first request and that answer
//! ([`cairn_history::register`]), the same for ever, through any node, on any replica.

use std::time::Duration;

use cairn_api::block::{BlockError, BlockOp, Tag};
use cairn_api::ids::{GroupId, SnapshotId};
use cairn_core::event::{Command, CommandError, CommandId, CommandReply, DeviceId};
use cairn_core::map::View;
use cairn_history::content::{self, SECTOR};
use cairn_history::register::{Cut, OpId};
use cairn_history::rng::Rng;

use crate::cluster::{MILLISECOND, SECOND, read_bytes};

use super::agenda::Act;
use super::clones::Clones;
use super::{Run, group_of};

/// Snapshots of one volume at a time.
const KEPT_MAX: usize = 5;
/// A command or a read that has no answer for so long is given up; a command is given again.
const ANSWERS_WITHIN: u64 = 5 * SECOND;
/// How long after everything has healed what was asked for must be done.
const DONE_WITHIN: Duration = Duration::from_secs(40);
/// Sectors of one read.
const READ_SECTORS: u64 = 512;

/// What the control plane wants.
enum Wanted {
    Made(SnapshotId, OpId),
    Gone(SnapshotId),
}

pub(super) struct Asked {
    pub(super) node: usize,
    pub(super) life: u64,
    pub(super) id: CommandId,
    pub(super) since: u64,
}

/// A snapshot that was made.
pub(super) struct Kept {
    pub(super) id: SnapshotId,
    pub(super) cut: Cut,
}

impl Kept {
    pub(super) fn copy(&self) -> Self {
        Self {
            id: self.id,
            cut: self.cut.clone(),
        }
    }
}

struct Reading {
    id: SnapshotId,
    node: usize,
    life: u64,
    device: DeviceId,
    tag: Tag,
    first: u64,
    since: u64,
}

/// The snapshots of one volume.
#[derive(Default)]
pub(super) struct Snapshots {
    id_last: u64,
    kept: Vec<Kept>,
    wanted: Option<Wanted>,
    asked: Option<Asked>,
    reading: Option<Reading>,
    refusal: String,
}

impl Snapshots {
    /// Takes one that clones are to stand on: it is not deleted, nor read, until it comes back.
    pub(super) fn pin(&mut self, rng: &mut Rng) -> Option<Kept> {
        if self.kept.is_empty() {
            return None;
        }
        let kept = self.kept.remove(rng.pick(self.kept.len()));
        self.reading.take_if(|reading| reading.id == kept.id);
        Some(kept)
    }

    /// Nothing stands on it any more.
    pub(super) fn unpin(&mut self, kept: Kept) {
        let place = self.kept.partition_point(|other| other.id < kept.id);
        self.kept.insert(place, kept);
    }
}

impl Run<'_> {
    pub(super) fn begin_snapshots(&mut self, volume: usize) {
        if self.scenario.volumes[volume].snapshots {
            self.agenda.plan(self.cluster.now + SECOND, Act::Snapshots(volume));
        }
    }

    /// Takes whatever goes on with a volume's snapshots a step further.
    pub(super) fn snapshots(&mut self, volume: usize) {
        let mut state = std::mem::take(&mut self.snapshots[volume]);
        self.take_snapshot_answer(volume, &mut state);
        self.take_snapshot_read(volume, &mut state);
        if !self.users[volume].is_over {
            if state.wanted.is_none() && self.rng.chance(30) {
                state.wanted = self.want(volume, &mut state);
            }
            if state.reading.is_none() {
                state.reading = self.begin_snapshot_read(volume, &state);
            }
        }
        if state.asked.is_none() {
            state.asked = self.ask_for_snapshot(volume, &state);
        }
        let is_over = self.users[volume].is_over && state.wanted.is_none();
        self.snapshots[volume] = state;
        if !is_over {
            let at = self.cluster.now + self.rng.between(5 * MILLISECOND, 300 * MILLISECOND);
            self.agenda.plan(at, Act::Snapshots(volume));
        }
    }

    fn want(&mut self, volume: usize, state: &mut Snapshots) -> Option<Wanted> {
        let is_full = state.kept.len() >= KEPT_MAX;
        if is_full || (state.kept.len() > 1 && self.rng.chance(40)) {
            let gone = state.kept.remove(self.rng.pick(state.kept.len()));
            state.reading.take_if(|reading| reading.id == gone.id);
            return Some(Wanted::Gone(gone.id));
        }
        state.id_last += 1;
        // What is applied anywhere is in front of the snapshot in the log of whoever makes it.
        let sectors = self.applied_blocks(volume) * 8;
        let now = self.cluster.now;
        let cut = self.users[volume].load.history.begin_cut(now, sectors);
        Some(Wanted::Made(SnapshotId(state.id_last), cut))
    }

    fn ask_for_snapshot(&mut self, volume: usize, state: &Snapshots) -> Option<Asked> {
        let group = group_of(volume);
        let command = match state.wanted.as_ref()? {
            Wanted::Made(snapshot, _) => Command::CreateSnapshot {
                group,
                snapshot: *snapshot,
            },
            Wanted::Gone(snapshot) => Command::DeleteSnapshot {
                group,
                snapshot: *snapshot,
            },
        };
        let claimants: Vec<usize> = (0..self.scenario.nodes)
            .filter(|node| self.cluster.nodes[*node].leads(group))
            .collect();
        let node = *claimants.get(self.rng.pick(claimants.len().max(1)))?;
        let life = self.cluster.nodes[node].life;
        let id = self.cluster.start_command(node, command);
        let since = self.cluster.now;
        Some(Asked { node, life, id, since })
    }

    fn take_snapshot_answer(&mut self, volume: usize, state: &mut Snapshots) {
        let Some(asked) = &state.asked else { return };
        let node = &mut self.cluster.nodes[asked.node];
        let Some(answer) = node.command_replies.remove(&asked.id) else {
            if node.life != asked.life || self.cluster.now >= asked.since + ANSWERS_WITHIN {
                state.asked = None;
            }
            return;
        };
        state.asked = None;
        match (answer, state.wanted.take()) {
            (Ok(CommandReply::Committed(_)), Some(Wanted::Made(id, op))) => {
                let now = self.cluster.now;
                let cut = self.users[volume].load.history.end_cut(now, op);
                state.kept.push(Kept { id, cut });
            }
            (Ok(CommandReply::Done), Some(Wanted::Gone(_))) => {}
            (Err(error), wanted) => {
                assert!(
                    !matches!(&error, CommandError::Refused(why) if why.contains("spent")),
                    "[error] a snapshot of volume {volume} is refused: {error}"
                );
                state.refusal = error.to_string();
                state.wanted = wanted;
            }
            (answer, _) => panic!("[error] a request for a snapshot of volume {volume} ended with {answer:?}"),
        }
    }

    fn begin_snapshot_read(&mut self, volume: usize, state: &Snapshots) -> Option<Reading> {
        let kept = state.kept.get(self.rng.pick(state.kept.len().max(1)))?;
        let node = self.rng.pick(self.scenario.nodes);
        self.cluster.nodes[node].recovered.as_ref()?;
        let first = self.rng.below(kept.cut.len() / 8) * 8;
        let id = kept.id;
        let spec = self.users[volume].load.spec.clone();
        let device = self.cluster.open_as(node, &spec, kept.cut.len() / 8, Some(id));
        let tag = self.cluster.submit(node, device, read_of(first, kept.cut.len()));
        Some(Reading {
            id,
            node,
            life: self.cluster.nodes[node].life,
            device,
            tag,
            first,
            since: self.cluster.now,
        })
    }

    fn take_snapshot_read(&mut self, volume: usize, state: &mut Snapshots) {
        let Some(reading) = &state.reading else { return };
        let is_alive = self.cluster.nodes[reading.node].life == reading.life;
        let reply = self.cluster.take_reply(reading.node, reading.device, reading.tag);
        if reply.is_none() && is_alive && self.cluster.now < reading.since + ANSWERS_WITHIN {
            return;
        }
        if is_alive && self.cluster.nodes[reading.node].is_running() {
            self.cluster.close(reading.node, reading.device);
        }
        let load = &mut self.users[volume].load;
        let kept = state.kept.iter_mut().find(|kept| kept.id == reading.id);
        match (reply, kept) {
            (Some(Err(BlockError::Io(why))), Some(_)) if load.tolerates_io_errors && !why.contains("no snapshot") => {}
            (Some(reply), Some(kept)) => {
                let values = values_of(&read_bytes(reply), reading.first);
                load.history.check_cut(&mut kept.cut, reading.first, &values);
            }
            _ => {}
        }
        state.reading = None;
    }

    /// Nobody reads snapshots any more.
    pub(super) fn end_snapshot_reads(&mut self) {
        for volume in 0..self.snapshots.len() {
            let Some(reading) = self.snapshots[volume].reading.take() else {
                continue;
            };
            let node = &self.cluster.nodes[reading.node];
            if node.life == reading.life && node.is_running() {
                self.cluster.close(reading.node, reading.device);
            }
        }
    }

    /// Everything has healed: what was asked for gets done, and every replica has the snapshots that were made.
    pub(super) fn finish_snapshots(&mut self) {
        let done = self.run_until(DONE_WITHIN, |run| {
            run.snapshots.iter().all(|state| state.wanted.is_none())
        });
        let refusals: Vec<&str> = self.snapshots.iter().map(|state| state.refusal.as_str()).collect();
        assert!(
            done,
            "[liveness] snapshots are not made or deleted within {DONE_WITHIN:?} of the healing of everything; last \
             refusals: {refusals:?}"
        );
    }

    /// Reads every snapshot through some node, all of it.
    pub(super) fn read_snapshots(&mut self, volume: usize, node: usize) {
        let mut state = std::mem::take(&mut self.snapshots[volume]);
        let spec = self.users[volume].load.spec.clone();
        for kept in &mut state.kept {
            let device = self.cluster.open_as(node, &spec, kept.cut.len() / 8, Some(kept.id));
            for first in (0..kept.cut.len()).step_by(usize::try_from(READ_SECTORS).unwrap()) {
                let reply = self.cluster.call(node, device, read_of(first, kept.cut.len()));
                let values = values_of(&read_bytes(reply), first);
                self.users[volume].load.history.check_cut(&mut kept.cut, first, &values);
            }
            self.cluster.close(node, device);
            self.users[volume].load.history.check_one_moment(&kept.cut);
        }
        self.snapshots[volume] = state;
    }

    /// A replica has the snapshots that it must have, and each block of them on its disk.
    pub(super) fn check_snapshots(&mut self, volume: usize, node: usize) {
        let mut state = std::mem::take(&mut self.snapshots[volume]);
        let answer = self.cluster.command(node, Command::Snapshots(group_of(volume)));
        let Ok(CommandReply::Snapshots(found)) = answer else {
            panic!("[equal] node {node} does not list its snapshots: {answer:?}");
        };
        let found: Vec<SnapshotId> = found.iter().map(|snapshot| snapshot.id).collect();
        let pinned = self.clones[volume].as_ref().and_then(Clones::pinned);
        let mut expected: Vec<SnapshotId> = state.kept.iter().map(|kept| kept.id).chain(pinned).collect();
        expected.sort_unstable();
        assert_eq!(found, expected, "[equal] the snapshots of node {node}");
        for kept in &mut state.kept {
            let mut stamps = Vec::new();
            let core = self.cluster.nodes[node].core.as_ref();
            let map = core.and_then(|core| core.map(group_of(volume)));
            let Some(view) = map.and_then(|map| map.snapshot(kept.id)) else {
                panic!("[equal] node {node} has no snapshot {} of volume {volume}", kept.id);
            };
            let sectors = kept.cut.len();
            assert!(
                view.size_blocks() >= sectors / 8,
                "[equal] snapshot {} of volume {volume} at node {node} has {} blocks, and the volume had {} before",
                kept.id,
                view.size_blocks(),
                sectors / 8
            );
            // It may have been made after the volume has grown on.
            self.stamps_on_disk((node, group_of(volume)), view, |sector, stamp| {
                if sector < sectors {
                    stamps.push(stamp);
                }
            });
            self.users[volume].load.history.check_cut(&mut kept.cut, 0, &stamps);
        }
        self.snapshots[volume] = state;
    }

    /// The stamp of every sector that a view shows, read from the disk where the map says, whose checksum must hold.
    pub(super) fn stamps_on_disk(
        &self,
        (node, group): (usize, GroupId),
        view: View<'_>,
        mut found: impl FnMut(u64, u64),
    ) {
        use cairn_api::units::{BLOCK_BYTES, BLOCK_SIZE, Lba};
        let disk = &self.cluster.nodes[node].disk;
        let sectors_of = |lba: u64| lba * BLOCK_BYTES / SECTOR as u64;
        for run in view.runs(Lba(0), view.size_blocks()) {
            let (lba, blocks) = (run.lba().0, run.blocks());
            let cairn_core::map::Run::Data { block, crcs, .. } = run else {
                (sectors_of(lba)..sectors_of(lba + blocks)).for_each(|sector| found(sector, 0));
                continue;
            };
            for ((lba, at), crc) in (lba..).zip(block.0..).zip(crcs.iter()) {
                let data = match disk.read(at * BLOCK_BYTES, BLOCK_SIZE) {
                    Ok(data) => data,
                    Err(fault) => panic!("[equal] node {node} cannot read block {lba}: {fault}"),
                };
                let crc_found = crc32c::crc32c(&data);
                assert!(
                    crc_found == *crc,
                    "[equal] block {lba} of node {node} fails its checksum"
                );
                let data = self.cluster.plaintext(group, Lba(lba), data);
                for (sector, bytes) in (sectors_of(lba)..).zip(data.chunks(SECTOR)) {
                    found(sector, content::check(bytes, sector));
                }
            }
        }
    }
}

/// A read from a sector on, as long as reads are, in a volume of so many sectors.
fn read_of(first: u64, sectors: u64) -> BlockOp {
    let count = READ_SECTORS.min(sectors - first);
    BlockOp::Read {
        offset: first * SECTOR as u64,
        length: u32::try_from(count * SECTOR as u64).unwrap(),
    }
}

fn values_of(bytes: &[u8], first: u64) -> Vec<u64> {
    (first..)
        .zip(bytes.chunks(SECTOR))
        .map(|(place, sector)| content::check(sector, place))
        .collect()
}
