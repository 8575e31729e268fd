//! The Debian packages that a command needs: found by their programs, installed by name.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// What tells that a package is there.
#[derive(Debug, Clone, Copy)]
enum Proof {
    /// A program in the path or in the system's own directories.
    Program(&'static str),
    /// A module that the system's Python can import.
    PythonModule(&'static str),
}

/// A package and its proof.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Package {
    name: &'static str,
    proof: Proof,
}

/// The fio benchmark with its `nbd` engine.
pub(crate) const FIO: Package = Package {
    name: "fio",
    proof: Proof::Program("fio"),
};
/// `nbdinfo` and `nbdcopy`.
pub(crate) const LIBNBD: Package = Package {
    name: "libnbd-bin",
    proof: Proof::Program("nbdcopy"),
};
/// `qemu-img` and `qemu-io`.
pub(crate) const QEMU: Package = Package {
    name: "qemu-utils",
    proof: Proof::Program("qemu-io"),
};
/// The Python module `nbd`.
pub(crate) const PYTHON_LIBNBD: Package = Package {
    name: "python3-libnbd",
    proof: Proof::PythonModule("nbd"),
};
/// `mkfs.ext4` and `e2fsck`.
pub(crate) const E2FSPROGS: Package = Package {
    name: "e2fsprogs",
    proof: Proof::Program("mkfs.ext4"),
};
/// `openssl`, for the certificates of a test.
pub(crate) const OPENSSL: Package = Package {
    name: "openssl",
    proof: Proof::Program("openssl"),
};
/// `ip`, and `tc`, for networks that can be cut.
pub(crate) const IPROUTE: Package = Package {
    name: "iproute2",
    proof: Proof::Program("tc"),
};
/// `nft`, which cuts them.
pub(crate) const NFTABLES: Package = Package {
    name: "nftables",
    proof: Proof::Program("nft"),
};
/// `nsenter` and `setpriv`, which start an engine in its network and end it with its test.
pub(crate) const UTIL_LINUX: Package = Package {
    name: "util-linux",
    proof: Proof::Program("nsenter"),
};
/// The C compiler, which the TLS library's assembly needs.
pub(crate) const GCC: Package = Package {
    name: "build-essential",
    proof: Proof::Program("cc"),
};

/// Installs the packages that are missing, saying which. Without the right to install, says what to run.
pub(crate) fn ensure(packages: &[Package]) -> Result<()> {
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !nix::unistd::geteuid().is_root() {
        bail!("missing Debian packages; run: sudo apt-get install --no-install-recommends -y {names}");
    }
    println!("installing: {}", missing.join(", "));
    if install(&missing).is_err() {
        // The package lists may be old or absent, as they are in a fresh container.
        apt(&["update"]).context("cannot update the list of packages")?;
        install(&missing).with_context(|| format!("cannot install {names}"))?;
    }
    let still: Vec<_> = self::missing(packages);
    if !still.is_empty() {
        bail!(
            "apt-get installed {names}, but {} still cannot be used",
            still.join(", ")
        );
    }
    Ok(())
}

fn missing(packages: &[Package]) -> Vec<&'static str> {
    let absent = packages
        .iter()
        .filter(|package| !present(package.proof))
        .map(|package| package.name);
    absent.collect::<BTreeSet<_>>().into_iter().collect()
}

fn present(proof: Proof) -> bool {
    match proof {
        Proof::Program(program) => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let mut dirs: Vec<_> = std::env::split_paths(&path).collect();
            dirs.extend(["/usr/sbin".into(), "/sbin".into()]);
            dirs.iter().any(|dir| dir.join(program).is_file())
        }
        Proof::PythonModule(module) => {
            let python = Path::new("/usr/bin/python3");
            let import = format!("import {module}");
            let mut command = Command::new(python);
            command
                .args(["-c", &import])
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        }
    }
}

fn install(names: &[&str]) -> Result<()> {
    let mut args = vec!["install", "--no-install-recommends", "-y"];
    args.extend(names);
    apt(&args)
}

fn apt(args: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command
        .args(["-qq", "-o", "Dpkg::Use-Pty=0"])
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let status = command.status().context("cannot run apt-get; is this Debian?")?;
    if !status.success() {
        bail!("apt-get {} failed: {status}", args.join(" "));
    }
    Ok(())
}
