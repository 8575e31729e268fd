//! How to attach a volume.

use cairn_api::control;
use serde::Serialize;

use super::table::{Column, layout};
use super::{NodeView, View, or_nothing};

/// One engine's door to a volume.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct ExportView {
    /// The engine's node.
    pub node: String,
    /// Whether it answered.
    pub reachable: bool,
    /// Whether its replica leads: the shortest way.
    pub leader: bool,
    /// Whether it holds a replica.
    pub replica: bool,
    /// NBD over TCP, if it serves that.
    pub uri: Option<String>,
    /// NBD over a unix socket, if it serves that; for programs on the same machine.
    pub socket_uri: Option<String>,
}

/// Every engine's door to a volume, the best one first.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct ExportListView {
    /// The volume: the NBD export's name.
    pub volume: String,
    /// Its capacity.
    pub size_bytes: u64,
    /// The doors: reachable ones first, the leader's before others.
    pub exports: Vec<ExportView>,
}

impl ExportListView {
    /// From the API's answers.
    pub fn new(volume: &control::Volume, nodes: &[NodeView]) -> Self {
        let mut exports: Vec<ExportView> = nodes
            .iter()
            .map(|node| ExportView {
                node: node.name.clone(),
                reachable: node.reachable,
                leader: !volume.leader.is_empty() && node.name == volume.leader,
                replica: volume.replicas.iter().any(|replica| replica.node_id == node.node_id),
                uri: node
                    .nbd_address
                    .as_ref()
                    .map(|address| format!("nbd://{address}/{}", volume.name)),
                socket_uri: node
                    .nbd_socket
                    .as_ref()
                    .map(|path| format!("nbd+unix:///{}?socket={}", volume.name, escape(path))),
            })
            .filter(|export| export.uri.is_some() || export.socket_uri.is_some())
            .collect();
        exports.sort_by_key(|export| (!export.reachable, !export.leader, !export.replica));
        Self {
            volume: volume.name.clone(),
            size_bytes: volume.size_bytes,
            exports,
        }
    }

    /// Commands to try, for the best door.
    fn examples(&self) -> String {
        let Some(uri) = self
            .exports
            .iter()
            .find_map(|export| export.uri.as_ref().or(export.socket_uri.as_ref()))
        else {
            return String::new();
        };
        let mut lines = vec![
            format!("nbdinfo '{uri}'"),
            format!("qemu-img info '{uri}'"),
            format!("nbdcopy --progress image.raw '{uri}'"),
        ];
        let tcp = uri
            .strip_prefix("nbd://")
            .and_then(|rest| rest.split('/').next())
            .and_then(|address| address.rsplit_once(':'));
        match tcp {
            Some((host, port)) => {
                lines.push(format!(
                    "nbd-client {host} {port} /dev/nbd0 -name {} -persist   # as root: a kernel device",
                    self.volume
                ));
            }
            None => {
                let path = uri.rsplit_once("socket=").map_or("", |(_, path)| path);
                lines.push(format!(
                    "nbd-client -unix {path} /dev/nbd0 -name {} -persist   # as root: a kernel device",
                    self.volume
                ));
            }
        }
        lines.push(format!("fio --name=try --ioengine=nbd --uri='{uri}' --rw=randwrite --bs=4k --iodepth=32 --size=64m   # overwrites data"));
        format!("Try:\n  {}", lines.join("\n  "))
    }
}

/// Escapes what a URI's query may not hold.
fn escape(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'-' | b'_' | b'~') {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

impl View for ExportListView {
    fn table(&self) -> String {
        let columns = [
            Column::Words("NODE"),
            Column::Words("REACHABLE"),
            Column::Words("REPLICA"),
            Column::Words("TCP"),
            Column::Words("UNIX SOCKET, ON THE NODE ITSELF"),
        ];
        let row = |export: &ExportView| {
            let role = match (export.leader, export.replica) {
                (true, _) => "leader",
                (false, true) => "yes",
                (false, false) => "no",
            };
            vec![
                export.node.clone(),
                if export.reachable { "yes" } else { "no" }.to_owned(),
                role.to_owned(),
                or_nothing(export.uri.as_deref()),
                or_nothing(export.socket_uri.as_deref()),
            ]
        };
        format!(
            "{}\n\n{}",
            layout(&columns, self.exports.iter().map(row).collect()),
            self.examples()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_path_is_escaped_for_the_uri() {
        assert_eq!(escape("/run/cairn/nbd.sock"), "/run/cairn/nbd.sock");
        assert_eq!(escape("/tmp/a b&c"), "/tmp/a%20b%26c");
    }
}
