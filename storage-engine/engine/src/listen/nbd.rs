//! NBD clients, over TCP and a unix socket: negotiation here, transmission on the thread of the disk that holds the volume's
//! local replica.

use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn_api::block::{DeviceInfo, FrontendSession as _, Want};
use cairn_api::units::ByteSize;
use cairn_crypto::VolumeCipher;
use cairn_nbd::{ListedExport, LookupRefusal, Question, Session, TlsFiles, TlsPolicy, TlsServer};
use cairn_reactor::Opening;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};

use super::RateLimit;
use crate::config::TlsConfig;
use crate::control::{encryption, route};
use crate::engine::Engine;
use crate::meta::{Catalogue, SnapshotPhase, SnapshotRecord, VolumeRecord};

/// How long a negotiation may take in all: a client that only looks around ends it by itself.
const NEGOTIATION_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes received at once during negotiation.
const RECEIVE_BYTES: usize = 64 << 10;
/// Between a volume's name and a snapshot's in the name of an export. Neither has one.
const SNAPSHOT_MARK: char = '@';

/// Why NBD cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum NbdError {
    /// TLS cannot be used.
    #[error("[nbd.tls] cannot be used: {0}")]
    Tls(#[from] cairn_nbd::TlsConfigError),
    /// The socket's path is taken.
    #[error("nbd.socket {}: {reason}", path.display())]
    Socket {
        /// The path.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// The policy that the configuration asks for.
pub fn tls_policy(config: Option<&TlsConfig>) -> Result<TlsPolicy, NbdError> {
    let Some(config) = config else {
        return Ok(TlsPolicy::Off);
    };
    let server = TlsServer::load(&TlsFiles {
        certificate: config.certificate.clone(),
        key: config.key.clone(),
        client_ca: config.client_ca.clone(),
    })?;
    Ok(if config.required {
        TlsPolicy::Required(server)
    } else {
        TlsPolicy::Optional(server)
    })
}

/// Listens on a unix socket. A socket file that nobody listens on is left over from a crash and is replaced; anything else at
/// that path is left alone.
pub fn bind_unix(path: &Path) -> Result<UnixListener, NbdError> {
    let refuse = |reason: String| NbdError::Socket {
        path: path.to_owned(),
        reason,
    };
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            return Err(refuse("there is a file of that name that is no socket".to_owned()));
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(refuse("another process listens on it".to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(|error| refuse(format!("cannot remove the old socket: {error}")))?;
            }
            Err(error) => return Err(refuse(format!("cannot tell whether somebody listens on it: {error}"))),
        }
    } else if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| refuse(format!("cannot make its directory: {error}")))?;
    }
    let listener = UnixListener::bind(path).map_err(|error| refuse(error.to_string()))?;
    // The group may be given to clients that do not run as root; others stay out.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        .map_err(|error| refuse(error.to_string()))?;
    Ok(listener)
}

/// Accepts on TCP until the engine drains.
pub async fn serve_tcp(engine: Arc<Engine>, listener: TcpListener, policy: TlsPolicy) {
    let limit = Arc::new(RateLimit::new());
    while !engine.is_draining() {
        match listener.accept().await {
            Ok((stream, remote)) => {
                // Small requests wait for nothing; if the option is refused, the connection works all the same.
                let _ = stream.set_nodelay(true);
                start(
                    &engine,
                    &limit,
                    stream,
                    remote.to_string(),
                    policy.clone(),
                    super::hand_over_tcp,
                );
            }
            Err(error) => super::pause_after(&error, "nbd").await,
        }
    }
}

/// Accepts on a unix socket until the engine drains. No TLS there: the file's permissions guard it.
pub async fn serve_unix(engine: Arc<Engine>, listener: UnixListener) {
    let limit = Arc::new(RateLimit::new());
    while !engine.is_draining() {
        match listener.accept().await {
            Ok((stream, _)) => {
                start(
                    &engine,
                    &limit,
                    stream,
                    "unix socket".to_owned(),
                    TlsPolicy::Off,
                    super::hand_over_unix,
                );
            }
            Err(error) => super::pause_after(&error, "nbd socket").await,
        }
    }
}

/// Counts a connection from its acceptance until it is handed over or ends.
struct Negotiating(Arc<Engine>);

impl Negotiating {
    fn begin(engine: &Arc<Engine>) -> Option<Self> {
        let negotiating = engine.metrics.nbd_negotiating.fetch_add(1, Ordering::Relaxed) + 1;
        let this = Self(Arc::clone(engine));
        let served: u64 = engine
            .disks
            .serving()
            .iter()
            .map(|(_, thread)| thread.stats().streams)
            .sum();
        (negotiating + served <= engine.config.nbd.connections_max as u64).then_some(this)
    }
}

impl Drop for Negotiating {
    fn drop(&mut self) {
        self.0.metrics.nbd_negotiating.fetch_sub(1, Ordering::Relaxed);
    }
}

