//! Clients that read and write a volume at random through several gateways, and check all they are told.

use std::ops::Range;

use bytes::Bytes;
use cairn_api::block::{BlockError, BlockOp, BlockReply, Tag};
use cairn_core::event::{DeviceId, GroupSpec};

use super::cluster::{Cluster, read_bytes};
use cairn_history::content;
use cairn_history::content::SECTOR;
use cairn_history::register::{History, OpId, Writer};
use cairn_history::rng::Rng;

const BLOCK_SECTORS: u64 = 8;

/// What share of requests is of which kind, in percent; the rest reads.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    pub write: u64,
    pub unaligned: u64,
    pub trim: u64,
    pub zero: u64,
    pub flush: u64,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            write: 40,
            unaligned: 12,
            trim: 3,
            zero: 4,
            flush: 1,
        }
    }
}

enum Kind {
    Read(OpId),
    Write(OpId),
    Flush,
}

struct Request {
    tag: Tag,
    kind: Kind,
    sectors: Range<u64>,
    stamp: u64,
    began: u64,
}

pub struct Client {
    pub number: u64,
    pub node: usize,
    pub device: DeviceId,
    life: u64,
    requests: Vec<Request>,
    /// Refused: it writes no more until it is opened again.
    pub refused: Option<BlockError>,
    pub depth: usize,
    pub may_write: bool,
    /// It asks for nothing before.
    pub next_at: u64,
}

impl Client {
    const fn writer(&self) -> Writer {
        Writer {
            client: self.number,
            process: process_of(self.node, self.life),
            is_device: true,
        }
    }

    /// Requests under way.
    pub fn under_way(&self) -> usize {
        self.requests.len()
    }

    /// Requests under way, in words.
    pub fn describe(&self) -> Vec<String> {
        let describe = |request: &Request| {
            format!(
                "client {} on node {}: {:?} of {:?} since {}",
                self.number, self.node, request.tag, request.sectors, request.began
            )
        };
        self.requests.iter().map(describe).collect()
    }
}

/// One life of one node's process.
const fn process_of(node: usize, life: u64) -> u64 {
    (node as u64) << 32 | life
}

pub struct Workload {
    pub spec: GroupSpec,
    pub clients: Vec<Client>,
    pub history: History,
    pub mix: Mix,
    /// Requests fall into the first so many blocks.
    pub window_blocks: u64,
    pub blocks_max: u64,
    /// Half of the requests fall into the first so many blocks, so that clients meet; 0 for none.
    pub hot_blocks: u64,
    /// What the disks can have lost or refuse to read is damage that was put there: an I/O error is no violation.
    pub tolerates_io_errors: bool,
    /// Disks that have acknowledged a write and not made it: their copies do not count, and nobody could know.
    pub liars: usize,
    rng: Rng,
    clients_last: u64,
    pub finished: u64,
    /// When the last write was acknowledged.
    pub last_acknowledged: u64,
    /// Requests that ended with an error that the faults explain.
    pub refusals: u64,
}

impl Workload {
    pub fn new(spec: GroupSpec, seed: u64) -> Self {
        let window_blocks = spec.size_blocks;
        Self {
            spec,
            clients: Vec::new(),
            history: History::default(),
            mix: Mix::default(),
            window_blocks,
            blocks_max: 24,
            hot_blocks: 0,
            tolerates_io_errors: false,
            liars: 0,
            rng: Rng::new(seed ^ 0x574F_524B),
            clients_last: 0,
            finished: 0,
            last_acknowledged: 0,
            refusals: 0,
        }
    }

    /// Clients whose stamps start after `stamp`.
    pub fn with_stamps_after(spec: GroupSpec, seed: u64, stamp: u64) -> Self {
        Self {
            history: History::with_stamps_after(stamp),
            ..Self::new(spec, seed)
        }
    }

