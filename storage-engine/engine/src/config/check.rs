//! Turns what the file says into what the engine runs on, refusing what breaks a rule.

use std::net::SocketAddr;
use std::path::PathBuf;

use cairn_api::units::ByteSize;

use super::file::{FileConfig, FileDisk, FileNbd};
use super::{Config, ConfigError, ControlConfig, DataConfig, DiskConfig, LogConfig, NbdConfig, TlsConfig};
use crate::disks::Thresholds;

/// Disks of one engine. Each has a thread and its own registered memory; more belong in a second engine.
pub const DISKS_MAX: usize = 64;
/// The least memory of a disk's thread, in bytes: room for two requests of the longest length with a few small ones.
pub const MEMORY_BYTES_MIN: u64 = 8 << 20;
/// The most memory of a disk's thread, in bytes: the kernel registers no longer buffer.
pub const MEMORY_BYTES_MAX: u64 = 1 << 30;
/// NBD connections at a time: each takes a file descriptor and buffers.
pub const NBD_CONNECTIONS_MAX: usize = 65_536;
/// The longest node name: a DNS label.
const NAME_BYTES_MAX: usize = 63;
/// The longest path of a unix socket in bytes: `sun_path` is 108 with its terminating zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

const CONTROL_LISTEN: &str = "127.0.0.1:7400";
const DATA_LISTEN: &str = "127.0.0.1:7401";
const MEMORY: &str = "64MiB";
const SCRUB_RATE: &str = "8MiB";
const FLATTEN_RATE: &str = "32MiB";
/// Above which part of its capacity a disk is filling up, unless set.
const WARNING_PERCENT: u8 = 80;
/// Above which part of its capacity a disk is nearly full, unless set.
const ALARM_PERCENT: u8 = 90;
/// The slowest pace of scrubbing that is worth the name, and more than any disk gives, in bytes a second.
const RATE_MIN: u64 = 64 << 10;
const RATE_MAX: u64 = 4 << 30;
const LEVEL: &str = "info";
const CONNECTIONS: usize = 1024;

/// Whether `name` can be a node's name.
pub(crate) fn is_node_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

pub(super) fn invalid(key: impl Into<String>, value: impl std::fmt::Display, rule: impl Into<String>) -> ConfigError {
    ConfigError::Invalid {
        key: key.into(),
        value: value.to_string(),
        rule: rule.into(),
    }
}

/// Checks the whole file.
pub(crate) fn check(file: FileConfig) -> Result<Config, ConfigError> {
    let name = file.name.ok_or(ConfigError::Missing {
        key: "name",
        remedy: "write name = \"a\" with the node's name, unique in the cluster",
    })?;
    if !is_node_name(&name) {
        return Err(invalid("name", name, "a node's name is 1 to 63 of a-z, 0-9 and '-'"));
    }
    let data_dir = file.data_dir.ok_or(ConfigError::Missing {
        key: "data_dir",
        remedy: "write data_dir = \"/var/lib/cairn\" with a directory that survives restarts",
    })?;
    let level = file.log.level.unwrap_or_else(|| LEVEL.to_owned());
    check_level(&level)?;
    let config = Config {
        name,
        data_dir,
        control: ControlConfig {
            listen: address(
                "control.listen",
                file.control.listen.as_deref().unwrap_or(CONTROL_LISTEN),
            )?,
            advertise: optional_address("control.advertise", file.control.advertise.as_deref())?,
            seeds: file
                .control
                .seeds
                .iter()
                .map(|seed| address("control.seeds", seed))
                .collect::<Result<_, _>>()?,
        },
        data: DataConfig {
            listen: address("data.listen", file.data.listen.as_deref().unwrap_or(DATA_LISTEN))?,
            advertise: optional_address("data.advertise", file.data.advertise.as_deref())?,
        },
        nbd: nbd(file.nbd)?,
        metrics: optional_address("metrics.listen", file.metrics.listen.as_deref())?,
        disks: disks(file.disk)?,
        log: LogConfig {
            format: file.log.format,
            level,
        },
        encryption: file.encryption.map(super::encryption::check).transpose()?,
        allow_insecure_network: file.allow_insecure_network,
    };
    check_network(&config)?;
    Ok(config)
}

