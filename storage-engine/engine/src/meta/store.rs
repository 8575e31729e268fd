//! The catalogue in sled. Every record that a command changes and the applied index are written in one transaction, so that
//! after a crash the store stands at one index and the log re-delivers what follows it.
//!
//! The store may lose its last moments in a crash, or be wiped: the log keeps every command and is replayed from the index found
//! here. Nothing is acknowledged because it is in sled; it is acknowledged because it is in the log.

use std::path::Path;

use bytes::Bytes;
use cairn_api::ids::{GroupId, LogIndex, SnapshotId};

use super::catalogue::Catalogue;
use super::codec::{self, CodecError};
use super::decide::{self, Change, Outcome, Refusal};
use super::snapshot_codec;

/// The state machine's tree.
const TREE_STATE: &str = "meta";
/// What an engine outside the meta group keeps over a restart.
const TREE_COPY: &str = "copy";
const KEY_APPLIED: &[u8] = b"applied";
const KEY_CLUSTER: &[u8] = b"cluster";
const PREFIX_NODE: u8 = b'n';
const PREFIX_VOLUME: u8 = b'v';
const PREFIX_REPLACEMENT: u8 = b'r';
const PREFIX_SNAPSHOT: u8 = b's';
/// sled's page cache in bytes: the catalogue is small and kept in memory besides.
const CACHE_BYTES: u64 = 8 << 20;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// sled says no.
    #[error("the catalogue's database {path}: {source}")]
    Database {
        /// Where it is.
        path: String,
        /// Why not.
        source: sled::Error,
    },
    /// A record does not decode.
    #[error(
        "the catalogue's database {path} holds a record that cannot be read ({source}); move the directory away and \
         start again: the catalogue is rebuilt from the log"
    )]
    Record {
        /// Where it is.
        path: String,
        /// Why not.
        source: CodecError,
    },
    /// A command of the log does not decode. An engine that skipped it would drift from those that can read it.
    #[error(
        "command {index} of the meta group's log cannot be read ({source}): start an engine of the version that the rest \
         of the cluster runs"
    )]
    Command {
        /// Its index.
        index: LogIndex,
        /// Why not.
        source: CodecError,
    },
}

/// What became of a command of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// The proposal's name.
    pub request: u64,
    /// The verdict.
    pub verdict: Result<Outcome, Refusal>,
}

/// The durable catalogue.
#[derive(Debug)]
pub struct Store {
    path: String,
    database: sled::Db,
    state: sled::Tree,
    copy: sled::Tree,
    catalogue: Catalogue,
}

