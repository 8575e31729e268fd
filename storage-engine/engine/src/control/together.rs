//! Snapshots of several volumes at one instant: the coordinator, on the engine that leads the meta group.
//!
//! 1. The records of all of them are created by one command, for an attempt with a token of its own.
//! 2. Every volume's leader holds its writes. `cairn_core`'s `group/hold.rs` has the argument why the snapshots are of one
//!    instant if, and only if, all of them hold before the first is asked for its snapshot, and each still does when it is.
//! 3. Every leader makes its snapshot; what waited goes on behind it.
//! 4. One command completes all records.
//!
//! If anything fails, or is not known to have been done, the attempt is given up as a whole: the records are marked for
//! deletion, the volumes' leaders delete what there is, and another attempt begins with other numbers. A request is sent to a
//! leader once and never again, because a leader that is asked twice could be asked under two holds.
//!
//! **Crashes.** A hold ends by itself. The coordinator's attempts are known by their tokens in this process alone: whoever leads
//! the meta group gives up every attempt whose token it does not know ([`give_up_strangers`]), so that what a dead coordinator, or
//! one that was deposed, has left behind is deleted. One that was deposed and does not know it cannot complete anything
//! any more: that needs the log of the meta group, where giving up came first or did not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cairn_api::control as api;
use cairn_api::ids::{GroupId, LogIndex};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Status;

use super::{hold, snapshots, volumes};
use crate::engine::Engine;
use crate::meta::group::MetaError;
use crate::meta::{
    Catalogue, Command, Made, Outcome, Refusal, SnapshotCommand, SnapshotPhase, SnapshotRecord, VolumeRecord,
};

/// How long attempts are made, each of which takes some ten milliseconds if nothing is in its way.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause between two attempts: what was in the way has to go, and what was made to be deleted.
const PAUSE: Duration = Duration::from_millis(100);
/// How long snapshots that were asked for before may take to be made.
const EARLIER_PATIENCE: Duration = Duration::from_secs(3);

/// What coordinates here.
#[derive(Default)]
pub(crate) struct Coordinators {
    /// One at a time: they would only be in each other's way.
    turn: tokio::sync::Mutex<()>,
    /// The tokens of the attempts that go on.
    tokens: Mutex<BTreeSet<u64>>,
}

impl Coordinators {
    fn tokens(&self) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt's token, known as long as this is there.
struct Token<'a> {
    of: &'a Coordinators,
    token: u64,
}

impl<'a> Token<'a> {
    fn new(of: &'a Coordinators) -> Self {
        let token = uuid::Uuid::new_v4().as_u64_pair().0;
        of.tokens().insert(token);
        Self { of, token }
    }
}

impl Drop for Token<'_> {
    fn drop(&mut self) {
        self.of.tokens().remove(&self.token);
    }
}

/// Why an attempt made nothing.
enum Failure {
    /// Another one would not either.
    Final(Status),
    /// What was in the way may be gone soon.
    Again(String),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Final(status)
    }
}