/// A bare word must be a level: `tracing` itself would take `loud` for the name of a target.
fn check_level(level: &str) -> Result<(), ConfigError> {
    use tracing_subscriber::filter::{LevelFilter, Targets};
    let is_level = |text: &str| !text.is_empty() && text.parse::<LevelFilter>().is_ok();
    let is_directive = |text: &str| {
        text.rsplit_once('=').map_or_else(
            || is_level(text),
            |(target, level)| !target.is_empty() && is_level(level),
        )
    };
    if level.split(',').all(|directive| is_directive(directive.trim())) && level.parse::<Targets>().is_ok() {
        return Ok(());
    }
    Err(invalid(
        "log.level",
        level,
        "write error, warn, info, debug, trace, or target=level pairs separated by commas",
    ))
}

fn address(key: &'static str, text: &str) -> Result<SocketAddr, ConfigError> {
    text.parse().map_err(|_| {
        invalid(
            key,
            text,
            "write an IP address and a port, such as 127.0.0.1:7400 or [::1]:7400; names are not resolved",
        )
    })
}

fn optional_address(key: &'static str, text: Option<&str>) -> Result<Option<SocketAddr>, ConfigError> {
    text.map(|text| address(key, text)).transpose()
}

fn nbd(file: FileNbd) -> Result<NbdConfig, ConfigError> {
    if let Some(socket) = &file.socket
        && socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX
    {
        let rule = format!("the path of a unix socket is at most {SOCKET_PATH_BYTES_MAX} bytes");
        return Err(invalid("nbd.socket", socket.display(), rule));
    }
    let connections_max = file.connections_max.unwrap_or(CONNECTIONS);
    if !(1..=NBD_CONNECTIONS_MAX).contains(&connections_max) {
        return Err(invalid(
            "nbd.connections_max",
            connections_max,
            format!("it must be 1 to {NBD_CONNECTIONS_MAX}"),
        ));
    }
    Ok(NbdConfig {
        listen: optional_address("nbd.listen", file.listen.as_deref())?,
        advertise: optional_address("nbd.advertise", file.advertise.as_deref())?,
        socket: file.socket,
        connections_max,
        move_leadership: file.move_leadership.unwrap_or(true),
        tls: file.tls.map(|tls| TlsConfig {
            certificate: tls.certificate,
            key: tls.key,
            client_ca: tls.client_ca,
            required: tls.required,
        }),
    })
}

fn disks(files: Vec<FileDisk>) -> Result<Vec<DiskConfig>, ConfigError> {
    if files.is_empty() {
        return Err(ConfigError::Missing {
            key: "disk",
            remedy: "write a [[disk]] section with path = \"...\" for each disk; `cairn disk format PATH` prepares one",
        });
    }
    if files.len() > DISKS_MAX {
        return Err(invalid(
            "disk",
            format!("{} sections", files.len()),
            format!("at most {DISKS_MAX} disks an engine"),
        ));
    }
    let mut disks: Vec<DiskConfig> = Vec::with_capacity(files.len());
    for file in files {
        let disk = disk(file)?;
        if disks.iter().any(|other| same_place(&other.path, &disk.path)) {
            return Err(invalid(
                "disk.path",
                disk.path.display(),
                "the same disk is configured twice",
            ));
        }
        disks.push(disk);
    }
    Ok(disks)
}

/// Whether two paths lead to the same file: `/dev/sdb` and a link to it are one disk.
fn same_place(one: &std::path::Path, other: &std::path::Path) -> bool {
    let resolve = |path: &std::path::Path| path.canonicalize().unwrap_or_else(|_| PathBuf::from(path));
    resolve(one) == resolve(other)
}

fn size(key: &'static str, text: &str) -> Result<ByteSize, ConfigError> {
    text.parse()
        .map_err(|error: cairn_api::units::ParseSizeError| invalid(key, text, error.to_string()))
}

/// So much a second; 0 stands for something else.
fn rate(key: &'static str, text: &str, zero: &str) -> Result<ByteSize, ConfigError> {
    let rate = size(key, text)?;
    if rate.0 == 0 || (RATE_MIN..=RATE_MAX).contains(&rate.0) {
        return Ok(rate);
    }
    let (min, max) = (ByteSize(RATE_MIN), ByteSize(RATE_MAX));
    let rule = format!("it must be {min} to {max} a second, or 0 {zero}");
    Err(invalid(key, text, rule))
}

