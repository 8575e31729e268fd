//! A client: one NBD connection at a time through one engine's gateway, several requests in flight, all of it recorded.
//!
//! What a client may conclude when its connection is gone follows from what the engine promises (`gateway` in the core):
//! - All connections through one process of an engine share its hold on the volume. So they are one client of the
//!   history, and a process that was started again is another one.
//! - The process died: its requests that had no answer may land until another hold rules.
//! - The process lives: requests may even wait in its sockets, behind nobody's lock. If this connection ever had a write
//!   acknowledged, its device was there when the hold was taken, and is fenced once another engine's hold rules; if not,
//!   the engine may take the volume later for the sake of such a request, and nothing shuts it out.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use cairn_history::content::{self, SECTOR};
use cairn_history::register::OpId;
use cairn_history::rng::Rng;

use super::recorder::Violated;
use super::stage::{Stage, Volume};
use crate::nbd::{Client as Nbd, Command, Dialect, Reply, wire};

const SECTOR_BYTES: u64 = SECTOR as u64;
const BLOCK_SECTORS: u64 = 8;
/// Requests in flight on one connection while answers come.
const DEPTH: usize = 4;
/// While none come, one more is sent now and then, up to so many. An engine that wakes up then finds requests in its sockets
/// that are younger than what others were told meanwhile: the ones that it must not answer from what it remembers.
const DEPTH_MAX: usize = 24;
/// The pause between those.
const TRICKLE: Duration = Duration::from_millis(250);
/// The longest pause between two requests of a connection. The log is not compacted, so what a round writes must fit.
const PAUSE_US_MAX: u64 = 9_000;
/// A request covers at most so many blocks, now and then.
const BLOCKS_MAX: u64 = 16;
/// So many of a hundred requests fall into the first few blocks. There they meet: in one block, one after the other in short
/// time, and reads that come late see what is out of date.
const HOT_PERCENT: u64 = 55;
const HOT_BLOCKS: u64 = 24;
/// Connecting, and bytes of a message that has begun, may take so long.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A client that has waited so long for an answer drops its connection and tries another: longer than any failover.
const PATIENCE: Duration = Duration::from_secs(20);
/// The pause before connecting again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(60);
/// The pause after a write that was refused because another engine holds the volume.
const BUSY_PAUSE: Duration = Duration::from_millis(300);
/// How long an answer is awaited before the client looks around.
const GLANCE: Duration = Duration::from_millis(15);

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Reads and writes through the engine that is the volume's site.
    Writer,
    /// Only reads, through this engine.
    Reader(usize),
}

/// A request without an answer yet.
struct Flight {
    op: Option<OpId>,
    is_write: bool,
    /// A write that cannot be answered without the hold: not a trim, which may turn out to be nothing.
    needs_hold: bool,
    sectors: Range<u64>,
    sent: Instant,
}

/// A connection and what is known of it.
struct Session {
    nbd: Nbd,
    engine: usize,
    life: u64,
    flights: BTreeMap<u64, Flight>,
    /// A write of this connection was acknowledged.
    has_held: bool,
    next_send: Instant,
    next_trickle: Instant,
}

impl Session {
    /// Whether it is time for one more request.
    fn may_send(&self) -> bool {
        let now = Instant::now();
        match self.flights.len() {
            0..DEPTH => self.next_send <= now,
            DEPTH..DEPTH_MAX => self.next_send.max(self.next_trickle) <= now,
            _ => false,
        }
    }
}

/// Why a connection is over.
enum End {
    /// It broke, or was dropped.
    Gone,
    /// It was left in order, with nothing in flight.
    Left,
    Violated,
}

impl From<Violated> for End {
    fn from(_: Violated) -> Self {
        Self::Violated
    }
}

/// See the module.
pub(super) struct Client {
    stage: Arc<Stage>,
    volume: usize,
    role: Role,
    rng: Rng,
    structured: bool,
    /// Connections the director wants dropped so far; more than this client has seen means: drop yours.
    dropped: u64,
}

