//! Talks to engines: several addresses are tried in turn until one answers, within one deadline for the whole command.
//!
//! Every call of the control API may be repeated (reads change nothing, mutations are idempotent by name), which is what
//! makes it safe to ask the next engine when one goes silent half-way.

use std::error::Error;
use std::fmt::Display;
use std::time::Duration;

use cairn_api::control::control_client::ControlClient;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::error::{CliError, Kind};
use crate::progress::Waiting;

/// The generated client over one connection.
pub(crate) type Client = ControlClient<Channel>;

/// The largest answer that is accepted, in bytes: a catalogue of 100,000 volumes with five replicas fits.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// The longest wait for one connection: on any network worth storing over, a live engine accepts far sooner.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// How often a waiting request asks whether its engine is still there; more often if there is little time.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// An engine that answers no ping for so long is stopped or cut off; one that is merely busy with a request still does.
const PING_TIME_MAX: Duration = Duration::from_secs(3);
/// The pause before engines that answered "not now" are asked again: a meta election takes about a second.
const RETRY_PAUSE: Duration = Duration::from_millis(300);

/// The engines a command may ask, and the time it has.
#[derive(Debug, Clone)]
pub(crate) struct Engines {
    addresses: Vec<String>,
    timeout: Duration,
    deadline: Instant,
}

/// Why one engine did not do what was asked.
enum Attempt {
    /// It could not be reached, or does not answer pings.
    Silent(String),
    /// It works on it still, for all we know, but the command's time is over.
    OutOfTime(String),
    /// It answered that it cannot now: no leader, or no majority.
    NotNow(String),
    /// It answered no.
    Refused(Status),
}

/// How a round of asking went without an answer.
#[derive(Default)]
struct Round {
    /// Why each engine did not do it.
    reasons: Vec<String>,
    /// Whether one of them answered at all.
    somebody_lives: bool,
    /// Whether the command's time ran out while an engine was being asked.
    cut_short: bool,
    /// An engine's final no.
    refusal: Option<Status>,
}

impl Engines {
    /// The engines at `addresses`, asked for at most `timeout` from now.
    pub(crate) fn new(addresses: Vec<String>, timeout: Duration) -> Self {
        Self {
            addresses,
            timeout,
            deadline: Instant::now() + timeout,
        }
    }

    /// Where they listen.
    pub(crate) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The time the whole command was given.
    pub(crate) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether the time has run out.
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// What is said when that is so, of something that has begun and goes on: `what` it is not yet, and what was `seen` last.
    pub(crate) fn too_late(&self, what: &str, seen: &str, remedy: &str) -> CliError {
        let colon = if seen.is_empty() { "" } else { ": " };
        let what = format!("{what} within {:?}{colon}{seen}", self.timeout);
        CliError::new(Kind::Unavailable, what, remedy)
    }

