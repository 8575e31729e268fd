//! Peers' links. A core of another disk dials, says who it is and whose core it wants, and is accepted or told why not; then
//! the disk's thread receives from the connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn_format::peer::{HELLO_BYTES, Hello, HelloCode, HelloReply, WIRE_VERSION};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::RateLimit;
use crate::disks::DiskThread;
use crate::engine::Engine;

/// How long a dialler may take for its greeting.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that may be greeting at a time: all peers of a large cluster after a restart.
const GREETING_MAX: usize = 1024;

/// What was wrong with a connection.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("no greeting within {} s", HELLO_TIMEOUT.as_secs())]
    TimedOut,
    #[error("the connection ended before the greeting was complete: {0}")]
    Broken(std::io::Error),
    #[error("{0}")]
    Garbage(cairn_format::error::FormatError),
    #[error("disk {from} wants disk {to}: {}", .code.reason())]
    Verdict {
        from: cairn_api::ids::DiskId,
        to: cairn_api::ids::DiskId,
        code: HelloCode,
    },
}

/// Accepts until the engine drains.
pub async fn serve(engine: Arc<Engine>, listener: TcpListener) {
    let greeting = Arc::new(Semaphore::new(GREETING_MAX));
    let limit = Arc::new(RateLimit::new());
    while !engine.is_draining() {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                super::pause_after(&error, "data").await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&greeting).try_acquire_owned() else {
            report(&engine, &limit, remote, &"too many connections are greeting already");
            continue;
        };
        let (engine, limit) = (Arc::clone(&engine), Arc::clone(&limit));
        tokio::spawn(async move {
            if let Err(refused) = greet(&engine, stream).await {
                report(&engine, &limit, remote, &refused);
            }
            drop(permit);
        });
    }
}

fn report(engine: &Engine, limit: &RateLimit, remote: SocketAddr, what: &dyn std::fmt::Display) {
    engine.metrics.links_refused.fetch_add(1, Ordering::Relaxed);
    if let Some(suppressed) = limit.allow() {
        tracing::warn!(%remote, suppressed, problem = %what, "refused a peer's connection");
    }
}

async fn greet(engine: &Engine, mut stream: TcpStream) -> Result<(), Refused> {
    let mut bytes = [0; HELLO_BYTES];
    match tokio::time::timeout(HELLO_TIMEOUT, stream.read_exact(&mut bytes)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(Refused::Broken(error)),
        Err(_) => return Err(Refused::TimedOut),
    }
    // A stranger gets no answer: only a well-formed greeting is worth a refusal.
    let hello = Hello::decode(&bytes).map_err(Refused::Garbage)?;
    let verdict = judge(engine, &hello);
    let code = verdict.as_ref().map_or_else(|code| *code, |_| HelloCode::Accepted);
    let reply = HelloReply::new(code).encode();
    match tokio::time::timeout(HELLO_TIMEOUT, stream.write_all(&reply)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(Refused::Broken(error)),
        Err(_) => return Err(Refused::TimedOut),
    }
    let thread = match verdict {
        Ok(thread) => thread,
        // Every engine's cores knock at a recovering disk until it is up.
        Err(HelloCode::DiskNotReady | HelloCode::ShuttingDown) => return Ok(()),
        Err(code) => {
            return Err(Refused::Verdict {
                from: hello.from_disk,
                to: hello.to_disk,
                code,
            });
        }
    };
    let socket = super::hand_over_tcp(stream).map_err(Refused::Broken)?;
    tracing::debug!(from = %hello.from_disk, to = %hello.to_disk, "a peer's link");
    thread.adopt_peer(socket, hello.from_disk);
    Ok(())
}

fn judge(engine: &Engine, hello: &Hello) -> Result<Arc<dyn DiskThread>, HelloCode> {
    if hello.wire_version != WIRE_VERSION {
        return Err(HelloCode::WrongVersion);
    }
    match engine.cluster() {
        Some(cluster) if cluster == hello.cluster => {}
        Some(_) => return Err(HelloCode::WrongCluster),
        // While a cluster is being made, engines that are members already knock at those that are not yet.
        None => return Err(HelloCode::DiskNotReady),
    }
    if engine.is_draining() {
        return Err(HelloCode::ShuttingDown);
    }
    if hello.from_disk == hello.to_disk {
        return Err(HelloCode::SameDisk);
    }
    let views = engine.disks.views();
    let view = views
        .iter()
        .find(|view| view.id() == Some(hello.to_disk))
        .ok_or(HelloCode::UnknownDisk)?;
    view.serving()
        .map(|(_, thread)| Arc::clone(thread))
        .ok_or(HelloCode::DiskNotReady)
}
