//! Where a group's lost blocks are asked for, and where those that its peers ask for are.

use cairn_api::ids::{DiskId, LogIndex, Term};
use cairn_api::units::Lba;
use cairn_format::peer::{RepairRefusal, RepairRequest, RepairSource, WantedBlock};

use super::Group;
use crate::map::Slot;
use crate::repair::ask::Loss;
use crate::repair::serve::{Place, entry_places};
use crate::repair::{Consumer, Outcome};
use crate::shared::Shared;

impl Group {
    /// Asks the other voters for what this disk has lost: whether nobody has it any more does not depend on a learner.
    pub(crate) fn find_lost(&self, shared: &mut Shared, loss: &Loss, consumer: Consumer) {
        let peers = self.other_voters().filter_map(|voter| self.address(voter)).collect();
        shared.repair(loss, peers, consumer);
    }

    /// A repair has ended.
    pub(crate) fn repaired(&mut self, shared: &mut Shared, consumer: Consumer, outcome: Outcome) {
        match consumer {
            Consumer::Read { read, piece, .. } => self.piece_repaired(shared, read, piece, outcome),
            Consumer::Outbox { to, serial, entry } => self.outbox_repaired(shared, (to, serial, entry), outcome),
            Consumer::CatchUp { serial, place } => self.catch_up_repaired(shared, (serial, place), outcome),
            Consumer::External { index } => self.external_repaired(shared, index, outcome),
            Consumer::Scrub { .. } | Consumer::Collect => {}
        }
    }

    /// A peer asks for blocks. Only a member is answered: nobody else has a use for them.
    pub(crate) fn answer_repair(&self, shared: &mut Shared, from: DiskId, request: RepairRequest) {
        if self.replica_on(from).is_none() {
            tracing::debug!(group = %self.spec.group, %from, "a stranger asks for blocks");
            return;
        }
        match request.source {
            RepairSource::Volume => {
                let places = request
                    .blocks
                    .iter()
                    .map(|wanted| self.place_in_volume(wanted))
                    .collect();
                shared.serve_repair(from, &request, places);
            }
            RepairSource::Entry { index, term } => self.answer_from_log(shared, from, request, (index, term)),
        }
    }

    fn place_in_volume(&self, wanted: &WantedBlock) -> Place {
        // It may be a snapshot's, and here or there it may have moved from the head to a delta already: a block with these
        // bytes is as good as any other.
        let matching = self.map.slots_at(Lba(wanted.at)).find_map(|slot| match slot {
            Slot::Data { block, crc } if crc == wanted.crc => Some(block),
            _ => None,
        });
        matching.map_or(Place::Absent, |block| Place::Disk(block.0))
    }

    fn answer_from_log(
        &self,
        shared: &mut Shared,
        from: DiskId,
        request: RepairRequest,
        (index, term): (LogIndex, Term),
    ) {
        let store = self.node.store();
        if store.term_at(index.get()) != Some(term.get()) {
            return shared.refuse_repair(from, &request, RepairRefusal::Absent);
        }
        if let Some(entry) = store.get(index.get()) {
            let payload_block = entry.location.map_or(0, |location| location.payload_block);
            let places = entry_places(&request.blocks, &entry.header, payload_block, &entry.payload);
            return shared.serve_repair(from, &request, places);
        }
        match store.frames_from(index.get(), 1).first() {
            Some(offset) => shared.search_for_peer(from, request, (index, term), *offset),
            None => shared.refuse_repair(from, &request, RepairRefusal::Absent),
        }
    }
}