/// On the meta leader: makes all of them, or none.
pub(super) async fn create(
    engine: &Arc<Engine>,
    request: &api::CreateSnapshotsTogetherRequest,
) -> Result<api::ListSnapshotsReply, Status> {
    let _turn = engine.coordinators.turn.lock().await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt(engine, request).await {
            Ok(snapshots) => return Ok(api::ListSnapshotsReply { snapshots }),
            Err(Failure::Final(status)) => return Err(status),
            Err(Failure::Again(why)) => {
                tracing::info!(name = request.name, why, "snapshots were not made together yet");
                if Instant::now() >= deadline {
                    return Err(Status::aborted(format!(
                        "no snapshot was made, since they could not be made together: {why}; the same request tries again"
                    )));
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn attempt(
    engine: &Arc<Engine>,
    request: &api::CreateSnapshotsTogetherRequest,
) -> Result<Vec<api::Snapshot>, Failure> {
    let catalogue = engine.meta.barrier().await.map_err(Status::from)?;
    let mut wanted = Vec::new();
    for name in &request.volumes {
        wanted.push(volumes::find(&catalogue, name)?.clone());
    }
    let groups: Vec<GroupId> = wanted.iter().map(|volume| volume.group).collect();
    let token = Token::new(&engine.coordinators);
    let command = SnapshotCommand::CreateTogether {
        groups: groups.clone(),
        name: request.name.clone(),
        created_unix_s: snapshots::now_unix_s(),
        token: token.token,
    };
    match engine.meta.execute(&Command::Snapshot(command)).await {
        Ok(Outcome::Snapshot(_)) => {}
        Ok(_) => return Err(Status::internal("snapshots were created without numbers").into()),
        Err(error) if is_going(&catalogue, &wanted, &request.name) => return Err(Failure::Again(error.to_string())),
        Err(error) => return Err(Status::from(error).into()),
    }
    let records = records(engine, &wanted, &request.name);
    let is_others = |record: &SnapshotRecord| record.together.is_none_or(|together| together.token != token.token);
    if records.iter().any(is_others) {
        return match records.iter().all(|record| record.phase == SnapshotPhase::Ready) {
            true => Ok(describe(&wanted, &records)),
            false => Err(Failure::Again("an earlier attempt is not given up yet".to_owned())),
        };
    }
    let done = match take(engine, &wanted, &records, token.token).await {
        Ok(made) => complete(engine, token.token, made)
            .await
            .map_err(|error| error.to_string()),
        Err(why) => Err(why),
    };
    if let Err(why) = done {
        let token = token.token;
        let command = SnapshotCommand::AbortTogether { token, groups };
        if let Err(error) = engine.meta.execute(&Command::Snapshot(command)).await {
            // Whoever leads the meta group then does it.
            tracing::warn!(name = request.name, %error, "an attempt to make snapshots together was not given up yet");
        }
        return Err(Failure::Again(why));
    }
    Ok(describe(&wanted, &self::records(engine, &wanted, &request.name)))
}

/// Whether a snapshot of that name is on its way out.
fn is_going(catalogue: &Catalogue, wanted: &[VolumeRecord], name: &str) -> bool {
    let mut found = wanted
        .iter()
        .filter_map(|volume| catalogue.snapshot_by_name(volume.group, name));
    found.any(|snapshot| snapshot.phase == SnapshotPhase::Deleting)
}

/// The snapshots of that name as they are now.
fn records(engine: &Engine, wanted: &[VolumeRecord], name: &str) -> Vec<SnapshotRecord> {
    let view = engine.meta.view();
    let found = wanted
        .iter()
        .filter_map(|volume| view.snapshot_by_name(volume.group, name).cloned());
    found.collect()
}

fn describe(wanted: &[VolumeRecord], records: &[SnapshotRecord]) -> Vec<api::Snapshot> {
    let pairs = wanted.iter().zip(records);
    pairs
        .map(|(volume, record)| snapshots::describe(volume, record, &BTreeMap::new()))
        .collect()
}

async fn complete(engine: &Arc<Engine>, token: u64, made: Vec<Made>) -> Result<Outcome, MetaError> {
    let command = SnapshotCommand::CompleteTogether { token, made };
    engine.meta.execute(&Command::Snapshot(command)).await
}

/// Holds all writes, and makes all snapshots.
async fn take(
    engine: &Arc<Engine>,
    wanted: &[VolumeRecord],
    records: &[SnapshotRecord],
    token: u64,
) -> Result<Vec<Made>, String> {
    if records.len() != wanted.len() {
        return Err("a volume was deleted meanwhile".to_owned());
    }
    wait_for_earlier(engine, records).await?;
    let began = Instant::now();
    let leaders = hold_all(engine, wanted, token).await?;
    // From here until the first of them is asked all hold: this is the instant.
    let mut asked = JoinSet::new();
    for ((group, address), record) in leaders.into_iter().zip(records) {
        let (engine, snapshot) = (Arc::clone(engine), record.id);
        let request = hold::request(group, token, api::HoldStep::Take, snapshot.get());
        asked.spawn(async move {
            let reply = hold::ask_engine(&engine, address.as_deref(), request).await;
            let reply = reply.map_err(|status| (address, group, status.message().to_owned()))?;
            Ok(Made {
                group,
                snapshot,
                index: LogIndex(reply.index),
                size_bytes: reply.size_bytes,
            })
        });
    }
    let (mut made, mut failed) = (Vec::new(), Vec::new());
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok(Ok(one)) => made.push(one),
            Ok(Err(refused)) => failed.push(refused),
            Err(error) => return Err(error.to_string()),
        }
    }
    if let Some((_, _, why)) = failed.first().cloned() {
        let held = failed.into_iter().map(|(address, group, _)| (group, address));
        end_all(engine, held.collect(), token);
        return Err(why);
    }
    tracing::info!(token, volumes = made.len(), took = ?began.elapsed(), "made snapshots together");
    Ok(made)
}

/// The leaders' engines, by the volumes, in their order.
type Leaders = Vec<(GroupId, Option<String>)>;

/// Has every volume's leader hold its writes, all at the same time; none does any more if one does not.
async fn hold_all(engine: &Arc<Engine>, wanted: &[VolumeRecord], token: u64) -> Result<Leaders, String> {
    let catalogue = engine.meta.view();
    let mut asked = JoinSet::new();
    for volume in wanted {
        let (engine, catalogue, volume) = (Arc::clone(engine), Arc::clone(&catalogue), volume.clone());
        asked.spawn(async move { (volume.group, hold::begin(&engine, &catalogue, &volume, token).await) });
    }
    let (mut held, mut problem) = (BTreeMap::new(), None);
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok((group, Ok(address))) => {
                held.insert(group, address);
            }
            Ok((_, Err(why))) => problem = Some(why),
            Err(error) => problem = Some(error.to_string()),
        }
    }
    match problem {
        None => Ok(wanted
            .iter()
            .filter_map(|volume| held.remove_entry(&volume.group))
            .collect()),
        Some(why) => {
            end_all(engine, held.into_iter().collect(), token);
            Err(why)
        }
    }
}