fn start<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    engine: &Arc<Engine>,
    limit: &Arc<RateLimit>,
    stream: S,
    remote: String,
    policy: TlsPolicy,
    hand_over: fn(S) -> std::io::Result<OwnedFd>,
) {
    let Some(counted) = Negotiating::begin(engine) else {
        report(
            engine,
            limit,
            &remote,
            &format!("{} connections are open already", engine.config.nbd.connections_max),
        );
        return;
    };
    let (engine, limit) = (Arc::clone(engine), Arc::clone(limit));
    tokio::spawn(async move {
        if let Err(problem) = serve_one(&engine, stream, &remote, policy, hand_over).await {
            report(&engine, &limit, &remote, &problem);
        }
        drop(counted);
    });
}

fn report(engine: &Engine, limit: &RateLimit, remote: &str, problem: &str) {
    engine.metrics.nbd_refused.fetch_add(1, Ordering::Relaxed);
    if let Some(suppressed) = limit.allow() {
        tracing::warn!(
            remote,
            suppressed,
            problem,
            "an NBD connection ended before its transmission"
        );
    }
}

async fn serve_one<S: AsyncRead + AsyncWrite + Unpin>(
    engine: &Arc<Engine>,
    mut stream: S,
    remote: &str,
    policy: TlsPolicy,
    hand_over: fn(S) -> std::io::Result<OwnedFd>,
) -> Result<(), String> {
    let mut session = Session::new(policy);
    let mut lookups = Lookups { engine, last: None };
    let negotiation = negotiate(&mut stream, &mut session, &mut lookups);
    match tokio::time::timeout(NEGOTIATION_TIMEOUT, negotiation).await {
        Err(_) => {
            return Err(format!(
                "the negotiation took more than {} s",
                NEGOTIATION_TIMEOUT.as_secs()
            ));
        }
        Ok(Err(error)) => return Err(error.to_string()),
        Ok(Ok(())) => {}
    }
    let Some(info) = session.export().cloned() else {
        return match session.close_reason() {
            Some(reason) if reason.is_fault() => Err(reason.to_string()),
            _ => Ok(()),
        };
    };
    let LookedUp { volume, cipher, .. } = lookups
        .last
        .filter(|looked_up| looked_up.export == info.name)
        .ok_or_else(|| format!("export '{}' was entered without having been looked up", info.name))?;
    let disk = engine.disk_for(&volume).ok_or("no disk of this engine serves")?;
    let thread = engine.disks.thread_of(disk).ok_or("the disk's thread has just ended")?;
    let socket = hand_over(stream).map_err(|error| error.to_string())?;
    tracing::info!(remote, export = info.name, %disk, tls = session.is_encrypted(), "an NBD client");
    let opening = Opening {
        info,
        spec: volume.present_spec(),
        cipher,
    };
    thread.adopt_stream(socket, Box::new(session), opening);
    // What changed while the client negotiated: whatever changes from here on everybody is told who is there by now.
    if let Some(volume) = engine.meta.view().volumes.get(&volume.group) {
        thread.command(volume.update(), Box::new(|_| {}));
    }
    Ok(())
}

async fn negotiate<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    session: &mut Session,
    lookups: &mut Lookups<'_>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; RECEIVE_BYTES];
    let mut output = Vec::new();
    loop {
        match session.question().cloned() {
            Some(Question::List) => session.answer_list(&lookups.list().await),
            Some(Question::Lookup(name)) => session.answer_lookup(lookups.lookup(&name).await),
            None => {}
        }
        session.take_output(&mut output);
        for piece in output.drain(..) {
            stream.write_all(&piece).await?;
        }
        stream.flush().await?;
        if session.is_finished() || !session.is_negotiating() {
            return Ok(());
        }
        if session.question().is_some() {
            continue;
        }
        match session.want() {
            Want::Bytes(count) => {
                let count = count.min(RECEIVE_BYTES);
                match stream.read(&mut buffer[..count]).await? {
                    0 => session.received_end(),
                    count => session.received(&buffer[..count]),
                }
            }
            // Nothing is wanted only while something is to be answered or sent, and both are done.
            Want::Payload { .. } | Want::Nothing => {
                return Err(std::io::Error::other(
                    "the negotiation wants nothing and is not finished",
                ));
            }
        }
    }
}

/// An export that a client asked about.
struct LookedUp {
    /// The name that it was asked for by: the volume's, or `VOLUME@SNAPSHOT`.
    export: String,
    volume: VolumeRecord,
    /// What the volume is encrypted with; a snapshot keeps its volume's key.
    cipher: Option<Arc<VolumeCipher>>,
}

/// Answers a negotiation's questions from the catalogue.
struct Lookups<'a> {
    engine: &'a Arc<Engine>,
    /// What was looked up last: the export that is entered, if one is.
    last: Option<LookedUp>,
}

