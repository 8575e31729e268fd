//! Disks that are slow, stand still, or fail and say so; and disks that are given up.

use crate::cluster::{MICROSECOND, MILLISECOND, SECOND};
use crate::scenario::Fault;

use super::super::Run;
use super::super::agenda::Act;

impl Run<'_> {
    pub(super) fn disturb_disk(&mut self, fault: &Fault) -> Option<()> {
        match *fault {
            Fault::SlowDisk {
                node,
                latency_us,
                for_us,
            } => {
                let node = self.resolve(node)?;
                let longest = (latency_us * MICROSECOND).max(2 * MILLISECOND);
                self.cluster.nodes[node].write_latency = Some((MILLISECOND, longest));
                self.after_us(for_us, Act::FastDisk(node));
            }
            Fault::Stall { node, for_us } => {
                let node = self.resolve(node)?;
                let end = self.cluster.now + for_us * MICROSECOND;
                let until = &mut self.cluster.nodes[node].stalled_until;
                *until = (*until).max(end);
            }
            Fault::WriteError { node, down_us } => {
                let node = self.running(node).filter(|node| !self.must_keep_power(*node))?;
                self.cluster.nodes[node].disk.fail_next_write = true;
                self.failing.insert(node, down_us * MICROSECOND);
            }
            Fault::ReadErrors { node, percent, for_us } => {
                let node = self.resolve(node)?;
                self.cluster.nodes[node].disk.read_errors_percent = percent;
                self.after_us(for_us, Act::Readable(node));
            }
            Fault::Misreads {
                node,
                everywhere,
                percent,
                for_us,
            } => {
                let node = self.running(node)?;
                for node in (0..self.scenario.nodes).filter(|other| everywhere || *other == node) {
                    self.misread(node, percent, for_us);
                }
            }
            Fault::HiddenTail { node, frames, down_us } => {
                let node = self.running(node)?;
                self.crash(node, down_us * MICROSECOND)?;
                self.cluster.nodes[node].disk.hide_last(frames);
            }
            _ => return None,
        }
        Some(())
    }

    /// What recovery reads wrongly at the end of a log cannot be told from a torn write (`atlas`): this begins when a node
    /// serves, and ends with it.
    fn misread(&mut self, node: usize, percent: u64, for_us: u64) {
        if self.cluster.nodes[node].recovered.is_some() {
            self.cluster.nodes[node].disk.misreads_percent = percent;
            self.after_us(for_us, Act::Readable(node));
        }
    }

    /// A core has given its disk up: only for a reason.
    pub(in super::super) fn on_disk_failed(&mut self, node: usize, life: u64, why: &str) {
        self.cluster
            .trace
            .say(self.cluster.now, format_args!("=== n{node} gives its disk up: {why}"));
        let down = self.failing.remove(&node);
        let is_injected = down.is_some() && why.contains("simulated write error");
        let is_full = why.contains("no room left");
        let is_damaged = self.atlas.is_damaged(node);
        // What recovery cannot read may be there: it stops, and is tried again, or somebody clears the place.
        let disk = &mut self.cluster.nodes[node].disk;
        disk.fail_next_write = false;
        disk.show_hidden();
        let is_unreadable = why.contains("cannot be read") && (disk.clear_spoiled() || disk.has_failed_a_read);
        assert!(
            is_injected || is_full || is_unreadable || is_damaged,
            "[disk] node {node} gives its disk up, though nothing is wrong with it: {why}"
        );
        self.bury(node, life);
        self.draining.remove(&node);
        if is_damaged && !is_injected && !is_unreadable {
            self.lose(node);
        } else if !is_full {
            let down = down.unwrap_or_else(|| self.rng.between(100 * MILLISECOND, SECOND));
            self.agenda.plan(self.cluster.now + down, Act::Start(node));
        }
    }
}