/// Lets writes go on. Nobody waits for that: a hold ends by itself, too.
fn end_all(engine: &Arc<Engine>, held: Leaders, token: u64) {
    for (group, address) in held {
        let engine = Arc::clone(engine);
        tokio::spawn(async move {
            let request = hold::request(group, token, api::HoldStep::End, 0);
            if let Err(status) = hold::ask_engine(&engine, address.as_deref(), request).await {
                tracing::debug!(%group, reason = status.message(), "a hold ends by itself");
            }
        });
    }
}

/// Snapshots with lower numbers are made first: made later, they would find theirs spent.
async fn wait_for_earlier(engine: &Arc<Engine>, records: &[SnapshotRecord]) -> Result<(), String> {
    let deadline = Instant::now() + EARLIER_PATIENCE;
    loop {
        let Some((name, volume)) = earlier(&engine.meta.view(), records) else {
            return Ok(());
        };
        if Instant::now() >= deadline {
            return Err(format!("snapshot '{name}' of {volume} is still being made"));
        }
        tokio::time::sleep(PAUSE / 10).await;
    }
}

/// A snapshot with a lower number on one of the volumes that is not made yet, and its volume.
fn earlier(view: &Catalogue, records: &[SnapshotRecord]) -> Option<(String, String)> {
    for record in records {
        for other in view.snapshots_of(record.group) {
            if other.id < record.id && other.phase == SnapshotPhase::Creating {
                return Some((other.name.clone(), view.group_name(other.group)));
            }
        }
    }
    None
}

/// On the meta leader: gives up every attempt that nobody here makes, and that is not complete.
pub(crate) async fn give_up_strangers(engine: &Arc<Engine>) {
    let view = engine.meta.view();
    let mut strangers: BTreeMap<u64, Vec<GroupId>> = BTreeMap::new();
    for snapshot in view.snapshots.values() {
        if let (SnapshotPhase::Creating, Some(together)) = (snapshot.phase, snapshot.together) {
            strangers.entry(together.token).or_default().push(snapshot.group);
        }
    }
    strangers.retain(|token, _| !engine.coordinators.tokens().contains(token));
    for (token, groups) in strangers {
        let command = SnapshotCommand::AbortTogether { token, groups };
        match engine.meta.execute(&Command::Snapshot(command)).await {
            Ok(_) => tracing::info!(token, "gave up snapshots that somebody else had begun to make together"),
            Err(MetaError::NotLeader | MetaError::Refused(Refusal::Precondition(_))) => {}
            Err(error) => tracing::warn!(token, %error, "cannot give up snapshots that were begun together"),
        }
    }
}
