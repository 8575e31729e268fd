//! `nbdinfo`: what the server says about itself.

use anyhow::{Context, Result, ensure};
use cairn_tests::Tool;
use cairn_tests::cluster::with_shared;
use cairn_tests::nbd::Client;

const MIB: u64 = 1 << 20;

#[test]
fn lists_every_volume_at_every_engine() -> Result<()> {
    with_shared(|cluster| {
        cluster.create_volume("list-one", 8 * MIB)?;
        cluster.create_volume("list-two", 16 * MIB)?;
        for engine in &cluster.engines {
            for uri in [engine.uri(""), engine.unix_uri("")] {
                let report = Tool::new("nbdinfo").args(["--list", "--json", &uri]).ok()?.json()?;
                let exports = report["exports"].as_array().context("no exports")?;
                let size = |name: &str| {
                    let found = exports.iter().find(|export| export["export-name"] == name);
                    found.and_then(|export| export["export-size"].as_u64())
                };
                ensure!(size("list-one") == Some(8 * MIB), "{uri}: {report}");
                ensure!(size("list-two") == Some(16 * MIB), "{uri}: {report}");
            }
        }
        Ok(())
    })
}

#[test]
fn tells_what_the_export_can_do() -> Result<()> {
    with_shared(|cluster| {
        cluster.create_volume("able", 8 * MIB)?;
        let report = Tool::new("nbdinfo")
            .args(["--json", &cluster.engines[0].uri("able")])
            .ok()?
            .json()?;
        ensure!(report["structured"] == true, "no structured replies: {report}");
        let export = &report["exports"][0];
        for ability in [
            "can_multi_conn",
            "can_flush",
            "can_fua",
            "can_trim",
            "can_zero",
            "can_df",
            "can_cache",
        ] {
            ensure!(export[ability] == true, "{ability} is not true: {export}");
        }
        ensure!(export["is_read_only"] == false, "read-only: {export}");
        let contexts = export["contexts"].as_array().context("no contexts")?;
        ensure!(
            contexts.iter().any(|context| context == "base:allocation"),
            "no base:allocation: {export}"
        );
        ensure!(
            export["block_size_maximum"].as_u64() >= Some(MIB),
            "no block sizes: {export}"
        );
        Ok(())
    })
}

#[test]
fn maps_data_and_holes() -> Result<()> {
    with_shared(|cluster| {
        cluster.create_volume("map", 8 * MIB)?;
        let mut client = Client::connect(&cluster.engines[1].nbd_tcp(), "map")?;
        client.write(2 * MIB, &vec![7; usize::try_from(MIB)?])?;
        client.disconnect()?;
        let map = Tool::new("nbdinfo")
            .args(["--map", "--json", &cluster.engines[1].uri("map")])
            .ok()?
            .json()?;
        let extents = map.as_array().context("no extents")?;
        let mut data = 0;
        for extent in extents {
            let (offset, length) = (extent["offset"].as_u64(), extent["length"].as_u64());
            if extent["type"] == 0 {
                ensure!(offset >= Some(2 * MIB), "data where nothing was written: {map}");
                data += length.context("no length")?;
            } else {
                ensure!(extent["type"] == 3, "a hole must read as zeros: {map}");
            }
        }
        ensure!(data == MIB, "{data} bytes of data, one MiB was written: {map}");
        Ok(())
    })
}

#[test]
fn an_unknown_export_is_refused_by_name() -> Result<()> {
    with_shared(|cluster| {
        let ran = Tool::new("nbdinfo")
            .arg(cluster.engines[0].uri("no-such-volume"))
            .run()?;
        ensure!(
            ran.code != Some(0),
            "an export that does not exist was served: {}",
            ran.text()
        );
        ensure!(
            ran.text().contains("no-such-volume"),
            "the name is not in the message: {}",
            ran.text()
        );
        Ok(())
    })
}