impl Lookups<'_> {
    async fn list(&self) -> Vec<ListedExport> {
        let Ok(catalogue) = route::catalogue_soon(self.engine).await else {
            return Vec::new();
        };
        let volumes = catalogue.visible_volumes().filter(|volume| !volume.deleting);
        let mut exports = Vec::new();
        for volume in volumes {
            exports.push(ListedExport {
                name: volume.name.clone(),
                description: describe(volume),
            });
            let snapshots = catalogue.snapshots_of(volume.group);
            let ready = snapshots.filter(|snapshot| snapshot.phase == SnapshotPhase::Ready && !snapshot.hidden);
            exports.extend(ready.map(|snapshot| ListedExport {
                name: format!("{}{SNAPSHOT_MARK}{}", volume.name, snapshot.name),
                description: describe_snapshot(snapshot),
            }));
        }
        exports
    }

    async fn lookup(&mut self, name: &str) -> Result<DeviceInfo, LookupRefusal> {
        self.last = None;
        if self.engine.is_draining() {
            return Err(LookupRefusal::ShuttingDown);
        }
        if self.engine.cluster().is_none() {
            return Err(LookupRefusal::Refused("this engine is in no cluster yet".to_owned()));
        }
        let catalogue = route::catalogue_soon(self.engine)
            .await
            .map_err(|status| LookupRefusal::Refused(status.message().to_owned()))?;
        let (volume, of) = name
            .split_once(SNAPSHOT_MARK)
            .map_or((name, None), |(volume, snapshot)| (volume, Some(snapshot)));
        let volume = catalogue.volume_by_name(volume).ok_or(LookupRefusal::Unknown)?;
        if volume.deleting {
            return Err(LookupRefusal::Refused(format!(
                "volume '{}' is being deleted",
                volume.name
            )));
        }
        let snapshot = match of {
            Some(of) => Some(find_snapshot(&catalogue, volume, of)?),
            None => None,
        };
        if self.engine.disk_for(volume).is_none() {
            return Err(LookupRefusal::Refused("no disk of this engine serves now".to_owned()));
        }
        let cipher = cipher_of(self.engine, &catalogue, volume).await?;
        self.last = Some(LookedUp {
            export: name.to_owned(),
            volume: volume.clone(),
            cipher,
        });
        Ok(match snapshot {
            Some(snapshot) => DeviceInfo {
                name: name.to_owned(),
                description: describe_snapshot(snapshot),
                size_bytes: snapshot.size_bytes,
                read_only: true,
                snapshot: Some(snapshot.id),
            },
            None => DeviceInfo {
                name: volume.name.clone(),
                description: describe(volume),
                size_bytes: volume.size_bytes,
                read_only: false,
                snapshot: None,
            },
        })
    }
}

/// Unwraps the key of an encrypted volume. A key service that is away keeps a volume from being opened, not those that are.
async fn cipher_of(
    engine: &Engine,
    catalogue: &Catalogue,
    volume: &VolumeRecord,
) -> Result<Option<Arc<VolumeCipher>>, LookupRefusal> {
    let Some(key) = &volume.encryption else { return Ok(None) };
    let refuse =
        |reason: String| LookupRefusal::Refused(format!("volume '{}' cannot be decrypted: {reason}", volume.name));
    let owner = encryption::owner(catalogue, volume.group).map_err(|status| refuse(status.message().to_owned()))?;
    match engine.keys.open(owner, key).await {
        Ok(cipher) => Ok(Some(cipher)),
        Err(error) => {
            tracing::warn!(volume = volume.name, %error, "an encrypted volume is not opened");
            Err(refuse(error.to_string()))
        }
    }
}

/// A snapshot that can be read.
fn find_snapshot<'a>(
    catalogue: &'a Catalogue,
    volume: &VolumeRecord,
    name: &str,
) -> Result<&'a SnapshotRecord, LookupRefusal> {
    let snapshot = catalogue
        .snapshot_by_name(volume.group, name)
        .ok_or(LookupRefusal::Unknown)?;
    let refuse = |how: &str| {
        let words = format!("snapshot '{name}' of volume '{}' is {how}", volume.name);
        Err(LookupRefusal::Refused(words))
    };
    match snapshot.phase {
        SnapshotPhase::Ready => Ok(snapshot),
        SnapshotPhase::Creating => refuse("not made yet"),
        SnapshotPhase::Deleting => refuse("being deleted"),
    }
}

fn describe_snapshot(snapshot: &SnapshotRecord) -> String {
    format!("snapshot, read-only, {}", ByteSize(snapshot.size_bytes))
}

fn describe(volume: &VolumeRecord) -> String {
    let replicas = volume.replicas.len();
    let plural = if replicas == 1 { "replica" } else { "replicas" };
    format!("{replicas} {plural}, {}", ByteSize(volume.size_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_or_a_file_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/nbd.sock");
        let first = bind_unix(&path).unwrap();
        assert!(
            bind_unix(&path)
                .unwrap_err()
                .to_string()
                .contains("another process listens")
        );
        drop(first);
        drop(bind_unix(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "data").unwrap();
        assert!(bind_unix(&path).unwrap_err().to_string().contains("no socket"));
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
    }
}
