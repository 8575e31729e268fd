//! Where the replicas of a new volume go: distinct nodes, the disk with the most uncommitted space of each, fewest replicas
//! where that is equal. Only the meta leader places; the choice is recorded in the command.

use cairn_api::ids::{DiskId, NodeId};
use cairn_api::units::ByteSize;

use super::catalogue::Catalogue;

/// What the leader learnt of a node just now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeReport {
    /// The node.
    pub node: NodeId,
    /// Its usable disks with the bytes their logs can still take, or why there are none.
    pub disks: Result<Vec<(DiskId, u64)>, String>,
}

/// Why there is no place.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{replicas} {} {replicas} {} with a healthy disk; there {} {}: {details}",
    if *.replicas == 1 { "replica needs" } else { "replicas need" },
    if *.replicas == 1 { "node" } else { "nodes" },
    if *.found == 1 { "is" } else { "are" },
    if *.found == 0 { "none".to_owned() } else { .found.to_string() })]
pub struct NoPlace {
    /// Replicas wanted.
    pub replicas: usize,
    /// Nodes that could take one.
    pub found: usize,
    /// Each node with what is wrong with it, or its room.
    pub details: String,
}

/// A disk that could take a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Candidate {
    node: NodeId,
    disk: DiskId,
    /// Bytes that are neither used nor promised to a volume; negative on an over-promised disk, which is still usable
    /// since volumes are thin.
    room_bytes: i128,
    replicas: usize,
}

impl Candidate {
    /// Smaller is better; the ids make it a total order, so that equal reports give equal places.
    fn rank(&self) -> (i128, usize, NodeId, DiskId) {
        (-self.room_bytes, self.replicas, self.node, self.disk)
    }
}

/// Chooses `replicas` places.
pub fn place(catalogue: &Catalogue, reports: &[NodeReport], replicas: usize) -> Result<Vec<(NodeId, DiskId)>, NoPlace> {
    let mut best: Vec<Candidate> = Vec::new();
    let mut details: Vec<String> = Vec::new();
    for report in reports {
        let name = catalogue.node_name(report.node);
        match &report.disks {
            Err(problem) => details.push(format!("{name} ({problem})")),
            Ok(disks) => {
                let candidates = disks
                    .iter()
                    .filter(|(disk, free_bytes)| *free_bytes > 0 && !catalogue.is_given_up(*disk))
                    .map(|(disk, free_bytes)| candidate(catalogue, report.node, *disk, *free_bytes));
                match candidates.min_by_key(Candidate::rank) {
                    Some(candidate) => {
                        let free = disks.iter().map(|(_, free_bytes)| *free_bytes).sum();
                        details.push(format!("{name} ({} free)", ByteSize(free)));
                        best.push(candidate);
                    }
                    None => details.push(format!("{name} (no healthy disk with free space)")),
                }
            }
        }
    }
    if best.len() < replicas {
        let details = if details.is_empty() {
            "no node is registered".to_owned()
        } else {
            details.join(", ")
        };
        return Err(NoPlace {
            replicas,
            found: best.len(),
            details,
        });
    }
    best.sort_by_key(Candidate::rank);
    best.truncate(replicas);
    Ok(best.iter().map(|candidate| (candidate.node, candidate.disk)).collect())
}

fn candidate(catalogue: &Catalogue, node: NodeId, disk: DiskId, free_bytes: u64) -> Candidate {
    let size_bytes = catalogue
        .nodes
        .get(&node)
        .and_then(|record| record.disks.iter().find(|own| own.id == disk))
        .map_or(free_bytes, |record| record.size_bytes);
    let present = catalogue.replicas_on(disk).map(|(volume, _)| volume);
    let coming = catalogue.swaps().filter(|(_, swap)| swap.joining.disk == disk);
    let coming = coming.filter_map(|(group, _)| catalogue.volumes.get(&group));
    let (replicas, promised_bytes) = present.chain(coming).fold((0, 0_i128), |(count, bytes), volume| {
        (count + 1, bytes + i128::from(volume.size_bytes))
    });
    let room_bytes = i128::from(free_bytes).min(i128::from(size_bytes) - promised_bytes);
    Candidate {
        node,
        disk,
        room_bytes,
        replicas,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{disk, node, sample};
    use super::*;

    const GIB: u64 = 1 << 30;

    fn reports(free: &[(u8, u64)]) -> Vec<NodeReport> {
        free.iter()
            .map(|(number, bytes)| NodeReport {
                node: node(*number),
                disks: Ok(vec![(disk(*number), *bytes)]),
            })
            .collect()
    }

    #[test]
    fn replicas_go_to_distinct_nodes_with_the_most_room() {
        let catalogue = sample(4);
        let places = place(
            &catalogue,
            &reports(&[(1, GIB), (2, 4 * GIB), (3, 3 * GIB), (4, 2 * GIB)]),
            3,
        )
        .unwrap();
        assert_eq!(places, [(node(2), disk(2)), (node(3), disk(3)), (node(4), disk(4))]);
    }

    #[test]
    fn one_node_with_two_disks_takes_one_replica() {
        let catalogue = sample(1);
        let two = NodeReport {
            node: node(1),
            disks: Ok(vec![(disk(1), GIB), (disk(101), 2 * GIB)]),
        };
        assert_eq!(
            place(&catalogue, std::slice::from_ref(&two), 1).unwrap(),
            [(node(1), disk(101))]
        );
        let error = place(&catalogue, &[two], 3).unwrap_err();
        assert_eq!((error.replicas, error.found), (3, 1));
    }

    #[test]
    fn promised_space_counts_although_volumes_are_thin() {
        let mut catalogue = sample(2);
        super::super::tests::add_volume(&mut catalogue, "v", 2 * GIB, &[1]);
        let places = place(&catalogue, &reports(&[(1, 8 * GIB), (2, 7 * GIB)]), 1).unwrap();
        assert_eq!(places, [(node(2), disk(2))]);
    }

    #[test]
    fn the_error_names_what_every_node_lacks() {
        let catalogue = sample(3);
        let mut reports = reports(&[(1, GIB), (2, 0)]);
        reports.push(NodeReport {
            node: node(3),
            disks: Err("does not answer".to_owned()),
        });
        let error = place(&catalogue, &reports, 3).unwrap_err().to_string();
        assert_eq!(
            error,
            "3 replicas need 3 nodes with a healthy disk; there is 1: n1 (1 GiB free), n2 (no healthy disk with free \
             space), n3 (does not answer)"
        );
    }
}
