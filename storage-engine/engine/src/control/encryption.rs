//! Encrypted volumes: making their records, rewrapping their keys, and what their keys depend on.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_api::control as api;
use cairn_api::ids::{DiskId, GroupId, NodeId};
use cairn_crypto::Owner;
use tonic::Status;

use super::{convert, route};
use crate::engine::Engine;
use crate::keys::{KeyError, Rewrapped, is_key_name};
use crate::meta::encryption::Wanted;
use crate::meta::group::MetaError;
use crate::meta::{Catalogue, Command, Outcome, PlannedEncryption, Refusal, ServiceKind, VolumeRecord, WrappedKey};

/// How often the creation of an encrypted volume is done again because other volumes were created meanwhile.
const RACES_MAX: u32 = 16;

impl From<KeyError> for Status {
    fn from(error: KeyError) -> Self {
        // Not `unavailable`: another engine would be asked, and the leader is who has to be able to.
        Self::failed_precondition(error.to_string())
    }
}

/// What a creation asks for, or why it makes no sense.
pub(super) fn wanted(request: &api::CreateVolumeRequest) -> Result<Wanted<'_>, Status> {
    let name = Some(request.key_name.as_str()).filter(|name| !name.is_empty());
    match (request.encrypted, name) {
        (false, Some(_)) => Err(Status::invalid_argument(
            "key_name is for an encrypted volume: ask for encryption, too",
        )),
        (false, None) => Ok(Wanted::Plain),
        (true, name) => check_key_name(name).map(Wanted::Encrypted),
    }
}

fn check_key_name(name: Option<&str>) -> Result<Option<&str>, Status> {
    match name.filter(|name| !is_key_name(name)) {
        None => Ok(name),
        Some(name) => Err(Status::invalid_argument(format!(
            "key_name is '{name}': a key's name is 1 to 63 of letters, digits, '-', '_' and '.'"
        ))),
    }
}

/// Who a volume's key belongs to.
pub fn owner(catalogue: &Catalogue, volume: GroupId) -> Result<Owner, Status> {
    let cluster = catalogue.cluster.as_ref();
    let cluster = cluster.ok_or_else(|| Status::failed_precondition("the cluster is not founded yet"))?;
    Ok(Owner {
        cluster: cluster.id,
        volume,
    })
}

/// On the meta leader: commits the creation of a volume, with a fresh key if it is to be encrypted.
pub(super) async fn create_record(
    engine: &Arc<Engine>,
    request: &api::CreateVolumeRequest,
    places: &[(NodeId, DiskId)],
) -> Result<GroupId, Status> {
    let command = |encryption| Command::CreateVolume {
        name: request.name.clone(),
        size_bytes: request.size_bytes,
        places: places.to_vec(),
        limits: convert::limits(request.limits.as_ref()),
        encryption,
        source: None,
    };
    let Wanted::Encrypted(key_name) = wanted(request)? else {
        return volume_of(&engine.meta.execute(&command(None)).await?);
    };
    create_encrypted(engine, &request.name, KeyOf::Fresh(key_name), command).await
}

/// On the meta leader: commits the creation of a clone, with its source's data key wrapped anew if that is encrypted.
pub(super) async fn create_clone(
    engine: &Arc<Engine>,
    source: &VolumeRecord,
    (name, key_name): (&str, Option<&str>),
    command: impl Fn(Option<PlannedEncryption>) -> Command,
) -> Result<GroupId, Status> {
    let Some(key) = &source.encryption else {
        return volume_of(&engine.meta.execute(&command(None)).await?);
    };
    let key_name = check_key_name(key_name)?;
    let of = owner(&engine.meta.view(), source.group)?;
    create_encrypted(engine, name, KeyOf::Source(of, key, key_name), command).await
}

/// The data key of a new volume, and the master key that wraps it.
enum KeyOf<'a> {
    /// Its own.
    Fresh(Option<&'a str>),
    /// That of its source.
    Source(Owner, &'a WrappedKey, Option<&'a str>),
}

/// Commits the creation of an encrypted volume, whose key is wrapped for the number that the volume will get.
async fn create_encrypted(
    engine: &Arc<Engine>,
    name: &str,
    of: KeyOf<'_>,
    command: impl Fn(Option<PlannedEncryption>) -> Command,
) -> Result<GroupId, Status> {
    let _turn = engine.encrypting.lock().await;
    for _ in 0..RACES_MAX {
        let catalogue = engine.meta.barrier().await?;
        let next = |catalogue: &Catalogue| catalogue.cluster.as_ref().map(|cluster| cluster.next_group);
        let number = next(&catalogue).unwrap_or_default();
        let own = owner(&catalogue, number)?;
        let key = match of {
            KeyOf::Fresh(key_name) => engine.keys.create(own, key_name).await?,
            KeyOf::Source(source, key, key_name) => engine.keys.share((source, key), own, key_name).await?,
        };
        let planned = PlannedEncryption { volume: number, key };
        match engine.meta.execute(&command(Some(planned))).await {
            // Another volume has got the number: the key that was wrapped for it is nobody's, and is forgotten.
            Err(MetaError::Refused(Refusal::Precondition(_))) if next(&engine.meta.view()) != Some(number) => {}
            verdict => return volume_of(&verdict?),
        }
    }
    Err(Status::aborted(format!(
        "volume '{name}' was not created: {RACES_MAX} others were at the same time; ask again"
    )))
}

