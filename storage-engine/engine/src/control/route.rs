//! Finding the meta group's leader: serving a request here if this engine leads, else passing it on.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cairn_api::control as api;
use cairn_api::control::control_client::ControlClient;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::engine::Engine;
use crate::meta::Catalogue;
use crate::meta::decide::Refusal;
use crate::meta::group::MetaError;

/// Marks a request that an engine has passed on, with the number of times: two engines that each take the other for the leader
/// must not send it to and fro.
const HOPS: &str = "cairn-hops";
/// An engine outside the meta group asks a member, which may ask the leader.
const HOPS_MAX: u32 = 2;
/// Marks the refusal of an engine that does not lead, so that the asker goes on looking.
const NO_LEADER: &str = "cairn-no-leader";
/// How long to look for a leader: an election takes 1 to 3 s.
const PATIENCE: Duration = Duration::from_secs(8);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a read of the catalogue waits for the leader before the local copy answers.
pub const FRESH_PATIENCE: Duration = Duration::from_secs(2);
/// How long the leader may take to send the catalogue to an engine that waits for it in the background.
const CATALOGUE_TIMEOUT: Duration = Duration::from_secs(5);
/// The revision of the catalogue that the asker holds: if it is the current one, the reply has nothing else.
const KNOWN_REVISION: &str = "cairn-known-revision";
/// The asker's control address, in a probe: an engine that has lost the catalogue learns from it whom to ask.
const ASKER: &str = "cairn-asker";
/// How long an engine may take to say that it is there.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// A client of another engine.
pub type Client = ControlClient<Channel>;
/// A future of a call.
pub type Call<'a, T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send + 'a>>;

impl From<MetaError> for Status {
    fn from(error: MetaError) -> Self {
        let text = error.to_string();
        match error {
            MetaError::Refused(Refusal::Invalid { .. }) => Self::invalid_argument(text),
            MetaError::Refused(Refusal::Exists(_)) => Self::already_exists(text),
            MetaError::Refused(Refusal::NotFound(_)) => Self::not_found(text),
            MetaError::Refused(Refusal::Precondition(_)) => Self::failed_precondition(text),
            MetaError::NotLeader => no_leader(text),
            MetaError::Uncertain | MetaError::Log(_) => Self::unavailable(text),
            MetaError::TimedOut => Self::deadline_exceeded(text),
            MetaError::NoSpace => Self::resource_exhausted(text),
        }
    }
}

fn no_leader(text: impl Into<String>) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert(NO_LEADER, tonic::metadata::MetadataValue::from_static("1"));
    Status::with_metadata(Code::Unavailable, text, metadata)
}

fn hops(metadata: &MetadataMap) -> u32 {
    metadata
        .get(HOPS)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn with_hops<T>(message: T, hops: u32) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(HOPS, hops.into());
    request
}

/// A message for another engine, which is not to pass it on in its turn.
pub fn pass_on<T>(message: T) -> Request<T> {
    with_hops(message, HOPS_MAX)
}

/// Whether another engine has passed this on.
pub fn was_passed_on<T>(request: &Request<T>) -> bool {
    hops(request.metadata()) > 0
}

/// Whether to look for another engine after this refusal.
pub fn look_elsewhere(status: &Status) -> bool {
    status.metadata().contains_key(NO_LEADER)
        || (status.code() == Code::Unavailable && std::error::Error::source(status).is_some())
        || status.code() == Code::Cancelled
}

/// Serves a request on the meta group's leader, wherever that is.
pub async fn on_leader<Q, A>(
    engine: &Arc<Engine>,
    request: Request<Q>,
    local: impl Fn(&Arc<Engine>, Q) -> Call<'static, A>,
    remote: impl Fn(Client, Request<Q>) -> Call<'static, Response<A>>,
) -> Result<Response<A>, Status>
where
    Q: Clone,
{
    require_cluster(engine)?;
    let hops = hops(request.metadata());
    let message = request.into_inner();
    let deadline = Instant::now() + PATIENCE;
    let mut leader = engine.meta.watch_leader();
    loop {
        leader.mark_unchanged();
        if engine.meta.is_leader() {
            match local(engine, message.clone()).await {
                Err(status) if status.metadata().contains_key(NO_LEADER) => {}
                result => return result.map(Response::new),
            }
        } else if hops < HOPS_MAX {
            for address in leader_candidates(engine) {
                let Ok(client) = engine.channels.client(&address) else {
                    continue;
                };
                // A leader that has stopped answering is deposed long before the call times out.
                tokio::select! {
                    result = remote(client, with_hops(message.clone(), hops + 1)) => match result {
                        Err(status) if look_elsewhere(&status) => {}
                        result => return result,
                    },
                    _ = leader.changed() => break,
                }
            }
        }
        // An engine that was asked by another answers at once: the first one does the waiting.
        if hops > 0 || Instant::now() >= deadline {
            return Err(nobody_leads(engine, hops).await);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Before there is a cluster nothing can be decided.
pub fn require_cluster(engine: &Engine) -> Result<(), Status> {
    if engine.cluster().is_some() {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "engine '{}' is in no cluster yet: run `cairn cluster init --engine {}`",
        engine.config.name, engine.addresses.control
    )))
}

/// Where the leader may be: as known, else any other member of the meta group.
fn leader_candidates(engine: &Engine) -> Vec<String> {
    let view = engine.meta.view();
    let own = engine.node();
    let counts = engine.meta.counts();
    if counts
        && let Some(leader) = engine.meta.leader().member.filter(|member| member.node != own)
        && let Some(node) = view.nodes.get(&leader.node)
    {
        return vec![node.control_address.clone()];
    }
    if counts {
        // A member hears of its leader by itself; while it knows of none, the others hardly know better.
        return Vec::new();
    }
    let members = view
        .nodes
        .values()
        .filter(|node| node.id != own && view.is_meta_member(node.id));
    members
        .map(|node| node.control_address.clone())
        .chain(engine.hints())
        .collect()
}

async fn nobody_leads(engine: &Arc<Engine>, hops: u32) -> Status {
    if hops > 0 {
        return no_leader(format!(
            "engine '{}' knows of no leader of the meta group",
            engine.config.name
        ));
    }
    let view = engine.meta.view();
    let probes: Vec<_> = view
        .nodes
        .values()
        .filter(|node| node.id != engine.node())
        .map(|node| {
            (
                node.name.clone(),
                tokio::spawn(probe(Arc::clone(engine), node.control_address.clone())),
            )
        })
        .collect();
    let mut reachable = vec![engine.config.name.clone()];
    for (name, probe) in probes {
        if let Ok(Ok(_)) = probe.await {
            reachable.push(name);
        }
    }
    Status::unavailable(format!(
        "the meta group has no leader (reachable engines: {})",
        reachable.join(", ")
    ))
}

/// Asks an engine who it is.
pub async fn probe(engine: Arc<Engine>, address: String) -> Result<api::NodeInfo, Status> {
    let mut client = engine.channels.client(&address)?;
    let mut request = Request::new(api::GetNodeRequest {});
    if let Ok(own) = engine.addresses.control.parse() {
        request.metadata_mut().insert(ASKER, own);
    }
    match tokio::time::timeout(PROBE_TIMEOUT, client.get_node(request)).await {
        Ok(result) => result.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "no answer within {} s",
            PROBE_TIMEOUT.as_secs()
        ))),
    }
}

