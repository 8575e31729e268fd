//! Encodes everything the engine measures, at a scrape.

use std::fmt;
use std::sync::Weak;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::disks::{DiskState, DiskStats};
use crate::engine::Engine;
use crate::meta::Catalogue;

/// Gathers from the engine while it lives.
pub struct EngineCollector {
    engine: Weak<Engine>,
}

impl EngineCollector {
    /// Of `engine`.
    pub fn new(engine: Weak<Engine>) -> Self {
        Self { engine }
    }
}

impl fmt::Debug for EngineCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EngineCollector")
    }
}

type Encoded = Result<(), fmt::Error>;

fn counter(metric: MetricEncoder<'_>, value: u64) -> Encoded {
    ConstCounter::new(value).encode(metric)
}

fn gauge(metric: MetricEncoder<'_>, value: u64) -> Encoded {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric)
}

impl Collector for EngineCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Encoded {
        let Some(engine) = self.engine.upgrade() else {
            return Ok(());
        };
        stages(&engine, &mut encoder)?;
        disks(&engine, &mut encoder)?;
        damage(&engine, &mut encoder)?;
        limits(&engine, &mut encoder)?;
        keys(&engine, &mut encoder)?;
        whole(&engine, &mut encoder)
    }
}

fn stages(engine: &Engine, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
    let help = "Time that a stage of a request took";
    let mut family = encoder.encode_descriptor("cairn_stage_seconds", help, None, MetricType::Histogram)?;
    for (stage, operation, histogram) in engine.metrics.histograms() {
        let (sum, count, buckets) = histogram.snapshot();
        let labels = [("stage", stage), ("op", operation)];
        family
            .encode_family(&labels)?
            .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
    }
    Ok(())
}

/// What volumes' limits have made requests through this engine wait. Volumes that are gone are left out.
fn limits(engine: &Engine, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
    let view = engine.meta.view();
    let waited = engine.metrics.throttled_by_volume();
    let named: Vec<(&str, u64, u64)> = waited
        .iter()
        .filter_map(|(group, (requests, nanos))| Some((view.volumes.get(group)?.name.as_str(), *requests, *nanos)))
        .collect();
    let help = "Requests that have waited for their volume's limits";
    let mut family = encoder.encode_descriptor("cairn_volume_throttled_requests", help, None, MetricType::Counter)?;
    for (volume, requests, _) in &named {
        counter(family.encode_family(&[("volume", *volume)])?, *requests)?;
    }
    let help = "Microseconds that requests have waited for their volume's limits";
    let name = "cairn_volume_throttled_microseconds";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (volume, _, nanos) in &named {
        counter(family.encode_family(&[("volume", *volume)])?, nanos / 1000)?;
    }
    Ok(())
}

type Read = fn(&DiskStats) -> u64;

/// Counters of each disk: name, help, how to read it.
const DISK_COUNTERS: [(&str, &str, Read); 6] = [
    (
        "cairn_disk_written_bytes",
        "Bytes written to the disk, headers included",
        |stats| stats.written_bytes,
    ),
    ("cairn_disk_read_bytes", "Bytes read from the disk", |stats| {
        stats.read_bytes
    }),
    (
        "cairn_frontend_received_bytes",
        "Bytes received from frontends, headers included",
        |stats| stats.accepted_bytes,
    ),
    (
        "cairn_frontend_sent_bytes",
        "Bytes sent to frontends, headers included",
        |stats| stats.returned_bytes,
    ),
    ("cairn_link_sent_bytes", "Bytes sent to other disks' cores", |stats| {
        stats.link_sent_bytes
    }),
    (
        "cairn_link_received_bytes",
        "Bytes received from other disks' cores",
        |stats| stats.link_received_bytes,
    ),
];

/// Gauges of each disk.
const DISK_GAUGES: [(&str, &str, Read); 8] = [
    (
        "cairn_disk_free_bytes",
        "Bytes of data that the disk can still take",
        |stats| stats.free_bytes,
    ),
    (
        "cairn_disk_used_bytes",
        "Bytes of data on the disk that are in use",
        |stats| stats.used_bytes,
    ),
    (
        "cairn_disk_capacity_bytes",
        "Bytes of data that the disk takes at most",
        |stats| stats.capacity_bytes,
    ),
    (
        "cairn_disk_segments_free",
        "Segments of the disk that may be written to at once",
        |stats| stats.segments_free,
    ),
    (
        "cairn_disk_fullness",
        "How full the disk is: 1 above the first threshold, 2 above the second, 3 when writes are refused",
        |stats| stats.fullness.level(),
    ),
    (
        "cairn_arena_bytes",
        "Registered I/O buffers of the disk's thread",
        |stats| stats.arena_bytes,
    ),
    ("cairn_arena_used_bytes", "Registered I/O buffers in use", |stats| {
        stats.arena_used_bytes
    }),
    ("cairn_nbd_connections", "NBD connections that are served", |stats| {
        stats.streams
    }),
];