impl Client {
    pub(super) fn new(stage: Arc<Stage>, volume: usize, role: Role, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let structured = rng.chance(50);
        Self {
            stage,
            volume,
            role,
            rng,
            structured,
            dropped: 0,
        }
    }

    fn volume(&self) -> &Volume {
        &self.stage.volumes[self.volume]
    }

    /// The engine to work through now. A reader stays away from the engine that holds the volume, or is about to: as long
    /// as anybody is connected there, it does not give the volume back, and the writers could not go elsewhere.
    fn engine(&self) -> Option<usize> {
        let volume = self.volume();
        match self.role {
            Role::Writer => Some(volume.site()),
            Role::Reader(engine) if volume.site() == engine || volume.holder() == engine => None,
            Role::Reader(engine) => Some(engine),
        }
    }

    /// Works until the round drains or something is wrong.
    pub(super) fn run(mut self) -> Result<()> {
        self.stage.fabric.enter()?;
        while !self.stage.is_draining() {
            if matches!(self.connection(), End::Violated) {
                break;
            }
        }
        Ok(())
    }

    /// One connection, from its beginning to its end.
    fn connection(&mut self) -> End {
        let Some(engine) = self.engine() else {
            thread::sleep(RECONNECT_PAUSE);
            return End::Gone;
        };
        // Read before the connection is made and again after: then it belongs to this life and to no other.
        let life = self.stage.life(engine);
        let dialect = Dialect {
            structured: self.structured,
            timeout: TIMEOUT,
        };
        let connected = Nbd::connect_as(&self.stage.gateways[engine], &self.volume().name, dialect);
        let Some(nbd) = connected.ok().filter(|_| self.stage.life(engine) == life) else {
            thread::sleep(RECONNECT_PAUSE);
            return End::Gone;
        };
        self.volume().recorder.tally.connections.fetch_add(1, Ordering::Relaxed);
        self.dropped = self.volume().drops();
        let mut session = Session {
            nbd,
            engine,
            life,
            flights: BTreeMap::new(),
            has_held: false,
            next_send: Instant::now(),
            next_trickle: Instant::now(),
        };
        let end = self.serve(&mut session);
        match end {
            End::Left => {
                // The server ends the connection in any case.
                let _ = session.nbd.disconnect();
                end
            }
            End::Gone => match self.bury(session) {
                Ok(()) => end,
                Err(violated) => violated.into(),
            },
            End::Violated => end,
        }
    }

    /// Sends and receives until the connection is over.
    fn serve(&mut self, session: &mut Session) -> End {
        loop {
            let is_leaving = self.stage.is_draining();
            if is_leaving && session.flights.is_empty() {
                return End::Left;
            }
            let is_unwanted = self.engine() != Some(session.engine) || self.volume().drops() != self.dropped;
            let oldest = session.flights.values().map(|flight| flight.sent).min();
            if is_unwanted || oldest.is_some_and(|sent| sent.elapsed() > PATIENCE) {
                return End::Gone;
            }
            while !is_leaving && session.may_send() {
                let pause = Duration::from_micros(self.rng.below(PAUSE_US_MAX));
                session.next_send = Instant::now() + pause;
                session.next_trickle = Instant::now() + TRICKLE;
                match self.send(session) {
                    Ok(true) => {}
                    Ok(false) => return End::Gone,
                    Err(violated) => return violated.into(),
                }
            }
            let wait = session.next_send.saturating_duration_since(Instant::now()).min(GLANCE);
            let wait = if session.flights.len() < DEPTH { wait } else { GLANCE };
            match session.nbd.receive_within(wait.max(Duration::from_millis(1))) {
                Ok(None) => {}
                Ok(Some(reply)) => match self.take(session, &reply) {
                    Ok(true) => {}
                    Ok(false) => return End::Gone,
                    Err(violated) => return violated.into(),
                },
                Err(_) => return End::Gone,
            }
        }
    }