/// Notes who asks, for an engine that has lost the catalogue.
pub(super) fn note_asker(engine: &Engine, metadata: &MetadataMap) {
    let asker = metadata.get(ASKER).and_then(|value| value.to_str().ok());
    if let Some(address) = asker.and_then(|text| text.parse().ok()) {
        engine.note_hint(address);
    }
}

/// The catalogue with everything that was committed before this call, from the leader.
pub async fn current_catalogue(engine: &Arc<Engine>) -> Result<Arc<Catalogue>, Status> {
    current_catalogue_after(engine, 0).await
}

async fn current_catalogue_after(engine: &Arc<Engine>, hops: u32) -> Result<Arc<Catalogue>, Status> {
    require_cluster(engine)?;
    if engine.meta.is_leader() {
        return Ok(engine.meta.barrier().await?);
    }
    if hops < HOPS_MAX {
        for address in leader_candidates(engine) {
            let fetched = tokio::time::timeout(CATALOGUE_TIMEOUT, fetch(engine, &address, hops + 1)).await;
            match fetched.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))) {
                Ok(catalogue) => return Ok(catalogue),
                Err(status) => tracing::debug!(%address, %status, "no catalogue from there"),
            }
        }
    }
    Err(no_leader("the meta group has no leader"))
}

/// The catalogue from the engine at `address`, which asks the leader if it may be asked `hops` times further.
pub async fn fetch(engine: &Arc<Engine>, address: &str, hops: u32) -> Result<Arc<Catalogue>, Status> {
    let mut client = engine.channels.client(address)?;
    let mut request = with_hops(api::GetCatalogueRequest {}, hops);
    let view = engine.meta.view();
    if view.cluster.is_some() {
        request.metadata_mut().insert(KNOWN_REVISION, view.applied.get().into());
    }
    let reply = client.get_catalogue(request).await?.into_inner();
    if reply.record.is_empty() && reply.revision == view.applied.get() {
        return Ok(view);
    }
    super::convert::catalogue_from(&reply).map(Arc::new)
}

/// Answers another engine's, or a person's, request for the catalogue.
pub(super) async fn serve_catalogue(
    engine: &Arc<Engine>,
    request: &Request<api::GetCatalogueRequest>,
) -> Result<api::Catalogue, Status> {
    let hops = hops(request.metadata());
    let catalogue = current_catalogue_after(engine, hops).await?;
    let known = request
        .metadata()
        .get(KNOWN_REVISION)
        .and_then(|value| value.to_str().ok());
    let revision = catalogue.applied.get();
    if known.and_then(|text| text.parse().ok()) == Some(revision) {
        return Ok(api::Catalogue {
            revision,
            ..api::Catalogue::default()
        });
    }
    // Only engines count hops.
    Ok(if hops > 0 {
        super::convert::catalogue_record(&catalogue)
    } else {
        super::convert::catalogue(&catalogue)
    })
}

/// The current catalogue if the leader answers soon, else what is known here.
pub async fn catalogue_soon(engine: &Arc<Engine>) -> Result<Arc<Catalogue>, Status> {
    if let Ok(Ok(catalogue)) = tokio::time::timeout(FRESH_PATIENCE, current_catalogue(engine)).await {
        return Ok(catalogue);
    }
    let view = engine.meta.view();
    if view.cluster.is_none() {
        return Err(Status::unavailable(format!(
            "engine '{}' has no copy of the catalogue, and the meta group has no leader that it can reach",
            engine.config.name
        )));
    }
    Ok(view)
}
