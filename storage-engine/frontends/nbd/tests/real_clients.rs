//! Clients that we did not write, against the blocking driver on real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

mod common;

use std::path::Path;

use cairn_nbd::TlsPolicy;
use common::device::MemoryDevice;
use common::server::{Server, is_installed, run, succeed};

const SIZE: usize = 16 << 20;

/// Bytes that repeat nowhere nearby, with a run of zeros in the middle.
fn pattern(seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes: Vec<u8> = (0..SIZE / 8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_be_bytes()
        })
        .collect();
    bytes[SIZE / 4..SIZE / 2].fill(0);
    bytes
}

fn start() -> Server {
    Server::start(MemoryDevice::new("disk", SIZE as u64), TlsPolicy::Off)
}

fn holds(server: &Server, expected: &[u8]) -> bool {
    server.shared.0.lock().unwrap().data == expected
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn nbdinfo_lists_and_describes_the_export() {
    if !is_installed("nbdinfo") {
        return;
    }
    let server = start();
    for uri in [server.uri(), server.unix_uri()] {
        let json = succeed("nbdinfo", &["--json", &uri]);
        for expected in [
            "\"export-name\": \"disk\"",
            "\"export-size\": 16777216",
            "\"structured\": true",
            "\"base:allocation\"",
            "\"description\": \"16777216 bytes of memory\"",
            "\"can_multi_conn\": true",
            "\"can_df\": true",
            "\"can_fast_zero\": true",
            "\"can_fua\": true",
            "\"can_trim\": true",
            "\"can_zero\": true",
            "\"can_cache\": true",
            "\"is_read_only\": false",
            "\"block_size_minimum\": 1",
            "\"block_size_preferred\": 4096",
            "\"block_size_maximum\": 33554432",
        ] {
            assert!(json.contains(expected), "{expected} is missing");
        }
        assert!(succeed("nbdinfo", &["--list", &uri]).contains("export=\"disk\""));
        assert_eq!(succeed("nbdinfo", &["--size", &uri]).trim(), "16777216");
    }
    let missing = server.uri().replace("/disk", "/nope");
    let refused = run("nbdinfo", &[&missing]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("No such file or directory"));
}

#[test]
fn nbdcopy_copies_both_ways_over_several_connections() {
    if !is_installed("nbdcopy") {
        return;
    }
    let server = start();
    let directory = tempfile::tempdir().unwrap();
    let (source, back) = (directory.path().join("source"), directory.path().join("back"));
    for (round, uri) in [(1, server.uri()), (2, server.unix_uri())] {
        let data = pattern(round);
        std::fs::write(&source, &data).unwrap();
        succeed("nbdcopy", &["--connections=4", "--flush", text(&source), &uri]);
        assert!(holds(&server, &data));
        succeed("nbdcopy", &["--connections=4", &uri, text(&back)]);
        assert!(std::fs::read(&back).unwrap() == data);
    }
}

#[test]
fn nbdinfo_maps_data_and_holes() {
    if !is_installed("nbdinfo") || !is_installed("qemu-io") {
        return;
    }
    let server = start();
    succeed(
        "qemu-io",
        &[
            "-f",
            "raw",
            "-c",
            "write -P 7 1M 64k",
            "-c",
            "write -P 8 8M 4k",
            &server.uri(),
        ],
    );
    let map: Vec<String> = succeed("nbdinfo", &["--map", &server.uri()])
        .lines()
        .map(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        map,
        [
            "0 1048576 3",
            "1048576 65536 0",
            "1114112 7274496 3",
            "8388608 4096 0",
            "8392704 8384512 3"
        ]
    );
}

#[test]
fn qemu_converts_compares_and_maps() {
    if !is_installed("qemu-img") {
        return;
    }
    let server = start();
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source.raw");
    let data = pattern(3);
    std::fs::write(&source, &data).unwrap();
    let uri = server.unix_uri();
    succeed(
        "qemu-img",
        &["convert", "-n", "-f", "raw", "-O", "raw", text(&source), &uri],
    );
    assert!(holds(&server, &data));
    succeed("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(&source), &uri]);
    assert!(succeed("qemu-img", &["map", "--output=json", "-f", "raw", &uri]).contains("\"zero\": true"));
    assert!(succeed("qemu-img", &["info", &uri]).contains("16 MiB"));
}

#[test]
fn qemu_io_writes_zeros_trims_and_reads_at_odd_offsets() {
    if !is_installed("qemu-io") {
        return;
    }
    let server = start();
    let output = succeed(
        "qemu-io",
        &[
            "-f",
            "raw",
            "-t",
            "none",
            "-c",
            "write -P 0xab 512 70001",
            "-c",
            "read -P 0xab 513 70000",
            "-c",
            "write -z 4096 8192",
            "-c",
            "read -P 0 4096 8192",
            "-c",
            "read -P 0xab 512 3584",
            "-c",
            "write -z -u 16384 4096",
            "-c",
            "read -P 0 16384 4096",
            "-c",
            "discard 32768 16384",
            "-c",
            "read -P 0 32768 16384",
            "-c",
            "write -f -P 0x11 1M 1M",
            "-c",
            "aio_write -P 0x22 2M 1M",
            "-c",
            "aio_flush",
            "-c",
            "flush",
            "-c",
            "read -P 0x22 2M 1M",
            "-c",
            "read -v 16777215 1",
            &server.uri(),
        ],
    );
    assert!(!output.contains("failed"), "{output}");
    assert!(!output.contains("Pattern verification"), "{output}");
}

#[test]
fn fio_verifies_what_it_wrote() {
    if !is_installed("fio") {
        return;
    }
    let server = start();
    let uri = format!("--uri={}", server.unix_uri());
    // Once in whole blocks, once in sizes and at offsets that straddle them.
    for shape in [
        ["--bs=4k", "--offset=0", "--size=16m"],
        ["--bs=3584", "--offset=1536", "--size=14m"],
    ] {
        let mut arguments = vec![
            "--name=verify",
            "--ioengine=nbd",
            &uri,
            "--rw=randwrite",
            "--iodepth=32",
        ];
        arguments.extend(shape);
        arguments.extend(["--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--randseed=7"]);
        let output = succeed("fio", &arguments);
        assert!(output.contains("err= 0"), "{output}");
    }
}

const PYTHON: &str = r#"
import nbd, sys
uri = sys.argv[1]

def errno_of(call):
    try:
        call()
    except nbd.Error as error:
        return error.errnum
    return None

for structured in (True, False):
    h = nbd.NBD()
    h.set_request_structured_replies(structured)
    if structured:
        h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        h.add_meta_context("x-unknown:context")
    h.set_strict_mode(0)
    h.connect_uri(uri)
    size = h.get_size()
    assert h.get_structured_replies_negotiated() == structured
    assert h.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION) == structured
    assert h.can_df() == structured and h.can_multi_conn()

    # Odd offsets and lengths, with and without FUA.
    h.pwrite(b"unaligned" * 1001, 12345, nbd.CMD_FLAG_FUA)
    assert h.pread(9009, 12345) == b"unaligned" * 1001
    h.zero(5000, 13000, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO)
    assert h.pread(5000, 13000) == bytes(5000)
    h.trim(8192, 1 << 20, nbd.CMD_FLAG_FUA)
    h.cache(4096, 0)
    h.flush()
    if structured:
        chunks = []
        def chunk(data, offset, status, error):
            chunks.append((offset, len(data), status))
        h.pread_structured(65536, 0, chunk)
        assert sum(length for _, length, _ in chunks) == 65536
        assert {nbd.READ_DATA, nbd.READ_HOLE} == {status for _, _, status in chunks}
        del chunks[:]
        h.pread_structured(65536, 0, chunk, nbd.CMD_FLAG_DF)
        assert chunks == [(0, 65536, nbd.READ_DATA)]
        extents = []
        def extent(context, offset, entries, error):
            extents.append((context, offset, entries))
        h.block_status(size, 0, extent)
        assert sum(extents[0][2][0::2]) == size
        del extents[:]
        h.block_status(size, 0, extent, nbd.CMD_FLAG_REQ_ONE)
        assert len(extents[0][2]) == 2

    # Requests that the server must refuse, each followed by one that it must serve.
    EINVAL, ENOSPC, EOVERFLOW = 22, 28, 75
    assert errno_of(lambda: h.pread(1, size)) == EINVAL
    assert errno_of(lambda: h.pread(2, size - 1)) == EINVAL
    assert errno_of(lambda: h.pwrite(b"ab", size - 1)) == ENOSPC
    assert errno_of(lambda: h.pwrite(b"a", (1 << 63) - 1)) == ENOSPC
    assert errno_of(lambda: h.trim(2, size - 1)) == EINVAL
    assert errno_of(lambda: h.zero(2, size - 1)) == ENOSPC
    assert errno_of(lambda: h.cache(2, size - 1)) == EINVAL
    assert errno_of(lambda: h.flush(1 << 9)) == EINVAL
    assert errno_of(lambda: h.pwrite(b"abc", 0, 1 << 9)) == EINVAL
    assert h.pread(3, 13000) == bytes(3)

    # Nothing is a fine length.
    h.pwrite(b"", 0)
    h.trim(0, 0)
    h.zero(0, 0)

    # Many in flight at once.
    cookies = [h.aio_pread(nbd.Buffer(4096), i * 4096) for i in range(512)]
    while cookies:
        h.poll(-1)
        cookies = [c for c in cookies if not h.aio_command_completed(c)]
    h.shutdown()

h = nbd.NBD()
h.set_opt_mode(True)
h.connect_uri(uri)
names = []
h.opt_list(lambda name, description: names.append(name))
assert names == ["disk"], names
h.opt_info()
assert h.get_block_size(nbd.SIZE_PREFERRED) == 4096
contexts = []
h.opt_list_meta_context(lambda name: contexts.append(name))
assert contexts == ["base:allocation"], contexts
h.set_export_name("nope")
assert errno_of(h.opt_go) is not None
h.set_export_name("disk")
h.opt_go()
assert h.pread(1, 0)
h.shutdown()

h = nbd.NBD()
h.set_opt_mode(True)
h.connect_uri(uri)
h.opt_abort()
print("all well")
"#;

#[test]
fn libnbd_from_python_covers_the_commands() {
    if !Path::new("/usr/bin/python3").exists() || !run("/usr/bin/python3", &["-c", "import nbd"]).status.success() {
        println!("SKIPPED: python3-libnbd is not installed");
        return;
    }
    let server = start();
    for uri in [server.uri(), server.unix_uri()] {
        assert!(succeed("/usr/bin/python3", &["-c", PYTHON, &uri]).contains("all well"));
    }
}