fn volume_of(outcome: &Outcome) -> Result<GroupId, Status> {
    match outcome {
        Outcome::Volume(group) => Ok(*group),
        Outcome::Done | Outcome::Snapshot(_) => Err(Status::internal("a creation was done without a volume")),
    }
}

/// On the meta leader: wraps a volume's key anew.
pub(super) async fn rewrap(
    engine: &Arc<Engine>,
    request: &api::RewrapVolumeRequest,
) -> Result<api::RewrapVolumeReply, Status> {
    let key_name = check_key_name(Some(request.key_name.as_str()).filter(|name| !name.is_empty()))?;
    let catalogue = engine.meta.barrier().await?;
    let volume = catalogue
        .volume_by_name(&request.name)
        .ok_or_else(|| Status::not_found(format!("there is no volume '{}'", request.name)))?;
    let Some(key) = &volume.encryption else {
        let text = format!("volume '{}' is not encrypted: there is nothing to rewrap", request.name);
        return Err(Status::failed_precondition(text));
    };
    let rewrapped = engine
        .keys
        .rewrap(owner(&catalogue, volume.group)?, key, key_name)
        .await?;
    let Rewrapped::Anew(anew) = rewrapped else {
        return Ok(reply(false, key));
    };
    let command = Command::RewrapVolume {
        group: volume.group,
        replaces: key.bytes.clone(),
        key: anew.clone(),
    };
    engine.meta.execute(&command).await?;
    tracing::info!(
        volume = volume.name, group = %volume.group, from = key.master(), to = anew.master(), "rewrapped a volume's key"
    );
    Ok(reply(true, &anew))
}

fn reply(changed: bool, key: &WrappedKey) -> api::RewrapVolumeReply {
    api::RewrapVolumeReply {
        changed,
        encryption: Some(convert::encryption(key)),
    }
}

type MasterKeys = BTreeMap<(ServiceKind, String), BTreeMap<u32, u32>>;

/// The master keys that volumes depend on, with the number of volumes under each version.
fn in_use(catalogue: &Catalogue) -> MasterKeys {
    let mut keys = MasterKeys::new();
    let of_volume = |volume: &VolumeRecord| volume.encryption.clone().filter(|key| !key.is_erased());
    for key in catalogue.volumes.values().filter_map(of_volume) {
        let versions = keys.entry((key.service, key.key_name)).or_default();
        *versions.entry(key.version).or_default() += 1;
    }
    keys
}

/// The key services as they are reached from here, and what volumes depend on.
pub(super) async fn status(engine: &Arc<Engine>) -> Result<api::KeyStatus, Status> {
    route::require_cluster(engine)?;
    let catalogue = route::catalogue_soon(engine).await?;
    let services = engine.keys.services();
    let mut keys = in_use(&catalogue);
    if let Some(wraps) = services.first() {
        keys.entry((wraps.kind(), engine.keys.default_key().to_owned()))
            .or_default();
    }
    let mut uses = Vec::new();
    for ((kind, key_name), mut versions) in keys {
        let service = services.iter().find(|service| service.kind() == kind);
        let current = match service {
            Some(service) => service
                .current_version(&key_name)
                .await
                .map_err(|error| error.to_string()),
            None => Err(format!(
                "engine '{}' has no [encryption.{}]",
                engine.config.name,
                kind.name()
            )),
        };
        let (current, problem) = match current {
            Ok(version) => (Some(version), String::new()),
            Err(problem) => (None, problem),
        };
        if versions.is_empty() || current.is_some() {
            versions.entry(current.unwrap_or_default()).or_default();
        }
        uses.extend(versions.into_iter().map(|(version, volumes)| api::MasterKeyUse {
            service: kind.name().to_owned(),
            key_name: key_name.clone(),
            version,
            volumes,
            current: current == Some(version),
            problem: problem.clone(),
        }));
    }
    Ok(api::KeyStatus {
        engine: engine.config.name.clone(),
        default_key: engine.keys.default_key().to_owned(),
        services: services
            .iter()
            .enumerate()
            .map(|(place, service)| api::KeyServiceStatus {
                kind: service.kind().name().to_owned(),
                description: service.describe(),
                wraps: place == 0,
            })
            .collect(),
        keys: uses,
    })
}