    /// Opens the volume on a node.
    pub fn open(&mut self, cluster: &mut Cluster, node: usize) {
        self.clients_last += 1;
        let device = cluster.open_sized(node, &self.spec.clone(), self.window_blocks);
        self.clients.push(Client {
            number: self.clients_last,
            node,
            device,
            life: cluster.nodes[node].life,
            requests: Vec::new(),
            refused: None,
            depth: 4,
            may_write: true,
            next_at: cluster.now,
        });
    }

    /// Closes the device of a client; what it has under way may still land.
    pub fn close(&mut self, cluster: &mut Cluster, index: usize) {
        let client = self.clients.remove(index);
        if cluster.nodes[client.node].life == client.life {
            cluster.close(client.node, client.device);
        }
        self.forget_reads(&client);
        self.history.left(cluster.now, client.number);
    }

    fn forget_reads(&mut self, client: &Client) {
        for request in &client.requests {
            if let Kind::Read(op) = request.kind {
                self.history.forget_read(op);
            }
        }
    }

    /// A node's process is gone, with all its clients.
    pub fn node_died(&mut self, now: u64, node: usize, life: u64) {
        let is_dead = |client: &Client| client.node == node && client.life == life;
        let (dead, alive): (Vec<Client>, Vec<Client>) =
            std::mem::take(&mut self.clients).into_iter().partition(is_dead);
        self.clients = alive;
        dead.iter().for_each(|client| self.forget_reads(client));
        self.history.died(now, process_of(node, life));
    }

    /// Clients of nodes that have crashed are gone.
    pub fn bury_dead(&mut self, cluster: &Cluster) {
        let is_dead = |client: &&Client| {
            let node = &cluster.nodes[client.node];
            node.life != client.life || !node.is_running()
        };
        let dead: Vec<(usize, u64)> = self
            .clients
            .iter()
            .filter(is_dead)
            .map(|client| (client.node, client.life))
            .collect();
        for (node, life) in dead {
            self.node_died(cluster.now, node, life);
        }
    }

    /// Lets the clients work for so long.
    pub fn run(&mut self, cluster: &mut Cluster, nanos: u64) {
        let end = cluster.now + nanos;
        while cluster.now < end {
            self.turn(cluster, true);
            let pause = self.rng.between(500_000, 6_000_000).min(end - cluster.now);
            cluster.run(std::time::Duration::from_nanos(pause));
        }
        self.turn(cluster, false);
    }

    /// Waits until nothing is under way. Panics if something still is after `nanos`.
    pub fn drain(&mut self, cluster: &mut Cluster, nanos: u64) {
        let end = cluster.now + nanos;
        loop {
            self.turn(cluster, false);
            if self.clients.iter().all(|client| client.requests.is_empty()) {
                return;
            }
            if cluster.now > end {
                let stuck: Vec<String> = self.clients.iter().flat_map(Client::describe).collect();
                panic!("[stuck] no reply within {nanos} ns to {stuck:#?}");
            }
            cluster.run(std::time::Duration::from_millis(2));
        }
    }

    fn turn(&mut self, cluster: &mut Cluster, submit: bool) {
        self.bury_dead(cluster);
        for index in 0..self.clients.len() {
            self.collect(cluster, index);
            while submit && self.clients[index].requests.len() < self.clients[index].depth {
                if !self.submit_one(cluster, index) {
                    break;
                }
            }
        }
    }

    /// A reply has come for somebody: if it is for one of these clients, takes it.
    pub fn on_reply(&mut self, cluster: &mut Cluster, node: usize, device: DeviceId, tag: Tag) {
        let is_asker = |client: &Client| client.node == node && client.device == device;
        let Some(index) = self.clients.iter().position(is_asker) else {
            return;
        };
        let Some(place) = self.clients[index]
            .requests
            .iter()
            .position(|request| request.tag == tag)
        else {
            return;
        };
        if let Some(result) = cluster.take_reply(node, device, tag) {
            let request = self.clients[index].requests.remove(place);
            self.finish(cluster, index, request, result);
        }
    }

