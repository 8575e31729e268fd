//! What a core may hold, at most.

use cairn_core::WRITE_BACKS_MAX;
use cairn_core::log::FRAMES_IN_FLIGHT_MAX;

use crate::cluster::Cluster;

use super::Run;

/// Writes of one disk under way: the log's window, and beside it repairs, one of a checkpoint, one of collection, and an anchor
/// of a checkpoint that was given up.
const WRITES_MAX: usize = FRAMES_IN_FLIGHT_MAX + WRITE_BACKS_MAX + 3;
/// Beyond the bound of a link: messages that are not counted against it (answers, requests) and the last that passed.
const LINK_SLACK: usize = 8 << 20;
/// Events that a node has not been handed yet, unless it is paused.
const INBOX_MAX: usize = 20_000;
/// Things that are planned in the whole cluster.
const AGENDA_MAX: usize = 100_000;

impl Run<'_> {
    pub(super) fn check_bounds(&self) {
        let cluster = &self.cluster;
        let planned = cluster.agenda_length();
        assert!(planned <= AGENDA_MAX, "[bounds] {planned} things are planned");
        for number in 0..cluster.nodes.len() {
            check_node(cluster, number, self.scenario.link_bytes_max);
        }
    }
}

fn check_node(cluster: &Cluster, number: usize, link_bytes_max: usize) {
    let node = &cluster.nodes[number];
    let writes = node.disk.in_flight();
    assert!(
        writes <= WRITES_MAX,
        "[bounds] node {number} has {writes} writes under way"
    );
    let events = node.inbox.len();
    assert!(
        events <= INBOX_MAX,
        "[bounds] node {number} has {events} events waiting"
    );
    for other in (0..cluster.nodes.len()).filter(|other| *other != number) {
        let bytes = cluster.queued_bytes(number, other);
        assert!(
            bytes <= link_bytes_max + LINK_SLACK,
            "[bounds] node {number} has {bytes} bytes queued for node {other}"
        );
    }
}