impl Store {
    /// Opens the database at `path`, making it if it is not there.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let name = path.display().to_string();
        let fail = |source| StoreError::Database {
            path: name.clone(),
            source,
        };
        let database = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            .open()
            .map_err(fail)?;
        let state = database.open_tree(TREE_STATE).map_err(fail)?;
        let copy = database.open_tree(TREE_COPY).map_err(fail)?;
        let mut store = Self {
            path: name,
            database,
            state,
            copy,
            catalogue: Catalogue::default(),
        };
        store.catalogue = store.read()?;
        Ok(store)
    }

    fn database_error(&self, source: sled::Error) -> StoreError {
        StoreError::Database {
            path: self.path.clone(),
            source,
        }
    }

    fn record_error(&self, source: CodecError) -> StoreError {
        StoreError::Record {
            path: self.path.clone(),
            source,
        }
    }

    fn read(&self) -> Result<Catalogue, StoreError> {
        let mut catalogue = Catalogue::default();
        for item in self.state.iter() {
            let (key, value) = item.map_err(|source| self.database_error(source))?;
            match (key.first(), key.as_ref()) {
                (_, KEY_APPLIED) => {
                    let bytes: [u8; 8] = value
                        .as_ref()
                        .try_into()
                        .map_err(|_| self.record_error(CodecError::Field("applied")))?;
                    catalogue.applied = LogIndex(u64::from_be_bytes(bytes));
                }
                (_, KEY_CLUSTER) => {
                    catalogue.cluster =
                        Some(codec::decode_cluster(&value).map_err(|source| self.record_error(source))?);
                }
                (Some(&PREFIX_NODE), _) => {
                    let node = codec::decode_node(&value).map_err(|source| self.record_error(source))?;
                    catalogue.nodes.insert(node.id, node);
                }
                (Some(&PREFIX_VOLUME), _) => {
                    let volume = codec::decode_volume(&value).map_err(|source| self.record_error(source))?;
                    catalogue.volumes.insert(volume.group, volume);
                }
                (Some(&PREFIX_REPLACEMENT), _) => {
                    let replacement = codec::decode_replacement(&value).map_err(|source| self.record_error(source))?;
                    catalogue.replacements.insert(replacement.old, replacement);
                }
                (Some(&PREFIX_SNAPSHOT), _) => {
                    let snapshot = snapshot_codec::decode(&value).map_err(|source| self.record_error(source))?;
                    catalogue.snapshots.insert((snapshot.group, snapshot.id), snapshot);
                }
                _ => return Err(self.record_error(CodecError::Field("a key"))),
            }
        }
        Ok(catalogue)
    }

    /// The catalogue as applied.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Applies the command at `index`. Below the applied index nothing happens: it was applied before.
    ///
    /// What the catalogue refuses is applied too: it moves the index on. Only the database, or a command that this version
    /// cannot read, is an error.
    pub fn apply(&mut self, index: LogIndex, data: &Bytes) -> Result<Option<Applied>, StoreError> {
        if index <= self.catalogue.applied {
            return Ok(None);
        }
        let (request, command) = codec::decode_command(data).map_err(|source| StoreError::Command { index, source })?;
        let (verdict, changes) = match decide::decide(&self.catalogue, &command) {
            Ok((outcome, changes)) => (Ok(outcome), changes),
            Err(refusal) => (Err(refusal), Vec::new()),
        };
        let applied = Applied { request, verdict };
        let mut batch = sled::Batch::default();
        changes
            .iter()
            .for_each(|change| write(&mut batch, &self.catalogue, change));
        batch.insert(KEY_APPLIED, &index.get().to_be_bytes());
        self.state
            .transaction(|tree| {
                tree.apply_batch(&batch)?;
                Ok::<(), sled::transaction::ConflictableTransactionError<std::convert::Infallible>>(())
            })
            .map_err(|error| match error {
                sled::transaction::TransactionError::Storage(source) => self.database_error(source),
                sled::transaction::TransactionError::Abort(never) => match never {},
            })?;
        decide::carry_out(&mut self.catalogue, index, &changes);
        Ok(Some(applied))
    }

    /// Keeps a copy of somebody else's catalogue, for an engine outside the meta group.
    pub fn keep_copy(&self, catalogue: &Catalogue) -> Result<(), StoreError> {
        self.copy
            .insert(KEY_CLUSTER, codec::encode_catalogue(catalogue))
            .map_err(|source| self.database_error(source))?;
        self.flush()
    }

    /// The copy that was kept last. One that cannot be read is as good as none.
    pub fn copy(&self) -> Option<Catalogue> {
        let bytes = self.copy.get(KEY_CLUSTER).ok().flatten()?;
        codec::decode_catalogue(&bytes).ok()
    }

    /// Waits until everything is on the media.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.database.flush().map_err(|source| self.database_error(source))?;
        Ok(())
    }
}

fn write(batch: &mut sled::Batch, before: &Catalogue, change: &Change) {
    let volume_key = |group: GroupId| key(PREFIX_VOLUME, &group.get().to_be_bytes());
    match change {
        Change::Cluster(cluster) => batch.insert(KEY_CLUSTER, codec::encode_cluster(cluster)),
        Change::Node(node) => batch.insert(key(PREFIX_NODE, &node.id.to_bytes()), codec::encode_node(node)),
        Change::ForgetNode(node) => batch.remove(key(PREFIX_NODE, &node.to_bytes())),
        Change::Volume(volume) => batch.insert(volume_key(volume.group), codec::encode_volume(volume)),
        Change::Forget(group) => {
            batch.remove(volume_key(*group));
            for snapshot in before.snapshots_of(*group) {
                batch.remove(snapshot_key(*group, snapshot.id));
            }
        }
        Change::Snapshot(snapshot) => batch.insert(
            snapshot_key(snapshot.group, snapshot.id),
            snapshot_codec::encode(snapshot),
        ),
        Change::ForgetSnapshot(group, snapshot) => batch.remove(snapshot_key(*group, *snapshot)),
        Change::Replacement(replacement) => batch.insert(
            key(PREFIX_REPLACEMENT, &replacement.old.to_bytes()),
            codec::encode_replacement(replacement),
        ),
    }
}

fn snapshot_key(group: GroupId, snapshot: SnapshotId) -> Vec<u8> {
    let numbers = [group.get().to_be_bytes(), snapshot.get().to_be_bytes()];
    key(PREFIX_SNAPSHOT, &numbers.concat())
}

fn key(prefix: u8, id: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + id.len());
    key.push(prefix);
    key.extend_from_slice(id);
    key
}
