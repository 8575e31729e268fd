//! The directory of a development cluster:
//!
//! ```text
//! DIR/dev.toml        what the directory was made with
//! DIR/a/engine.toml   the engine's configuration: written once, so that it may be edited
//! DIR/a/disk.img      its disk
//! DIR/a/data/         its catalogue and identity
//! DIR/a/engine.log    what it prints
//! DIR/a/engine.pid    its process, while it runs
//! DIR/a/nbd.sock      NBD for programs of this machine, while it runs
//! ```

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use cairn_api::units::ByteSize;
use serde::{Deserialize, Serialize};

use crate::args::{BASE_PORT_DEFAULT, DISK_SIZE_DEFAULT, DevArgs, ENGINES_DEFAULT};
use crate::error::{CliError, Kind};

/// The names of engines, in order.
const NAMES: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
/// Ports between one engine's first and the next one's: room for more listeners than there are.
const PORTS_PER_ENGINE: u16 = 10;
/// The longest path of a unix socket that the kernel takes, without the closing zero.
const SOCKET_PATH_MAX: usize = 107;

/// What the directory was made with: `dev.toml`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
struct Settings {
    engines: u8,
    base_port: u16,
    disk_size_bytes: u64,
}

/// The part of an engine's configuration that this command writes, and reads back.
#[derive(Serialize, Deserialize)]
struct EngineFile {
    name: String,
    data_dir: PathBuf,
    control: Listener,
    data: Listener,
    nbd: NbdListener,
    metrics: Listener,
    disk: Vec<DiskEntry>,
}

#[derive(Serialize, Deserialize)]
struct Listener {
    listen: SocketAddr,
}

#[derive(Serialize, Deserialize)]
struct NbdListener {
    listen: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    socket: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
struct DiskEntry {
    path: PathBuf,
}

/// One engine of the cluster.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct EnginePlan {
    pub(super) name: String,
    pub(super) config: PathBuf,
    pub(super) data_dir: PathBuf,
    pub(super) disk: PathBuf,
    pub(super) log: PathBuf,
    pub(super) pid_file: PathBuf,
    pub(super) control: SocketAddr,
    pub(super) data: SocketAddr,
    pub(super) metrics: SocketAddr,
    pub(super) nbd: SocketAddr,
    pub(super) nbd_socket: Option<PathBuf>,
}

impl EnginePlan {
    /// Its ports and what each is for.
    pub(super) fn ports(&self) -> [(&'static str, SocketAddr); 4] {
        [
            ("control", self.control),
            ("peers", self.data),
            ("metrics", self.metrics),
            ("NBD", self.nbd),
        ]
    }
}

/// A development cluster's directory.
#[derive(Debug)]
pub(super) struct Layout {
    dir: PathBuf,
    settings: Settings,
    engines: Vec<EnginePlan>,
    /// Files of a new cluster that are not written yet.
    unwritten: Vec<Unwritten>,
}

/// A file and what is to be in it.
#[derive(Debug)]
struct Unwritten {
    path: PathBuf,
    text: String,
}

impl Layout {
    /// Reads what an earlier run made, or plans what this one will make. Only the directory itself is made yet, so that a
    /// plan that comes to nothing (a port is taken, the disk is full) binds nobody to it.
    pub(super) fn open(args: &DevArgs) -> Result<Self, CliError> {
        fs::create_dir_all(&args.dir).map_err(|error| cannot("be made", &args.dir, &error))?;
        // Absolute, because the configuration files outlive this process's working directory.
        let dir = args
            .dir
            .canonicalize()
            .map_err(|error| cannot("be opened", &args.dir, &error))?;
        let mut unwritten = Vec::new();
        let settings = Settings::open(&dir, args, &mut unwritten)?;
        let engines = NAMES
            .iter()
            .take(usize::from(settings.engines))
            .zip(0u16..)
            .map(|(name, index)| {
                let first_port = settings.base_port + index * PORTS_PER_ENGINE;
                open_engine(&dir.join(name), name, first_port, &mut unwritten)
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            dir,
            settings,
            engines,
            unwritten,
        })
    }

    /// Writes what is not there yet.
    pub(super) fn write(&mut self) -> Result<(), CliError> {
        for engine in &self.engines {
            fs::create_dir_all(&engine.data_dir).map_err(|error| cannot("be made", &engine.data_dir, &error))?;
        }
        for file in self.unwritten.drain(..) {
            fs::write(&file.path, &file.text).map_err(|error| cannot("be written", &file.path, &error))?;
        }
        Ok(())
    }

