//! Engines' namespaces, joined by a bridge in one more, where the clients are; and the faults between them.
//!
//! Packets are lost by nftables where they arrive, and wait in a token bucket of `tc` where they leave. Nothing of this
//! touches the machine's own network.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context, Result};

use super::namespace::Namespace;
use super::weather::{Clog, End, Weather};
use crate::command::{Tool, system};

/// The clients' address. Private namespaces cannot clash with anybody's addresses.
const CLIENTS: [u8; 4] = [10, 77, 0, 1];
/// The first engine's address ends in this.
const FIRST_ENGINE: u8 = 11;

/// See the module.
#[derive(Debug)]
pub struct Fabric {
    hub: Namespace,
    engines: Vec<Namespace>,
    /// What was last asked for, so that only what changes is touched.
    weather: Mutex<Weather>,
}

impl Fabric {
    /// A network for so many engines, in fair weather. Fails, saying why, where namespaces, bridges, nftables or the token
    /// bucket cannot be used.
    pub fn new(engines: usize) -> Result<Self> {
        let fabric = Self {
            hub: Namespace::new()?,
            engines: (0..engines).map(|_| Namespace::new()).collect::<Result<_>>()?,
            weather: Mutex::default(),
        };
        let ip = |words: &[&str]| fabric.hub.tool(system("ip")).args(words).ok();
        ip(&["link", "set", "lo", "up"])?;
        ip(&["link", "add", "bridge", "type", "bridge"]).context("this system makes no bridges")?;
        ip(&[
            "address",
            "add",
            &format!("{}/24", Ipv4Addr::from(CLIENTS)),
            "dev",
            "bridge",
        ])?;
        ip(&["link", "set", "bridge", "up"])?;
        for index in 0..engines {
            fabric.plug_in(index)?;
        }
        fabric.rehearse()?;
        Ok(fabric)
    }

    fn plug_in(&self, index: usize) -> Result<()> {
        let port = format!("port{index}");
        let there = self.namespace(index).display().to_string();
        let hub = |words: &[&str]| self.hub.tool(system("ip")).args(words).ok();
        hub(&[
            "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &there,
        ])
        .context("this system makes no veth pairs")?;
        hub(&["link", "set", &port, "master", "bridge"])?;
        hub(&["link", "set", &port, "up"])?;
        let engine = |words: &[&str]| self.engines[index].tool(system("ip")).args(words).ok();
        engine(&["link", "set", "lo", "up"])?;
        engine(&["address", "add", &format!("{}/24", self.address(index)), "dev", "eth0"])?;
        engine(&["link", "set", "eth0", "up"])?;
        Ok(())
    }

    /// Tries every kind of fault once, so that a system that lacks one is told before anything depends on it.
    fn rehearse(&self) -> Result<()> {
        let mut storm = Weather::default();
        storm.cut(End::Engine(0), End::Clients);
        storm.lose(End::Clients, End::Engine(0), 50);
        storm.clogged.insert(
            0,
            Clog {
                rate_kbit: 1000,
                wait_ms: 100,
            },
        );
        self.set(&storm)?;
        self.set(&Weather::default())
    }

    /// An engine's address.
    pub fn address(&self, engine: usize) -> IpAddr {
        let [a, b, c, _] = CLIENTS;
        let last = u8::try_from(engine).unwrap_or(u8::MAX).saturating_add(FIRST_ENGINE);
        IpAddr::V4(Ipv4Addr::new(a, b, c, last))
    }

    /// The path of an engine's namespace.
    pub fn namespace(&self, engine: usize) -> PathBuf {
        self.engines[engine].path()
    }

    /// Moves the calling thread to where the clients are.
    pub fn enter(&self) -> Result<()> {
        self.hub.enter()
    }

    /// Makes the network as bad as this, no better and no worse.
    pub fn set(&self, weather: &Weather) -> Result<()> {
        let mut present = self.weather.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let address_of = |end: End| match end {
            End::Engine(index) => self.address(index).to_string(),
            End::Clients => Ipv4Addr::from(CLIENTS).to_string(),
        };
        let ends = (0..self.engines.len()).map(End::Engine).chain([End::Clients]);
        for end in ends {
            let rules = weather.rules(end, address_of);
            if rules != present.rules(end, address_of) {
                self.tool_at(end, "nft")
                    .arg(&rules)
                    .ok()
                    .context("nftables cannot be used")?;
            }
        }
        for engine in 0..self.engines.len() {
            let (before, now) = (present.clogged.get(&engine), weather.clogged.get(&engine));
            if before != now {
                self.clog(engine, before.is_some(), now)?;
            }
        }
        present.clone_from(weather);
        Ok(())
    }

    fn tool_at(&self, end: End, program: &str) -> Tool {
        let namespace = match end {
            End::Engine(index) => &self.engines[index],
            End::Clients => &self.hub,
        };
        namespace.tool(system(program))
    }

    fn clog(&self, engine: usize, was_clogged: bool, clog: Option<&Clog>) -> Result<()> {
        let tc = |words: &[&str]| {
            self.tool_at(End::Engine(engine), "tc")
                .args(["qdisc"])
                .args(words)
                .ok()
                .context("the token bucket of tc (tbf) cannot be used")
        };
        if was_clogged {
            tc(&["del", "dev", "eth0", "root"])?;
        }
        if let Some(clog) = clog {
            let (rate, wait) = (format!("{}kbit", clog.rate_kbit), format!("{}ms", clog.wait_ms));
            // Room for one packet that the sender has not cut up yet; without it nothing would pass at all.
            tc(&[
                "add", "dev", "eth0", "root", "tbf", "rate", &rate, "burst", "70kb", "latency", &wait,
            ])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;
    use std::time::Duration;

    use super::*;

    const PORT: u16 = 7000;
    const SHORT: Duration = Duration::from_millis(300);

    fn reaches(fabric: &Fabric, engine: usize) -> bool {
        let address = (fabric.address(engine), PORT).into();
        TcpStream::connect_timeout(&address, SHORT).is_ok()
    }

    #[test]
    fn a_cut_way_is_cut_and_heals() {
        // A machine that has no namespaces says so in the suites that need them; here there would be nothing to try.
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let fabric = Fabric::new(2).unwrap();
        thread::scope(|scope| {
            let work = scope.spawn(|| {
                for engine in 0..2 {
                    let (ready, waiting) = std::sync::mpsc::channel();
                    let fabric = &fabric;
                    scope.spawn(move || {
                        fabric.engines[engine].enter().unwrap();
                        let listener = TcpListener::bind((fabric.address(engine), PORT)).unwrap();
                        ready.send(()).unwrap();
                        while let Ok((mut stream, _)) = listener.accept() {
                            let mut byte = [0];
                            if stream.read(&mut byte).unwrap_or(0) == 1 && byte[0] == b'q' {
                                return;
                            }
                        }
                    });
                    waiting.recv().unwrap();
                }
                fabric.enter().unwrap();
                assert!(reaches(&fabric, 0) && reaches(&fabric, 1));
                let mut weather = Weather::default();
                weather.cut(End::Engine(1), End::Clients);
                fabric.set(&weather).unwrap();
                assert!(reaches(&fabric, 0) && !reaches(&fabric, 1));
                fabric.set(&Weather::default()).unwrap();
                for engine in 0..2 {
                    let mut stream = TcpStream::connect((fabric.address(engine), PORT)).unwrap();
                    stream.write_all(b"q").unwrap();
                }
            });
            work.join().unwrap();
        });
    }
}