    fn collect(&mut self, cluster: &mut Cluster, index: usize) {
        let (node, device) = (self.clients[index].node, self.clients[index].device);
        let mut still = Vec::new();
        for request in std::mem::take(&mut self.clients[index].requests) {
            match cluster.take_reply(node, device, request.tag) {
                None => still.push(request),
                Some(result) => self.finish(cluster, index, request, result),
            }
        }
        self.clients[index].requests = still;
    }

    fn finish(&mut self, cluster: &Cluster, index: usize, request: Request, result: Result<BlockReply, BlockError>) {
        let now = cluster.now;
        let number = self.clients[index].number;
        self.finished += 1;
        match (request.kind, result) {
            (Kind::Read(op), reply @ Ok(_)) => {
                let bytes = read_bytes(reply);
                let values: Vec<u64> = request
                    .sectors
                    .zip(bytes.chunks(SECTOR))
                    .map(|(place, sector)| content::check(sector, place))
                    .collect();
                self.history.end_read(now, op, number, &values);
            }
            (Kind::Write(op), Ok(BlockReply::Done)) => {
                self.check_durable(cluster, &request.sectors, request.stamp);
                self.last_acknowledged = now;
                self.history.acknowledge(now, op);
            }
            (Kind::Flush, Ok(BlockReply::Done)) => {}
            (Kind::Write(op), Err(error)) => {
                let expected = matches!(
                    error,
                    BlockError::Fenced { .. } | BlockError::Busy { .. } | BlockError::NoSpace
                ) || (self.tolerates_io_errors && matches!(error, BlockError::Io(_)));
                self.refusals += 1;
                assert!(
                    expected,
                    "[error] client {number}: a write of {:?} failed: {error}",
                    request.sectors
                );
                self.history.fail(now, op);
                if error != BlockError::NoSpace {
                    self.clients[index].refused = Some(error);
                }
            }
            (Kind::Read(op), Err(BlockError::Io(_))) if self.tolerates_io_errors => {
                self.refusals += 1;
                self.history.forget_read(op);
            }
            (_, other) => panic!("[error] client {number}: {:?} ended with {other:?}", request.sectors),
        }
    }

    /// An acknowledged write is on the media of a majority.
    fn check_durable(&self, cluster: &Cluster, sectors: &Range<u64>, stamp: u64) {
        if stamp == 0 {
            return;
        }
        let needed = (self.spec.members.len() / 2 + 1).saturating_sub(self.liars);
        for value in [stamp, stamp + (sectors.end - sectors.start) - 1] {
            let copies = cluster.durable_copies(value);
            assert!(
                copies >= needed,
                "[durable] the sector with stamp {value} was acknowledged with {copies} durable copies"
            );
        }
    }

    /// Lets a client ask for one thing more; false if what was drawn is being written already.
    pub fn submit_one(&mut self, cluster: &mut Cluster, index: usize) -> bool {
        let mix = self.mix;
        let dice = self.rng.below(100);
        let writes = self.clients[index].may_write && self.clients[index].refused.is_none();
        let sizes = [1, 1, 1, 2, 4, self.blocks_max];
        let blocks = self
            .rng
            .between(1, sizes[self.rng.clone().pick(sizes.len())])
            .min(self.window_blocks);
        let window = if self.hot_blocks > 0 && self.rng.chance(50) {
            self.hot_blocks.clamp(blocks, self.window_blocks)
        } else {
            self.window_blocks
        };
        let first = self.rng.below(window - blocks + 1);
        let aligned = first * BLOCK_SECTORS..(first + blocks) * BLOCK_SECTORS;
        let (write, unaligned) = (mix.write, mix.write + mix.unaligned);
        let (trim, zero) = (unaligned + mix.trim, unaligned + mix.trim + mix.zero);
        if !writes || dice >= zero + mix.flush {
            self.submit_read(cluster, index, aligned);
            return true;
        }
        if dice >= zero {
            self.submit(cluster, index, BlockOp::Flush, Kind::Flush, 0..0, 0);
            return true;
        }
        let sectors = if dice >= write && dice < unaligned {
            self.shave(aligned)
        } else {
            aligned
        };
        let process = self.clients[index].writer().process;
        if self.history.is_being_written_by(process, &sectors) {
            return false;
        }
        let (offset, length) = (
            sectors.start * SECTOR as u64,
            (sectors.end - sectors.start) * SECTOR as u64,
        );
        let writer = self.clients[index].writer();
        if dice < unaligned {
            self.submit_write(cluster, index, sectors);
        } else {
            let op = self.history.begin_write(cluster.now, writer, sectors.clone(), 0);
            let request = if dice < trim {
                BlockOp::Trim { offset, length }
            } else {
                BlockOp::WriteZeroes {
                    offset,
                    length,
                    no_hole: self.rng.chance(50),
                }
            };
            self.submit(cluster, index, request, Kind::Write(op), sectors, 0);
        }
        true
    }

