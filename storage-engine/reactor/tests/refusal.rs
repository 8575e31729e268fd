//! A process that may not use io_uring is told why, by a filter such as container runtimes install.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use cairn_api::ids::{ClusterId, NodeId};
use cairn_api::units::ByteSize;
use cairn_core::event::{Effect, Event};
use cairn_reactor::{Config, NoObserver, Reactor, StartError};
use common::{Bench, Fake};

/// Makes `io_uring_setup` fail with `EPERM` for this thread and those it starts.
fn forbid_io_uring() {
    #[expect(clippy::cast_possible_truncation, reason = "constants of the kernel's interface")]
    let instruction = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let setup = u32::try_from(libc::SYS_io_uring_setup).unwrap();
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
    // The number of the system call is the first field of what a filter sees.
    let mut program = [
        instruction(load, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, setup),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, refuse),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog {
        len: 4,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: plain integers, as prctl(2) describes for this option.
    let promised = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(promised, 0);
    // SAFETY: the kernel copies the four instructions, which outlive the call, before it returns.
    let installed = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter, 0, 0) };
    assert_eq!(installed, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_seccomp_profile_that_forbids_io_uring_is_named() {
    let bench = Bench::new();
    let disk = bench.disk("disk");
    let (cluster, node) = (ClusterId::random(), NodeId::random());
    let start = move || {
        forbid_io_uring();
        let config = Config {
            disk,
            cluster,
            node,
            memory: ByteSize(8 << 20),
            observer: Box::new(NoObserver),
        };
        Reactor::start(config, Fake(|_, _: Event, _: &mut Vec<Effect>| ()))
            .err()
            .unwrap()
    };
    let error = std::thread::spawn(start).join().unwrap();
    assert!(matches!(error, StartError::NotPermitted { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("seccomp") && text.contains("io_uring_disabled is 0"),
        "{text}"
    );
}

#[test]
fn a_memory_setting_out_of_bounds_is_refused_with_its_bounds() {
    let bench = Bench::new();
    let disk = bench.disk("disk");
    let (cluster, node) = (ClusterId::random(), NodeId::random());
    let config = Config {
        disk,
        cluster,
        node,
        memory: ByteSize(4096),
        observer: Box::new(NoObserver),
    };
    let error = Reactor::start(config, Fake(|_, _: Event, _: &mut Vec<Effect>| ()))
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "`memory` of a disk is 4 KiB, which is not from 4 MiB to 1 GiB"
    );
}
