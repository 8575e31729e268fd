//! The bytes of snapshots' records and commands.

use cairn_api::ids::{GroupId, LogIndex, SnapshotId};
use prost::Message;

use super::codec::CodecError;
use super::snapshot::{SnapshotCommand, SnapshotPhase, SnapshotRecord};
use super::together::{Made, Together};
use super::wire;

pub(super) fn command_to_wire(command: SnapshotCommand) -> wire::command::Kind {
    use wire::command::Kind;
    match command {
        SnapshotCommand::Create {
            group,
            name,
            created_unix_s,
        } => Kind::CreateSnapshot(wire::CreateSnapshot {
            group: group.get(),
            name,
            created_unix_s,
        }),
        SnapshotCommand::Report { group, snapshot, made } => {
            let (index, size_bytes) = made.unwrap_or_default();
            Kind::ReportSnapshot(wire::ReportSnapshot {
                group: group.get(),
                snapshot: snapshot.get(),
                deleted: made.is_none(),
                index: index.get(),
                size_bytes,
            })
        }
        SnapshotCommand::Delete { group, snapshot } => Kind::DeleteSnapshot(wire::DeleteSnapshot {
            group: group.get(),
            snapshot: snapshot.get(),
        }),
        SnapshotCommand::CreateTogether {
            groups,
            name,
            created_unix_s,
            token,
        } => Kind::CreateTogether(wire::CreateTogether {
            groups: groups.into_iter().map(GroupId::get).collect(),
            name,
            created_unix_s,
            token,
        }),
        SnapshotCommand::CompleteTogether { token, made } => Kind::CompleteTogether(wire::CompleteTogether {
            token,
            made: made.iter().map(made_to_wire).collect(),
        }),
        SnapshotCommand::AbortTogether { token, groups } => Kind::AbortTogether(wire::AbortTogether {
            token,
            groups: groups.into_iter().map(GroupId::get).collect(),
        }),
    }
}

fn made_to_wire(made: &Made) -> wire::MadeSnapshot {
    wire::MadeSnapshot {
        group: made.group.get(),
        snapshot: made.snapshot.get(),
        index: made.index.get(),
        size_bytes: made.size_bytes,
    }
}

impl From<wire::CreateTogether> for SnapshotCommand {
    fn from(create: wire::CreateTogether) -> Self {
        Self::CreateTogether {
            groups: create.groups.into_iter().map(GroupId).collect(),
            name: create.name,
            created_unix_s: create.created_unix_s,
            token: create.token,
        }
    }
}

impl From<wire::CompleteTogether> for SnapshotCommand {
    fn from(complete: wire::CompleteTogether) -> Self {
        let made = complete.made.into_iter().map(|made| Made {
            group: GroupId(made.group),
            snapshot: SnapshotId(made.snapshot),
            index: LogIndex(made.index),
            size_bytes: made.size_bytes,
        });
        Self::CompleteTogether {
            token: complete.token,
            made: made.collect(),
        }
    }
}

impl From<wire::AbortTogether> for SnapshotCommand {
    fn from(abort: wire::AbortTogether) -> Self {
        Self::AbortTogether {
            token: abort.token,
            groups: abort.groups.into_iter().map(GroupId).collect(),
        }
    }
}

impl From<wire::CreateSnapshot> for SnapshotCommand {
    fn from(create: wire::CreateSnapshot) -> Self {
        Self::Create {
            group: GroupId(create.group),
            name: create.name,
            created_unix_s: create.created_unix_s,
        }
    }
}

impl From<wire::ReportSnapshot> for SnapshotCommand {
    fn from(report: wire::ReportSnapshot) -> Self {
        Self::Report {
            group: GroupId(report.group),
            snapshot: SnapshotId(report.snapshot),
            made: (!report.deleted).then_some((LogIndex(report.index), report.size_bytes)),
        }
    }
}

impl From<wire::DeleteSnapshot> for SnapshotCommand {
    fn from(delete: wire::DeleteSnapshot) -> Self {
        Self::Delete {
            group: GroupId(delete.group),
            snapshot: SnapshotId(delete.snapshot),
        }
    }
}

pub(super) fn to_wire(snapshot: &SnapshotRecord) -> wire::VolumeSnapshot {
    wire::VolumeSnapshot {
        group: snapshot.group.get(),
        snapshot: snapshot.id.get(),
        name: snapshot.name.clone(),
        created_unix_s: snapshot.created_unix_s,
        phase: snapshot.phase.code(),
        index: snapshot.index.get(),
        size_bytes: snapshot.size_bytes,
        together: snapshot.together.map(|together| wire::Together {
            first: together.first.get(),
            parts: together.parts,
            token: together.token,
        }),
        hidden: snapshot.hidden,
    }
}

pub(super) fn from_wire(snapshot: wire::VolumeSnapshot) -> Result<SnapshotRecord, CodecError> {
    Ok(SnapshotRecord {
        group: GroupId(snapshot.group),
        id: SnapshotId(snapshot.snapshot),
        name: snapshot.name,
        created_unix_s: snapshot.created_unix_s,
        phase: SnapshotPhase::from_code(snapshot.phase).ok_or(CodecError::Field("phase"))?,
        index: LogIndex(snapshot.index),
        size_bytes: snapshot.size_bytes,
        together: snapshot.together.map(|together| Together {
            first: SnapshotId(together.first),
            parts: together.parts,
            token: together.token,
        }),
        hidden: snapshot.hidden,
    })
}

/// Encodes a snapshot's record.
pub(super) fn encode(snapshot: &SnapshotRecord) -> Vec<u8> {
    to_wire(snapshot).encode_to_vec()
}

/// Decodes a snapshot's record.
pub(super) fn decode(bytes: &[u8]) -> Result<SnapshotRecord, CodecError> {
    let message = wire::VolumeSnapshot::decode(bytes).map_err(|source| CodecError::Malformed {
        what: "a snapshot's record",
        source,
    })?;
    from_wire(message)
}
