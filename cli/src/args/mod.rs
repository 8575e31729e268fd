//! The command line: one file a noun, and the values they share.

mod cluster;
mod dev;
mod disk;
mod key;
mod snapshot;
mod values;
mod volume;

pub use cluster::{AddArgs, ClusterCommand, InitArgs};
pub use dev::{BASE_PORT_DEFAULT, DISK_SIZE_DEFAULT, DevArgs, ENGINES_DEFAULT};
pub use disk::{ClearArgs, DiskCommand, FormatArgs, ListArgs, ReplaceArgs, ScrubArgs};
pub use key::{KeyCommand, RewrapArgs};
pub use snapshot::{
    SnapshotArgs, SnapshotCommand, SnapshotCreateArgs, SnapshotDeleteArgs, SnapshotDiffArgs, SnapshotListArgs,
};
pub use values::{parse_engine, parse_size, parse_timeout};
pub use volume::{
    Ceiling, CloneArgs, CreateArgs, DeleteArgs, DetachArgs, LimitArgs, LimitFlags, NameArgs, ResizeArgs, VolumeCommand,
};

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Where an engine listens by default, and so where the command looks for one.
pub const ENGINE_DEFAULT: &str = "127.0.0.1:7400";

/// Cairn: replicated block volumes on the local disks of your nodes
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 already exists or in conflict, 5 unavailable or timed
/// out, 6 refused (see --force).
#[derive(Parser, Debug)]
#[command(
    name = "cairn",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:
  cairn dev --dir /tmp/cairn                         a three-engine cluster on this machine, to try Cairn out
  cairn volume create data --size 10GiB              a volume with three replicas
  cairn volume export data                           how to attach it over NBD
  cairn --engine 10.0.0.1,10.0.0.2 cluster status    ask whichever engine answers first
  cairn -o json volume list                          the same facts, for programs"
)]
pub struct Cli {
    /// What applies to every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What applies to every command.
#[derive(Args, Debug, Clone)]
pub struct GlobalArgs {
    /// Control address of an engine (port 7400 if left out); repeat it, or separate several by commas, and they are
    /// tried in turn until one answers [default: 127.0.0.1:7400]
    #[arg(long = "engine", global = true, value_name = "HOST[:PORT]", env = "CAIRN_ENGINE", value_delimiter = ',',
          value_parser = parse_engine, help_heading = "Global options")]
    addresses: Vec<String>,
    /// How to print results: a table for people, JSON for programs (sizes in bytes)
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value = "table",
        help_heading = "Global options"
    )]
    pub output: OutputFormat,
    /// How long to wait for engines, altogether: a number and ms, s or m
    #[arg(long, global = true, value_name = "TIME", default_value = "30s", value_parser = parse_timeout,
          help_heading = "Global options")]
    pub timeout: Duration,
}

impl GlobalArgs {
    /// The engines to try: those named, or the default.
    pub fn engines_or_default(&self) -> Vec<String> {
        if self.addresses.is_empty() {
            vec![ENGINE_DEFAULT.to_owned()]
        } else {
            self.engines_named()
        }
    }

    /// The engines that were named by flag or environment, each once, in the order given.
    pub fn engines_named(&self) -> Vec<String> {
        let mut engines: Vec<String> = Vec::with_capacity(self.addresses.len());
        for engine in &self.addresses {
            if !engines.contains(engine) {
                engines.push(engine.clone());
            }
        }
        engines
    }
}

/// How results are printed.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum OutputFormat {
    /// Aligned columns for people.
    Table,
    /// JSON for programs, with stable field names and sizes in bytes.
    Json,
}