fn disks(engine: &Engine, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
    let disks: Vec<(String, DiskStats)> = engine
        .disks
        .threads()
        .iter()
        .map(|(disk, thread)| (disk.to_string(), thread.stats()))
        .collect();
    for (name, help, read) in DISK_COUNTERS {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (disk, stats) in &disks {
            counter(family.encode_family(&[("disk", disk.as_str())])?, read(stats))?;
        }
    }
    for (name, help, read) in DISK_GAUGES {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (disk, stats) in &disks {
            gauge(family.encode_family(&[("disk", disk.as_str())])?, read(stats))?;
        }
    }
    let help = "1 while the disk serves";
    let mut family = encoder.encode_descriptor("cairn_disk_up", help, None, MetricType::Gauge)?;
    for view in engine.disks.views() {
        let path = view.config.path.display().to_string();
        gauge(
            family.encode_family(&[("path", path.as_str())])?,
            u64::from(view.state == DiskState::Ok),
        )?;
    }
    Ok(())
}

fn damage(engine: &Engine, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
    let metrics = &engine.metrics;
    for (name, help, value) in [
        (
            "cairn_blocks_damaged",
            "Blocks that a disk did not return as they were written",
            &metrics.blocks_damaged,
        ),
        (
            "cairn_blocks_repaired",
            "Damaged blocks that were fetched from another replica and written back",
            &metrics.blocks_repaired,
        ),
        (
            "cairn_blocks_unrepairable",
            "Damaged blocks that no other replica could give",
            &metrics.blocks_unrepairable,
        ),
        (
            "cairn_catch_up_bytes",
            "Data received for replicas that were too far behind the log to catch up from it, in bytes",
            &metrics.catch_up_bytes,
        ),
        (
            "cairn_blocks_flattened",
            "Blocks that were copied into clones from what they were made of",
            &metrics.filled_blocks,
        ),
        (
            "cairn_blocks_scrubbed",
            "Blocks that were read through for damage",
            &metrics.blocks_scrubbed,
        ),
        (
            "cairn_scrubs",
            "Times that a disk was read through for damage from end to end",
            &metrics.scrubs,
        ),
        (
            "cairn_blocks_moved",
            "Live blocks that collection has moved out of segments",
            &metrics.blocks_moved,
        ),
        (
            "cairn_segments_emptied",
            "Segments that collection has emptied",
            &metrics.segments_emptied,
        ),
        (
            "cairn_checkpoints",
            "Checkpoints that are durable",
            &metrics.checkpoints,
        ),
        (
            "cairn_checkpoint_bytes",
            "Bytes of pages and tables that checkpoints have written",
            &metrics.checkpoint_bytes,
        ),
    ] {
        let descriptor = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        counter(descriptor, value.load(Ordering::Relaxed))?;
    }
    Ok(())
}

fn keys(engine: &Engine, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
    let (done, failed) = engine.keys.requests();
    for (name, help, value) in [
        ("cairn_key_requests", "Requests that key services have done", done),
        (
            "cairn_key_requests_failed",
            "Requests that key services have not done",
            failed,
        ),
    ] {
        counter(encoder.encode_descriptor(name, help, None, MetricType::Counter)?, value)?;
    }
    Ok(())
}

/// What the catalogue holds.
fn held(view: &Catalogue) -> [(&'static str, &'static str, u64); 3] {
    [
        ("cairn_volumes", "Volumes in the catalogue", view.volumes.len() as u64),
        (
            "cairn_snapshots",
            "Snapshots in the catalogue",
            view.snapshots.len() as u64,
        ),
        (
            "cairn_clones_flattening",
            "Clones that are not whole yet: what they were made of stays for them",
            flattening(view),
        ),
    ]
}

/// Clones that are not whole yet.
fn flattening(view: &Catalogue) -> u64 {
    let origins = view.volumes.values().filter_map(|volume| volume.origin.as_ref());
    origins.filter(|origin| !origin.is_whole()).count() as u64
}

fn whole(engine: &Engine, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
    let metrics = &engine.metrics;
    let load = |value: &std::sync::atomic::AtomicU64| value.load(Ordering::Relaxed);
    for (name, help, value) in [
        (
            "cairn_leader_changes",
            "Changes of a group's leader that were seen here",
            load(&metrics.leader_changes),
        ),
        (
            "cairn_frontend_writes",
            "Writes that frontends asked for and got an answer to",
            metrics.frontend_write.snapshot().1,
        ),
        (
            "cairn_frontend_reads",
            "Reads that frontends asked for and got an answer to",
            metrics.frontend_read.snapshot().1,
        ),
        (
            "cairn_nbd_refused",
            "NBD connections that ended before their transmission",
            load(&metrics.nbd_refused),
        ),
        (
            "cairn_links_refused",
            "Peers' connections that were refused",
            load(&metrics.links_refused),
        ),
    ] {
        counter(encoder.encode_descriptor(name, help, None, MetricType::Counter)?, value)?;
    }
    let view = engine.meta.view();
    for (name, help, value) in [
        (
            "cairn_groups_led",
            "Groups that a replica here leads",
            metrics.groups_led() as u64,
        ),
        (
            "cairn_nbd_negotiating",
            "NBD connections that are negotiating",
            load(&metrics.nbd_negotiating),
        ),
        (
            "cairn_meta_applied_index",
            "Revision of the catalogue as known here",
            view.applied.get(),
        ),
        (
            "cairn_meta_is_leader",
            "1 while this engine leads the meta group",
            u64::from(engine.meta.is_leader()),
        ),
        (
            "cairn_meta_apply_queue",
            "Commands of the meta group that wait to be applied",
            engine.meta.queue().len(),
        ),
    ]
    .into_iter()
    .chain(held(&view))
    {
        gauge(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?, value)?;
    }
    Ok(())
}
