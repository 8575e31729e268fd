//! The engine's life: start, serve, drain, stop.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cairn_api::control::control_server::ControlServer;
use cairn_api::ids::GroupId;
use cairn_core::event::Command as CoreCommand;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;

use crate::cluster::{init, reconcile};
use crate::config::Config;
use crate::control::ControlService;
use crate::control::channels::MESSAGE_BYTES_MAX;
use crate::disks::{DiskBackend, DiskEvent, DiskSet, ask};
use crate::engine::{Addresses, Engine};
use crate::identity::{self, IdentityError};
use crate::listen::{data, nbd};
use crate::meta::group::Meta;
use crate::meta::store::{Store, StoreError};
use crate::metrics::http;

/// How long leaderships may take to move away before the engine stops all the same.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(5);
/// How long the disks' threads may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(3);
/// How long the catalogue may take to reach the media.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// Why the engine could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The runtime cannot be had.
    #[error("cannot start the control plane's threads: {0}")]
    Runtime(std::io::Error),
    /// A listener cannot be opened.
    #[error("cannot listen on {address} for {what}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What for.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// NBD cannot be served.
    #[error(transparent)]
    Nbd(#[from] nbd::NbdError),
    /// The engine does not know who it is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The catalogue cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No disk can be used.
    #[error("no disk can be used: {0}")]
    NoDisk(String),
    /// Something that the engine cannot do without has ended.
    #[error("{0}")]
    Fatal(String),
}

/// The listeners, opened before anything else so that a taken port stops the engine before it touches a disk.
struct Listeners {
    control: TcpListener,
    data: TcpListener,
    nbd: Option<TcpListener>,
    nbd_socket: Option<(UnixListener, PathBuf)>,
    metrics: Option<TcpListener>,
    policy: cairn_nbd::TlsPolicy,
}

async fn bind(address: SocketAddr, what: &'static str) -> Result<TcpListener, DaemonError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| DaemonError::Listen { address, what, source })
}

async fn bind_optional(address: Option<SocketAddr>, what: &'static str) -> Result<Option<TcpListener>, DaemonError> {
    match address {
        Some(address) => bind(address, what).await.map(Some),
        None => Ok(None),
    }
}

impl Listeners {
    async fn open(config: &Config) -> Result<Self, DaemonError> {
        Ok(Self {
            control: bind(config.control.listen, "the control API").await?,
            data: bind(config.data.listen, "peers").await?,
            nbd: bind_optional(config.nbd.listen, "NBD").await?,
            metrics: bind_optional(config.metrics, "metrics").await?,
            policy: nbd::tls_policy(config.nbd.tls.as_ref())?,
            nbd_socket: match &config.nbd.socket {
                Some(path) => Some((nbd::bind_unix(path)?, path.clone())),
                None => None,
            },
        })
    }

    /// What others are told: what is configured, else where the listener really is (port 0 picks one).
    fn addresses(&self, config: &Config) -> Addresses {
        let told = |listener: Option<&TcpListener>, advertise: Option<SocketAddr>| {
            let bound = listener.and_then(|listener| listener.local_addr().ok());
            bound
                .map(|bound| advertise.unwrap_or(bound).to_string())
                .unwrap_or_default()
        };
        Addresses {
            control: told(Some(&self.control), config.control.advertise),
            data: told(Some(&self.data), config.data.advertise),
            nbd: told(self.nbd.as_ref(), config.nbd.advertise),
            nbd_socket: self
                .nbd_socket
                .as_ref()
                .map(|(_, path)| path.display().to_string())
                .unwrap_or_default(),
        }
    }
}

