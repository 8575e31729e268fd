//! The client: negotiation, requests in flight, replies by cookie.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::reply::{self, Asked, Reply};
use super::stream::{Address, Stream};
use super::wire;

/// The longest option reply that the client takes; a longer one is not from a sane server.
const OPTION_REPLY_MAX: u32 = 64 << 10;
/// How long a reply may take. Longer than any failover, so that a stall is measured and not cut short.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// Buffered bytes of the receiving side: many small replies to one system call.
const BUFFER_BYTES: usize = 128 << 10;

/// What a request asks for; the numbers are the protocol's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Command {
    /// Data out.
    Read = 0,
    /// Data in.
    Write = 1,
    /// Goodbye.
    Disconnect = 2,
    /// Durability of all that was answered.
    Flush = 3,
    /// Data no longer needed.
    Trim = 4,
    /// Zeros in.
    WriteZeroes = 6,
}

/// How a client speaks to the server.
#[derive(Debug, Clone, Copy)]
pub struct Dialect {
    /// Whether it asks for structured replies.
    pub structured: bool,
    /// How long connecting, and each wait for bytes, may take.
    pub timeout: Duration,
}

impl Default for Dialect {
    fn default() -> Self {
        Self {
            structured: false,
            timeout: REPLY_TIMEOUT,
        }
    }
}

/// A connection in the transmission phase.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<Stream>,
    /// The export's size in bytes.
    pub size: u64,
    /// The export's transmission flags.
    pub flags: u16,
    /// Minimum, preferred and maximum block size, if the server told them.
    pub block_sizes: Option<(u32, u32, u32)>,
    next_cookie: u64,
    /// What each read that has no reply yet asked for.
    reads: BTreeMap<u64, Asked>,
    /// Structured replies of which more chunks are to come.
    partial: BTreeMap<u64, Reply>,
}

impl Client {
    /// Connects and goes to the export's transmission phase.
    pub fn connect(address: &Address, export: &str) -> Result<Self> {
        Self::connect_as(address, export, Dialect::default())
    }

    /// [`Self::connect`] in a dialect of one's own.
    pub fn connect_as(address: &Address, export: &str, dialect: Dialect) -> Result<Self> {
        let stream =
            Stream::connect(address, dialect.timeout).with_context(|| format!("cannot connect to {address}"))?;
        let stream = BufReader::with_capacity(BUFFER_BYTES, stream);
        let mut client = Self {
            stream,
            size: 0,
            flags: 0,
            block_sizes: None,
            next_cookie: 1,
            reads: BTreeMap::new(),
            partial: BTreeMap::new(),
        };
        client
            .negotiate(export, dialect.structured)
            .with_context(|| format!("export {export} at {address}"))?;
        Ok(client)
    }

    fn negotiate(&mut self, export: &str, structured: bool) -> Result<()> {
        ensure!(self.read_u64()? == wire::INIT_MAGIC, "the server does not speak NBD");
        ensure!(
            self.read_u64()? == wire::OPTION_MAGIC,
            "the server does not speak newstyle NBD"
        );
        let server_flags = self.read_u16()?;
        ensure!(
            server_flags & 0b11 == 0b11,
            "the server lacks fixed newstyle or no-zeroes: {server_flags:#x}"
        );
        self.send_raw(&wire::CLIENT_FLAGS.to_be_bytes())?;
        if structured {
            self.send_option(wire::OPT_STRUCTURED_REPLY, &[])?;
            let (kind, body) = self.option_reply()?;
            ensure!(
                kind == wire::REP_ACK,
                "the server refused structured replies with {kind:#x}: {}",
                String::from_utf8_lossy(&body)
            );
        }

        let name_length = u32::try_from(export.len())?;
        let mut body = Vec::new();
        body.extend(name_length.to_be_bytes());
        body.extend(export.as_bytes());
        body.extend(1u16.to_be_bytes());
        body.extend(wire::INFO_BLOCK_SIZE.to_be_bytes());
        self.send_option(wire::OPT_GO, &body)?;
        loop {
            let (kind, body) = self.option_reply()?;
            match kind {
                wire::REP_ACK => return Ok(()),
                wire::REP_INFO => self.take_info(&body)?,
                kind if kind & wire::REP_ERROR_BIT != 0 => {
                    bail!("the server refused with {kind:#x}: {}", String::from_utf8_lossy(&body))
                }
                kind => bail!("unexpected option reply {kind:#x}"),
            }
        }
    }