    /// The connection is gone, and with it the answers to what was in flight.
    fn bury(&self, session: Session) -> Result<(), Violated> {
        let recorder = &self.volume().recorder;
        let now = self.stage.now();
        // Dropped first: nothing of it is sent any more when the history learns of its end.
        drop(session.nbd);
        let is_process_dead = self.stage.life(session.engine) != session.life;
        for flight in session.flights.into_values() {
            recorder.tally.lost.fetch_add(1, Ordering::Relaxed);
            let Some(op) = flight.op else { continue };
            recorder.with(|history| {
                if flight.is_write {
                    history.lost(now, op, session.has_held || is_process_dead);
                } else {
                    history.forget_read(op);
                }
            })?;
        }
        Ok(())
    }

    /// A number for all connections through one process of an engine.
    fn number(session: &Session) -> u64 {
        (session.engine as u64 + 1) * 100_000 + session.life
    }

    /// Sends one request. Says whether the connection still stands.
    fn send(&mut self, session: &mut Session) -> Result<bool, Violated> {
        let request = self.draw();
        let volume = &self.stage.volumes[self.volume];
        let now = self.stage.now();
        let number = Self::number(session);
        let (sectors, kind) = (request.sectors, request.kind);
        let count = sectors.end - sectors.start;
        let begun = volume.recorder.with(|history| match kind {
            Drawn::Flush => Some((None, 0)),
            Drawn::Read => Some((Some(history.begin_read(now, sectors.clone())), 0)),
            // Two writes of one sector at a time would leave their order open.
            _ if history.is_being_written(&sectors) => None,
            Drawn::Write { .. } => {
                let stamp = history.stamps(count);
                Some((Some(history.begin_write(now, number, sectors.clone(), stamp)), stamp))
            }
            Drawn::Trim | Drawn::Zero => Some((Some(history.begin_write(now, number, sectors.clone(), 0)), 0)),
        })?;
        let Some((op, stamp)) = begun else { return Ok(true) };
        let payload: Vec<u8> = match kind {
            Drawn::Write { .. } => (stamp..)
                .zip(sectors.clone())
                .flat_map(|(stamp, place)| content::sector(stamp, place))
                .collect(),
            _ => Vec::new(),
        };
        let (command, flags) = kind.command();
        let length = u32::try_from(count * SECTOR_BYTES).unwrap_or(0);
        let offset = sectors.start * SECTOR_BYTES;
        let flight = Flight {
            op,
            is_write: kind.is_write(),
            needs_hold: matches!(kind, Drawn::Write { .. } | Drawn::Zero),
            sectors,
            sent: Instant::now(),
        };
        let sent = session.nbd.send(command, flags, offset, length, &payload);
        // A request that was sent in part is buried like one that was sent whole.
        let cookie = sent.as_ref().copied().unwrap_or(u64::MAX);
        session.flights.insert(cookie, flight);
        Ok(sent.is_ok())
    }

    /// Takes an answer. Says whether the connection is of any more use.
    fn take(&mut self, session: &mut Session, reply: &Reply) -> Result<bool, Violated> {
        let recorder = &self.stage.volumes[self.volume].recorder;
        let Some(flight) = session.flights.remove(&reply.cookie) else {
            return Err(recorder.violated(format!("a reply to no request: cookie {}", reply.cookie)));
        };
        let now = self.stage.now();
        recorder.note_wait(u64::try_from(flight.sent.elapsed().as_nanos()).unwrap_or(u64::MAX));
        let Some(op) = flight.op else { return Ok(true) };
        let number = Self::number(session);
        match (flight.is_write, reply.error) {
            (true, 0) => {
                recorder.with(|history| history.acknowledge(now, op))?;
                recorder.note_acknowledged(now);
                if flight.needs_hold {
                    session.has_held = true;
                    self.stage.volumes[self.volume].hold_by(session.engine);
                }
            }
            (false, 0) => {
                recorder.with(|history| {
                    let values: Vec<u64> = flight
                        .sectors
                        .clone()
                        .zip(reply.data.chunks(SECTOR))
                        .map(|(place, sector)| content::check(sector, place))
                        .collect();
                    history.end_read(now, op, number, &values);
                })?;
                recorder.tally.reads.fetch_add(1, Ordering::Relaxed);
            }
            (true, error) => return self.refused(session, &flight, op, error),
            (false, wire::ESHUTDOWN) => {
                recorder.with(|history| history.forget_read(op))?;
                return Ok(false);
            }
            (false, wire::EIO) if self.stage.has_rot.load(Ordering::SeqCst) => {
                recorder.tally.unreadable.fetch_add(1, Ordering::Relaxed);
                recorder.with(|history| history.forget_read(op))?;
            }
            (false, error) => {
                let what = format!("a read of sectors {:?} failed with error {error}", flight.sectors);
                return Err(recorder.violated(what));
            }
        }
        Ok(true)
    }