/// Ends when the process is asked to.
pub async fn signalled() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be received: the engine can only be killed");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// Runs the engine until `stop` ends or something that it cannot do without fails.
pub async fn run(
    config: Config,
    backend: Arc<dyn DiskBackend>,
    stop: impl Future<Output = &'static str>,
) -> Result<(), DaemonError> {
    let _lock = identity::lock(&config.data_dir)?;
    let listeners = Listeners::open(&config).await?;
    let socket_path = listeners.nbd_socket.as_ref().map(|(_, path)| path.clone());
    let (fatal_sender, mut fatal) = mpsc::channel(4);
    let addresses = listeners.addresses(&config);
    let (engine, events) = assemble(config, backend, addresses, fatal_sender.clone())?;
    let result = async {
        if let Err(error) = engine.start_disks() {
            tracing::error!(%error, "a disk is not claimed");
            engine.disks.fail_unclaimed(&error.to_string());
        }
        require_disk(&engine.disks)?;
        tracing::info!(
            name = engine.config.name, node = %engine.node(), control = engine.addresses.control,
            data = engine.addresses.data, cluster = ?engine.cluster().map(|cluster| cluster.to_string()),
            version = env!("CARGO_PKG_VERSION"), "the engine runs"
        );
        let (close, tasks) = spawn(&engine, listeners, events, fatal_sender);
        let reason = tokio::select! {
            signal = stop => {
                tracing::info!(signal, "stopping");
                Ok(())
            }
            reason = fatal.recv() => Err(DaemonError::Fatal(reason.unwrap_or_else(|| "all tasks ended".to_owned()))),
        };
        engine.begin_draining();
        drain(&engine).await;
        let _ = close.send(());
        drop(tasks);
        reason
    }
    .await;
    finish(&engine).await;
    if let Some(path) = socket_path {
        // A socket file left behind would be found stale and replaced at the next start.
        let _ = std::fs::remove_file(path);
    }
    result
}

type Events = mpsc::UnboundedReceiver<DiskEvent>;

/// Reads what the data directory and the disks say, and puts the engine together.
fn assemble(
    config: Config,
    backend: Arc<dyn DiskBackend>,
    addresses: Addresses,
    fatal: mpsc::Sender<String>,
) -> Result<(Arc<Engine>, Events), DaemonError> {
    let disks = DiskSet::inspect(backend, &config.disks);
    let labels: Vec<_> = disks
        .views()
        .into_iter()
        .filter_map(|view| Some((view.config.path.clone(), view.label?)))
        .collect();
    let stored = identity::load(&config.data_dir)?;
    let (identity, strangers) = identity::settle(stored, &labels)?;
    for stranger in &strangers {
        disks.fail(stranger.disk, &stranger.reason);
    }
    for view in disks.views() {
        if let crate::disks::DiskState::Failed(reason) = &view.state {
            tracing::error!(path = %view.config.path.display(), reason, "a disk cannot be used");
        }
    }
    require_disk(&disks)?;
    if stored != Some(identity) {
        identity::save(&config.data_dir, &identity)?;
    }
    let store = Store::open(&Engine::database_path(&config))?;
    let meta = Meta::start(store, move |error| {
        // The channel is full only if the engine is ending for other reasons.
        let _ = fatal.try_send(error.to_string());
    })
    .map_err(DaemonError::Runtime)?;
    let (sender, events) = mpsc::unbounded_channel();
    Ok((
        Arc::new(Engine::new(config, addresses, identity, disks, meta, sender)),
        events,
    ))
}

/// An engine without a disk can only mislead those who ask it.
fn require_disk(disks: &DiskSet) -> Result<(), DaemonError> {
    if disks.any_usable() {
        return Ok(());
    }
    let reasons: Vec<String> = disks
        .views()
        .iter()
        .map(|view| format!("{}: {}", view.config.path.display(), view.state.describe()))
        .collect();
    Err(DaemonError::NoDisk(reasons.join("; ")))
}

