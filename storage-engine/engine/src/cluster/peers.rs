//! Tells every disk's thread where the other disks' cores listen.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use cairn_api::ids::DiskId;

use crate::control::route;
use crate::engine::Engine;
use crate::meta::Catalogue;

/// What the disks' threads were told last.
#[derive(Debug, Default)]
pub struct PeerBook {
    /// For each local disk, the address of each peer as it was told.
    told: BTreeMap<(DiskId, DiskId), SocketAddr>,
    /// Addresses that engines named when they were asked, newer than the catalogue's. They matter while the meta group has
    /// no leader to commit them.
    heard: BTreeMap<DiskId, SocketAddr>,
}

impl PeerBook {
    /// Every disk of the cluster with the address of its node's data listener.
    fn addresses(&self, catalogue: &Catalogue) -> BTreeMap<DiskId, SocketAddr> {
        let mut addresses = BTreeMap::new();
        for node in catalogue.nodes.values() {
            let Ok(address) = node.data_address.parse() else {
                continue;
            };
            addresses.extend(node.disks.iter().map(|disk| (disk.id, address)));
        }
        addresses.extend(&self.heard);
        addresses
    }

    /// Tells each serving disk what it does not know yet.
    pub fn publish(&mut self, engine: &Engine) {
        let addresses = self.addresses(&engine.meta.view());
        for (local, thread) in engine.disks.serving() {
            for (peer, address) in &addresses {
                let is_news = *peer != local && self.told.get(&(local, *peer)) != Some(address);
                if is_news && thread.set_peer(*peer, *address) {
                    tracing::debug!(%local, %peer, %address, "a peer's address");
                    self.told.insert((local, *peer), *address);
                }
            }
        }
    }

    /// While the meta group has no leader: asks the engines that are known, and the seeds, where they listen now, and
    /// notes what differs from the catalogue.
    pub async fn listen_around(&mut self, engine: &Arc<Engine>) {
        let view = engine.meta.view();
        let own = engine.addresses.control.clone();
        let known = view.nodes.values().map(|node| node.control_address.clone());
        let mut addresses: Vec<String> = known.chain(engine.hints()).filter(|address| *address != own).collect();
        addresses.sort();
        addresses.dedup();
        let probes: Vec<_> = addresses
            .into_iter()
            .map(|address| tokio::spawn(route::probe(Arc::clone(engine), address)))
            .collect();
        let cluster = engine.cluster().map(|cluster| cluster.to_string()).unwrap_or_default();
        for probe in probes {
            let Ok(Ok(info)) = probe.await else { continue };
            if info.cluster_id != cluster {
                continue;
            }
            let Ok(address) = info.data_address.parse() else {
                continue;
            };
            let disks = info.disks.iter().filter_map(|disk| disk.disk_id.parse::<DiskId>().ok());
            self.heard.extend(disks.map(|disk| (disk, address)));
        }
    }

    /// The meta group has a leader: the catalogue's word counts again.
    pub fn trust_catalogue(&mut self) {
        self.heard.clear();
    }
}
