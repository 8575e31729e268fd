//! A network namespace that lives exactly as long as its users.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns, unshare};

use crate::command::Tool;

/// A network namespace without a name. It is kept alive by an open file and by the processes in it, so nothing of it is
/// left behind however the process ends: by a panic, by a signal, or well.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// A new namespace with nothing in it but a loopback interface that is down.
    pub fn new() -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("network namespaces cannot be made: this needs to run as root");
        }
        // Leaving the present namespace moves a thread, so it is done by one that then ends.
        let made = thread::spawn(|| -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)
                .context("this system makes no network namespaces (unshare with CLONE_NEWNET)")?;
            File::open("/proc/thread-self/ns/net").context("cannot keep the network namespace open")
        });
        let file = made
            .join()
            .map_err(|_| anyhow!("making a network namespace panicked"))??;
        Ok(Self { file })
    }

    /// A path by which other processes can enter it, as long as this one lives.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }

    /// Moves the calling thread into it for good: its sockets, and the programs that it starts.
    pub fn enter(&self) -> Result<()> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")
    }

    /// A program to be run in it.
    pub fn tool(&self, program: PathBuf) -> Tool {
        Tool::new("nsenter")
            .arg(format!("--net={}", self.path().display()))
            .arg("--")
            .arg(program)
    }
}