/// Starts everything that runs beside the disks. The sender closes the control API, which stays open while the engine drains.
fn spawn(
    engine: &Arc<Engine>,
    listeners: Listeners,
    events: Events,
    fatal: mpsc::Sender<String>,
) -> (oneshot::Sender<()>, JoinSet<()>) {
    let mut tasks = JoinSet::new();
    let (close, closed) = oneshot::channel::<()>();
    tasks.spawn(follow_disks(Arc::clone(engine), events, fatal.clone()));
    tasks.spawn(data::serve(Arc::clone(engine), listeners.data));
    if let Some(listener) = listeners.nbd {
        tasks.spawn(nbd::serve_tcp(Arc::clone(engine), listener, listeners.policy));
    }
    if let Some((listener, _)) = listeners.nbd_socket {
        tasks.spawn(nbd::serve_unix(Arc::clone(engine), listener));
    }
    if let Some(listener) = listeners.metrics {
        let routes = http::router(engine);
        let fatal = fatal.clone();
        tasks.spawn(async move {
            if let Err(error) = axum::serve(listener, routes).await {
                let _ = fatal.send(format!("the metrics listener ended: {error}")).await;
            }
        });
    }
    let service = ControlServer::new(ControlService::new(Arc::clone(engine)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let reconciling = tokio::spawn(reconcile::run(Arc::clone(engine)));
    let watched = Arc::clone(engine);
    tasks.spawn(async move {
        let server = tonic::transport::Server::builder().add_service(service);
        let end = async {
            // An error means that the sender is gone, which is as good as its word.
            let _ = closed.await;
        };
        let incoming = TcpListenerStream::new(listeners.control);
        let problem = tokio::select! {
            result = server.serve_with_incoming_shutdown(incoming, end) => match result {
                Ok(()) => return,
                Err(error) => format!("the control API ended: {error}"),
            },
            result = reconciling => match result {
                Ok(()) if watched.is_draining() => return,
                Ok(()) => "the reconciling task ended".to_owned(),
                Err(error) => format!("the reconciling task failed: {error}"),
            },
        };
        let _ = fatal.send(problem).await;
    });
    (close, tasks)
}

/// Carries out what the disks' threads report.
async fn follow_disks(engine: Arc<Engine>, mut events: Events, fatal: mpsc::Sender<String>) {
    while let Some(event) = events.recv().await {
        match event {
            DiskEvent::Recovered(disk, summary) => {
                engine.disks.recovered(disk, &summary.groups);
                tracing::info!(
                    %disk, groups = summary.groups.len(), frames = summary.frames, entries = summary.entries,
                    segments = summary.segments, torn_tail = summary.torn_tail, rows = %summary.rows, "the disk serves"
                );
                if summary.groups.contains(&GroupId::META)
                    && let Some(thread) = engine.disks.thread_of(disk)
                    && let Err(error) = init::attach_meta_group(&engine, disk, &thread).await
                {
                    tracing::error!(%disk, %error, "the meta group's replica cannot be used");
                }
                engine.wake.notify_one();
            }
            DiskEvent::MetaLeader { disk, leader, is_local } => {
                let member = leader.and_then(|replica| engine.meta.member(replica));
                tracing::info!(
                    leader = member.as_ref().map(|member| engine.meta.view().node_name(member.node)),
                    is_local,
                    "the meta group's leader"
                );
                engine.meta.note_leader(disk, leader, is_local);
            }
            DiskEvent::Failed(disk, reason) => {
                tracing::error!(%disk, reason, "the disk failed");
                engine.disks.fail(disk, &reason);
                engine.metrics.disk_failed(disk);
                engine.meta.detach(disk);
                if let Err(error) = require_disk(&engine.disks) {
                    let _ = fatal.send(error.to_string()).await;
                }
            }
        }
    }
}

/// Hands every leadership over, so that clients elsewhere see a short pause rather than an election.
async fn drain(engine: &Arc<Engine>) {
    let asked: Vec<_> = engine
        .disks
        .serving()
        .into_iter()
        .map(|(disk, thread)| {
            tokio::spawn(async move {
                if let Err(error) = ask(&thread, CoreCommand::HandOver, HAND_OVER_PATIENCE).await {
                    tracing::warn!(%disk, %error, "leaderships were not all handed over");
                }
            })
        })
        .collect();
    for task in asked {
        let _ = task.await;
    }
}

/// Stops the disks' threads and flushes the catalogue. Neither is needed for safety: whatever was acknowledged is in the log.
async fn finish(engine: &Arc<Engine>) {
    let threads = engine.disks.threads();
    for (_, thread) in &threads {
        thread.stop();
    }
    let joined = tokio::task::spawn_blocking(move || threads.iter().for_each(|(_, thread)| thread.join()));
    if tokio::time::timeout(STOP_PATIENCE, joined).await.is_err() {
        tracing::warn!("the disks' threads did not end in time");
    }
    if tokio::time::timeout(FLUSH_PATIENCE, engine.meta.stop()).await.is_err() {
        tracing::warn!("the catalogue was not flushed in time; it is brought up from the log at the next start");
    }
    tracing::info!("stopped");
}
