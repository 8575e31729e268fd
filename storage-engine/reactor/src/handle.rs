//! Starting a reactor, and the handle that other threads hold.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use cairn_api::block::FrontendSession;
use cairn_api::ids::{ClusterId, DiskId, GroupId, NodeId};
use cairn_api::units::ByteSize;
use cairn_core::event::Command;

use crate::buffers::BufferPool;
use crate::counters::Counters;
use crate::disk::Disk;
use crate::error::{Failure, HandleError, StartError};
use crate::machine::Machine;
use crate::mailbox::{Callback, Mailbox, Reply, Request};
use crate::observer::Observer;
use crate::opening::Opening;
use crate::reactor::{Parts, Turner};
use crate::uring::Ring;
use crate::wake::Waker;

/// The usual arena: a few hundred requests of 128 KiB in flight.
pub const MEMORY_DEFAULT: ByteSize = ByteSize(64 << 20);
/// The least arena: a few of the longest entries.
pub const MEMORY_MIN: ByteSize = ByteSize(4 << 20);
/// The most: the kernel registers no buffer longer than a gibibyte.
pub const MEMORY_MAX: ByteSize = ByteSize(1 << 30);

/// What a reactor needs to know.
pub struct Config {
    /// The disk, opened and locked; the reactor owns it until it ends.
    pub disk: Disk,
    /// The cluster, for the greeting of peers.
    pub cluster: ClusterId,
    /// This node, for the greeting of peers.
    pub node: NodeId,
    /// Size of the registered buffers.
    pub memory: ByteSize,
    /// Who is told what happens.
    pub observer: Box<dyn Observer>,
}

/// A disk's thread.
pub struct Reactor;

impl Reactor {
    /// Starts the thread. Returns once its ring stands; recovery goes on from there, see [`Observer::on_recovered`].
    pub fn start<M: Machine>(config: Config, machine: M) -> Result<ReactorHandle, StartError> {
        let memory = config.memory;
        if !(MEMORY_MIN..=MEMORY_MAX).contains(&memory) {
            return Err(StartError::MemorySetting {
                found: memory,
                min: MEMORY_MIN,
                max: MEMORY_MAX,
            });
        }
        let counters = Arc::new(Counters::default());
        let waker = Arc::new(Waker::new().map_err(|errno| StartError::Thread(errno.into()))?);
        let mailbox = Arc::new(Mailbox::new(Arc::clone(&waker)));
        let parts = StartParts {
            config,
            counters: Arc::clone(&counters),
            waker,
            mailbox: Arc::clone(&mailbox),
        };
        let (started, outcome) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("cairn-disk".to_owned())
            .spawn(move || run(parts, machine, &started))
            .map_err(StartError::Thread)?;
        match outcome.recv() {
            Ok(Ok(())) => Ok(ReactorHandle {
                shared: Arc::new(Shared {
                    mailbox,
                    counters,
                    thread: Mutex::new(Join::Running(thread)),
                }),
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(StartError::Thread(std::io::Error::other(
                "it ended before it had started",
            ))),
        }
    }
}

struct StartParts {
    config: Config,
    counters: Arc<Counters>,
    waker: Arc<Waker>,
    mailbox: Arc<Mailbox>,
}

/// The thread: sets up, turns until it ends, and says how it ended, whatever happens in between.
fn run<M: Machine>(
    parts: StartParts,
    machine: M,
    started: &mpsc::SyncSender<Result<(), StartError>>,
) -> Result<(), Failure> {
    let StartParts {
        config,
        counters,
        waker,
        mailbox,
    } = parts;
    let Config {
        disk,
        cluster,
        node,
        memory,
        mut observer,
    } = config;
    let parts = match set_up(memory, &counters, &waker) {
        Ok((ring, pool)) => Parts {
            ring,
            pool,
            disk,
            cluster,
            node,
            counters,
            waker,
            mailbox: Arc::clone(&mailbox),
        },
        Err(error) => {
            mailbox.close();
            // The starter is waiting; it would only be gone if its own thread had been unwound.
            let _ = started.send(Err(error));
            return Ok(());
        }
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut turner = Turner::new(parts, machine, &mut *observer)?;
        let _ = started.send(Ok(()));
        turner.run()
    }));
    let outcome = outcome.unwrap_or_else(|panic| Err(Failure::Panic(panic_text(&*panic))));
    mailbox.close();
    if let Err(failure) = &outcome {
        tracing::error!(%failure, "a disk's thread ended");
        observer.on_disk_failed(&failure.to_string());
    }
    observer.on_stopped(outcome.as_ref().err());
    outcome
}

