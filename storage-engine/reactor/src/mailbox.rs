//! Requests from other threads to a reactor: a bounded queue, and an eventfd to wake it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cairn_api::block::FrontendSession;
use cairn_api::ids::{DiskId, GroupId};
use cairn_core::event::{Command, CommandError, CommandReply};

use crate::error::HandleError;
use crate::opening::Opening;
use crate::wake::Waker;

/// Requests that may wait. A reactor looks every turn, so a full mailbox means a thread that does not get on.
const MAILBOX_LENGTH_MAX: usize = 4096;

/// What another thread asks of a reactor.
pub(crate) enum Request {
    SetPeer {
        disk: DiskId,
        address: SocketAddr,
    },
    RemovePeer(DiskId),
    AdoptPeer {
        socket: OwnedFd,
        from: DiskId,
    },
    AdoptStream {
        socket: OwnedFd,
        session: Box<dyn FrontendSession>,
        opening: Opening,
    },
    Command {
        command: Command,
        reply: Reply,
    },
    CloseStreamsOf(GroupId),
    Stop,
}

/// The answer owed to a command. If the reactor ends first, the answer is that it has.
pub(crate) struct Reply {
    callback: Option<Callback>,
}

/// How a command's result is taken.
pub type Callback = Box<dyn FnOnce(Result<CommandReply, CommandError>) + Send>;

impl Reply {
    pub(crate) fn new(callback: Callback) -> Self {
        Self {
            callback: Some(callback),
        }
    }

    pub(crate) fn send(mut self, result: Result<CommandReply, CommandError>) {
        if let Some(callback) = self.callback.take() {
            callback(result);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(callback) = self.callback.take() {
            callback(Err(CommandError::Refused(
                "the disk's thread stopped before the command ended".to_owned(),
            )));
        }
    }
}

/// The queue between the handles and the thread.
pub(crate) struct Mailbox {
    queue: Mutex<Queue>,
    waker: Arc<Waker>,
}

#[derive(Default)]
struct Queue {
    requests: VecDeque<Request>,
    closed: bool,
}

impl Mailbox {
    pub(crate) fn new(waker: Arc<Waker>) -> Self {
        Self {
            queue: Mutex::default(),
            waker,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a request and wakes the thread. A stop is taken even by a full mailbox.
    pub(crate) fn post(&self, request: Request) -> Result<(), HandleError> {
        let refused = {
            let mut queue = self.lock();
            if queue.closed {
                Some((HandleError::Stopped, request))
            } else if queue.requests.len() >= MAILBOX_LENGTH_MAX && !matches!(request, Request::Stop) {
                Some((HandleError::Busy, request))
            } else {
                queue.requests.push_back(request);
                None
            }
        };
        if let Some((error, request)) = refused {
            // Outside the lock, because what is in the request (a callback, a session) is foreign code.
            if let Request::Command { reply, .. } = request {
                reply.send(Err(CommandError::Refused(error.to_string())));
            }
            return Err(error);
        }
        self.waker.wake();
        Ok(())
    }

    /// Takes all that waits.
    pub(crate) fn take(&self) -> VecDeque<Request> {
        std::mem::take(&mut self.lock().requests)
    }

    /// Refuses everything from here on, and drops what waits.
    pub(crate) fn close(&self) {
        let waiting = {
            let mut queue = self.lock();
            queue.closed = true;
            std::mem::take(&mut queue.requests)
        };
        drop(waiting);
    }
}
