//! Servers on a TCP port of the loopback and on a unix socket, for clients that we did not write.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use cairn_api::block::{BlockDevice, BlockError, BlockOp, BlockReply, DeviceInfo, Tag};
use cairn_nbd::blocking::{Exports, serve_connection};
use cairn_nbd::{ListedExport, LookupRefusal, Session, TlsPolicy};

use super::device::MemoryDevice;

/// One device, shared by all connections.
#[derive(Clone)]
pub struct Shared(pub Arc<Mutex<MemoryDevice>>);

/// A connection's view of it, with its own completions.
struct View {
    shared: Shared,
    ready: Vec<(Tag, Result<BlockReply, BlockError>)>,
}

impl BlockDevice for View {
    fn info(&self) -> DeviceInfo {
        self.shared.0.lock().unwrap().info()
    }

    fn submit(&mut self, tag: Tag, op: BlockOp) {
        let result = self.shared.0.lock().unwrap().carry_out(op);
        self.ready.push((tag, result));
    }

    fn poll(&mut self) -> Option<(Tag, Result<BlockReply, BlockError>)> {
        self.ready.pop()
    }
}

impl Exports for Shared {
    fn list(&mut self) -> Vec<ListedExport> {
        let DeviceInfo { name, description, .. } = self.0.lock().unwrap().info();
        vec![ListedExport { name, description }]
    }

    fn lookup(&mut self, name: &str) -> Result<DeviceInfo, LookupRefusal> {
        let info = self.0.lock().unwrap().info();
        if name == info.name || name.is_empty() {
            Ok(info)
        } else {
            Err(LookupRefusal::Unknown)
        }
    }
}

pub struct Server {
    pub shared: Shared,
    pub port: u16,
    pub socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl Server {
    /// Serves `device` to as many connections as come, until the test's process ends.
    pub fn start(device: MemoryDevice, tls: TlsPolicy) -> Self {
        let shared = Shared(Arc::new(Mutex::new(device)));
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("nbd.sock");
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        let unix = UnixListener::bind(&socket).unwrap();
        let (for_tcp, tls_for_tcp) = (shared.clone(), tls.clone());
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let stream: TcpStream = stream.unwrap();
                stream.set_nodelay(true).unwrap();
                serve(stream, &for_tcp, &tls_for_tcp);
            }
        });
        let for_unix = shared.clone();
        std::thread::spawn(move || {
            for stream in unix.incoming() {
                serve(stream.unwrap(), &for_unix, &tls);
            }
        });
        Self {
            shared,
            port,
            socket,
            _directory: directory,
        }
    }

    pub fn uri(&self) -> String {
        let name = self.shared.0.lock().unwrap().info.name.clone();
        format!("nbd://127.0.0.1:{}/{name}", self.port)
    }

    pub fn unix_uri(&self) -> String {
        let name = self.shared.0.lock().unwrap().info.name.clone();
        format!("nbd+unix:///{name}?socket={}", self.socket.display())
    }
}

fn serve<S: Read + Write + Send + 'static>(mut stream: S, shared: &Shared, tls: &TlsPolicy) {
    let (mut exports, tls) = (shared.clone(), tls.clone());
    std::thread::spawn(move || {
        let mut device = View {
            shared: exports.clone(),
            ready: Vec::new(),
        };
        let mut session = Session::new(tls);
        let result = serve_connection(&mut stream, &mut session, &mut device, &mut exports);
        let reason = session.close_reason();
        println!("a connection ended: {result:?}, {reason:?}");
    });
}

/// Whether the program is installed; says so if it is not.
pub fn is_installed(program: &str) -> bool {
    let found =
        std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|directory| directory.join(program).is_file());
    if !found {
        println!("SKIPPED: {program} is not installed");
    }
    found
}

/// Runs a client with a time limit, and shows what it said if it did not end as expected.
pub fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new("timeout")
        .arg("60")
        .arg(program)
        .args(arguments)
        .output()
        .unwrap();
    println!("{program} {arguments:?}: {}", output.status);
    println!("{}", String::from_utf8_lossy(&output.stdout));
    println!("{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Runs a client that must succeed; gives its standard output.
pub fn succeed(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    assert!(
        output.status.success(),
        "{program} {arguments:?} failed: {}",
        output.status
    );
    String::from_utf8(output.stdout).unwrap()
}
