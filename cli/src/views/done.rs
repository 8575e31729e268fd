//! Results that are a sentence for people and a small object for programs.

use serde::Serialize;

use super::View;

/// A volume that is gone, or going.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct DeletedView {
    /// The volume.
    pub name: String,
    /// Whether every replica is dropped already.
    pub complete: bool,
}

impl View for DeletedView {
    fn table(&self) -> String {
        if self.complete {
            format!("Deleted volume {}.", self.name)
        } else {
            format!("Volume {} is being deleted.", self.name)
        }
    }
}

/// A volume whose attachment has ended.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct DetachedView {
    /// The volume.
    pub name: String,
    /// The epoch that rules now: writes under older ones are refused.
    pub epoch: u64,
}

impl View for DetachedView {
    fn table(&self) -> String {
        format!(
            "Detached volume {}: writes of earlier attachments are refused from epoch {} on.",
            self.name, self.epoch
        )
    }
}

/// A development cluster that runs.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct DevView {
    /// Its directory.
    pub dir: String,
    /// Its engines.
    pub engines: Vec<DevEngineView>,
    /// The volume that was asked for, if any.
    pub volume: Option<String>,
}

/// An engine of a development cluster.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct DevEngineView {
    /// Its node's name.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// Where its control API listens.
    pub control_address: String,
    /// Where its metrics are served.
    pub metrics_address: String,
    /// Where NBD is served.
    pub nbd_address: String,
    /// Where NBD is served for local programs, if the path was short enough for a socket.
    pub nbd_socket: Option<String>,
    /// Its log.
    pub log: String,
}

impl View for DevView {
    fn table(&self) -> String {
        let engines: Vec<&str> = self
            .engines
            .iter()
            .map(|engine| engine.control_address.as_str())
            .collect();
        let flag = match engines.first() {
            Some(&crate::args::ENGINE_DEFAULT) => String::new(),
            Some(first) => format!(" --engine {first}"),
            None => String::new(),
        };
        let mut lines = vec![
            format!(
                "Cairn runs in {}: {} engines. Ctrl-c stops it; the data stays.",
                self.dir,
                engines.len()
            ),
            String::new(),
        ];
        for engine in &self.engines {
            lines.push(format!(
                "  {}  process {}, control {}, NBD {}, metrics http://{}/metrics, log {}",
                engine.name, engine.pid, engine.control_address, engine.nbd_address, engine.metrics_address, engine.log
            ));
        }
        lines.push(String::new());
        lines.push("In another terminal:".to_owned());
        lines.push(format!("  cairn{flag} cluster status"));
        let volume = self.volume.as_deref().unwrap_or("data");
        if self.volume.is_none() {
            lines.push(format!("  cairn{flag} volume create {volume} --size 1GiB"));
        }
        lines.push(format!("  cairn{flag} volume export {volume}"));
        if let Some(engine) = self.engines.first() {
            lines.push(format!("  nbdinfo nbd://{}/{volume}", engine.nbd_address));
            lines.push(format!(
                "  kill -9 {}    # node {} dies: the volume stays",
                engine.pid, engine.name
            ));
        }
        lines.join("\n")
    }
}
