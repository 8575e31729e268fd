//! What the commands that change a volume that is there do to the catalogue: part of [`super::decide`], and as pure.

use cairn_api::ids::GroupId;
use cairn_api::limits::VolumeLimits;
use cairn_api::units::ByteSize;

use super::catalogue::{Catalogue, VolumeRecord};
use super::decide::{Change, Decision, LimitChange, Outcome, Refusal, check_limits, check_size};

/// The volume, unless it is being deleted.
fn living(catalogue: &Catalogue, group: GroupId) -> Result<&VolumeRecord, Refusal> {
    match catalogue.volumes.get(&group) {
        None => Err(Refusal::NotFound(format!("there is no volume {group}"))),
        Some(volume) if volume.deleting => Err(Refusal::Precondition(format!(
            "volume '{}' is being deleted: nothing of it can be changed any more",
            volume.name
        ))),
        Some(volume) => Ok(volume),
    }
}

/// Decides on [`super::Command::ResizeVolume`]: the size is raised here, and the volume's own group follows.
pub(super) fn resize(catalogue: &Catalogue, group: GroupId, size_bytes: u64) -> Decision {
    let volume = living(catalogue, group)?;
    check_size(size_bytes)?;
    if size_bytes < volume.size_bytes {
        return Err(Refusal::Precondition(format!(
            "volume '{}' has {} and cannot shrink to {}: what a filesystem keeps at its end would be lost. Copy what is to \
             stay to a smaller volume",
            volume.name,
            ByteSize(volume.size_bytes),
            ByteSize(size_bytes)
        )));
    }
    if size_bytes == volume.size_bytes {
        return Ok((Outcome::Volume(group), Vec::new()));
    }
    let volume = VolumeRecord {
        size_bytes,
        ..volume.clone()
    };
    Ok((Outcome::Volume(group), vec![Change::Volume(volume)]))
}

/// Decides on [`super::Command::LimitVolume`].
pub(super) fn limit(catalogue: &Catalogue, group: GroupId, change: &LimitChange) -> Decision {
    let volume = living(catalogue, group)?;
    let known = volume.limits;
    let limits = VolumeLimits {
        iops: change.iops.unwrap_or(known.iops),
        bytes_per_s: change.bytes_per_s.unwrap_or(known.bytes_per_s),
        burst_ms: change.burst_ms.unwrap_or(known.burst_ms),
    };
    check_limits(&limits)?;
    if limits == known {
        return Ok((Outcome::Volume(group), Vec::new()));
    }
    let volume = VolumeRecord {
        limits,
        ..volume.clone()
    };
    Ok((Outcome::Volume(group), vec![Change::Volume(volume)]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::Command;
    use crate::meta::decide::VOLUME_BYTES_MAX;
    use crate::meta::tests::{add_volume, run, sample};

    #[test]
    fn a_volume_grows_and_its_replicas_are_made_as_it_was_created() {
        let mut catalogue = sample(3);
        let group = add_volume(&mut catalogue, "v", 8192, &[1, 2, 3]);
        for size_bytes in [8192, 16384, 16384] {
            run(&mut catalogue, &Command::ResizeVolume { group, size_bytes }).unwrap();
        }
        let volume = &catalogue.volumes[&group];
        assert_eq!((volume.size_bytes, volume.created_bytes), (16384, 8192));
        assert_eq!(volume.spec().size_blocks, 2);
    }

    #[test]
    fn what_cannot_be_is_refused_and_says_why() {
        let mut catalogue = sample(3);
        let group = add_volume(&mut catalogue, "v", 8192, &[1, 2, 3]);
        let gone = add_volume(&mut catalogue, "gone", 8192, &[1, 2, 3]);
        let delete = Command::DeleteVolume {
            group: gone,
            snapshots: false,
        };
        run(&mut catalogue, &delete).unwrap();
        let mut refused = |group, size_bytes| {
            let command = Command::ResizeVolume { group, size_bytes };
            run(&mut catalogue, &command).unwrap_err().to_string()
        };
        assert!(refused(group, 4096).contains("cannot shrink to 4 KiB"));
        for size_bytes in [0, 8193, VOLUME_BYTES_MAX + 4096] {
            assert!(refused(group, size_bytes).contains(&format!("size_bytes is '{size_bytes}'")));
        }
        assert!(refused(gone, 16384).contains("'gone' is being deleted"));
        assert!(refused(GroupId(99), 16384).contains("there is no volume 99"));
    }

    #[test]
    fn limits_are_changed_one_by_one_and_lifted() {
        let mut catalogue = sample(3);
        let group = add_volume(&mut catalogue, "v", 8192, &[1, 2, 3]);
        let mut limit = |change| {
            run(&mut catalogue, &Command::LimitVolume { group, change }).map(|_| catalogue.volumes[&group].limits)
        };
        let none = LimitChange::default();
        let iops = LimitChange {
            iops: Some(Some(500)),
            ..none
        };
        let known = VolumeLimits {
            iops: Some(500),
            ..VolumeLimits::default()
        };
        assert_eq!(limit(iops), Ok(known));
        assert_eq!(limit(iops), Ok(known), "the same again");
        let more = LimitChange {
            bytes_per_s: Some(Some(1 << 20)),
            burst_ms: Some(2000),
            ..none
        };
        let known = VolumeLimits {
            bytes_per_s: Some(1 << 20),
            burst_ms: 2000,
            ..known
        };
        assert_eq!(limit(more), Ok(known));
        for (change, words) in [
            (
                LimitChange {
                    iops: Some(Some(9)),
                    ..none
                },
                "iops is '9': a volume is limited to 10 to",
            ),
            (
                LimitChange {
                    bytes_per_s: Some(Some(1)),
                    ..none
                },
                "bandwidth is '1 B'",
            ),
            (
                LimitChange {
                    burst_ms: Some(90_000),
                    ..none
                },
                "burst is '90000 ms'",
            ),
        ] {
            let refusal = limit(change).unwrap_err().to_string();
            assert!(refusal.contains(words), "{refusal}");
        }
        let lifted = limit(LimitChange {
            iops: Some(None),
            ..none
        })
        .unwrap();
        assert_eq!(lifted, VolumeLimits { iops: None, ..known });
    }
}
