//! `cairn dev`: a whole cluster in one directory. Lays the directory out, formats the disks, starts the engines, makes
//! them a cluster, says how to use it, and looks after the engines until it is told to stop.

mod binary;
mod fleet;
mod layout;
mod pidfile;
mod ports;

use std::path::PathBuf;
use std::time::Duration;

use cairn_api::control;
use cairn_api::units::ByteSize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::fleet::{Death, Fleet};
use self::layout::{EnginePlan, Layout};
use crate::args::{DevArgs, GlobalArgs};
use crate::client::Engines;
use crate::commands::Context;
use crate::commands::init;
use crate::commands::volume::{request_volume, wait_until_ready};
use crate::disk;
use crate::error::{CliError, Kind};
use crate::output::{Output, remark};
use crate::progress::Waiting;
use crate::views::{DevEngineView, DevView};

/// The pause between two questions to an engine that is starting.
const POLL_PAUSE: Duration = Duration::from_millis(100);
/// The volume that `--volume` makes unless it is told a size.
const VOLUME_SIZE_DEFAULT: ByteSize = ByteSize(1 << 30);

/// Runs the cluster until a signal ends it.
pub(crate) async fn run(global: &GlobalArgs, args: &DevArgs) -> Result<(), CliError> {
    let output = Output(global.output);
    let program = binary::find(args.engine_binary.as_deref())?;
    let mut layout = Layout::open(args)?;
    let _lock = layout.lock()?;
    for engine in layout.engines() {
        pidfile::refuse_if_running(engine)?;
    }
    ports::refuse_if_taken(layout.engines())?;
    let blank = blank_disks(&layout);
    if let Some(path) = blank.first() {
        disk::refuse_if_too_small(path, layout.disk_size())?;
    }
    disk::refuse_if_too_full(layout.dir(), &blank, layout.disk_size())?;
    layout.write()?;
    for path in blank {
        disk::format(&path, Some(layout.disk_size()), false)?;
    }

    let mut signals = Signals::listen()?;
    let mut fleet = Fleet::start(&program, layout.engines())?;
    let result = live(global, args, output, &layout, &mut fleet, &mut signals).await;
    fleet.stop(&mut signals).await;
    result
}

/// From the start of the engines to the signal that ends them, or to the failure that does.
async fn live(
    global: &GlobalArgs,
    args: &DevArgs,
    output: Output,
    layout: &Layout,
    fleet: &mut Fleet,
    signals: &mut Signals,
) -> Result<(), CliError> {
    tokio::select! {
        () = signals.any() => return Ok(()),
        death = fleet.next_death() => return Err(died_at_start(&death)),
        up = bring_up(global, args, layout.engines()) => up?,
    }
    output.show_line(&view(args, layout, fleet))?;
    loop {
        let revival = fleet.next_revival();
        tokio::select! {
            () = signals.any() => return Ok(()),
            death = fleet.next_death() => fleet.bury(&death, args.restart)?,
            () = fleet::until(revival) => fleet.revive(),
        }
    }
}

/// The disk files to format: all of them the first time, none later. A disk file that has gone missing from an engine that
/// ran already is not replaced by an empty one: the engine says what it misses.
fn blank_disks(layout: &Layout) -> Vec<PathBuf> {
    let never_ran = |engine: &&EnginePlan| !engine.data_dir.join("node.toml").exists();
    let engines = layout.engines().iter().filter(never_ran);
    engines
        .map(|engine| engine.disk.clone())
        .filter(|path| disk::is_blank(path))
        .collect()
}

async fn bring_up(global: &GlobalArgs, args: &DevArgs, engines: &[EnginePlan]) -> Result<(), CliError> {
    let addresses: Vec<String> = engines.iter().map(|engine| engine.control.to_string()).collect();
    wait_until_answering(&Engines::new(addresses.clone(), global.timeout), engines).await?;
    init::init(&Engines::new(addresses.clone(), global.timeout), None).await?;
    if let Some(name) = &args.volume {
        let context = Context {
            engines: Engines::new(addresses, global.timeout),
            output: Output(global.output),
        };
        let size = args.volume_size.unwrap_or(VOLUME_SIZE_DEFAULT);
        let replicas = args.replicas.unwrap_or(if engines.len() < 3 { 1 } else { 3 });
        let request = control::CreateVolumeRequest {
            name: name.clone(),
            size_bytes: size.0,
            replicas,
            ..control::CreateVolumeRequest::default()
        };
        let volume = request_volume(&context, &request).await?;
        wait_until_ready(&context, volume).await?;
    }
    Ok(())
}

async fn wait_until_answering(asked: &Engines, engines: &[EnginePlan]) -> Result<(), CliError> {
    let waiting = Waiting::start();
    for engine in engines {
        let address = engine.control.to_string();
        loop {
            waiting.say(format!("waiting for engine {}", engine.name));
            let answer = asked
                .ask(&address, "no answer", async |client| {
                    client
                        .get_node(control::GetNodeRequest {})
                        .await
                        .map(tonic::Response::into_inner)
                })
                .await;
            let problem = match answer {
                // Engines read their disks before they can be members of anything.
                Ok(node) if node.state() == control::NodeState::Recovering => "it is still reading its disk".to_owned(),
                Ok(_) => break,
                Err(error) => error.what,
            };
            if asked.is_over() {
                return Err(CliError::new(
                    Kind::Unavailable,
                    format!(
                        "engine {} is not ready within {:?}: {problem}",
                        engine.name,
                        asked.timeout()
                    ),
                    format!("see {}, or wait longer with --timeout", engine.log.display()),
                ));
            }
            tokio::time::sleep(POLL_PAUSE).await;
        }
    }
    Ok(())
}

fn died_at_start(death: &Death) -> CliError {
    let log = death.log.display();
    let said = match death.last_words.as_str() {
        "" => "it said nothing".to_owned(),
        words => format!("its last words were: {words}"),
    };
    CliError::failed(
        format!("engine {} ended while it started ({}); {said}", death.name, death.how),
        format!("see {log}"),
    )
}

fn view(args: &DevArgs, layout: &Layout, fleet: &Fleet) -> DevView {
    let engines = layout
        .engines()
        .iter()
        .enumerate()
        .map(|(index, engine)| DevEngineView {
            name: engine.name.clone(),
            pid: fleet.pid(index).unwrap_or_default(),
            control_address: engine.control.to_string(),
            metrics_address: engine.metrics.to_string(),
            nbd_address: engine.nbd.to_string(),
            nbd_socket: engine.nbd_socket.as_ref().map(|path| path.display().to_string()),
            log: engine.log.display().to_string(),
        });
    DevView {
        dir: layout.dir().display().to_string(),
        engines: engines.collect(),
        volume: args.volume.clone(),
    }
}

/// What ends the cluster: ctrl-c, a service manager, or the terminal's end.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self, CliError> {
        let listen =
            |kind| signal(kind).map_err(|error| CliError::failed(format!("signals cannot be handled: {error}"), ""));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// The next signal of any of the three.
    async fn any(&mut self) {
        let name = tokio::select! {
            _ = self.interrupt.recv() => "interrupted",
            _ = self.terminate.recv() => "asked to end",
            _ = self.hangup.recv() => "the terminal is gone",
        };
        remark(&format!("{name}: stopping the engines"));
    }
}
