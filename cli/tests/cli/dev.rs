//! `cairn dev` where it fails before or while its engines start; with real engines it is tried by the suites in `tests/`.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::run::run;

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(PathBuf::from(env!("CARGO_TARGET_TMPDIR"))).unwrap()
}

/// A program that stands in for the engine.
fn stand_in(dir: &Path, script: &str) -> PathBuf {
    let path = dir.join("engine.sh");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A base port whose ten ports were free a moment ago.
fn base_port() -> u16 {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    port.clamp(20_000, 60_000)
}

#[test]
fn an_engine_that_ends_while_it_starts_is_named_with_its_last_words() {
    let dir = scratch();
    let engine = stand_in(dir.path(), "echo 'io_uring is not permitted' >&2; exit 3");
    let line = format!(
        "dev --dir {} --engines 1 --disk-size 130MiB --base-port {} --engine-binary {}",
        dir.path().display(),
        base_port(),
        engine.display()
    );
    let ran = run(&line);
    assert_eq!(ran.code, 1, "{ran:?}");
    let expected = "engine a ended while it started (exit code 3); its last words were: io_uring is not permitted";
    assert!(ran.stderr.contains(expected), "{}", ran.stderr);
    assert!(!dir.path().join("a/engine.pid").exists());
    assert!(dir.path().join("a/engine.toml").exists());
}

#[test]
fn engines_that_never_answer_are_stopped_again() {
    let dir = scratch();
    let engine = stand_in(dir.path(), "exec sleep 1000");
    let line = format!(
        "--timeout 1s dev --dir {} --engines 1 --disk-size 130MiB --base-port {} --engine-binary {}",
        dir.path().display(),
        base_port(),
        engine.display()
    );
    let ran = run(&line);
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.stderr.contains("engine a is not ready within 1s"), "{}", ran.stderr);
    assert!(!dir.path().join("a/engine.pid").exists(), "the stand-in still runs");
}

#[test]
fn a_port_in_use_is_named_before_anything_is_written() {
    let dir = scratch();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    // The engine's data port is one above its control port.
    let base = taken.local_addr().unwrap().port() - 1;
    let line = format!(
        "dev --dir {} --engines 1 --base-port {base} --engine-binary /bin/true",
        dir.path().display()
    );
    let ran = run(&line);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(
        ran.stderr.contains(&format!("port {} is in use", base + 1)),
        "{}",
        ran.stderr
    );
    assert!(!dir.path().join("a").exists());
    assert!(!dir.path().join("dev.toml").exists());
}

#[test]
fn a_missing_engine_is_said_with_what_to_build() {
    let dir = scratch();
    let ran = run(&format!(
        "dev --dir {} --engine-binary /nonexistent",
        dir.path().join("new").display()
    ));
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("'/nonexistent' is not a program"), "{}", ran.stderr);
    assert!(!dir.path().join("new").exists());
}
