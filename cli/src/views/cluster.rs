//! The cluster: nodes, volumes, and the meta group.

use cairn_api::control;
use cairn_api::units::ByteSize;
use serde::Serialize;

use super::table::{Column, layout, properties};
use super::volume::{NodeNames, VolumeListView, VolumeView};
use super::{DiskView, View, non_empty, or_nothing};

/// A cluster as the engine that answered sees it.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct ClusterView {
    /// Its id.
    pub cluster_id: String,
    /// Its name.
    pub cluster_name: String,
    /// The node that leads the meta group, if one is known.
    pub meta_leader: Option<String>,
    /// Its nodes, sorted by name.
    pub nodes: Vec<NodeView>,
    /// Its volumes, sorted by name.
    pub volumes: Vec<VolumeView>,
}

/// A node.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Its id.
    pub node_id: String,
    /// Whether it answered.
    pub reachable: bool,
    /// Why not, if it did not.
    pub problem: Option<String>,
    /// `uninitialised`, `recovering`, `ready`, `draining` or `unknown`.
    pub state: String,
    /// The engine's version, if it answered.
    pub version: Option<String>,
    /// Whether it takes part in the meta group.
    pub meta_member: bool,
    /// Where the control API listens.
    pub control_address: String,
    /// Where peers connect.
    pub data_address: String,
    /// Where NBD is served over TCP, if it is.
    pub nbd_address: Option<String>,
    /// Where NBD is served on a unix socket, if it is and the node answered.
    pub nbd_socket: Option<String>,
    /// Its disks.
    pub disks: Vec<DiskView>,
}

/// The word for a node's state.
fn state_name(state: control::NodeState) -> &'static str {
    match state {
        control::NodeState::Unspecified => "unknown",
        control::NodeState::Uninitialised => "uninitialised",
        control::NodeState::Recovering => "recovering",
        control::NodeState::Ready => "ready",
        control::NodeState::Draining => "draining",
    }
}

/// The node knows its disks' free space; the catalogue knows which disks it ever had. One that the node cannot read has no
/// id of its own word, and is the catalogue's at the same path.
fn disks(spec: &control::NodeSpec, info: Option<&control::NodeInfo>) -> Vec<DiskView> {
    let Some(info) = info else {
        return spec
            .disks
            .iter()
            .map(|disk| DiskView::new(disk, &spec.name, false))
            .collect();
    };
    let mut live = info.disks.clone();
    let mut missing = Vec::new();
    for known in &spec.disks {
        if live.iter().any(|disk| disk.disk_id == known.disk_id) {
            continue;
        }
        match live
            .iter_mut()
            .find(|disk| disk.disk_id.is_empty() && disk.path == known.path)
        {
            Some(nameless) => nameless.disk_id.clone_from(&known.disk_id),
            None => missing.push(DiskView::missing(known, &spec.name)),
        }
    }
    let mut disks: Vec<DiskView> = live.iter().map(|disk| DiskView::new(disk, &spec.name, true)).collect();
    disks.extend(missing);
    disks
}

impl NodeView {
    /// From the catalogue's entry and, where it answered, the node's own word.
    pub fn new(status: &control::NodeStatus, replacements: &[control::Replacement]) -> Self {
        let spec = status.spec.clone().unwrap_or_default();
        let info = status.info.as_ref();
        let disks = disks(&spec, info).into_iter();
        let disks = disks.map(|disk| disk.with_replacements(replacements)).collect();
        Self {
            node_id: spec.node_id.clone(),
            reachable: status.reachable,
            problem: non_empty(&status.problem),
            state: info.map_or("unknown", |info| state_name(info.state())).to_owned(),
            version: info.and_then(|info| non_empty(&info.version)),
            meta_member: spec.meta_member,
            control_address: spec.control_address.clone(),
            data_address: spec.data_address.clone(),
            nbd_address: non_empty(&spec.nbd_address),
            nbd_socket: info.and_then(|info| non_empty(&info.nbd_socket)),
            disks,
            name: spec.name,
        }
    }

