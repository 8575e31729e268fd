//! Who this engine is: a node id, and the cluster it belongs to once there is one.
//!
//! Both are kept in `data_dir/node.toml` and in the superblock of every claimed disk, so that either survives the loss of the
//! other. Where they disagree nothing is guessed.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use cairn_api::ids::{ClusterId, DiskId, NodeId};
use serde::{Deserialize, Serialize};

use crate::disks::DiskLabel;

const FILE: &str = "node.toml";
/// The version of `node.toml`; a file of a later version is refused.
const VERSION: u32 = 1;

/// Who this engine is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// The cluster; none before `cairn cluster init`.
    pub cluster: Option<ClusterId>,
    /// This engine has made its replica of the meta group, once and for all.
    pub meta_made: bool,
}

/// A claimed disk that is not this engine's, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stranger {
    /// The disk.
    pub disk: DiskId,
    /// Why it is refused.
    pub reason: String,
}

/// Why the engine does not know who it is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file of the data directory cannot be used.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The identity's file is damaged.
    #[error("{} cannot be read ({reason}); if it is lost, remove it: the identity is taken from the disks", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The disks name several owners, and there is no file to say who is right.
    #[error(
        "the data directory does not say which node this is, and the disks disagree: {details}. Configure only this \
         node's disks, or restore the data directory"
    )]
    DisksDisagree {
        /// Each disk with what it says.
        details: String,
    },
    /// Another engine runs on the same directory.
    #[error("{} is in use by another engine: each engine needs a data_dir of its own", path.display())]
    Locked {
        /// The lock's file.
        path: PathBuf,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    version: u32,
    node_id: NodeId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster_id: Option<ClusterId>,
    #[serde(default)]
    meta_made: bool,
}

/// Keeps other engines out of the data directory for as long as it lives.
#[derive(Debug)]
pub struct DataDirLock {
    _file: nix::fcntl::Flock<fs::File>,
}

/// Makes the data directory if it is missing, and locks it.
pub fn lock(data_dir: &Path) -> Result<DataDirLock, IdentityError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| IdentityError::File { path, source }
    };
    fs::create_dir_all(data_dir).map_err(at(data_dir))?;
    let path = data_dir.join("lock");
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(at(&path))?;
    match nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock) {
        Ok(file) => Ok(DataDirLock { _file: file }),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(IdentityError::Locked { path }),
        Err((_, errno)) => Err(IdentityError::File {
            path,
            source: errno.into(),
        }),
    }
}

