//! The user of a clone: reads and writes it, one request after the other, takes snapshots of it and reads those.

use std::ops::Range;

use bytes::Bytes;
use cairn_api::block::{BlockError, BlockOp, BlockReply, Tag};
use cairn_api::ids::SnapshotId;
use cairn_api::units::{BLOCK_BYTES, Lba};
use cairn_core::event::{Command, CommandReply, DeviceId};
use cairn_core::map;
use cairn_history::content::{self, SECTOR};
use cairn_history::rng::Rng;

use crate::cluster::{SECOND, read_bytes};

use super::super::Run;
use super::super::snapshots::Kept;
use super::Clone;
use super::model::Model;

/// A request that has no answer for so long is given up.
const ANSWERS_WITHIN: u64 = 8 * SECOND;
/// Snapshots of one clone.
const SNAPSHOTS_MAX: u64 = 4;
/// Blocks of one read when everything is read.
const READ_BLOCKS: u64 = 64;

enum What {
    Write { stamp: u64 },
    Zero,
    Read { snapshot: Option<SnapshotId> },
}

struct Request {
    what: What,
    range: Range<u64>,
    tag: Tag,
    since: u64,
}

/// See the module.
pub(super) struct User {
    node: usize,
    device: Option<(DeviceId, u64, Option<SnapshotId>)>,
    request: Option<Request>,
}

impl User {
    pub(super) const fn at(node: usize) -> Self {
        Self {
            node,
            device: None,
            request: None,
        }
    }
}

