//! Finds the `cairn-engine` program.

use std::path::{Path, PathBuf};

use crate::error::CliError;

/// The program's file name.
const NAME: &str = "cairn-engine";

/// The program named, or the one beside this program (what a build leaves), or the one in PATH (what a package leaves).
pub(super) fn find(named: Option<&Path>) -> Result<PathBuf, CliError> {
    if let Some(path) = named {
        return if is_program(path) {
            Ok(path.to_owned())
        } else {
            Err(CliError::failed(
                format!("'{}' is not a program that can be run", path.display()),
                "give the path of cairn-engine to --engine-binary",
            ))
        };
    }
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.join(NAME)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|dir| dir.join(NAME));
    beside
        .into_iter()
        .chain(in_path)
        .find(|candidate| is_program(candidate))
        .ok_or_else(|| {
            CliError::failed(
                format!("no {NAME} beside this program or in PATH"),
                "build it (`cargo build --release --package cairn-engine`), or name it with --engine-binary",
            )
        })
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_program_must_be_one() {
        assert_eq!(find(Some(Path::new("/bin/sh"))).unwrap(), Path::new("/bin/sh"));
        for path in ["/nonexistent", "/etc/passwd", "/tmp"] {
            assert!(find(Some(Path::new(path))).unwrap_err().what.contains(path));
        }
    }
}