/// Reads `node.toml`, if there is one.
pub fn load(data_dir: &Path) -> Result<Option<Identity>, IdentityError> {
    let path = data_dir.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(IdentityError::File { path, source }),
    };
    let file: NodeFile = toml::from_str(&text).map_err(|error| IdentityError::Damaged {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    if file.version != VERSION {
        let reason = format!("it has version {}, this engine reads {VERSION}", file.version);
        return Err(IdentityError::Damaged { path, reason });
    }
    Ok(Some(Identity {
        node: file.node_id,
        cluster: file.cluster_id,
        meta_made: file.meta_made,
    }))
}

/// Writes `node.toml` durably: a new file takes the old one's place.
pub fn save(data_dir: &Path, identity: &Identity) -> Result<(), IdentityError> {
    let path = data_dir.join(FILE);
    let file = NodeFile {
        version: VERSION,
        node_id: identity.node,
        cluster_id: identity.cluster,
        meta_made: identity.meta_made,
    };
    let write = || -> std::io::Result<()> {
        let text = toml::to_string(&file).map_err(std::io::Error::other)?;
        let new = data_dir.join("node.toml.new");
        let mut handle = fs::File::create(&new)?;
        handle.write_all(text.as_bytes())?;
        handle.sync_all()?;
        fs::rename(&new, &path)?;
        fs::File::open(data_dir)?.sync_all()
    };
    write().map_err(|source| IdentityError::File {
        path: path.clone(),
        source,
    })
}

/// Settles who this engine is from what the data directory and the disks say, and names the disks that are not its own.
pub fn settle(
    file: Option<Identity>,
    disks: &[(PathBuf, DiskLabel)],
) -> Result<(Identity, Vec<Stranger>), IdentityError> {
    let claimed: Vec<&(PathBuf, DiskLabel)> = disks.iter().filter(|(_, label)| !label.cluster.is_nil()).collect();
    let identity = match file {
        Some(identity) if identity.cluster.is_some() => identity,
        // An identity without a cluster was never known to anybody else: the disks' word counts for more.
        weak => match agreed(&claimed)? {
            Some((cluster, node)) => Identity {
                node,
                cluster: Some(cluster),
                meta_made: false,
            },
            None => weak.unwrap_or_else(|| Identity {
                node: NodeId::random(),
                cluster: None,
                meta_made: false,
            }),
        },
    };
    let strangers = claimed
        .iter()
        .filter_map(|(path, label)| {
            let path = path.display();
            let reason = if Some(label.cluster) != identity.cluster {
                let own = identity
                    .cluster
                    .map_or_else(|| "none".to_owned(), |cluster| cluster.to_string());
                format!(
                    "disk {path} belongs to cluster {}, this engine to {own}; remove it from the configuration",
                    label.cluster
                )
            } else if label.node != identity.node {
                format!(
                    "disk {path} belongs to node {}, this engine is {}; remove it from the configuration, or start \
                     that node's engine with it",
                    label.node, identity.node
                )
            } else {
                return None;
            };
            Some(Stranger {
                disk: label.disk,
                reason,
            })
        })
        .collect();
    Ok((identity, strangers))
}

fn agreed(claimed: &[&(PathBuf, DiskLabel)]) -> Result<Option<(ClusterId, NodeId)>, IdentityError> {
    let Some((_, first)) = claimed.first() else {
        return Ok(None);
    };
    if claimed
        .iter()
        .all(|(_, label)| (label.cluster, label.node) == (first.cluster, first.node))
    {
        return Ok(Some((first.cluster, first.node)));
    }
    let details: Vec<String> = claimed
        .iter()
        .map(|(path, label)| {
            format!(
                "{} is of cluster {} and node {}",
                path.display(),
                label.cluster,
                label.node
            )
        })
        .collect();
    Err(IdentityError::DisksDisagree {
        details: details.join("; "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(path: &str, cluster: u8, node: u8) -> (PathBuf, DiskLabel) {
        let label = DiskLabel {
            disk: DiskId::random(),
            cluster: ClusterId::from_bytes([cluster; 16]),
            node: NodeId::from_bytes([node; 16]),
            size_bytes: 1 << 30,
        };
        (path.into(), label)
    }

    fn identity(cluster: u8, node: u8) -> Identity {
        let cluster = (cluster != 0).then(|| ClusterId::from_bytes([cluster; 16]));
        Identity {
            node: NodeId::from_bytes([node; 16]),
            cluster,
            meta_made: false,
        }
    }

    #[test]
    fn a_lost_directory_is_made_good_by_disks_that_agree() {
        let disks = [label("/a", 1, 2), label("/b", 1, 2), label("/new", 0, 0)];
        assert_eq!(settle(None, &disks).unwrap(), (identity(1, 2), Vec::new()));
        let weak = identity(0, 9);
        assert_eq!(settle(Some(weak), &disks).unwrap().0, identity(1, 2));
    }

    #[test]
    fn disks_that_disagree_are_named_when_nothing_else_decides() {
        let message = settle(None, &[label("/a", 1, 2), label("/b", 3, 2)])
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("/a") && message.contains("/b") && message.contains("disagree"),
            "{message}"
        );
    }

    #[test]
    fn a_disk_of_another_cluster_or_node_is_refused_by_name_and_the_others_stay() {
        let disks = [label("/own", 1, 2), label("/foreign", 7, 2), label("/moved", 1, 8)];
        let (settled, strangers) = settle(Some(identity(1, 2)), &disks).unwrap();
        assert_eq!(settled, identity(1, 2));
        assert_eq!(
            strangers.iter().map(|stranger| stranger.disk).collect::<Vec<_>>(),
            [disks[1].1.disk, disks[2].1.disk]
        );
        assert!(strangers[0].reason.contains("/foreign") && strangers[0].reason.contains("cluster"));
        assert!(strangers[1].reason.contains("/moved") && strangers[1].reason.contains("node"));
    }

    #[test]
    fn the_file_comes_back_as_it_was_saved_and_damage_is_named() {
        let directory = tempfile::tempdir().unwrap();
        assert!(load(directory.path()).unwrap().is_none());
        let saved = Identity {
            meta_made: true,
            ..identity(3, 4)
        };
        save(directory.path(), &saved).unwrap();
        assert_eq!(load(directory.path()).unwrap(), Some(saved));
        fs::write(directory.path().join(FILE), "version = 1\n").unwrap();
        assert!(load(directory.path()).unwrap_err().to_string().contains("node.toml"));
    }

    #[test]
    fn a_second_engine_is_kept_out_of_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let held = lock(directory.path()).unwrap();
        assert!(matches!(lock(directory.path()), Err(IdentityError::Locked { .. })));
        drop(held);
        lock(directory.path()).unwrap();
    }
}