    /// A write was refused: it may have landed before, in part or whole, and will not later.
    fn refused(&self, session: &mut Session, flight: &Flight, op: OpId, error: u32) -> Result<bool, Violated> {
        let recorder = &self.volume().recorder;
        // A write of part of a block reads the rest first.
        let is_unreadable = error == wire::EIO && self.stage.has_rot.load(Ordering::SeqCst);
        if !is_unreadable && ![wire::EPERM, wire::ENOSPC, wire::ESHUTDOWN].contains(&error) {
            let what = format!("a write of sectors {:?} failed with error {error}", flight.sectors);
            return Err(recorder.violated(what));
        }
        recorder.tally.refused.fetch_add(1, Ordering::Relaxed);
        let now = self.stage.now();
        recorder.with(|history| history.fail(now, op))?;
        session.next_send = Instant::now() + BUSY_PAUSE;
        // Fenced for good, or the engine is about to end: another connection may do better.
        Ok(error != wire::ESHUTDOWN)
    }

    fn draw(&mut self) -> Request {
        let is_hot = self.rng.chance(HOT_PERCENT);
        let blocks = if is_hot { HOT_BLOCKS } else { self.volume().blocks };
        let sizes = [1, 1, 1, 2, 4, if is_hot { 1 } else { BLOCKS_MAX }];
        let largest = sizes[self.rng.pick(sizes.len())];
        let count = self.rng.between(1, largest).min(blocks);
        let first = self.rng.below(blocks - count + 1);
        let aligned = first * BLOCK_SECTORS..(first + count) * BLOCK_SECTORS;
        let dice = self.rng.below(100);
        let fua = self.rng.chance(10);
        let (sectors, kind) = match (self.role, dice) {
            (Role::Writer, 0..45) => (aligned, Drawn::Write { fua }),
            (Role::Writer, 45..58) => (self.shave(aligned), Drawn::Write { fua }),
            (Role::Writer, 58..61) => (aligned, Drawn::Trim),
            (Role::Writer, 61..65) => (aligned, Drawn::Zero),
            (Role::Writer, 65..66) => (0..0, Drawn::Flush),
            _ => (aligned, Drawn::Read),
        };
        Request { sectors, kind }
    }

    /// Takes a few sectors off both ends, leaving at least one.
    fn shave(&mut self, sectors: Range<u64>) -> Range<u64> {
        let start = sectors.start + self.rng.below(BLOCK_SECTORS);
        let end = sectors.end - self.rng.below(BLOCK_SECTORS);
        if start < end {
            start..end
        } else {
            sectors.start..sectors.start + 1
        }
    }
}

struct Request {
    sectors: Range<u64>,
    kind: Drawn,
}

#[derive(Clone, Copy)]
enum Drawn {
    Read,
    Write { fua: bool },
    Trim,
    Zero,
    Flush,
}

impl Drawn {
    fn is_write(self) -> bool {
        matches!(self, Self::Write { .. } | Self::Trim | Self::Zero)
    }

    fn command(self) -> (Command, u16) {
        match self {
            Self::Read => (Command::Read, 0),
            Self::Write { fua: true } => (Command::Write, wire::FLAG_FUA),
            Self::Write { fua: false } => (Command::Write, 0),
            Self::Trim => (Command::Trim, 0),
            Self::Zero => (Command::WriteZeroes, 0),
            Self::Flush => (Command::Flush, 0),
        }
    }
}