    /// Sends one option of the negotiation.
    pub fn send_option(&mut self, option: u32, body: &[u8]) -> Result<()> {
        let mut message = wire::OPTION_MAGIC.to_be_bytes().to_vec();
        message.extend(option.to_be_bytes());
        message.extend(u32::try_from(body.len())?.to_be_bytes());
        message.extend(body);
        self.send_raw(&message)
    }

    fn option_reply(&mut self) -> Result<(u32, Vec<u8>)> {
        ensure!(self.read_u64()? == wire::OPTION_REPLY_MAGIC, "not an option reply");
        self.read_u32().context("the option")?;
        let kind = self.read_u32()?;
        let length = self.read_u32()?;
        ensure!(length <= OPTION_REPLY_MAX, "an option reply of {length} bytes");
        let mut body = vec![0; usize::try_from(length)?];
        self.stream.read_exact(&mut body)?;
        Ok((kind, body))
    }

    fn take_info(&mut self, body: &[u8]) -> Result<()> {
        let field = |from: usize, length: usize| body.get(from..from + length).context("a short info reply");
        let number = |from: usize| -> Result<u32> { Ok(u32::from_be_bytes(field(from, 4)?.try_into()?)) };
        match u16::from_be_bytes(field(0, 2)?.try_into()?) {
            wire::INFO_EXPORT => {
                self.size = u64::from_be_bytes(field(2, 8)?.try_into()?);
                self.flags = u16::from_be_bytes(field(10, 2)?.try_into()?);
            }
            wire::INFO_BLOCK_SIZE => self.block_sizes = Some((number(2)?, number(6)?, number(10)?)),
            _ => {}
        }
        Ok(())
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.get_mut().write_all(bytes)?)
    }

    /// Sends a request and returns its cookie. `payload` is for writes.
    pub fn send(&mut self, command: Command, flags: u16, offset: u64, length: u32, payload: &[u8]) -> Result<u64> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        if command == Command::Read {
            self.reads.insert(
                cookie,
                Asked {
                    offset,
                    length: usize::try_from(length)?,
                },
            );
        }
        let mut message = Vec::with_capacity(wire::REQUEST_LEN + payload.len());
        message.extend(wire::request(flags, command as u16, cookie, offset, length));
        message.extend(payload);
        self.send_raw(&message)?;
        Ok(cookie)
    }

    /// Takes the next reply, whichever request it belongs to.
    pub fn receive(&mut self) -> Result<Reply> {
        loop {
            let (reply, is_done) = reply::take(&mut self.stream, &self.reads, &mut self.partial)?;
            if is_done {
                self.reads.remove(&reply.cookie);
                return Ok(reply);
            }
            self.partial.insert(reply.cookie, reply);
        }
    }

    /// [`Self::receive`], if a reply begins to come before `timeout` has passed.
    pub fn receive_within(&mut self, timeout: Duration) -> Result<Option<Reply>> {
        if self.stream.buffer().is_empty() && !self.stream.get_ref().is_readable_within(timeout)? {
            return Ok(None);
        }
        self.receive().map(Some)
    }

    /// Sends one request and waits for its reply; nothing else may be in flight.
    pub fn call(&mut self, command: Command, offset: u64, length: u32, payload: &[u8]) -> Result<Reply> {
        let cookie = self.send(command, 0, offset, length, payload)?;
        let reply = self.receive()?;
        ensure!(reply.cookie == cookie, "a reply to another request");
        Ok(reply)
    }

    /// Writes and waits.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let reply = self.call(Command::Write, offset, u32::try_from(data.len())?, data)?;
        ensure!(
            reply.error == 0,
            "write of {} bytes at {offset}: error {}",
            data.len(),
            reply.error
        );
        Ok(())
    }

    /// Reads and waits.
    pub fn read(&mut self, offset: u64, length: u32) -> Result<Vec<u8>> {
        let reply = self.call(Command::Read, offset, length, &[])?;
        ensure!(
            reply.error == 0,
            "read of {length} bytes at {offset}: error {}",
            reply.error
        );
        Ok(reply.data)
    }

    /// Says goodbye.
    pub fn disconnect(mut self) -> Result<()> {
        self.send(Command::Disconnect, 0, 0, 0, &[]).map(|_| ())
    }

    /// The connection itself, for breaking the rules.
    pub fn stream(&mut self) -> &mut Stream {
        self.stream.get_mut()
    }

    fn read_u16(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes(reply::array(&mut self.stream)?))
    }

    fn read_u32(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(reply::array(&mut self.stream)?))
    }

    fn read_u64(&mut self) -> Result<u64> {
        Ok(u64::from_be_bytes(reply::array(&mut self.stream)?))
    }
}