    /// Holds the directory for this process, until the file is dropped.
    pub(super) fn lock(&self) -> Result<File, CliError> {
        let path = self.dir.join("dev.lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| cannot("be opened", &path, &error))?;
        file.try_lock().map_err(|_| {
            CliError::new(
                Kind::Conflict,
                format!("another `cairn dev` runs in {}", self.dir.display()),
                "use that one, or name another --dir (and --base-port)",
            )
        })?;
        Ok(file)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn engines(&self) -> &[EnginePlan] {
        &self.engines
    }

    pub(super) fn disk_size(&self) -> ByteSize {
        ByteSize(self.settings.disk_size_bytes)
    }
}

impl Settings {
    fn open(dir: &Path, args: &DevArgs, unwritten: &mut Vec<Unwritten>) -> Result<Self, CliError> {
        let path = dir.join("dev.toml");
        match fs::read_to_string(&path) {
            Ok(text) => {
                let settings: Self = toml::from_str(&text).map_err(|error| unreadable(&path, &error))?;
                settings.refuse_other(dir, args)?;
                Ok(settings)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let settings = Self {
                    engines: args.engines.unwrap_or(ENGINES_DEFAULT),
                    base_port: args.base_port.unwrap_or(BASE_PORT_DEFAULT),
                    disk_size_bytes: args.disk_size.unwrap_or(DISK_SIZE_DEFAULT).0,
                };
                unwritten.push(toml_file(
                    path,
                    &settings,
                    "# What `cairn dev` made this directory with.\n",
                )?);
                Ok(settings)
            }
            Err(error) => Err(cannot("be read", &path, &error)),
        }
    }

    /// A flag that contradicts what is there must not be ignored silently.
    fn refuse_other(&self, dir: &Path, args: &DevArgs) -> Result<(), CliError> {
        let contradictions = [
            ("--engines", args.engines.map(u64::from), u64::from(self.engines)),
            ("--base-port", args.base_port.map(u64::from), u64::from(self.base_port)),
            ("--disk-size", args.disk_size.map(|size| size.0), self.disk_size_bytes),
        ];
        for (flag, asked, have) in contradictions {
            if asked.is_some_and(|asked| asked != have) {
                return Err(CliError::new(
                    Kind::Conflict,
                    format!("the cluster in {} was made with {flag} {have}", dir.display()),
                    format!("leave {flag} out, or name another --dir"),
                ));
            }
        }
        Ok(())
    }
}

fn open_engine(
    home: &Path,
    name: &str,
    first_port: u16,
    unwritten: &mut Vec<Unwritten>,
) -> Result<EnginePlan, CliError> {
    let config = home.join("engine.toml");
    let file = match fs::read_to_string(&config) {
        Ok(text) => toml::from_str(&text).map_err(|error| unreadable(&config, &error))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let file = new_engine(home, name, first_port);
            let heading = "# Written once by `cairn dev`; edit it as you like.\n";
            unwritten.push(toml_file(config.clone(), &file, heading)?);
            file
        }
        Err(error) => return Err(cannot("be read", &config, &error)),
    };
    let Some(disk) = file.disk.into_iter().next() else {
        return Err(CliError::failed(
            format!("'{}' names no disk", config.display()),
            "add [[disk]] path = \"PATH\", or remove the file",
        ));
    };
    Ok(EnginePlan {
        name: file.name,
        config,
        data_dir: file.data_dir,
        disk: disk.path,
        log: home.join("engine.log"),
        pid_file: home.join("engine.pid"),
        control: file.control.listen,
        data: file.data.listen,
        metrics: file.metrics.listen,
        nbd: file.nbd.listen,
        nbd_socket: file.nbd.socket,
    })
}

fn new_engine(home: &Path, name: &str, first_port: u16) -> EngineFile {
    let local = |offset: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, first_port + offset));
    let socket = home.join("nbd.sock");
    EngineFile {
        name: name.to_owned(),
        data_dir: home.join("data"),
        control: Listener { listen: local(0) },
        data: Listener { listen: local(1) },
        metrics: Listener { listen: local(2) },
        nbd: NbdListener {
            listen: local(3),
            socket: (socket.as_os_str().len() <= SOCKET_PATH_MAX).then_some(socket),
        },
        disk: vec![DiskEntry {
            path: home.join("disk.img"),
        }],
    }
}

