//! What the commands that change a volume that is there do to the catalogue: part of [`super::decide`], and as pure.

use cairn_api::ids::GroupId;
use cairn_api::units::ByteSize;

use super::catalogue::{Catalogue, VolumeRecord};
use super::decide::{Change, Decision, Outcome, Refusal, check_size};

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
        run(&mut catalogue, &Command::DeleteVolume { group: gone }).unwrap();
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
}