/// The nouns.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Prepare disks for Cairn, look at them and replace them
    #[command(
        subcommand,
        after_help = "Examples:
  cairn disk format /dev/sdb                         a whole device
  cairn disk format /var/lib/cairn/disk.img --size 8GiB
  cairn disk list                                    every disk of the cluster
  cairn disk replace 5f0c1d7e 91ab33f0 --wait        one takes the place of another"
    )]
    Disk(DiskCommand),
    /// Make a cluster of engines and look at it
    #[command(
        subcommand,
        after_help = "Examples:
  cairn cluster init --engine 10.0.0.1,10.0.0.2,10.0.0.3
  cairn cluster add 10.0.0.4 --engine 10.0.0.1
  cairn cluster status"
    )]
    Cluster(ClusterCommand),
    /// Create, list, show, export, detach and delete volumes
    #[command(
        subcommand,
        after_help = "Examples:
  cairn volume create data --size 10GiB
  cairn volume list
  cairn volume export data"
    )]
    Volume(VolumeCommand),
    /// Look at the keys that encrypted volumes depend on
    #[command(
        subcommand,
        after_help = "Examples:
  cairn key status"
    )]
    Key(KeyCommand),
    /// Make, list, show and delete snapshots of volumes
    #[command(
        subcommand,
        after_help = "Examples:
  cairn snapshot create data --name monday
  cairn snapshot list data
  cairn snapshot delete data monday"
    )]
    Snapshot(SnapshotCommand),
    /// Run a whole cluster in one directory of this machine, to try Cairn out
    ///
    /// Makes DIR/a, DIR/b, DIR/c with a configuration file, a disk file and a log each, starts an engine in each, makes
    /// a cluster of them and stays in the foreground until ctrl-c. The state survives: run it again on the same
    /// directory and the cluster goes on where it was.
    #[command(after_help = "Examples:
  cairn dev --dir /tmp/cairn                                        three engines, 2 GiB each
  cairn dev --dir /tmp/cairn --volume data --volume-size 1GiB       and a volume, ready to attach
  cairn dev --dir /tmp/other --base-port 7500                       a second cluster beside the first
  kill -9 $(cat /tmp/cairn/a/engine.pid)                            see a failover; --restart brings it up again")]
    Dev(DevArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    fn each_command(command: &clap::Command, visit: &mut dyn FnMut(&clap::Command)) {
        visit(command);
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            each_command(sub, visit);
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_help_and_examples() {
        let mut commands = 0;
        each_command(&Cli::command(), &mut |command| {
            commands += 1;
            assert!(
                command.get_about().is_some(),
                "{} has no description",
                command.get_name()
            );
            let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                examples.starts_with("Examples:\n"),
                "{} has no examples",
                command.get_name()
            );
        });
        assert!(commands >= 17, "only {commands} commands were visited");
    }

    #[test]
    fn engines_may_be_repeated_or_separated_by_commas_and_come_after_the_command() {
        let cli = parse("cairn volume list --engine a,b:1 --engine 10.0.0.1 --engine a").unwrap();
        assert_eq!(cli.global.engines_named(), ["a:7400", "b:1", "10.0.0.1:7400"]);
        assert_eq!(
            parse("cairn volume list").unwrap().global.engines_or_default(),
            [ENGINE_DEFAULT]
        );
    }

    #[test]
    fn the_timeout_and_the_format_are_read_anywhere() {
        let cli = parse("cairn volume show v -o json --timeout 500ms").unwrap();
        assert_eq!(
            (cli.global.output, cli.global.timeout),
            (OutputFormat::Json, Duration::from_millis(500))
        );
        assert_eq!(
            parse("cairn volume list").unwrap().global.timeout,
            Duration::from_secs(30)
        );
    }

    #[test]
    fn a_commands_own_flags_do_not_collide_with_the_global_ones() {
        let cli = parse("cairn dev --dir d --engines 5 --engine 10.0.0.1 --base-port 7500 --disk-size 1GiB").unwrap();
        assert_eq!(cli.global.engines_named(), ["10.0.0.1:7400"]);
        let Command::Dev(dev) = cli.command else {
            panic!("not dev")
        };
        assert_eq!((dev.engines, dev.base_port), (Some(5), Some(7500)));
    }

    #[test]
    fn usage_errors_exit_with_2() {
        for line in [
            "cairn volume create v",
            "cairn volume create v --size 5000",
            "cairn volume create v --size 0",
            "cairn volume create v --size 1GiB --replicas 2",
            "cairn volume show",
            "cairn volume list --timeout soon",
            "cairn volume list --timeout 0s",
            "cairn volume list --engine :7400",
            "cairn volume list -o xml",
            "cairn disk format",
            "cairn disk replace 5f0c1d7e",
            "cairn cluster add",
            "cairn volume create v --size 1GiB --key-name k",
            "cairn volume rewrap",
            "cairn volume rewrap v --all",
            "cairn dev",
            "cairn dev --dir d --engines 0",
            "cairn dev --dir d --volume-size 1GiB",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
