//! Running somebody else's program with a time limit, and saying clearly what it did when it fails.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A program about to be run.
#[derive(Debug)]
pub struct Tool {
    command: Command,
    timeout: Duration,
}

/// What a program left behind.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The command line, for messages.
    pub line: String,
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output, as text.
    pub stdout: String,
    /// Standard error, as text.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Tool {
    /// A program by name or path. It may run for two minutes unless [`Tool::timeout`] says otherwise.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // Messages are compared by substring, so they must not depend on the caller's language.
        command.env("LC_ALL", "C");
        Self {
            command,
            timeout: Duration::from_secs(120),
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Runs in this directory.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Kills the program and fails once it has run for `limit`.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// Runs it to its end, whatever its exit code.
    pub fn run(mut self) -> Result<Ran> {
        let line = describe(&self.command);
        let start = Instant::now();
        let mut child = self.command.spawn().with_context(|| format!("cannot start `{line}`"))?;
        let stdout = child.stdout.take().map(collect);
        let stderr = child.stderr.take().map(collect);
        let status = wait(&mut child, self.timeout);
        let stdout = stdout.map_or_else(String::new, finish);
        let stderr = stderr.map_or_else(String::new, finish);
        let Some(status) = status.with_context(|| format!("waiting for `{line}`"))? else {
            bail!(
                "`{line}` was still running after {:?} and was killed\n{}",
                self.timeout,
                tail(&stderr, &stdout)
            );
        };
        Ok(Ran {
            line,
            code: status.code(),
            stdout,
            stderr,
            took: start.elapsed(),
        })
    }

    /// Runs it and fails, with what it said, unless it exits with 0.
    pub fn ok(self) -> Result<Ran> {
        let ran = self.run()?;
        if ran.code != Some(0) {
            bail!(
                "`{}` exited with {}\n{}",
                ran.line,
                exit(ran.code),
                tail(&ran.stderr, &ran.stdout)
            );
        }
        Ok(ran)
    }
}

impl Ran {
    /// Standard output as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("`{}` printed no JSON: {}", self.line, self.stdout))
    }

    /// Both outputs, for searching for a message.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// A system program. `/usr/sbin` is not in every user's path.
pub fn system(name: &str) -> PathBuf {
    let path = Path::new("/usr/sbin").join(name);
    if path.exists() { path } else { PathBuf::from(name) }
}

/// The exit code in words.
fn exit(code: Option<i32>) -> String {
    code.map_or_else(|| "a signal".to_owned(), |code| format!("code {code}"))
}

/// The command line as one would type it.
fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Reads a pipe to its end on a thread, so that a full pipe never blocks the program.
fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A pipe that breaks has nothing more to tell; what came so far is kept.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn finish(reader: thread::JoinHandle<String>) -> String {
    reader.join().unwrap_or_default()
}

/// The end of what a program said: standard error first, else standard output.
fn tail(stderr: &str, stdout: &str) -> String {
    let text = if stderr.trim().is_empty() { stdout } else { stderr };
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Waits for the child; `None` if it had to be killed because `limit` had passed.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<std::process::ExitStatus>> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() >= limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