impl Run<'_> {
    /// Takes what the user of a clone does a step further; it asks for nothing new without stamps.
    pub(super) fn use_clone(
        &mut self,
        volume: usize,
        (kept, clone): (&mut Kept, &mut Clone),
        rng: &mut Rng,
        stamp_last: Option<&mut u64>,
    ) {
        self.take_clone_reply(volume, kept, clone);
        self.take_clone_snapshot(clone);
        let Some(stamp_last) = stamp_last else { return };
        if !clone.is_made() || clone.user.request.is_some() || clone.wanted.is_some() {
            return;
        }
        let snapshots = clone.snapshots.len() as u64;
        if snapshots < SNAPSHOTS_MAX && rng.chance(4) {
            clone.wanted = Some((SnapshotId(snapshots + 1), None));
            return;
        }
        if clone.user.device.is_none() && rng.chance(20) {
            clone.user.node = rng.pick(self.scenario.nodes);
        }
        self.ask_of_clone(clone, rng, stamp_last);
    }

    fn ask_of_clone(&mut self, clone: &mut Clone, rng: &mut Rng, stamp_last: &mut u64) {
        let user = &mut clone.user;
        if self.cluster.nodes[user.node].recovered.is_none() {
            return;
        }
        let of_snapshot = rng.chance(15).then(|| clone.snapshots.get(rng.pick(4))).flatten();
        let (snapshot, blocks) =
            of_snapshot.map_or((None, clone.model.blocks()), |(id, model)| (Some(*id), model.blocks()));
        let life = self.cluster.nodes[user.node].life;
        let device = match user.device {
            Some((device, _, of)) if of == snapshot => device,
            before => {
                if let Some((device, opened, _)) = before
                    && opened == life
                {
                    self.cluster.close(user.node, device);
                }
                let device = self.cluster.open_as(user.node, &clone.spec, blocks, snapshot);
                user.device = Some((device, life, snapshot));
                device
            }
        };
        let first = self.where_to(clone, blocks, rng);
        let user = &mut clone.user;
        let range = first..(first + 1 + rng.below(24)).min(blocks);
        let (offset, length) = (range.start * BLOCK_BYTES, (range.end - range.start) * BLOCK_BYTES);
        let dice = rng.below(100);
        let (what, op) = if snapshot.is_some() || dice < 45 {
            let length = u32::try_from(length).unwrap();
            (What::Read { snapshot }, BlockOp::Read { offset, length })
        } else if dice < 85 {
            *stamp_last += 1;
            let stamp = *stamp_last;
            let places = offset / SECTOR as u64..(offset + length) / SECTOR as u64;
            let data: Vec<u8> = places.flat_map(|place| content::sector(stamp, place)).collect();
            let data = Bytes::from(data);
            (What::Write { stamp }, BlockOp::Write { offset, data })
        } else if dice < 93 {
            (What::Zero, BlockOp::Trim { offset, length })
        } else {
            let no_hole = dice < 96;
            (
                What::Zero,
                BlockOp::WriteZeroes {
                    offset,
                    length,
                    no_hole,
                },
            )
        };
        let tag = self.cluster.submit(user.node, device, op);
        let since = self.cluster.now;
        user.request = Some(Request {
            what,
            range,
            tag,
            since,
        });
    }

    /// Often what is going to be filled next: that is where a request and an entry that fills may meet.
    fn where_to(&self, clone: &Clone, blocks: u64, rng: &mut Rng) -> u64 {
        let next = self.next_to_fill(clone).filter(|_| rng.chance(60));
        let first = next.map(|run| run.start + rng.below(run.end - run.start));
        first.unwrap_or_else(|| rng.below(blocks)).min(blocks - 1)
    }

    /// The first data of its base beyond what some replica has filled.
    fn next_to_fill(&self, clone: &Clone) -> Option<Range<u64>> {
        let base = clone.spec.base?;
        let core = self.cluster.nodes.iter().find_map(|node| {
            let core = node.core.as_ref()?;
            core.map(clone.spec.group)?.base().map(|_| core)
        })?;
        let filled = core.map(clone.spec.group)?.base_range().start;
        let view = core.map(base.group)?.snapshot(base.snapshot)?;
        let rest = view.size_blocks().checked_sub(filled).filter(|rest| *rest > 0)?;
        let mut runs = view.runs(Lba(filled), rest);
        runs.find_map(|run| match run {
            map::Run::Data { lba, blocks, .. } => Some(lba.0..lba.0 + blocks),
            _ => None,
        })
    }

    fn take_clone_reply(&mut self, volume: usize, kept: &mut Kept, clone: &mut Clone) {
        let Some((device, life, _)) = clone.user.device else {
            return;
        };
        let is_alive = self.cluster.nodes[clone.user.node].life == life;
        let reply = clone.user.request.as_ref().and_then(|request| {
            let replied = self.cluster.take_reply(clone.user.node, device, request.tag);
            replied.filter(|_| is_alive)
        });
        let now = self.cluster.now;
        let is_late = |request: &Request| now >= request.since + ANSWERS_WITHIN;
        if reply.is_none() && is_alive && !clone.user.request.as_ref().is_some_and(is_late) {
            return;
        }
        let Some(reply) = reply else {
            return self.close_user(&mut clone.user, &mut clone.model);
        };
        let Some(request) = &clone.user.request else { return };
        let range = request.range.clone();
        match (reply, &request.what) {
            (Ok(BlockReply::Read(pieces)), What::Read { snapshot }) => {
                let bytes = read_bytes(Ok(BlockReply::Read(pieces)));
                let of = clone.snapshots.iter().find(|(id, _)| Some(*id) == *snapshot);
                let model = of.map_or(&clone.model, |(_, model)| model);
                let what = format!("clone {} (snapshot {snapshot:?})", clone.spec.group);
                let history = &mut self.users[volume].load.history;
                model.check(&what, range.start, &bytes, history, &mut kept.cut);
            }
            (Ok(_), What::Write { stamp }) => clone.model.done(range, *stamp),
            (Ok(_), What::Zero) => clone.model.done(range, 0),
            (Err(BlockError::Io(why)), _) if !self.users[volume].load.tolerates_io_errors => {
                panic!("[error] a user of clone {} is told: {why}", clone.spec.group)
            }
            // It is held elsewhere, or has been taken by another: nothing is known.
            (Err(_), _) => return self.close_user(&mut clone.user, &mut clone.model),
            (Ok(reply), What::Read { .. }) => panic!("[error] a read of a clone ended with {reply:?}"),
        }
        clone.user.request = None;
    }

    /// The user gives up; what becomes of its request is not known.
    pub(super) fn close_user(&mut self, user: &mut User, model: &mut Model) {
        if let Some((device, life, _)) = user.device.take() {
            let node = &self.cluster.nodes[user.node];
            if node.life == life && node.is_running() {
                self.cluster.close(user.node, device);
            }
        }
        if let Some(request) = user.request.take() {
            match request.what {
                What::Write { stamp } => model.doubtful(request.range, stamp),
                What::Zero => model.doubtful(request.range, 0),
                What::Read { .. } => {}
            }
        }
    }

    /// Asks whoever seems to lead for the snapshot that is wanted. Nothing is written meanwhile, so that it shows what there is.
    fn take_clone_snapshot(&mut self, clone: &mut Clone) {
        let Some((id, asked)) = clone.wanted.take() else { return };
        let group = clone.spec.group;
        let asked = match asked {
            Some(asked) => match self.answer_to(&asked) {
                Some(Ok(CommandReply::Committed(_))) => {
                    return clone.snapshots.push((id, clone.model.clone()));
                }
                Some(Ok(reply)) => panic!("[error] a snapshot of clone {group} ended with {reply:?}"),
                Some(Err(_)) => None,
                None if self.is_stale(&asked) => None,
                None => Some(asked),
            },
            None => {
                let leads = |node: &usize| self.cluster.nodes[*node].leads(group);
                let leader = (0..self.scenario.nodes).find(leads);
                leader.map(|node| self.ask_node(node, Command::CreateSnapshot { group, snapshot: id }))
            }
        };
        clone.wanted = Some((id, asked));
    }

    /// Reads all of a clone, and of its snapshots, through some node.
    pub(super) fn read_clone(&mut self, volume: usize, node: usize, kept: &mut Kept, clone: &Clone) {
        let snapshots = clone.snapshots.iter().map(|(id, model)| (Some(*id), model));
        for (snapshot, model) in snapshots.chain([(None, &clone.model)]) {
            let blocks = model.blocks();
            let device = self.cluster.open_as(node, &clone.spec, blocks, snapshot);
            let what = format!("clone {} at rest (snapshot {snapshot:?})", clone.spec.group);
            for first in (0..blocks).step_by(usize::try_from(READ_BLOCKS).unwrap()) {
                let length = READ_BLOCKS.min(blocks - first) * BLOCK_BYTES;
                let read = BlockOp::Read {
                    offset: first * BLOCK_BYTES,
                    length: u32::try_from(length).unwrap(),
                };
                let bytes = read_bytes(self.cluster.call(node, device, read));
                let history = &mut self.users[volume].load.history;
                model.check(&what, first, &bytes, history, &mut kept.cut);
            }
            self.cluster.close(node, device);
        }
    }
}