fn disk(file: FileDisk) -> Result<DiskConfig, ConfigError> {
    let text = file.memory.as_deref().unwrap_or(MEMORY);
    let memory = size("disk.memory", text)?;
    if !(MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX).contains(&memory.0) {
        let rule = format!(
            "it must be {} to {}",
            ByteSize(MEMORY_BYTES_MIN),
            ByteSize(MEMORY_BYTES_MAX)
        );
        return Err(invalid("disk.memory", text, rule));
    }
    let text = file.scrub_rate.as_deref().unwrap_or(SCRUB_RATE);
    let zero = "to read the disk through only when that is asked for";
    let scrub_rate = rate("disk.scrub_rate", text, zero)?;
    let text = file.flatten_rate.as_deref().unwrap_or(FLATTEN_RATE);
    let flatten_rate = rate("disk.flatten_rate", text, "for as fast as it can be")?;
    let thresholds = Thresholds {
        warning: file.warning_percent.unwrap_or(WARNING_PERCENT),
        alarm: file.alarm_percent.unwrap_or(ALARM_PERCENT),
    };
    let (warning, alarm) = (thresholds.warning, thresholds.alarm);
    if warning == 0 || warning >= alarm || alarm > 99 {
        let text = format!("{warning} and {alarm}");
        let rule = "they must be from 1 to 99, the first below the second".to_owned();
        return Err(invalid("disk.warning_percent and disk.alarm_percent", &text, rule));
    }
    Ok(DiskConfig {
        path: file.path,
        memory,
        scrub_rate,
        flatten_rate,
        thresholds,
    })
}