    fn row(&self) -> Vec<String> {
        let free: Option<u64> = self.disks.iter().map(|disk| disk.free_bytes).sum();
        let size: u64 = self.disks.iter().map(|disk| disk.size_bytes).sum();
        vec![
            self.name.clone(),
            if self.reachable { "yes" } else { "no" }.to_owned(),
            self.state.clone(),
            if self.meta_member { "member" } else { "-" }.to_owned(),
            self.control_address.clone(),
            self.data_address.clone(),
            or_nothing(self.nbd_address.as_deref()),
            self.disks.len().to_string(),
            ByteSize(size).to_string(),
            or_nothing(free.map(|bytes| ByteSize(bytes).to_string()).as_deref()),
        ]
    }
}

impl ClusterView {
    /// From the API's answer.
    pub fn new(status: &control::ClusterStatus) -> Self {
        let mut nodes: Vec<NodeView> = status
            .nodes
            .iter()
            .map(|node| NodeView::new(node, &status.replacements))
            .collect();
        nodes.sort_by(|left, right| left.name.cmp(&right.name));
        let names: NodeNames = nodes
            .iter()
            .map(|node| (node.node_id.clone(), node.name.clone()))
            .collect();
        Self {
            cluster_id: status.cluster_id.clone(),
            cluster_name: status.cluster_name.clone(),
            meta_leader: non_empty(&status.meta_leader),
            nodes,
            volumes: VolumeListView::new(&status.volumes, &names).volumes,
        }
    }

    fn nodes_table(&self) -> String {
        let columns = [
            Column::Words("NODE"),
            Column::Words("REACHABLE"),
            Column::Words("STATE"),
            Column::Words("META"),
            Column::Words("CONTROL"),
            Column::Words("PEERS"),
            Column::Words("NBD"),
            Column::Number("DISKS"),
            Column::Number("SIZE"),
            Column::Number("FREE"),
        ];
        layout(&columns, self.nodes.iter().map(NodeView::row).collect())
    }

    /// One line for each thing that is not as it should be.
    fn problems(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for node in &self.nodes {
            if !node.reachable {
                let why = node.problem.as_deref().unwrap_or("it does not answer");
                lines.push(format!("node {}: {why}", node.name));
            }
            let is_bad = |disk: &&DiskView| disk.state.starts_with("failed") || disk.state == "missing";
            for disk in node.disks.iter().filter(is_bad) {
                lines.push(format!("node {}: disk {}: {}", node.name, disk.path, disk.state));
            }
        }
        if self.meta_leader.is_none() {
            lines.push("the meta group has no leader: volumes cannot be created or deleted until a majority of its members runs".to_owned());
        }
        lines
    }
}

impl View for ClusterView {
    fn table(&self) -> String {
        let head = properties(&[
            ("Cluster", format!("{} ({})", self.cluster_name, self.cluster_id)),
            ("Meta leader", or_nothing(self.meta_leader.as_deref())),
        ]);
        let volumes = VolumeListView {
            volumes: self.volumes.clone(),
        }
        .table();
        let mut sections = vec![head, self.nodes_table(), volumes];
        let problems = self.problems();
        if !problems.is_empty() {
            sections.push(format!("Problems:\n  {}", problems.join("\n  ")));
        }
        sections.join("\n\n")
    }
}

/// A cluster that `cluster init` has made, or found made.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct InitView {
    /// Whether this command made it; false if it was there already.
    pub created: bool,
    /// The cluster.
    #[serde(flatten)]
    pub cluster: ClusterView,
}

impl View for InitView {
    fn table(&self) -> String {
        let verb = if self.created { "is ready" } else { "was there already" };
        format!(
            "Cluster {} {verb}: {} nodes, meta group led by {}.\n\n{}\n\nNext: `cairn volume create NAME --size 10GiB`",
            self.cluster.cluster_name,
            self.cluster.nodes.len(),
            or_nothing(self.cluster.meta_leader.as_deref()),
            self.cluster.nodes_table()
        )
    }
}

/// Engines that `cluster add` has added, or found to be members.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct AddedView {
    /// Their nodes' names.
    pub added: Vec<String>,
    /// The cluster.
    #[serde(flatten)]
    pub cluster: ClusterView,
}

impl View for AddedView {
    fn table(&self) -> String {
        format!(
            "Cluster {} has {} nodes, {} among them.\n\n{}",
            self.cluster.cluster_name,
            self.cluster.nodes.len(),
            self.added.join(" and "),
            self.cluster.nodes_table()
        )
    }
}