    /// Lets the last client write a block and read another: a volume that does both serves.
    pub fn submit_probe(&mut self, cluster: &mut Cluster) {
        let Some(index) = self.clients.len().checked_sub(1) else {
            return;
        };
        let writable = (0..self.window_blocks).find(|block| {
            let sectors = block * BLOCK_SECTORS..(block + 1) * BLOCK_SECTORS;
            !self
                .history
                .is_being_written_by(self.clients[index].writer().process, &sectors)
        });
        if let Some(block) = writable {
            self.submit_write(cluster, index, block * BLOCK_SECTORS..(block + 1) * BLOCK_SECTORS);
        }
        let last = self.window_blocks - 1;
        self.submit_read(cluster, index, last * BLOCK_SECTORS..(last + 1) * BLOCK_SECTORS);
    }

    fn submit_write(&mut self, cluster: &mut Cluster, index: usize, sectors: Range<u64>) {
        let length = (sectors.end - sectors.start) * SECTOR as u64;
        let stamp = self.history.stamps(sectors.end - sectors.start);
        let mut data = Vec::with_capacity(usize::try_from(length).unwrap());
        for (stamp, place) in (stamp..).zip(sectors.clone()) {
            data.extend_from_slice(&content::sector(stamp, place));
        }
        // The two that are looked for when it is acknowledged.
        cluster.expect_sector(self.spec.group, sectors.start, stamp);
        cluster.expect_sector(
            self.spec.group,
            sectors.end - 1,
            stamp + (sectors.end - sectors.start) - 1,
        );
        let writer = self.clients[index].writer();
        let op = self.history.begin_write(cluster.now, writer, sectors.clone(), stamp);
        let request = BlockOp::Write {
            offset: sectors.start * SECTOR as u64,
            data: Bytes::from(data),
        };
        self.submit(cluster, index, request, Kind::Write(op), sectors, stamp);
    }

    fn submit_read(&mut self, cluster: &mut Cluster, index: usize, sectors: Range<u64>) {
        let op = self.history.begin_read(cluster.now, sectors.clone());
        let length = u32::try_from((sectors.end - sectors.start) * SECTOR as u64).unwrap();
        let request = BlockOp::Read {
            offset: sectors.start * SECTOR as u64,
            length,
        };
        self.submit(cluster, index, request, Kind::Read(op), sectors, 0);
    }

    fn submit(
        &mut self,
        cluster: &mut Cluster,
        index: usize,
        op: BlockOp,
        kind: Kind,
        sectors: Range<u64>,
        stamp: u64,
    ) {
        let client = &mut self.clients[index];
        let tag = cluster.submit(client.node, client.device, op);
        client.requests.push(Request {
            tag,
            kind,
            sectors,
            stamp,
            began: cluster.now,
        });
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

    /// Reads the whole window through a client and checks it.
    pub fn verify_all(&mut self, cluster: &mut Cluster, index: usize) {
        let step = 64;
        let mut first = 0;
        while first < self.window_blocks {
            let end = (first + step).min(self.window_blocks);
            self.submit_read(cluster, index, first * BLOCK_SECTORS..end * BLOCK_SECTORS);
            self.drain(cluster, 60_000_000_000);
            first = end;
        }
    }
}