/// Listeners that others can reach are refused unless the operator has said that he knows.
fn check_network(config: &Config) -> Result<(), ConfigError> {
    let listeners = [
        (
            "control.listen",
            Some(config.control.listen),
            config.control.advertise,
            "control.advertise",
        ),
        (
            "data.listen",
            Some(config.data.listen),
            config.data.advertise,
            "data.advertise",
        ),
        ("nbd.listen", config.nbd.listen, config.nbd.advertise, "nbd.advertise"),
        ("metrics.listen", config.metrics, config.metrics, "metrics.listen"),
    ];
    for (key, listen, advertise, advertise_key) in listeners {
        let Some(address) = listen else { continue };
        if !address.ip().is_loopback() && !config.allow_insecure_network {
            return Err(ConfigError::InsecureNetwork { key, address });
        }
        if address.ip().is_unspecified() && advertise.is_none() {
            let rule = format!("others cannot dial it: write `{advertise_key}` with the address that they can");
            return Err(invalid(key, address, rule));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{COMMENTED_DEFAULT, LogFormat, Overrides};
    use super::*;

    const LEAST: &str = "name = \"a\"\ndata_dir = \"/tmp/a\"\n[[disk]]\npath = \"/tmp/a.disk\"\n";

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("/etc/cairn/engine.toml"), text, &Overrides::default())
    }

    fn refusal(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_least_configuration_has_the_documented_defaults() {
        let config = parse(LEAST).unwrap();
        assert_eq!(config.control.listen.to_string(), "127.0.0.1:7400");
        assert_eq!(config.data.listen.to_string(), "127.0.0.1:7401");
        assert_eq!(
            (config.nbd.listen, config.nbd.socket.clone(), config.metrics),
            (None, None, None)
        );
        assert_eq!(config.disks[0].memory, ByteSize(64 << 20));
        assert_eq!(
            (config.log.format, config.log.level.as_str()),
            (LogFormat::Human, "info")
        );
    }

    #[test]
    fn the_printed_default_is_valid_as_it_is_and_with_every_key_switched_on() {
        parse(COMMENTED_DEFAULT).unwrap();
        let all_on: String = COMMENTED_DEFAULT
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if !key.starts_with(' ') => format!("{key}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let config = parse(&all_on).unwrap();
        assert!(
            config
                .encryption
                .is_some_and(|keys| keys.file.is_some() && keys.vault.is_some())
        );
        assert!(config.nbd.tls.is_some() && config.nbd.socket.is_some() && config.metrics.is_some());
    }

    #[test]
    fn an_unknown_key_is_named_with_file_line_and_the_allowed_ones() {
        let message = refusal(&format!("{LEAST}memroy = \"1GiB\"\n"));
        for part in ["/etc/cairn/engine.toml", "line 5", "memroy", "`path`", "`memory`"] {
            assert!(message.contains(part), "{part} is missing in: {message}");
        }
        assert!(refusal(&format!("nmae = \"b\"\n{LEAST}")).contains("nmae"));
    }

    #[test]
    fn listeners_open_to_the_network_are_refused_with_the_reason() {
        for (section, key) in [
            ("control", "control.listen"),
            ("data", "data.listen"),
            ("nbd", "nbd.listen"),
            ("metrics", "metrics.listen"),
        ] {
            let text = format!("{LEAST}[{section}]\nlisten = \"192.0.2.1:99\"\n");
            let message = refusal(&text);
            assert!(
                message.contains(key) && message.contains("allow_insecure_network"),
                "{message}"
            );
            parse(&format!("allow_insecure_network = true\n{text}")).unwrap();
        }
    }

    #[test]
    fn an_unspecified_address_needs_one_that_others_can_dial() {
        let text = format!("allow_insecure_network = true\n{LEAST}[data]\nlisten = \"0.0.0.0:7401\"\n");
        assert!(refusal(&text).contains("data.advertise"));
        parse(&format!("{text}advertise = \"192.0.2.7:7401\"\n")).unwrap();
    }

    #[test]
    fn values_out_of_range_are_named_with_their_rule() {
        for (text, parts) in [
            (LEAST.replace("\"a\"", "\"A_1\""), ["`name`", "A_1"]),
            (format!("{LEAST}memory = \"1MiB\"\n"), ["disk.memory", "8 MiB"]),
            (format!("{LEAST}memory = \"lots\"\n"), ["disk.memory", "lots"]),
            (format!("{LEAST}scrub_rate = \"1KiB\"\n"), ["disk.scrub_rate", "64 KiB"]),
            (format!("{LEAST}scrub_rate = \"fast\"\n"), ["disk.scrub_rate", "fast"]),
            (
                format!("{LEAST}flatten_rate = \"1KiB\"\n"),
                ["disk.flatten_rate", "64 KiB"],
            ),
            (
                format!("{LEAST}warning_percent = 95\n"),
                ["disk.warning_percent", "95 and 90"],
            ),
            (
                format!("{LEAST}alarm_percent = 100\n"),
                ["disk.alarm_percent", "from 1 to 99"],
            ),
            (
                format!("{LEAST}[control]\nlisten = \"localhost:1\"\n"),
                ["control.listen", "localhost:1"],
            ),
            (
                format!("{LEAST}[nbd]\nconnections_max = 0\n"),
                ["nbd.connections_max", "'0'"],
            ),
            (format!("{LEAST}[log]\nlevel = \"loud\"\n"), ["log.level", "loud"]),
            (format!("{LEAST}[log]\nformat = \"xml\"\n"), ["xml", "human"]),
            (
                format!("{LEAST}[[disk]]\npath = \"/tmp/a.disk\"\n"),
                ["disk.path", "twice"],
            ),
            (
                "name = \"a\"\ndata_dir = \"/tmp/a\"\n".to_owned(),
                ["`disk`", "cairn disk format"],
            ),
            (LEAST.replace("name = \"a\"", ""), ["`name`", "unique"]),
        ] {
            let message = refusal(&text);
            assert!(
                parts.iter().all(|part| message.contains(part)),
                "{parts:?} not in: {message}"
            );
        }
    }

    #[test]
    fn flags_stand_in_the_place_of_the_files_values() {
        let overrides = Overrides {
            name: Some("b".to_owned()),
            control_listen: Some("127.0.0.1:9".to_owned()),
            log_format: Some(LogFormat::Json),
            ..Overrides::default()
        };
        let config = Config::parse(Path::new("x"), LEAST, &overrides).unwrap();
        assert_eq!((config.name.as_str(), config.control.listen.port()), ("b", 9));
        assert_eq!(config.log.format, LogFormat::Json);
    }
}
