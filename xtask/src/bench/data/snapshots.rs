//! Snapshots: made and deleted, on a small and a large volume, with few and with many.

use anyhow::Result;

use super::core::{measure, number};
use super::{Report, Stage};
use crate::progress;

const SIZES: [(&str, &str); 2] = [("1 GiB", "1073741824"), ("1 TiB", "1099511627776")];

pub(super) fn run(stage: &Stage) -> Result<Vec<Report>> {
    stage.core_bench()?;
    let mut times = Report::new(
        "snapshots of a thin volume",
        &[
            "volume",
            "present",
            "create p50 us",
            "max us",
            "delete p50 us",
            "max us",
        ],
        "The processor's time of a core from the request to the answer, its disk taking none; 50 of each, from so many present \
         on. 65,536 blocks of the volume hold data, wherever it is; 64 of them are overwritten after each snapshot.",
    );
    let mut space = Report::new(
        "space that the deletion of all snapshots gives back",
        &[
            "volume",
            "live blocks before any",
            "with them",
            "after",
            "merged after ms",
            "processor ms",
        ],
        "Deletions are answered at once; what the snapshots kept is merged away behind that, a little at a time.",
    );
    for (size, bytes) in SIZES {
        let objects = progress::during(&format!("snapshots: a volume of {size}"), |_| {
            measure(stage, &["snapshots", bytes])
        })?;
        for object in objects {
            let whole = |name: &str| number(&object, name).map(|figure| format!("{figure:.0}"));
            let tenths = |name: &str| number(&object, name).map(|figure| format!("{figure:.1}"));
            if object.get("live_blocks_with").is_some() {
                let cells = vec![
                    size.to_owned(),
                    whole("live_blocks_before")?,
                    whole("live_blocks_with")?,
                    whole("live_blocks_after")?,
                    whole("merge_ms")?,
                    whole("merge_processor_ms")?,
                ];
                space.add(cells, object.clone());
            }
            let cells = vec![
                size.to_owned(),
                whole("present")?,
                tenths("create_p50_us")?,
                tenths("create_max_us")?,
                tenths("delete_p50_us")?,
                tenths("delete_max_us")?,
            ];
            times.add(cells, object);
        }
    }
    Ok(vec![times, space])
}