fn set_up<T>(
    memory: ByteSize,
    counters: &Arc<Counters>,
    waker: &Arc<Waker>,
) -> Result<(Ring<T>, BufferPool), StartError> {
    let length = usize::try_from(memory.0).unwrap_or(usize::MAX);
    let pool =
        BufferPool::new(length, Arc::clone(waker), Arc::clone(counters)).map_err(|errno| StartError::Buffers {
            size: memory,
            source: errno.into(),
        })?;
    let mut ring = Ring::new()?;
    ring.register_arena(&pool);
    Ok((ring, pool))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}

/// How other threads speak to a reactor. Clones speak to the same one.
#[derive(Clone)]
pub struct ReactorHandle {
    shared: Arc<Shared>,
}

struct Shared {
    mailbox: Arc<Mailbox>,
    counters: Arc<Counters>,
    thread: Mutex<Join>,
}

enum Join {
    Running(JoinHandle<Result<(), Failure>>),
    Ended(Result<(), Failure>),
}

impl ReactorHandle {
    /// Where a peer's core is reached. Given again with another address, the link moves there.
    pub fn set_peer(&self, disk: DiskId, address: SocketAddr) -> Result<(), HandleError> {
        self.shared.mailbox.post(Request::SetPeer { disk, address })
    }

    /// Forgets a peer and closes the link to it.
    pub fn remove_peer(&self, disk: DiskId) -> Result<(), HandleError> {
        self.shared.mailbox.post(Request::RemovePeer(disk))
    }

    /// Receives from a peer's core on a connection that it has dialled, after its greeting has been answered.
    pub fn adopt_peer(&self, socket: OwnedFd, from: DiskId) -> Result<(), HandleError> {
        self.shared.mailbox.post(Request::AdoptPeer { socket, from })
    }

    /// Serves a frontend's connection, after its negotiation.
    pub fn adopt_stream(
        &self,
        socket: OwnedFd,
        session: Box<dyn FrontendSession>,
        opening: Opening,
    ) -> Result<(), HandleError> {
        self.shared.mailbox.post(Request::AdoptStream {
            socket,
            session,
            opening,
        })
    }

    /// Gives the core a command. `callback` gets the result exactly once: on the reactor's thread, or, if the command
    /// is not taken, on this one before the call returns. It must not block.
    pub fn command(&self, command: Command, callback: Callback) {
        // A request that is not taken is answered by the mailbox.
        let _ = self.shared.mailbox.post(Request::Command {
            command,
            reply: Reply::new(callback),
        });
    }

    /// Closes the frontends' connections to a group's volume.
    pub fn close_streams_of(&self, group: GroupId) -> Result<(), HandleError> {
        self.shared.mailbox.post(Request::CloseStreamsOf(group))
    }

    /// Asks the thread to end: it answers what frontends have in flight, as far as that is possible within a few
    /// seconds, and goes. Stopped already is done.
    pub fn stop(&self) {
        let _ = self.shared.mailbox.post(Request::Stop);
    }

    /// Waits until the thread has ended, and says how. Any clone may ask, more than once.
    pub fn join(&self) -> Result<(), Failure> {
        let mut thread = self.shared.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let running = std::mem::replace(&mut *thread, Join::Ended(Ok(())));
        let outcome = match running {
            Join::Running(handle) => handle
                .join()
                .unwrap_or_else(|panic| Err(Failure::Panic(panic_text(&*panic)))),
            Join::Ended(outcome) => outcome,
        };
        *thread = Join::Ended(outcome.clone());
        outcome
    }

    /// What it has counted.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.shared.counters
    }
}