fn toml_file(path: PathBuf, value: &impl Serialize, heading: &str) -> Result<Unwritten, CliError> {
    let text = toml::to_string(value).map_err(|error| {
        CliError::failed(
            format!("'{}' could not be written: {error}", path.display()),
            "use a --dir whose path is plain text",
        )
    })?;
    Ok(Unwritten {
        path,
        text: format!("{heading}{text}"),
    })
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> CliError {
    CliError::failed(format!("'{}' cannot {what}: {error}", path.display()), "")
}

fn unreadable(path: &Path, error: &toml::de::Error) -> CliError {
    let first_line = error.to_string().lines().next().unwrap_or_default().to_owned();
    CliError::failed(
        format!(
            "'{}' cannot be understood: {}; {first_line}",
            path.display(),
            error.message()
        ),
        "mend it, or remove it to have it written anew",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(dir: &Path) -> DevArgs {
        DevArgs {
            dir: dir.to_owned(),
            engines: None,
            disk_size: None,
            base_port: None,
            engine_binary: None,
            restart: false,
            volume: None,
            volume_size: None,
            replicas: None,
        }
    }

    fn made(args: &DevArgs) -> Result<Layout, CliError> {
        let mut layout = Layout::open(args)?;
        layout.write()?;
        Ok(layout)
    }

    #[test]
    fn a_plan_that_is_not_written_binds_nobody() {
        let dir = tempfile::tempdir().unwrap();
        Layout::open(&args(dir.path())).unwrap();
        let second = DevArgs {
            base_port: Some(9000),
            ..args(dir.path())
        };
        assert_eq!(made(&second).unwrap().engines()[0].control.port(), 9000);
    }

    #[test]
    fn a_new_directory_has_three_engines_from_the_default_port_on() {
        let dir = tempfile::tempdir().unwrap();
        let layout = made(&args(dir.path())).unwrap();
        let controls: Vec<String> = layout
            .engines()
            .iter()
            .map(|engine| engine.control.to_string())
            .collect();
        assert_eq!(
            controls,
            [crate::args::ENGINE_DEFAULT, "127.0.0.1:7410", "127.0.0.1:7420"]
        );
        assert_eq!(layout.engines()[1].nbd.port(), 7413);
        assert!(dir.path().join("c/data").is_dir());
    }

    #[test]
    fn a_second_run_finds_what_the_first_made_and_what_was_edited() {
        let dir = tempfile::tempdir().unwrap();
        let first = made(&DevArgs {
            engines: Some(1),
            base_port: Some(9000),
            ..args(dir.path())
        })
        .unwrap();
        assert_eq!(Layout::open(&args(dir.path())).unwrap().engines(), first.engines());
        let config = dir.path().join("a/engine.toml");
        let edited = fs::read_to_string(&config).unwrap().replace("9003", "9999") + "\n[log]\nlevel = \"debug\"\n";
        fs::write(&config, edited).unwrap();
        assert_eq!(Layout::open(&args(dir.path())).unwrap().engines()[0].nbd.port(), 9999);
    }

    #[test]
    fn a_flag_that_contradicts_the_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        made(&args(dir.path())).unwrap();
        let error = Layout::open(&DevArgs {
            engines: Some(5),
            ..args(dir.path())
        })
        .unwrap_err();
        assert_eq!(error.kind, Kind::Conflict);
        assert!(error.what.ends_with("was made with --engines 3"), "{}", error.what);
        assert!(
            Layout::open(&DevArgs {
                engines: Some(3),
                ..args(dir.path())
            })
            .is_ok()
        );
    }

    #[test]
    fn a_directory_is_held_by_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(&args(dir.path())).unwrap();
        let held = layout.lock().unwrap();
        assert_eq!(layout.lock().unwrap_err().kind, Kind::Conflict);
        drop(held);
        assert!(layout.lock().is_ok());
    }

    #[test]
    fn a_socket_whose_path_is_too_long_is_left_out() {
        let home = PathBuf::from(format!("/{}", "x".repeat(120)));
        assert!(new_engine(&home, "a", 7400).nbd.socket.is_none());
    }
}