    /// Asks one engine after the other until one does what is asked or refuses it for good.
    pub(crate) async fn call<T>(
        &self,
        doing: &str,
        request: impl AsyncFn(&mut Client) -> Result<T, Status>,
    ) -> Result<T, CliError> {
        let mut waiting: Option<Waiting> = None;
        let mut earlier: Option<Round> = None;
        loop {
            let round = match self.round(&request).await {
                Ok(answer) => return Ok(answer),
                Err(round) => round,
            };
            if let Some(status) = round.refusal {
                return Err(CliError::of_status(doing, &status));
            }
            if !round.somebody_lives || Instant::now() + RETRY_PAUSE >= self.deadline {
                // A round that the deadline cut short says less than the whole one before it.
                return Err(nobody_did(doing, &earlier.filter(|_| round.cut_short).unwrap_or(round)));
            }
            // An engine lives but has no leader to ask: elections end, so this is worth waiting for.
            waiting.get_or_insert_with(Waiting::start).say(round.reasons.join("; "));
            earlier = Some(round);
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// As [`Self::call`], without waiting for what cannot be done now.
    pub(crate) async fn call_once<T>(
        &self,
        doing: &str,
        request: impl AsyncFn(&mut Client) -> Result<T, Status>,
    ) -> Result<T, CliError> {
        self.round(&request).await.map_err(|round| match &round.refusal {
            Some(status) => CliError::of_status(doing, status),
            None => nobody_did(doing, &round),
        })
    }

    /// As [`Self::call`], for what the command can do without: no waiting, and no reason.
    pub(crate) async fn glance<T>(&self, request: impl AsyncFn(&mut Client) -> Result<T, Status>) -> Option<T> {
        self.round(&request).await.ok()
    }

    /// Asks each engine once, until one answers for good.
    async fn round<T>(&self, request: &impl AsyncFn(&mut Client) -> Result<T, Status>) -> Result<T, Round> {
        let mut round = Round::default();
        for address in &self.addresses {
            if round.cut_short {
                round.reasons.push(format!("{address}: not asked, the time was over"));
                continue;
            }
            match attempt(address, self.time_left(), request).await {
                Ok(answer) => return Ok(answer),
                Err(Attempt::Refused(status)) => {
                    round.refusal = Some(status);
                    break;
                }
                Err(Attempt::Silent(reason)) => round.reasons.push(format!("{address}: {reason}")),
                Err(Attempt::OutOfTime(reason)) => {
                    round.cut_short = true;
                    round.reasons.push(format!("{address}: {reason}"));
                }
                Err(Attempt::NotNow(reason)) => {
                    round.somebody_lives = true;
                    round.reasons.push(format!("{address}: {reason}"));
                }
            }
        }
        Err(round)
    }

    /// Asks the one engine at `address`, once.
    pub(crate) async fn ask<T>(
        &self,
        address: &str,
        doing: &str,
        request: impl AsyncFn(&mut Client) -> Result<T, Status>,
    ) -> Result<T, CliError> {
        attempt(address, self.time_left(), &request)
            .await
            .map_err(|failure| match failure {
                Attempt::Refused(status) => CliError::of_status(doing, &status),
                Attempt::Silent(reason) => CliError::new(
                    Kind::Unavailable,
                    format!("{doing}: {address}: {reason}"),
                    NOBODY_REMEDY,
                ),
                Attempt::NotNow(reason) | Attempt::OutOfTime(reason) => CliError::new(
                    Kind::Unavailable,
                    format!("{doing}: {address}: {reason}"),
                    NOT_NOW_REMEDY,
                ),
            })
    }

    /// What is left of the time. Each engine may take all of it: one that stays silent is found out by pings, and one that
    /// works on the request should not be disturbed.
    fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

fn nobody_did(doing: &str, round: &Round) -> CliError {
    let remedy = if round.somebody_lives || round.cut_short {
        NOT_NOW_REMEDY
    } else {
        NOBODY_REMEDY
    };
    let what = match round.reasons.as_slice() {
        [only] => format!("{doing}: {only}"),
        several => format!(
            "{doing}: none of {} engines could: {}",
            several.len(),
            several.join("; ")
        ),
    };
    CliError::new(Kind::Unavailable, what, remedy)
}

const NOBODY_REMEDY: &str = "start an engine (`cairn dev --dir DIR` starts three), or name one that runs with --engine HOST:PORT or CAIRN_ENGINE";
const NOT_NOW_REMEDY: &str =
    "see that a majority of the nodes runs (`cairn cluster status`), or wait longer with --timeout";

async fn attempt<T>(
    address: &str,
    time: Duration,
    request: &impl AsyncFn(&mut Client) -> Result<T, Status>,
) -> Result<T, Attempt> {
    let deadline = Instant::now() + time;
    let mut client = connect(address, time).await.map_err(Attempt::Silent)?;
    match tokio::time::timeout_at(deadline, request(&mut client)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(status)) => Err(match status.code() {
            // A connection that broke half-way is reported as `Unavailable` too, with its cause as the source.
            Code::Unavailable if status.source().is_some() => Attempt::Silent(match root_cause(&status) {
                cause if cause.contains("timed out") => "no answer to pings: it is stopped or cut off".to_owned(),
                cause => cause,
            }),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                Attempt::NotNow(status.message().to_owned())
            }
            _ => Attempt::Refused(status),
        }),
        Err(_) => Err(Attempt::OutOfTime(format!("no answer within {}", Seconds(time)))),
    }
}

async fn connect(address: &str, time_left: Duration) -> Result<Client, String> {
    let time = time_left.min(CONNECT_TIME_MAX);
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| format!("not an address: {}", root_cause(&error)))?
        .connect_timeout(time)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_INTERVAL.min(time_left / 8))
        .keep_alive_timeout(PING_TIME_MAX.min(time_left / 4));
    // The outer time limit also covers a peer that accepts the connection and never speaks.
    match tokio::time::timeout(time, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(Client::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)),
        Ok(Err(error)) => Err(root_cause(&error)),
        Err(_) => Err(format!("no connection within {}", Seconds(time))),
    }
}

/// The innermost cause of a transport error: the outer ones only say "transport error".
fn root_cause(error: &dyn Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let text = cause.to_string();
    // "(os error 111)" tells people nothing.
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// A duration as seconds with at most one decimal.
struct Seconds(Duration);

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tenths = self.0.as_millis().div_ceil(100);
        if tenths.is_multiple_of(10) {
            write!(f, "{} s", tenths / 10)
        } else {
            write!(f, "{}.{} s", tenths / 10, tenths % 10)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_a_person_would_write_them() {
        for (milliseconds, text) in [(30_000, "30 s"), (500, "0.5 s"), (1, "0.1 s"), (1_949, "2 s")] {
            assert_eq!(Seconds(Duration::from_millis(milliseconds)).to_string(), text);
        }
    }

    #[tokio::test]
    async fn an_address_where_nobody_listens_is_named_with_the_reason() {
        let engines = Engines::new(
            vec!["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()],
            Duration::from_secs(5),
        );
        let error = engines.call("cannot list volumes", async |_| Ok(())).await.unwrap_err();
        assert_eq!(error.kind, Kind::Unavailable);
        assert_eq!(
            error.what,
            "cannot list volumes: none of 2 engines could: 127.0.0.1:1: connection refused; 127.0.0.1:2: connection refused"
        );
    }
}
