//! The configuration file of an engine under test.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// TLS on the NBD port.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The server's certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Whether clients without TLS are refused.
    pub required: bool,
}

/// What an engine is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name.
    pub name: String,
    /// The address that it listens on.
    pub address: IpAddr,
    /// The network namespace that it runs in, as a path; that of this process if none. Not a setting of the engine.
    pub namespace: Option<PathBuf>,
    /// Where it keeps its catalogue.
    pub data_dir: PathBuf,
    /// The control API's port.
    pub control: u16,
    /// The peers' port.
    pub data: u16,
    /// What peers are told instead of its own address, for a relay in between.
    pub data_advertised: Option<SocketAddr>,
    /// The file of master keys, if encrypted volumes are used.
    pub master_keys: Option<PathBuf>,
    /// The NBD port.
    pub nbd: u16,
    /// The NBD unix socket.
    pub socket: PathBuf,
    /// The metrics' port.
    pub metrics: u16,
    /// Disks, each a file here.
    pub disks: Vec<PathBuf>,
    /// How fast clones become whole on each disk, if that is not to be the usual rate.
    pub flatten_rate: Option<&'static str>,
    /// Whether leadership follows the consumer. Off for a gateway that must outlive the leader.
    pub move_leadership: bool,
    /// TLS for NBD clients.
    pub tls: Option<Tls>,
}

impl Config {
    /// One of its ports on its address.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }

    /// The file's text.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "name = {:?}", self.name)?;
        writeln!(out, "data_dir = {:?}", self.data_dir)?;
        if !self.address.is_loopback() {
            writeln!(out, "allow_insecure_network = true")?;
        }
        for (section, port) in [
            ("control", self.control),
            ("data", self.data),
            ("metrics", self.metrics),
        ] {
            writeln!(out, "\n[{section}]\nlisten = \"{}\"", self.at(port))?;
            if let ("data", Some(told)) = (section, self.data_advertised) {
                writeln!(out, "advertise = \"{told}\"")?;
            }
        }
        writeln!(out, "\n[log]\nformat = \"human\"\nlevel = \"info\"\n")?;
        writeln!(
            out,
            "[nbd]\nlisten = \"{}\"\nsocket = {:?}",
            self.at(self.nbd),
            self.socket
        )?;
        if !self.move_leadership {
            writeln!(out, "move_leadership = false")?;
        }
        if let Some(tls) = &self.tls {
            writeln!(
                out,
                "\n[nbd.tls]\ncertificate = {:?}\nkey = {:?}",
                tls.certificate, tls.key
            )?;
            writeln!(out, "required = {}", tls.required)?;
        }
        if let Some(path) = &self.master_keys {
            writeln!(out, "\n[encryption.file]\npath = {path:?}")?;
        }
        for disk in &self.disks {
            writeln!(out, "\n[[disk]]\npath = {disk:?}")?;
            if let Some(rate) = self.flatten_rate {
                writeln!(out, "flatten_rate = {rate:?}")?;
            }
        }
        Ok(())
    }
}
